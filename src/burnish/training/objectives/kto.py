"""KTO: trains on single answers that are labelled as liked or disliked.

Ethayarajh et al. 2024 (arXiv 2402.01306), equation 7. The reference point is the KL of policy and
reference, estimated on answers to other prompts in the same forward pass. So two small batches
have not exactly the loss of one large batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from burnish.conversation import Example
from burnish.data.render import with_answer
from burnish.errors import DataError
from burnish.models.branches import Network, Row, tree_states
from burnish.models.devices import tensor_on
from burnish.training.objectives.base import Loss, require, rows_of
from burnish.training.objectives.dpo import ComparesAnswers, with_reference

_SHIFTS_TRIED = 8

_JUDGED = "use rows with prompt, completion and label true or false"


@dataclass(frozen=True, slots=True)
class Judged:
    """A labelled answer, an unrelated answer, and the reference log-probabilities of both."""

    row: Row
    other: Row
    liked: bool
    reference: tuple[float, float] | None = None

    @property
    def size(self) -> int:
        return self.row.size + self.other.size

    @property
    def learnt(self) -> int:
        return self.row.learnt


@dataclass(frozen=True)
class Kto(ComparesAnswers[Judged], name="kto"):
    """Kahneman-Tversky optimisation.

    Args:
        beta: how fast the value saturates.
        desirable_weight, undesirable_weight: weights of liked and disliked answers in the loss;
            balance them if one kind is rare.
    """

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    additive: bool = field(default=False, init=False)

    def check(self, examples: Sequence[Example]) -> None:
        require(
            examples,
            lambda row: row.liked is None and row.rejected is None,
            "a judgement",
            _JUDGED,
            code="no_judgement",
        )

    def items(self, examples: Sequence[Example], tokenizer: Any, max_length: int) -> list[Judged]:
        judged = [example for row in examples for example in as_judged(row)]
        rows = rows_of(judged, tokenizer, max_length)
        others = mismatched(judged)
        return [
            Judged(row, other, bool(example.liked))
            for row, other, example in zip(
                rows, rows_of(others, tokenizer, 1 << 30), judged, strict=True
            )
        ]

    def prepare(
        self, network: Network, items: Sequence[Judged], *, training: bool = True
    ) -> list[Judged]:
        return with_reference(network, items, judged_logprobs)

    def loss(self, network: Network, items: Sequence[Judged]) -> Loss:
        references = [item.reference for item in items]
        assert None not in references, "`prepare` has to be called before `loss`"
        reference_B_2 = tensor_on(network.device, references)
        with network.frozen():
            others_B = judged_logprobs(network, items, which=1)
        ratios_B = judged_logprobs(network, items, which=0) - reference_B_2[:, 0]
        divergence = (others_B - reference_B_2[:, 1]).mean().clamp(min=0)
        liked_B = tensor_on(network.device, [item.liked for item in items])
        losses_B = kto(ratios_B, divergence, liked_B, self.beta)
        weights_B = torch.where(liked_B, self.desirable_weight, self.undesirable_weight)
        metrics = {"divergence": (divergence * len(items), float(len(items)))}
        return Loss((weights_B * losses_B).sum(), metrics)


def kto(ratios_B: Tensor, divergence: Tensor, liked_B: Tensor, beta: float) -> Tensor:
    """Return 1 - sigma(beta (ratio - KL)) if liked, else 1 - sigma(beta (KL - ratio)); (B,)."""
    sign_B = torch.where(liked_B, 1.0, -1.0)
    return 1 - torch.sigmoid(beta * sign_B * (ratios_B - divergence))


def judged_logprobs(network: Network, items: Sequence[Judged], which: int | None = None) -> Tensor:
    """Return summed log-probabilities of `row` and `other` (B, 2), or of one of them (B,)."""
    groups = [[item.row, item.other] for item in items]
    chosen = groups if which is None else [[group[which]] for group in groups]
    states = tree_states(network, chosen)
    values_N = network.logprobs(states.hidden_N_H, states.targets_N)
    sums = states.sums(values_N, sum(map(len, chosen)))
    return sums.view(-1, 2) if which is None else sums


def mismatched(judged: Sequence[Example]) -> list[Example]:
    """Return each prompt with an answer to another one, to estimate the reference point.

    The list of answers is rotated, so that each is used once. The rotation is the one that leaves
    the fewest answers at their own prompt: two for pairs, whose answers follow each other.
    """
    prompts = [example.prompt for example in judged]

    def own(shift: int) -> int:
        return sum(a == b for a, b in zip(prompts, _shifted(prompts, shift), strict=True))

    shifts = range(1, min(len(judged), _SHIFTS_TRIED + 1))
    answers = _shifted(judged, min(shifts, key=own, default=0))
    return [with_answer(e, other.expected) for e, other in zip(judged, answers, strict=True)]


def _shifted(values: Sequence[Any], by: int) -> list[Any]:
    return [*values[by:], *values[:by]]


def as_judged(example: Example) -> list[Example]:
    """Return a labelled answer unchanged, and a pair as a liked and a disliked answer.

    Raises:
        DataError: the row is neither a labelled answer nor a pair.
    """
    if example.liked is not None:
        return [with_answer(example, example.expected)]
    if example.rejected is None:
        raise DataError(
            f"{example.source or example.id} has no judgement",
            _JUDGED,
            code="no_judgement",
            row=example.source or example.id,
        )
    chosen = with_answer(replace(example, liked=True), example.expected)
    return [chosen, with_answer(replace(example, liked=False), example.rejected)]
