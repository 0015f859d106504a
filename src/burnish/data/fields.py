"""Fields of a raw row: text and turns, or a sentence on what is wrong with them."""

import math
from collections.abc import Mapping
from typing import Any

from burnish.chat import Message, Role
from burnish.data.misfit import MisfitError, kind_of
from burnish.data.tools import called

CHAT_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
SHAREGPT_ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "tool": "tool",
    "observation": "tool",
}


def text_of(values: Mapping[str, Any], field: str, where: str = "") -> str:
    value = values.get(field)
    if not isinstance(value, str):
        raise MisfitError(f"has {kind_of(value)} as {where}{field}", "write text there")
    return value


def turns_of(values: Mapping[str, Any], field: str) -> list[Any]:
    turns = values.get(field)
    if not isinstance(turns, list):
        raise MisfitError(f"has {kind_of(turns)} as {field}", "write a list of turns")
    if not turns:
        raise MisfitError(f"has no turn in {field}", "add a question and its answer")
    return turns


def chat_turn(turn: Any, where: str) -> Message:
    role = role_of(turn, "role", CHAT_ROLES, where)
    calls = called(turn, where) if role == "assistant" else ""
    if calls and turn.get("content") is None:
        content = ""
    elif isinstance(turn.get("content"), list):
        content = "".join(_part(part, where) for part in turn["content"])
    else:
        content = text_of(turn, "content", where)
    said = "\n".join(part for part in (content, calls) if part)
    return Message(role, said, _weight(turn, where) if role == "assistant" else 1.0)


def role_of(turn: Any, field: str, roles: Mapping[str, Role], where: str) -> Role:
    if not isinstance(turn, dict):
        raise MisfitError(f"has {kind_of(turn)} as {where[:-1]}", f"write an object with {field}")
    if field not in turn:
        raise MisfitError(f"has no {where}{field}", _swap(turn, field))
    role = turn[field]
    if not isinstance(role, str) or role not in roles:
        raise MisfitError(f"has {role!r} as {where}{field}", "use one of " + ", ".join(roles))
    return roles[role]


def _swap(turn: Mapping[str, Any], field: str) -> str:
    """The remedy where the turns of one format stand in the column of another."""
    if field == "role" and "from" in turn:
        return "set data.columns to {conversations: messages}"
    if field == "from" and "role" in turn:
        return "set data.columns to {messages: conversations}"
    return f"add the {field}"


def _part(part: Any, where: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        kind = part.get("type") if isinstance(part, dict) else part
        raise MisfitError(f"has a part {kind!r} in {where}content", "leave only parts of type text")
    return text_of(part, "text", f"{where}content.")


def _weight(turn: Mapping[str, Any], where: str) -> float:
    weight = turn.get("weight")
    if weight is None:
        return 1.0
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or not (weight >= 0 and math.isfinite(weight)):
        raise MisfitError(
            f"has {weight!r} as {where}weight", "write 0, 1 or another number from 0 up"
        )
    return float(weight)
