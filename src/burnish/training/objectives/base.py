"""The interface of an objective: it makes items from rows, and computes the loss of a batch."""

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
# Tokens of a piece on a CPU, padding included.
_PIECE = 1024


class Item(Protocol):
    """One training item: a row, a pair of answers, a text with its class."""

    @property
    def size(self) -> int:
        """Number of tokens that are read."""
        ...

    @property
    def learnt(self) -> int:
        """Number of tokens, labels or tags in the loss."""
        ...


ItemT = TypeVar("ItemT", bound=Item)
OBJECTIVES: dict[str, type["Objective[Any]"]] = {}


@dataclass(frozen=True, slots=True)
class Loss:
    """The loss summed over a batch; the loop divides it by the units of the whole optimizer step.

    A metric is a sum and the number of its terms; the loop logs the mean over the step.
    """

    total: Tensor
    metrics: dict[str, tuple[Tensor, float]] = field(default_factory=dict)


@dataclass
class Means:
    """Mean loss and metrics of several forward passes; only `values` waits for the device."""

    sums: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)

    def add(self, loss: Loss, units: float) -> None:
        """Add a pass; `units` are those of all passes together."""
        for name, (value, count) in {"loss": (loss.total, 0.0), **loss.metrics}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach()
            self.counts[name] = units if name == "loss" else self.counts.get(name, 0.0) + count

    def include(self, other: "Means") -> None:
        """Add other passes of the same step, which have the same units."""
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
    """A training objective, registered under its name in recipes.

    To add one, define a class in a file of this folder: `class Mine(Objective[Row], name="mine")`.
    Its fields with defaults become the keys of the recipe's section `mine`, unless
    `burnish.recipe.objectives` has settings of that name. The class may also set the class
    variables of `ObjectiveSettings`, such as `can_shard`.

    `num_iterations` is the number of optimizer updates on the items of one step, `learns` the name
    of what the data check counts, and `additive` whether the loss of a batch is the sum of the
    losses of its items.
    """

    def __init_subclass__(cls, *, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is not None:
            OBJECTIVES[name] = cls
            own = inspect.get_annotations(cls, eval_str=True)
            settings_of_class(name, dict(vars(cls)), own)

    @classmethod
    def from_recipe(cls, recipe: Recipe, tokenizer: Any) -> "Objective[ItemT]":
        """Create the objective from the recipe's settings.

        Raises:
            RecipeError: something that the settings name does not exist or does not fit.
        """
        return cls(**recipe.objective_settings.model_dump())

    num_iterations: int = 1
    learns: str = "tokens"
    additive: bool = True

    @property
    def carried(self) -> dict[str, float]:
        """State that changes from step to step; checkpoints contain it."""
        return {}

    def after_step(self, means: Mapping[str, float]) -> None:
        """Update `carried` from the step's mean loss and metrics."""

    def check(self, examples: Sequence[Example]) -> None:
        """Check the training rows; raises UserError if the objective cannot train on them."""
        return

    def render(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int | None
    ) -> tuple[list[Rendered], Finding | None]:
        """Render the rows that fit into `max_length` tokens; the finding lists the others."""
        return render_all(examples, tokenizer, max_length)

    @abstractmethod
    def items(self, examples: Sequence[Example], tokenizer: Any, max_length: int) -> list[ItemT]:
        """Make items from rows that `render` found to fit into `max_length` tokens."""

    def prepare(
        self, network: Network, items: Sequence[ItemT], *, training: bool = True
    ) -> list[ItemT]:
        """Prepare items once, with the initial weights; also called for validation items."""
        return list(items)

    def collect(self, network: Network, items: Sequence[ItemT], step: int) -> list[ItemT]:
        """Complete the items of a step with the present weights, for example with samples."""
        return list(items)

    def rehearsal(self) -> "Objective[ItemT]":
        """Return a version with cheaper steps, for checks that run every part of a step."""
        return self

    def units(self, items: Sequence[ItemT]) -> float:
        """Return the divisor of the summed loss, so that several passes equal one batch."""
        return float(len(items))

    @abstractmethod
    def loss(self, network: Network, items: Sequence[ItemT]) -> Loss:
        """Return the summed loss of one forward pass."""

    def pieces(self, network: Network, items: Sequence[ItemT]) -> list[list[ItemT]]:
        """Split a pass into pieces, which run forwards and backwards one after the other.

        Their losses must sum to that of the whole pass; `light_pieces` makes small ones on a CPU.
        """
        return [list(items)]

    def validate(self, network: Network, items: Sequence[ItemT]) -> dict[str, float]:
        """Return metrics per unit over all items; the lowest `loss` chooses the checkpoint."""
        ordered = sorted(items, key=lambda item: item.size)
        units, means = self.units(items), Means()
        with torch.no_grad():
            for start in range(0, len(ordered), _VALIDATED_AT_ONCE):
                means.add(self.loss(network, ordered[start : start + _VALIDATED_AT_ONCE]), units)
        return means.values()


def light_pieces(network: Network, items: Sequence[ItemT], trunk: int = 0) -> list[list[ItemT]]:
    """Group items of similar size into pieces that are just large enough to keep a CPU busy.

    On a CPU, rows of a matrix product are as fast by the 1,000 as by the 8,000, so small pieces
    cost no time and need less memory and padding. On other devices all items are one piece. The
    shared trunk is computed again in each piece, so a long `trunk` makes the pieces larger.
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
    """Return the sampling of answers in training; each step adds its number to the seed."""
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
    """Render rows that are known to fit."""
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
    """Check that every training row has the field that an objective trains on.

    Args:
        is_bare: whether a row lacks the field.
        what: the field in words, with an article if it has one.
        remedy, code: the remedy and the code of the error.
        objective: the name in the error, if another objective could use the rows.

    Raises:
        DataError: some or all rows lack the field.
    """
    bare = [example for example in examples if is_bare(example)]
    if not bare:
        return
    all_are = len(bare) == len(examples)
    first = bare[0].source or bare[0].id
    more = f" ({len(bare)} of {len(examples)} rows have none)" if len(bare) > 1 else ""
    seen = f"{first} has no {what.removeprefix('a ')}{more}"
    if all_are:
        seen = f"no training row has {what}"
    raise DataError(
        seen + (f", but the objective is {objective}" if objective else ""),
        remedy,
        code=code,
        row=None if all_are else first,
        count=len(bare),
        rows=len(examples),
    )
