"""Several turns: a fact given earlier or corrected, and instructions that stand or change."""

from collections.abc import Callable
from random import Random
from typing import Any

from burnish.evaluation.levels.section import (
    Item,
    Level,
    LevelSection,
    checked_item,
    conversation,
)
from burnish.evaluation.levels.words import COLOURS, PEOPLE, PLACES, THINGS

_MEETING = ("school", "museum", "station", "harbour", "market", "chapel", "bakery", "library")
_FACTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("My sister's name is {}.", "What is my sister's name?", PEOPLE),
    ("My car is {}.", "What colour is my car?", COLOURS),
    ("My dog is called {}.", "What is my dog called?", PEOPLE),
    ("I left my bag in the {}.", "Where did I leave my bag?", PLACES),
    ("My neighbour collects {}.", "What does my neighbour collect?", THINGS),
    ("My front door is {}.", "What colour is my front door?", COLOURS),
    ("My teacher's name is {}.", "What is my teacher's name?", PEOPLE),
    ("I will meet my friend at the {}.", "Where will I meet my friend?", _MEETING),
)
_THANKS = ("Thanks for telling me.", "Good to know.", "All right.", "I see.", "Understood.")
_TALK = (
    ("Say hello.", "Hello!"), ("What is 2 + 3?", "It is 5."), ("Name a season.", "Winter."),
    ("What is the opposite of hot?", "Cold."), ("Name a day.", "Friday."),
    ("What do bees make?", "Honey."), ("Name a fruit.", "A banana."),
    ("What is the plural of mouse?", "Mice."), ("Name a planet.", "Mars."),
    ("Which season comes after spring?", "Summer."), ("Name a vegetable.", "A carrot."),
)  # fmt: skip
# Standing instructions: the words, how a reply follows them, and its check.
_STANDING: tuple[tuple[str, Callable[[str], str], dict[str, Any]], ...] = (
    ("write every reply in capital letters", str.upper, {"case": "upper"}),
    ("write every reply in small letters only", str.lower, {"case": "lower"}),
    ('end every reply with the word "Over"', lambda text: f"{text} Over", {"ends": "Over"}),
    ('begin every reply with the word "Captain"', lambda text: f"Captain, {text}",
     {"starts": "Captain"}),
    ('end every reply with three exclamation marks', lambda text: f"{text[:-1]}!!!",
     {"ends": "!!!"}),
    ('begin every reply with "Well"', lambda text: f"Well, {text}", {"starts": "Well"}),
)  # fmt: skip


def make(level: int, rng: Random) -> Item:
    """Write a conversation of this level that ends in a question."""
    return _MAKERS[level - 1](rng)


def _facts(count: int, rng: Random) -> list[tuple[str, str, str, tuple[str, ...]]]:
    """Facts as sentence, question, right answer and possible answers; no answer occurs twice."""
    chosen, used = [], set[str]()
    for sentence, question, answers in rng.sample(_FACTS, count):
        answer = rng.choice([one for one in answers if one not in used])
        used.add(answer)
        chosen.append((sentence.format(answer), question, answer, answers))
    return chosen


def _told(rng: Random, sentence: str) -> tuple[str, str]:
    return sentence, rng.choice(_THANKS)


def _earlier(talk: int, facts: int, rng: Random) -> Item:
    """A fact from the beginning, after small talk."""
    known = _facts(facts, rng)
    pairs = [_told(rng, sentence) for sentence, *_ in known] + rng.sample(_TALK, talk)
    _, question, answer, answers = rng.choice(known)
    others = [other for *_, other, same in known if other != answer and same == answers]
    check = {"right": answer, "among": [answer, *others]}
    return checked_item(conversation(pairs, question), last_of=check)


def _corrected(corrections: int, rng: Random) -> Item:
    """A fact that is corrected once or several times; the last one counts."""
    (sentence, question, answer, answers), other = _facts(2, rng)
    values = rng.sample([one for one in answers if one != answer], corrections)
    pattern = sentence.replace(answer, "{}")
    pairs = [_told(rng, sentence), _told(rng, other[0])]
    for value in values:
        pairs += rng.sample(_TALK, 1)
        pairs.append(_told(rng, f"I was wrong before. {pattern.format(value)}"))
    check = {"right": values[-1], "among": [*values[::-1], answer]}
    return checked_item(conversation(pairs, question), last_of=check)


