"""Word problems are read back from their sentences and worked out again."""

import re
from fractions import Fraction

import pytest

from burnish.evaluation.levels.word_problems import WORD_PROBLEMS
from burnish.evaluation.reply_checks import passes
from burnish.evaluation.tasks import CheckedItem
from tests.evaluation.levels.drawing import drawn

# A sentence about the person's own things, and what it does to their number.
_STORY = (
    (r" has (\d+) \w+\.$", lambda amount, number: number),
    (r" gets (\d+) more from", lambda amount, number: amount + number),
    (r" gives (\d+) of them to", lambda amount, number: amount - number),
    (r" has (\d+) times as many", lambda amount, number: amount * number),
    (r" among (\d+) boxes and keeps only one", lambda amount, number: amount / number),
)
_RELATION = {
    "times as many as": lambda other, number: other * number,
    "more than": lambda other, number: other + number,
    "fewer than": lambda other, number: other - number,
}
_INVERSE = {
    "times as many as": lambda amount, number: amount / number,
    "more than": lambda amount, number: amount - number,
    "fewer than": lambda amount, number: amount + number,
}


def told(text: str) -> Fraction:
    """The number at the end of a story that is told in order."""
    amount = Fraction(0)
    for sentence in re.split(r"(?<=\.) ", text.split("How many")[0].strip()):
        matches = [(re.search(pattern, sentence), change) for pattern, change in _STORY]
        ((match, change),) = [one for one in matches if one[0]]
        amount = change(amount, Fraction(int(match[1])))
    return amount


def worked_out(text: str) -> Fraction:
    """The sum that a puzzle asks for, from all facts until nothing more follows."""
    facts = re.findall(r"(\w+) has (\d+) (times as many as|more than|fewer than) (\w+)\.", text)
    person, amount = re.search(r"(\w+) has (\d+) \w+\.", text).groups()  # type: ignore[union-attr]
    known = {person: Fraction(int(amount))}
    for _ in facts:
        for one, number, relation, other in facts:
            if other in known:
                value = _RELATION[relation](known[other], int(number))
                assert known.setdefault(one, value) == value
            elif one in known:
                known[other] = _INVERSE[relation](known[one], int(number))
    first, second = re.search(r"do (\w+) and (\w+) have together", text).groups()  # type: ignore[union-attr]
    return known[first] + known[second]


@pytest.mark.parametrize("level", range(1, 10))
def test_the_answer_follows_from_the_sentences(level: int) -> None:
    for item in drawn(WORD_PROBLEMS, level):
        assert isinstance(item, CheckedItem)
        text = item.prompt[-1].content
        answer = (told if level <= 6 else worked_out)(text)
        assert answer == item.check["number"] >= 1
        assert passes(f"So it is {answer}.\nAnswer: {answer}", item.check)
        assert not passes(f"Answer: {answer + 1}", item.check)


@pytest.mark.parametrize(
    ("level", "steps"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 3), (6, 4), (7, 6), (8, 8)]
)
def test_a_level_has_its_number_of_steps(level: int, steps: int) -> None:
    for item in drawn(WORD_PROBLEMS, level):
        assert isinstance(item, CheckedItem)
        sentences = item.prompt[-1].content.split("How many")[0].count(". ")
        useless = 3 if level == 8 else 0
        assert sentences - useless == (steps + 1 if level <= 6 else steps)
