"""Finds labels that differ only in spelling, which a model learns as different classes."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from burnish.conversation import Example
from burnish.data.unicode_forms import normal_form
from burnish.errors import quantity
from burnish.runs.directory import Finding

_SHOWN = 3
_LONGEST_CLASS = 60


def fold_label(label: str) -> str:
    """A label without differences in case, Unicode form, spaces and zero-width characters."""
    plain = normal_form("NFKC", label).casefold()
    visible = (char for char in plain if unicodedata.category(char) != "Cf")
    return " ".join(normal_form("NFKC", "".join(visible)).split())


def escape_lookalikes(spellings: Sequence[str]) -> list[str]:
    """Quotes spellings, with escapes where two of them look the same."""
    looks = Counter(_look(spelling) for spelling in spellings)
    return [repr(one) if looks[_look(one)] == 1 else ascii(one) for one in spellings]


def _look(spelling: str) -> str:
    plain = normal_form("NFKC", spelling)
    return " ".join("".join(c for c in plain if unicodedata.category(c) != "Cf").split())


def similar_labels(examples: Sequence[Example]) -> list[Finding]:
    """Finds classes whose names differ only in case, Unicode form or spaces."""
    for what, names in _classes(examples):
        spellings: dict[str, Counter[str]] = defaultdict(Counter)
        for name in names:
            spellings[fold_label(name)][name] += 1
        torn = {look: counts for look, counts in spellings.items() if len(counts) > 1}
        if torn:
            more = f", and {len(torn) - _SHOWN} more" if len(torn) > _SHOWN else ""
            shown = ", ".join(map(_spelt, list(torn.values())[:_SHOWN]))
            message = (
                f"{what} that differ only in case, spaces or Unicode form are different classes: "
                f"{_one_line(shown)}{more}"
            )
            count = sum(counts.total() - max(counts.values()) for counts in torn.values())
            remedy = "use one spelling for each"
            return [Finding("spelling", "warning", message, count, remedy=remedy)]
    return []


def _spelt(counts: Counter[str]) -> str:
    names = [name for name, _ in counts.most_common()]
    shown = escape_lookalikes(names)
    same = f"{names[0]}: " if shown[0] != repr(names[0]) else ""
    return same + " and ".join(
        f"{one} ({quantity(counts[name], 'row')})" for name, one in zip(names, shown, strict=True)
    )


def _one_line(text: str) -> str:
    return text if len(text) <= 600 else text[:599] + "…"


def _classes(examples: Sequence[Example]) -> Iterable[tuple[str, list[str]]]:
    """The classes of the rows: labels, span types, or answers if there are few different ones."""
    yield "labels", [example.label for example in examples if example.label is not None]
    yield "span types", [t[2:] for e in examples for t in {*(e.tags or ())} if t != "O"]
    plain = [e for e in examples if e.label is None and e.tags is None]
    answers = [e.expected for e in plain if e.messages[0].role != "document"]
    if (
        answers
        and len(set(answers)) * 2 <= len(answers)
        and max(map(len, answers)) <= _LONGEST_CLASS
    ):
        yield "answers", [answer for answer in answers if answer]
