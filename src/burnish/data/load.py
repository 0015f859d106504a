"""Loads files into a checked data set, in one pass per file, and reports all bad rows at once."""

import difflib
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from burnish.conversation import Example
from burnish.data.bad_rows import BadRows
from burnish.data.checks.dataset import (
    conflicting_labels,
    document_boundaries,
    empty_turns,
    error_from_finding,
    has_no_text,
    label_balance,
    unseen_types,
    without_disliked,
    without_duplicates,
    without_masked,
    without_overlap,
)
from burnish.data.checks.label_spelling import escape_lookalikes, fold_label, similar_labels
from burnish.data.checks.template_marks import chat_template_marks
from burnish.data.readers.read_rows import BadRow, Row, read_rows
from burnish.data.recognise import Converter
from burnish.data.sample import Sample
from burnish.data.split import split
from burnish.data.tool_file import read_tools, with_tools
from burnish.errors import DataError, readable, shown
from burnish.recipe.data import Data, Split
from burnish.recipe.objectives import RowUse, Sft
from burnish.runs.directory import Finding

_SHOWN = 20
_MOSTLY = 0.9


@dataclass(frozen=True)
class Dataset:
    """Rows for training, validation and testing; no input occurs in two of them."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    findings: list[Finding]
    sha256: dict[str, str]


@dataclass
class _Reading:
    """The state of reading: bad rows, column names and findings so far."""

    seed: int
    bad: BadRows = field(default_factory=BadRows)
    columns: dict[str, None] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def file(self, path: Path, data: Data, name: str, use: RowUse) -> list[Example]:
        """The usable rows of one file; bad rows are counted."""
        converter = Converter(data.columns, data.system, data.group_by, use)
        sample = Sample(data.limit, self.seed)
        tools = read_tools(data.tools) if data.tools else None
        for row in read_rows(path, self._notice):
            self.bad.total += 1
            if isinstance(row, Row):
                self.columns.update(dict.fromkeys(str(column).strip() for column in row.values))
                row = with_tools(row, tools) if tools else row
            converted = row if isinstance(row, BadRow) else converter.convert(row)
            if isinstance(converted, Example):
                sample.add(converted)
            else:
                self.bad.add(converted, row)
        rows, drawn = sample.draw(name)
        self.findings += [*converter.findings(name), *drawn]
        if path.suffix.lower() == ".txt":
            self.findings += document_boundaries(rows, name)
        return rows

    def judge(self, data: Data) -> None:
        """Raises an error for bad rows, or reports them if `drop_bad` is on.

        Raises:
            DataError: there are bad rows, and `drop_bad` is off.
        """
        if not data.drop_bad:
            self.bad.refuse(self.columns)
        self.findings += self.bad.findings()

    def _notice(self, message: str) -> None:
        self.findings.append(Finding("reading", "info", message, 1))


def load(data: Data, seed: int, use: RowUse = Sft.rows) -> Dataset:
    """Reads, checks and splits the data; `use` says which rows the objective learns from.

    Raises:
        DataError: a file cannot be read or is empty; it has bad rows and `drop_bad` is off; its
            labels or answers are in a column that is not used; it has no answers to train on, or
            only one label; or the test set has labels that do not occur in the training set.
    """
    files = {"train": data.train, "validation": data.validation, "test": data.test}
    reading = _Reading(seed)
    read = {name: reading.file(path, data, name, use) for name, path in files.items() if path}
    reading.judge(data)
    findings = reading.findings
    _check_read(read, files, data, reading.columns)
    for one in findings:
        if one.severity == "error":
            raise error_from_finding(one)
    for name, rows in read.items():
        rows, masked = without_masked(rows, name)
        _check_learnt(rows, files[name], name)
        _check_said(rows, files[name], name)
        findings += masked
        if not use.disliked:
            rows, disliked = without_disliked(rows, name)
            findings += disliked
        read[name], doubles = without_duplicates(rows, name)
        findings += [
            *empty_turns(read[name], name),
            *chat_template_marks(read[name], name),
            *doubles,
        ]
    findings += similar_labels([example for rows in read.values() for example in rows])
    findings += conflicting_labels(read["train"])
    parts, overlap = _parts(read, data, seed)
    findings += [*overlap, *label_balance(parts["train"])]
    findings += unseen_types(parts["train"], parts["test"])
    _check_left(parts, data)
    _check_labels(parts["train"], data.train)
    _check_unseen(parts["train"], parts["test"])
    hashes = {str(path): _sha256(path) for path in (*files.values(), data.tools) if path}
    findings = [_readable(one) for one in findings]
    return Dataset(parts["train"], parts["validation"], parts["test"], findings, hashes)


def _readable(one: Finding) -> Finding:
    return replace(one, seen=readable(one.seen), remedy=readable(one.remedy))


def check_file(path: Path) -> None:
    """Checks that a data file can be opened; its rows are not checked.

    Raises:
        DataError: it is missing, a folder, unreadable, or has an unsupported file type.
    """
    next(read_rows(path), None)


def load_rows(path: Path) -> list[Example]:
    """All rows of one file, without duplicates.

    Raises:
        DataError: the file cannot be used, has bad rows, or is empty.
    """
    reading, data = _Reading(seed=0), Data(train=path)
    read = {"rows": reading.file(path, data, "rows", Sft.rows)}
    reading.judge(data)
    _check_read(read, {"rows": path}, data, reading.columns)
    return without_duplicates(without_disliked(read["rows"], "rows")[0], "rows")[0]


def _parts(
    read: dict[str, list[Example]], data: Data, seed: int
) -> tuple[dict[str, list[Example]], list[Finding]]:
    """Splits into train, validation and test; a repeated input stays in the last of them."""
    read, findings = _without_copies(read)
    own = {"test": data.split.test, "validation": data.split.validation}
    usual = {"test": Split().test, "validation": Split().validation}
    # The user named a file for this part, so it gets rows whatever data.split says.
    shares = {
        name: share or (usual[name] if getattr(data, name) else share)
        for name, share in own.items()
    }
    wanted = [name for name in shares if name not in read]
    train, held = split(read["train"], [shares[name] for name in wanted], seed)
    parts = read | {"train": train} | dict(zip(wanted, held, strict=True))
    for name, other in (("train", "test"), ("validation", "test"), ("train", "validation")):
        parts[name], overlap = without_overlap(parts[name], parts[other], name, other)
        findings += overlap
    return parts, findings


def _without_copies(
    read: dict[str, list[Example]],
) -> tuple[dict[str, list[Example]], list[Finding]]:
    """Drops files with the same rows as another file; rows of train are held out instead."""
    left, findings = dict(read), []
    for name, other in (("test", "train"), ("validation", "train"), ("validation", "test")):
        if name in left and other in left and _same_rows(left[name], left[other]):
            message = (
                f"the {name} file has the same rows as the {other} file, so a part of the training "
                f"rows is held out as {name}"
            )
            findings.append(Finding("same", "warning", message, len(left.pop(name))))
    return left, findings


def _same_rows(rows: list[Example], others: list[Example]) -> bool:
    return len(rows) == len(others) and {e.content for e in rows} == {e.content for e in others}


def _check_read(
    read: dict[str, list[Example]],
    files: Mapping[str, Path | None],
    data: Data,
    columns: Collection[str],
) -> None:
    for name, rows in read.items():
        if not rows:
            raise DataError(
                f"{files[name]} has no rows that can be used",
                "use a file with at least a few dozen rows",
                code="no_rows",
                path=str(files[name]),
                part=name,
            )
    # With a misspelt column every row would be its own group, and groups would leak into test.
    if data.group_by and data.group_by not in columns:
        near = difflib.get_close_matches(data.group_by, columns, n=1)
        hint = f"did you mean {near[0]}?" if near else "use one of " + ", ".join(sorted(columns))
        raise DataError(
            f"data.group_by is {shown(data.group_by)}, but no row has this column",
            hint,
            code="unknown_column",
            key="data.group_by",
            column=data.group_by,
            closest=near[0] if near else None,
        )


def _check_learnt(rows: list[Example], path: Path | None, part: str) -> None:
    if not rows:
        raise DataError(
            f"no row of {path} has an assistant turn with a weight above 0",
            "set the weight of an assistant turn to 1, or remove the weights",
            code="nothing_learnt",
            path=str(path),
            part=part,
        )


def _check_said(rows: list[Example], path: Path | None, part: str) -> None:
    """A few empty answers may be intended, such as "nothing found"; a majority is a mistake."""
    silent = sum(map(has_no_text, rows))
    if silent < _MOSTLY * len(rows):
        return
    what = {"document": "document", "assistant": "answer"}.get(rows[0].messages[-1].role, "prompt")
    raise DataError(
        f"{silent} of {len(rows)} rows of {path} have an empty {what}, so nothing would be trained",
        f"fill in each {what}, or set data.columns to the column that contains it",
        code="empty_answers",
        path=str(path),
        part=part,
        what=what,
        count=silent,
        total=len(rows),
    )


def _check_left(parts: dict[str, list[Example]], data: Data) -> None:
    if not parts["train"]:
        raise DataError(
            f"every row of {data.train} also occurs in the test or validation set, so none is left "
            "for training",
            "use different files, or leave them out to split the training file",
            code="nothing_left",
            path=str(data.train),
            part="validation" if data.validation else "train",
        )
    if (data.test or data.split.test) and not parts["test"]:
        split_off = [] if data.validation else parts["validation"]
        rows = parts["train"] + split_off
        labels = {row.label for row in rows} - {None}
        parted = data.train.suffix.lower() == ".txt"
        raise DataError(
            f"{data.train} has only {len(rows)} distinct rows"
            + (f" within data.limit = {data.limit}, " if data.limit else ", ")
            + (
                "each with its own label, so no label has a second row for testing"
                if len(labels) > 1 and len(labels) == len(rows)
                else f"too few rows or groups to hold out {data.split.test:g} for testing"
            ),
            "separate the documents by empty lines, or set data.test to a file"
            if parted
            else f"{'raise data.limit' if data.limit else 'add rows'}, or set data.test to a file",
            code="too_few_documents" if parted else "too_few_test_rows",
            path=str(data.train),
            part="train",
            count=len(rows),
            labels=len(labels),
            limit=data.limit,
            share=data.split.test,
        )


def _check_labels(rows: list[Example], path: Path) -> None:
    labels = {example.label for example in rows}
    if len(labels) == 1 and labels != {None}:
        label = labels.pop()
        raise DataError(
            f"every row of {path} has the label {shown(label)}",
            "add rows with another label",
            code="one_label",
            path=str(path),
            part="train",
            label=label,
        )


def _check_unseen(train: list[Example], test: list[Example]) -> None:
    """A label that does not occur in training cannot be predicted, so testing it is unfair."""
    seen = {e.label for e in train if e.label is not None}
    unseen = {e.label for e in test if e.label is not None} - seen
    if seen and unseen:
        looks = {fold_label(label): label for label in seen}
        for label in sorted(unseen):
            if fold_label(label) in looks:
                here, there = escape_lookalikes([label, looks[fold_label(label)]])
                raise DataError(
                    f"the test set has the label {here}, which the training set spells {there}",
                    "use one spelling",
                    code="label_spelt_differently",
                    label=label,
                    other=looks[fold_label(label)],
                )
        names = ", ".join(sorted(map(shown, unseen))[:_SHOWN])
        known = ", ".join(sorted(map(shown, seen))[:_SHOWN])
        raise DataError(
            f"{len(unseen)} labels of the test set do not occur in the training set ({names}); the "
            f"training set has {known}",
            "add training rows with these labels, or remove them from the test set",
            code="unseen_labels",
            labels=sorted(unseen)[:_SHOWN],
            count=len(unseen),
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