def _standing(changes: int, corrections: int, rng: Random) -> Item:
    """An instruction for all replies, perhaps replaced later, and a fact to recall."""
    (sentence, question, answer, answers), other = _facts(2, rng)
    pattern = sentence.replace(answer, "{}")
    rules = rng.sample(_STANDING, changes + 1)
    pairs, values = [], [answer]
    for index, (words, follow, _) in enumerate(rules):
        start = "From now on," if index == 0 else "Forget the last rule. From now on, instead,"
        pairs.append((f"{start} {words}.", follow("All right.")))
        if index == 0:
            pairs += [
                (text, follow(reply))
                for text, reply in (_told(rng, sentence), _told(rng, other[0]))
            ]
        pairs += [(ask, follow(reply)) for ask, reply in rng.sample(_TALK, 2)]
        if index < corrections:
            values.append(rng.choice([one for one in answers if one not in values]))
            text = f"I was wrong before. {pattern.format(values[-1])}"
            pairs.append((text, follow(rng.choice(_THANKS))))
    check = {"right": values[-1], "among": values[::-1]}
    return checked_item(conversation(pairs, question), last_of=check, **rules[-1][2])


def _stock(rng: Random) -> Item:
    """Amounts of several things that change over ten turns, and an instruction that changes."""
    things = rng.sample(THINGS, 4)
    stock = {thing: rng.randint(10, 60) for thing in things}
    rules = rng.sample(_STANDING, 2)
    follow = rules[0][1]
    pairs = [
        (f"From now on, {rules[0][0]}.", follow("All right.")),
        (f"I have {', '.join(f'{n} {thing}' for thing, n in stock.items())}.", follow("I see.")),
    ]
    for turn in range(10):
        thing, other = rng.sample(things, 2)
        pairs.append((_change(stock, thing, other, rng), follow("Understood.")))
        if turn == 5:
            follow = rules[1][1]
            text = f"Forget the last rule. From now on, instead, {rules[1][0]}."
            pairs.append((text, follow("All right.")))
    first, second = rng.sample(things, 2)
    question = f"How many {first} and {second} do I have now in total?"
    return checked_item(
        conversation(pairs, question), number=stock[first] + stock[second], **rules[1][2]
    )


def _change(stock: dict[str, int], thing: str, other: str, rng: Random) -> str:
    """Changes the stock and returns the change in words."""
    kind, number = rng.randrange(4), rng.randint(2, 20)
    if kind == 0 and stock[thing] > number:
        stock[thing] -= number
        return f"I gave {number} of the {thing} away."
    if kind == 1 and stock[thing] < 200:
        stock[thing] *= 2
        return f"I now have twice as many {thing} as before."
    if kind == 2:
        stock[thing] = stock[other] + number
        return f"I bought {thing}, so that I now have {number} more {thing} than {other}."
    stock[thing] += number
    return f"I found {number} more {thing}."


_MAKERS: tuple[Callable[[Random], Item], ...] = (
    lambda rng: _earlier(0, 1, rng),
    lambda rng: _earlier(3, 4, rng),
    lambda rng: _corrected(2, rng),
    lambda rng: _standing(0, 0, rng),
    lambda rng: _standing(1, 2, rng),
    _stock,
)
CONVERSATIONS = LevelSection(
    "conversations",
    "generated",
    (
        Level("a fact from the turn before", 110, 32),
        Level("one of four facts, after small talk", 240, 32),
        Level("a fact that was corrected twice", 240, 40),
        Level("a fact, and an instruction for every reply", 230, 40),
        Level("a corrected fact, and an instruction that was replaced", 340, 40),
        Level("amounts changed over ten turns, and a replaced instruction", 560, 80),
    ),
    make,
)
