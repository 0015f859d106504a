"""Estimates the time of a run from a few measured steps and items.

The time of a forward pass is about proportional to its computed tokens: the trunk once, every
branch padded to the longest, and the vocabulary projection for each trained token. The measured
seconds per token, times the tokens of all steps, give the time of the training.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from burnish.evaluation.tasks import ChooseTask, GenerateTask, Task, TextLossTask
from burnish.models.from_run import Opened
from burnish.plan.memory import Batch, Shapes
from burnish.training.batches import Batches, Chosen
from burnish.training.loop import Loop

# Quantiles of the steps by work that are measured; the first one only warms up.
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_STEPS_COUNTED = 512
_VALIDATED = 16
_ITEMS = 24
_SECTION_ITEMS = 8  # per part of the suite: the errors of many parts average out
_ANSWERS = 32  # generated together; a task generates up to 128, which is a fifth faster

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Steps:
    """The work of a run's steps in computed tokens; `works` is a sample if there are many."""

    count: int
    works: tuple[float, ...]
    numbers: tuple[int, ...]
    heaviest: Batch

    @property
    def total(self) -> float:
        """The work of all steps."""
        return sum(self.works) * self.count / len(self.works)


def work_of(batch: Batch, shapes: Shapes) -> float:
    """Returns the computed tokens, with a surcharge per trained token for the vocabulary."""
    head = shapes.vocabulary * shapes.hidden
    return batch.computed + batch.learnt * head / max(1, shapes.parameters - head)


def count_steps(batches: Batches, shapes: Shapes, workers: int = 1) -> Steps:
    """Counts the work of every step, or of evenly spaced steps if there are many.

    The work is that of all processes together; the heaviest forward pass is that of one of
    `workers` processes, with its share of the items.
    """
    stride = max(1, batches.steps // _STEPS_COUNTED)
    numbers = range(0, batches.steps, stride)
    works, heaviest, most = [], Batch(1, 0, 0, 0), -1.0
    for number in numbers:
        passes = batches.step(number)
        works.append(sum(work_of(Batch.of(items), shapes) for items in passes))
        for batch in (Batch.of(items[::workers]) for items in passes):
            if (size := work_of(batch, shapes)) > most:
                heaviest, most = batch, size
    return Steps(batches.steps, tuple(works), tuple(numbers), heaviest)


def training_seconds(loop: Loop, steps: Steps, folder: Path, clock: Clock) -> float:
    """Measures a few real steps, including the heaviest; this changes the weights."""
    order = sorted(range(len(steps.works)), key=lambda index: steps.works[index])
    picked = [order[round(quantile * (len(order) - 1))] for quantile in _QUANTILES]
    marks = [clock()]

    def listen(phase: str, _: dict[str, Any]) -> None:
        if phase == "train":
            marks.append(clock())

    batches = Chosen(loop.batches, [steps.numbers[index] for index in picked])
    settings = replace(loop.settings, evaluations=0, checkpoints=1)
    Loop(loop.model, batches, loop.objective, settings, {}, folder, listen).run()
    seconds = marks[-1] - marks[1]
    return seconds / sum(steps.works[index] for index in picked[1:]) * steps.total


def validation_seconds(loop: Loop, shapes: Shapes, clock: Clock) -> float:
    """Estimates the time of one validation pass over all sets."""
    total = 0.0
    loop.model.eval()
    for items in loop.validation.values():
        ordered = sorted(items, key=lambda item: item.size)
        middle = max(0, (len(ordered) - _VALIDATED) // 2)
        part = ordered[middle : middle + _VALIDATED]
        started = clock()
        loop.objective.validate(loop.network, part)
        batches = [ordered[i : i + _VALIDATED] for i in range(0, len(ordered), _VALIDATED)]
        work = sum(work_of(Batch.of(batch), shapes) for batch in batches)
        total += (clock() - started) / work_of(Batch.of(part), shapes) * work
    return total


@dataclass(frozen=True, slots=True)
class TaskSeconds:
    """Seconds of one task on the tuned model and on the base model."""

    name: str
    tuned: float
    base: float


def task_seconds(model: Opened, task: Task, *, base_cached: bool, clock: Clock) -> TaskSeconds:
    """Estimates the time of a task from some of its items, on the tuned and the base model."""
    if isinstance(task, GenerateTask):
        tuned, base = _writing(model, task, clock)
    else:
        tuned, base = _reading(model, task, clock)
    if base_cached:
        return TaskSeconds(task.name, tuned, 0.0)
    return TaskSeconds(task.name, tuned, base)


def _reading(model: Opened, task: Any, clock: Clock) -> tuple[float, float]:
    """Measures evenly spaced items; the time is proportional to their characters."""
    sizes = _characters(task)
    count = _ITEMS if task.name.startswith("target") else _SECTION_ITEMS
    stride = max(1, len(task) // count)
    indices = list(range(0, len(task), stride))[:count]
    field = next(name for name in ("texts", "items", "examples") if hasattr(task, name))
    part = replace(task, **{field: [getattr(task, field)[index] for index in indices]})
    times = sum(sizes) / sum(sizes[index] for index in indices)
    tuned = _timed(lambda: part.answer(model, 0, len(part)), clock)
    with model.base() as other:
        base = _timed(lambda: part.answer(other, 0, len(part)), clock)
    return tuned * times, base * times


def _characters(task: Task) -> list[int]:
    if isinstance(task, ChooseTask):
        return [len(i.question) + sum(len(choice) for choice in i.choices) for i in task.items]
    if isinstance(task, TextLossTask):
        return [len(text) for _, text in task.items]
    return [1] * len(task)


def _writing(model: Any, task: GenerateTask, clock: Clock) -> tuple[float, float]:
    """Measures one batch of answers, and assumes the expected lengths for the tuned model."""
    stride = max(1, len(task) // _ANSWERS)
    examples = task.items[::stride][:_ANSWERS]
    prompts = [example.prompt for example in examples]
    one = replace(task.sampling, max_new_tokens=1)
    times = len(task) / len(examples)
    first = _timed(lambda: model.generate(prompts, one), clock)
    started = clock()
    longest = max(len(answer.tokens) for answer in model.generate(prompts, task.sampling))
    per_token = max(0.0, clock() - started - first) / max(1, longest - 1)
    expected = max(len(model.tokenizer(example.expected)["input_ids"]) for example in examples)
    tokens = min(expected + 1, task.sampling.max_new_tokens)
    with model.base():
        base = _timed(lambda: model.generate(prompts, task.sampling), clock)
    return (first + per_token * (tokens - 1)) * times, base * times


def _timed(call: Callable[[], Any], clock: Clock) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = clock()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - started
