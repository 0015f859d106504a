"""Raw rows to Examples: the format is recognised once, then every row must fit it.

A new format is one entry of FORMATS and its conversion.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from burnish.chat import Conversation, Example, Message, content_id
from burnish.data.fields import (
    SHAREGPT_ROLES,
    chat_turn,
    role_of,
    text_of,
    turns_of,
)
from burnish.data.misfit import MisfitError, kind_of
from burnish.data.preferences import (
    answered,
    asked,
    chosen_turns,
    further_fields,
    liked,
    openai_pair,
    rejected_answer,
    renamed,
    whole_pair,
)
from burnish.data.rows import BadRow, Row
from burnish.data.tools import offered
from burnish.errors import DataError

_IOB2 = re.compile(r"O|[BI]-\S+")


@dataclass(frozen=True, slots=True)
class Format:
    """A shape of rows. A row is of the first format whose `required` fields it all has.

    `extras` gives what an Example has besides its turns, by the names of its fields.
    """

    name: str
    required: tuple[str, ...]
    convert: Callable[[Mapping[str, Any]], Conversation]
    optional: tuple[str, ...] = ()
    extras: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda values: {}
    answered: bool = True

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
            _check_turns(turns, form)
            extras = form.extras(values)
        except MisfitError as misfit:
            return BadRow(row.source, misfit.reason, misfit.remedy)
        self.format = form
        group = row.values.get(self._group) if self._group else None
        own = values.get("id")
        return Example(
            id=str(own) if _is_name(own) else content_id(turns, extras),
            messages=turns,
            group=None if group is None or group == "" else str(group),
            source=row.source,
            **extras,
        )

    def _rename(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self._columns:
            return values
        for field, column in self._columns.items():
            if column not in values and field != "group":
                reason = f"has no column {column!r}, which data.columns names for {field}"
                raise MisfitError(reason, _near(column, values, "correct data.columns"))
        taken = set(self._columns.values())
        rest = {name: value for name, value in values.items() if name not in taken}
        mapped = {field: values.get(column) for field, column in self._columns.items()}
        return rest | mapped

    def _fitting(self, values: Mapping[str, Any]) -> Format:
        expected = self.format
        for field in expected.required if expected else ():
            if field not in values:
                raise MisfitError(f"has no {field}", _near(field, values, f"add the {field}"))
        found = _of(values, self._mapped)
        if expected and found is not expected:
            reason = f"is a {found.name} row among {expected.name} rows"
            raise MisfitError(reason, "keep one format a file")
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
    raise MisfitError(
        f"is of no known format (its fields: {fields})",
        f"name its columns in data.columns, or use the fields of a format ({known})",
    )


def _near(field: str, values: Mapping[str, Any], otherwise: str) -> str:
    near = difflib.get_close_matches(field, [str(name) for name in values], n=1)
    return f"did you mean its {near[0]}" if near else otherwise


def _check_turns(turns: Conversation, form: Format) -> None:
    roles = [turn.role for turn in turns]
    if roles == ["document"]:
        return
    if "assistant" not in roles and form.answered:
        raise MisfitError(
            "has no assistant turn to learn from", "add the answer, or delete the row"
        )
    if roles[0] == "assistant":
        raise MisfitError(
            "starts with an assistant turn", "put a user turn before it, or set data.system"
        )


def _is_name(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool) and value != ""


def _label(values: Mapping[str, Any]) -> str:
    value = values.get("label")
    if not isinstance(value, bool | int | float | str) or value != value:
        raise MisfitError(f"has {kind_of(value)} as label", "write the class as text or a number")
    if not (label := str(value).strip()):
        raise MisfitError("has an empty label", "write the class, or delete the row")
    return label


def _chat(values: Mapping[str, Any]) -> Conversation:
    turns = tuple(
        chat_turn(turn, f"messages[{index}].")
        for index, turn in enumerate(turns_of(values, "messages"))
    )
    return offered(turns, values)


def _sharegpt(values: Mapping[str, Any]) -> Conversation:
    turns = [
        Message(
            role_of(turn, "from", SHAREGPT_ROLES, f"conversations[{index}]."),
            text_of(turn, "value", f"conversations[{index}]."),
        )
        for index, turn in enumerate(turns_of(values, "conversations"))
    ]
    return _own_system(values, tuple(turns))


def _own_system(values: Mapping[str, Any], turns: Conversation) -> Conversation:
    if values.get("system") in (None, "") or turns[0].role == "system":
        return turns
    return (Message("system", text_of(values, "system")), *turns)


def _alpaca(values: Mapping[str, Any]) -> Conversation:
    question = text_of(values, "instruction")
    if values.get("input") not in (None, ""):
        question += "\n\n" + text_of(values, "input")
    turns = (Message("user", question), Message("assistant", text_of(values, "output")))
    return _own_system(values, turns)


def _pair(question: str, answer: str) -> Callable[[Mapping[str, Any]], Conversation]:
    def convert(values: Mapping[str, Any]) -> Conversation:
        user = Message("user", text_of(values, question))
        return user, Message("assistant", text_of(values, answer))

    return convert


def _text_label(values: Mapping[str, Any]) -> Conversation:
    return Message("user", text_of(values, "text")), Message("assistant", _label(values))


def _words_tags(values: Mapping[str, Any]) -> Conversation:
    words, tags = _list(values, "tokens", "words"), _list(values, "tags", "tags")
    if len(words) != len(tags):
        raise MisfitError(f"has {len(words)} tokens and {len(tags)} tags", "give each word a tag")
    for place, word in enumerate(words):
        if not isinstance(word, str) or word.split() != [word]:
            raise MisfitError(
                f"has {kind_of(word)} as tokens[{place}]", "write one word without white space"
            )
    for place, tag in enumerate(tags):
        if not isinstance(tag, str) or not _IOB2.fullmatch(tag):
            raise MisfitError(
                f"has {kind_of(tag)} as tags[{place}]", "write O, B-TYPE or I-TYPE (IOB2)"
            )
        before = tags[place - 1] if place else "O"
        if tag[0] == "I" and tag[2:] != before[2:]:
            reason = f"has {tag!r} as tags[{place}], where no span of that type goes on"
            raise MisfitError(reason, f"begin the span with B-{tag[2:]} (IOB2)")
    return Message("user", " ".join(words)), Message("assistant", " ".join(tags))


def _list(values: Mapping[str, Any], field: str, what: str) -> list[Any]:
    items = values.get(field)
    if not isinstance(items, list):
        raise MisfitError(f"has {kind_of(items)} as {field}", f"write a list of {what}")
    if not items:
        raise MisfitError(f"has no {what} in {field}", "delete the row")
    return items


def _plain_text(values: Mapping[str, Any]) -> Conversation:
    return (Message("document", text_of(values, "text")),)


FORMATS: tuple[Format, ...] = (
    Format("preference", ("prompt", "chosen", "rejected"), chosen_turns, extras=rejected_answer),
    Format(
        "OpenAI preference",
        ("input", "preferred_output", "non_preferred_output"),
        renamed(openai_pair, chosen_turns),
        extras=renamed(openai_pair, rejected_answer),
    ),
    Format(
        "preference of conversations",
        ("chosen", "rejected"),
        renamed(whole_pair, chosen_turns),
        extras=renamed(whole_pair, rejected_answer),
    ),
    Format(
        "judged answer",
        ("prompt", "completion", "label"),
        answered("completion"),
        extras=liked,
    ),
    Format("chat", ("messages",), _chat),
    Format("ShareGPT", ("conversations",), _sharegpt, ("system",)),
    Format("Alpaca", ("instruction", "output"), _alpaca, ("input", "system")),
    Format("prompt/completion", ("prompt", "completion"), _pair("prompt", "completion")),
    Format("question/answer", ("question", "answer"), _pair("question", "answer")),
    Format("text/label", ("text", "label"), _text_label, extras=lambda v: {"label": _label(v)}),
    Format(
        "tokens/tags",
        ("tokens", "tags"),
        _words_tags,
        extras=lambda values: {"tags": tuple(values["tags"])},
    ),
    Format("plain text", ("text",), _plain_text),
    Format("prompt", ("prompt",), asked, extras=further_fields, answered=False),
)
