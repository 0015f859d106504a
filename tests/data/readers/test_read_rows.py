import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from burnish.data.readers.read_rows import MAX_ROW_BYTES, BadRow, Row, read_rows
from burnish.errors import DataError
from tests.refused import refused

ROWS: list[dict[str, Any]] = [
    {"text": "where is it", "label": "a"},
    {"text": "né, 2", "label": "b"},
]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def bad(path: Path) -> BadRow:
    """The only bad row among the rows of a file."""
    rows = [row for row in read_rows(path) if isinstance(row, BadRow)]
    assert len(rows) == 1
    return rows[0]


def values(path: Path) -> list[dict[str, Any]]:
    return [dict(row.values) for row in read_rows(path) if isinstance(row, Row)]


def json_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """The same rows in each kind of file."""
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    return {
        "jsonl": write(tmp_path / "a.jsonl", json_lines(ROWS)),
        "json": write(tmp_path / "a.json", json.dumps(ROWS, indent=1)),
        "csv": write(tmp_path / "a.csv", 'text,label\nwhere is it,a\n"né, 2",b\n'),
        "parquet": tmp_path / "a.parquet",
    }


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_every_kind_reads_the_same_and_changes_nothing(files: dict[str, Path], kind: str) -> None:
    before = files[kind].read_bytes()
    assert values(files[kind]) == ROWS
    assert files[kind].read_bytes() == before


@pytest.mark.parametrize(
    ("kind", "lines"), [("jsonl", [1, 2]), ("json", [2, 6]), ("csv", [2, 3]), ("parquet", [1, 2])]
)
def test_source_is_where_the_row_begins(
    files: dict[str, Path], kind: str, lines: list[int]
) -> None:
    sources = [row.source for row in read_rows(files[kind])]
    assert sources == [f"{files[kind]}:{line}" for line in lines]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_byte_order_mark_is_no_content(files: dict[str, Path], kind: str) -> None:
    write(files[kind], b"\xef\xbb\xbf" + files[kind].read_bytes())
    assert values(files[kind]) == ROWS


def test_text_blocks_are_documents(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\none\ntwo\n\n \r\nthree\n")
    rows = list(read_rows(path))
    assert rows == [Row({"text": "one\ntwo"}, f"{path}:2"), Row({"text": "three"}, f"{path}:6")]


@pytest.mark.parametrize(
    ("line", "code", "fields"),
    [
        (b'{"text": "\xff"}', "not_utf8", {}),
        (b'{"text": "cut he', "broken_json", {}),
        (b'["a"]', "not_object", {"type": "list"}),
        (b"null", "not_object", {"type": "NoneType"}),
        (b'{"text": "\\ud83d"}', "half_character", {}),
        (b"[" * 100_000, "broken_json", {"reason": "nested too deeply"}),
        (b'{"n": ' + b"1" * 5000 + b"}", "broken_json", {}),
        (b'{"t": "' + b"x" * MAX_ROW_BYTES + b'"}', "row_too_long", {}),
    ],
)
def test_bad_json_line_is_told_and_passed_over(
    tmp_path: Path, line: bytes, code: str, fields: dict[str, Any]
) -> None:
    good = json_lines(ROWS[:1]).encode()
    path = write(tmp_path / "a.jsonl", good + line + b"\n\n" + good)
    found = bad(path)
    assert found.source == f"{path}:2"
    assert found.code == code
    assert fields.items() <= found.fields.items()
    assert len(values(path)) == 2


def test_row_of_just_the_limit_is_good(tmp_path: Path) -> None:
    line = '{"t": "%s"}' % ("x" * (MAX_ROW_BYTES - 9))
    assert len(line) == MAX_ROW_BYTES
    assert len(values(write(tmp_path / "a.jsonl", line + "\n"))) == 1


@pytest.mark.parametrize(
    ("line", "code", "fields"),
    [
        (b"a,b,c", "wrong_field_count", {"count": 3, "expected": 2}),
        (b"a", "wrong_field_count", {"count": 1, "expected": 2}),
        (b"a,\xe9", "not_utf8", {}),
        (b'"a"b,c', "broken_csv", {}),
        (b"a," + b"x" * (MAX_ROW_BYTES + 5), "row_too_long", {}),
        (b"a," + b"x" * (MAX_ROW_BYTES - 1), "row_too_long", {}),
        (b'"a\n' + b"x" * MAX_ROW_BYTES + b'",b', "row_too_long", {}),
        (b"x" * 600_000 + b"," + b"x" * 400_000, "row_too_long", {}),
    ],
)
def test_bad_csv_row_is_told_and_passed_over(
    tmp_path: Path, line: bytes, code: str, fields: dict[str, Any]
) -> None:
    path = write(tmp_path / "a.csv", b'text,label\n"good\nrow",a\n' + line + b"\ngood,b\n")
    assert bad(path).source == f"{path}:4"
    assert bad(path).code == code
    assert fields.items() <= bad(path).fields.items()
    assert [row["label"] for row in values(path)] == ["a", "b"]


def test_quote_that_is_never_closed_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,label\ngood,a\n"open,b\nc,d\n')
    assert bad(path).code == "broken_csv"


def test_bad_parquet_rows_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    broken = pa.array([b"fine", b"\xff", b"x" * (MAX_ROW_BYTES + 1)]).view(pa.string())
    pq.write_table(pa.table({"text": broken}), path)
    codes = [row.code for row in read_rows(path) if isinstance(row, BadRow)]
    assert codes == ["not_utf8", "row_too_long"]
    assert values(path) == [{"text": "fine"}]


def test_bad_text_blocks_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"\xff\n\n" + b"line\n" * 300_000 + b"\nfine\n")
    codes = [row.code for row in read_rows(path) if isinstance(row, BadRow)]
    assert codes == ["not_utf8", "row_too_long"]
    assert values(path) == [{"text": "fine"}]


