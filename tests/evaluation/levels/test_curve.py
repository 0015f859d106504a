"""Level curves: shares with intervals, letters for servers, and a row of Markdown."""

from collections.abc import Sequence
from random import Random

import pytest
from statsmodels.stats.proportion import proportion_confint

from burnish.evaluation.levels.curve import Curve, Limits, level_curves, markdown, suite_curves
from burnish.evaluation.levels.section import Item, Level, LevelSection, choice_item
from burnish.evaluation.suite import Section
from burnish.evaluation.tasks import CheckedTask, ChoiceItem, ChooseTask
from burnish.runs.directory import ItemResult
from tests.mock_model import MockModel


def _make(level: int, rng: Random) -> Item:
    return choice_item(f"Which, {rng.random()}?", "right", ["wrong", "other", "none"], rng)


PICK = LevelSection(
    "pick", "scored", tuple(Level(f"level {n}", 100 * n) for n in range(1, 5)), _make
)


def answers(shares: Sequence[float]) -> "tuple[list[Section], object]":
    tasks: list[Section] = []

    def answer(task: Section) -> list[ItemResult]:
        share = shares[len(tasks)]
        tasks.append(task)
        right = round(share * len(task))
        return [
            ItemResult(item.id, "", "", "", float(n < right)) for n, item in enumerate(task.items)
        ]

    return tasks, answer


def test_a_curve_has_a_point_with_its_interval_for_each_level_that_fits() -> None:
    _, answer = answers((1.0, 0.8, 0.25))
    (curve,) = level_curves([PICK], answer, Limits(20, 300))  # type: ignore[arg-type]
    assert [(point.level, point.right, point.n) for point in curve.points] == [
        (1, 20, 20),
        (2, 16, 20),
        (3, 5, 20),
    ]
    assert curve.too_long == (4,)
    assert {point.chance for point in curve.points} == {0.25}
    for point in curve.points:
        low, high = proportion_confint(point.right, point.n, method="wilson")
        assert (point.low, point.high) == pytest.approx((low, high))
    assert curve.falls


@pytest.mark.parametrize(("shares", "falls"), [((0.5, 0.55), True), ((0.2, 0.9), False)])
def test_a_curve_that_rises_clearly_does_not_fall(shares: tuple[float, ...], falls: bool) -> None:
    _, answer = answers(shares)
    (curve,) = level_curves([PICK], answer, Limits(40, 200))  # type: ignore[arg-type]
    assert curve.falls is falls


def test_a_server_is_asked_for_the_letter_of_the_same_items() -> None:
    (task,) = (ChooseTask("s", [_item(seed) for seed in range(4)]),)
    asked: list[CheckedTask] = []

    def answer(lettered: Section) -> list[ItemResult]:
        assert isinstance(lettered, CheckedTask)
        asked.append(lettered)
        letters = ["ABCD"[item.answer] for item in task.items]
        replies = [letters[0], f"({letters[1]})", f"The answer is {letters[2]}.", "A B C D"]
        questions = [item.prompt[-1].content for item in lettered.items]
        model = MockModel(dict(zip(questions, replies, strict=True)))
        return lettered.answer(model, 0, len(lettered))

    (curve,) = suite_curves([task], answer, letters=True)
    right = 3 + (task.items[3].answer == 0)  # the last reply starts with A
    assert (curve.points[0].right, curve.points[0].n) == (right, 4)
    assert curve.points[0].chance == 0.25
    question = asked[0].items[0].prompt[-1].content
    assert all(
        f"{letter}) {choice}" in question
        for letter, choice in zip("ABCD", task.items[0].choices, strict=True)
    )


def test_the_row_for_the_docs_has_the_percent_of_each_level() -> None:
    _, answer = answers((1.0, 0.8, 0.5, 0.25))
    (curve,) = level_curves([PICK], answer, Limits(20, 400))  # type: ignore[arg-type]
    empty = Curve("long_context", "scored", (), (1, 2))
    assert markdown("tiny", [curve, empty]).splitlines() == [
        "| model | section | kind | 1 | 2 | 3 | 4 |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
        "| tiny | pick | scored | 100 | 80 | 50 | 25 |",
        "| tiny | long context | scored | – | – | – | – |",
    ]


def _item(seed: int) -> ChoiceItem:
    item = PICK.item(1, seed)
    assert isinstance(item, ChoiceItem)
    return item
