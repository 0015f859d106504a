"""What a run says of its rows, in the words of the API."""

import pytest

from burnish.run_directory import Finding
from burnish.serving.results import error_of, warnings


def test_unused_columns_are_an_event_with_its_remedy() -> None:
    message = (
        "column context is used by nothing (train is read as question/answer); to use context as "
        "a part of the question, set data: {columns: {instruction: question, input: context}}"
    )
    other = "2 rows of train have an empty turn; a remedy of recipes"
    found = [Finding("unused", "warning", message, 9), Finding("empty", "warning", other, 2)]
    unused, empty = warnings(found)
    assert unused.level == "warn"
    assert unused.message == (
        "In the files: column context is used by nothing (train is read as question/answer); to "
        "use context as a part of the question, rename question to instruction and context to input"
    )
    assert empty.message == "In the files: 2 rows of train have an empty turn"


def test_the_file_with_the_column_is_blamed() -> None:
    for split, file in (("train", "training_file"), ("validation", "validation_file")):
        message = f"column category is used by nothing ({split} is read as plain text): rename it."
        assert error_of({"kind": "DataError", "message": message}, "/f")["param"] == file


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "as the label, set data: {columns: {label: kind}}; to learn only the text, set data: "
            "{columns: {text: text}}, or leave the column out.",
            "rename kind to label; to learn only the text, leave the column out.",
        ),
        ("set data: {columns: {prompt: prompt, completion: sql}}.", "rename sql to completion."),
        (
            "(name its columns in data.columns, such as data: {columns: {text: a, label: b}}, or "
            "use the fields of a format)",
            "(rename a to text and b to label, or use the fields of a format)",
        ),
        ("(name its columns in data.columns, or use the fields)", "(use the fields)"),
    ],
)
def test_who_uploads_files_renames_columns(message: str, said: str) -> None:
    error = error_of({"kind": "DataError", "message": message}, "/folder")
    assert error["message"].endswith(said)
    assert "data" not in error["message"].replace("invalid training file", "")
