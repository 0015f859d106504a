"""Loads files into a checked data set, in one pass per file, and reports all bad rows at once."""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

from burnish.conversation import Example
from burnish.data.bad_rows import BadRows
from burnish.data.checks.dataset import (
    conflicting_labels,
    document_boundaries,
    empty_turns,
    error_from_finding,
    label_balance,
    unseen_types,
    without_disliked,
    without_duplicates,
    without_masked,
    without_overlap,
)
from burnish.data.checks.label_spelling import similar_labels
from burnish.data.checks.parts import (
    check_any_learnt,
    check_any_left,
    check_any_text,
    check_files,
    check_labels_differ,
    check_labels_seen,
)
from burnish.data.checks.template_marks import chat_template_marks
from burnish.data.readers.read_rows import BadRow, Row, read_rows
from burnish.data.recognise import Converter
from burnish.data.sample import Sample
from burnish.data.split import split
from burnish.data.tool_file import read_tools, with_tools
from burnish.errors import readable
from burnish.recipe.data import Data, Split
from burnish.recipe.objectives import RowUse, Sft
from burnish.runs.directory import Finding


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
    check_files(read, files, data, reading.columns)
    for one in findings:
        if one.severity == "error":
            raise error_from_finding(one)
    for name, rows in read.items():
        rows, masked = without_masked(rows, name)
        check_any_learnt(rows, files[name], name)
        check_any_text(rows, files[name], name)
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
    check_any_left(parts, data)
    check_labels_differ(parts["train"], data.train)
    check_labels_seen(parts["train"], parts["test"])
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
    check_files(read, {"rows": path}, data, reading.columns)
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
