"""Rows that call tools: read from OpenAI's format, rendered as the model's template does it."""

import copy
import json
from typing import Any

import pytest

from burnish.conversation import Example
from burnish.data.readers.read_rows import BadRow, Row
from burnish.data.recognise import Converter
from burnish.data.render import render, render_prompt
from burnish.data.tool_calls import tool_call_text
from burnish.errors import DataError
from tests.refused import refused
from tests.tool_calling import FIND, TEMPLATE, calling, row


@pytest.fixture
def tokenizer(tiny_tokenizer: Any) -> Any:
    found = copy.deepcopy(tiny_tokenizer)
    found.chat_template = TEMPLATE
    return found


def read(values: dict[str, Any]) -> Example:
    found = Converter({}).convert(Row(values, "f:1"))
    assert isinstance(found, Example), found
    return found


def as_served(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Templates want the arguments as an object."""
    turns = json.loads(json.dumps(values["messages"]))
    for turn in turns:
        turn["content"] = turn["content"] or ""
        for call in turn.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return list(turns)


WHOLE = row("where is 7", "One moment.", calling(id=7, ä=["x"]), calling(id=8))
WHOLE["messages"] += [
    {"role": "tool", "tool_call_id": "call_1", "content": "at the door"},
    {"role": "assistant", "content": "It is at the door."},
]


@pytest.mark.parametrize("values", [row("where is 7", None, calling(id=7)), WHOLE])
def test_tokens_are_those_of_the_template(values: dict[str, Any], tokenizer: Any) -> None:
    example = read(values)
    rendered = render(example, tokenizer)
    own = tokenizer.apply_chat_template(
        as_served(values), tools=values["tools"], tokenize=True, return_dict=False
    )
    assert list(rendered.tokens) == list(own)
    learnt = [t for t, w in zip(rendered.tokens, rendered.weights, strict=True) if w]
    said = tokenizer.decode(learnt)
    assert '{"name": "find", "arguments": {"id": 7' in said
    assert "at the door" in said if values is WHOLE else "door" not in said
    assert "<tool_response>" not in said
    prompt = tokenizer.apply_chat_template(
        as_served(values)[:-1],
        tools=values["tools"],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
    assert render_prompt(example.prompt, tokenizer) == list(prompt)


def test_a_row_comes_back_from_its_own_form() -> None:
    example = read(WHOLE)
    assert Example.from_row(json.loads(json.dumps(example.to_row()))) == example
    without = {"messages": WHOLE["messages"]}
    assert read(without).id != example.id


def test_older_functions_and_pairs() -> None:
    function = {"name": "find", "arguments": '{"id": 7}'}
    turns = [
        {"role": "user", "content": "where is 7"},
        {"role": "assistant", "content": None, "function_call": function},
    ]
    older = read({"messages": turns, "functions": [FIND["function"]]})
    newer = read(row("where is 7", None, calling(id=7)))
    assert older.messages == newer.messages
    pair = read(
        {
            "input": {"messages": turns[:1], "tools": [FIND]},
            "preferred_output": turns[1:],
            "non_preferred_output": [{"role": "assistant", "content": "I do not know."}],
        }
    )
    assert pair.messages == newer.messages
    assert pair.rejected == "I do not know."


def broken(**given: Any) -> dict[str, Any]:
    call = {"function": {"name": "find", "arguments": "{}"} | given}
    return row("where", None, call)


@pytest.mark.parametrize(
    ("values", "code", "fields"),
    [
        (
            broken(arguments="{"),
            "wrong_type",
            {"field": "messages[1].tool_calls.arguments", "value": "'{'"},
        ),
        (
            broken(arguments="[1]"),
            "wrong_type",
            {"field": "messages[1].tool_calls.arguments", "value": "'[1]'"},
        ),
        (broken(name=""), "wrong_type", {"field": "messages[1].tool_calls.name", "value": "''"}),
        (row("where", "x") | {"tools": {"a": 1}}, "wrong_type", {"field": "tools", "type": "dict"}),
        (
            row("where", "x") | {"tools": [{"type": "function"}]},
            "missing_key",
            {"field": "tools[0].function"},
        ),
    ],
)
def test_what_is_no_call(values: dict[str, Any], code: str, fields: dict[str, Any]) -> None:
    found = Converter({}).convert(Row(values, "f:1"))
    assert isinstance(found, BadRow)
    assert found.code == code
    assert fields.items() <= found.fields.items()


def test_a_template_without_tools_is_told(tiny_tokenizer: Any) -> None:
    with refused("no_template_for_tools", DataError):
        render(read(WHOLE), tiny_tokenizer)


@pytest.mark.parametrize("arguments", [{}, {"arguments": None}, {"arguments": ""}])
def test_a_call_without_arguments_has_none(arguments: dict[str, Any]) -> None:
    call = {"type": "function", "function": {"name": "find", **arguments}}
    written = '<tool_call>\n{"name": "find", "arguments": {}}\n</tool_call>'
    assert tool_call_text({"tool_calls": [call]}, "") == written
