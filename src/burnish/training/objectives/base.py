"""What the loop asks of an objective: items from rows, and the loss of a batch of items."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from burnish.conversation import Example
from burnish.data.render import Rendered, render_all
from burnish.errors import DataError
from burnish.models.branches import Network, Row, trunk_length
from burnish.models.devices import upload
from burnish.models.interface import Sampling
from burnish.recipe.objectives import Distill, Grpo, settings_of_class
from burnish.recipe.schema import Recipe
from burnish.runs.directory import Finding

_VALIDATED_AT_ONCE = 16
# Tokens, padding included, that a CPU computes at once.
_PIECE = 1024


class Item(Protocol):
    """One thing to learn from: a row, a pair of answers, a text with its class."""

    @property
    def size(self) -> int:
        """Tokens read."""
        ...

    @property
    def learnt(self) -> int:
        """Tokens, or decisions, that the loss sees."""
        ...


ItemT = TypeVar("ItemT", bound=Item)
OBJECTIVES: dict[str, type["Objective[Any]"]] = {}


@dataclass(frozen=True, slots=True)
class Loss:
    """Summed over a batch; the loop divides it by the units of the whole optimizer step.

    A metric is a sum and the number of things summed; the loop shows their mean over the step.
    """

    total: Tensor
    metrics: dict[str, tuple[Tensor, float]] = field(default_factory=dict)


@dataclass
class Means:
    """Metrics of several forward passes; reads the device only when asked."""

    sums: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)

    def add(self, found: Loss, units: float) -> None:
        """`units` are those of all passes together, so each pass adds its part of the loss."""
        for name, (value, count) in {"loss": (found.total, 0.0), **found.metrics}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach()
            self.counts[name] = units if name == "loss" else self.counts.get(name, 0.0) + count

    def include(self, other: "Means") -> None:
        """What other passes of the same step found, under the same units."""
        for name, value in other.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            before = 0.0 if name == "loss" else self.counts.get(name, 0.0)
            self.counts[name] = before + other.counts[name]

    def values(self) -> dict[str, float]:
        sums = [torch.as_tensor(total) for total in self.sums.values()]
        device = max(sums, key=lambda total: total.device.type == "cuda").device
        # Read together, so that the processor waits for the device once.
        numbers = torch.stack([upload(total.double(), device) for total in sums]).tolist()
        return {
            name: number / self.counts[name]
            for name, number in zip(self.sums, numbers, strict=True)
        }


class Objective(ABC, Generic[ItemT]):
    """One way to learn, registered by the name that recipes use.

    A new one is a class in a file of this folder, `class Mine(Objective[Row], name="mine")`. Its
    fields with defaults are the keys of the recipe's section `mine`, unless
    `burnish.recipe.objectives` has settings of that name. The facts that `ObjectiveSettings` has,
    such as `can_shard`, may stand in the class.

    `num_iterations` is the number of optimizer updates that one step makes on what it collected,
    `learns` what the data check counts, `additive` whether a batch's loss is the sum of its items'
    losses, each seen alone.
    """

    def __init_subclass__(cls, *, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is not None:
            OBJECTIVES[name] = cls
            own = inspect.get_annotations(cls, eval_str=True)
            settings_of_class(name, dict(vars(cls)), own)

    @classmethod
    def from_recipe(cls, recipe: Recipe, tokenizer: Any) -> "Objective[ItemT]":
        """The objective with the recipe's settings as its arguments.

        Raises:
            RecipeError: what the settings name does not exist or does not fit.
        """
        return cls(**recipe.objective_settings.model_dump())

    num_iterations: int = 1
    learns: str = "tokens"
    additive: bool = True

    @property
    def carried(self) -> dict[str, float]:
        """What it remembers from step to step; checkpoints keep it."""
        return {}

    def after_step(self, means: Mapping[str, float]) -> None:
        """Sees the step's mean loss and metrics; the place to change what it carries."""

    def check(self, examples: Sequence[Example]) -> None:
        """Raises UserError where rows to train on are not of the kind that is learnt here."""
        return

    def render(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int | None
    ) -> tuple[list[Rendered], Finding | None]:
        """Rows that fit into `max_length` tokens as they are learnt, and what was left out."""
        return render_all(examples, tokenizer, max_length)

    @abstractmethod
    def items(self, examples: Sequence[Example], tokenizer: Any, max_length: int) -> list[ItemT]:
        """What is learnt from rows that were found to fit into `max_length` tokens."""

    def prepare(
        self, network: Network, items: Sequence[ItemT], *, training: bool = True
    ) -> list[ItemT]:
        """Once before the first step, with the weights of the start; also for validation items."""
        return list(items)

    def collect(self, network: Network, items: Sequence[ItemT], step: int) -> list[ItemT]:
        """At each step, with the weights of that step: the place to sample answers."""
        return list(items)

    def rehearsal(self) -> "Objective[ItemT]":
        """The same in small where each step costs much, for a try of all that a step does."""
        return self

    def units(self, items: Sequence[ItemT]) -> float:
        """What a summed loss is divided by, so that accumulated batches equal one batch."""
        return float(len(items))

    @abstractmethod
    def loss(self, network: Network, items: Sequence[ItemT]) -> Loss:
        """The summed loss of one forward pass."""

    def pieces(self, network: Network, items: Sequence[ItemT]) -> list[list[ItemT]]:
        """Parts of a forward pass that may be run, forwards and backwards, one after the other.

        Their losses must sum to that of the whole; `light_pieces` makes them small on a CPU.
        """
        return [list(items)]

    def validate(self, network: Network, items: Sequence[ItemT]) -> dict[str, float]:
        """`loss` (lower is better, it chooses the checkpoint) and metrics a unit over all items."""
        ordered = sorted(items, key=lambda item: item.size)
        units, means = self.units(items), Means()
        with torch.no_grad():
            for start in range(0, len(ordered), _VALIDATED_AT_ONCE):
                means.add(self.loss(network, ordered[start : start + _VALIDATED_AT_ONCE]), units)
        return means.values()


