"""Checks rows before training: duplicates, conflicting labels, label balance, overlap."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

from burnish.conversation import Conversation, Example, content_id
from burnish.data.unicode_forms import normal_form
from burnish.errors import DataError, quantity
from burnish.runs.directory import Finding

_SHOWN = 5
_FEW = 5
_SKEW = 10
_PARAGRAPH = 200  # average line length from which lines are whole paragraphs
# Between digits a sign is arithmetic or a date: 5-3 is not 5/3.
_SIGN = re.compile(r"(?<=\d)\s*([^\w\s])\s*(?=\d)|[^\w\s]")
_MEANINGFUL = "#@%&*/\\"  # C is not C#


def normalised(conversation: Conversation) -> str:
    """The text of a conversation without differences in case, width, spaces and punctuation.

    System turns are included, since they may contain the text that a question is about.
    """
    return normalised_text("\n".join(turn.content for turn in conversation))


def normalised_text(text: str) -> str:
    """Normalises a text: NFKC, case folded, single spaces, no punctuation."""
    folded = normal_form("NFKC", text).casefold()
    bare = " ".join(_SIGN.sub(_without_punctuation, folded).split())
    return bare or " ".join(folded.split())


def _without_punctuation(sign: re.Match[str]) -> str:
    """Removes punctuation but keeps symbols: emoji carry sentiment, and C is not C++."""
    char = sign[0]
    if sign[1] is not None:
        return sign[1]
    return " " if unicodedata.category(char)[0] == "P" and char not in _MEANINGFUL else char


def normalised_question(example: Example) -> str:
    """The normalised prompt of a row; of a document, its whole text."""
    return normalised(example.prompt or example.messages)


def without_duplicates(
    examples: Iterable[Example], split: str
) -> tuple[list[Example], list[Finding]]:
    """Removes repeated conversations and makes ids unique.

    Results are joined by id, so a different conversation with a used id gets a hash as its id.
    """
    first: dict[Any, Example] = {}
    ids: set[str] = set()
    doubles: list[Example] = []
    renamed: list[Example] = []
    for example in examples:
        if example.content in first:
            doubles.append(example)
            continue
        if example.id in ids:
            renamed.append(example)
            extras = {"rejected": example.rejected, "liked": example.liked, "item": example.item}
            example = replace(example, id=content_id(example.messages, extras))
        ids.add(example.id)
        first[example.content] = example
    repeated = f"{_rows(doubles, split)} left out because an earlier row is the same"
    used = f"{_rows(renamed, split)} given a new id because an earlier row has the same id"
    return list(first.values()), [
        *finding_if_any("duplicate", "warning", repeated, doubles),
        *finding_if_any("id", "warning", used, renamed),
    ]


def without_disliked(
    examples: Sequence[Example], split: str
) -> tuple[list[Example], list[Finding]]:
    """Removes rows whose answer is marked as disliked, so that bad answers are not trained on.

    Raises:
        DataError: no rows are left.
    """
    liked = [example for example in examples if example.liked is not False]
    disliked = [example for example in examples if example.liked is False]
    if disliked and not liked:
        raise DataError(
            f"every answer of {split} is marked as disliked",
            "set objective to kto, or add rows with good answers",
            code="all_disliked",
            part=split,
            count=len(disliked),
        )
    message = f"{_rows(disliked, split)} left out because the answer is marked as disliked"
    remedy = "set objective to kto to train on both kinds"
    return liked, finding_if_any("disliked", "warning", message, disliked, remedy)


def without_overlap(
    examples: Sequence[Example], held_out: Sequence[Example], split: str, other: str
) -> tuple[list[Example], list[Finding]]:
    """Removes the rows of `split` whose normalised input also occurs in `other`."""
    known = {normalised_question(example) for example in held_out}
    same = {example.messages for example in held_out}
    inside = [normalised_question(example) in known for example in examples]
    shared = [example for example, yes in zip(examples, inside, strict=True) if yes]
    exact = sum(1 for example in shared if example.messages in same)
    message = (
        f"{_rows(shared, split)} removed because a row of {other} has the same input ({exact} of "
        "them exactly the same)"
    )
    kept = [example for example, yes in zip(examples, inside, strict=True) if not yes]
    return kept, finding_if_any("overlap", "warning", message, shared)


def without_masked(examples: Sequence[Example], split: str) -> tuple[list[Example], list[Finding]]:
    """Removes rows in which every assistant turn has the weight 0."""
    masked = [example for example in examples if example.masked]
    message = f"{_rows(masked, split)} left out because all assistant turns have the weight 0"
    kept = [example for example in examples if not example.masked]
    return kept, finding_if_any("masked", "warning", message, masked)


def empty_turns(examples: Iterable[Example], split: str) -> list[Finding]:
    """Finds rows with an empty turn."""
    rows = [e for e in examples if any(not turn.content.strip() for turn in e.messages)]
    return finding_if_any(
        "empty", "warning", f"{_rows(rows, split, 'has', 'have')} an empty turn", rows
    )


def has_no_text(example: Example) -> bool:
    """Whether all text of a row that would be trained on is white space."""
    learnt = [turn for turn in example.messages if turn.role in ("assistant", "document")]
    turns = [turn for turn in learnt if turn.weight] or list(example.messages[-1:])
    return not any((turn.content + turn.reasoning).strip() for turn in turns)


def document_boundaries(examples: Sequence[Example], split: str) -> list[Finding]:
    """Reports the number of documents in a .txt file, and lines that may be documents."""
    parted = f"{split} has {quantity(len(examples), 'document')}, separated by empty lines"
    findings = [Finding("documents", "info", parted, len(examples))]
    long = [e for e in examples if _has_long_lines(e.messages[-1].content)]
    message = (
        quantity(len(long), f"document of {split} has", f"documents of {split} have")
        + " lines as long as paragraphs, without empty lines between them"
    )
    remedy = "if each line is a document, add an empty line after each line"
    return findings + finding_if_any("documents", "warning", message, long, remedy)


def _has_long_lines(text: str) -> bool:
    lines = text.splitlines()
    return len(lines) >= _FEW and len(text) / len(lines) >= _PARAGRAPH


def conflicting_labels(examples: Iterable[Example]) -> list[Finding]:
    """Finds inputs with more than one label."""
    rows: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        if example.label is not None:
            rows[normalised_question(example)].append(example)
    torn = [group for group in rows.values() if len({e.label for e in group}) > 1]
    seen = " and ".join(sorted({str(example.label) for example in torn[0]})) if torn else ""
    inputs = quantity(len(torn), "input has", "inputs have")
    message = f"{inputs} more than one label; the first has {seen}"
    return finding_if_any("conflict", "warning", message, [group[-1] for group in torn])


def rejected_answers(examples: Iterable[Example]) -> list[Finding]:
    """Finds rejected answers that the objective does not use."""
    rows = [example for example in examples if example.rejected is not None]
    has = quantity(len(rows), "row has", "rows have")
    message = f"{has} a rejected answer, but only the chosen answers are trained on"
    remedy = "set objective to dpo to train on both"
    return finding_if_any("rejected", "warning", message, rows, remedy)


def unseen_types(train: Sequence[Example], test: Sequence[Example]) -> list[Finding]:
    """Finds span types of the test set that do not occur in training."""
    seen, asked = ({t[2:] for e in rows for t in e.tags or ()} for rows in (train, test))
    unseen = sorted(asked - seen)
    rows = [e for e in test if {t[2:] for t in e.tags or ()} & set(unseen)]
    names = ", ".join(unseen)
    has = _rows(rows, "test", "has", "have")
    message = f"{has} spans of types that do not occur in train: {names}"
    return finding_if_any("unseen", "warning", message, rows)


def label_balance(examples: Iterable[Example]) -> list[Finding]:
    """Reports the number of rows per label; a warning if some labels have few rows."""
    counts = Counter(example.label for example in examples if example.label is not None)
    if not counts:
        return []
    (most, high), *_, (least, low) = [*counts.most_common(), counts.most_common()[-1]]
    skewed = low < _FEW or high > _SKEW * low
    labels = quantity(len(counts), "label")
    message = f"{labels}, from {quantity(low, 'row')} ({least}) to {high} ({most})"
    return [Finding("balance", "warning" if skewed else "info", message, len(counts))]


def _rows(rows: Sequence[Example], split: str, singular: str = "was", plural: str = "were") -> str:
    """The number of rows with a verb, such as `12 rows of train were`."""
    return quantity(len(rows), f"row of {split} {singular}", f"rows of {split} {plural}")


def error_from_finding(finding: Finding) -> DataError:
    """Converts a finding of severity error, about unused columns, to the error to raise."""
    return DataError(finding.seen, finding.remedy, code="unused_columns", **finding.fields)


def finding_if_any(
    kind: str,
    severity: Literal["warning", "info"],
    seen: str,
    rows: Sequence[Example],
    remedy: str = "",
) -> list[Finding]:
    """A list with one finding if there are rows, otherwise an empty list."""
    where = tuple(example.source for example in rows[:_SHOWN])
    return [Finding(kind, severity, seen, len(rows), where, remedy)] if rows else []
