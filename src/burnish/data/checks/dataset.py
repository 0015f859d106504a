"""What the rows themselves tell before any training: duplicates, conflicts, balance, overlap."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

from burnish.conversation import Conversation, Example, content_id
from burnish.data.unicode_forms import normal_form
from burnish.errors import DataError
from burnish.runs.directory import Finding

_SHOWN = 5
_FEW = 5
_SKEW = 10
_PARAGRAPH = 200  # characters of a line that was not broken to be read
# Between digits a sign is arithmetic or a date: 5-3 is not 5/3.
_SIGN = re.compile(r"(?<=\d)\s*([^\w\s])\s*(?=\d)|[^\w\s]")
_MEANINGFUL = "#@%&*/\\"  # C is not C#


def normalised(conversation: Conversation) -> str:
    """What a reader would call the same text: case, width, spaces and punctuation aside.

    System turns count, since they may hold the text that is asked about.
    """
    return normalised_text("\n".join(turn.content for turn in conversation))


def normalised_text(text: str) -> str:
    """The same of a plain text: NFKC, case folded, single spaces, no punctuation."""
    folded = normal_form("NFKC", text).casefold()
    bare = " ".join(_SIGN.sub(_without_punctuation, folded).split())
    return bare or " ".join(folded.split())


def _without_punctuation(sign: re.Match[str]) -> str:
    """Symbols stay: a review is told by its emoji, and C is not C++."""
    char = sign[0]
    if sign[1] is not None:
        return sign[1]
    return " " if unicodedata.category(char)[0] == "P" and char not in _MEANINGFUL else char


def normalised_question(example: Example) -> str:
    """The normalised input; a document is its own."""
    return normalised(example.prompt or example.messages)


def without_duplicates(
    examples: Iterable[Example], split: str
) -> tuple[list[Example], list[Finding]]:
    """Each conversation once and each id once, and how many were left out or renamed.

    Results are joined by id: another conversation under a used id gets the hash of its content.
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
    repeated = f"{len(doubles)} rows of {split} say the same as an earlier one and were left out"
    used = f"{len(renamed)} rows of {split} have the id of an earlier one and were given another"
    return list(first.values()), [
        *finding_if_any("duplicate", "warning", repeated, doubles),
        *finding_if_any("id", "warning", used, renamed),
    ]


def without_disliked(
    examples: Sequence[Example], split: str
) -> tuple[list[Example], list[Finding]]:
    """The rows whose answer nobody disliked: whoever learns answers would learn the bad ones, too.

    Raises:
        DataError: none is left.
    """
    liked = [example for example in examples if example.liked is not False]
    disliked = [example for example in examples if example.liked is False]
    if disliked and not liked:
        raise DataError(
            f"every answer of {split} is marked as disliked",
            "set objective to kto, or add others",
            code="all_disliked",
            part=split,
            count=len(disliked),
        )
    message = (
        f"{len(disliked)} rows of {split} have an answer that is marked as disliked and were left "
        "out"
    )
    remedy = "set objective to kto to learn from both kinds"
    return liked, finding_if_any("disliked", "warning", message, disliked, remedy)


def without_overlap(
    examples: Sequence[Example], held_out: Sequence[Example], split: str, other: str
) -> tuple[list[Example], list[Finding]]:
    """The rows of `split` whose input, normalised, does not stand in `other`."""
    known = {normalised_question(example) for example in held_out}
    same = {example.messages for example in held_out}
    inside = [normalised_question(example) in known for example in examples]
    shared = [example for example, yes in zip(examples, inside, strict=True) if yes]
    exact = sum(1 for example in shared if example.messages in same)
    message = (
        f"{len(shared)} rows of {split} ask what {other} asks ({exact} of them word for word) and "
        f"were removed from {split}"
    )
    kept = [example for example, yes in zip(examples, inside, strict=True) if not yes]
    return kept, finding_if_any("overlap", "warning", message, shared)


def without_masked(examples: Sequence[Example], split: str) -> tuple[list[Example], list[Finding]]:
    """The rows with a turn to learn; in the others every answer has the weight 0."""
    masked = [example for example in examples if example.masked]
    message = (
        f"{len(masked)} rows of {split} have no turn to learn, since every assistant turn has the "
        "weight 0, and were left out"
    )
    kept = [example for example in examples if not example.masked]
    return kept, finding_if_any("masked", "warning", message, masked)


