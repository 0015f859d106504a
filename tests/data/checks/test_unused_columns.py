"""What carries meaning and is used by nothing is reported, with the line that would use it."""

from pathlib import Path
from typing import Any

import pytest

from burnish.conversation import Example
from burnish.data.load import load, load_rows
from burnish.data.readers.read_rows import Row
from burnish.data.recognise import Converter
from burnish.errors import DataError
from burnish.recipe.data import Data
from burnish.recipe.objectives import SETTINGS
from burnish.runs.directory import Finding
from tests.refused import refused
from tests.rows import write_rows

USER, GOOD = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
CHAT = {"messages": [USER, GOOD]}
SHAREGPT = {
    "conversations": [{"from": "human", "value": "q", "x": 1}, {"from": "gpt", "value": "a"}]
}


def unused(
    *rows: dict[str, Any], columns: dict[str, str] | None = None, objective: str = "sft"
) -> Finding | None:
    converter = Converter(columns or {}, use=SETTINGS[objective].rows)
    for number, row in enumerate(rows, 1):
        read = converter.convert(Row(row, f"f:{number}"))
        assert isinstance(read, Example), read
    return next(iter(converter.findings("train")), None)


def seen(*rows: dict[str, Any], **options: Any) -> Finding:
    found = unused(*rows, **options)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ({"text": "t", "category": "b"}, "{columns: {label: category}}"),
        ({"text": "t", "Intent": "b"}, "{columns: {label: Intent}}"),
        ({"text": "t", "class name": "b", "sentiment": "x"}, "{columns: {label: sentiment}}"),
        ({"text": "t", "lable": "b"}, "{columns: {label: lable}}"),
        ({"text": "t", "Topics": "b"}, "{columns: {label: Topics}}"),
        ({"text": "t", "entities": [1, 2]}, "{columns: {label: entities}}"),
        ({"text": "t", "response": "b"}, "{columns: {prompt: text, completion: response}}"),
        ({"prompt": "t", "summary": "b"}, "{columns: {completion: summary}}"),
        ({"prompt": "t", "category": "b"}, "{columns: {text: prompt, label: category}}"),
        (CHAT | {"accepted": False}, "{columns: {label: accepted}}"),
        ({"prompt": "q", "text": "a"}, "{columns: {prompt: prompt, completion: text}}"),
        ({"prompt": "q", "id_": 3, "sql": "a"}, "{columns: {prompt: prompt, completion: sql}}"),
        ({"question": "q", "answer": "a", "is_correct": "false"}, "{columns: {label: is_correct}}"),
    ],
)
def test_lost_labels_and_answers_are_errors(row: dict[str, Any], line: str) -> None:
    found = seen(row)
    assert found.severity == "error"
    assert "not used" in found.message
    assert f"data: {line}" in found.message
    assert found.where == ("f:1",)


def test_few_values_are_classes_whatever_their_name() -> None:
    rows = [{"text": f"t{n}", "queue": f"q{n % 3}", "site": f"s{n}"} for n in range(12)]
    found = seen(*rows)
    assert found.severity == "error"
    assert found.message.startswith("columns queue, site are not used (train was read as ")
    assert "data: {columns: {label: queue}}" in found.message
    assert "label: site" not in found.message
    views = seen(*({"text": f"t{n}", "views": n % 30} for n in range(90)))
    assert views.severity == "warning"
    origin = seen(*({"text": f"t{n}", "source": f"q{n % 3}"} for n in range(12)))
    assert origin.severity == "warning"


@pytest.mark.parametrize(
    "options", [{"columns": {"text": "text"}}, {"objective": "lm"}, {"objective": "dpo"}]
)
def test_who_chose_the_format_is_only_warned(options: dict[str, Any]) -> None:
    assert seen({"text": "t", "category": "b"}, **options).severity == "warning"


def test_a_column_whose_name_another_took_is_reported() -> None:
    found = seen(
        {"review": "q", "stars": "5", "text": "more"}, columns={"text": "review", "label": "stars"}
    )
    assert found.message.startswith("column text is not used")


def test_the_line_uses_the_column() -> None:
    row = {"text": "t", "category": "b"}
    assert unused(row, columns={"label": "category"}) is None
    assert unused(CHAT | {"accepted": True}, columns={"label": "accepted"}) is None
    asked = {"question": "q", "context": "c", "answer": "a"}
    found = seen(asked)
    columns = {"instruction": "question", "input": "context", "output": "answer"}
    assert found.severity == "warning"
    assert "{instruction: question, input: context, output: answer}" in found.message
    assert unused(asked, columns=columns) is None


