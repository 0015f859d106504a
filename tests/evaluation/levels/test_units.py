"""Conversions are computed again with factors to base units."""

import re
from fractions import Fraction

import pytest

from burnish.evaluation.levels.units import UNITS
from tests.evaluation.levels.drawing import chosen, right

# Each unit in the smallest one of its kind.
_IN_BASE = {
    "millimetres": 1, "centimetres": 10, "metres": 1000, "kilometres": 10**6,
    "grams": 1, "kilograms": 1000, "tonnes": 10**6, "millilitres": 1, "litres": 1000,
    "seconds": 1, "minutes": 60, "hours": 3600, "days": 86400, "weeks": 604800,
    "square centimetres": 1, "square metres": 10**4, "hectares": 10**8, "square kilometres": 10**10,
    "cubic millimetres": 1, "cubic centimetres": 1000, "cubic metres": 10**9,
    "inches": 1, "feet": 12, "yards": 36, "miles": 63360, "ounces": 1, "pounds": 16, "stones": 224,
    "pints": 1, "gallons": 8,
}  # fmt: skip
_AMOUNT = rf"([\d.]+) ({'|'.join(sorted(_IN_BASE, key=len, reverse=True))})"


@pytest.mark.parametrize("level", range(2, 7))
def test_both_sides_are_equal_in_base_units(level: int) -> None:
    for item in chosen(UNITS, level):
        number, unit = right(item).split(" ", 1)
        base = _IN_BASE | (
            {"litres": 10**6} if "cubic metres" in item.question + right(item) else {}
        )
        asked = sum(Fraction(a) * base[u] for a, u in re.findall(_AMOUNT, item.question))
        assert Fraction(number) * base[unit] == asked
        assert sum(choice.endswith(f" {unit}") for choice in item.choices) == 4


def test_a_few_of_the_large_unit() -> None:
    for item in chosen(UNITS, 1):
        small, amount, large = re.findall(r"number of (\w+) in (\d) (\w+) is$", item.question)[0]
        assert int(right(item)) * _IN_BASE[small] == int(amount) * _IN_BASE[large]


def test_volumes_of_flows() -> None:
    for item in chosen(UNITS, 7):
        flow, hours, minutes = map(int, re.findall(r"\d+", item.question))
        litres = Fraction(flow * (hours * 60 + minutes) * 60, 1000)
        assert Fraction(right(item).split()[0]) == litres
