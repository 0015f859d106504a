"""Knowledge by rarity: countries and cities by population, elements by abundance, units, dates.

The four choices of an item are drawn from the same facts, and one of them is then asked for.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random
from typing import TypeVar

from burnish.evaluation.levels import facts
from burnish.evaluation.levels.section import Item, Level, LevelSection, continuation_item

Fact = TypeVar("Fact")
# Ranks of the countries by population, and of the elements by abundance.
_LARGE, _MIDDLE, _SMALL = slice(0, 45), slice(45, 110), slice(110, None)
_COMMON, _RARE = slice(0, 40), slice(40, None)


def _ask(
    pool: Sequence[Fact], text: Callable[[Fact], str], answer: Callable[[Fact], str], rng: Random
) -> Item:
    """An item on one of four facts of the pool whose answers differ."""
    four: dict[str, Fact] = {}
    while len(four) < 4:
        fact = rng.choice(pool)
        four.setdefault(answer(fact), fact)
    right, *wrong = rng.sample(list(four), 4)
    return continuation_item(text(four[right]), f" {right}", [f" {word}" for word in wrong], rng)


def make_countries(level: int, rng: Random) -> Item:
    """Write a question on capitals, currencies and national days."""
    ranks = (_LARGE, _MIDDLE, _SMALL, _MIDDLE, slice(None))[level - 1]
    pool = list(facts.countries()[ranks])
    if level == 4:
        return _ask(pool, lambda c: f"The currency of {c.name} is the", lambda c: c.currency, rng)
    if level == 5:
        days = [country for country in pool if country.national_day]
        return _ask(days, _national_day, lambda c: c.national_day.partition("|")[2], rng)
    pool = [c for c in pool if c.capital not in c.name and c.name not in c.capital]
    if rng.random() < 0.5:
        return _ask(pool, lambda c: f"The capital of {c.name} is", lambda c: c.capital, rng)
    return _ask(pool, lambda c: f"{c.capital} is the capital of", lambda c: c.name, rng)


def _national_day(country: facts.Country) -> str:
    return f"Every year, {country.name} celebrates its {country.national_day.partition('|')[0]} on"


def make_cities(level: int, rng: Random) -> Item:
    """Ask for the country of a city; from level 4 on all choices are of one continent."""
    pool = facts.cities(level)
    if level >= 4:
        continent = rng.choice(pool).continent
        pool = tuple(city for city in pool if city.continent == continent)
        if len({city.country for city in pool}) < 4:
            return make_cities(level, rng)
    verb = rng.choice(["is a city in", "is located in", "lies in", "belongs to"])
    return _ask(
        pool, lambda city: f"The city of {city.name} {verb}", lambda city: city.country, rng
    )


def make_science(level: int, rng: Random) -> Item:
    """Write a question on elements or units."""
    return _SCIENCE[level - 1](rng)


def _symbol(ranks: slice, rng: Random) -> Item:
    pool = facts.elements()[ranks]
    if rng.random() < 0.5:
        return _ask(pool, lambda e: f"The chemical symbol of {e.name} is", lambda e: e.symbol, rng)
    return _ask(pool, lambda e: f"{e.symbol} is the chemical symbol of", lambda e: e.name, rng)


def _quantity(rng: Random) -> Item:
    pool = facts.units()
    article = rng.choice(["The", "One"])
    return _ask(pool, lambda u: f"{article} {u.name} is a unit of", lambda u: u.quantity, rng)


def _number(rng: Random) -> Item:
    pool = facts.elements()[_RARE]
    return _ask(pool, lambda e: f"The atomic number of {e.name} is", lambda e: str(e.number), rng)


def _density(rng: Random) -> Item:
    """The densest of four elements, which differ by 10% at least."""
    pool = [(e.density, e.name) for e in facts.elements() if e.density]
    while True:
        four = sorted(rng.sample(pool, 4), reverse=True)
        if four[0][0] >= 1.1 * four[1][0]:
            break
    names = [name for _, name in four]
    shown = ", ".join(rng.sample(names, 4))
    text = f"Of the elements {shown}, the one with the highest density is"
    return continuation_item(text, f" {names[0]}", [f" {name}" for name in names[1:]], rng)


def _discovery(rng: Random) -> Item:
    """The year of a discovery, among years that are 30 apart at least."""
    pool = [(e.year, e.name) for e in facts.elements() if e.year]
    while True:
        four = rng.sample(pool, 4)
        years = sorted(year for year, _ in four)
        if all(late - early >= 30 for early, late in pairwise(years)):
            break
    text = f"The element {four[0][1]} was discovered in the year"
    return continuation_item(text, f" {four[0][0]}", [f" {year}" for year, _ in four[1:]], rng)


_SCIENCE: tuple[Callable[[Random], Item], ...] = (
    lambda rng: _symbol(_COMMON, rng),
    lambda rng: _symbol(_RARE, rng),
    _number,
    _discovery,
    _quantity,
    _density,
)
COUNTRIES = LevelSection(
    "countries",
    "scored",
    (
        Level("capitals of the 45 most populous countries", 40),
        Level("capitals of the next 65 countries", 40),
        Level("capitals of the least populous countries", 40),
        Level("currencies of countries of middle size", 40),
        Level("dates of national days", 40),
    ),
    make_countries,
)
CITIES = LevelSection(
    "cities",
    "scored",
    (
        Level("the country of a city with more than 4,000,000 people", 40),
        Level("the country of a city with 1,000,000 to 4,000,000 people", 40),
        Level("the country of a city with 250,000 to 600,000 people", 40),
        Level("the country of a city with 60,000 to 120,000 people, one continent", 40),
        Level("the country of a town with 15,000 to 30,000 people, one continent", 40),
    ),
    make_cities,
)
ELEMENTS_AND_UNITS = LevelSection(
    "elements_and_units",
    "scored",
    (
        Level("symbols of common elements", 40),
        Level("symbols of rare elements", 40),
        Level("atomic numbers of rare elements", 40),
        Level("the year in which an element was discovered", 40),
        Level("the quantity that a unit measures", 40),
        Level("the densest of four elements", 70),
    ),
    make_science,
)