def light_pieces(network: Network, items: Sequence[ItemT], trunk: int = 0) -> list[list[ItemT]]:
    """Items of like size together, each piece just large enough to keep a CPU busy.

    A matrix product of 1,000 rows is as fast there as one of 8,000, so smaller pieces cost no
    time, and they need less memory and less padding. Other devices get the items whole. What the
    items share is computed again in each piece: a long `trunk` makes the pieces larger.
    """
    if network.device.type != "cpu":
        return [list(items)]
    if trunk and not network.shares_beginnings:
        trunk = 0
    room = max(_PIECE, 8 * trunk)
    pieces: list[list[ItemT]] = []
    for item in sorted(items, key=lambda item: -item.size):  # the first one is the longest
        if not pieces or (len(pieces[-1]) + 1) * (pieces[-1][0].size - trunk) > room:
            pieces.append([])
        pieces[-1].append(item)
    return pieces


def sampling_of(recipe: Recipe, settings: Grpo | Distill) -> Sampling:
    """How an objective samples answers in training; each step adds its number to the seed."""
    return Sampling(
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        seed=recipe.seed << 20,
    )


@dataclass(frozen=True, slots=True)
class Branches:
    """The answers of one conversation as rows that share their beginning.

    A chat template that writes earlier turns differently when more turns follow makes these.
    """

    rows: tuple[Row, ...]

    @property
    def size(self) -> int:
        """Number of tokens, the shared beginning counted once."""
        shared = trunk_length(self.rows)
        return sum(row.size for row in self.rows) - shared * (len(self.rows) - 1)

    @property
    def learnt(self) -> int:
        """Number of tokens with a weight."""
        return sum(row.learnt for row in self.rows)


def rows_of(examples: Sequence[Example], tokenizer: Any, max_length: int) -> list[Row]:
    """Rendered rows; all were found to fit before."""
    if not examples:
        return []
    rendered, _ = render_all(examples, tokenizer, max_length)
    return [Row(row.tokens, row.weights) for row in rendered]


def conversations_of(
    examples: Sequence[Example], tokenizer: Any, max_length: int | None
) -> list[Row | Branches]:
    """Rendered conversations, one item each; all were found to fit before."""
    if not examples:
        return []
    groups: list[list[Row]] = []
    for row in render_all(examples, tokenizer, max_length)[0]:
        if not row.branch:
            groups.append([])
        groups[-1].append(Row(row.tokens, row.weights))
    return [rows[0] if len(rows) == 1 else Branches(tuple(rows)) for rows in groups]


def grouped_rows(items: Sequence[Row | Branches]) -> list[Sequence[Row]]:
    """The rows of each item."""
    return [item.rows if isinstance(item, Branches) else (item,) for item in items]


def flat_rows(items: Sequence[Row | Branches]) -> list[Row]:
    """The rows of all items, one after the other."""
    return [row for rows in grouped_rows(items) for row in rows]


def require(
    examples: Sequence[Example],
    is_bare: Callable[[Example], bool],
    what: str,
    remedy: str,
    *,
    code: str,
    objective: str = "",
) -> None:
    """That every row to train on has what an objective learns.

    Args:
        is_bare: whether a row lacks it.
        what: what it is, with its article if it has one.
        remedy, code: of the error.
        objective: named in the error, where another one could learn from the rows.

    Raises:
        DataError: some rows lack it, or all.
    """
    bare = [example for example in examples if is_bare(example)]
    if not bare:
        return
    all_are = len(bare) == len(examples)
    first = bare[0].source or bare[0].id
    more = f" ({len(bare)} of {len(examples)} rows have none)" if len(bare) > 1 else ""
    seen = f"{first} has no {what.removeprefix('a ')}{more}"
    if all_are:
        seen = f"none of the {len(bare)} rows of train has {what}"
    raise DataError(
        seen + (f", but the objective is {objective}" if objective else ""),
        remedy,
        code=code,
        row=None if all_are else first,
        count=len(bare),
        rows=len(examples),
    )
