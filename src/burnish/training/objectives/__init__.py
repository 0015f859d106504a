"""What a run learns: one objective a file, found here by the name that recipes use."""

from typing import Any

from burnish.training.objective import Objective
from burnish.training.objectives.classify import Classify
from burnish.training.objectives.lm import Lm
from burnish.training.objectives.sft import Sft
from burnish.training.objectives.tag import Tag

OBJECTIVES: dict[str, type[Objective[Any]]] = {
    "sft": Sft,
    "lm": Lm,
    "classify": Classify,
    "tag": Tag,
}
