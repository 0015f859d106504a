"""The shapes in which public data sets come: each is read as what it means, or refused clearly."""

import json
from pathlib import Path
from typing import Any

import pytest

from burnish.conversation import Conversation, Example, Message
from burnish.data.readers.read_rows import BadRow, Row, read_rows
from burnish.data.recognise import Converter
from burnish.data.tool_calls import offered_tools
from burnish.recipe.objectives import Grpo

USER, GOOD = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
BAD, SYSTEM = {"role": "assistant", "content": "b"}, {"role": "system", "content": "s"}
HUMAN, GPT = {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}
OTHER = {"from": "gpt", "value": "b"}
PLAIN: Conversation = (Message("user", "q"), Message("assistant", "a"))
LED: Conversation = (Message("system", "s"), *PLAIN)
FIND = {"name": "find", "description": "finds", "parameters": {"type": "object"}}
CALL = '<tool_call>\n{"name": "find", "arguments": {"id": 7}}\n</tool_call>'


def convert(values: dict[str, Any], **options: Any) -> Example | BadRow:
    return Converter({}, **options).convert(Row(values, "f:1"))


def good(values: dict[str, Any], **options: Any) -> Example:
    example = convert(values, **options)
    assert isinstance(example, Example), example
    return example


def text(value: Any) -> str:
    return json.dumps(value)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "response": "a"},
        {"prompt": "q", "output": "a"},
        {"prompt": "q", "answer": "a"},
        {"instruction": "q", "response": "a"},
        {"instruction": "q", "completion": "a"},
        {"question": "q", "response": "a"},
        {"question": "q", "output": "a"},
        {"query": "q", "response": "a"},
        {"input": "q", "output": "a"},
        {"input": "q", "response": "a"},
        {"instruction": "", "input": "q", "output": "a"},
        {"instruction": " ", "input": "q", "response": "a"},
        {"instruction": None, "input": "q", "output": "a"},
        {"Prompt": "q", "Completion": "a"},
        {" question": "q", "ANSWER ": "a"},
        {"prompt": [USER], "completion": [GOOD]},
        {"prompt": text([USER]), "completion": text([GOOD])},
        {"prompt": "q", "completion": GOOD},
        {"messages": text([USER, GOOD])},
        {"messages": str([USER, GOOD])},
        {"conversations": text([HUMAN, GPT])},
        {"messages": None, "prompt": "q", "completion": "a"},
        {"messages": None, "instruction": "q", "output": "a", "input": None},
        {"messages": [{"role": "User", "content": [{"text": "q"}]}, GOOD]},
        {"messages": [USER | {"content": ["q"]}, GOOD | {"content": [{"value": "a"}]}]},
        {"messages": [USER, GOOD | {"content": [{"type": "text", "value": "a"}]}]},
        {"messages": [USER, GOOD | {"content": [{"type": "output_text", "text": "a"}]}]},
        {"messages": [USER, GOOD | {"content": [{"type": "text", "text": "a", "image": None}]}]},
        {"messages": [USER, GOOD | {"content": None, "refusal": "a"}]},
        {"text": "q", "labels": ["a"]},
        {"text": "q", "labels": '["a"]'},
        {"Text": "q", "Label": "a"},
    ],
)
def test_each_says_the_same(row: dict[str, Any]) -> None:
    assert good(row).messages == PLAIN


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, GOOD], "system": "s"},
        {"messages": [SYSTEM, USER, GOOD], "system": "s"},
        {"conversations": [HUMAN, GPT], "system": "s"},
        {"instruction": "q", "output": "a", "system": "s"},
        {"prompt": [SYSTEM, USER], "completion": [GOOD]},
        {"prompt": "q", "completion": "a", "system": "s"},
        {"system_prompt": "s", "question": "q", "response": "a"},
    ],
)
def test_a_system_text_of_the_row_is_used(row: dict[str, Any]) -> None:
    assert good(row).messages == LED
    assert good(row, system="other").messages == LED


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": "q", "chosen": text([USER, GOOD]), "rejected": text([USER, BAD])},
        {"prompt": "q", "chosen": [USER, GOOD], "rejected": [USER, BAD], "messages": [USER, GOOD]},
        {"messages": [USER, GOOD], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": "q", "chosen_response": "a", "rejected_response": "b"},
        {"question": "q", "chosen": "a", "rejected": "b"},
        {"instruction": "q", "input": "", "chosen": "a", "rejected": "b"},
        {"instruction": "", "input": "q", "chosen": "a", "rejected": "b"},
        {"input": "q", "chosen": "a", "rejected": "b"},
        {"conversations": [HUMAN], "chosen": GPT, "rejected": OTHER},
        {"conversations": text([HUMAN]), "chosen": text(GPT), "rejected": text(OTHER)},
        {"messages": [USER], "chosen": GOOD, "rejected": BAD},
        {"messages": [USER, GOOD], "chosen": "a", "rejected": "b"},
        {"chosen": [HUMAN, GPT], "rejected": [HUMAN, OTHER]},
        {"messages": [USER, GOOD], "rejected_response": "b"},
        {"messages": [USER, GOOD], "rejected": [BAD]},
        {"query": "q", "response": "a", "rejected_response": "b"},
        {
            "input": text({"messages": [USER]}),
            "preferred_output": text([GOOD]),
            "non_preferred_output": text([BAD]),
        },
    ],
)
def test_pairs(row: dict[str, Any]) -> None:
    example = good(row)
    assert (example.messages, example.rejected) == (PLAIN, "b")


