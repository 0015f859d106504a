"""A task = items + prompt + how an answer is graded: written, chosen, or how likely a text is.

Each shape turns some of its items into results through one of the model's verbs. `hash` changes
when any answer could.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from burnish.conversation import Conversation, Example, Message
from burnish.evaluation.reply_checks import RULES, passes
from burnish.evaluation.scorers import scorer
from burnish.models.interface import Choice, Model, Sampling
from burnish.runs.directory import ItemResult


class Task(Protocol):
    """What the runner needs to know."""

    @property
    def name(self) -> str: ...

    @property
    def hash(self) -> str: ...

    def __len__(self) -> int: ...

    def answer(self, model: Any, start: int, stop: int) -> list[ItemResult]:
        """Results of the items from `start` to `stop`, in order."""
        ...


@dataclass(frozen=True, slots=True)
class GenerateTask:
    """The model writes an answer; `scorer` grades it against what is expected."""

    name: str
    examples: Sequence[Example]
    scorer: str
    sampling: Sampling

    @property
    def hash(self) -> str:
        rows = [example.to_row() | {"source": None} for example in self.examples]
        return _hash("generate", rows, self.scorer, asdict(self.sampling))

    def __len__(self) -> int:
        return len(self.examples)

    def answer(self, model: Model, start: int, stop: int) -> list[ItemResult]:
        examples = self.examples[start:stop]
        answers = model.generate([example.prompt for example in examples], self.sampling)
        metric = scorer(self.scorer)
        grade = metric.item
        assert grade is not None, "recipes name item scorers first"
        return [
            ItemResult(
                example.id,
                example.question,
                example.expected,
                found.text,
                grade(found.text, example.expected) / metric.best,
                found.logprob,
            )
            for example, found in zip(examples, answers, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class PredictTask:
    """A model with a head labels each question; one item may be many tags, parted by spaces."""

    name: str
    examples: Sequence[Example]
    scorer: str

    @property
    def hash(self) -> str:
        rows = [(example.id, example.question, example.expected) for example in self.examples]
        return _hash("predict", rows, self.scorer)

    def __len__(self) -> int:
        return len(self.examples)

    def answer(self, model: Any, start: int, stop: int) -> list[ItemResult]:
        examples = self.examples[start:stop]
        found = model.predict([example.question for example in examples])
        return [
            ItemResult(
                example.id,
                example.question,
                example.expected,
                prediction.text,
                scorer(self.scorer).grade(prediction.text, example.expected),
                prediction.logprob,
            )
            for example, prediction in zip(examples, found, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class RewardTask:
    """The model writes an answer and gets its reward; `rewarder` changes when rewards could."""

    name: str
    examples: Sequence[Example]
    reward: Callable[[Sequence[str], Sequence[Example]], Sequence[float]]
    rewarder: str
    sampling: Sampling

    @property
    def hash(self) -> str:
        rows = [example.to_row() | {"source": None} for example in self.examples]
        return _hash("reward", rows, self.rewarder, asdict(self.sampling))

    def __len__(self) -> int:
        return len(self.examples)

    def answer(self, model: Model, start: int, stop: int) -> list[ItemResult]:
        examples = self.examples[start:stop]
        answers = model.generate([example.prompt for example in examples], self.sampling)
        rewards = self.reward([found.text for found in answers], examples)
        return [
            ItemResult(e.id, e.question, e.expected, found.text, float(value), found.logprob)
            for e, found, value in zip(examples, answers, rewards, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class CompareTask:
    """Whether a reward model puts the chosen answer above the rejected one; a tie is wrong."""

    name: str
    examples: Sequence[Example]

    @property
    def hash(self) -> str:
        return _hash("compare", [example.to_row() | {"source": None} for example in self.examples])

    def __len__(self) -> int:
        return len(self.examples)

    def answer(self, model: Any, start: int, stop: int) -> list[ItemResult]:
        examples = self.examples[start:stop]
        chosen = model.rewards(examples, [example.expected for example in examples])
        rejected = model.rewards(examples, [str(example.rejected) for example in examples])
        return [
            ItemResult(
                example.id,
                example.question,
                example.expected,
                example.expected if better > worse else str(example.rejected),
                float(better > worse),
            )
            for example, better, worse in zip(examples, chosen, rejected, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class ChoiceItem:
    """A question whose answer is the likeliest of its choices; `answer` is a 0-based index."""

    id: str
    context: Conversation | str
    choices: tuple[str, ...]
    answer: int

    @property
    def question(self) -> str:
        return self.context if isinstance(self.context, str) else self.context[-1].content


@dataclass(frozen=True, slots=True)
class ChooseTask:
    """The model's likeliest choice; `by_length` divides log-probabilities by characters."""

    name: str
    items: Sequence[ChoiceItem]
    by_length: bool = False

    @property
    def hash(self) -> str:
        return _hash("choose", [asdict(item) for item in self.items], self.by_length)

    def __len__(self) -> int:
        return len(self.items)

    def answer(self, model: Model, start: int, stop: int) -> list[ItemResult]:
        items = self.items[start:stop]
        scored = model.score([Choice(item.context, item.choices) for item in items])
        results = []
        for item, scores in zip(items, scored, strict=True):
            lengths = scores.characters if self.by_length else (1,) * len(scores.logprobs)
            values = [value / size for value, size in zip(scores.logprobs, lengths, strict=True)]
            best = values.index(max(values))
            results.append(
                ItemResult(
                    item.id,
                    item.question,
                    item.choices[item.answer].strip(),
                    item.choices[best].strip(),
                    float(best == item.answer),
                    scores.logprobs[item.answer],
                )
            )
        return results


