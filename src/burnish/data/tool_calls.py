"""Reads tools from a row: the calls of an assistant turn, and the functions it may call.

A call becomes the text that chat templates of the Hermes and Qwen families produce and that models
of these families write. It is then trained on, measured and compared like any other answer.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from burnish.conversation import Conversation
from burnish.data.row_errors import RowFormatError, wrong_value


def tool_call_text(turn: Mapping[str, Any], where: str) -> str:
    """The tool calls of a turn as text, one per line; empty if it has none.

    Raises:
        RowFormatError: a call has no name, or its arguments are not a JSON object.
    """
    calls = turn.get("tool_calls") or []
    if isinstance(calls, str):
        calls = _listed(calls)
    if not isinstance(calls, list):
        raise wrong_value(calls, f"{where}tool_calls", "write a list of calls")
    named = [(_function(call, f"{where}tool_calls."), f"{where}tool_calls.") for call in calls]
    if turn.get("function_call"):
        named.append((turn["function_call"], f"{where}function_call."))
    return "\n".join(_text(function, place) for function, place in named)


def tool_call_from_text(value: Any, where: str) -> str:
    """The text of a turn that consists of calls, given as JSON text or objects: one or a list.

    Raises:
        RowFormatError: it is not JSON, or a call in it has no name.
    """
    try:
        read = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        read = None
    calls = read if isinstance(read, list) else [read]
    if not calls or not all(isinstance(call, Mapping) for call in calls):
        raise wrong_value(
            value, where, "write the call as JSON with name and arguments", code="not_json"
        )
    return "\n".join(_text(call.get("function", call), f"{where}.") for call in calls)


def with_offered_tools(turns: Conversation, values: Mapping[str, Any]) -> Conversation:
    """Attaches the row's `tools`, or its older `functions`, to the first user turn.

    Both may be JSON text, as in table cells, and a tool may be the function object itself.

    Raises:
        RowFormatError: they are not a list of functions with names.
    """
    tools, older = (_listed(values.get(field)) for field in ("tools", "functions"))
    shown = [*map(_wrapped, tools), *map(_wrapped, older)]
    if not shown:
        return turns
    for place, tool in enumerate(shown):
        name = _function(tool, f"tools[{place}].").get("name")
        if not isinstance(name, str) or not name:
            raise wrong_value(name, f"tools[{place}].function.name", "write the function's name")
    roles = [turn.role for turn in turns]
    first = roles.index("user") if "user" in roles else 0
    own = replace(turns[first], tools=json.dumps(shown, ensure_ascii=False))
    return (*turns[:first], own, *turns[first + 1 :])


def _listed(value: Any) -> list[Any]:
    try:
        read = json.loads(value) if isinstance(value, str) and value.strip() else value
    except (ValueError, RecursionError):
        read = value
    if not read or (isinstance(read, str) and not read.strip()):
        return []
    if not isinstance(read, list):
        raise RowFormatError(
            "has tools that are not a list",
            "write a list of functions",
            code="wrong_type",
            field="tools",
            type=type(read).__name__,
        )
    return read


def _wrapped(tool: Any) -> Any:
    is_bare = isinstance(tool, Mapping) and "function" not in tool and "name" in tool
    if not is_bare:
        return tool
    function = {name: value for name, value in tool.items() if name != "type"}
    return {"type": "function", "function": function}


def offered_tools(turns: Sequence[Any]) -> list[dict[str, Any]] | None:
    """The tools that a conversation offers, for the chat template; None if it has none."""
    return next((json.loads(turn.tools) for turn in turns if turn.tools), None)


def _function(call: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(call, Mapping) or not isinstance(call.get("function"), Mapping):
        raise RowFormatError(
            f"has no {where}function",
            "write an object with name and parameters, as in the OpenAI API",
            code="missing_key",
            field=f"{where}function",
        )
    function: Mapping[str, Any] = call["function"]
    return function


def _text(function: Any, where: str) -> str:
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise wrong_value(name, f"{where}name", "write the function's name")
    value = function.get("arguments", "{}")
    if value is None or value == "":  # a function without parameters
        value = "{}"
    try:
        arguments = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise wrong_value(value, f"{where}arguments", "write a JSON object")
    call = {"name": name, "arguments": arguments}
    return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"
