"""Preference optimisation: makes the chosen answer likelier than the rejected one.

Both answers of a pair share their prompt, which is computed once. `logprobs_B_2` contains the
summed log-probabilities (nats) of the chosen and the rejected answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from burnish.conversation import Example
from burnish.data.render import Rendered, render_answers, with_answer
from burnish.models.branches import Network, Row, tree_states
from burnish.models.devices import tensor_on
from burnish.runs.directory import Finding
from burnish.training.objectives.base import ItemT, Loss, Objective, light_pieces, require, rows_of

_AT_ONCE = 16
# Log-probabilities closer to 0 are rounding errors in float32, and at 0 the odds are infinite.
_CERTAIN = -1e-7
# These losses use the log-probabilities before training; the others need no reference.
_REFERENCED = ("sigmoid", "ipo")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt, and their reference log-probabilities if precomputed."""

    chosen: Row
    rejected: Row
    reference: tuple[float, float] | None = None

    @property
    def size(self) -> int:
        return self.chosen.size + self.rejected.size

    @property
    def learnt(self) -> int:
        return self.chosen.learnt + self.rejected.learnt


ReferencedT = TypeVar("ReferencedT", bound=Any)


class ComparesAnswers(Objective[ItemT]):
    """An objective for rows with better and worse answers."""

    def render(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int | None
    ) -> tuple[list[Rendered], Finding | None]:
        return render_answers(examples, tokenizer, max_length)


class PairObjective(ComparesAnswers[Pair]):
    """An objective for pairs of a chosen and a rejected answer."""

    def check(self, examples: Sequence[Example]) -> None:
        require(
            examples,
            lambda example: example.rejected is None,
            "a rejected answer",
            "use rows with prompt, chosen and rejected",
            code="no_rejected_answer",
        )

    def items(self, examples: Sequence[Example], tokenizer: Any, max_length: int) -> list[Pair]:
        chosen = rows_of([with_answer(e, e.expected) for e in examples], tokenizer, max_length)
        rejected = rows_of(
            [with_answer(e, str(e.rejected)) for e in examples], tokenizer, max_length
        )
        return [Pair(good, bad) for good, bad in zip(chosen, rejected, strict=True)]

    def pieces(self, network: Network, items: Sequence[Pair]) -> list[list[Pair]]:
        return light_pieces(network, items)


@dataclass(frozen=True)
class Dpo(PairObjective, name="dpo"):
    """DPO and its variants.

    Args:
        loss_type: `sigmoid` (DPO), `ipo`, `simpo` or `orpo`.
        beta: strength; for `orpo` the weight of the odds-ratio term.
        gamma: `simpo`'s target margin.
        precompute_reference: compute the reference once, before the first step; otherwise each
            step computes it, with the adapter disabled.
    """

    loss_type: Literal["sigmoid", "ipo", "simpo", "orpo"] = "sigmoid"
    beta: float = 0.1
    gamma: float = 0.5
    precompute_reference: bool = True

    def prepare(
        self, network: Network, items: Sequence[Pair], *, training: bool = True
    ) -> list[Pair]:
        if self.loss_type not in _REFERENCED or not self.precompute_reference:
            return list(items)
        return with_reference(network, items, pair_logprobs)

    def loss(self, network: Network, items: Sequence[Pair]) -> Loss:
        logprobs_B_2 = pair_logprobs(network, items)
        if self.loss_type in _REFERENCED:
            reference_B_2 = self._reference(network, items)
            rewards_B_2 = self.beta * (logprobs_B_2 - reference_B_2)
        else:
            reference_B_2 = torch.zeros_like(logprobs_B_2)
            rewards_B_2 = self.beta * logprobs_B_2 / lengths(items, logprobs_B_2)
        losses_B = self._losses(logprobs_B_2, reference_B_2, lengths(items, logprobs_B_2))
        return Loss(losses_B.sum(), margins(rewards_B_2))

    def _losses(self, logprobs_B_2: Tensor, reference_B_2: Tensor, lengths_B_2: Tensor) -> Tensor:
        if self.loss_type == "sigmoid":
            return sigmoid(logprobs_B_2 - reference_B_2, self.beta)
        if self.loss_type == "ipo":
            return ipo((logprobs_B_2 - reference_B_2) / lengths_B_2, self.beta)
        if self.loss_type == "simpo":
            return simpo(logprobs_B_2 / lengths_B_2, self.beta, self.gamma)
        return orpo(logprobs_B_2 / lengths_B_2, self.beta)

    def _reference(self, network: Network, items: Sequence[Pair]) -> Tensor:
        if items[0].reference is None:
            with network.base():
                return pair_logprobs(network, items)
        return tensor_on(network.device, [item.reference for item in items])