def test_pairs_with_more_to_them() -> None:
    whole = {"prompt": "q", "chosen": [SYSTEM, USER, GOOD], "rejected": [SYSTEM, USER, BAD]}
    assert good(whole).messages == LED
    orca = {"system": "s", "question": "q", "chosen": "a", "rejected": "b"}
    assert good(orca).messages == LED
    given = {"instruction": "say", "input": "it", "chosen": "a", "rejected": "b"}
    assert good(given).question == "say\n\nit"
    offered = good({"prompt": "q", "chosen": "a", "rejected": "b", "tools": text([FIND])})
    assert offered_tools(offered.messages) == [{"type": "function", "function": FIND}]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, GOOD]},
        {"messages": text([USER, GOOD])},
        {"conversations": [HUMAN, GPT]},
        {"instruction": "q", "input": "", "output": "a"},
        {"prompt": "q", "completion": "a"},
        {"prompt": "q", "response": "a"},
        {"prompt": [USER], "completion": [GOOD]},
        {"question": "q", "answer": "a"},
    ],
)
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("label", False),
        ("kto_tag", True),
        ("label", "true"),
        ("label", 0),
        ("label", -1),
        ("label", "undesirable"),
        ("thumbs_up", True),
    ],
)
def test_judged_answers(row: dict[str, Any], column: str, value: Any) -> None:
    example = good(row | {column: value})
    assert example.messages == PLAIN
    assert example.liked is (value in (True, "true"))
    assert example.label is None


def test_turns_that_are_switched_off() -> None:
    rounds: list[Any] = [USER, GOOD, USER, BAD]
    for off in (
        {"weight": 0},
        {"train": False},
        {"train": "false"},
        {"loss": False},
        {"loss_mask": 0},
        {"loss_weight": 0},
        {"masked": True},
    ):
        for on in ({}, {"weight": 1, "train": None}, {"train": True}):
            read = good({"messages": [USER, GOOD | off, USER, BAD | on]})
            assert [turn.weight for turn in read.messages] == [1, 0, 1, 1]
            shared = [HUMAN, GPT | off, HUMAN, OTHER | on]
            assert good({"conversations": shared}).messages == read.messages
            asked = good({"prompt": rounds[:1], "completion": [GOOD | off, USER, BAD | on]})
            assert asked.messages == read.messages
    found = convert({"messages": [USER, GOOD | {"train": "perhaps"}]})
    assert isinstance(found, BadRow)
    assert (found.code, found.fields["field"]) == ("not_true_or_false", "messages[1].train")


def test_answers_inside_a_prompt_are_not_learnt() -> None:
    read = good({"prompt": [USER, BAD, USER], "completion": [GOOD]})
    assert [turn.weight for turn in read.messages] == [1, 0, 1, 1]
    found = convert({"prompt": [USER, BAD], "completion": "a"})
    assert isinstance(found, BadRow)
    assert (found.code, found.fields) == ("answer_in_prompt", {"field": "prompt"})


