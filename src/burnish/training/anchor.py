"""A KL penalty that keeps the model close to its initial weights while an objective trains it.

Each step also reads a few general texts, the anchors, and adds KL(start || now) at their tokens,
times a multiplier, to the loss. The multiplier is not a setting: dual ascent raises it while the
divergence is above the tolerated value and lowers it otherwise (Lagrangian duality as in Moskovitz
et al. 2023, arXiv 2310.04373, section 4.2). The initial distributions are computed once and stored
as their likeliest tokens and the rest as one.
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

# Tokens of an initial distribution that are stored: 98% of its mass on chats.
_LIKELIEST = 64
# Texts per forward pass.
_AT_ONCE = 16
# The multiplier changes slowly, because a step estimates the divergence from a few texts.
_FIRST, _LEAST, _MOST = 0.1, 0.1, 30.0
_RATE, _FASTEST = 0.05, 1.0
# Nats per token for each point that the suite may fall. With SmolLM2-135M on support-routing the
# suite mean did not fall measurably at 0.03 nats, and fell by 2.5 points at 0.14 nats.
TOLERATED = 0.015


@dataclass(frozen=True, slots=True, eq=False)
class Anchor:
    """A text with the initial model's log-probabilities in nats.

    `tokens_N_K` are the K likeliest tokens at each of the N weighted positions; `logprobs_N_L` has
    one more column for all other tokens.
    """

    row: Row
    tokens_N_K: Tensor
    logprobs_N_L: Tensor

    @property
    def size(self) -> int:
        return self.row.size

    @property
    def learnt(self) -> int:
        """Zero: an anchor is not trained on."""
        return 0


class Anchored(Objective[Any]):
    """Adds the penalty on anchors to the objective `inner`.

    Args:
        inner: the objective without the penalty.
        tolerated: tolerated divergence in nats per token.
        share: units of `inner` per step divided by weighted anchor tokens per step, so that the
            mean divergence is added to the mean loss.
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
        inner = self.inner.loss(network, rows) if rows else None
        if not anchors:
            assert inner is not None
            return inner
        kl, tokens = divergence(network, anchors)
        penalty = self.carried["anchor_weight"] * self.share * kl
        penalty = penalty - penalty.detach()  # has a gradient, but does not change the shown loss
        metrics = {"anchor_kl": (kl.detach(), float(tokens))}
        if inner is None:
            return Loss(penalty, metrics)
        return Loss(inner.total + penalty, inner.metrics | metrics)

    def after_step(self, means: Mapping[str, float]) -> None:
        """Take one step of dual ascent on the logarithm of the multiplier, which stays positive."""
        if (kl := means.get("anchor_kl")) is None:
            return
        ascent = _RATE * min(kl / self.tolerated - 1, _FASTEST)
        weight = self.carried["anchor_weight"] * math.exp(ascent)
        self.carried["anchor_weight"] = min(max(weight, _LEAST), _MOST)

    def validate(self, network: Network, items: Sequence[Any]) -> dict[str, float]:
        return self.inner.validate(network, items)


def anchors(network: Network, rows: Sequence[Row]) -> list[Anchor]:
    """Store the model's present log-probabilities on the rows, without its trained adapter."""
    result: list[Anchor | None] = [None] * len(rows)
    order = sorted(range(len(rows)), key=lambda index: rows[index].size)
    with network.base() if has_adapter(network.wrapped) else network.frozen():
        for start in range(0, len(order), _AT_ONCE):
            part = order[start : start + _AT_ONCE]
            states = branch_states(network, [rows[index] for index in part])
            values_N = network.read(states.hidden_N_H, states.targets_N, _likeliest)
            width = (values_N.shape[-1] - 1) // 2
            each = torch.split(values_N, [rows[index].learnt for index in part])
            for index, own in zip(part, each, strict=True):
                result[index] = Anchor(rows[index], own[:, :width].long(), own[:, width:].float())
    return [anchor for anchor in result if anchor is not None]


def divergence(network: Network, anchors: Sequence[Anchor]) -> tuple[Tensor, int]:
    """Return the sum of KL(start || now) over the weighted tokens in nats, and their number."""
    states = branch_states(network, [anchor.row for anchor in anchors])
    tokens_N_K = torch.cat([anchor.tokens_N_K for anchor in anchors])
    logprobs_N_L = torch.cat([anchor.logprobs_N_L for anchor in anchors])

    def reading(logits_N_V: Tensor, _targets_N: Tensor, which: slice) -> Tensor:
        now_N_K = logits_N_V.log_softmax(-1).gather(-1, tokens_N_K[which])
        return coarse_kl(logprobs_N_L[which], with_rest(now_N_K))

    return network.read(states.hidden_N_H, states.targets_N, reading).sum(), len(tokens_N_K)


def coarse_kl(start_N_L: Tensor, now_N_L: Tensor) -> Tensor:
    """Return the KL over the stored tokens and the rest in nats, shape (N,).

    It is at most the KL over the whole vocabulary, by the data processing inequality.
    """
    return (start_N_L.exp() * (start_N_L - now_N_L)).sum(-1)


def with_rest(logprobs_N_K: Tensor) -> Tensor:
    """Append a column with the log-probability of all other tokens together."""
    named_N_1 = logprobs_N_K.logsumexp(-1, keepdim=True).clamp(max=-1e-6)
    return torch.cat([logprobs_N_K, torch.log(-torch.expm1(named_N_1))], dim=-1)


def _likeliest(logits_N_V: Tensor, _targets_N: Tensor, _which: slice) -> Tensor:
    """Return tokens and log-probabilities in one tensor, as `Network.read` requires."""
    width = min(_LIKELIEST, logits_N_V.shape[-1] - 1)
    best = logits_N_V.log_softmax(-1).topk(width, dim=-1)
    return torch.cat([best.indices.double(), with_rest(best.values.double())], dim=-1)


def anchored(
    recipe: Recipe, objective: Objective[Any], batches: Batches, anchors: Sequence[Anchor]
) -> Anchored:
    """Add the penalty on anchors to an objective, by the settings of the recipe."""
    counts = batches.counts()
    units = sum(
        objective.units(items) * counts[name] / len(items) for name, items in batches.sets.items()
    )
    mean_tokens = sum(anchor.row.learnt for anchor in anchors) / len(anchors)
    tokens = mean_tokens * recipe.replay.anchors_per_step
    tolerated = recipe.replay.target_kl or TOLERATED * recipe.budget.general
    return Anchored(objective, tolerated, units * batches.epochs / batches.steps / tokens)
