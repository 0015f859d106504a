"""Logic: orderings, knights and knaves, and sets. A solver tries all cases; one answer is left."""

from collections.abc import Callable, Sequence
from itertools import pairwise, permutations, product
from random import Random

from burnish.evaluation.levels.section import Item, Level, LevelSection, completion_item
from burnish.evaluation.levels.words import COLOURS, PEOPLE, THINGS, listed

# People, and whether clues are only about neighbours in the order, negative, or about distances.
_ORDERS = ((4, "plain"), (5, "plain"), (5, "shuffled"), (6, "mixed"), (7, "mixed"))
_MOST = {"older": ("oldest", "youngest"), "taller": ("tallest", "shortest")}
_SORTED_BY = {"older": "age", "taller": "height"}
_NTH = ("", "second", "third", "fourth")

Order = tuple[str, ...]
Clue = tuple[str, Callable[[Order], bool]]


def make_ordering(level: int, rng: Random) -> Item:
    """Write a question about who stands where in an order that clues determine."""
    count, kind = _ORDERS[level - 1]
    people = rng.sample(PEOPLE, count)
    order: Order = tuple(people)
    word = rng.choice(sorted(_MOST))
    shuffled = rng.sample(people, count)
    clues = [(text, holds) for text, holds in _clues(order, word, kind, rng)]
    needed = _enough(clues, shuffled)
    if kind in ("shuffled", "mixed"):
        rng.shuffle(needed)
    place = rng.choice([0, count - 1]) if level == 1 else rng.randrange(1, count - 1)
    top, bottom = _MOST[word]
    below = count - 1 - place
    asked = f"{_NTH[place]} {top}" if place <= below else f"{_NTH[below]} {bottom}"
    text = " ".join(text for text, _ in needed)
    if kind == "mixed":  # some people may be in no clue
        different = {"older": "ages", "taller": "heights"}[word]
        text = f"{listed(sorted(people))} are of different {different}. {text}"
    wrong = [person for person in shuffled if person != order[place]]
    question = f"{text} Of the {count}, the {asked.strip()} is"
    return completion_item(question, order[place], rng.sample(wrong, 3), rng)


def solve_order(people: Sequence[str], clues: Sequence[Clue]) -> list[Order]:
    """All orders of the people in which every clue holds, the oldest or tallest first."""
    return [order for order in permutations(people) if all(holds(order) for _, holds in clues)]


def _clues(order: Order, word: str, kind: str, rng: Random) -> list[Clue]:
    """True clues: each neighbouring pair for easy levels, random ones for hard levels."""
    pairs = pairwise(order)
    clues = [_above(one, other, word) for one, other in pairs]
    if kind == "mixed":
        clues = [_random_clue(order, word, rng) for _ in range(60)] + clues
    return clues


def _above(one: str, other: str, word: str) -> Clue:
    return f"{one} is {word} than {other}.", lambda o: o.index(one) < o.index(other)


def _random_clue(order: Order, word: str, rng: Random) -> Clue:
    one, other, third = sorted(rng.sample(order, 3), key=order.index)
    top, bottom = _MOST[word]
    kind = rng.randrange(4)
    if kind == 0:
        text = f"{other} is neither {word} than {one} nor the {bottom}."
        return text, lambda o: o.index(one) < o.index(other) < len(o) - 1
    if kind == 1:
        gap = order.index(third) - order.index(one) - 1
        people = "one person is" if gap == 1 else f"{gap} people are"
        text = f"In the order of {_SORTED_BY[word]}, exactly {people} between {one} and {third}."
        return text, lambda o: abs(o.index(one) - o.index(third)) - 1 == gap
    if kind == 2:
        names = listed(sorted([one, other]), "nor")
        text = f"Neither {names} is the {bottom}, and {third} is not the {top}."
        return text, lambda o: o[-1] not in (one, other) and o[0] != third
    return _above(one, third, word)


