"""Continued pre-training on plain documents, packed so that they do not see each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from burnish.conversation import Example
from burnish.data.render import Rendered
from burnish.models.branches import Network, Row
from burnish.models.packing import packed_states
from burnish.runs.directory import Finding
from burnish.training.objectives.base import Loss, Objective, rows_of


@dataclass(frozen=True)
class Lm(Objective[Row], name="lm"):
    """Trains on documents; one longer than `max_length` is split, with an overlap of a token."""

    def render(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int | None
    ) -> tuple[list[Rendered], Finding | None]:
        return super().render(examples, tokenizer, 1 << 30)  # long documents are split

    def items(self, examples: Sequence[Example], tokenizer: Any, max_length: int) -> list[Row]:
        whole = rows_of(examples, tokenizer, max_length=1 << 30)
        return [window for row in whole for window in windows(row, max_length)]

    def units(self, items: Sequence[Row]) -> float:
        return float(sum(sum(row.weights) for row in items))

    def loss(self, network: Network, items: Sequence[Row]) -> Loss:
        states = packed_states(network, items)
        values_N = network.logprobs(states.hidden_N_H, states.targets_N)
        return Loss(-(values_N * states.weights_N).sum())


def windows(row: Row, size: int) -> list[Row]:
    """Split into pieces of at most `size` tokens; each token but the first has weight in one."""
    step = size - 1
    pieces = []
    for start in range(0, max(1, len(row.tokens) - 1), step):
        tokens, weights = row.tokens[start : start + size], row.weights[start : start + size]
        pieces.append(Row(tokens, [0.0, *weights[1:]]))
    return [piece for piece in pieces if piece.learnt]
