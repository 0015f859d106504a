"""What the rows themselves tell before any training: duplicates, conflicts, balance, overlap."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from burnish.chat import Conversation, Example
from burnish.run_directory import Finding

_SHOWN = 5
_FEW = 5
_SKEW = 10
_PUNCTUATION = re.compile(r"[^\w\s]+")


def normalised(conversation: Conversation) -> str:
    """What a reader would call the same text: case, width, spaces and punctuation aside."""
    text = "\n".join(turn.content for turn in conversation if turn.role != "system")
    folded = unicodedata.normalize("NFKC", text).casefold()
    bare = " ".join(_PUNCTUATION.sub(" ", folded).split())
    return bare or " ".join(folded.split())


def question_of(example: Example) -> str:
    """The normalised input; a document is its own."""
    return normalised(example.prompt or example.messages)


def without_duplicates(
    examples: Iterable[Example], split: str
) -> tuple[list[Example], list[Finding]]:
    """Each conversation once, and how many were left out."""
    first: dict[Conversation, Example] = {}
    doubles: list[Example] = []
    for example in examples:
        if first.setdefault(example.messages, example) is not example:
            doubles.append(example)
    message = f"{len(doubles)} rows of {split} say the same as an earlier one and were left out"
    return list(first.values()), found("duplicate", "warning", message, doubles)


def without_overlap(
    examples: Sequence[Example], held_out: Sequence[Example], split: str, other: str
) -> tuple[list[Example], list[Finding]]:
    """The rows of `split` whose input, normalised, does not stand in `other`."""
    known = {question_of(example) for example in held_out}
    inside = [question_of(example) in known for example in examples]
    shared = [example for example, yes in zip(examples, inside, strict=True) if yes]
    message = f"{len(shared)} rows of {split} ask what {other} asks and were removed from {split}"
    kept = [example for example, yes in zip(examples, inside, strict=True) if not yes]
    return kept, found("overlap", "warning", message, shared)


def empty_turns(examples: Iterable[Example]) -> list[Finding]:
    """Rows in which somebody says nothing."""
    rows = [e for e in examples if any(not turn.content.strip() for turn in e.messages)]
    return found("empty", "warning", f"{len(rows)} rows have an empty turn", rows)


def conflicting_labels(examples: Iterable[Example]) -> list[Finding]:
    """Inputs that stand with more than one label."""
    rows: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        if example.label is not None:
            rows[question_of(example)].append(example)
    torn = [group for group in rows.values() if len({e.label for e in group}) > 1]
    message = f"{len(torn)} inputs have more than one label"
    return found("conflict", "warning", message, [group[-1] for group in torn])


def label_balance(examples: Iterable[Example]) -> list[Finding]:
    """How many rows each label has; a warning where few or far apart."""
    counts = Counter(example.label for example in examples if example.label is not None)
    if not counts:
        return []
    (most, high), *_, (least, low) = [*counts.most_common(), counts.most_common()[-1]]
    skewed = low < _FEW or high > _SKEW * low
    message = f"{len(counts)} labels, from {low} rows ({least}) to {high} ({most})"
    return [Finding("balance", "warning" if skewed else "info", message, len(counts))]


def found(kind: str, severity: str, message: str, rows: Sequence[Example]) -> list[Finding]:
    """One finding where there are rows, else none."""
    where = tuple(example.source for example in rows[:_SHOWN])
    return [Finding(kind, severity, message, len(rows), where)] if rows else []  # type: ignore[arg-type]