def _enough(clues: Sequence[Clue], people: Sequence[str]) -> list[Clue]:
    """The clues that are needed: each one rules out an order that those before it allow."""
    orders, needed = list(permutations(people)), list[Clue]()
    for text, holds in clues:
        left = [order for order in orders if holds(order)]
        if len(left) < len(orders):
            orders = left
            needed.append((text, holds))
        if len(orders) == 1:
            return needed
    raise AssertionError("neighbouring pairs leave one order")


# A statement: its text, and whether it is true when `knights` are those who tell the truth.
Statement = tuple[str, Callable[[Sequence[bool]], bool]]
_KNIGHTS = (2, 2, 3, 4, 5, 7)


def make_knights(level: int, rng: Random) -> Item:
    """Write a puzzle of knights, who tell the truth, and knaves, who lie."""
    count = _KNIGHTS[level - 1]
    if level == 1:
        return _one_known(rng)
    while True:
        people = rng.sample(PEOPLE, count)
        world = [rng.random() < 0.5 for _ in people]
        said = [_said(index, people, world, level, rng) for index in range(count)]
        worlds = solve_knights(said)
        if len(worlds) == 1:
            break
    text = " ".join(f'{person} says: "{one[0]}"' for person, one in zip(people, said, strict=True))
    right, *wrong = (_world(people, world) for world in _around(worlds[0], rng))
    question = (
        "Knights always tell the truth, and knaves always lie. Each of "
        f"{listed(people)} is a knight or a knave. {text} So"
    )
    return completion_item(question, right, wrong, rng)


def _one_known(rng: Random) -> Item:
    """A speaker whose kind is known, and what the speaker says about another person."""
    speaker, other = rng.sample(PEOPLE, 2)
    known, said = rng.random() < 0.5, rng.random() < 0.5
    worlds = [(known, said if known else not said)]
    right, *wrong = (_world((speaker, other), world) for world in _around(worlds[0], rng))
    text = (
        "Knights always tell the truth, and knaves always lie. Each of "
        f"{speaker} and {other} is a knight or a knave. {speaker} is a {_kind(known)}. {speaker} "
        f'says: "{other} is a {_kind(said)}." So'
    )
    return completion_item(text, right, wrong, rng)


def solve_knights(said: Sequence[Statement]) -> list[tuple[bool, ...]]:
    """All worlds in which exactly the knights' statements are true."""
    worlds = product([True, False], repeat=len(said))
    return [
        world
        for world in worlds
        if all(holds(world) == world[index] for index, (_, holds) in enumerate(said))
    ]


def _said(
    speaker: int, people: Sequence[str], world: Sequence[bool], level: int, rng: Random
) -> Statement:
    """A statement that is true if the speaker is a knight in this world, and false if not."""
    while True:
        text, holds = _statement(speaker, people, level, rng)
        if holds(world) == world[speaker]:
            return text, holds


def _statement(speaker: int, people: Sequence[str], level: int, rng: Random) -> Statement:
    others = [index for index in range(len(people)) if index != speaker]
    one = rng.choice(others)
    kinds = ["is", "same"] if level <= 3 else ["same", "count", "if", "or"]
    kind = rng.choice(kinds)
    if kind == "is":
        knight = rng.random() < 0.5
        return f"{people[one]} is a {_kind(knight)}.", lambda world: world[one] == knight
    if kind == "same" or len(others) < 2:
        same = rng.random() < 0.5
        words = "of the same kind" if same else "of different kinds"
        text = f"{people[one]} and I are {words}."
        return text, lambda world: (world[one] == world[speaker]) == same
    first, second = rng.sample(others, 2)
    if kind == "if":
        text = f"If {people[first]} is a knight, then {people[second]} is a knave."
        return text, lambda world: not world[first] or not world[second]
    if kind == "or":
        text = f"{people[first]} is a knave, or {people[second]} is a knight, or both."
        return text, lambda world: not world[first] or world[second]
    number = rng.randint(1, len(people) - 1)
    text = f"Exactly {number} of us {'is a knight' if number == 1 else 'are knights'}."
    return text, lambda world: sum(world) == number


