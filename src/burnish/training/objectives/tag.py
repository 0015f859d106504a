"""Token classification: cross-entropy of the IOB2 tag of each word, tags weighted."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from burnish.conversation import Example
from burnish.data.render import Rendered
from burnish.models.branches import Network
from burnish.models.head_inputs import TaggedTokens, encode_words, tag_logits
from burnish.runs.directory import Finding
from burnish.training.objectives.base import Loss, Objective, require
from burnish.training.objectives.classify import (
    ClassWeights,
    check_names,
    class_weights,
    fitting,
    head_loss,
)


@dataclass(frozen=True, slots=True)
class TaggedText:
    """A sentence's tokens, and a tag and a weight for each word that has a token."""

    row: TaggedTokens
    tags: Sequence[str]
    weights: Sequence[float]

    @property
    def size(self) -> int:
        return len(self.row.tokens)

    @property
    def learnt(self) -> int:
        return len(self.tags)


@dataclass(frozen=True)
class Tag(Objective[TaggedText], name="tag"):
    """Trains on one tag per word, whatever its number of tokens.

    Args:
        weights: tag weights, as in `Classify`.
    """

    weights: ClassWeights = "none"

    learns = "tags"

    def check(self, examples: Sequence[Example]) -> None:
        require(
            examples,
            lambda example: example.tags is None,
            "tags",
            "use rows of tokens and tags",
            code="no_tags",
            objective="tag",
        )
        check_names(self.weights, {t for e in examples for t in e.tags or ()}, "tag.weights")

    def render(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int | None
    ) -> tuple[list[Rendered], Finding | None]:
        rows = encode_words([example.question.split(" ") for example in examples], tokenizer)
        rendered = []
        for example, row in zip(examples, rows, strict=True):
            weights = [0.0] * len(row.tokens)
            for position in row.positions:
                weights[position] = 1.0
            rendered.append(Rendered(example.id, row.tokens, tuple(weights)))
        return fitting(examples, rendered, tokenizer, max_length)

    def items(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int
    ) -> list[TaggedText]:
        rows = encode_words([example.question.split(" ") for example in examples], tokenizer)
        items = []
        for example, row in zip(examples, rows, strict=True):
            tags = [example.tags[word] for word in row.words] if example.tags else []
            if tags and len(row.tokens) <= max_length:
                items.append(TaggedText(row, tags, [1.0] * len(tags)))
        return items

    def prepare(
        self, network: Network, items: Sequence[TaggedText], *, training: bool = True
    ) -> list[TaggedText]:
        if not training:
            return list(items)
        weights = class_weights(Counter(t for item in items for t in item.tags), self.weights)
        return [replace(item, weights=[weights[t] for t in item.tags]) for item in items]

    def units(self, items: Sequence[TaggedText]) -> float:
        return sum(weight for item in items for weight in item.weights)

    def loss(self, network: Network, items: Sequence[TaggedText]) -> Loss:
        numbers = network.model.config.label2id
        return head_loss(
            tag_logits(network.model, [item.row for item in items]),
            [numbers[tag] for item in items for tag in item.tags],
            [weight for item in items for weight in item.weights],
            measured=not network.model.training,
        )
