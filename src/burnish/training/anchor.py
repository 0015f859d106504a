"""The anchor: an objective is learnt under the constraint that the model stays near its start.

Beside each step's rows a few general texts are read, and the loss gets the divergence
KL(start || now) at their tokens times a multiplier. The multiplier is not a setting: dual ascent
raises it while the divergence lies above what is tolerated and lowers it below (Lagrangian duality
as in Moskovitz et al. 2023, arXiv 2310.04373, section 4.2). What the start said is computed once
and kept as its likeliest tokens and the rest as one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from burnish.conversation import Example
from burnish.data.render import Rendered
from burnish.models.adapt import has_adapter
from burnish.models.branches import Network, Row, branch_states
from burnish.recipe.schema import Recipe
from burnish.runs.directory import Finding
from burnish.training.batches import Batches
from burnish.training.objectives.base import Loss, Objective, light_pieces

# Of what the start says at a position, the tokens kept by name: 98 % of its mass on chats.
_LIKELIEST = 64
# Texts read at once.
_AT_ONCE = 16
# A step's divergence is that of a few texts, so the multiplier follows slowly.
_FIRST, _LEAST, _MOST = 0.1, 0.1, 30.0
_RATE, _FASTEST = 0.05, 1.0
# Nats a token for each point that the suite may fall. With SmolLM2-135M on support-routing the mean
# of what was held to 0.03 nats fell by nothing that could be seen, at 0.14 nats by 2.5 points.
TOLERATED = 0.015


@dataclass(frozen=True, slots=True, eq=False)
class Anchor:
    """A text, and what the model said at its start: log-probabilities in nats.

    `tokens_N_K` are the K likeliest tokens at each of the N weighted positions; `logprobs_N_L` has
    one more column, the rest.
    """

    row: Row
    tokens_N_K: Tensor
    logprobs_N_L: Tensor

    @property
    def size(self) -> int:
        return self.row.size

    @property
    def learnt(self) -> int:
        """Nothing: it only holds."""
        return 0


class Anchored(Objective[Any]):
    """Learns as `inner` does, near to where it started.

    Args:
        inner: what is learnt.
        tolerated: divergence in nats a token.
        share: units of `inner` a step over weighted anchor tokens a step, so that the divergence
            counts as a mean beside a mean.
    """

    def __init__(self, inner: Objective[Any], tolerated: float, share: float) -> None:
        self.inner, self.tolerated, self.share = inner, tolerated, share
        self.num_iterations, self.learns = inner.num_iterations, inner.learns
        self.additive = inner.additive
        self._carried = {"anchor_weight": _FIRST}

    @property
    def carried(self) -> dict[str, float]:
        return self._carried

    def check(self, examples: Sequence[Example]) -> None:
        self.inner.check(examples)

    def render(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int | None
    ) -> tuple[list[Rendered], Finding | None]:
        return self.inner.render(examples, tokenizer, max_length)

    def items(self, examples: Sequence[Example], tokenizer: Any, max_length: int) -> list[Any]:
        return self.inner.items(examples, tokenizer, max_length)

    def units(self, items: Sequence[Any]) -> float:
        return self.inner.units([item for item in items if not isinstance(item, Anchor)])

    def pieces(self, network: Network, items: Sequence[Any]) -> list[list[Any]]:
        anchors = [item for item in items if isinstance(item, Anchor)]
        rows = [item for item in items if not isinstance(item, Anchor)]
        return [*self.inner.pieces(network, rows), *light_pieces(network, anchors)]

    def loss(self, network: Network, items: Sequence[Any]) -> Loss:
        anchors = [item for item in items if isinstance(item, Anchor)]
        rows = [item for item in items if not isinstance(item, Anchor)]
        found = self.inner.loss(network, rows) if rows else None
        if not anchors:
            assert found is not None
            return found
        away, tokens = divergence(network, anchors)
        held = self.carried["anchor_weight"] * self.share * away
        held = held - held.detach()  # it pulls, but the loss that is shown is of what is learnt
        metrics = {"anchor_kl": (away.detach(), float(tokens))}
        if found is None:
            return Loss(held, metrics)
        return Loss(found.total + held, found.metrics | metrics)

    def after_step(self, means: Mapping[str, float]) -> None:
        """One step of dual ascent, in the logarithm so that the multiplier stays positive."""
        if (away := means.get("anchor_kl")) is None:
            return
        ascent = _RATE * min(away / self.tolerated - 1, _FASTEST)
        weight = self.carried["anchor_weight"] * math.exp(ascent)
        self.carried["anchor_weight"] = min(max(weight, _LEAST), _MOST)

    def validate(self, network: Network, items: Sequence[Any]) -> dict[str, float]:
        return self.inner.validate(network, items)


def anchors(network: Network, rows: Sequence[Row]) -> list[Anchor]:
    """What the model says now, the learning adapter switched off where there is one."""
    found: list[Anchor | None] = [None] * len(rows)
    order = sorted(range(len(rows)), key=lambda index: rows[index].size)
    with network.base() if has_adapter(network.wrapped) else network.frozen():
        for start in range(0, len(order), _AT_ONCE):
            part = order[start : start + _AT_ONCE]
            asked = branch_states(network, [rows[index] for index in part])
            said_N = network.read(asked.hidden_N_H, asked.targets_N, _likeliest)
            width = (said_N.shape[-1] - 1) // 2
            each = torch.split(said_N, [rows[index].learnt for index in part])
            for index, own in zip(part, each, strict=True):
                found[index] = Anchor(rows[index], own[:, :width].long(), own[:, width:].float())
    return [anchor for anchor in found if anchor is not None]


def divergence(network: Network, given: Sequence[Anchor]) -> tuple[Tensor, int]:
    """Sum of KL(start || now) over the weighted tokens in nats, and their number."""
    asked = branch_states(network, [anchor.row for anchor in given])
    tokens_N_K = torch.cat([anchor.tokens_N_K for anchor in given])
    logprobs_N_L = torch.cat([anchor.logprobs_N_L for anchor in given])

    def reading(logits_N_V: Tensor, _targets_N: Tensor, which: slice) -> Tensor:
        now_N_K = logits_N_V.log_softmax(-1).gather(-1, tokens_N_K[which])
        return coarse_kl(logprobs_N_L[which], with_rest(now_N_K))

    return network.read(asked.hidden_N_H, asked.targets_N, reading).sum(), len(tokens_N_K)


def coarse_kl(start_N_L: Tensor, now_N_L: Tensor) -> Tensor:
    """KL of the two distributions over the named tokens and the rest, nats, shape (N,).

    At most the KL over the whole vocabulary, by the data processing inequality.
    """
    return (start_N_L.exp() * (start_N_L - now_N_L)).sum(-1)


def with_rest(logprobs_N_K: Tensor) -> Tensor:
    """Log-probabilities of some tokens and, as a last column, of all others together."""
    named_N_1 = logprobs_N_K.logsumexp(-1, keepdim=True).clamp(max=-1e-6)
    return torch.cat([logprobs_N_K, torch.log(-torch.expm1(named_N_1))], dim=-1)


def _likeliest(logits_N_V: Tensor, _targets_N: Tensor, _which: slice) -> Tensor:
    """Tokens and log-probabilities side by side, since a reading returns one tensor."""
    width = min(_LIKELIEST, logits_N_V.shape[-1] - 1)
    best = logits_N_V.log_softmax(-1).topk(width, dim=-1)
    return torch.cat([best.indices.double(), with_rest(best.values.double())], dim=-1)


def anchored(
    recipe: Recipe, objective: Objective[Any], batches: Batches, held: Sequence[Anchor]
) -> Anchored:
    """Units a step over anchor tokens a step make a mean divergence weigh as a mean loss."""
    counts = batches.counts()
    units = sum(
        objective.units(items) * counts[name] / len(items) for name, items in batches.sets.items()
    )
    tokens = sum(anchor.row.learnt for anchor in held) / len(held) * recipe.replay.anchors_per_step
    tolerated = recipe.replay.target_kl or TOLERATED * recipe.budget.general
    return Anchored(objective, tolerated, units * batches.epochs / batches.steps / tokens)
