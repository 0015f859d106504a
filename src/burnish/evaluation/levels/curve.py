"""Level curves: the share of right answers of any model at every level of the suite `levels`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase
from typing import Literal

from scipy.stats import binomtest

from burnish.conversation import Conversation, Message
from burnish.evaluation.levels.draw import draw_items, level_task
from burnish.evaluation.levels.section import LevelSection
from burnish.evaluation.suite import Section, chance
from burnish.evaluation.tasks import CheckedItem, CheckedTask, ChoiceItem
from burnish.models.interface import Sampling
from burnish.runs.directory import ItemResult

Kind = Literal["scored", "generated"]
Answers = Callable[[Section], Sequence[ItemResult]]

# Tokens of a reply that names the letter of a choice.
_LETTER_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Point:
    """The share of right answers at one level, with its 95% interval (Wilson 1927)."""

    level: int
    description: str
    n: int
    right: int
    share: float
    low: float
    high: float
    chance: float


@dataclass(frozen=True, slots=True)
class Curve:
    """The points of a section by level; `too_long` are the levels beyond the context."""

    section: str
    kind: Kind
    points: tuple[Point, ...]
    too_long: tuple[int, ...] = ()

    @property
    def falls(self) -> bool:
        """Whether no level is significantly easier than one below it, by their intervals."""
        return all(
            harder.low <= easier.high
            for index, easier in enumerate(self.points)
            for harder in self.points[index + 1 :]
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """What is measured of a section: `items` of each level with the seed `seed`, all of PROBE.

    Levels whose items have more tokens than `context` are left out.
    """

    items: int
    context: int
    seed: int = 0


def level_curves(
    sections: Iterable[LevelSection],
    answers: Answers,
    limits: Limits,
    *,
    letters: bool = False,
) -> Iterator[Curve]:
    """Measure the sections one after another; each curve is given as soon as it is known.

    `answers` returns the model's results on a task. With `letters`, the letter of a choice is asked
    for in words, for servers without log-probabilities.
    """
    for section in sections:
        points, too_long = [], []
        for number, level in enumerate(section.levels, 1):
            if level.tokens > limits.context:
                too_long.append(number)
                continue
            drawn = draw_items(section, number, "probe", limits.items, limits.seed)
            task = level_task(f"levels.{section.name}_{number}", drawn, level.answer_tokens)
            results = answers(_by_letter(task) if letters else task)
            points.append(_point(number, level.description, results, chance(task)))
        yield Curve(section.name, section.kind, tuple(points), tuple(too_long))


def suite_curves(
    sections: Iterable[Section], answers: Answers, *, letters: bool = False
) -> Iterator[Curve]:
    """The sections of a suite without levels, each as a curve of one point."""
    for section in sections:
        results = answers(_by_letter(section) if letters else section)
        name = section.name.rpartition(".")[2]
        kind: Kind = "generated" if isinstance(section, CheckedTask) else "scored"
        yield Curve(name, kind, (_point(1, name, results, chance(section)),))


def markdown(model: str, curves: Sequence[Curve]) -> str:
    """A Markdown table with a row for each section: the percent of right items at each level."""
    most = max((point.level for curve in curves for point in curve.points), default=1)
    lines = [["model", "section", "kind", *(str(level) for level in range(1, most + 1))]]
    lines.append(["---", "---", "---", *("---:" for _ in range(most))])
    for curve in curves:
        shares = {point.level: f"{100 * point.share:.0f}" for point in curve.points}
        cells = [shares.get(level, "–") for level in range(1, most + 1)]
        lines.append([model, curve.section.replace("_", " "), curve.kind, *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _point(number: int, description: str, results: Sequence[ItemResult], guess: float) -> Point:
    right, n = sum(result.score > 0.5 for result in results), len(results)
    interval = binomtest(right, n).proportion_ci(method="wilson")
    low, high = float(interval.low), float(interval.high)
    return Point(number, description, n, right, right / n, low, high, guess)


def _by_letter(task: Section) -> CheckedTask:
    """The task's choices as a question in words, which is answered with a letter."""
    if isinstance(task, CheckedTask):
        return task
    items = [_lettered(item) for item in task.items]
    return CheckedTask(task.name, items, Sampling(max_new_tokens=_LETTER_TOKENS))


def _lettered(item: ChoiceItem) -> CheckedItem:
    letters = ascii_uppercase[: len(item.choices)]
    options = "\n".join(
        f"{letter}) {choice.strip()}" for letter, choice in zip(letters, item.choices, strict=True)
    )
    ask = f"\n\n{options}\n\nReply with the letter of the right option alone."
    if isinstance(item.context, str):
        prompt: Conversation = (
            Message("user", f"How does this text continue?\n\n{item.context}{ask}"),
        )
    else:
        last = item.context[-1]
        prompt = (*item.context[:-1], replace(last, content=last.content + ask))
    right = letters[item.answer]
    pattern = rf"^\W*(?:(?:the )?(?:right |correct )?(?:answer|option)\W*(?:is\W*)?)?{right}\b(?!')"
    return CheckedItem(item.id, prompt, {"matches": f"(?i){pattern}"})
