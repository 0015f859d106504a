"""Converts raw rows to Examples: the first row determines the format that all rows must have."""

import difflib
from collections.abc import Mapping
from typing import Any

from burnish.conversation import Conversation, Example, Message, content_id
from burnish.data.checks.dataset import error_from_finding
from burnish.data.checks.unused_columns import UnusedColumns, recipe_line, suggest_columns
from burnish.data.conversions import is_squad_answer, plain_text
from burnish.data.formats import FORMATS as FORMATS
from burnish.data.formats import JUDGEMENT_COLUMNS, KNOWN, Format, is_missing, match_columns
from burnish.data.preferences import other_fields
from burnish.data.readers.read_rows import BadRow, Row
from burnish.data.row_errors import RowFormatError
from burnish.data.tracked_row import TrackedRow
from burnish.data.turns import parse_judgement
from burnish.errors import DataError
from burnish.recipe.objectives import RowUse, Sft
from burnish.runs.directory import Finding

_LAYOUTS = 1000  # how many column layouts are cached


class Converter:
    """Converts the rows of one file to Examples; create a new one for each file.

    Args:
        columns: maps fields to the user's columns, such as {"text": "review", "label": "stars"}.
        system: system message for every row that has none.
        group_by: column whose equal values keep rows in one split; empty values are ungrouped.
        use: which rows and columns the objective learns from.

    Raises:
        DataError: `columns` contains an unknown field, or two columns are named for the group.
    """

    def __init__(
        self,
        columns: Mapping[str, str],
        system: str | None = None,
        group_by: str | None = None,
        use: RowUse = Sft.rows,
    ) -> None:
        _check_columns(columns, group_by)
        self.format: Format | None = None
        self._sources: Mapping[str, str] = {}
        self._own: dict[str, str] = {}
        # Most rows of a file have the same layout, so results are cached.
        self._names: dict[tuple[str, ...], dict[str, str]] = {}
        self._matches: dict[tuple[Any, ...], tuple[Format, Mapping[str, str]]] = {}
        self._columns = columns
        self._system = system
        self._group = group_by or columns.get("group")
        self._mapped = set(columns) - {"id", "group"}
        self._use = use
        self._exempt = {"id", "group", *([self._group] if self._group else [])}
        self._unused = UnusedColumns(self._exempt)

    def convert(self, row: Row) -> Example | BadRow:
        """Returns the Example of a row, or a BadRow with the reason why it cannot be used.

        Raises:
            DataError: a system message is set, but the rows are plain text without turns.
        """
        raw = {_trimmed(name, row.values): value for name, value in row.values.items()}
        try:
            fields, form, sources = self._fitting(*self._rename(raw))
            turns = form.convert(fields)
            if self._system is not None and turns[0].role == "document":
                raise self._without_turns(raw, fields, row)
            turns = self._with_system(turns)
            _check_turns(turns, form)
            extras = form.extras(fields)
            if not form.answered:
                rest = other_fields(fields if self._use.grading_fields else _all_values(fields))
                extras = {**extras, **rest}
        except RowFormatError as misfit:
            return BadRow(row.source, misfit.reason, misfit.remedy, misfit.code, misfit.fields)
        self.format, self._sources = form, sources
        self._own = self._own or {name: fields.column(name) for name in form.fields}
        self._unused.add(raw, fields.unused(raw), row.source)
        group = raw.get(self._group) if self._group else None
        own = fields.get("id")
        return Example(
            id=str(own) if _is_name(own) else content_id(turns, extras),
            messages=turns,
            group=None if group is None or group == "" else str(group),
            source=row.source,
            **extras,
        )

    def findings(self, split: str) -> list[Finding]:
        """Findings about columns that were not used."""
        if self.format is None:
            return []
        form = self.format
        is_meant = form.answered and set(form.required) <= self._mapped
        is_meant |= self._use.checks_itself or (self._use.documents and form.convert is plain_text)
        return self._unused.findings(
            split, form.name, self._own, optional=form.optional, is_meant=is_meant
        )

    def _rename(self, values: dict[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        """The row by field names, and the user's column of each field."""
        key = tuple(values)
        if (names := self._names.get(key)) is None:
            names = self._named(values)
            if len(self._names) < _LAYOUTS:
                self._names[key] = names
        return {name: values.get(column) for name, column in names.items()}, names

    def _named(self, values: Mapping[str, Any]) -> dict[str, str]:
        for name, column in self._columns.items():
            if column not in values and name != "group":
                reason = f"has no column {column!r}, which data.columns sets for {name}"
                raise _column_missing(column, values, reason, "correct data.columns")
        taken = set(self._columns.values())
        names: dict[str, str] = {}
        for column in values:
            folded = column.lower()  # `Label` is used as `label` if there is no other
            is_ours = folded in KNOWN and folded not in values and folded not in names
            name = folded if is_ours and column not in KNOWN else column
            if column not in taken and name not in self._columns:
                names[name] = column
        return names | dict(self._columns)

    def _fitting(
        self, values: Mapping[str, Any], names: Mapping[str, str]
    ) -> tuple[TrackedRow, Format, Mapping[str, str]]:
        """The row by the fields of its format, the format, and the column of each field."""
        expected = self.format
        for name in expected.required if expected else ():
            column = self._sources.get(name, name)
            if column not in values:
                raise _column_missing(
                    column, values, f"has no {column}", f"add the column {column}"
                )
        judged = tuple(
            parse_judgement(values[name]) is None for name in JUDGEMENT_COLUMNS if name in values
        )
        spans = tuple(is_squad_answer(values[name]) for name in ("answers",) if name in values)
        key = (*names, *(is_missing(*pair) for pair in values.items()), *judged, *spans)
        form, sources = self._matches.get(key) or self._match(values, names)
        if len(self._matches) < _LAYOUTS:
            self._matches[key] = form, sources
        if expected and form is not expected:
            missing = [self._sources.get(name, name) for name in expected.required]
            if expected.judged or any(values[column] is None for column in missing):
                form, sources = expected, self._sources  # its conversion reports the missing value
            else:
                reason = (
                    f"has the format {form.name}, but earlier rows have the format {expected.name}"
                )
                more = [name for name in form.required if name not in expected.fields]
                is_wider = more and set(expected.required) < set(form.required)
                remedy = f"add {more[0]} to every row, or " if is_wider else ""
                raise RowFormatError(
                    reason,
                    f"{remedy}use one format per file",
                    code="mixed_formats",
                    format=form.name,
                    expected=expected.name,
                    missing=more[0] if is_wider else None,
                )
        elif expected:
            sources = {**sources, **{name: self._sources[name] for name in expected.required}}
        used = set(sources.values())
        ours = {name: value for name, value in values.items() if name not in used}
        ours |= {name: values.get(column) for name, column in sources.items()}
        columns = {
            name: names.get(sources.get(name, name), sources.get(name, name)) for name in ours
        }
        return TrackedRow(ours, columns), form, sources

    def _match(
        self, values: Mapping[str, Any], names: Mapping[str, str]
    ) -> tuple[Format, Mapping[str, str]]:
        """The first format that fits the row: with values in its fields, otherwise without."""
        # With data.columns.prompt, or with a grader, no other column is taken for the answer.
        allowed = "prompt" not in self._mapped | (
            set(values) if self._use.grading_fields else set()
        )
        # A missing value is reported; reading the row as plain text or a prompt would hide it.
        for is_last, is_filled in ((False, True), (False, False), (True, False)):
            for form in FORMATS:
                if form.is_last is is_last:
                    sources = match_columns(form, values, self._mapped, is_filled, allowed)
                    if sources is not None:
                        return form, sources
        own = {names.get(name, name): value for name, value in values.items()}
        known = ", ".join("/".join(form.required) for form in FORMATS if form.is_plain)
        columns = suggest_columns(own)
        example = f", such as {recipe_line(columns)}" if columns else ""
        raise RowFormatError(
            f"has an unknown format (fields: {', '.join(own) or 'none'})",
            f"set data.columns{example}, or use the fields of a known format ({known})",
            code="unknown_format",
            own=[*own],
            known=known,
            suggested=columns,
        )

    def _with_system(self, turns: Conversation) -> Conversation:
        if self._system is None or any(turn.role == "system" for turn in turns):
            return turns
        return (Message("system", self._system), *turns)

    def _without_turns(self, raw: Mapping[str, Any], fields: TrackedRow, row: Row) -> DataError:
        """The error for data.system with plain text, or for an unrecognised label column."""
        lost = UnusedColumns(self._exempt)
        lost.add(raw, fields.unused(raw), row.source)
        for one in lost.findings(
            "it", "plain text", {"text": fields.column("text")}, is_meant=False
        ):
            if one.severity == "error":
                return error_from_finding(one)
        seen = f"data.system is set, but {row.source} is plain text without turns"
        return DataError(
            seen,
            "remove data.system, or use rows with prompt and completion",
            code="system_in_documents",
            source=row.source,
        )


def _trimmed(name: Any, values: Mapping[str, Any]) -> str:
    """A column name without surrounding spaces, unless another column has that name."""
    bare = name.strip() if isinstance(name, str) else str(name)
    return str(name) if bare != name and bare in values else bare


def _all_values(values: TrackedRow) -> dict[str, Any]:
    return {name: values.peek(name) for name in values}


def _check_columns(columns: Mapping[str, str], group_by: str | None) -> None:
    known = {"id", "group"}.union(*(form.fields for form in FORMATS))
    for name in columns:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "use one of " + ", ".join(sorted(known))
            raise DataError(
                f"data.columns contains {name!r}, which is not a field of any row format",
                hint,
                code="unknown_field",
                key="data.columns",
                value=name,
                closest=near[0] if near else None,
            )
    if group_by and columns.get("group", group_by) != group_by:
        seen = f"data.group_by is {group_by!r}, but data.columns.group is {columns['group']!r}"
        raise DataError(
            seen, "keep one of them", code="two_groups", group_by=group_by, column=columns["group"]
        )


def _column_missing(
    column: str, values: Mapping[str, Any], reason: str, remedy: str
) -> RowFormatError:
    """The error for a missing column; `remedy` is used if no column has a similar name."""
    near = difflib.get_close_matches(column, [str(one) for one in values], n=1)
    if not near:
        return RowFormatError(reason, remedy, code="column_missing", field=column)
    hint = f"did you mean its column {near[0]}?"
    return RowFormatError(reason, hint, code="column_misspelt", field=column, closest=near[0])


def _check_turns(turns: Conversation, form: Format) -> None:
    roles = [turn.role for turn in turns]
    if roles == ["document"]:
        return
    if "assistant" not in roles and form.answered:
        raise RowFormatError(
            "has no assistant turn to train on",
            "add the answer, or delete the row",
            code="no_assistant_turn",
        )
    if roles[0] == "assistant":
        raise RowFormatError(
            "starts with an assistant turn",
            "add a user turn before it, or set data.system",
            code="starts_with_assistant",
        )


def _is_name(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool) and value != ""
