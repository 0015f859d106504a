from typing import Any

import pytest

from burnish.conversation import Example, Message, content_id
from burnish.data.readers.read_rows import BadRow, Row
from burnish.data.recognise import FORMATS, Converter
from burnish.errors import DataError
from tests.refused import refused

CHAT = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
SHAREGPT = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
QUESTION, ANSWER = Message("user", "q"), Message("assistant", "a")


def convert(values: dict[str, Any], **options: Any) -> Example | BadRow:
    return Converter(options.pop("columns", {}), **options).convert(Row(values, "f:1"))


def good(values: dict[str, Any], **options: Any) -> Example:
    example = convert(values, **options)
    assert isinstance(example, Example), example
    return example


@pytest.mark.parametrize(
    "row",
    [
        CHAT,
        SHAREGPT,
        {"instruction": "q", "output": "a"},
        {"instruction": "q", "input": "", "output": "a"},
        {"prompt": "q", "completion": "a"},
        {"question": "q", "answer": "a"},
        {"text": "q", "label": "a"},
    ],
)
def test_every_format_says_the_same(row: dict[str, Any]) -> None:
    example = good(row)
    assert example.messages == (QUESTION, ANSWER)
    assert example.id == content_id(example.messages)
    assert example.source == "f:1"


def test_formats_are_told_apart_by_their_fields() -> None:
    assert len({form.required for form in FORMATS}) == len(FORMATS)


def test_plain_text_is_a_document() -> None:
    assert good({"text": "once"}).messages == (Message("document", "once"),)


def test_alpaca_input_follows_the_instruction() -> None:
    row = {"instruction": "translate", "input": "chat", "output": "cat", "system": "be brief"}
    turns = Message("system", "be brief"), Message("user", "translate\n\nchat")
    assert good(row).messages == (*turns, Message("assistant", "cat"))


def test_chat_has_turns_weights_and_parts() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    turns = [
        {"role": "developer", "content": "s"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "a", "weight": 0},
        {"role": "user", "content": "b", "weight": None},
        {"role": "assistant", "content": "c", "weight": 0.5},
    ]
    assert good({"messages": turns}).messages == (
        Message("system", "s"),
        Message("user", "one two"),
        Message("assistant", "a", 0.0),
        Message("user", "b"),
        Message("assistant", "c", 0.5),
    )


@pytest.mark.parametrize(
    ("label", "text"), [(3, "3"), (True, "True"), (0, "0"), (" pos ", "pos"), (2.5, "2.5")]
)
def test_label_becomes_text(label: Any, text: str) -> None:
    example = good({"text": "q", "label": label})
    assert (example.label, example.expected) == (text, text)


def test_only_text_and_label_has_a_label() -> None:
    assert good({"prompt": "q", "completion": "a", "label": True}).label is None


def test_columns_are_mapped() -> None:
    columns = {"text": "review", "label": "stars", "group": "user"}
    row = {"review": "q", "stars": 5, "user": 7, "prompt": "x", "completion": "y", "text": "no"}
    example = good(row, columns=columns)
    assert (example.question, example.label, example.group) == ("q", "5", "7")


def test_system_is_put_first_unless_the_row_has_one() -> None:
    assert good(CHAT, system="s").messages == (Message("system", "s"), QUESTION, ANSWER)
    own = {"messages": [{"role": "system", "content": "own"}, *CHAT["messages"]]}
    assert good(own, system="s").messages[0] == Message("system", "own")


def test_system_needs_turns() -> None:
    with refused("system_in_documents", DataError, source="f:1"):
        convert({"text": "once"}, system="s")


@pytest.mark.parametrize(("own", "kept"), [("r1", "r1"), (7, "7"), (None, None), ("", None)])
def test_id_of_the_row_is_used(own: Any, kept: str | None) -> None:
    example = good({"id": own, "text": "q", "label": "a"})
    assert example.id == (kept or content_id(example.messages))


@pytest.mark.parametrize(("group", "kept"), [("g", "g"), (3, "3"), (None, None), ("", None)])
def test_group_by_names_the_group(group: Any, kept: str | None) -> None:
    assert good({"text": "q", "label": "a", "g": group}, group_by="g").group == kept
    assert good({"text": "q", "label": "a", "group": group}).group is None


def turn(**values: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "q"}, values]}


