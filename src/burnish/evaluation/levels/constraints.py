"""Instructions with 1 to 6 constraints on the form of a reply, each checked by a program."""

from random import Random
from typing import Any

from burnish.evaluation.levels.section import Item, Level, LevelSection, checked_item
from burnish.evaluation.levels.words import COLOURS, PLACES

_TOPICS = (
    "a day at the sea", "the first snow", "an old bicycle", "a visit to the zoo", "a walk at night",
    "a train journey", "a new friend", "a lost key", "baking bread", "a summer storm",
    "moving house", "learning to swim", "a birthday", "a garden in spring", "a long queue",
    "a broken window", "a picnic", "a rainy Sunday", "the last day of school", "a cat on a roof",
)  # fmt: skip
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
_ENDINGS = ("Good night.", "See you soon.", "Thank you.", "Take care.", "Come back soon.")
_STARTS = ("Listen", "Once", "Today", "Remember", "Imagine", "Yesterday")

# A constraint: its words, and the checks.
Constraint = tuple[str, dict[str, Any]]


def make(level: int, rng: Random) -> Item:
    """Ask for a short text with as many constraints as the level says."""
    chosen = _chosen(level, rng)
    checks: dict[str, Any] = {}
    for _, check in chosen:
        checks |= check
    words = " ".join(f"{text}." for text, _ in chosen)
    ask = rng.choice(["Write about", "Tell me about", "Describe"])
    return checked_item(f"{ask} {rng.choice(_TOPICS)}. {words}", **checks)


def _chosen(level: int, rng: Random) -> list[Constraint]:
    """Constraints of different groups, so that they can all be met at once."""
    if level == 1:
        return [rng.choice([_short, _contains, _starts])(rng)]
    groups = [_form, _contains, _starts, _ends, _avoids, _size]
    if level == 2:
        groups = [_short, _contains, _starts, _avoids]
    if level == 6:
        return [group(rng) for group in (_counted, *groups[:1], *groups[2:])]
    return [group(rng) for group in rng.sample(groups, level)]


def _short(rng: Random) -> Constraint:
    most = rng.randint(12, 30)
    return f"Use at least 6 and at most {most} words", {"min_words": 6, "max_words": most}


def _contains(rng: Random) -> Constraint:
    word = rng.choice(COLOURS)
    return f'Use the word "{word}"', {"any_of": [word]}


def _starts(rng: Random) -> Constraint:
    word = rng.choice(_STARTS)
    return f'Begin with the word "{word}"', {"starts": word}


def _ends(rng: Random) -> Constraint:
    text = rng.choice(_ENDINGS)
    return f'End with the words "{text.rstrip(".")}" and a full stop', {"ends": text}


def _avoids(rng: Random) -> Constraint:
    words = rng.sample(["and", "the", "is", "was", "of"], 2)
    return f'Use neither the word "{words[0]}" nor the word "{words[1]}"', {"none_of": words}


def _size(rng: Random) -> Constraint:
    least = rng.randint(20, 40)
    most = least + rng.randint(6, 15)
    return (
        f"Use at least {least} and at most {most} words",
        {"min_words": least, "max_words": most},
    )


def _form(rng: Random) -> Constraint:
    number = rng.randint(2, 5)
    if rng.random() < 0.5:
        text = f"Write exactly {_NUMBERS[number]} lines, without empty lines between them"
        return text, {"exact_lines": number}
    return f"Write exactly {_NUMBERS[number]} sentences", {"sentences": number}


def _counted(rng: Random) -> Constraint:
    word, times = rng.choice(PLACES), rng.randint(3, 6)
    text = f'Use the word "{word}" exactly {_NUMBERS[times]} times'
    return text, {"count": {"text": word, "times": times}}


CONSTRAINTS = LevelSection(
    "constraints",
    "generated",
    (
        Level("one constraint", 110, 48),
        Level("two constraints", 140, 64),
        Level("three constraints", 190, 90),
        Level("four constraints", 210, 90),
        Level("five constraints", 230, 90),
        Level("six constraints with a word counted", 260, 110),
    ),
    make,
)
