"""What a run says of its rows, in the words of the API."""

from pathlib import Path
from typing import Any

import pytest

from burnish.data.load import load
from burnish.errors import DataError, UserError
from burnish.recipe.data import Data
from burnish.runs.directory import Finding
from burnish.serving.jobs.results import error_of, warnings
from burnish.serving.jobs.run_recipe import outcome
from tests.rows import write_rows


def refusal(folder: Path, **rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The API's error for a job whose files have these rows."""
    for name, each in rows.items():
        write_rows(folder / f"{name}.jsonl", each)
    files: dict[str, Any] = {name: folder / f"{name}.jsonl" for name in rows}
    with pytest.raises(DataError) as error:
        load(Data(**files), 0)
    return error_of(outcome(error.value), str(folder))


def pairs(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"q {n}", "completion": f"a {n}"} for n in range(count)]


def test_unused_columns_are_an_event_with_its_remedy(tmp_path: Path) -> None:
    rows = [{"question": f"q {n}", "answer": f"a; {n}", "context": f"c {n}"} for n in range(40)]
    write_rows(tmp_path / "train.jsonl", rows)
    (unused,) = warnings(load(Data(train=tmp_path / "train.jsonl"), 0).findings)
    assert unused.level == "warn"
    assert unused.data == {
        "kind": "unused",
        "rows": 40,
        "where": [f"line {n}" for n in range(1, 6)],
    }
    assert unused.message == (
        "Uploaded files: column context is not used (train was read as question/answer); to "
        "use context as a part of the question, rename question to instruction and context to "
        "input and answer to output"
    )


def test_a_remedy_of_recipes_is_left_out() -> None:
    seen = "the labels 'a; b' and 'A; b' are alike"
    (event,) = warnings([Finding("spelling", "warning", seen, 2, remedy="set something")])
    assert event.message == f"Uploaded files: {seen}"


@pytest.mark.parametrize("blamed", ["train", "validation"])
def test_the_file_with_the_column_is_blamed(blamed: str, tmp_path: Path) -> None:
    lost = [{"text": f"text {n}", "category": "ab"[n % 2]} for n in range(40)]
    other = [{"text": f"other {n}"} for n in range(40)]
    files = {"train": other, "validation": other[:20]} | {blamed: lost}
    found = refusal(tmp_path, **files)
    file = {"train": "training_file", "validation": "validation_file"}[blamed]
    assert (found["code"], found["param"]) == (f"invalid_{file}", file)
    assert "rename category to label" in found["message"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"text": "a {n}", "kind": "{ab}"},
            "as the label, rename kind to label; to train only on the text, delete the column.",
        ),
        ({"prompt": "a {n}", "sql": "b {n}"}, "as the answer, rename sql to completion."),
        (
            {"review": "a {n}", "category": "{ab}"},
            "(rename review to text and category to label, or use the fields of a format",
        ),
        ({"a text": "a {n}", "category": "{ab}"}, '(rename "a text" to text and category to'),
        ({"x": "a {n}", "y": "b {n}"}, "(use the fields of a format ("),
    ],
)
def test_who_uploads_files_renames_columns(row: dict[str, str], said: str, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {name: value.format(n=n, ab="ab"[n % 2]) for name, value in row.items()} for n in range(40)
    ]
    found = refusal(tmp_path, train=rows)
    assert said in found["message"]
    assert "data" not in found["message"].replace("invalid training file", "")


def test_lines_of_both_files_are_told_apart(tmp_path: Path) -> None:
    bad = {"messages": [{"role": "robot", "content": "x"}]}
    found = refusal(tmp_path, train=[*pairs(30), bad], validation=[bad, *pairs(9)])
    assert found["param"] == "training_file"
    assert "2 of 41 rows" in found["message"]
    assert "line 31 has" in found["message"]
    assert "line 1 of the validation file has" in found["message"]
    alone = refusal(tmp_path, train=pairs(30), validation=[bad, *pairs(9)])
    assert alone["param"] == "validation_file"
    assert "line 1 has" in alone["message"]
    assert str(tmp_path) not in alone["message"]


def test_an_error_of_rows_counts_those_that_it_does_not_show(tmp_path: Path) -> None:
    kinds: list[list[dict[str, Any]]] = [
        [{"prompt": "q", "completion": 3}] * 6,
        [{"prompt": 3, "completion": "a"}] * 2,
        [{"prompt": "q"}],
        [{"completion": "a", "prompt": {}}] * 4,
    ]
    found = refusal(tmp_path, train=[*pairs(20), *(row for kind in kinds for row in kind)])
    said = found["message"]
    assert "13 of 33 rows" in said
    assert "line 21 has a number (3) as completion (write text); and 5 more such rows" in said
    assert "on lines 22, 23, 24, …; line 27 has a number (3) as prompt" in said
    assert "and 1 more such row, on line 28; line 29 has no completion" in said
    assert "; and 4 more. " in said
    assert "line 30" not in said
    assert "\n" not in said


def test_a_file_is_called_as_the_request_does(tmp_path: Path) -> None:
    for name, file in (("train", "training"), ("validation", "validation")):
        error = DataError(f"{tmp_path}/{name}.jsonl is odd", "look", code="x", part=name)
        found = error_of(outcome(error), str(tmp_path))
        assert found["param"] == f"{file}_file"
        assert found["message"].endswith(f"the {file} file is odd: look.")
        line = f"{tmp_path}/{name}.jsonl:3"
        error = DataError(f"{line} is odd", f"see {tmp_path}/other", code="x", source=line)
        found = error_of(outcome(error), str(tmp_path))
        assert found["param"] == f"{file}_file"
        assert found["message"].endswith("line 3 is odd: see other.")


@pytest.mark.parametrize(
    "code", ["all_disliked", "no_rejected_answer", "nothing_left", "too_few_test_rows"]
)
def test_who_has_no_recipe_is_told_what_to_upload(code: str) -> None:
    error = DataError("rows are odd", "set data.x", code=code)
    assert "data.x" not in error_of(outcome(error), "/f")["message"]


def test_fields_of_any_error_are_taken() -> None:
    for fields in ({"rows": 3}, {"source": None, "path": None}, {"part": 3}, {"part": "test"}):
        error = DataError("rows are odd", "look", code="odd", **fields)
        found = error_of(outcome(error), "/f")
        assert found["param"] == "training_file"
        assert found["message"].endswith(f" {error}")


def test_values_that_read_like_advice_stay() -> None:
    error = DataError("the label is 'set data: {columns: {a: b}}'", "no?", code="one_label")
    assert error_of(outcome(error), "/f")["message"].endswith(f" {error}")
    assert error_of(outcome(UserError("x", "y", code="z")), "/f")["param"] is None