def test_bad_array_items_are_told(tmp_path: Path) -> None:
    items: list[Any] = [ROWS[0], 12, {"t": "x" * MAX_ROW_BYTES}, ROWS[1]]
    path = write(tmp_path / "a.json", json.dumps(items))
    codes = [row.code for row in read_rows(path) if isinstance(row, BadRow)]
    assert codes == ["not_object", "row_too_long"]
    assert values(path) == ROWS


def test_array_goes_on_across_windows(tmp_path: Path) -> None:
    items = [{"n": n, "text": "x" * (n % 997)} for n in range(6000)]  # about 3 windows
    assert values(write(tmp_path / "a.json", json.dumps(items))) == items


@pytest.mark.parametrize("content", ["[]", " [ ] ", "[{}]"])
def test_small_arrays(tmp_path: Path, content: str) -> None:
    assert values(write(tmp_path / "a.json", content)) == json.loads(content)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("indent", [None, 2])
def test_the_one_list_of_an_object_is_read(tmp_path: Path, name: str, indent: int | None) -> None:
    items = [{"n": n, "t": "x" * 500} for n in range(5000)]  # more than a row may have
    wrapped = {"version": 1, "meta": {"tags": ["a"]}, "data": items, "info": None}
    path = write(tmp_path / name, json.dumps(wrapped, indent=indent))
    heard: list[str] = []
    assert [getattr(row, "values", row) for row in read_rows(path, heard.append)] == items
    assert heard == [f"{path} holds one object, and the list 'data' in it was read"]


