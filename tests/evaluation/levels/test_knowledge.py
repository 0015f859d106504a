"""Knowledge items agree with their tables, and invented names occur in none of them."""

import re
from collections.abc import Callable, Iterator

import pytest

from burnish.evaluation.levels import facts
from burnish.evaluation.levels.draw import content_hash
from burnish.evaluation.levels.knowledge import CITIES, COUNTRIES, ELEMENTS_AND_UNITS
from burnish.evaluation.levels.section import LevelSection
from burnish.evaluation.levels.unknown_things import KNOWN_OR_INVENTED, UNKNOWN_THINGS
from burnish.evaluation.reply_checks import passes
from burnish.evaluation.tasks import CheckedItem
from tests.evaluation.levels.drawing import chosen, drawn, right

ALL = [
    (section, level)
    for section in (COUNTRIES, CITIES, ELEMENTS_AND_UNITS)
    for level in range(1, len(section.levels) + 1)
]


def statements() -> Iterator[str]:
    """Every true sentence that an item can be, written from the tables."""
    for country in facts.countries():
        yield f"The capital of {country.name} is {country.capital}"
        yield f"{country.capital} is the capital of {country.name}"
        yield f"The currency of {country.name} is the {country.currency}"
        kind, _, day = country.national_day.partition("|")
        yield f"Every year, {country.name} celebrates its {kind} on {day}"
    for level in range(1, 6):
        for city in facts.cities(level):
            for verb in ("is a city in", "is located in", "lies in", "belongs to"):
                yield f"The city of {city.name} {verb} {city.country}"
    for element in facts.elements():
        yield f"The chemical symbol of {element.name} is {element.symbol}"
        yield f"{element.symbol} is the chemical symbol of {element.name}"
        yield f"The atomic number of {element.name} is {element.number}"
        yield f"The element {element.name} was discovered in the year {element.year}"
    for unit in facts.units():
        yield f"The {unit.name} is a unit of {unit.quantity}"
        yield f"One {unit.name} is a unit of {unit.quantity}"


@pytest.mark.parametrize(("section", "level"), ALL, ids=lambda value: getattr(value, "name", value))
def test_the_right_choice_alone_is_true(section: LevelSection, level: int) -> None:
    true = set(statements())
    contents = set()
    for item in chosen(section, level, 300):
        contents.add(content_hash(item))
        if "highest density" in item.question:
            density = {element.name: element.density or 0 for element in facts.elements()}
            best = max(item.choices, key=lambda name: density[name.strip()]).strip()
            assert right(item) == best
        else:
            assert [c for c in item.choices if f"{item.question}{c}" in true] == [f" {right(item)}"]
    assert len(contents) >= 240  # there is no end of items


def test_known_facts() -> None:
    """A few rows by heart, so that a shifted column would be seen."""
    true = set(statements())
    assert {
        "The capital of Australia is Canberra",
        "The currency of Japan is the Yen",
        "Every year, France celebrates its National Day on 14 July",
        "The city of Lyon lies in France",
        "The chemical symbol of tungsten is W",
        "The atomic number of iron is 26",
        "The element radium was discovered in the year 1898",
        "The pascal is a unit of pressure",
    } <= true


def test_rarer_levels_have_smaller_cities() -> None:
    assert [len(facts.cities(level)) >= 60 for level in range(1, 6)] == [True] * 5
    assert "Tokyo" in {city.name for city in facts.cities(1)}
    assert "Tokyo" not in {city.name for city in facts.cities(4)}


def test_invented_names_are_in_no_table() -> None:
    real = {city.name.casefold() for level in range(1, 6) for city in facts.cities(level)}
    real |= {country.name.casefold() for country in facts.countries()}
    real |= {country.capital.casefold() for country in facts.countries()}
    real |= {element.name for element in facts.elements()} | {u.name for u in facts.units()}
    invented = {name for level in range(1, 6) for name in facts.invented_cities(level)}
    invented |= set(facts.invented_elements())
    assert len(invented) >= 850
    assert not {name.casefold() for name in invented} & real


@pytest.mark.parametrize("level", range(1, 6))
def test_unknown_is_right_for_invented_names_alone(level: int) -> None:
    country = {city.name: city.country for n in range(1, 6) for city in facts.cities(n)}
    symbol = {element.name: element.symbol for element in facts.elements()}
    unknown = 0
    for item in chosen(KNOWN_OR_INVENTED, level, 200):
        name = re.findall(r"(?:city of|element) ([^?]+)\?", item.question)[0]
        table: dict[str, str] = symbol if "element" in item.question else country
        assert right(item) == table.get(name, "Unknown")
        unknown += right(item) == "Unknown"
    assert 30 <= unknown <= 70  # a quarter, so that it is right by chance as often as any other


@pytest.mark.parametrize("level", range(1, 6))
def test_replies_have_to_know_one_city_and_not_the_other(level: int) -> None:
    replies: list[tuple[Callable[[str, str], str], bool]] = [
        (lambda real, country: f"{real} is in {country}. I don't know the other city.", True),
        (lambda real, country: "I do not know these cities.", False),
        (lambda real, country: f"Both {real} and the other city are in {country}.", False),
        (lambda real, country: f"{real} is in Atlantis. The other one does not exist.", False),
    ]
    cities = {city.name: city.country for city in facts.cities(level)}
    for item in drawn(UNKNOWN_THINGS, level):
        assert isinstance(item, CheckedItem)
        names = re.findall(r"city of ([^?]+)\?", item.prompt[0].content)
        (real,) = [name for name in names if name in cities]
        (other,) = set(names) - {real}
        assert other in facts.invented_cities(level)
        for text, good in replies:
            assert passes(text(real, cities[real]), item.check) == good
