"""Rows that compare two answers, judge one, or ask for one."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from burnish.chat import Conversation, Message
from burnish.data.fields import chat_turn, text_of, turns_of
from burnish.data.misfit import MisfitError, kind_of
from burnish.data.tools import offered

# What CSV files, where all is text, have as judgement.
_JUDGEMENTS = {"true": True, "false": False, "1": True, "0": False}


def asked(values: Mapping[str, Any]) -> Conversation:
    """A prompt: text, or turns up to the answer."""
    if not isinstance(values.get("prompt"), list):
        return (Message("user", text_of(values, "prompt")),)
    given = turns_of(values, "prompt")
    turns = tuple(chat_turn(turn, f"prompt[{index}].") for index, turn in enumerate(given))
    return offered(turns, values)


def _reply(values: Mapping[str, Any], field: str) -> str:
    """An answer: text, or a list of one assistant turn."""
    if not isinstance(values.get(field), list):
        return text_of(values, field)
    turns = [chat_turn(turn, f"{field}.") for turn in turns_of(values, field)]
    if [turn.role for turn in turns] != ["assistant"]:
        raise MisfitError(f"has {len(turns)} turns in {field}", "leave one assistant turn there")
    return turns[0].content


def answered(field: str) -> Callable[[Mapping[str, Any]], Conversation]:
    def convert(values: Mapping[str, Any]) -> Conversation:
        return (*asked(values), Message("assistant", _reply(values, field)))

    return convert


def rejected_answer(values: Mapping[str, Any]) -> dict[str, Any]:
    chosen, rejected = _reply(values, "chosen"), _reply(values, "rejected")
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer.strip():  # which of two is likelier cannot be asked of nothing
            raise MisfitError(f"has an empty answer as {name}", "write it, or delete the row")
    if chosen == rejected:
        raise MisfitError("has the same answer as chosen and rejected", "delete the row")
    return {"rejected": rejected}


def liked(values: Mapping[str, Any]) -> dict[str, Any]:
    value = values.get("label")
    if isinstance(value, str):  # as a CSV file has it
        value = _JUDGEMENTS.get(value.strip().lower(), value)
    if value not in (True, False, 0, 1):
        raise MisfitError(f"has {kind_of(value)} as label", "write true (liked) or false")
    return {"liked": bool(value)}


def further_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a row says besides its prompt, for graders; what JSON does not know becomes text."""
    rest = {name: value for name, value in values.items() if name not in ("prompt", "id", "group")}
    return {"item": json.loads(json.dumps(rest, default=str))} if rest else {}


def openai_pair(values: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's preference rows in the names of ours."""
    given = values.get("input")
    if not isinstance(given, dict):
        raise MisfitError(f"has {kind_of(given)} as input", "write an object with messages")
    return {
        "prompt": given.get("messages"),
        "tools": given.get("tools"),
        "chosen": values.get("preferred_output"),
        "rejected": values.get("non_preferred_output"),
    }


def whole_pair(values: Mapping[str, Any]) -> dict[str, Any]:
    """Two conversations that differ in the last turn alone."""
    chosen, rejected = (turns_of(values, field) for field in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1] or len(chosen) < 2:
        raise MisfitError(
            "has conversations that differ before the last turn",
            "write the turns before it once, as prompt",
        )
    return {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}


def renamed(
    names: Callable[[Mapping[str, Any]], dict[str, Any]],
    convert: Callable[[Mapping[str, Any]], Any],
) -> Callable[[Mapping[str, Any]], Any]:
    return lambda values: convert(names(values))


chosen_turns = answered("chosen")
