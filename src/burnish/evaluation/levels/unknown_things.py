"""Saying "I do not know" to things that do not exist, and not saying it to things that do.

In the scored form one item in four is about an invented name, so that a model that never or always
says that it does not know is right by chance. In the generated form each item asks for a real and
an invented thing, so that such a model is never right.
"""

from random import Random

from burnish.evaluation.levels import facts
from burnish.evaluation.levels.section import Item, Level, LevelSection, checked_item, choice_item


def make_choices(level: int, rng: Random) -> Item:
    """Ask for the country of a real or invented city, or the symbol of an element."""
    if level <= 5 and not (level == 1 and rng.random() < 0.3):
        return _city(level, rng)
    return _element(rng)


def _city(level: int, rng: Random) -> Item:
    real = rng.random() < 0.75
    cities: dict[str, str] = {}
    while len(cities) < 3:
        city = rng.choice(facts.cities(level))
        cities.setdefault(city.country, city.name)
    countries = rng.sample(list(cities), 3)
    name = cities[countries[0]] if real else rng.choice(facts.invented_cities(level))
    return _choices(f"In which country is the city of {name}?", "country", countries, real, rng)


def _element(rng: Random) -> Item:
    real = rng.random() < 0.75
    four = rng.sample(facts.elements(), 4)
    name = four[0].name if real else rng.choice(facts.invented_elements())
    symbols = [element.symbol for element in four[:3]]
    question = f"What is the chemical symbol of the element {name}?"
    return _choices(question, "symbol", symbols, real, rng)


def _choices(question: str, kind: str, answers: list[str], real: bool, rng: Random) -> Item:
    """Three answers, of which the first is right if the thing is real, and `Unknown`."""
    asked = f"{question} Answer with the {kind}, or with Unknown if it does not exist."
    if real:
        return choice_item(asked, answers[0], [*answers[1:], "Unknown"], rng)
    return choice_item(asked, "Unknown", answers, rng)


def make_replies(level: int, rng: Random) -> Item:
    """Ask for the countries of a real and an invented city at once."""
    city = rng.choice([city for city in facts.cities(level) if city.name not in city.country])
    names = [city.name, rng.choice(facts.invented_cities(level))]
    rng.shuffle(names)
    question = (
        f"In which country is the city of {names[0]}? And in which country is the city of "
        f"{names[1]}? If you do not know a city, say so instead of guessing."
    )
    return checked_item(question, any_of=_spellings(city.country), unsure=True)


def _spellings(country: str) -> list[str]:
    other = {
        "United States": ["USA", "US", "America"], "United Kingdom": ["UK", "England", "Britain"],
        "Turkey": ["Türkiye"], "Czechia": ["Czech Republic"], "Ivory Coast": ["Côte d'Ivoire"],
        "Democratic Republic of the Congo": ["DRC", "DR Congo", "Congo"],
        "United Arab Emirates": ["UAE"], "Russia": ["Russian Federation"],
        "Republic of the Congo": ["Congo"], "Myanmar": ["Burma"],
    }  # fmt: skip
    return [country, *other.get(country, [])]


_SIZES = (
    "more than 4,000,000 people",
    "1,000,000 to 4,000,000 people",
    "250,000 to 600,000 people",
    "60,000 to 120,000 people",
    "15,000 to 30,000 people",
)
KNOWN_OR_INVENTED = LevelSection(
    "known_or_invented",
    "scored",
    (
        Level(f"elements, cities of {_SIZES[0]}, and invented names like theirs", 100),
        *(Level(f"cities of {size}, and invented names like theirs", 100) for size in _SIZES[1:]),
    ),
    make_choices,
)
UNKNOWN_THINGS = LevelSection(
    "unknown_things",
    "generated",
    tuple(Level(f"a city of {size}, and an invented one", 190, 80) for size in _SIZES),
    make_replies,
)