def _kind(knight: bool) -> str:
    return "knight" if knight else "knave"


def _world(people: Sequence[str], world: Sequence[bool]) -> str:
    kinds = [f"{p} is a {_kind(knight)}" for p, knight in zip(people, world, strict=True)]
    return f"{listed(kinds)}."


def _around(world: tuple[bool, ...], rng: Random) -> list[tuple[bool, ...]]:
    """The world, and three that differ by two sets of people and by both: none is in the middle."""
    flips = [flip for flip in product([False, True], repeat=len(world)) if any(flip)]
    first, second = rng.sample(flips, 2)
    both = tuple(a != b for a, b in zip(first, second, strict=True))
    changed = [tuple(w != f for w, f in zip(world, flip, strict=True)) for flip in (first, second)]
    return [world, *changed, tuple(w != f for w, f in zip(world, both, strict=True))]


# Sets, members of each, and the condition on the number of sets or on which sets.
_SETS = ((1, 6), (2, 6), (2, 9), (3, 8), (4, 12))


def make_sets(level: int, rng: Random) -> Item:
    """Write a question about which thing is in which of several boxes."""
    count, size = _SETS[level - 1]
    words = [*THINGS, *PEOPLE]
    colours = rng.sample(COLOURS, count)
    condition, holds = _condition(level, colours, rng)
    while True:
        pool = rng.sample(words, min(len(words), size * 2))
        boxes = [rng.sample(pool, size) for _ in colours]
        inside = {word: tuple(word in box for box in boxes) for word in pool}
        right = [word for word in pool if holds(inside[word])]
        wrong = [
            word for word in pool if not holds(inside[word]) and (any(inside[word]) or count == 1)
        ]
        if right and len(wrong) >= 3:
            break
    listing = " ".join(
        f"The {colour} list: {', '.join(box)}." for colour, box in zip(colours, boxes, strict=True)
    )
    return completion_item(
        f"{listing} The name that is {condition} is",
        rng.choice(right),
        rng.sample(wrong, 3),
        rng,
    )


def _condition(
    level: int, colours: Sequence[str], rng: Random
) -> tuple[str, Callable[[tuple[bool, ...]], bool]]:
    if level == 1:
        return f"on the {colours[0]} list", lambda inside: inside[0]
    if level == 2:
        return f"on both lists, {listed(colours)}", all
    if level == 3:
        text = f"on the {colours[0]} list, but not on the {colours[1]} list"
        return text, lambda inside: inside[0] and not inside[1]
    if level == 4:
        return "on exactly two of the three lists", lambda inside: sum(inside) == 2
    one, other = rng.sample(range(4), 2)
    text = (
        f"on an odd number of the lists, and on exactly one of the {colours[one]} list and the "
        f"{colours[other]} list"
    )
    return text, lambda inside: sum(inside) % 2 == 1 and inside[one] != inside[other]


ORDERING = LevelSection(
    "ordering",
    "scored",
    (
        Level("four people, who is first or last", 80),
        Level("five people, who is in between", 90),
        Level("five people, clues in random order", 100),
        Level("six people, clues about gaps and what is not the case", 260),
        Level("seven people, clues about gaps and what is not the case", 300),
    ),
    make_ordering,
)
KNIGHTS_AND_KNAVES = LevelSection(
    "knights_and_knaves",
    "scored",
    (
        Level("a knight or knave who speaks of another person", 120),
        Level("two people who speak of each other", 120),
        Level("three people who speak of each other", 150),
        Level("four people, with counts, conditions and alternatives", 200),
        Level("five people, with counts, conditions and alternatives", 240),
        Level("seven people, with counts, conditions and alternatives", 320),
    ),
    make_knights,
)
SET_MEMBERSHIP = LevelSection(
    "set_membership",
    "scored",
    (
        Level("the name on a list of six", 70),
        Level("the name on both of two lists", 100),
        Level("the name on one list and not on the other", 120),
        Level("the name on exactly two of three lists", 140),
        Level("a combined condition on four lists", 250),
    ),
    make_sets,
)
