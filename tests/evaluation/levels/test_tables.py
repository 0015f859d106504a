"""Tables are read back and the questions are answered again."""

import re
from statistics import fmean

import pytest

from burnish.evaluation.levels.tables import TABLES
from tests.evaluation.levels.drawing import chosen, right

Table = list[dict[str, str]]


def read(text: str) -> list[Table]:
    """The Markdown tables of a question."""
    tables = []
    for block in text.split("\n\n")[:-1]:
        header, _, *rows = (
            [c.strip() for c in line.strip("|").split("|")] for line in block.split("\n")
        )
        tables.append([dict(zip(header, row, strict=True)) for row in rows])
    return tables


@pytest.mark.parametrize("level", [1, 2])
def test_a_cell(level: int) -> None:
    for item in chosen(TABLES, level):
        header, name = re.search(r"value of (\w+) for (\w+)", item.question).groups()  # type: ignore[union-attr]
        (row,) = [row for row in read(item.question)[0] if row["Name"] == name]
        assert right(item) == row[header]


def test_the_highest_and_the_lowest() -> None:
    for item in chosen(TABLES, 3):
        word, header = re.search(r"The (\w+) value of (\w+)", item.question).groups()  # type: ignore[union-attr]
        best = max if word == "highest" else min
        assert right(item) == best(read(item.question)[0], key=lambda row: int(row[header]))["Name"]


def test_sums() -> None:
    for item in chosen(TABLES, 4):
        header, team = re.search(r"The sum of (\w+) of the (\w+) team", item.question).groups()  # type: ignore[union-attr]
        rows = [row for row in read(item.question)[0] if row["Team"] == team]
        assert int(right(item)) == sum(int(row[header]) for row in rows)
    counts = []
    for item in chosen(TABLES, 5):
        header, team, other, bound = re.search(
            r"The sum of (\w+) over all rows of the (\w+) team in which (\w+) is above (\d+)",
            item.question,
        ).groups()  # type: ignore[union-attr]
        rows = read(item.question)[0]
        kept = [row for row in rows if row["Team"] == team and int(row[other]) > int(bound)]
        assert int(right(item)) == sum(int(row[header]) for row in kept)
        counts.append(len(kept))
    assert min(counts) >= 1
    assert fmean(counts) > 2


def test_products_of_two_tables() -> None:
    for item in chosen(TABLES, 6):
        prices, orders = read(item.question)
        price = {row["Thing"]: int(row["Price"]) for row in prices}
        buyer, bound = re.search(r"orders of (\w+) that .* price of (\d+)", item.question).groups()  # type: ignore[union-attr]
        total = 0
        for row in orders:
            if row["Buyer"] == buyer and price[row["Thing"]] >= int(bound):
                total += price[row["Thing"]] * int(row["Amount"])
        assert int(right(item)) == total > 0