def empty_turns(examples: Iterable[Example], split: str) -> list[Finding]:
    """Rows in which somebody says nothing."""
    rows = [e for e in examples if any(not turn.content.strip() for turn in e.messages)]
    return finding_if_any(
        "empty", "warning", f"{len(rows)} rows of {split} have an empty turn", rows
    )


def has_no_text(example: Example) -> bool:
    """Whether there is nothing but white space in whatever is learnt of a row, or asked by it."""
    learnt = [turn for turn in example.messages if turn.role in ("assistant", "document")]
    said = [turn for turn in learnt if turn.weight] or list(example.messages[-1:])
    return not any((turn.content + turn.reasoning).strip() for turn in said)


def document_boundaries(examples: Sequence[Example], split: str) -> list[Finding]:
    """How the text of a .txt file was parted, and whether its lines look like documents."""
    parted = f"the documents of {split} are parted by blank lines: {len(examples)} documents"
    findings = [Finding("documents", "info", parted, len(examples))]
    long = [e for e in examples if _has_long_lines(e.messages[-1].content)]
    message = (
        f"{len(long)} documents of {split} have lines as long as paragraphs and no empty line "
        "between them"
    )
    remedy = "if each line is a document, put an empty line after each"
    return findings + finding_if_any("documents", "warning", message, long, remedy)


def _has_long_lines(text: str) -> bool:
    lines = text.splitlines()
    return len(lines) >= _FEW and len(text) / len(lines) >= _PARAGRAPH


def conflicting_labels(examples: Iterable[Example]) -> list[Finding]:
    """Inputs that stand with more than one label."""
    rows: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        if example.label is not None:
            rows[normalised_question(example)].append(example)
    torn = [group for group in rows.values() if len({e.label for e in group}) > 1]
    seen = " and ".join(sorted({str(example.label) for example in torn[0]})) if torn else ""
    message = f"{len(torn)} inputs have more than one label, the first has {seen}"
    return finding_if_any("conflict", "warning", message, [group[-1] for group in torn])


def rejected_answers(examples: Iterable[Example]) -> list[Finding]:
    """Rows with an answer that an objective of one answer a row does not see."""
    rows = [example for example in examples if example.rejected is not None]
    message = (
        f"{len(rows)} rows have a rejected answer beside the chosen one, which alone is learnt"
    )
    remedy = "set objective to dpo to learn from both"
    return finding_if_any("rejected", "warning", message, rows, remedy)


def unseen_types(train: Sequence[Example], test: Sequence[Example]) -> list[Finding]:
    """Kinds of spans that no row to learn from shows: the model cannot find them."""
    seen, asked = ({t[2:] for e in rows for t in e.tags or ()} for rows in (train, test))
    unseen = sorted(asked - seen)
    rows = [e for e in test if {t[2:] for t in e.tags or ()} & set(unseen)]
    names = ", ".join(unseen)
    message = f"{len(rows)} rows of test have spans of a type that train never shows: {names}"
    return finding_if_any("unseen", "warning", message, rows)


def label_balance(examples: Iterable[Example]) -> list[Finding]:
    """How many rows each label has; a warning where few or far apart."""
    counts = Counter(example.label for example in examples if example.label is not None)
    if not counts:
        return []
    (most, high), *_, (least, low) = [*counts.most_common(), counts.most_common()[-1]]
    skewed = low < _FEW or high > _SKEW * low
    message = f"{len(counts)} labels, from {low} rows ({least}) to {high} ({most})"
    return [Finding("balance", "warning" if skewed else "info", message, len(counts))]


def error_from_finding(finding: Finding) -> DataError:
    """A finding that stops, as the error that does; only columns that nothing uses do."""
    return DataError(finding.seen, finding.remedy, code="unused_columns", **finding.fields)


def finding_if_any(
    kind: str,
    severity: Literal["warning", "info"],
    seen: str,
    rows: Sequence[Example],
    remedy: str = "",
) -> list[Finding]:
    """One finding where there are rows, else none."""
    where = tuple(example.source for example in rows[:_SHOWN])
    return [Finding(kind, severity, seen, len(rows), where, remedy)] if rows else []
