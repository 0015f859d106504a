"""No cue gives the right choice away, and items are the same in another process."""

import hashlib
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from statistics import fmean

import pytest

from burnish.evaluation.levels.draw import content_hash
from burnish.evaluation.levels.registry import SECTIONS
from burnish.evaluation.levels.section import LevelSection
from burnish.evaluation.tasks import ChoiceItem
from tests.evaluation.levels.drawing import chosen

COUNT = 400
# Long texts differ in length only.
SHORT = [
    (section, number)
    for section in SECTIONS
    for number, level in enumerate(section.levels, 1)
    if section.kind == "scored" and level.tokens <= 600
]


def value(text: str) -> float | None:
    """The number at the start of a choice, if there is one."""
    first = text.split()[0]
    return float(first) if first.replace(".", "", 1).isdigit() else None


@pytest.mark.parametrize(("section", "level"), SHORT, ids=lambda one: getattr(one, "name", one))
def test_guessing_by_form_scores_about_chance(section: LevelSection, level: int) -> None:
    items = chosen(section, level, COUNT)
    often = Counter(choice for item in items for choice in item.choices)
    guesses: dict[str, Callable[[str], float]] = {
        "the longest": len,
        "the shortest": lambda choice: -len(choice),
        "the most frequent": lambda choice: often[choice],
        "the rarest": lambda choice: -often[choice],
    }
    if all(value(choice) is not None for item in items for choice in item.choices):
        guesses["the largest"] = lambda choice: value(choice) or 0.0
        guesses["the smallest"] = lambda choice: -(value(choice) or 0.0)
    chance = fmean(1 / len(item.choices) for item in items)
    for name, score in guesses.items():
        rate = fmean(hit(item, score) for item in items)
        assert abs(rate - chance) < 0.1, (name, rate)
    for place in range(4):
        assert abs(fmean(item.answer == place for item in items) - 0.25) < 0.09, place


def hit(item: ChoiceItem, score: Callable[[str], float]) -> float:
    """The chance that the choice with the highest score is right; ties are broken at random."""
    best = max(map(score, item.choices))
    tied = [choice for choice in item.choices if score(choice) == best]
    return (item.choices[item.answer] in tied) / len(tied)


def fingerprint() -> str:
    """A hash of an item of every level."""
    digest = hashlib.sha256()
    for section in SECTIONS:
        for number in range(1, len(section.levels) + 1):
            digest.update(content_hash(section.item(number, 11)).encode())
    return digest.hexdigest()


def test_items_are_the_same_in_another_process() -> None:
    code = "import tests.evaluation.levels.test_choices as t; print(t.fingerprint())"
    other = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path), "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == fingerprint()
