"""Files to a checked data set: one pass a file, every bad row told at once."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from burnish.chat import Example
from burnish.data.findings import (
    conflicting_labels,
    empty_turns,
    label_balance,
    without_duplicates,
    without_overlap,
)
from burnish.data.formats import Converter
from burnish.data.rows import BadRow, read_rows
from burnish.data.split import split
from burnish.errors import DataError
from burnish.recipe import Data
from burnish.run_directory import Finding

_SHOWN = 20


@dataclass(frozen=True)
class Dataset:
    """Rows to learn from, to choose with and to measure on; no input stands in two of them."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    findings: list[Finding]
    sha256: dict[str, str]


def load(data: Data, seed: int) -> Dataset:
    """Reads, checks and splits.

    Raises:
        DataError: a file cannot be used, has bad rows and `drop_bad` is off, is empty, has one
            label only, or the test set has labels that train never shows.
    """
    findings: list[Finding] = []
    files = {"train": data.train, "validation": data.validation, "test": data.test}
    read = {name: _read(path, data, findings) for name, path in files.items() if path}
    rows, doubles = without_duplicates(read["train"], "train")
    findings += [*empty_turns(rows), *doubles, *conflicting_labels(rows), *label_balance(rows)]
    _check_labels(rows, data.train)
    shares = {"test": data.split.test, "validation": data.split.validation}
    wanted = [name for name in ("test", "validation") if name not in read]
    train, held = split(rows, [shares[name] for name in wanted], seed)
    parts = read | dict(zip(wanted, held, strict=True))
    train, overlap = without_overlap(train, parts["test"], "train", "test")
    validation, also = without_overlap(parts["validation"], parts["test"], "validation", "test")
    train, third = without_overlap(train, validation, "train", "validation")
    findings += [*overlap, *also, *third]
    if not train:
        raise DataError(f"no row of {data.train} is left to learn from", "lower data.split")
    _check_unseen(train, parts["test"])
    hashes = {str(path): _sha256(path) for path in files.values() if path}
    return Dataset(train, validation, parts["test"], findings, hashes)


def _read(path: Path, data: Data, findings: list[Finding]) -> list[Example]:
    converter = Converter(data.columns, data.system, data.group_by)
    examples: list[Example] = []
    bad: list[BadRow] = []
    count = 0
    for row in read_rows(path):
        converted = row if isinstance(row, BadRow) else converter.convert(row)
        if isinstance(converted, Example):
            examples.append(converted)
            if len(examples) == data.limit:
                break
        else:
            count += 1
            bad = [*bad, converted] if len(bad) < _SHOWN else bad
    if count and not data.drop_bad:
        raise DataError(
            _listing(path, bad, count), "correct them, or leave them out with --drop-bad"
        )
    if count:
        where = tuple(row.source for row in bad)
        message = f"{count} bad rows of {path} were left out"
        findings.append(Finding("bad", "warning", message, count, where))
    if not examples:
        raise DataError(f"{path} has no rows", "name a file with at least a few dozen")
    return examples


def _listing(path: Path, bad: list[BadRow], count: int) -> str:
    lines = "".join(f"\n  {row.source} {row.reason} ({row.remedy})" for row in bad)
    more = f"\n  and {count - len(bad)} more" if count > len(bad) else ""
    return f"{count} bad row{'s' if count > 1 else ''} in {path}:{lines}{more}\n{count} in all"


def _check_labels(rows: list[Example], path: Path) -> None:
    labels = {example.label for example in rows}
    if len(labels) == 1 and labels != {None}:
        raise DataError(
            f"every row of {path} has the label {labels.pop()!r}", "add rows of another label"
        )


def _check_unseen(train: list[Example], test: list[Example]) -> None:
    """A label that train never shows could not be learnt, so the measure would be unfair."""
    unseen = {e.label for e in test if e.label is not None} - {e.label for e in train}
    if unseen:
        names = ", ".join(sorted(map(repr, unseen))[:_SHOWN])
        raise DataError(
            f"{len(unseen)} labels of the test set are never seen in train ({names})",
            "add rows of them to train, or take them out of the test set",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