@pytest.mark.parametrize(
    ("row", "column"),
    [
        (CHAT | {"topic": "x"}, "topic"),
        (CHAT | {"score": 3}, "score looks like a judgement"),
        (CHAT | {"label": "billing"}, "label looks like a judgement"),
        ({"messages": [USER, GOOD | {"mood": "good"}]}, "messages.mood"),
        ({"messages": [USER | {"weight": 0}, GOOD]}, "messages.weight does not change any weight"),
        ({"messages": [USER, GOOD | {"is_correct": False}]}, "correct does not change any weight"),
        ({"prompt": "q", "completion": "a", "weight": 0}, "weight does not change any weight"),
        ({"text": "t", "sql": "a"}, "{columns: {prompt: text, completion: sql}}"),
        (SHAREGPT, "conversations.x"),
        (
            {"prompt": [USER], "chosen": [GOOD | {"reasoning": "r"}], "rejected": "b"},
            "chosen.reasoning",
        ),
        (
            {"messages": [{"role": "system", "content": "own"}, USER, GOOD], "system": "other"},
            "the turns already have a system message",
        ),
        (CHAT | {"sytem": "s"}, "{columns: {system: sytem}}"),
        ({"text": "t", "label": "x", "system": "s"}, "system"),
        ({"text": "t", "label": 3, "label_text": "x"}, "{columns: {label: label_text}}"),
        (CHAT | {"reward": 0.3}, "reward looks like a judgement"),
        ({"tokens": ["a"], "tags": ["O"], "pos": ["N"]}, "pos"),
    ],
)
def test_all_else_is_a_warning(row: dict[str, Any], column: str) -> None:
    found = seen(row)
    assert found.severity == "warning"
    assert column in found.message


@pytest.mark.parametrize(
    "row",
    [
        CHAT | {"id": "1", "group": "g", "topic": None, "images": [], "note": ""},
        {"messages": [USER | {"weight": None}, GOOD | {"weight": 1, "train": True}]},
        {"prompt": "q", "completion": "a", "system": "s", "history": [["x", "y"]], "tools": "[]"},
        {"instruction": "q", "input": "", "output": "a", "system": ""},
        {"Text": "t", " Label ": "x"},
    ],
)
def test_what_is_used_or_empty_is_not_reported(row: dict[str, Any]) -> None:
    assert unused(row) is None


def test_a_prompt_that_is_named_alone_takes_no_other_column() -> None:
    row = {"messages": [USER], "answer": "5"}
    columns = {"prompt": "messages"}
    assert unused(row, columns=columns, objective="grpo") is None
    found = seen(row, columns=columns)
    assert found.severity == "error"
    assert "data: {columns: {prompt: messages, completion: answer}}" in found.message


def test_graders_use_all_columns() -> None:
    assert unused({"prompt": "q", "answer": "5", "level": 3}, objective="grpo") is None


def test_a_part_of_the_rows_is_counted() -> None:
    found = seen(CHAT, CHAT | {"topic": "x"}, CHAT)
    assert (found.count, found.where) == (1, ("f:2",))
    assert "column topic (in 1 of 3 rows) is not used" in found.message


def test_a_named_group_is_used(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": "ab"[n % 2], " customer ": n} for n in range(20)]
    data = Data(train=write_rows(tmp_path / "r.jsonl", rows), group_by="customer")
    read = load(data, 0)
    assert [one.kind for one in read.findings] == ["balance"]
    assert {example.group for example in read.train} <= {str(n) for n in range(20)}
    assert all(example.group for example in read.train)


def judged(count: int) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": f"q{n}"}, GOOD], "label": n % 3 > 0}
        for n in range(count)
    ]


def test_disliked_answers_are_not_learnt_as_good(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", judged(30))
    read = load(Data(train=path), 0)
    rows = [*read.train, *read.validation, *read.test]
    assert len(rows) == 20
    assert all(example.liked for example in rows)
    (found,) = read.findings
    assert (found.kind, found.severity, found.count) == ("disliked", "warning", 10)
    assert "set objective to kto" in found.message
    both = load(Data(train=path), 0, SETTINGS["kto"].rows)
    assert len([*both.train, *both.validation, *both.test]) == 30
    assert both.findings == []
    assert len(load_rows(path)) == 20


def test_disliked_answers_alone_cannot_be_learnt(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [row | {"label": False} for row in judged(9)])
    with refused("all_disliked", DataError, part="train", count=9):
        load(Data(train=path), 0)


def test_a_column_that_differs_by_spaces_replaces_none() -> None:
    found = seen({"text": "t", "text ": "other", "label": "x"})
    assert found.message.startswith("column text  is not used")


def test_a_column_of_yes_and_no_may_judge_the_answers() -> None:
    found = seen(CHAT | {"solved": True}, CHAT | {"solved": False})
    assert found.severity == "warning"
    assert "if solved judges the answers, set data: {columns: {label: solved}}" in found.message


def test_a_field_that_a_row_has_is_not_looked_for() -> None:
    row = {"prompt": "q", "prompt_id": "x", "chosen": "a", "rejected": "b", "response_a": "c"}
    assert "set data" not in seen(row).message
    for row in ({"prompt": "q", "rejected": "b"}, {"prompt": "q", "a": "x", "b": "y"}):
        assert "set data" not in seen(row, objective="dpo").message
