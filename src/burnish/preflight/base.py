"""A named check with its figure, what it looks at, and how near two numbers must be."""

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
# How rates of chance are called in modules and configurations: attn_pdrop, layerdrop, ...
_RANDOM = re.compile("drop|jitter")

# How a terminal shows whether a check passed.
MARKS = {True: "[green]✓[/]", False: "[red]✗[/]", None: "[dim]–[/]"}


@dataclass(frozen=True, slots=True)
class Check:
    """One promise and whether it holds; `passed` is None where it has no meaning.

    Attributes:
        name: the promise, such as `trunk = plain`.
        passed: True, False, or None for not applicable.
        figure: what was measured in words, or why the check has no meaning here.
        value: the figure as a number where it is one.
        seen: of a check that failed, the place of the first difference and what was found there.
        remedy: of a check that failed, what to do about it.
        code: of a check that failed, the kind of difference, a constant in snake_case.
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
    """What the checks look at.

    Args:
        model: the model as the run opened it.
        loop: the run's training loop before its first step.
        examples: the training rows.
        max_length: tokens a row may have.
        on_earlier: whether the adapter stands on what an earlier run left.
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
        """The run's objective in small: the checks ask for some of its steps, not for its size."""
        return self.loop.objective.rehearsal()

    @property
    def writes(self) -> bool:
        """Whether the model writes text; one with a head does not."""
        return isinstance(self.model, LanguageModel)

    @property
    def items(self) -> list[Any]:
        """What the run learns, prepared by the objective."""
        return [item for items in self.loop.batches.sets.values() for item in items]

    @property
    def tolerance(self) -> float:
        """Largest relative difference between two ways to compute the same number."""
        return _TOLERANCE.get(self.network.model.dtype, _HALF_PRECISION)

    def text(self, token: int) -> str:
        """The token as text in quotes."""
        return repr(str(self.model.tokenizer.decode([token])))


def not_applicable(name: str, reason: str) -> Check:
    """A check that has no meaning for this objective or method."""
    return Check(name, None, f"not applicable: {reason}")


def rows_in(item: Any) -> list[Row]:
    """The rows of tokens that an item holds: itself, or those in its fields (a pair, a group)."""
    if isinstance(item, Row):
        return [item]
    if isinstance(item, list | tuple):
        return [row for part in item for row in rows_in(part)]
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return rows_in([getattr(item, one.name) for one in dataclasses.fields(item)])
    return []


@contextmanager
def without_dropout(model: Any) -> Iterator[None]:
    """Training mode in which nothing is random, so that two passes are comparable.

    Models drop values, weights of attention and whole layers at rates that their modules or their
    configurations keep under names of their own; all of these rates are 0 inside.
    """
    training = model.training
    changed = [(keeper, name, rate) for keeper in _keepers(model) for name, rate in _rates(keeper)]
    for keeper, name, _ in changed:
        setattr(keeper, name, 0.0)
    model.train()
    try:
        yield
    finally:
        for keeper, name, rate in changed:
            setattr(keeper, name, rate)
        model.train(training)


def _keepers(model: Any) -> list[Any]:
    """All modules, and the configurations that they read at each pass; each once."""
    modules = list(model.modules())
    configs = [c for m in modules if isinstance(c := vars(m).get("config"), PreTrainedConfig)]
    nested = [c for config in configs for c in vars(config).values()]
    configs += [c for c in nested if isinstance(c, PreTrainedConfig)]
    return [*modules, *{id(config): config for config in configs}.values()]


def _rates(keeper: Any) -> list[tuple[str, float]]:
    """The rates at which a module or a configuration drops or disturbs something."""
    own = isinstance(keeper, nn.modules.dropout._DropoutNd)
    return [
        (name, value)
        for name, value in vars(keeper).items()
        if isinstance(value, float) and value and ((own and name == "p") or _RANDOM.search(name))
    ]


def relative_difference(found: Tensor, expected: Tensor) -> Tensor:
    """Absolute difference over the largest absolute value that is expected, elementwise."""
    scale = expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return (found - expected).abs() / scale
