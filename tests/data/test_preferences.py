"""Every way to write a comparison says the same."""

from typing import Any

import pytest

from burnish.conversation import Example, Message
from burnish.data.checks.dataset import without_duplicates
from burnish.data.readers.read_rows import BadRow, Row
from burnish.data.recognise import Converter

USER = {"role": "user", "content": "q"}
GOOD, BAD = {"role": "assistant", "content": "yes"}, {"role": "assistant", "content": "no"}
PAIRS: list[dict[str, Any]] = [
    {"prompt": "q", "chosen": "yes", "rejected": "no"},
    {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    {"input": {"messages": [USER]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]},
]


def convert(values: dict[str, Any]) -> Example | BadRow:
    return Converter({}).convert(Row(values, "f:1"))


@pytest.mark.parametrize("row", PAIRS)
def test_every_pair_says_the_same(row: dict[str, Any]) -> None:
    example = convert(row)
    assert isinstance(example, Example)
    assert example.messages == (Message("user", "q"), Message("assistant", "yes"))
    assert example.rejected == "no"
    assert Example.from_row(example.to_row()) == example
    assert example.id == convert(PAIRS[0]).id  # type: ignore[union-attr]


def test_judged_answer_is_liked_or_not() -> None:
    row = {"prompt": "q", "completion": "a", "label": False}
    example = convert(row)
    assert isinstance(example, Example)
    assert (example.liked, example.label, example.expected) == (False, None, "a")
    assert Example.from_row(example.to_row()) == example
    assert isinstance(convert({**row, "label": "maybe"}), BadRow)


def test_prompt_alone_waits_for_an_answer() -> None:
    example = convert({"prompt": "q"})
    assert isinstance(example, Example)
    assert (example.prompt, example.expected) == ((Message("user", "q"),), "")


@pytest.mark.parametrize(
    ("row", "code", "fields"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "same_answers", {}),
        ({"prompt": "q", "chosen": "a", "rejected": " "}, "empty_answer", {"field": "rejected"}),
        ({"prompt": "q", "chosen": "", "rejected": "a"}, "empty_answer", {"field": "chosen"}),
        ({"chosen": [USER, GOOD], "rejected": [GOOD, BAD]}, "other_prompt", {}),
        (
            {"prompt": "q", "chosen": [USER, GOOD], "rejected": "x"},
            "not_one_answer",
            {"field": "chosen", "count": 2},
        ),
        (
            {"prompt": "q", "chosen": None, "rejected": "x"},
            "wrong_type",
            {"field": "chosen", "value": "None"},
        ),
        (
            {"input": 3, "preferred_output": [GOOD], "non_preferred_output": [BAD]},
            "wrong_type",
            {"field": "input", "value": "3"},
        ),
    ],
)
def test_misfits_are_told(row: dict[str, Any], code: str, fields: dict[str, Any]) -> None:
    found = convert(row)
    assert isinstance(found, BadRow)
    assert found.code == code
    assert fields.items() <= found.fields.items()


def test_another_rejected_answer_is_another_row() -> None:
    rows = [convert({"prompt": "q", "chosen": "yes", "rejected": r}) for r in ("no", "never", "no")]
    kept, findings = without_duplicates(rows, "train")  # type: ignore[arg-type]
    assert [example.rejected for example in kept] == ["no", "never"]
    assert len({example.id for example in kept}) == 2
    assert findings[0].count == 1


def test_judgements_of_a_csv_file_are_text() -> None:
    row = {"prompt": "q", "completion": "a"}
    found = [convert(row | {"label": said}) for said in ("true", "False", "1", "0 ")]
    assert [one.liked for one in found if isinstance(one, Example)] == [True, False, True, False]


def test_rows_of_one_id_get_ids_of_their_own() -> None:
    rows = [
        convert({"id": "q", "prompt": "q", "chosen": "yes", "rejected": other})
        for other in ("no", "never", "hardly")
    ]
    kept, _ = without_duplicates(rows, "train")  # type: ignore[arg-type]
    assert len({example.id for example in kept}) == 3
