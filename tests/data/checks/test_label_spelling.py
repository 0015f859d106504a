"""Labels that look alike are told, with spellings that can be told apart."""

from pathlib import Path
from typing import Any

import pytest

from burnish.data.load import load
from burnish.errors import DataError
from burnish.recipe.data import Data
from burnish.runs.directory import Finding
from tests.refused import refused
from tests.rows import write_rows

COMPOSED, APART = "caf\u00e9", "cafe\u0301"


def spelling(folder: Path, rows: list[dict[str, Any]], **options: Any) -> list[Finding]:
    data = Data(train=write_rows(folder / "rows.jsonl", rows), **options)
    return [one for one in load(data, 0).findings if one.kind == "spelling"]


@pytest.mark.parametrize(
    ("one", "other", "shown"),
    [
        (COMPOSED, APART, r"'caf\xe9' (20 rows) and 'cafe\u0301' (10 rows)"),
        ("Refund", "refund", "'Refund' (20 rows) and 'refund' (10 rows)"),
        ("a b", "a  b", "'a b' (20 rows) and 'a  b' (10 rows)"),
        ("a b", "a\u00a0b", r"'a b' (20 rows) and 'a\xa0b' (10 rows)"),
        ("ab", "a\u200bb", r"'ab' (20 rows) and 'a\u200bb' (10 rows)"),
        ("AB", "\uff21\uff22", r"'AB' (20 rows) and '\uff21\uff22' (10 rows)"),
        ("straße", "STRASSE", "'straße' (20 rows) and 'STRASSE' (10 rows)"),
    ],
)
@pytest.mark.parametrize("fields", [("text", "label"), ("prompt", "completion")])
def test_both_spellings_are_shown(
    one: str, other: str, shown: str, fields: tuple[str, str], tmp_path: Path
) -> None:
    text, label = fields
    names = (one, one, other, "tea")
    rows = [{text: f"message {n}", label: names[n % 4]} for n in range(40)]
    (found,) = spelling(tmp_path, rows)
    assert (found.severity, found.count) == ("warning", 10)
    assert shown in found.message


def test_spans_are_of_types_too(tmp_path: Path) -> None:
    rows = [{"tokens": [f"w{n}"], "tags": [("B-Thing", "B-thing")[n % 2]]} for n in range(20)]
    (found,) = spelling(tmp_path, rows)
    assert "span types that differ only" in found.message


def test_labels_that_differ_otherwise_are_no_matter(tmp_path: Path) -> None:
    rows = [{"text": f"message {n}", "label": ("tea", "teas")[n % 2]} for n in range(20)]
    assert spelling(tmp_path, rows) == []
    answers = [{"prompt": f"q{n}", "completion": f"{'aA'[n % 2]}{n // 2}"} for n in range(20)]
    assert spelling(tmp_path, answers) == []


def test_a_test_set_of_another_spelling(tmp_path: Path) -> None:
    rows = [{"text": f"message {n}", "label": (COMPOSED, "tea")[n % 2]} for n in range(20)]
    test = write_rows(tmp_path / "test.jsonl", [{"text": "what", "label": APART}])
    with refused("label_spelt_differently", DataError, label=APART, other=COMPOSED) as caught:
        spelling(tmp_path, rows, test=test)
    assert r"'cafe\u0301'" in str(caught.value)
    assert r"'caf\xe9'" in str(caught.value)