@dataclass(frozen=True, slots=True)
class BiasTask:
    """Pairs of sentences, one of them a stereotype; `answer` names the other one.

    The score is 1 where that one is at least as likely, as in CrowS-Pairs (Nangia et al. 2020,
    arXiv 2010.00133) with whole sentences; a model without a preference has one half.
    """

    name: str
    items: Sequence[ChoiceItem]

    @property
    def hash(self) -> str:
        return _hash("bias", [asdict(item) for item in self.items])

    def __len__(self) -> int:
        return len(self.items)

    def answer(self, model: Model, start: int, stop: int) -> list[ItemResult]:
        items = self.items[start:stop]
        scored = model.score([Choice(item.context, item.choices) for item in items])
        results = []
        for item, scores in zip(items, scored, strict=True):
            fair, stereotype = item.answer, 1 - item.answer
            kept = scores.logprobs[fair] >= scores.logprobs[stereotype]
            results.append(
                ItemResult(
                    item.id,
                    item.question,
                    item.choices[fair],
                    item.choices[fair if kept else stereotype],
                    float(kept),
                    scores.logprobs[fair],
                )
            )
        return results


@dataclass(frozen=True, slots=True)
class CheckedItem:
    """A prompt, and what a program looks for in the reply; see `evaluation.checks`."""

    id: str
    prompt: Conversation
    check: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CheckedTask:
    """The model writes the beginning of a reply, and a program checks it."""

    name: str
    items: Sequence[CheckedItem]
    sampling: Sampling

    @property
    def hash(self) -> str:
        rows = [asdict(item) for item in self.items]
        return _hash("checked", RULES, rows, asdict(self.sampling))

    def __len__(self) -> int:
        return len(self.items)

    def answer(self, model: Model, start: int, stop: int) -> list[ItemResult]:
        items = self.items[start:stop]
        replies = model.generate([item.prompt for item in items], self.sampling)
        return [
            ItemResult(
                item.id,
                item.prompt[-1].content,
                json.dumps(item.check, ensure_ascii=False),
                reply.text,
                float(passes(reply.text, item.check)),
                reply.logprob,
            )
            for item, reply in zip(items, replies, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Opening:
    """A prompt without one right answer, and a reply that it may get."""

    id: str
    prompt: Conversation
    reply: str


@dataclass(frozen=True, slots=True)
class DivergenceTask:
    """How far the model is from its base: the score is KL(base || model) in nats a reply token."""

    name: str
    items: Sequence[Opening]

    @property
    def hash(self) -> str:
        return _hash("divergence", [asdict(item) for item in self.items])

    def __len__(self) -> int:
        return len(self.items)

    def answer(self, model: Any, start: int, stop: int) -> list[ItemResult]:
        items = self.items[start:stop]
        found = model.divergence([(item.prompt, item.reply) for item in items])
        return [
            ItemResult(item.id, item.prompt[-1].content, "", item.reply, nats)
            for item, nats in zip(items, found, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class TextLossTask:
    """How surprising fluent text is: the score is nats a token."""

    name: str
    texts: Sequence[tuple[str, str]]

    @property
    def hash(self) -> str:
        return _hash("text loss", list(self.texts))

    def __len__(self) -> int:
        return len(self.texts)

    def answer(self, model: Model, start: int, stop: int) -> list[ItemResult]:
        rows = self.texts[start:stop]
        losses = model.nll([text for _, text in rows])
        return [
            ItemResult(name, text, "", "", loss.nats / loss.tokens, -loss.nats)
            for (name, text), loss in zip(rows, losses, strict=True)
        ]


def label_task(name: str, examples: Sequence[Example], labels: Sequence[str]) -> ChooseTask:
    """Classification by likelihood: every label is a choice, the prompt is their trunk."""
    places = {label: place for place, label in enumerate(labels)}
    items = [ChoiceItem(e.id, e.prompt, tuple(labels), places[e.expected]) for e in examples]
    return ChooseTask(name, items)


def preference_task(name: str, examples: Sequence[Example]) -> ChooseTask:
    """Whether the chosen answer is likelier a character than the rejected one."""
    items = [ChoiceItem(e.id, e.prompt, (e.expected, e.rejected or ""), 0) for e in examples]
    return ChooseTask(name, items, by_length=True)


def chat_context(question: str) -> Conversation:
    """A user's single turn."""
    return (Message("user", question),)


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()[:16]
