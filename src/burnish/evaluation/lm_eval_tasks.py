"""Tasks whose items, filters and metrics are those of lm-eval-harness, asked by our own verbs."""

import hashlib
import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

from burnish.conversation import Conversation
from burnish.errors import DataError
from burnish.evaluation.tasks import CheckedItem, CheckedTask, ChoiceItem, ChooseTask
from burnish.models.interface import Choice, Model, Scores
from burnish.runs.directory import ItemResult


@dataclass(frozen=True, slots=True)
class Measure:
    """How the harness scores an item of a task.

    Attributes:
        task: the task object of the harness, whose documents have the items' ids as indices.
        metric: the name of a metric that is 0 or 1 for each item.
        filter: the name of the filter whose result it reads; filters are for replies.
        definition: a hash of the task's definition.
    """

    task: Any
    metric: str
    filter: str
    definition: str

    def of_reply(self, item: str, reply: str) -> float:
        """The score of a reply to the document with this id, 0 or 1."""
        value = reply_metrics(self.task, int(item), reply)[self.filter].get(self.metric)
        return self._checked(item, value)

    def of_choices(self, item: str, logprobs: Sequence[float]) -> float:
        """The score of the log-probabilities of the choices, 0 or 1."""
        doc = self.task.task_docs[int(item)]
        pairs = [(value, False) for value in logprobs]
        return self._checked(item, self.task.process_results(doc, pairs).get(self.metric))

    def _checked(self, item: str, value: Any) -> float:
        if is_binary(value):
            return float(value)
        raise DataError(
            f"item {item} of the lm-eval task {self.task.config.task} has the {self.metric} "
            f"{value!r}, which is not 0 or 1",
            "use a task whose metric is 0 or 1 for each item",
            code="unsuitable_task",
            task=self.task.config.task,
            reason="metrics",
        )


def reply_metrics(task: Any, index: int, reply: str) -> dict[str, dict[str, Any]]:
    """The metrics of a reply to a document, by the name of the filter."""
    from lm_eval.api.instance import Instance

    doc = task.task_docs[index]
    instance = Instance("generate_until", doc, ("", {}), 0, (task.config.task, index, 1), [reply])
    for ensemble in task._filters:
        ensemble.apply([instance])
    return {
        name: task.process_results(doc, [deepcopy(result)])
        for name, result in instance.filtered_resps.items()
    }


def is_binary(value: Any) -> bool:
    """Whether a metric's value for one item is a number, 0 or 1."""
    return isinstance(value, bool | int | float) and value in (0, 1)


@dataclass(frozen=True, slots=True)
class HarnessItem(ChoiceItem):
    """An item of lm-eval-harness: `context` starts with the shots, `asked` is the question alone.

    `characters` are the lengths of the choices without their leading delimiter. `contexts` are the
    contexts of the choices if each has its own, and `choices` then repeats one continuation.
    """

    asked: str
    characters: tuple[int, ...]
    contexts: tuple[Conversation | str, ...] = ()

    @property
    def question(self) -> str:
        return self.asked


@dataclass(frozen=True, slots=True)
class HarnessTask(ChooseTask):
    """A multiple-choice task: with `by_length` scored by `acc_norm`, else by `acc`.

    With a `measure` the harness computes the score from the log-probabilities of the choices.
    """

    measure: Measure | None = None

    @property
    def hash(self) -> str:
        base = ChooseTask.hash.fget(self)  # type: ignore[attr-defined]
        if self.measure is None:
            return str(base)
        parts = [base, self.measure.metric, self.measure.definition]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def results(self, model: Any, items: Sequence[Any]) -> list[ItemResult]:
        if self.measure is None:
            return ChooseTask.results(self, _Counted(model, items), items)  # type: ignore[arg-type]
        results = []
        for item, logprobs in zip(items, _logprobs(model, items), strict=True):
            score = self.measure.of_choices(item.id, logprobs)
            values = [
                value / (size if self.by_length else 1)
                for value, size in zip(logprobs, item.characters, strict=True)
            ]
            best = values.index(max(values))
            results.append(item.chosen(best, bool(score), logprobs))
        return results


def _logprobs(model: Model, items: Sequence[HarnessItem]) -> list[tuple[float, ...]]:
    """The log-probabilities of each item's choices; contexts of their own are asked together."""
    asked = [
        Choice(context, (choice,))
        for item in items
        if item.contexts
        for context, choice in zip(item.contexts, item.choices, strict=True)
    ]
    asked += [Choice(item.context, item.choices) for item in items if not item.contexts]
    scores = iter(model.score(asked))
    apart = {
        item.id: tuple(next(scores).logprobs[0] for _ in item.contexts)
        for item in items
        if item.contexts
    }
    return [apart[item.id] if item.contexts else next(scores).logprobs for item in items]


@dataclass(frozen=True, slots=True)
class _Counted:
    """A model whose scores count the characters of choices in the way of the harness."""

    model: Model
    items: Sequence[Any]

    def score(self, asked: Sequence[Choice]) -> list[Scores]:
        scored = self.model.score(asked)
        return [
            Scores(scores.logprobs, item.characters)
            for scores, item in zip(scored, self.items, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class HarnessReply(CheckedItem):
    """A prompt of the harness: a conversation, or a document that the model continues.

    `asked` is the question without the shots, and `expected` the target.
    """

    asked: str
    expected: str


@dataclass(frozen=True, slots=True)
class HarnessReplyTask(CheckedTask):
    """The model generates a reply, which the filters and a metric of the harness score."""

    measure: Measure

    @property
    def hash(self) -> str:
        rows = [asdict(item) for item in self.items]
        measured = [self.measure.metric, self.measure.filter, self.measure.definition]
        parts = ["lm_eval", rows, asdict(self.sampling), measured]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def results(self, model: Model, items: Sequence[Any]) -> list[ItemResult]:
        replies = model.generate([item.prompt for item in items], self.sampling)
        return [
            ItemResult(
                item.id,
                item.asked,
                item.expected,
                reply.text,
                self.measure.of_reply(item.id, reply.text),
                reply.logprob,
            )
            for item, reply in zip(items, replies, strict=True)
        ]
