from typing import Any

import pytest

from burnish.chat import Example, Message, content_id
from burnish.data.formats import FORMATS, Converter
from burnish.data.rows import BadRow, Row
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
    ("row", "reason", "remedy"),
    [
        ({"txt": "q"}, "is of no known format (its fields: txt)", "name its columns in data.colu"),
        ({}, "is of no known format (its fields: none)", "name its columns"),
        ({"text": 3, "label": "a"}, "has a number (3) as text", "write text there"),
        ({"text": None, "label": "a"}, "has nothing as text", "write text there"),
        ({"text": "q", "label": None}, "has nothing as label", "write the class"),
        ({"text": "q", "label": ["a"]}, "has a list (['a']) as label", "write the class"),
        ({"text": "q", "label": float("nan")}, "has a number (nan) as label", "write the class"),
        ({"text": "q", "label": " "}, "has an empty label", "write the class, or delete"),
        ({"prompt": ["q"], "completion": "a"}, "has a list (['q']) as prompt", "write text"),
        ({"messages": "q"}, "has text ('q') as messages", "write a list of turns"),
        ({"messages": []}, "has no turn in messages", "add a question and its answer"),
        ({"messages": ["q"]}, "has text ('q') as messages[0]", "write an object with role"),
        (turn(content="a"), "has no messages[1].role", "add the role"),
        (turn(role="cat", content="a"), "has 'cat' as messages[1].role", "use one of system, "),
        (turn(role=["a"], content="a"), "has ['a'] as messages[1].role", "use one of system, "),
        (turn(role="assistant"), "has nothing as messages[1].content", "write text there"),
        (
            turn(role="assistant", content=None, tool_calls=[{}]),
            "has no messages[1].tool_calls.function",
            "write it as OpenAI does",
        ),
        (
            turn(role="assistant", content=[{"type": "image_url"}]),
            "has a part 'image_url' in messages[1].content",
            "leave only parts of type text",
        ),
        (
            turn(role="assistant", content="a", weight=-1),
            "has -1 as messages[1].weight",
            "write 0, 1 or another",
        ),
        (turn(role="assistant", content="a", weight="x"), "has 'x' as messages[1].weight", "writ"),
        (turn(role="user", content="a"), "has no assistant turn to learn from", "add the answer"),
        (
            {"messages": CHAT["messages"][::-1]},
            "starts with an assistant turn",
            "put a user turn before it",
        ),
        ({"conversations": [{"value": "q"}]}, "has no conversations[0].from", "add the from"),
        ({"conversations": [{"from": "cat", "value": "q"}]}, "has 'cat' as conver", "use one of"),
    ],
)
def test_row_that_does_not_fit_is_told(row: dict[str, Any], reason: str, remedy: str) -> None:
    found = convert(row)
    assert isinstance(found, BadRow)
    assert found.source == "f:1"
    assert found.reason.startswith(reason)
    assert found.remedy.startswith(remedy)


@pytest.mark.parametrize(
    ("later", "reason", "remedy"),
    [
        ({"text": "q", "lable": "a"}, "has no label", "did you mean its lable"),
        ({"text": "q"}, "has no label", "add the label"),
        (CHAT, "has no text", "add the text"),
        (CHAT | {"text": "q", "label": "a"}, "is a chat row among text/label rows", "keep one"),
    ],
)
def test_first_good_row_decides_the_format(later: dict[str, Any], reason: str, remedy: str) -> None:
    converter = Converter({})
    assert isinstance(converter.convert(Row({"txt": "q"}, "f:1")), BadRow)
    assert isinstance(converter.convert(Row({"text": "q", "label": "a"}, "f:2")), Example)
    found = converter.convert(Row(later, "f:3"))
    assert isinstance(found, BadRow)
    assert (found.source, found.reason) == ("f:3", reason)
    assert found.remedy.startswith(remedy)


def test_mapped_column_that_is_missing_is_told() -> None:
    found = convert({"reviw": "q", "label": "a"}, columns={"text": "review"})
    assert isinstance(found, BadRow)
    assert found.reason == "has no column 'review', which data.columns names for text"
    assert found.remedy == "did you mean its reviw"


def test_columns_must_be_fields_of_ours() -> None:
    with refused("unknown_field", DataError, key="data.columns", value="lable", near="label"):
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
    ("words", "tags", "reason", "remedy"),
    [
        (["a", "b"], ["O"], "has 2 tokens and 1 tags", "give each word a tag"),
        ([], [], "has no words in tokens", "delete the row"),
        ("a b", ["O"], "has text ('a b') as tokens", "write a list of words"),
        (["a b"], ["O"], "has text ('a b') as tokens[0]", "write one word without white space"),
        (["a\u2003"], ["O"], "has text ('a\\u2003') as tokens[0]", "write one word without"),
        ([""], ["O"], "has text ('') as tokens[0]", "write one word without white space"),
        (["a"], [3], "has a number (3) as tags[0]", "write O, B-TYPE or I-TYPE (IOB2)"),
        (["a"], ["S-x"], "has text ('S-x') as tags[0]", "write O, B-TYPE or I-TYPE (IOB2)"),
        (
            ["a", "b"],
            ["B-x", "I-y"],
            "has 'I-y' as tags[1], where no span of that type goes on",
            "begin the span with B-y (IOB2)",
        ),
        (
            ["a"],
            ["I-x"],
            "has 'I-x' as tags[0], where no span of that type goes on",
            "begin the span with B-x (IOB2)",
        ),
    ],
)
def test_words_and_tags_that_do_not_fit(words: Any, tags: Any, reason: str, remedy: str) -> None:
    bad = convert({"tokens": words, "tags": tags})
    assert isinstance(bad, BadRow)
    assert bad.reason == reason
    assert bad.remedy.startswith(remedy)
