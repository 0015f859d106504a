"""Word problems of 1 to 8 steps: stories told in order, then amounts told out of order.

In a story one person's number of things changes step by step. In a puzzle each amount is given by
another one, and the sentences are shuffled, some of them of no use.
"""

from random import Random

from burnish.evaluation.levels.section import Item, Level, LevelSection, checked_item, conversation
from burnish.evaluation.levels.words import PEOPLE, THINGS

_END = "Give the answer as a number."
_STEPWISE = "Work it out step by step and end with the line `Answer: N`, where N is the number."
# Steps and the largest number of the stories (levels 1 to 6); steps, numbers and useless sentences
# of the puzzles (levels 7 to 9).
_STORIES = ((1, 10), (1, 10), (1, 100), (2, 50), (3, 50), (4, 50))
_PUZZLES = ((6, 40, 0), (8, 60, 3), (8, 900, 6))


def make(level: int, rng: Random) -> Item:
    """Write a word problem of this level."""
    if level == 1:
        return _after_examples(rng)
    if level <= len(_STORIES):
        text, answer = _story(*_STORIES[level - 1], rng)
    else:
        text, answer = _puzzle(*_PUZZLES[level - 1 - len(_STORIES)], rng)
    end = _END if level <= 3 else _STEPWISE
    return checked_item(f"{text} {end}", number=answer)


def _after_examples(rng: Random) -> Item:
    """A sum or a difference up to 10 after three others that were worked out."""
    turns = []
    for _ in range(4):
        first, second = rng.randint(2, 9), rng.randint(2, 9)
        person, other = rng.sample(PEOPLE, 2)
        things = rng.choice(THINGS)
        if rng.random() < 0.5:
            total, sign, change = first + second, "+", f"gets {second} more from"
        else:
            first, total, sign, change = first + second, first, "-", f"gives {second} of them to"
        text = (
            f"{person} has {first} {things}. {person} {change} {other}. "
            f"How many {things} does {person} have now?"
        )
        turns.append((text, f"{first} {sign} {second} = {total}"))
    return checked_item(conversation(turns[:3], turns[3][0]), number=total)


def _story(steps: int, largest: int, rng: Random) -> tuple[str, int]:
    person, *others = rng.sample(PEOPLE, 4)
    things = rng.choice(THINGS)
    amount = rng.randint(2, largest)
    sentences = [f"{person} has {amount} {things}."]
    kinds = ["more", "fewer"] if steps == 1 else ["more", "fewer", "times", "parts"]
    last = ""
    for _ in range(steps):
        last = rng.choice([kind for kind in kinds if kind != last])
        sentence, amount = _step(last, amount, largest, (person, things, rng.choice(others)), rng)
        sentences.append(sentence)
    sentences.append(f"How many {things} does {person} have now?")
    return " ".join(sentences), amount


def _step(
    kind: str, amount: int, largest: int, names: tuple[str, str, str], rng: Random
) -> tuple[str, int]:
    """A sentence of a story, and the amount after it."""
    person, things, other = names
    divisors = [number for number in range(2, 7) if amount % number == 0 and amount > number]
    if kind == "parts" and divisors:
        number = rng.choice(divisors)
        shared = f"{person} shares them equally among {number} boxes and keeps only one of the"
        return f"{shared} boxes.", amount // number
    if kind == "times" and amount <= 3 * largest:
        number = rng.randint(2, 4)
        return f"The next day {person} has {number} times as many {things}.", amount * number
    if kind == "fewer" and amount > 2:
        number = rng.randint(1, amount - 1)
        return f"{person} gives {number} of them to {other}.", amount - number
    number = rng.randint(2, largest)
    return f"{person} gets {number} more from {other}.", amount + number


def _puzzle(steps: int, largest: int, useless: int, rng: Random) -> tuple[str, int]:
    """A chain of `steps - 1` amounts, each given by an earlier one, and the sum of the last two."""
    people = rng.sample(PEOPLE, steps + useless)
    things = rng.choice(THINGS)
    amounts = [rng.randint(largest // 2, largest)]
    facts = [f"{people[0]} has {amounts[0]} {things}."]
    for index in range(1, steps):
        fact, amount = _relation(people[index], people[index - 1], amounts[-1], largest, rng)
        amounts.append(amount)
        facts.append(fact)
    for index in range(steps, steps + useless):
        known = rng.randrange(index)
        fact, amount = _relation(people[index], people[known], amounts[known], largest, rng)
        amounts.append(amount)
        facts.append(fact)
    rng.shuffle(facts)
    first, second = people[steps - 2], people[steps - 1]
    question = f"How many {things} do {first} and {second} have together?"
    return " ".join([*facts, question]), amounts[steps - 2] + amounts[steps - 1]


def _relation(person: str, other: str, amount: int, largest: int, rng: Random) -> tuple[str, int]:
    """How many things a person has, said by what another one has."""
    kinds = ["more"]
    kinds += ["fewer"] * (amount > 10) + ["times"] * (amount < 4 * largest)
    divisors = [number for number in range(2, 10) if amount % number == 0 and amount > 5 * number]
    kinds += ["part"] * bool(divisors)
    kind = rng.choice(kinds)
    if kind == "times":
        number = rng.randint(2, 9 if largest < 100 else 29)
        return f"{person} has {number} times as many as {other}.", amount * number
    if kind == "part":
        number = rng.choice(divisors)
        return f"{other} has {number} times as many as {person}.", amount // number
    if kind == "fewer":
        number = rng.randint(2, min(amount - 2, largest))
        return f"{person} has {number} fewer than {other}.", amount - number
    number = rng.randint(2, largest)
    return f"{person} has {number} more than {other}.", amount + number


WORD_PROBLEMS = LevelSection(
    "word_problems",
    "generated",
    (
        Level("one step, numbers up to 18, after three examples", 250, 16),
        Level("one step, numbers up to 10", 120, 48),
        Level("one step, numbers up to 100", 120, 48),
        Level("two steps, numbers up to 50", 260, 140),
        Level("three steps, numbers up to 50", 300, 160),
        Level("four steps, numbers up to 50", 340, 200),
        Level("six steps, told out of order", 460, 256),
        Level("eight steps, told out of order, with three facts of no use", 640, 360),
        Level("eight steps with large numbers, out of order, six facts of no use", 760, 400),
    ),
    make,
)
