"""Sequence classification: cross-entropy of each text's label, classes weighted."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from burnish.conversation import Example
from burnish.data.render import Rendered, drop_longer
from burnish.errors import DataError, RecipeError, quantity
from burnish.models.branches import Network
from burnish.models.devices import tensor_on
from burnish.models.head_inputs import encode_texts, label_logits
from burnish.runs.directory import Finding
from burnish.training.objectives.base import Loss, Objective, require

ClassWeights = Literal["none", "balanced"] | Mapping[str, float]


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text's tokens and its class."""

    tokens: Sequence[int]
    label: str
    weight: float = 1.0

    @property
    def size(self) -> int:
        return len(self.tokens)

    @property
    def learnt(self) -> int:
        return 1


@dataclass(frozen=True)
class Classify(Objective[LabelledText], name="classify"):
    """Trains on the label of the user turn, which is read as plain text.

    Args:
        weights: class weights: `none`, `balanced` (n / (classes x count), as in scikit-learn), or
            by label, with 1 for the others. In validation all rows have the same weight.
    """

    weights: ClassWeights = "none"

    learns = "labels"

    def check(self, examples: Sequence[Example]) -> None:
        require(
            examples,
            lambda example: example.label is None,
            "a label",
            "use rows of text and label, or set objective to sft",
            code="no_label",
            objective="classify",
        )
        check_names(self.weights, {str(e.label) for e in examples}, "classify.weights")

    def render(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int | None
    ) -> tuple[list[Rendered], Finding | None]:
        at = -1 if tokenizer.cls_token_id is None else 0
        return fitting(examples, _rendered(examples, tokenizer, at), tokenizer, max_length)

    def items(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int
    ) -> list[LabelledText]:
        rows = encode_texts([example.question for example in examples], tokenizer)
        return [
            LabelledText(tokens, str(example.label))
            for example, tokens in zip(examples, rows, strict=True)
            if len(tokens) <= max_length
        ]

    def prepare(
        self, network: Network, items: Sequence[LabelledText], *, training: bool = True
    ) -> list[LabelledText]:
        if not training:
            return list(items)
        weights = class_weights(Counter(item.label for item in items), self.weights)
        return [replace(item, weight=weights[item.label]) for item in items]

    def units(self, items: Sequence[LabelledText]) -> float:
        return sum(item.weight for item in items)

    def loss(self, network: Network, items: Sequence[LabelledText]) -> Loss:
        numbers = network.model.config.label2id
        logits_B_C = label_logits(network.model, [item.tokens for item in items])
        return head_loss(
            logits_B_C,
            [numbers[item.label] for item in items],
            [item.weight for item in items],
            measured=not network.model.training,
        )


def head_loss(
    logits_N_C: Tensor, targets: Sequence[int], weights: Sequence[float], *, measured: bool
) -> Loss:
    """Return the summed loss; `measured` adds the weighted accuracy."""
    targets_N = tensor_on(logits_N_C.device, targets, torch.long)
    weights_N = tensor_on(logits_N_C.device, weights, torch.float32)
    total = weighted_cross_entropy(logits_N_C, targets_N, weights_N)
    if not measured:
        return Loss(total)
    right_N = logits_N_C.argmax(-1) == targets_N
    return Loss(total, {"accuracy": ((right_N * weights_N).sum(), math.fsum(weights))})


def weighted_cross_entropy(logits_N_C: Tensor, targets_N: Tensor, weights_N: Tensor) -> Tensor:
    """Return the sum of weight x -log p(target) in nats."""
    losses_N = functional.cross_entropy(logits_N_C, targets_N, reduction="none")
    return (losses_N * weights_N).sum()


def class_weights(counts: Mapping[str, int], choice: ClassWeights) -> dict[str, float]:
    """Return the weight of each counted class."""
    if isinstance(choice, Mapping):
        return {label: float(choice.get(label, 1.0)) for label in counts}
    if choice == "none":
        return dict.fromkeys(counts, 1.0)
    total = sum(counts.values())
    return {label: total / (len(counts) * count) for label, count in counts.items()}


def check_names(choice: ClassWeights, labels: set[str], key: str) -> None:
    """Check the labels of class weights, since unknown ones would have no effect.

    Raises:
        RecipeError: a label does not occur in the training rows.
    """
    unknown = sorted(set(choice) - labels) if isinstance(choice, Mapping) else []
    if unknown:
        shown = ", ".join(sorted(labels)[:20])
        raise RecipeError(
            f"{key} has a weight for {unknown[0]!r}, but no training row has this label",
            f"use labels from {shown}",
            code="unknown_label",
            key=key,
            value=unknown[0],
        )


def fitting(
    examples: Sequence[Example], rows: Iterable[Rendered], tokenizer: Any, max_length: int | None
) -> tuple[list[Rendered], Finding | None]:
    """Return the rows that are not too long, and a finding on the others.

    Raises:
        DataError: all rows are too long.
    """
    limit = max_length or int(min(tokenizer.model_max_length, 1 << 30))
    fitting_rows, finding = drop_longer(examples, ([row] for row in rows), limit)
    if not fitting_rows:
        raise DataError(
            f"every row is too long to train on ({quantity(len(examples), 'row')})",
            f"use texts of at most {limit} tokens",
            code="nothing_learnt",
            count=len(examples),
            longest=limit,
        )
    return fitting_rows, finding


def _rendered(examples: Sequence[Example], tokenizer: Any, at: int) -> Iterator[Rendered]:
    """Render texts with weight 1 on the token `at`, where the head reads the text."""
    rows = encode_texts([example.question for example in examples], tokenizer)
    for example, tokens in zip(examples, rows, strict=True):
        weights = [0.0] * len(tokens)
        weights[at] = 1.0
        yield Rendered(example.id, tuple(tokens), tuple(weights))
