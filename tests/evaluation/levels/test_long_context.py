"""Needles and chains are found again in the text."""

import re

import pytest

from burnish.evaluation.levels.long_context import NEEDLES, VARIABLE_TRACKING
from tests.evaluation.levels.drawing import chosen, right


@pytest.mark.parametrize("level", range(1, 8))
def test_one_code_answers_the_question(level: int) -> None:
    for item in chosen(NEEDLES, level, 50 if level <= 3 else 5):
        codes = dict(re.findall(r"The code of the (\w+ \w+) is (\d{4})\.", item.question))
        assert sorted(codes.values()) == sorted(choice.strip() for choice in item.choices)
        asked = re.findall(
            r"The code of the ([a-z ]+|thing that belongs to \w+) is$", item.question
        )[0]
        if asked.startswith("thing"):
            who = asked.split()[-1]
            (asked,) = re.findall(rf"The (\w+ \w+) belongs to {who}\.", item.question)
            assert len(re.findall(rf"\b{who}\b", item.question)) == 2
        assert right(item) == codes[asked]


@pytest.mark.parametrize(("level", "steps"), [(1, 1), (2, 3), (3, 3), (4, 4), (5, 6)])
def test_a_chain_ends_in_its_value(level: int, steps: int) -> None:
    for item in chosen(VARIABLE_TRACKING, level, 50 if level <= 3 else 5):
        values: dict[str, str] = {}
        length: dict[str, int] = {}
        for name, value, other in re.findall(
            r"(V\d+) has the value (?:(\d{5})|of (V\d+))\.", item.question
        ):
            values[name] = value or values[other]  # each name is told after the one it needs
            length[name] = 1 if value else length[other] + 1
        asked = re.findall(r"So (V\d+) has the value$", item.question)[0]
        assert right(item) == values[asked]
        assert length[asked] == steps
        assert sorted(set(values.values())) == sorted(choice.strip() for choice in item.choices)


def test_needles_are_at_all_depths() -> None:
    depths = []
    for item in chosen(NEEDLES, 2, 100):
        asked = re.findall(
            r"The code of the ([a-z ]+|thing that belongs to \w+) is$", item.question
        )[0]
        depths.append(item.question.index(f"The code of the {asked}") / len(item.question))
    assert sum(depth < 0.5 for depth in depths) in range(30, 71)
    assert min(depths) < 0.1
    assert max(depths) > 0.85
