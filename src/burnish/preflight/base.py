"""The result of a check, the run that it looks at, and the tolerance between two numbers."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from burnish.conversation import Example
from burnish.models.branches import Network, Row
from burnish.models.from_run import Opened
from burnish.models.language_model import LanguageModel
from burnish.training.loop import Loop
from burnish.training.objectives.base import Objective

# Two orders of the same float32 sums differ by about 1e-5 of their size, a mistake by about 1.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
_HALF_PRECISION = 5e-2
# Names of rates of randomness in modules and configurations: attn_pdrop, layerdrop, ...
_RANDOM = re.compile("drop|jitter")

# Marks of a passed, failed or skipped check in a terminal.
MARKS = {True: "[green]✓[/]", False: "[red]✗[/]", None: "[dim]–[/]"}


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check; `passed` is None where the check does not apply.

    Attributes:
        name: what the check asserts, such as `trunk = plain`.
        passed: True, False, or None for not applicable.
        figure: the measurement in words, or why the check does not apply.
        value: the measurement as a number, if it is one.
        seen: for a failed check, the first difference and where it is.
        remedy: for a failed check, what to do about it.
        code: for a failed check, the kind of difference, a constant in snake_case.
        fields: the values that `seen` names.
    """

    name: str
    passed: bool | None
    figure: str
    value: float | None = None
    seen: str = ""
    remedy: str = ""
    code: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """The run that the checks look at.

    Args:
        model: the model as the run opened it.
        loop: the run's training loop before its first step.
        examples: the training rows.
        max_length: largest number of tokens in a row.
        on_earlier: whether the adapter is stacked on the weights of an earlier run.
    """

    model: Opened
    loop: Loop
    examples: Sequence[Example]
    max_length: int
    on_earlier: bool = False

    @property
    def network(self) -> Network:
        return self.loop.network

    @cached_property
    def objective(self) -> Objective[Any]:
        """The run's objective with cheaper steps, which are enough for the checks."""
        return self.loop.objective.rehearsal()

    @property
    def writes(self) -> bool:
        """Whether the model generates text, which a model with a head does not."""
        return isinstance(self.model, LanguageModel)

    @property
    def items(self) -> list[Any]:
        """The training items, as the objective prepared them."""
        return [item for items in self.loop.batches.sets.values() for item in items]

    @property
    def tolerance(self) -> float:
        """Largest relative difference between two ways to compute the same number."""
        return _TOLERANCE.get(self.network.model.dtype, _HALF_PRECISION)

    def text(self, token: int) -> str:
        """The token as text in quotes."""
        return repr(str(self.model.tokenizer.decode([token])))


def not_applicable(name: str, reason: str) -> Check:
    """Returns the result of a check that does not apply to this objective or method."""
    return Check(name, None, f"not applicable: {reason}")


def rows_in(item: Any) -> list[Row]:
    """Returns the rows of tokens in an item: itself, or those in its fields (a pair, a group)."""
    if isinstance(item, Row):
        return [item]
    if isinstance(item, list | tuple):
        return [row for part in item for row in rows_in(part)]
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return rows_in([getattr(item, one.name) for one in dataclasses.fields(item)])
    return []


@contextmanager
def without_dropout(model: Any) -> Iterator[None]:
    """Turns on training mode without randomness, so that two passes are comparable.

    Models drop values, attention weights and whole layers at rates that have different names in
    their modules and configurations; all of these rates are set to 0.
    """
    training = model.training
    changed = [(owner, name, rate) for owner in _rate_owners(model) for name, rate in _rates(owner)]
    for owner, name, _ in changed:
        setattr(owner, name, 0.0)
    model.train()
    try:
        yield
    finally:
        for owner, name, rate in changed:
            setattr(owner, name, rate)
        model.train(training)


def _rate_owners(model: Any) -> list[Any]:
    """Returns all modules, and the configurations that they read at each pass, each once."""
    modules = list(model.modules())
    configs = [c for m in modules if isinstance(c := vars(m).get("config"), PreTrainedConfig)]
    nested = [c for config in configs for c in vars(config).values()]
    configs += [c for c in nested if isinstance(c, PreTrainedConfig)]
    return [*modules, *{id(config): config for config in configs}.values()]


def _rates(owner: Any) -> list[tuple[str, float]]:
    """Returns the rates at which a module or a configuration drops or disturbs values."""
    own = isinstance(owner, nn.modules.dropout._DropoutNd)
    return [
        (name, value)
        for name, value in vars(owner).items()
        if isinstance(value, float) and value and ((own and name == "p") or _RANDOM.search(name))
    ]


def relative_difference(actual: Tensor, expected: Tensor) -> Tensor:
    """Returns the absolute differences divided by the largest absolute expected value."""
    scale = expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return (actual - expected).abs() / scale
