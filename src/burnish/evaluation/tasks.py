"""Tasks: items, their prompts, and how answers are graded (generated, chosen, or likelihood).

Each kind of task turns items into results with one method of the model. `hash` changes whenever an
answer could change.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, Protocol, TypeVar

from burnish.conversation import Conversation, Example, Message
from burnish.evaluation.reply_checks import RULES, passes
from burnish.evaluation.scorers import scorer
from burnish.models.interface import Choice, Model, Sampling
from burnish.runs.directory import ItemResult


class Task(Protocol):
    """The interface of a task for the runner."""

    @property
    def name(self) -> str: ...

    @property
    def hash(self) -> str: ...

    def __len__(self) -> int: ...

    def answer(self, model: Any, start: int, stop: int) -> list[ItemResult]:
        """Run the items from `start` to `stop` and return their results in order."""
        ...


ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True)
class _Items(Generic[ItemT]):
    """A task's name and its items, which are answered in parts."""

    name: str
    items: Sequence[ItemT]

    def __len__(self) -> int:
        return len(self.items)

    def answer(self, model: Any, start: int, stop: int) -> list[ItemResult]:
        return self.results(model, self.items[start:stop])

    def results(self, model: Any, items: Sequence[ItemT]) -> list[ItemResult]:
        """A result of each item, in order."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class GenerateTask(_Items[Example]):
    """The model generates an answer; `scorer` grades it against the expected one."""

    scorer: str
    sampling: Sampling

    @property
    def hash(self) -> str:
        return _hash("generate", _rows(self.items), self.scorer, asdict(self.sampling))

    def results(self, model: Model, items: Sequence[Example]) -> list[ItemResult]:
        answers = model.generate([example.prompt for example in items], self.sampling)
        metric = scorer(self.scorer)
        grade = metric.item
        assert grade is not None, "recipes name item scorers first"
        return [
            _graded(e, answer.text, grade(answer.text, e.expected) / metric.best, answer.logprob)
            for e, answer in zip(items, answers, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class PredictTask(_Items[Example]):
    """A model with a head labels each question; for tagging, tags are separated by spaces."""

    scorer: str

    @property
    def hash(self) -> str:
        rows = [(example.id, example.question, example.expected) for example in self.items]
        return _hash("predict", rows, self.scorer)

    def results(self, model: Any, items: Sequence[Example]) -> list[ItemResult]:
        grade = scorer(self.scorer).grade
        predictions = model.predict([example.question for example in items])
        return [
            _graded(e, answer.text, grade(answer.text, e.expected), answer.logprob)
            for e, answer in zip(items, predictions, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class RewardTask(_Items[Example]):
    """The model generates an answer and gets its reward; `rewarder` changes if rewards could."""

    reward: Callable[[Sequence[str], Sequence[Example]], Sequence[float]]
    rewarder: str
    sampling: Sampling

    @property
    def hash(self) -> str:
        return _hash("reward", _rows(self.items), self.rewarder, asdict(self.sampling))

    def results(self, model: Model, items: Sequence[Example]) -> list[ItemResult]:
        answers = model.generate([example.prompt for example in items], self.sampling)
        rewards = self.reward([answer.text for answer in answers], items)
        return [
            _graded(e, answer.text, float(reward), answer.logprob)
            for e, answer, reward in zip(items, answers, rewards, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class CompareTask(_Items[Example]):
    """Whether a reward model scores the chosen answer above the rejected one; a tie is wrong."""

    @property
    def hash(self) -> str:
        return _hash("compare", _rows(self.items))

    def results(self, model: Any, items: Sequence[Example]) -> list[ItemResult]:
        chosen = model.rewards(items, [example.expected for example in items])
        rejected = model.rewards(items, [str(example.rejected) for example in items])
        return [
            _graded(e, e.expected if better > worse else str(e.rejected), float(better > worse))
            for e, better, worse in zip(items, chosen, rejected, strict=True)
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

    def chosen(self, index: int, score: bool, logprobs: Sequence[float]) -> ItemResult:
        """The result of a choice; its log-probability is that of the right answer."""
        expected, answer = (self.choices[place].strip() for place in (self.answer, index))
        return ItemResult(
            self.id, self.question, expected, answer, float(score), logprobs[self.answer]
        )


@dataclass(frozen=True, slots=True)
class ChooseTask(_Items[ChoiceItem]):
    """The model's likeliest choice; `by_length` divides log-probabilities by characters."""

    by_length: bool = False

    @property
    def hash(self) -> str:
        return _hash("choose", [asdict(item) for item in self.items], self.by_length)

    def results(self, model: Model, items: Sequence[ChoiceItem]) -> list[ItemResult]:
        results = []
        scored = model.score([Choice(item.context, item.choices) for item in items])
        for item, scores in zip(items, scored, strict=True):
            lengths = scores.characters if self.by_length else (1,) * len(scores.logprobs)
            values = [value / size for value, size in zip(scores.logprobs, lengths, strict=True)]
            best = values.index(max(values))
            results.append(item.chosen(best, best == item.answer, scores.logprobs))
        return results


