"""What an error quotes, a person can read."""

import json
from pathlib import Path

import pytest

from burnish.data.load import load
from burnish.errors import DataError, UserError, quantity, readable, shown
from burnish.recipe.data import Data

LONG = "x" * 100_000


@pytest.mark.parametrize(
    "value", [LONG, [LONG] * 9, {LONG: LONG}, 10**3000, [[[[LONG]]]], "é'\"" * 999, LONG.encode()]
)
def test_a_value_is_cut(value: object) -> None:
    assert 190 <= len(shown(value)) <= 200


@pytest.mark.parametrize("value", ["a", 3, None, [1, 'a"b'], {"b": 1, "a": (2,)}, True, 1.5])
def test_a_short_value_is_as_python_writes_it(value: object) -> None:
    assert shown(value) == (repr(value) if not isinstance(value, dict) else "{'a': (2,), 'b': 1}")


def test_a_number_that_python_does_not_write() -> None:
    assert shown(int("f" * 5000, 16)) == "a number of thousands of digits"
    assert "thousands of digits" in shown([int("f" * 5000, 16)])


def test_a_value_is_not_walked_through() -> None:
    nested: list[object] = ["x"]
    for _ in range(60):  # written out, 10 ** 60 values
        nested = [nested] * 10
    assert len(shown(nested)) <= 200


@pytest.mark.parametrize("quoted", [repr(LONG), json.dumps(LONG), LONG, repr([LONG, 'a"b'])])
def test_quotations_of_any_message_are_cut(quoted: str) -> None:
    error = UserError(
        f"the row has {quoted} as label\nand {quoted}", f"write {quoted} again", code="odd"
    )
    assert len(str(error)) < 1000
    assert str(error).startswith("the row has ")
    assert len(error.args[0]) < 1000


def test_a_count_of_one_has_a_noun_in_the_singular() -> None:
    assert [quantity(n, "row") for n in (0, 1, 2)] == ["0 rows", "1 row", "2 rows"]
    assert [quantity(n, "point") for n in (0.5, 1.0, 2.0)] == ["0.5 points", "1 point", "2 points"]
    assert [quantity(n, "row is", "rows are") for n in (1, 3)] == ["1 row is", "3 rows are"]


def test_apostrophes_are_no_quotations() -> None:
    text = "the model's template and the users' rows " + "say what is meant, " * 30 + "it's 'so'"
    assert readable(text) == text


@pytest.mark.parametrize("label", ["label " * 50_000, LONG])
def test_findings_quote_no_more(tmp_path: Path, label: str) -> None:
    rows = [{"text": f"message {n}", "label": f"{label}{n % 2}"} for n in range(40)]
    rows += [
        {"text": "message 1", "label": f"{label}0"},
        {"text": "x", "label": f"{label}0".upper()},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    try:
        messages = [one.message for one in load(Data(train=path), 0).findings]
    except DataError as error:
        messages = [str(error)]
    assert messages
    assert all(len(message) < 12_000 for message in messages)
