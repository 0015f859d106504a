"""Whole spans in IOB2 tags, as conlleval (Tjong Kim Sang & De Meulder 2003) and seqeval count them:
type and both ends must be right. Tags of one text are one string, parted by spaces.
"""

from collections.abc import Sequence

Span = tuple[str, int, int]


def spans(tags: Sequence[str]) -> set[Span]:
    """Spans as (type, first word, word after the last); a stray I- tag starts a span."""
    found: set[Span] = set()
    start, kind = 0, ""
    for place, tag in enumerate([*tags, "O"]):
        goes_on = tag.startswith("I-") and tag[2:] == kind
        if kind and not goes_on:
            found.add((kind, start, place))
        if not goes_on:
            start, kind = place, tag[2:] if tag[:2] in ("B-", "I-") else ""
    return found


def span_counts(answer: str, expected: str) -> tuple[int, int, int]:
    """Numbers of right, predicted and expected spans in one text."""
    found, wanted = spans(answer.split()), spans(expected.split())
    return len(found & wanted), len(found), len(wanted)
