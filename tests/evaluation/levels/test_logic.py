"""Puzzles are read back from their sentences and solved by trying all cases."""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations, product

import pytest

from burnish.evaluation.levels.logic import KNIGHTS_AND_KNAVES, ORDERING, SET_MEMBERSHIP
from tests.evaluation.levels.drawing import chosen, right

_PLACES = ("", "second ", "third ", "fourth ")


def follows(order: Sequence[str], clue: str) -> bool:
    """Whether an order from the top agrees with a clue."""
    place = {name: index for index, name in enumerate(order)}
    last = len(order) - 1
    if match := re.fullmatch(r"(\w+) is (?:older|taller) than (\w+)", clue):
        return place[match[1]] < place[match[2]]
    if match := re.fullmatch(r"(\w+) is neither (?:older|taller) than (\w+) nor the \w+", clue):
        return place[match[2]] < place[match[1]] != last
    if match := re.fullmatch(
        r".*exactly (\w+) (?:person is|people are) between (\w+) and (\w+)", clue
    ):
        gap = 1 if match[1] == "one" else int(match[1])
        return abs(place[match[2]] - place[match[3]]) == gap + 1
    match = re.fullmatch(r"Neither (\w+) nor (\w+) is the \w+, and (\w+) is not the \w+", clue)
    assert match, clue
    return last not in (place[match[1]], place[match[2]]) and place[match[3]] != 0


@pytest.mark.parametrize("level", range(1, 6))
def test_one_order_follows_from_the_clues(level: int) -> None:
    for item in chosen(ORDERING, level, 50 if level < 5 else 15):
        *clues, question = item.question.split(". ")
        people = sorted({name for clue in clues for name in re.findall(r"[A-Z][a-z]+", clue)})
        people = [name for name in people if name not in ("In", "Neither")]
        clues = [clue for clue in clues if "are of different" not in clue]
        assert len(people) == (4, 5, 5, 6, 7)[level - 1]
        orders = [o for o in permutations(people) if all(follows(o, clue) for clue in clues)]
        assert len(orders) == 1
        words = re.search(r"the (?:(\w+) )?(oldest|tallest|youngest|shortest) is$", question)
        assert words
        place = _PLACES.index(f"{words[1]} " if words[1] else "")
        order = orders[0] if words[2] in ("oldest", "tallest") else orders[0][::-1]
        assert right(item) == order[place]


def truth(says: str, speaker: str, people: Sequence[str]) -> Callable[[Mapping[str, bool]], bool]:
    """Whether a statement is true of a world, in which knights are True."""
    if match := re.fullmatch(r"(\w+) is a (knight|knave)\.", says):
        return lambda world: world[match[1]] == (match[2] == "knight")
    if match := re.fullmatch(r"(\w+) and I are of (the same kind|different kinds)\.", says):
        return lambda world: (world[match[1]] == world[speaker]) == (match[2] == "the same kind")
    if match := re.fullmatch(r"If (\w+) is a knight, then (\w+) is a knave\.", says):
        return lambda world: not (world[match[1]] and world[match[2]])
    if match := re.fullmatch(r"(\w+) is a knave, or (\w+) is a knight, or both\.", says):
        return lambda world: not world[match[1]] or world[match[2]]
    match = re.fullmatch(r"Exactly (\d) of us (?:is a knight|are knights)\.", says)
    assert match, says
    return lambda world: sum(world[person] for person in people) == int(match[1])


@pytest.mark.parametrize("level", range(2, 7))
def test_one_world_of_knights_and_knaves_is_possible(level: int) -> None:
    for item in chosen(KNIGHTS_AND_KNAVES, level):
        said = re.findall(r'(\w+) says: "([^"]+)"', item.question)
        people = [person for person, _ in said]
        tests = [(person, truth(says, person, people)) for person, says in said]
        worlds = [
            dict(zip(people, kinds, strict=True))
            for kinds in product([True, False], repeat=len(people))
        ]
        possible = [w for w in worlds if all(test(w) == w[person] for person, test in tests)]
        assert len(possible) == 1
        kinds = ("knave", "knight")
        told = [f"{p} is a {kinds[knight]}" for p, knight in possible[0].items()]
        assert right(item) == f"{', '.join(told[:-1])} and {told[-1]}."


def test_a_known_speaker_tells_the_truth_or_lies() -> None:
    for item in chosen(KNIGHTS_AND_KNAVES, 1):
        speaker, known = re.findall(r"(\w+) is a (knight|knave)\. \1 says", item.question)[0]
        other, said = re.findall(r'"(\w+) is a (knight|knave)\."', item.question)[0]
        lie = {"knight": "knave", "knave": "knight"}[said]
        kind = said if known == "knight" else lie
        assert right(item) == f"{speaker} is a {known} and {other} is a {kind}."


@pytest.mark.parametrize("level", range(1, 6))
def test_one_choice_is_in_the_right_lists(level: int) -> None:
    for item in chosen(SET_MEMBERSHIP, level):
        boxes = {
            colour: set(names.split(", "))
            for colour, names in re.findall(r"The (\w+) list: ([^.]+)\.", item.question)
        }
        condition = item.question.rpartition(" that is on ")[2]
        colours = [one for one in re.findall(r"\w+", condition) if one in boxes]

        def fits(name: str) -> bool:
            number = sum(name in box for box in boxes.values())  # noqa: B023
            inside = [name in boxes[colour] for colour in colours]  # noqa: B023
            if level <= 2:
                return all(inside)
            if level == 3:
                return inside == [True, False]
            return number == 2 if level == 4 else number % 2 == 1 and inside[0] != inside[1]

        assert [name for name in item.choices if fits(name.strip())] == [f" {right(item)}"]