def test_a_completion_may_repeat_its_prompt() -> None:
    for prompt in ("q", [USER]):
        assert good({"prompt": prompt, "completion": [USER, GOOD]}).messages == PLAIN


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_kept_with_its_turn(name: str) -> None:
    read = good({"messages": [USER, GOOD | {name: "hm"}]})
    assert read.messages == (PLAIN[0], Message("assistant", "a", reasoning="hm"))
    assert good({"conversations": [HUMAN, GPT | {name: "hm"}]}).messages == read.messages
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}]
    assert good({"messages": [USER, GOOD | {"content": parts}]}).messages == read.messages
    assert Example.from_row(json.loads(text(read.to_row()))) == read
    assert read.id != good({"messages": [USER, GOOD]}).id
    assert good({"prompt": "q", "completion": "a", name: "hm"}).messages == read.messages
    assert good({"messages": [USER, GOOD], name: "hm"}).messages == read.messages


def test_history_comes_before_the_question() -> None:
    earlier = (Message("user", "x"), Message("assistant", "y"))
    pairs = [["x", "y"]]
    turns = [USER | {"content": "x"}, GOOD | {"content": "y"}]
    for history in (pairs, text(pairs), turns):
        alpaca = {"instruction": "q", "output": "a", "history": history, "system": "s"}
        assert good(alpaca).messages == (LED[0], *earlier, *PLAIN)
        asked = good({"prompt": "q", "completion": "a", "history": history})
        assert asked.messages == (*earlier, *PLAIN)
    for nothing in (None, [], "", "[]"):
        assert good({"instruction": "q", "output": "a", "history": nothing}).messages == PLAIN
    found = convert({"instruction": "q", "output": "a", "history": [["x"]]})
    assert isinstance(found, BadRow)
    assert (found.code, found.fields["field"]) == ("wrong_type", "history[0]")


def test_tools_of_every_format() -> None:
    shown = [{"type": "function", "function": FIND}]
    for tools in ([FIND], text([FIND]), shown, text(shown), [{"type": "function", **FIND}]):
        for row in (
            {"messages": [USER, GOOD]},
            {"conversations": [HUMAN, GPT]},
            {"instruction": "q", "output": "a"},
            {"prompt": "q", "completion": "a"},
            {"question": "q", "answer": "a"},
        ):
            assert offered_tools(good(row | {"tools": tools}).messages) == shown


def test_calls_in_conversations_of_every_style() -> None:
    asked = {"name": "find", "arguments": {"id": 7}}
    shared = [
        HUMAN,
        {"from": "function_call", "value": text(asked)},
        {"from": "observation", "value": "here"},
        GPT,
    ]
    expected = (PLAIN[0], Message("assistant", CALL), Message("tool", "here"), PLAIN[1])
    assert good({"conversations": shared}).messages == expected
    unlearnt = good({"conversations": [HUMAN, shared[1] | {"weight": 0}, *shared[2:]]})
    assert [turn.weight for turn in unlearnt.messages] == [1, 0, 1, 1]
    shared[1] = {"from": "function_call", "value": text([asked])}
    assert good({"conversations": shared}).messages == expected
    turns = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": text([{"function": asked}])},
        {"role": "tool", "content": "here"},
        GOOD,
    ]
    assert good({"messages": turns}).messages == expected
    found = convert({"conversations": [HUMAN, {"from": "function_call", "value": "find(7)"}]})
    assert isinstance(found, BadRow)
    assert (found.code, found.fields["field"]) == ("not_json", "conversations[1].value")


