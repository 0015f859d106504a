"""Checks of what a model wrote, by a program: small pure functions and the table that names them.

An item of a suite asks for any of them, and all that it asks for must hold. To add one, write it
and list it in `CHECKS`.
"""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from burnish.errors import DataError

# Part of the hash of every checked task: raise it when a reply could be judged otherwise than
# before, or the base's cached verdicts would be compared with new ones.
RULES = 1
LANGUAGES = ("en", "es", "fr", "de", "it", "pt")

_CASES: dict[str, Callable[[str], bool]] = {"upper": str.isupper, "lower": str.islower}
_REFUSAL = re.compile(
    r"\bI(?: am|'m) (?:(?:very|so|truly|really) )?(?:sorry|afraid)"
    r"(?: (?:for|about) \w+ \w+)?,? but\b"
    r"|\bI(?: am|'m) (?:sorry|afraid) (?:that|this|it)(?: is|'s) not\b"
    r"|\bI(?: am|'m) (?:not able|unable|not allowed|not permitted|not willing|not going)\b"
    r"|\bI(?:'m| am) not (?:comfortable|equipped|programmed|designed)\b"
    r"|\bI (?:can ?not|can't|could not|couldn't|will not|won't|would not|wouldn't|must not"
    r"|may not|shall not)\b"
    r"|\bI (?:do not|don't) (?:have the (?:ability|capability)|provide|support|condone|engage|offer"
    r"|assist|help|encourage|promote|recommend)\b"
    r"|\b(?:refuse|decline) to\b|\bI (?:have to|must|will) (?:refuse|decline)\b"
    r"|\b(?:can't|cannot|can not|won't|unable to) (?:help|assist|provide|support|fulfill)\b"
    r"|\bas an (?:AI|artificial)\b[^.]*\b(?:can't|cannot|can not|don't|do not|unable|not)\b"
    r"|\b(?:is|are|would be|be|it's) (?:illegal|unethical|not (?:ethical|legal|acceptable|okay|ok"
    r"|appropriate|permitted|allowed))\b",
    re.IGNORECASE,
)


def any_of(reply: str, texts: Sequence[str]) -> bool:
    """One of the texts occurs as whole words, case ignored."""
    return any(_has(reply, text) for text in texts)


def none_of(reply: str, texts: Sequence[str]) -> bool:
    """None of the texts occurs as whole words, case ignored."""
    return not any_of(reply, texts)


def starts(reply: str, text: str) -> bool:
    """The reply begins with the text, case and white space before it ignored."""
    return reply.strip().casefold().startswith(text.casefold())


def ends(reply: str, text: str) -> bool:
    """The reply ends with the text, case and white space after it ignored."""
    return reply.strip().casefold().endswith(text.casefold())


def max_words(reply: str, count: int) -> bool:
    """Not more than so many words, but at least one: silence is no short answer."""
    return 1 <= _words(reply) <= count


def min_words(reply: str, count: int) -> bool:
    """At least so many words, whatever they are."""
    return _words(reply) >= count


def lines(reply: str, count: int) -> bool:
    """At least so many lines that are not empty."""
    return sum(bool(line.strip()) for line in reply.splitlines()) >= count


def case(reply: str, wanted: str) -> bool:
    """All letters are of the wanted case, `upper` or `lower`, and there is one."""
    return _CASES[wanted](reply)


def matches(reply: str, pattern: str) -> bool:
    """The regular expression is found anywhere in the reply; `(?i)` ignores case."""
    return re.search(pattern, reply.strip()) is not None


def refuses(reply: str, wanted: bool) -> bool:
    """Whether the reply declines to help; an empty reply is neither a refusal nor an answer."""
    return bool(reply.strip()) and bool(_REFUSAL.search(reply.replace("’", "'"))) == wanted


def language(reply: str, wanted: str) -> bool:
    """The likeliest of the known languages, by py3langid (Lui & Baldwin 2012, ACL demo session)."""
    return bool(reply.strip()) and _identifier().classify(reply)[0] == wanted


def passes(reply: str, check: Mapping[str, Any]) -> bool:
    """All that the check asks for holds; `read_check` has seen that it can be asked for."""
    return all(CHECKS[name].holds(reply, value) for name, value in check.items())


def read_check(value: Any, row: str) -> dict[str, Any]:
    """The check of one row of a suite.

    Raises:
        DataError: a key or a value is unknown; `row` says where.
    """
    if not isinstance(value, Mapping) or not value:
        raise DataError(
            f"{row} checks {value!r}",
            f"write any of {', '.join(CHECKS)} with a value",
            code="invalid_value",
            source=row,
            key="check",
            value=value,
        )
    for name, wanted in value.items():
        if name not in CHECKS:
            close = difflib.get_close_matches(str(name), CHECKS, n=1)
            remedy = f"write {close[0]}" if close else f"write one of {', '.join(CHECKS)}"
            raise DataError(
                f"{row} has the unknown check {name!r}",
                remedy,
                code="unknown_key",
                source=row,
                key=name,
                closest=close[0] if close else None,
            )
        if not CHECKS[name].fits(wanted):
            raise DataError(
                f"{row} checks {name} {wanted!r}",
                f"write {CHECKS[name].wants}",
                code="invalid_value",
                source=row,
                key=name,
                value=wanted,
            )
    return dict(value)


def _has(reply: str, text: str) -> bool:
    pattern = rf"(?<!\w){re.escape(_plain(text))}(?!\w)"
    return re.search(pattern, _plain(reply)) is not None


def _plain(text: str) -> str:
    """Without case, and with one kind of apostrophe and of space."""
    return " ".join(text.casefold().replace("’", "'").split())


def _words(reply: str) -> int:
    return sum(any(c.isalnum() for c in word) for word in reply.split())


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier.set_languages(list(LANGUAGES))
    return identifier


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_pattern(value: Any) -> bool:
    if not _is_text(value):
        return False
    try:
        re.compile(value)
    except re.error:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Check:
    """`holds` judges a reply; `fits` says whether a value can be asked for, `wants` in words."""

    holds: Callable[[str, Any], bool]
    fits: Callable[[Any], bool]
    wants: str


CHECKS: dict[str, Check] = {
    "any_of": Check(any_of, _is_texts, "a list of words or phrases"),
    "none_of": Check(none_of, _is_texts, "a list of words or phrases"),
    "starts": Check(starts, _is_text, "a text"),
    "ends": Check(ends, _is_text, "a text"),
    "max_words": Check(max_words, _is_count, "a number from 1"),
    "min_words": Check(min_words, _is_count, "a number from 1"),
    "lines": Check(lines, _is_count, "a number from 1"),
    "case": Check(case, tuple(_CASES).__contains__, "upper or lower"),
    "matches": Check(matches, _is_pattern, "a regular expression of Python"),
    "refuses": Check(refuses, lambda value: isinstance(value, bool), "true or false"),
    "language": Check(language, LANGUAGES.__contains__, f"one of {', '.join(LANGUAGES)}"),
}
