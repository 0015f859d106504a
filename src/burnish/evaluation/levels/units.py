"""Units: conversions, from metres to centimetres to rates of several units."""

from fractions import Fraction
from random import Random

from burnish.evaluation.levels.section import Item, Level, LevelSection, completion_item
from burnish.evaluation.levels.words import PEOPLE, ladder

# Large unit, small unit, and how many small ones make a large one.
_METRIC = (
    ("metres", "centimetres", 100), ("kilometres", "metres", 1000), ("kilograms", "grams", 1000),
    ("litres", "millilitres", 1000), ("centimetres", "millimetres", 10),
    ("tonnes", "kilograms", 1000), ("metres", "millimetres", 1000),
)  # fmt: skip
_TIME = (("hours", "minutes", 60), ("minutes", "seconds", 60), ("days", "hours", 24),
         ("weeks", "days", 7))  # fmt: skip
_SQUARES = (
    ("square metres", "square centimetres", 10**4), ("hectares", "square metres", 10**4),
    ("square kilometres", "hectares", 100), ("cubic metres", "litres", 1000),
    ("cubic centimetres", "cubic millimetres", 1000), ("cubic metres", "cubic centimetres", 10**6),
    ("square kilometres", "square metres", 10**6),
)  # fmt: skip
_IMPERIAL = (
    ("feet", "inches", 12), ("yards", "feet", 3), ("pounds", "ounces", 16),
    ("stones", "pounds", 14),
    ("gallons", "pints", 8), ("miles", "yards", 1760), ("miles", "feet", 5280),
)  # fmt: skip


def make(level: int, rng: Random) -> Item:
    """Write a question about units of this level."""
    return _MAKERS[level - 1](rng)


def _powers(right: Fraction, rng: Random) -> list[str]:
    """The number and three others that differ by powers of ten; its rank is random."""
    place = rng.randrange(4)
    return [_plain(right)] + [
        _plain(right * Fraction(10) ** (index - place)) for index in range(4) if index != place
    ]


def _plain(number: Fraction) -> str:
    """A number as a decimal without trailing zeros; it must have at most 12 decimals."""
    text = f"{int(number * 10**12):013d}"
    return f"{text[:-12]}.{text[-12:]}".rstrip("0").rstrip(".")


def _few(rng: Random) -> Item:
    """A few metres in centimetres, and the like; wrong are those of other units."""
    by_size: dict[int, tuple[str, str]] = {}
    while len(by_size) < 4:
        large, little, size = rng.choice([*_METRIC, *_TIME])
        by_size.setdefault(size, (large, little))
    amount, sizes = rng.randint(2, 9), rng.sample(list(by_size), 4)
    size, (large, little) = sizes[0], by_size[sizes[0]]
    right, *wrong = (str(amount * one) for one in sizes)
    person, verb = rng.choice(PEOPLE), rng.choice(["says that", "knows that", "writes that"])
    unit = f"1 {large[:-1]} is {size} {little}"
    text = f"{person} {verb} {unit}, so the number of {little} in {amount} {large} is"
    return completion_item(text, right, wrong, rng)


def _metric(rng: Random, small: bool) -> Item:
    large, little, size = rng.choice(_METRIC)
    if small:
        amount, question = Fraction(rng.randint(11, 999)), (large, little)
        right = amount * size
    else:
        amount, question = (
            Fraction(rng.randint(11, 9999), rng.choice([1, 10, 100])),
            (little, large),
        )
        right = amount / size
    values = _powers(right, rng)
    person = rng.choice(PEOPLE)
    text = f"{person} measures {_plain(amount)} {question[0]}, which is the same as"
    unit = question[1]
    return completion_item(
        text, f"{values[0]} {unit}", [f"{value} {unit}" for value in values[1:]], rng
    )


def _parts(rng: Random) -> Item:
    """Hours and minutes, or weeks and days, in the smaller unit."""
    large, little, size = rng.choice(_TIME)
    whole, rest = rng.randint(2, 30), rng.randint(1, size - 1)
    step = rng.choice([1, size, 10])
    values = ladder(whole * size + rest, step, rng)
    text = f"{rng.choice(PEOPLE)} waits {whole} {large} and {rest} {little}, which is the same as"
    right, *wrong = (f"{value} {little}" for value in values)
    return completion_item(text, right, wrong, rng)


def _squares(rng: Random) -> Item:
    large, little, size = rng.choice(_SQUARES)
    down = rng.random() < 0.5
    amount = Fraction(rng.randint(11, 999), rng.choice([1, 10]))
    first, second = (large, little) if down else (little, large)
    values = _powers(amount * size if down else amount / size, rng)
    text = f"{_plain(amount)} {first} are the same as"
    right, *wrong = (f"{value} {second}" for value in values)
    return completion_item(text, right, wrong, rng)


def _imperial(rng: Random) -> Item:
    large, little, size = rng.choice(_IMPERIAL)
    amount, rest = rng.randint(11, 99), rng.randint(1, size - 1)
    values = ladder(amount * size + rest, rng.choice([1, size, amount]), rng)
    text = f"{amount} {large} and {rest} {little} are the same as"
    right, *wrong = (f"{value} {little}" for value in values)
    return completion_item(text, right, wrong, rng)


def _rate(rng: Random) -> Item:
    """A volume from a flow and a duration in other units."""
    flow, hours, minutes = rng.randint(12, 480), rng.randint(2, 40), rng.randint(1, 59)
    seconds = 3600 * hours + 60 * minutes
    right = flow * seconds  # millilitres
    step = rng.choice([flow * 60, flow * 600, 10 * flow * 60])
    right_text, *wrong = (
        f"{_plain(Fraction(value, 1000))} litres" for value in ladder(right, step, rng)
    )
    text = f"Water flows at {flow} millilitres per second for {hours} hours and {minutes} minutes. "
    return completion_item(text + "Together that is", right_text, wrong, rng)


_MAKERS = (
    _few,
    lambda rng: _metric(rng, False),
    lambda rng: _metric(rng, True),
    _parts,
    _squares,
    _imperial,
    _rate,
)
UNITS = LevelSection(
    "units",
    "scored",
    (
        Level("2 to 9 metres to centimetres and the like", 60),
        Level("decimal numbers of a small unit in a large one", 90),
        Level("larger whole metres to centimetres and the like", 80),
        Level("hours and minutes in minutes, and the like", 80),
        Level("areas and volumes", 80),
        Level("feet and inches, pounds and ounces, and the like", 80),
        Level("a flow and a duration to a volume", 90),
    ),
    make,
)