def sigmoid(ratios_B_2: Tensor, beta: float) -> Tensor:
    """Return -log sigma(beta (chosen - rejected)) of log-ratios to the reference, shape (B,).

    Rafailov et al. 2023 (arXiv 2305.18290), equation 7.
    """
    return -functional.logsigmoid(beta * (ratios_B_2[:, 0] - ratios_B_2[:, 1]))


def ipo(mean_ratios_B_2: Tensor, beta: float) -> Tensor:
    """Return (chosen - rejected - 1 / (2 beta))^2 of log-ratios per token, shape (B,).

    Azar et al. 2023 (arXiv 2310.12036), equation 17; per token, as in the authors' experiments.
    """
    return (mean_ratios_B_2[:, 0] - mean_ratios_B_2[:, 1] - 1 / (2 * beta)) ** 2


def simpo(means_B_2: Tensor, beta: float, gamma: float) -> Tensor:
    """Return -log sigma(beta (chosen - rejected) - gamma) of log-probs per token, shape (B,).

    Meng et al. 2024 (arXiv 2405.14734), equation 6.
    """
    return -functional.logsigmoid(beta * (means_B_2[:, 0] - means_B_2[:, 1]) - gamma)


def orpo(means_B_2: Tensor, beta: float) -> Tensor:
    """Return NLL per token of the chosen answer - beta log sigma(log odds ratio), shape (B,).

    Hong et al. 2024 (arXiv 2403.07691), equations 6 and 7.
    """
    odds_B_2 = means_B_2 - torch.log(-torch.expm1(means_B_2.clamp(max=_CERTAIN)))
    return -means_B_2[:, 0] - beta * functional.logsigmoid(odds_B_2[:, 0] - odds_B_2[:, 1])


def pair_logprobs(network: Network, pairs: Sequence[Pair]) -> Tensor:
    """Return the summed log-probabilities of chosen and rejected answers, shape (B, 2)."""
    states = tree_states(network, [[pair.chosen, pair.rejected] for pair in pairs])
    values_N = network.logprobs(states.hidden_N_H, states.targets_N)
    return states.sums(values_N, 2 * len(pairs)).view(-1, 2)


def with_reference(
    network: Network,
    items: Sequence[ReferencedT],
    logprobs: Callable[[Network, Sequence[ReferencedT]], Tensor],
) -> list[ReferencedT]:
    """Return the items with their two log-probabilities under the present weights."""
    result = list(items)
    order = sorted(range(len(items)), key=lambda index: items[index].size)
    with network.frozen():
        for start in range(0, len(order), _AT_ONCE):
            part = order[start : start + _AT_ONCE]
            values = logprobs(network, [items[index] for index in part]).tolist()
            for index, (one, other) in zip(part, values, strict=True):
                result[index] = replace(items[index], reference=(one, other))
    return result


def margins(rewards_B_2: Tensor) -> dict[str, tuple[Tensor, float]]:
    """Return the metrics `preferred` (chosen above rejected) and `margin` (their difference)."""
    margins_B = (rewards_B_2[:, 0] - rewards_B_2[:, 1]).detach()
    count = float(len(margins_B))
    preferred = (margins_B > 0).float().sum()
    return {"preferred": (preferred, count), "margin": (margins_B.sum(), count)}


def lengths(pairs: Sequence[Pair], like: Tensor) -> Tensor:
    """Return the number of trained tokens of both answers, shape (B, 2)."""
    counts = [[pair.chosen.learnt, pair.rejected.learnt] for pair in pairs]
    return tensor_on(like.device, counts, like.dtype)