@pytest.mark.parametrize(
    ("row", "code", "fields"),
    [
        ({"messages": [USER, GOOD], "images": ["a.png"]}, "not_text_alone", {"field": "images"}),
        ({"conversations": [HUMAN, GPT], "image": "a.png"}, "not_text_alone", {"field": "image"}),
        (
            {"prompt": "q", "completion": "a", "audios": ["a"]},
            "not_text_alone",
            {"field": "audios"},
        ),
        (
            {"instruction": "q", "output": "a", "Videos": ["a"]},
            "not_text_alone",
            {"field": "Videos"},
        ),
        (
            {"messages": [USER | {"images": ["a"]}, GOOD]},
            "not_text_alone",
            {"field": "messages[0].images"},
        ),
        (
            {"prompt": "<image>\nwhat is it?", "completion": "a"},
            "media_placeholder",
            {"field": "image"},
        ),
        (
            {"instruction": "what is it? <video>", "output": "a"},
            "media_placeholder",
            {"field": "video"},
        ),
        ({"text": "q", "labels": ["a", "b"]}, "several_classes", {"field": "labels", "count": 2}),
        ({"text": "q", "labels": []}, "wrong_type", {"field": "labels", "value": "None"}),
        ({"prompt": "x", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, "other_prompt", {}),
        (
            {"conversations": [HUMAN, OTHER], "chosen": GPT, "rejected": "c"},
            "answer_in_prompt",
            {"field": "conversations"},
        ),
        ({"messages": "[" * 5000}, "wrong_type", {"field": "messages", "type": "str"}),
        ({"prompt": "q", "completion": [USER]}, "no_assistant_turn", {}),
        ({"prompt": 3, "completion": "a"}, "wrong_type", {"field": "prompt", "value": "3"}),
        ({"prompt": "q", "response": 3}, "wrong_type", {"field": "response", "value": "3"}),
    ],
)
def test_what_cannot_be_read_is_refused(
    row: dict[str, Any], code: str, fields: dict[str, Any]
) -> None:
    found = convert(row)
    assert isinstance(found, BadRow)
    assert found.code == code
    assert fields.items() <= found.fields.items()


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "<image> is a tag of RSS, closed by </image>", "completion": "a"},
        {"messages": [USER, GOOD], "images": []},
        {"prompt": "[1, 2]", "completion": "a"},
        {"prompt": '{"role": 3', "completion": "a"},
    ],
)
def test_text_stays_text(row: dict[str, Any]) -> None:
    assert good(row).question == row.get("prompt", "q")


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ({"Context": "q", "Response": "a"}, "{prompt: Context, completion: Response}"),
        ({"problem": "q", "solution": "a"}, "{prompt: problem, completion: solution}"),
        (
            {"Query": "q", "note": "n", "more": "m", "bot": "a"},
            "{prompt: Query, completion: bot}",
        ),
        ({"title": "q", "category": "a"}, "{text: title, label: category}"),
        (
            {"id": "7", "url": "u", "Context": "q", "Reply": "a"},
            "{prompt: Context, completion: Reply}",
        ),
        ({"dialog": [USER, GOOD]}, "{messages: dialog}"),
        ({"chat": text([HUMAN, GPT])}, "{conversations: chat}"),
        ({"words": ["a"], "ner": ["O"]}, "{tokens: words, tags: ner}"),
    ],
)
def test_unknown_columns_come_with_a_line(row: dict[str, Any], line: str) -> None:
    found = convert(row)
    assert isinstance(found, BadRow)
    assert f"data: {{columns: {line}}}" in found.remedy
    assert (found.code, found.fields["own"]) == ("unknown_format", [*row])


SPANS = {"context": "p", "question": "q", "answers": {"text": ["a"], "answer_start": [0]}}


@pytest.mark.parametrize(
    "answers",
    [
        SPANS["answers"],
        {"text": "a"},
        [{"text": "a", "answer_start": 3}],
        json.dumps(SPANS["answers"]),
        str(SPANS["answers"]),
    ],
)
def test_squad_is_read(answers: Any) -> None:
    converter = Converter({})
    found = converter.convert(Row(SPANS | {"answers": answers}, "f:1"))
    assert isinstance(found, Example), found
    assert [turn.content for turn in found.messages] == ["p\n\nq", "a"]
    assert converter.findings("train") == []


