"""Raw rows to Examples: the format is recognised once, then every row must fit it.

A new format is one entry of FORMATS and its conversion.
"""

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from burnish.chat import Conversation, Example, Message, Role, content_id
from burnish.data.rows import BadRow, Row
from burnish.errors import DataError

_CHAT_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_SHAREGPT_ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "tool": "tool",
    "observation": "tool",
}


_IOB2 = re.compile(r"O|[BI]-\S+")


class _MisfitError(Exception):
    """A row that does not fit its format."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Format:
    """A shape of rows. A row is of the first format whose `required` fields it all has."""

    name: str
    required: tuple[str, ...]
    convert: Callable[[Mapping[str, Any]], Conversation]
    optional: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        return self.required + self.optional


class Converter:
    """Turns the rows of one file into Examples; make a new one for each file.

    Args:
        columns: our field to the user's column, e.g. {"text": "review", "label": "stars"}.
        system: put before every row that has no system message of its own.
        group_by: the user's column whose rows stay together; rows without it stand alone.

    Raises:
        DataError: `columns` maps a field that no format has, or a group twice.
    """

    def __init__(
        self, columns: Mapping[str, str], system: str | None = None, group_by: str | None = None
    ) -> None:
        _check_columns(columns, group_by)
        self.format: Format | None = None
        self._columns = columns
        self._system = system
        self._group = group_by or columns.get("group")
        self._mapped = set(columns) - {"id", "group"}

    def convert(self, row: Row) -> Example | BadRow:
        """The Example of a row, or why there is none.

        Raises:
            DataError: there is a system message, but the rows are plain text without turns.
        """
        try:
            values = self._rename(row.values)
            form = self._fitting(values)
            turns = self._with_system(form.convert(values), row)
            _check_turns(turns)
        except _MisfitError as misfit:
            return BadRow(row.source, misfit.reason, misfit.remedy)
        self.format = form
        group = row.values.get(self._group) if self._group else None
        own = values.get("id")
        return Example(
            id=str(own) if _is_name(own) else content_id(turns),
            messages=turns,
            label=_label(values) if "label" in form.required else None,
            group=None if group is None or group == "" else str(group),
            source=row.source,
            tags=tuple(values["tags"]) if "tags" in form.required else None,
        )

    def _rename(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self._columns:
            return values
        for field, column in self._columns.items():
            if column not in values and field != "group":
                reason = f"has no column {column!r}, which data.columns names for {field}"
                raise _MisfitError(reason, _near(column, values, "correct data.columns"))
        taken = set(self._columns.values())
        rest = {name: value for name, value in values.items() if name not in taken}
        mapped = {field: values.get(column) for field, column in self._columns.items()}
        return rest | mapped

    def _fitting(self, values: Mapping[str, Any]) -> Format:
        expected = self.format
        for field in expected.required if expected else ():
            if field not in values:
                raise _MisfitError(f"has no {field}", _near(field, values, f"add the {field}"))
        found = _of(values, self._mapped)
        if expected and found is not expected:
            reason = f"is a {found.name} row among {expected.name} rows"
            raise _MisfitError(reason, "keep one format a file")
        return found

    def _with_system(self, turns: Conversation, row: Row) -> Conversation:
        if self._system is None or any(turn.role == "system" for turn in turns):
            return turns
        if turns[0].role == "document":
            seen = f"data.system is set, but {row.source} is plain text, which has no turns"
            raise DataError(seen, "leave out data.system, or give rows with prompt and completion")
        return (Message("system", self._system), *turns)


def _check_columns(columns: Mapping[str, str], group_by: str | None) -> None:
    known = {"id", "group"}.union(*(form.fields for form in FORMATS))
    for field in columns:
        if field not in known:
            near = difflib.get_close_matches(field, known, n=1)
            hint = f"did you mean {near[0]}" if near else "use one of " + ", ".join(sorted(known))
            raise DataError(f"data.columns maps {field!r}, which is no field of ours", hint)
    if group_by and columns.get("group", group_by) != group_by:
        seen = f"data.group_by is {group_by!r} and data.columns.group {columns['group']!r}"
        raise DataError(seen, "keep one of them")


def _of(values: Mapping[str, Any], mapped: set[str]) -> Format:
    """The first format that the row has all fields of and that uses every mapped field."""
    for form in FORMATS:
        if all(field in values for field in form.required) and mapped <= set(form.fields):
            return form
    fields = ", ".join(map(str, values)) or "none"
    known = ", ".join("/".join(form.required) for form in FORMATS)
    raise _MisfitError(
        f"is of no known format (its fields: {fields})",
        f"name its columns in data.columns, or use the fields of a format ({known})",
    )


def _near(field: str, values: Mapping[str, Any], otherwise: str) -> str:
    near = difflib.get_close_matches(field, [str(name) for name in values], n=1)
    return f"did you mean its {near[0]}" if near else otherwise


def _check_turns(turns: Conversation) -> None:
    roles = [turn.role for turn in turns]
    if roles == ["document"]:
        return
    if "assistant" not in roles:
        raise _MisfitError(
            "has no assistant turn to learn from", "add the answer, or delete the row"
        )
    if roles[0] == "assistant":
        raise _MisfitError(
            "starts with an assistant turn", "put a user turn before it, or set data.system"
        )


def _is_name(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool) and value != ""


def _text(values: Mapping[str, Any], field: str, where: str = "") -> str:
    value = values.get(field)
    if not isinstance(value, str):
        raise _MisfitError(f"has {_kind(value)} as {where}{field}", "write text there")
    return value


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    kinds = {bool: "a true/false value", int: "a number", float: "a number", str: "text"}
    kinds |= {list: "a list", dict: "an object"}
    shown = repr(value)
    name = kinds.get(type(value), f"a {type(value).__name__}")
    return f"{name} ({shown if len(shown) <= 40 else shown[:39] + '…'})"


def _label(values: Mapping[str, Any]) -> str:
    value = values.get("label")
    if not isinstance(value, bool | int | float | str) or value != value:
        raise _MisfitError(f"has {_kind(value)} as label", "write the class as text or a number")
    if not (label := str(value).strip()):
        raise _MisfitError("has an empty label", "write the class, or delete the row")
    return label


def _chat(values: Mapping[str, Any]) -> Conversation:
    return tuple(
        _chat_turn(turn, f"messages[{index}].")
        for index, turn in enumerate(_turns(values, "messages"))
    )


def _turns(values: Mapping[str, Any], field: str) -> list[Any]:
    turns = values.get(field)
    if not isinstance(turns, list):
        raise _MisfitError(f"has {_kind(turns)} as {field}", "write a list of turns")
    if not turns:
        raise _MisfitError(f"has no turn in {field}", "add a question and its answer")
    return turns


def _chat_turn(turn: Any, where: str) -> Message:
    role = _role(turn, "role", _CHAT_ROLES, where)
    for call in ("tool_calls", "function_call"):
        if turn.get(call):
            raise _MisfitError(f"has {where}{call}", "write the call as text in content")
    if isinstance(turn.get("content"), list):
        content = "".join(_part(part, where) for part in turn["content"])
    else:
        content = _text(turn, "content", where)
    return Message(role, content, _weight(turn, where) if role == "assistant" else 1.0)


def _role(turn: Any, field: str, roles: Mapping[str, Role], where: str) -> Role:
    if not isinstance(turn, dict):
        raise _MisfitError(f"has {_kind(turn)} as {where[:-1]}", f"write an object with {field}")
    if field not in turn:
        raise _MisfitError(f"has no {where}{field}", _swap(turn, field))
    role = turn[field]
    if not isinstance(role, str) or role not in roles:
        raise _MisfitError(f"has {role!r} as {where}{field}", "use one of " + ", ".join(roles))
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
        raise _MisfitError(
            f"has a part {kind!r} in {where}content", "leave only parts of type text"
        )
    return _text(part, "text", f"{where}content.")


def _weight(turn: Mapping[str, Any], where: str) -> float:
    weight = turn.get("weight")
    if weight is None:
        return 1.0
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or not (weight >= 0 and math.isfinite(weight)):
        raise _MisfitError(
            f"has {weight!r} as {where}weight", "write 0, 1 or another number from 0 up"
        )
    return float(weight)


def _sharegpt(values: Mapping[str, Any]) -> Conversation:
    turns = [
        Message(
            _role(turn, "from", _SHAREGPT_ROLES, f"conversations[{index}]."),
            _text(turn, "value", f"conversations[{index}]."),
        )
        for index, turn in enumerate(_turns(values, "conversations"))
    ]
    return _own_system(values, tuple(turns))


def _own_system(values: Mapping[str, Any], turns: Conversation) -> Conversation:
    if values.get("system") in (None, "") or turns[0].role == "system":
        return turns
    return (Message("system", _text(values, "system")), *turns)


def _alpaca(values: Mapping[str, Any]) -> Conversation:
    question = _text(values, "instruction")
    if values.get("input") not in (None, ""):
        question += "\n\n" + _text(values, "input")
    turns = (Message("user", question), Message("assistant", _text(values, "output")))
    return _own_system(values, turns)


def _pair(question: str, answer: str) -> Callable[[Mapping[str, Any]], Conversation]:
    def convert(values: Mapping[str, Any]) -> Conversation:
        user = Message("user", _text(values, question))
        return user, Message("assistant", _text(values, answer))

    return convert


def _text_label(values: Mapping[str, Any]) -> Conversation:
    return Message("user", _text(values, "text")), Message("assistant", _label(values))


def _words_tags(values: Mapping[str, Any]) -> Conversation:
    words, tags = _list(values, "tokens", "words"), _list(values, "tags", "tags")
    if len(words) != len(tags):
        raise _MisfitError(f"has {len(words)} tokens and {len(tags)} tags", "give each word a tag")
    for place, word in enumerate(words):
        if not isinstance(word, str) or word.split() != [word]:
            raise _MisfitError(
                f"has {_kind(word)} as tokens[{place}]", "write one word without white space"
            )
    for place, tag in enumerate(tags):
        if not isinstance(tag, str) or not _IOB2.fullmatch(tag):
            raise _MisfitError(
                f"has {_kind(tag)} as tags[{place}]", "write O, B-TYPE or I-TYPE (IOB2)"
            )
        before = tags[place - 1] if place else "O"
        if tag[0] == "I" and tag[2:] != before[2:]:
            reason = f"has {tag!r} as tags[{place}], where no span of that type goes on"
            raise _MisfitError(reason, f"begin the span with B-{tag[2:]} (IOB2)")
    return Message("user", " ".join(words)), Message("assistant", " ".join(tags))


def _list(values: Mapping[str, Any], field: str, what: str) -> list[Any]:
    items = values.get(field)
    if not isinstance(items, list):
        raise _MisfitError(f"has {_kind(items)} as {field}", f"write a list of {what}")
    if not items:
        raise _MisfitError(f"has no {what} in {field}", "delete the row")
    return items


def _plain_text(values: Mapping[str, Any]) -> Conversation:
    return (Message("document", _text(values, "text")),)


FORMATS: tuple[Format, ...] = (
    Format("chat", ("messages",), _chat),
    Format("ShareGPT", ("conversations",), _sharegpt, ("system",)),
    Format("Alpaca", ("instruction", "output"), _alpaca, ("input", "system")),
    Format("prompt/completion", ("prompt", "completion"), _pair("prompt", "completion")),
    Format("question/answer", ("question", "answer"), _pair("question", "answer")),
    Format("text/label", ("text", "label"), _text_label),
    Format("tokens/tags", ("tokens", "tags"), _words_tags),
    Format("plain text", ("text",), _plain_text),
)
