"""Reading tables: a cell, a maximum, sums and counts under conditions, two tables together."""

from collections.abc import Sequence
from random import Random

from burnish.evaluation.levels.section import Item, Level, LevelSection, completion_item
from burnish.evaluation.levels.words import COLOURS, PEOPLE, THINGS, ladder

_HEADERS = ("Price", "Weight", "Stock", "Sold", "Age", "Points", "Rooms", "Visits")

Row = dict[str, str | int]


def make(level: int, rng: Random) -> Item:
    """Write a question about one or two tables."""
    return _MAKERS[level - 1](rng)


def written(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    header = list(rows[0])
    lines = [
        header,
        ["---"] * len(header),
        *([str(value) for value in row.values()] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rows(count: int, columns: int, rng: Random, groups: int = 0) -> list[Row]:
    """Rows with a name, perhaps a group, and numbers that differ within a column."""
    names = rng.sample(PEOPLE, count)
    colours = rng.sample(COLOURS, groups) if groups else []
    headers = rng.sample(_HEADERS, columns)
    columns_of = {header: rng.sample(range(11, 100), count) for header in headers}
    return [
        {"Name": name}
        | ({"Team": rng.choice(colours)} if groups else {})
        | {header: columns_of[header][index] for header in headers}
        for index, name in enumerate(names)
    ]


def _cell(rows: int, columns: int, rng: Random) -> Item:
    table = _rows(rows, columns, rng)
    header = list(table[0])[rng.randint(1, columns)]
    four = rng.sample(table, 4)
    text = f"{written(table)}\n\nThe value of {header} for {four[0]['Name']} is"
    right, *wrong = (str(row[header]) for row in four)
    return completion_item(text, right, wrong, rng)


def _extreme(rng: Random) -> Item:
    table = _rows(7, 3, rng)
    header = list(table[0])[rng.randint(1, 3)]
    ordered = sorted(table, key=lambda row: -int(row[header]))
    word = rng.choice(["highest", "lowest"])
    best = ordered[0] if word == "highest" else ordered[-1]
    others = rng.sample([row for row in table if row is not best], 3)
    text = f"{written(table)}\n\nThe {word} value of {header} is that of"
    return completion_item(text, str(best["Name"]), [str(row["Name"]) for row in others], rng)


def _group_sum(rng: Random) -> Item:
    """The sum of one column for one team; wrong are near sums, with one row more or less."""
    table = _rows(8, 2, rng, groups=3)
    team, header = rng.choice(table)["Team"], list(table[0])[rng.randint(2, 3)]
    right = sum(int(row[header]) for row in table if row["Team"] == team)
    text = f"{written(table)}\n\nThe sum of {header} of the {team} team is"
    values = ladder(right, rng.choice([1, 5, 10]), rng)
    return completion_item(text, str(values[0]), [str(value) for value in values[1:]], rng)


def _two_conditions(rng: Random) -> Item:
    table = _rows(20, 3, rng, groups=3)
    team, (first, second) = rng.choice(table)["Team"], rng.sample(list(table[0])[2:], 2)
    values = sorted(int(row[first]) for row in table if row["Team"] == team)
    bound = values[rng.randrange((len(values) + 1) // 2)] - 1
    rows = [row for row in table if row["Team"] == team and int(row[first]) > bound]
    right = sum(int(row[second]) for row in rows)
    text = (
        f"{written(table)}\n\nThe sum of {second} over all rows of the {team} team in "
        f"which {first} is above {bound} is"
    )
    values = ladder(right, rng.choice([1, 7, 10]), rng)
    return completion_item(text, str(values[0]), [str(value) for value in values[1:]], rng)


def _joined(rng: Random) -> Item:
    """A sum of products over two tables: amounts of orders, prices of things."""
    things = rng.sample(THINGS, 8)
    prices: list[Row] = [{"Thing": thing, "Price": rng.randint(3, 49)} for thing in things]
    buyers = rng.sample(PEOPLE, 4)
    orders: list[Row] = [
        {"Buyer": rng.choice(buyers), "Thing": rng.choice(things), "Amount": rng.randint(2, 19)}
        for _ in range(24)
    ]
    price = {str(row["Thing"]): int(row["Price"]) for row in prices}
    buyer, bound = orders[0]["Buyer"], min(rng.randint(10, 25), price[str(orders[0]["Thing"])])
    right = sum(
        int(row["Amount"]) * price[str(row["Thing"])]
        for row in orders
        if row["Buyer"] == buyer and price[str(row["Thing"])] >= bound
    )
    text = (
        f"{written(prices)}\n\n{written(orders)}\n\nAll orders of {buyer} that are for things "
        f"with a price of {bound} or more together cost"
    )
    values = ladder(right, rng.choice([1, 10, bound]), rng)
    return completion_item(text, str(values[0]), [str(value) for value in values[1:]], rng)


_MAKERS = (
    lambda rng: _cell(4, 1, rng),
    lambda rng: _cell(8, 4, rng),
    _extreme,
    _group_sum,
    _two_conditions,
    _joined,
)
TABLES = LevelSection(
    "tables",
    "scored",
    (
        Level("a cell of a table with four rows", 110),
        Level("a cell of a table with eight rows and four columns", 250),
        Level("the row with the highest or lowest value", 200),
        Level("the sum of one group of eight rows", 210),
        Level("a sum under two conditions, twenty rows", 500),
        Level("a sum of products over two tables, with a condition", 520),
    ),
    make,
)