def test_what_squad_rows_lack_or_leave_over_is_told() -> None:
    converter = Converter({})
    several = SPANS | {"answers": {"text": ["a", "b", "a"], "answer_start": [0, 1, 0]}}
    found = [converter.convert(Row(row, "f:1")) for row in (SPANS, several)]
    assert all(isinstance(one, Example) for one in found)
    (told,) = converter.findings("train")
    assert told.message.startswith(
        "column answers.text after the first (in 1 of 2 rows) is not used"
    )
    bad = converter.convert(Row(SPANS | {"answers": {"text": []}}, "f:3"))
    assert isinstance(bad, BadRow)
    assert (bad.code, bad.fields) == ("no_answer", {"field": "answers"})
    for none in (None, "", ["a"], [], "a", 3):
        assert isinstance(converter.convert(Row(SPANS | {"answers": none}, "f:4")), BadRow)


@pytest.mark.parametrize(
    "row",
    [
        {"context": "p", "question": "q", "answers": ["a", "b"]},  # may be choices
        {"context": "p", "question": "q", "spans": {"start": [1]}},
        {"en": "q", "de": "a"},
        {"title": "q", "abstract": "a"},
    ],
)
def test_no_line_is_better_than_a_wrong_one(row: dict[str, Any]) -> None:
    found = convert(row)
    assert isinstance(found, BadRow)
    assert (found.code, found.fields["suggested"]) == ("unknown_format", {})
    assert "question/answer" in found.remedy


def test_the_first_row_fixes_which_column_is_the_answer() -> None:
    converter = Converter({})
    assert isinstance(converter.convert(Row({"prompt": "q", "response": "a"}, "f:1")), Example)
    for row, code in (
        ({"prompt": "q", "response": None, "output": "b"}, "wrong_type"),
        ({"prompt": "q", "output": "b"}, "column_missing"),
    ):
        found = converter.convert(Row(row, "f:2"))
        assert isinstance(found, BadRow)
        assert (found.code, found.fields["field"]) == (code, "response")


def test_two_possible_answers_are_none() -> None:
    read = good({"prompt": "q", "response": "a", "answer": "b"})
    assert read.expected == ""


def test_graders_get_the_answer_of_a_prompt() -> None:
    read = good({"prompt": "q", "answer": "5"}, use=Grpo.rows)
    assert (read.expected, read.item) == ("", {"answer": "5"})


def test_structured_cells_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    cells = [text([USER, GOOD]), text([FIND]), "False"]
    quoted = ",".join('"' + cell.replace('"', '""') + '"' for cell in cells)
    path.write_text(f"messages , tools, label\n{quoted}\n", encoding="utf-8")
    (row,) = read_rows(path)
    assert isinstance(row, Row)
    read = Converter({}).convert(row)
    assert isinstance(read, Example)
    assert (read.expected, read.liked) == ("a", False)
    assert offered_tools(read.messages)


def test_turns_are_read_whichever_names_they_use() -> None:
    for column in ("messages", "conversations"):
        for role, text in (("role", "content"), ("from", "value"), ("from", "content")):
            turns = [{role: "human", text: "q"}, {role: "ai", text: "a"}]
            read = good({column: turns})
            assert [(turn.role, turn.content) for turn in read.messages] == [
                ("user", "q"),
                ("assistant", "a"),
            ]


@pytest.mark.parametrize("nothing", [None, [], "", "[]"])
def test_a_column_without_turns_hides_no_other(nothing: Any) -> None:
    assert good({"messages": nothing, "prompt": "q", "completion": "a"}).messages == PLAIN


@pytest.mark.parametrize(
    ("first", "second", "code", "fields"),
    [
        (
            {"text": "t"},
            {"text": "t", "label": "b"},
            "mixed_formats",
            {"format": "text/label", "expected": "plain text", "missing": "label"},
        ),
        (
            {"messages": [USER, GOOD], "label": True},
            {"messages": [USER, GOOD], "label": "fair"},
            "not_true_or_false",
            {"field": "label", "value": "'fair'"},
        ),
    ],
)
def test_a_row_that_differs_is_told_what_it_has(
    first: dict[str, Any], second: dict[str, Any], code: str, fields: dict[str, Any]
) -> None:
    converter = Converter({})
    assert isinstance(converter.convert(Row(first, "f:1")), Example)
    found = converter.convert(Row(second, "f:2"))
    assert isinstance(found, BadRow)
    assert found.code == code
    assert fields.items() <= found.fields.items()
