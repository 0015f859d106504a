"""What a run learns: one objective a file, found here by the name that recipes use."""

from typing import Any

from burnish.training.objectives.base import Objective
from burnish.training.objectives.classify import Classify
from burnish.training.objectives.distill import Distill
from burnish.training.objectives.dpo import Dpo
from burnish.training.objectives.grpo import Grpo
from burnish.training.objectives.kto import Kto
from burnish.training.objectives.lm import Lm
from burnish.training.objectives.reward import RewardPairs
from burnish.training.objectives.sft import Sft
from burnish.training.objectives.tag import Tag

OBJECTIVES: dict[str, type[Objective[Any]]] = {
    "sft": Sft,
    "lm": Lm,
    "dpo": Dpo,
    "kto": Kto,
    "grpo": Grpo,
    "distill": Distill,
    "classify": Classify,
    "tag": Tag,
    "reward": RewardPairs,
}
