"""Parquet and Arrow give the rows that JSON Lines of the same rows give."""

import json
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from burnish.data.load import load_rows
from burnish.data.readers.read_rows import BadRow, Row, read_rows
from burnish.errors import DataError
from tests.refused import refused


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def tool(name: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


ROWS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "user", "content": f"add {n}"},
            {"role": "assistant", "tool_calls": [call("add", a=n, b=1)]},
            {"role": "tool", "content": "5"},
            {"role": "assistant", "content": f"It is {n}.", "weight": 1.0},
        ],
        "tools": [tool("add", a={"type": "number"}, b={"type": "number", "minimum": 0})],
    }
    for n in range(5)
] + [
    {
        "messages": [
            {"role": "user", "content": f"weather {n}"},
            {"role": "assistant", "tool_calls": [call("weather", city="Ulm", at={"day": n})]},
        ],
        "tools": [tool("weather", city={"type": "string", "enum": ["Ulm"]}), tool("none")],
    }
    for n in range(5)
]


def values(path: Path) -> list[Any]:
    return [row.values if isinstance(row, Row) else row.reason for row in read_rows(path)]


def written(folder: Path, table: pa.Table) -> dict[str, Path]:
    """The same table in each kind of file."""
    paths = {name: folder / f"rows.{name}" for name in ("parquet", "feather", "arrow", "bin")}
    pq.write_table(table, paths["parquet"])
    feather.write_feather(table, paths["feather"])
    with pa.OSFile(str(paths["arrow"]), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table)
    paths["bin"].write_bytes(paths["parquet"].read_bytes())  # the bytes decide
    return paths


@pytest.mark.parametrize("kind", ["parquet", "feather", "arrow", "bin"])
def test_nulls_of_a_struct_are_absent(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, pa.Table.from_pylist(ROWS))[kind]
    assert values(path) == ROWS
    lines = tmp_path / "rows.jsonl"
    lines.write_text("\n".join(map(json.dumps, ROWS)))
    ours, theirs = load_rows(path), load_rows(lines)
    assert [(e.id, e.messages) for e in ours] == [(e.id, e.messages) for e in theirs]


def test_the_example_would_not_hold_without_it() -> None:
    first = pa.Table.from_pylist(ROWS).to_pylist()[0]
    assert "null" in json.dumps(first["tools"])


def test_a_column_that_is_null_stays(tmp_path: Path) -> None:
    rows = [{"messages": None, "prompt": "q", "tools": None}, {"messages": [], "prompt": None}]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert values(path) == [rows[0], {**rows[1], "tools": None}]


def test_types_of_lists_and_maps(tmp_path: Path) -> None:
    turn = pa.struct([("role", pa.large_string()), ("weight", pa.float32())])
    data = [{"role": "user", "weight": None}, None]
    columns = {
        "list": pa.array([data], pa.list_(turn)),
        "large": pa.array([data], pa.large_list(turn)),
        "fixed": pa.array([data], pa.list_(turn, 2)),
        "nested": pa.array([[data]], pa.list_(pa.list_(turn))),
        "map": pa.array([[("a", {"role": "x"}), ("b", None)]], pa.map_(pa.string(), turn)),
        "words": pa.array([["a", None]], pa.list_(pa.string())),
        "encoded": pa.array(["x"]).dictionary_encode(),
        "empty": pa.nulls(1),
    }
    bare = {"role": "user"}
    wanted = {
        "list": [bare, None],
        "large": [bare, None],
        "fixed": [bare, None],
        "nested": [[bare, None]],
        "map": {"a": {"role": "x"}, "b": None},
        "words": ["a", None],
        "encoded": "x",
        "empty": None,
    }
    for path in written(tmp_path, pa.table(columns)).values():
        assert values(path) == [wanted]


def test_other_values_are_such_as_json_has(tmp_path: Path) -> None:
    columns = {
        "text": pa.array([b"caf\xc3\xa9"], pa.binary()),
        "bytes": pa.array([b"\xff\x00"], pa.binary()),
        "day": pa.array([date(2024, 5, 6)]),
        "at": pa.array([datetime(2024, 5, 6, 7, 8)], pa.timestamp("ns")),
        "inside": pa.array([{"price": Decimal("1.50"), "count": Decimal("3.00"), "no": None}]),
    }
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path)
    (row,) = values(path)
    assert row == {
        "text": "café",
        "bytes": {"bytes": 2},
        "day": "2024-05-06",
        "at": "2024-05-06T07:08:00",
        "inside": {"price": 1.5, "count": 3},
    }
    json.dumps(row)


def test_class_labels_are_names(tmp_path: Path) -> None:
    label = {"names": ["billing", "delivery"], "_type": "ClassLabel"}
    features = {
        "label": label,
        "tags": {"feature": label, "_type": "Sequence"},
        "more": [label],
        "inside": {"a": label},
        "text": {"dtype": "string", "_type": "Value"},
    }
    rows = [
        {"text": "a", "label": 1, "tags": [0, 1], "more": [1], "inside": {"a": 0}},
        {"text": "b", "label": -1, "tags": [], "more": None, "inside": {"a": None}},
    ]
    schema = pa.Table.from_pylist(rows).schema.with_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    for path in written(tmp_path, pa.Table.from_pylist(rows, schema)).values():
        assert values(path) == [
            {
                "text": "a",
                "label": "delivery",
                "tags": ["billing", "delivery"],
                "more": ["delivery"],
                "inside": {"a": "billing"},
            },
            {"text": "b", "label": None, "tags": [], "more": None, "inside": {}},
        ]


@pytest.mark.parametrize("metadata", [b"", b"[]", b'{"info": null}', b'{"info": {"features": 3}}'])
def test_other_metadata_is_passed_over(tmp_path: Path, metadata: bytes) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"a": [1]}).replace_schema_metadata(
        {b"huggingface": metadata, b"pandas": b"x"}
    )
    pq.write_table(table, path)
    assert values(path) == [{"a": 1}]


def test_the_index_of_pandas_is_no_column(tmp_path: Path) -> None:
    about = json.dumps({"index_columns": ["__index_level_0__"]})
    table = pa.table({"text": ["a"], "__index_level_0__": [7]})
    path = tmp_path / "a.parquet"
    pq.write_table(table.replace_schema_metadata({b"pandas": about.encode()}), path)
    assert values(path) == [{"text": "a"}]
    pq.write_table(table, path)
    assert values(path) == [{"text": "a", "__index_level_0__": 7}]


def test_categories_with_long_names_are_not_counted_for_each_row(tmp_path: Path) -> None:
    names = [f"{n}" + "x" * 9000 for n in range(300)]  # 2.7 MB of names
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"label": pa.array(names).dictionary_encode()}), path)
    rows = list(read_rows(path))
    assert [row.values["label"] for row in rows if isinstance(row, Row)] == names
    assert not [row for row in rows if isinstance(row, BadRow)]


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]), path)
    with refused("repeated_column", DataError, path=str(path), column="a"):
        values(path)
