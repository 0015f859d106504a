"""Fields of a raw row: text and turns, or a sentence on what is wrong with them."""

import ast
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from burnish.conversation import Message, Role
from burnish.data.row_errors import RowFormatError, wrong_value
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
# What data sets call the switch that says whether a turn is learnt.
_SWITCHES = ("train", "loss", "trainable", "train_on", "learn", "loss_mask")
_MASKS = ("masked", "ignored")  # the same the other way round
_WEIGHTS = ("weight", "loss_weight", "loss_scale")
REASONING = ("reasoning_content", "reasoning", "thinking")
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
    """How turns are written: the names of their fields."""

    role: str
    text: str


CHAT = Style("role", "content")
SHAREGPT = Style("from", "value")


def text_field(values: Mapping[str, Any], field: str, where: str = "") -> str:
    value = values.get(field)
    if not isinstance(value, str):
        raise wrong_value(value, f"{where}{_name(values, field)}", "write text there")
    return value


def _name(values: Mapping[str, Any], field: str) -> str:
    return values.column(field).rpartition(".")[2] if isinstance(values, TrackedRow) else field


def parse_cell(value: Any) -> Any:
    """A list or an object that a cell holds as text, as CSV files have it; else the value itself.

    Both JSON and what Python prints of a list are read.
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
    """Turns that a cell holds as text; other text stays text, even `[1, 2]`."""
    read = parse_cell(value)
    turns = read if isinstance(read, list) else [read]
    is_turns = bool(turns) and all(
        isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in turns
    )
    return turns if is_turns else value


def turn_list(values: TrackedRow, field: str) -> list[Any]:
    turns = parse_cell(values.get(field))
    name = _name(values, field)
    if not isinstance(turns, list):
        raise wrong_value(turns, name, "write a list of turns")
    if not turns:
        raise RowFormatError(
            f"has no turn in {name}", "add a question and its answer", code="no_turns", field=name
        )
    return [values.part(turn, field) if isinstance(turn, dict) else turn for turn in turns]


def read_turn(turn: Any, where: str, style: Style = CHAT, *, learnt: bool = True) -> Message:
    """A turn with its calls, its reasoning and its weight.

    Args:
        turn: an object of the row.
        where: the path to it, for messages.
        style: the names of its fields, unless they are those of the other style.
        learnt: off where only the text of the turn is used, so that the rest is reported.
    """
    style = _style_of(turn, style)
    role, name = _role_of(turn, style, where)
    refuse_media(turn, where)
    if name in _CALLS:
        text = tool_call_from_text(turn.get(style.text), f"{where}{style.text}")
        return Message(role, text, _weight(turn, where) if learnt else 1.0)
    calls = tool_call_text(turn, where) if role == "assistant" else ""
    content, thought = _content(turn, where, style, is_call=bool(calls))
    said = "\n".join(part for part in (content, calls) if part)
    if role == "tool":  # calls and results stand in order, so their ids add nothing
        turn.get("tool_call_id"), turn.get("name")
    if role != "assistant" or not learnt:
        return Message(role, said)
    return Message(role, said, _weight(turn, where), reasoning=_reasoning(turn, where) or thought)


def refuse_media(values: Mapping[str, Any], where: str = "") -> None:
    """Raises MisfitError where a row or a turn has pictures or sounds besides its text."""
    for name in values:
        value = values.peek(name) if isinstance(values, TrackedRow) else values.get(name)
        if name.lower() in MEDIA and not is_empty(value):
            column = values.column(name) if isinstance(values, TrackedRow) and not where else name
            raise RowFormatError(
                f"has {where}{column}, and only text is read",
                "leave the row out, or write what it shows as text",
                code="not_text_alone",
                field=f"{where}{column}",
            )


def _style_of(turn: Any, style: Style) -> Style:
    """The names that the turn has; those of `style` where it has neither."""
    if not isinstance(turn, Mapping):
        return style
    other = SHAREGPT if style == CHAT else CHAT
    role = other.role if style.role not in turn and other.role in turn else style.role
    text = other.text if style.text not in turn and other.text in turn else style.text
    return Style(role, text)


def _role_of(turn: Any, style: Style, where: str) -> tuple[Role, str]:
    field = style.role
    if not isinstance(turn, Mapping):
        raise wrong_value(turn, where[:-1], f"write an object with {field}")
    if field not in turn:
        raise RowFormatError(
            f"has no {where}{field}",
            f"add the {field}",
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
    """What a turn says, and what its parts hold as reasoning."""
    value = turn.get(style.text)
    if value is None and is_call:
        return "", ""
    if value is None and isinstance(turn.get("refusal"), str):
        return str(turn["refusal"]), ""
    if not isinstance(value, list | dict):
        return text_field(turn, style.text, where), ""
    value = value if isinstance(value, list) else [value]
    parts = [_part(part, f"{where}{style.text}") for part in value]
    said = "".join(text for text, is_thought in parts if not is_thought)
    return said, "".join(text for text, is_thought in parts if is_thought)


def _part(part: Any, where: str) -> tuple[str, bool]:
    """The text of a part, and whether it is reasoning."""
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
            f"has a part {kind!r} in {where}",
            "leave only parts of type text",
            code="not_text_alone",
            field=where,
            value=shown(kind),
        )
    if not isinstance(part, dict) or (kind is None and not any(name in part for name in names)):
        raise RowFormatError(
            f"has a part {part!r} in {where}",
            "leave only parts of type text",
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
    """The weight of the loss; a turn that is switched off has none."""
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
            "write 0, 1 or another number from 0 up",
            code="bad_weight",
            field=f"{where}{name}",
            value=shown(weight),
        )
    return float(weight)


def bool_field(value: Any, missing: bool, where: str) -> bool:
    """True or false, also as CSV files write them; `missing` where there is nothing."""
    if value is None:
        return missing
    if (read := parse_bool(value)) is None:
        raise wrong_value(value, where, "write true or false", code="not_true_or_false")
    return read


def parse_bool(value: Any) -> bool | None:
    """True or false, also as 1 or 0 and as CSV files write them; None for all else."""
    if isinstance(value, str):
        return _TRUTH.get(value.strip().lower())
    return bool(value) if value in (True, False) else None


def parse_judgement(value: Any) -> bool | None:
    """Whether an answer was liked, in any of the words for it; None where that is not said."""
    if isinstance(value, str):
        return _JUDGEMENTS.get(value.strip().lower())
    return False if value == -1 else parse_bool(value)
