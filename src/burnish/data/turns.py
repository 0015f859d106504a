"""Reads text and turns from the fields of a raw row, or says what is wrong with them."""

import ast
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from burnish.conversation import Message, Role
from burnish.data.row_errors import RowFormatError, wrong_value
from burnish.data.template_form import REASONING
from burnish.data.tool_calls import tool_call_from_text, tool_call_text
from burnish.data.tracked_row import TrackedRow, is_empty
from burnish.errors import shown

_CALLS: dict[str, Role] = {"function_call": "assistant", "tool_call": "assistant"}
ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
    "ipython": "tool",
    **_CALLS,
}
# Names that data sets use for "train on this turn".
_SWITCHES = ("train", "loss", "trainable", "train_on", "learn", "loss_mask")
_MASKS = ("masked", "ignored")  # the opposite: true means not trained on
_WEIGHTS = ("weight", "loss_weight", "loss_scale")
MEDIA = ("image", "images", "audio", "audios", "video", "videos")
_TRUTH = {"true": True, "false": False, "1": True, "0": False}
_JUDGEMENTS = _TRUTH | {"1.0": True, "0.0": False, "-1": False}
for _good, _bad in (
    ("yes", "no"),
    ("y", "n"),
    ("good", "bad"),
    ("liked", "disliked"),
    ("like", "dislike"),
    ("up", "down"),
    ("thumbs_up", "thumbs_down"),
    ("chosen", "rejected"),
    ("accepted", "rejected"),
    ("preferred", "rejected"),
    ("correct", "incorrect"),
    ("pass", "fail"),
    ("passed", "failed"),
    ("desirable", "undesirable"),
):
    _JUDGEMENTS |= {_good: True, _bad: False}


@dataclass(frozen=True, slots=True)
class Style:
    """The field names of a turn: one for its role, one for its text."""

    role: str
    text: str


CHAT = Style("role", "content")
SHAREGPT = Style("from", "value")


def text_field(values: Mapping[str, Any], field: str, where: str = "") -> str:
    """The text of a field.

    Raises:
        RowFormatError: its value is not text.
    """
    value = values.get(field)
    if not isinstance(value, str):
        raise wrong_value(value, f"{where}{_name(values, field)}", "write text")
    return value


def _name(values: Mapping[str, Any], field: str) -> str:
    return values.column(field).rpartition(".")[2] if isinstance(values, TrackedRow) else field


def parse_cell(value: Any) -> Any:
    """Parses a cell whose text is a list or an object; returns any other value unchanged.

    The text may be JSON or a Python literal, as CSV files often contain.
    """
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return value


def turns_or_text(value: Any) -> Any:
    """Parses a cell that contains a list of turns; other text stays text, even `[1, 2]`."""
    parsed = parse_cell(value)
    turns = parsed if isinstance(parsed, list) else [parsed]
    is_turns = bool(turns) and all(
        isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in turns
    )
    return turns if is_turns else value


def turn_list(values: TrackedRow, field: str) -> list[Any]:
    """The list of turns in a field.

    Raises:
        RowFormatError: it is not a list, or it is empty.
    """
    turns = parse_cell(values.get(field))
    name = _name(values, field)
    if not isinstance(turns, list):
        raise wrong_value(turns, name, "write a list of turns")
    if not turns:
        raise RowFormatError(
            f"has no turns in {name}", "add a question and its answer", code="no_turns", field=name
        )
    return [values.part(turn, field) if isinstance(turn, dict) else turn for turn in turns]


def read_turn(turn: Any, where: str, style: Style = CHAT, *, learnt: bool = True) -> Message:
    """Converts a turn, with its tool calls, reasoning and weight, to a Message.

    Args:
        turn: an object of the row.
        where: its path in the row, for error messages.
        style: the expected field names; those of the other style are accepted too.
        learnt: False if only the text of the turn is used; its weight is then reported as unused.
    """
    style = _style_of(turn, style)
    role, name = _role_of(turn, style, where)
    refuse_media(turn, where)
    if name in _CALLS:
        text = tool_call_from_text(turn.get(style.text), f"{where}{style.text}")
        return Message(role, text, _weight(turn, where) if learnt else 1.0)
    calls = tool_call_text(turn, where) if role == "assistant" else ""
    content, thought = _content(turn, where, style, is_call=bool(calls))
    text = "\n".join(part for part in (content, calls) if part)
    if role == "tool":  # results follow their calls in order, so the ids are not needed
        turn.get("tool_call_id"), turn.get("name")
    if role != "assistant" or not learnt:
        return Message(role, text)
    return Message(role, text, _weight(turn, where), reasoning=_reasoning(turn, where) or thought)


def refuse_media(values: Mapping[str, Any], where: str = "") -> None:
    """Raises RowFormatError if a row or a turn contains images, audio or video."""
    for name in values:
        value = values.peek(name) if isinstance(values, TrackedRow) else values.get(name)
        if name.lower() in MEDIA and not is_empty(value):
            column = values.column(name) if isinstance(values, TrackedRow) and not where else name
            raise RowFormatError(
                f"has {where}{column}, but Burnish reads only text",
                "delete the row, or describe the content as text",
                code="not_text_alone",
                field=f"{where}{column}",
            )


