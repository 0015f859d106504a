"""Errors for read rows and for the parts of their split that cannot be trained on or tested."""

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path

from burnish.conversation import Example
from burnish.data.checks.dataset import has_no_text
from burnish.data.checks.label_spelling import escape_lookalikes, fold_label
from burnish.errors import DataError, quantity, shown
from burnish.recipe.data import Data

_SHOWN = 20
# Share of rows without text from which the rows are refused.
_MOSTLY = 0.9


def check_files(
    read: dict[str, list[Example]],
    files: Mapping[str, Path | None],
    data: Data,
    columns: Collection[str],
) -> None:
    """Checks that each file has rows, and that `data.group_by` is a column of them."""
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


def check_any_learnt(rows: list[Example], path: Path | None, part: str) -> None:
    """Checks that a part has rows with an assistant turn that is trained on."""
    if not rows:
        raise DataError(
            f"no row of {path} has an assistant turn with a weight above 0",
            "set the weight of an assistant turn to 1, or remove the weights",
            code="nothing_learnt",
            path=str(path),
            part=part,
        )


def check_any_text(rows: list[Example], path: Path | None, part: str) -> None:
    """A few empty answers may be intended, such as "nothing found"; a majority is a mistake."""
    silent = sum(map(has_no_text, rows))
    if silent < _MOSTLY * len(rows):
        return
    what = {"document": "document", "assistant": "answer"}.get(rows[0].messages[-1].role, "prompt")
    of = f"{quantity(len(rows), 'row')} of {path}"
    raise DataError(
        quantity(silent, f"of {of} has", f"of {of} have")
        + f" an empty {what}, so nothing would be trained",
        f"fill in each {what}, or set data.columns to the column that contains it",
        code="empty_answers",
        path=str(path),
        part=part,
        what=what,
        count=silent,
        total=len(rows),
    )


def check_any_left(parts: dict[str, list[Example]], data: Data) -> None:
    """Checks that rows are left for training and testing after repeated rows were removed."""
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
            f"{data.train} has only {quantity(len(rows), 'distinct row')}"
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


def check_labels_differ(rows: list[Example], path: Path) -> None:
    """Checks that the training rows have more than one label, if they have labels."""
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


def check_labels_seen(train: list[Example], test: list[Example]) -> None:
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
        absent = quantity(len(unseen), "label of the test set does", "labels of the test set do")
        raise DataError(
            f"{absent} not occur in the training set ({names}); the training set has {known}",
            "add training rows with these labels, or remove them from the test set",
            code="unseen_labels",
            labels=sorted(unseen)[:_SHOWN],
            count=len(unseen),
        )