@pytest.mark.parametrize(
    ("row", "code", "fields"),
    [
        ({"txt": "q"}, "unknown_format", {"own": ["txt"], "suggested": {}}),
        ({}, "unknown_format", {"own": [], "suggested": {}}),
        ({"text": 3, "label": "a"}, "wrong_type", {"field": "text", "value": "3"}),
        ({"text": None, "label": "a"}, "wrong_type", {"field": "text", "value": "None"}),
        ({"text": "q", "label": None}, "wrong_type", {"field": "label", "value": "None"}),
        ({"text": "q", "label": ["a"]}, "wrong_type", {"field": "label", "value": "['a']"}),
        ({"text": "q", "label": float("nan")}, "wrong_type", {"field": "label", "value": "nan"}),
        ({"text": "q", "label": " "}, "empty_label", {"field": "label"}),
        ({"prompt": ["q"], "completion": "a"}, "wrong_type", {"field": "prompt", "value": "['q']"}),
        ({"messages": "q"}, "wrong_type", {"field": "messages", "value": "'q'"}),
        ({"messages": []}, "no_turns", {"field": "messages"}),
        ({"messages": ["q"]}, "wrong_type", {"field": "messages[0]", "value": "'q'"}),
        (turn(content="a"), "missing_key", {"field": "messages[1].role"}),
        (
            turn(role="cat", content="a"),
            "unknown_role",
            {"field": "messages[1].role", "value": "'cat'"},
        ),
        (
            turn(role=["a"], content="a"),
            "unknown_role",
            {"field": "messages[1].role", "value": "['a']"},
        ),
        (turn(role="assistant"), "wrong_type", {"field": "messages[1].content", "value": "None"}),
        (
            turn(role="assistant", content=None, tool_calls=[{}]),
            "missing_key",
            {"field": "messages[1].tool_calls.function"},
        ),
        (
            turn(role="assistant", content=[{"type": "image_url"}]),
            "not_text_alone",
            {"field": "messages[1].content", "value": "'image_url'"},
        ),
        (
            turn(role="assistant", content="a", weight=-1),
            "bad_weight",
            {"field": "messages[1].weight", "value": "-1"},
        ),
        (
            turn(role="assistant", content="a", weight="x"),
            "bad_weight",
            {"field": "messages[1].weight", "value": "'x'"},
        ),
        (turn(role="user", content="a"), "no_assistant_turn", {}),
        (
            {"messages": CHAT["messages"][::-1]},
            "starts_with_assistant",
            {},
        ),
        ({"conversations": [{"value": "q"}]}, "missing_key", {"field": "conversations[0].from"}),
        (
            {"conversations": [{"from": "cat", "value": "q"}]},
            "unknown_role",
            {"field": "conversations[0].from", "value": "'cat'"},
        ),
    ],
)
def test_row_that_does_not_fit_is_told(
    row: dict[str, Any], code: str, fields: dict[str, Any]
) -> None:
    found = convert(row)
    assert isinstance(found, BadRow)
    assert found.source == "f:1"
    assert found.code == code
    assert fields.items() <= found.fields.items()


@pytest.mark.parametrize(
    ("later", "code", "fields"),
    [
        ({"text": "q", "lable": "a"}, "column_misspelt", {"field": "label", "closest": "lable"}),
        ({"text": "q"}, "column_missing", {"field": "label"}),
        (CHAT, "column_missing", {"field": "text"}),
        (
            CHAT | {"text": "q", "label": "a"},
            "mixed_formats",
            {"format": "chat", "expected": "text/label", "missing": None},
        ),
    ],
)
def test_first_good_row_decides_the_format(
    later: dict[str, Any], code: str, fields: dict[str, Any]
) -> None:
    converter = Converter({})
    assert isinstance(converter.convert(Row({"txt": "q"}, "f:1")), BadRow)
    assert isinstance(converter.convert(Row({"text": "q", "label": "a"}, "f:2")), Example)
    found = converter.convert(Row(later, "f:3"))
    assert isinstance(found, BadRow)
    assert (found.source, found.code) == ("f:3", code)
    assert fields.items() <= found.fields.items()


def test_mapped_column_that_is_missing_is_told() -> None:
    found = convert({"reviw": "q", "label": "a"}, columns={"text": "review"})
    assert isinstance(found, BadRow)
    assert (found.code, found.fields) == (
        "column_misspelt",
        {"field": "review", "closest": "reviw"},
    )


def test_columns_must_be_fields_of_ours() -> None:
    with refused("unknown_field", DataError, key="data.columns", value="lable", closest="label"):
        Converter({"lable": "stars"})
    with refused("two_groups", DataError, group_by="a", column="b"):
        Converter({"group": "b"}, group_by="a")


def test_words_and_tags_are_a_question_and_its_tags() -> None:
    row = {"tokens": ["my", "red", "tent"], "tags": ["O", "B-thing", "I-thing"], "text": "my tent"}
    read = good(row)
    assert read.messages == (
        Message("user", "my red tent"),
        Message("assistant", "O B-thing I-thing"),
    )
    assert read.tags == ("O", "B-thing", "I-thing")
    assert read.question.split(" ") == row["tokens"]
    assert Example.from_row(read.to_row()) == read
    mapped = {"words": row["tokens"], "ner": row["tags"]}
    assert good(mapped, columns={"tokens": "words", "tags": "ner"}) == read


@pytest.mark.parametrize(
    ("words", "tags", "code", "fields"),
    [
        (["a", "b"], ["O"], "unequal_lengths", {"tokens": 2, "tags": 1}),
        ([], [], "empty_list", {"field": "tokens"}),
        ("a b", ["O"], "wrong_type", {"field": "tokens", "value": "'a b'"}),
        (["a b"], ["O"], "not_one_word", {"field": "tokens[0]", "value": "'a b'"}),
        (["a\u2003"], ["O"], "not_one_word", {"field": "tokens[0]", "value": "'a\\u2003'"}),
        ([""], ["O"], "not_one_word", {"field": "tokens[0]", "value": "''"}),
        (["a"], [3], "unknown_tag", {"field": "tags[0]", "value": "3"}),
        (["a"], ["S-x"], "unknown_tag", {"field": "tags[0]", "value": "'S-x'"}),
        (
            ["a", "b"],
            ["B-x", "I-y"],
            "span_not_begun",
            {"field": "tags[1]", "value": "I-y"},
        ),
        (
            ["a"],
            ["I-x"],
            "span_not_begun",
            {"field": "tags[0]", "value": "I-x"},
        ),
    ],
)
def test_words_and_tags_that_do_not_fit(
    words: Any, tags: Any, code: str, fields: dict[str, Any]
) -> None:
    bad = convert({"tokens": words, "tags": tags})
    assert isinstance(bad, BadRow)
    assert bad.code == code
    assert fields.items() <= bad.fields.items()