@dataclass(frozen=True, slots=True)
class BiasTask(_Items[ChoiceItem]):
    """Pairs of sentences, one of them a stereotype; `answer` names the other one.

    The score is 1 if the other one is at least as likely, as in CrowS-Pairs (Nangia et al. 2020,
    arXiv 2010.00133) with whole sentences; a model without a preference has one half.
    """

    @property
    def hash(self) -> str:
        return _hash("bias", [asdict(item) for item in self.items])

    def results(self, model: Model, items: Sequence[ChoiceItem]) -> list[ItemResult]:
        results = []
        scored = model.score([Choice(item.context, item.choices) for item in items])
        for item, scores in zip(items, scored, strict=True):
            fair, stereotype = item.answer, 1 - item.answer
            is_fair = scores.logprobs[fair] >= scores.logprobs[stereotype]
            results.append(item.chosen(fair if is_fair else stereotype, is_fair, scores.logprobs))
        return results


@dataclass(frozen=True, slots=True)
class CheckedItem:
    """A prompt, and what a program looks for in the reply; see `evaluation.reply_checks`."""

    id: str
    prompt: Conversation
    check: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CheckedTask(_Items[CheckedItem]):
    """The model generates the start of a reply, which is checked programmatically."""

    sampling: Sampling

    @property
    def hash(self) -> str:
        rows = [asdict(item) for item in self.items]
        return _hash("checked", RULES, rows, asdict(self.sampling))

    def results(self, model: Model, items: Sequence[CheckedItem]) -> list[ItemResult]:
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
    """An open prompt without one right answer, and a possible reply."""

    id: str
    prompt: Conversation
    reply: str


@dataclass(frozen=True, slots=True)
class DivergenceTask(_Items[Opening]):
    """Divergence from the base: the score is KL(base || model) in nats per reply token."""

    @property
    def hash(self) -> str:
        return _hash("divergence", [asdict(item) for item in self.items])

    def results(self, model: Any, items: Sequence[Opening]) -> list[ItemResult]:
        nats_N = model.divergence([(item.prompt, item.reply) for item in items])
        return [
            ItemResult(item.id, item.prompt[-1].content, "", item.reply, nats)
            for item, nats in zip(items, nats_N, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class TextLossTask(_Items[tuple[str, str]]):
    """How surprising fluent text is: the score is nats a token. Items are (id, text)."""

    @property
    def hash(self) -> str:
        return _hash("text loss", list(self.items))

    def results(self, model: Model, items: Sequence[tuple[str, str]]) -> list[ItemResult]:
        losses = model.nll([text for _, text in items])
        return [
            ItemResult(name, text, "", "", loss.nats / loss.tokens, -loss.nats)
            for (name, text), loss in zip(items, losses, strict=True)
        ]


def label_task(name: str, examples: Sequence[Example], labels: Sequence[str]) -> ChooseTask:
    """Classification by likelihood: every label is a choice, and they share the prompt."""
    places = {label: place for place, label in enumerate(labels)}
    items = [ChoiceItem(e.id, e.prompt, tuple(labels), places[e.expected]) for e in examples]
    return ChooseTask(name, items)


def preference_task(name: str, examples: Sequence[Example]) -> ChooseTask:
    """Whether the chosen answer is likelier per character than the rejected one."""
    items = [ChoiceItem(e.id, e.prompt, (e.expected, e.rejected or ""), 0) for e in examples]
    return ChooseTask(name, items, by_length=True)


def chat_context(question: str) -> Conversation:
    """A conversation with a single user turn."""
    return (Message("user", question),)


def _graded(
    example: Example, answer: str, score: float, logprob: float | None = None
) -> ItemResult:
    return ItemResult(example.id, example.question, example.expected, answer, score, logprob)


def _rows(examples: Sequence[Example]) -> list[dict[str, Any]]:
    """What an answer depends on; where a row came from is none of it."""
    return [example.to_row() | {"source": None} for example in examples]


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()[:16]
