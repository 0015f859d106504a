"""JSON that is not what its name says, read where that is unambiguous."""

import json
from pathlib import Path
from typing import Any

import pytest

from burnish.data.readers.read_rows import BadRow, Row, read_rows

ROWS: list[dict[str, Any]] = [{"a": n, "b": {"c": [n, {"d": "}],"}]}} for n in range(30)]
LINES = "\n".join(map(json.dumps, ROWS))
PRETTY = json.dumps(ROWS, indent=2)
WRITTEN = {
    "array": json.dumps(ROWS),
    "array with a mark": "\ufeff" + json.dumps(ROWS),
    "pretty array": PRETTY,
    "array of lines": "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n",
    "array with a last comma": "[" + ",\n".join(map(json.dumps, ROWS)) + ",\n]",
    "lines": LINES,
    "lines with commas": LINES.replace("\n", ",\n"),
    "lines that all end in commas": LINES.replace("\n", " , \n") + ",",
    "pretty objects": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "pretty objects with commas": ",\n".join(json.dumps(row, indent=2) for row in ROWS),
}


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize("kind", WRITTEN)
def test_rows_are_the_same_however_they_stand(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    path.write_text(WRITTEN[kind], encoding="utf-8")
    heard: list[str] = []
    rows = list(read_rows(path, heard.append))
    assert [getattr(row, "values", row) for row in rows] == ROWS
    usual = {
        "a.jsonl": ("lines",),
        "a.json": tuple(k for k in WRITTEN if k.startswith(("array", "pretty a"))),
    }
    assert bool(heard) is (kind not in usual[name])


def test_lists_on_lines_are_no_array(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    path = tmp_path / "a.jsonl"
    path.write_text(f"{json.dumps(turns)}\n{json.dumps(turns)}\n")
    bad = [row for row in read_rows(path) if isinstance(row, BadRow)]
    assert [(row.code, row.fields["type"]) for row in bad] == [("not_object", "list")] * 2
    assert '{"messages": [...]}' in bad[0].remedy


def test_python_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{'a': 'b'}\n")
    (bad,) = read_rows(path)
    assert isinstance(bad, BadRow)
    assert bad.code == "python_not_json"


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_second_value_does_not_replace_the_first(tmp_path: Path, name: str) -> None:
    rows = ['{"a": 1, "a": 2}', '{"b": [{"c": 1, "c": null}]}', '{"a": 1, "a": 1}', '{"a": 3}']
    path = tmp_path / name
    path.write_text("\n".join(rows) if name == "a.jsonl" else f"[{','.join(rows)}]")
    found = list(read_rows(path))
    assert [(row.code, row.fields) if isinstance(row, BadRow) else row.values for row in found] == [
        ("repeated_key", {"key": "a"}),
        ("repeated_key", {"key": "c"}),
        {"a": 1},
        {"a": 3},
    ]


def test_a_long_key_is_cut(tmp_path: Path) -> None:
    key = "k" * 5000
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"{key}": 1, "{key}": 2}}')
    (bad,) = read_rows(path)
    assert isinstance(bad, BadRow)
    assert len(bad.reason) < 300


def test_null_stays_null(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": null, "b": {"c": null}}')
    assert [row.values for row in read_rows(path) if isinstance(row, Row)] == [
        {"a": None, "b": {"c": None}}
    ]


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1}{"a": 2}{"a": 3}',
        '{"a": 1} {"a": 2}\n{"a": 3}\n',
        '{"a": 1}, {"a": 2},\n{"a": 3}\n',
        '{"a":\n1}\n{"a":\n2}\n{"a":\n3}\n',
        '{"a": 1, "b": [\n{"c": 1},\n{"c": 2}]}\n{"a": 2}\n{"a": 3}\n',
    ],
)
def test_objects_need_no_line_of_their_own(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    notices: list[str] = []
    rows = list(read_rows(path, notices.append))
    assert [row.values["a"] for row in rows if isinstance(row, Row)] == [1, 2, 3]
    assert len(rows) == 3
    assert notices == [
        f"{path} does not hold one object on each line, and was read object by object"
    ]


@pytest.mark.parametrize(
    ("line", "code", "fields"),
    [
        ("text,label", "not_json", {"value": "'text,label'"}),
        ("// mine", "not_json", {"value": "'// mine'"}),
        ('"{\\"a\\": 1}"', "quoted_object", {}),
        ('{"a": ', "broken_json", {}),
    ],
)
def test_a_line_that_is_no_object_says_what_it_is(
    tmp_path: Path, line: str, code: str, fields: dict[str, Any]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{line}\n{{"a": 2}}\n')
    bad, good = read_rows(path)
    assert isinstance(bad, BadRow)
    assert bad.code == code
    assert fields.items() <= bad.fields.items()
    assert isinstance(good, Row)
