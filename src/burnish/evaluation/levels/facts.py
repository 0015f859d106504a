"""The tables of facts that knowledge items are made of; their sources are in their first lines."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

# Cities of the five levels have at least so many people.
_SIZES = (4_000_000, 1_000_000, 250_000, 60_000, 15_000)


@dataclass(frozen=True, slots=True)
class Country:
    """A country; the national day is its name and date, or empty."""

    name: str
    capital: str
    currency: str
    continent: str
    national_day: str


@dataclass(frozen=True, slots=True)
class City:
    """A city whose name no other city of 15,000 people has; level 1 are the largest."""

    name: str
    country: str
    continent: str
    level: int


@dataclass(frozen=True, slots=True)
class Element:
    """A chemical element; year of discovery and density in g/cm3 may be unknown."""

    number: int
    symbol: str
    name: str
    year: int | None
    density: float | None


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit and the quantity that it measures; level 1 are units of the SI without a factor."""

    name: str
    quantity: str
    level: int


@cache
def countries() -> tuple[Country, ...]:
    """All countries, from the most to the least populous."""
    return tuple(Country(*row) for row in _rows("countries"))


@cache
def cities(level: int) -> tuple[City, ...]:
    """The cities of a level from 1 to 5, from the largest to the smallest."""
    all_cities = (
        City(name, country, continent, _level(int(population)))
        for name, country, continent, population in _rows("cities")
    )
    return tuple(city for city in all_cities if city.level == level)


@cache
def elements() -> tuple[Element, ...]:
    """All elements, from the most to the least abundant in the earth's crust."""
    return tuple(
        Element(
            int(number),
            symbol,
            name,
            int(year) if year else None,
            float(density) if density else None,
        )
        for number, symbol, name, year, density in _rows("elements")
    )


@cache
def units() -> tuple[Unit, ...]:
    """All units."""
    return tuple(Unit(name, quantity, int(level)) for name, quantity, level in _rows("units"))


@cache
def invented_cities(level: int) -> tuple[str, ...]:
    """Names like those of the cities of a level, which no place of 500 people has."""
    rows = _rows("invented")
    return tuple(name for kind, number, name in rows if kind == "city" and int(number) == level)


@cache
def invented_elements() -> tuple[str, ...]:
    """Names that sound like elements and are none."""
    return tuple(name for kind, _, name in _rows("invented") if kind == "element")


def _level(population: int) -> int:
    return next(level for level, least in enumerate(_SIZES, 1) if population >= least)


@cache
def _rows(table: str) -> tuple[tuple[str, ...], ...]:
    """The rows of a table; the first line is its source, and the second one its header."""
    path = files("burnish.evaluation.levels") / "data" / f"{table}.tsv"
    lines = path.read_text(encoding="utf-8").split("\n")
    return tuple(tuple(line.split("\t")) for line in lines[2:] if line)
