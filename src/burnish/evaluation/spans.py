"""Precision, recall and F1 of whole spans in IOB2 tags: type and both ends must be right.

The counts are pooled over all texts, as by conlleval (Tjong Kim Sang & De Meulder 2003) and
seqeval. Tags of one text are one string, parted by spaces. A figure with nothing below the line
is 0.
"""

from collections.abc import Sequence

Span = tuple[str, int, int]


def span_precision(answers: Sequence[str], expected: Sequence[str]) -> float:
    """Share of the spans found that are right, 0 where none was found."""
    right, found, _ = _pooled(answers, expected)
    return right / found if found else 0.0


def span_recall(answers: Sequence[str], expected: Sequence[str]) -> float:
    """Share of the expected spans that were found, 0 where none was expected."""
    right, _, wanted = _pooled(answers, expected)
    return right / wanted if wanted else 0.0


def span_f1(answers: Sequence[str], expected: Sequence[str]) -> float:
    """Harmonic mean of the two, 0 where there is no span at all."""
    right, found, wanted = _pooled(answers, expected)
    return 2 * right / (found + wanted) if found + wanted else 0.0


def spans(tags: Sequence[str]) -> set[Span]:
    """(type, first word, word after the last); an I- that continues nothing begins a span."""
    found: set[Span] = set()
    start, kind = 0, ""
    for place, tag in enumerate([*tags, "O"]):
        goes_on = tag.startswith("I-") and tag[2:] == kind
        if kind and not goes_on:
            found.add((kind, start, place))
        if not goes_on:
            start, kind = place, tag[2:] if tag[:2] in ("B-", "I-") else ""
    return found


def _pooled(answers: Sequence[str], expected: Sequence[str]) -> tuple[int, int, int]:
    """Right, found and expected spans of all texts."""
    if not answers or len(answers) != len(expected):
        raise ValueError(f"{len(answers)} answers cannot be scored against {len(expected)} others")
    counts = map(span_counts, answers, expected)
    right, found, wanted = map(sum, zip(*counts, strict=True))
    return right, found, wanted


def span_counts(answer: str, expected: str) -> tuple[int, int, int]:
    """Right, found and expected spans of one text."""
    found, wanted = spans(answer.split()), spans(expected.split())
    return len(found & wanted), len(found), len(wanted)