@pytest.mark.parametrize(
    ("name", "content", "code", "fields"),
    [
        ("a.json", '{"a": 1}', "no_array", {"key": None}),
        ("a.json", " \n", "no_rows", {}),
        ("a.json", '[{"a": 1},\n{"b', "broken_json", {"line": 2}),
        (
            "a.json",
            '[{"a": 1} {"b": 1}]',
            "broken_json",
            {"line": 1, "reason": "a comma or ] is missing"},
        ),
        ("a.json", b'[{"a": "\xff"}]', "not_utf8", {}),
        ("a.json", "[" * 100_000, "broken_json", {"line": 1, "reason": "nested too deeply"}),
        ("a.csv", "a,b,a\n1,2,3\n", "repeated_column", {"column": "a"}),
        ("a.csv", b"\xff,b\n1,2\n", "not_utf8", {}),
        ("a.csv", '"a"b,c\n', "broken_header", {}),
        ("a.csv", "a;b\nx\ny\n", "one_column", {"column": "a;b"}),
        (
            "a.json",
            '[{"a": 1}] x',
            "broken_json",
            {"line": 1, "reason": "there is more behind the closing ]"},
        ),
        ("a.json", '{"messages": [{"role": "user"}]}', "no_array", {"key": "messages"}),
        (
            "a.json",
            '{"train": [{"text": "a"}], "test": [{"text": "b"}]}',
            "several_lists",
            {"keys": ["train", "test"]},
        ),
        ("a.json", "text,label\na,b\nc,d\n", "other_file_kind", {"found": "a CSV file"}),
        ("a.jsonl", "text,label\na,b\nc,d\n", "other_file_kind", {"found": "a CSV file"}),
        ("a.jsonl", 'text;label\n"a, b";b\nc;d\n', "other_file_kind", {"found": "a CSV file"}),
        ("a.jsonl", "text\tlabel\na\tb\nc\td\n", "other_file_kind", {"found": "a TSV file"}),
        (
            "a.jsonl",
            "Once, upon\na time\n\nthere was\n",
            "other_file_kind",
            {"found": "plain text"},
        ),
        ("a.jsonl", '[{"a": 1},\n{"b', "broken_json", {"line": 2}),
        ("a.csv", b"PK\x03\x04rest", "not_text", {"found": "a ZIP archive or an Excel workbook"}),
        (
            "a.jsonl.gz",
            gzip.compress(b"{}" * 99, mtime=0)[:-9],
            "broken_file",
            {},
        ),
        ("a.jsonl", "version https://git-lfs.github.com/spec/v1\n", "git_lfs_pointer", {}),
        ("a.parquet", "version https://git-lfs.github.com/spec/v1\n", "git_lfs_pointer", {}),
        ("a.csv", "\ufeff\n<!DOCTYPE html>\n<p>", "web_page", {}),
        ("a.parquet", "<html><p>", "web_page", {}),
        ("a.csv", '{"text": "a"}\n', "other_file_kind", {"found": "JSON"}),
        ("a.tsv", '[\n {"text": "a"}]\n', "other_file_kind", {"found": "JSON"}),
        ("a.jsonl.zip", b"PK\x03\x04", "other_file_kind", {"found": "an archive"}),
        ("a.parquet.gz", b"", "compressed", {}),
        ("a.yaml", "data: {}", "other_file_kind", {"found": "a recipe, not a file of rows"}),
        ("a.parquet", "PAR1", "broken_file", {}),
        ("a.xlsx", "", "other_file_kind", {"found": "an Excel workbook"}),
        ("a.exe", "", "unknown_file_kind", {"suffix": ".exe"}),
        ("data", "", "unknown_file_kind", {"suffix": ""}),
    ],
)
def test_file_that_cannot_be_used(
    tmp_path: Path, name: str, content: str | bytes, code: str, fields: dict[str, Any]
) -> None:
    path = write(tmp_path / name, content)
    with refused(code, DataError, path=str(path), **fields):
        list(read_rows(path))


def test_missing_file_has_a_spelling_hint(tmp_path: Path) -> None:
    write(tmp_path / "support.jsonl", "")
    near = f"{tmp_path}/support.jsonl"
    with refused("file_missing", DataError, path=f"{tmp_path}/suport.jsonl", closest=near):
        read_rows(tmp_path / "suport.jsonl")
    for other in ("nowhere/x.jsonl", "report.jsonl", "s.jsonl"):
        with refused("file_missing", DataError, path=f"{tmp_path}/{other}", closest=None):
            read_rows(tmp_path / other)
    with refused("file_missing", DataError, closest=near):
        read_rows(tmp_path / "support.csv")


def test_a_device_is_no_file() -> None:
    with refused("not_a_file", DataError, path="/dev/null"):
        read_rows(Path("/dev/null"))


def test_folder_is_no_file(tmp_path: Path) -> None:
    with refused("is_folder", DataError, path=str(tmp_path)):
        read_rows(tmp_path)


def test_file_without_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", "{}")

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with refused("file_unreadable", DataError, path=str(path), reason="Permission denied"):
        list(read_rows(path))


@pytest.mark.parametrize("kind", ["jsonl", "csv", "json", "txt"])
def test_reading_takes_the_memory_of_one_row(tmp_path: Path, kind: str) -> None:
    row = {"jsonl": '{"text": "%s"}\n', "csv": "%s\n", "json": '{"text": "%s"},', "txt": "%s\n\n"}
    ends = {"json": ("[", "{}]"), "csv": ("text\n", "")}.get(kind, ("", ""))
    path = tmp_path / f"a.{kind}"
    path.write_text(ends[0] + (row[kind] % ("x" * 500)) * 30_000 + ends[1])  # 15 MB
    tracemalloc.start()
    count = sum(1 for _ in read_rows(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count >= 30_000
    assert peak < 8_000_000
