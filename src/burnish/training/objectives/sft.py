"""Supervised fine-tuning: the weighted negative log-likelihood of the learnt tokens."""

from collections.abc import Sequence

from torch import Tensor

from burnish.models.branches import Logprobs, Row


def loss(found: Logprobs) -> Tensor:
    """Sum over learnt tokens of weight x -log p, in nats; the loop divides by `units`."""
    return -(found.values_N * found.weights_N).sum()


def units(rows: Sequence[Row]) -> float:
    """Summed weight of the learnt tokens: accumulated batches equal one batch by this weight."""
    return float(sum(sum(row.weights) for row in rows))
