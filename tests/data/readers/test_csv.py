"""Tables as spreadsheets and people write them."""

from pathlib import Path

import pytest

from burnish.data.readers.read_rows import BadRow, Row, read_rows

ROWS = [{"text": f"message, {n}; ok", "label": "ab"[n % 2]} for n in range(9)]


def table(delimiter: str, *, space: str = "", trail: str = "", head: str | None = None) -> str:
    header = head or delimiter.join(["text", f"{space}label"]) + trail
    lines = [f'"{r["text"]}"{delimiter}{space}{r["label"]}{trail}' for r in ROWS]
    return "\n".join([header, *lines, ""])


def values(path: Path, content: str) -> list[object]:
    path.write_text(content, encoding="utf-8")
    return [row.values if isinstance(row, Row) else row.reason for row in read_rows(path)]


@pytest.mark.parametrize(
    "content",
    [
        table(","),
        table(";"),
        table("\t"),
        table("|"),
        table(",", trail=",,"),
        table(";", trail=";"),
        table(",", space=" "),
        table(";", space="  "),
        table(",", head=" text , label ,"),
        table(",", head="\ufefftext,label"),
        table(",", trail=",", head="text,label"),  # in the rows alone
        "\n\n" + table(","),
        "sep=;\n" + table(";"),
        "sep=,\r\n" + table(","),
    ],
)
def test_layouts(tmp_path: Path, content: str) -> None:
    assert values(tmp_path / "a.csv", content) == ROWS


def test_quotes_behind_spaces(tmp_path: Path) -> None:
    content = 'text,label\n"one, two", "a"\n"three", "b"\n'
    wanted = [{"text": "one, two", "label": "a"}, {"text": "three", "label": "b"}]
    assert values(tmp_path / "a.csv", content) == wanted


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ('text\tlabel\nsay "x" twice\ta\n', [{"text": 'say "x" twice', "label": "a"}]),
        (
            'text\tlabel\n"open\ta\nb\tc\n',
            [{"text": '"open', "label": "a"}, {"text": "b", "label": "c"}],
        ),
        ('text\tlabel\n"one\ttwo"\ta\n', [{"text": "one\ttwo", "label": "a"}]),
        ("text\tlabel\na, b\tc\n", [{"text": "a, b", "label": "c"}]),
    ],
)
def test_tabs(tmp_path: Path, content: str, wanted: list[object]) -> None:
    assert values(tmp_path / "a.tsv", content) == wanted


def test_commas_in_text_are_not_taken_for_columns_of_a_list(tmp_path: Path) -> None:
    assert values(tmp_path / "a.csv", "text;label\na,b;c\nd,e;f\n") == [
        {"text": "a,b", "label": "c"},
        {"text": "d,e", "label": "f"},
    ]
    assert values(tmp_path / "a.csv", "text\none; two\nthree; four\n") == [
        {"text": "one; two"},
        {"text": "three; four"},
    ]


def test_columns_without_a_name_keep_what_they_hold(tmp_path: Path) -> None:
    content = ",text,label,,\n0,hello,a,,\n1,bye,b,,note\n"
    assert values(tmp_path / "a.csv", content) == [
        {"column 1": "0", "text": "hello", "label": "a"},
        {"column 1": "1", "text": "bye", "label": "b", "column 5": "note"},
    ]


def test_too_many_or_few_fields_are_no_row(tmp_path: Path) -> None:
    content = "text;label\na;b;c\na\na;b;;\n" + "a;b\n" * 3
    assert values(tmp_path / "a.csv", content) == [
        "has 3 fields, but the header has 2",
        "has 1 field, but the header has 2",
        *[{"text": "a", "label": "b"}] * 4,
    ]
    bad = [row for row in read_rows(tmp_path / "a.csv") if isinstance(row, BadRow)]
    assert [row.remedy for row in bad] == [
        "put double quotes around fields that contain semicolons",
        "complete the row, or delete it",
    ]
    assert [row.code for row in bad] == ["wrong_field_count"] * 2
    assert len({row.kind for row in bad}) == 1


def test_lines_are_counted_from_the_top(tmp_path: Path) -> None:
    values(tmp_path / "a.csv", 'sep=;\ntext;label\n"a\nb";c\nd;e\n')
    assert [row.source.rpartition(":")[2] for row in read_rows(tmp_path / "a.csv")] == ["3", "5"]


def test_lines_of_white_space_are_no_rows(tmp_path: Path) -> None:
    content = "\n  \ntext,label\na,b\n \t\n , \nc,d\n"
    rows = [{"text": "a", "label": "b"}, {"text": "c", "label": "d"}]
    assert values(tmp_path / "a.csv", content) == rows
    assert values(tmp_path / "b.csv", " \n\n  \n") == []
