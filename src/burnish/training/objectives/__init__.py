"""What a run learns: one pure function of log-probabilities a file, found here by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from burnish.models.branches import Logprobs, Row
from burnish.training.objectives import sft


@dataclass(frozen=True, slots=True)
class Objective:
    """A summed loss of one forward pass, and what the optimizer step divides it by."""

    name: str
    loss: Callable[[Logprobs], Tensor]
    units: Callable[[Sequence[Row]], float]


OBJECTIVES = {"sft": Objective("sft", sft.loss, sft.units)}
