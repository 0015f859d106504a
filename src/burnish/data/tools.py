"""Tools in a row: the calls of an assistant turn, and the functions that may be called.

A call is kept as the text that templates of the Hermes and Qwen families make of it, and that
models of these families write. So it is learnt, measured and compared like any other answer.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from burnish.chat import Conversation
from burnish.data.misfit import MisfitError, kind_of


def called(turn: Mapping[str, Any], where: str) -> str:
    """The calls of a turn as text, one below the other; empty where it has none.

    Raises:
        MisfitError: a call has no name, or its arguments are no JSON object.
    """
    calls = turn.get("tool_calls") or []
    if not isinstance(calls, list):
        raise MisfitError(f"has {kind_of(calls)} as {where}tool_calls", "write a list of calls")
    named = [(_function(call, f"{where}tool_calls."), f"{where}tool_calls.") for call in calls]
    if turn.get("function_call"):
        named.append((turn["function_call"], f"{where}function_call."))
    return "\n".join(_text(function, place) for function, place in named)


def offered(turns: Conversation, values: Mapping[str, Any]) -> Conversation:
    """The turns with the row's `tools`, or older `functions`, on the first that a user speaks.

    Raises:
        MisfitError: they are no list of functions with names.
    """
    tools = values.get("tools") or []
    older = values.get("functions") or []
    if not isinstance(tools, list) or not isinstance(older, list):
        raise MisfitError("has tools that are no list", "write a list of functions")
    shown = [*tools, *({"type": "function", "function": function} for function in older)]
    if not shown:
        return turns
    for place, tool in enumerate(shown):
        name = _function(tool, f"tools[{place}].").get("name")
        if not isinstance(name, str) or not name:
            raise MisfitError(f"has {kind_of(name)} as tools[{place}].function.name", "name it")
    roles = [turn.role for turn in turns]
    first = roles.index("user") if "user" in roles else 0
    own = replace(turns[first], tools=json.dumps(shown, ensure_ascii=False))
    return (*turns[:first], own, *turns[first + 1 :])


def tools_of(turns: Sequence[Any]) -> list[dict[str, Any]] | None:
    """What a template shows as tools; None where the conversation has none."""
    return next((json.loads(turn.tools) for turn in turns if turn.tools), None)


def _function(call: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(call, Mapping) or not isinstance(call.get("function"), Mapping):
        raise MisfitError(f"has no {where}function", "write it as OpenAI does")
    found: Mapping[str, Any] = call["function"]
    return found


def _text(function: Any, where: str) -> str:
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise MisfitError(f"has {kind_of(name)} as {where}name", "write the function's name")
    given = function.get("arguments", "{}")
    try:
        arguments = json.loads(given) if isinstance(given, str) else given
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise MisfitError(f"has {kind_of(given)} as {where}arguments", "write a JSON object there")
    call = {"name": name, "arguments": arguments}
    return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"