def _style_of(turn: Any, style: Style) -> Style:
    """The field names that the turn uses; those of `style` if it uses neither."""
    if not isinstance(turn, Mapping):
        return style
    other = SHAREGPT if style == CHAT else CHAT
    role = other.role if style.role not in turn and other.role in turn else style.role
    text = other.text if style.text not in turn and other.text in turn else style.text
    return Style(role, text)


def _role_of(turn: Any, style: Style, where: str) -> tuple[Role, str]:
    field = style.role
    if not isinstance(turn, Mapping):
        raise wrong_value(turn, where[:-1], f"write an object with the field {field}")
    if field not in turn:
        raise RowFormatError(
            f"has no {where}{field}",
            f"add the field {field}",
            code="missing_key",
            field=f"{where}{field}",
        )
    role = turn[field]
    name = role.strip().lower() if isinstance(role, str) else ""
    if name not in ROLES:
        raise RowFormatError(
            f"has {role!r} as {where}{field}",
            "use one of " + ", ".join(ROLES),
            code="unknown_role",
            field=f"{where}{field}",
            value=shown(role),
        )
    return ROLES[name], name


def _content(
    turn: Mapping[str, Any], where: str, style: Style, *, is_call: bool
) -> tuple[str, str]:
    """The text of a turn, and the reasoning among its content parts."""
    value = turn.get(style.text)
    if value is None and is_call:
        return "", ""
    if value is None and isinstance(turn.get("refusal"), str):
        return str(turn["refusal"]), ""
    if not isinstance(value, list | dict):
        return text_field(turn, style.text, where), ""
    value = value if isinstance(value, list) else [value]
    parts = [_part(part, f"{where}{style.text}") for part in value]
    content = "".join(text for text, is_thought in parts if not is_thought)
    return content, "".join(text for text, is_thought in parts if is_thought)


def _part(part: Any, where: str) -> tuple[str, bool]:
    """The text of a content part, and whether it is reasoning."""
    if isinstance(part, str):
        return part, False
    kind = part.get("type") if isinstance(part, dict) else part
    if isinstance(part, dict) and kind in ("thinking", "reasoning"):
        return text_field(
            {"thinking": part.get(kind, part.get("text"))}, "thinking", f"{where}."
        ), True
    names: tuple[str, ...] = ("text", "value", "content")
    if kind == "refusal":
        names = ("refusal",)
    elif kind not in (None, "text", "input_text", "output_text"):
        raise RowFormatError(
            f"has a content part of type {kind!r} in {where}",
            "keep only parts of type text",
            code="not_text_alone",
            field=where,
            value=shown(kind),
        )
    if not isinstance(part, dict) or (kind is None and not any(name in part for name in names)):
        raise RowFormatError(
            f"has the content part {part!r} in {where}",
            "keep only parts of type text",
            code="not_text_alone",
            field=where,
            value=shown(part),
        )
    held = next((name for name in names if part.get(name) is not None), names[0])
    return text_field(part, held, f"{where}."), False


def _reasoning(turn: Mapping[str, Any], where: str) -> str:
    held = [name for name in REASONING if turn.get(name) not in (None, "")]
    return text_field(turn, held[0], where) if held else ""


def _weight(turn: Mapping[str, Any], where: str) -> float:
    """The loss weight of a turn; 0 if the turn is excluded from training."""
    for name in _SWITCHES:
        if not bool_field(turn.get(name), True, f"{where}{name}"):
            return 0.0
    for name in _MASKS:
        if bool_field(turn.get(name), False, f"{where}{name}"):
            return 0.0
    name = next((name for name in _WEIGHTS if turn.get(name) is not None), "")
    if not name:
        return 1.0
    weight = turn[name]
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or not (weight >= 0 and math.isfinite(weight)):
        raise RowFormatError(
            f"has {weight!r} as {where}{name}",
            "write a number of at least 0, such as 0 or 1",
            code="bad_weight",
            field=f"{where}{name}",
            value=shown(weight),
        )
    return float(weight)


def bool_field(value: Any, missing: bool, where: str) -> bool:
    """A value as true or false, `missing` if it is null.

    Raises:
        RowFormatError: it is neither.
    """
    if value is None:
        return missing
    if (parsed := parse_bool(value)) is None:
        raise wrong_value(value, where, "write true or false", code="not_true_or_false")
    return parsed


def parse_bool(value: Any) -> bool | None:
    """True or false, also written as 1, 0 or text; None for any other value."""
    if isinstance(value, str):
        return _TRUTH.get(value.strip().lower())
    return bool(value) if value in (True, False) else None


def parse_judgement(value: Any) -> bool | None:
    """Whether a value such as "good" or "rejected" approves an answer; None if it is neither."""
    if isinstance(value, str):
        return _JUDGEMENTS.get(value.strip().lower())
    return False if value == -1 else parse_bool(value)
