"""Programmatic checks of a model's reply: small pure functions, listed in `CHECKS`.

An item of a suite has one or more checks, and its reply has to pass all of them. To add a check,
write the function and list it in `CHECKS`.
"""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from burnish.errors import DataError
from burnish.evaluation import answer_checks as answers

# Part of the hash of every checked task: increase it when the result of a check can change, so that
# cached results of the base are not compared with new ones.
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
    """Whether one of the texts occurs as whole words, ignoring case."""
    return any(_has(reply, text) for text in texts)


def none_of(reply: str, texts: Sequence[str]) -> bool:
    """Whether none of the texts occurs as whole words, ignoring case."""
    return not any_of(reply, texts)


def starts(reply: str, text: str) -> bool:
    """Whether the reply starts with the text, ignoring case and leading white space."""
    return reply.strip().casefold().startswith(text.casefold())


def ends(reply: str, text: str) -> bool:
    """Whether the reply ends with the text, ignoring case and trailing white space."""
    return reply.strip().casefold().endswith(text.casefold())


def max_words(reply: str, count: int) -> bool:
    """Whether the reply has at most `count` words, and at least one."""
    return 1 <= _words(reply) <= count


def min_words(reply: str, count: int) -> bool:
    """Whether the reply has at least `count` words."""
    return _words(reply) >= count


def lines(reply: str, count: int) -> bool:
    """Whether the reply has at least `count` lines that are not empty."""
    return sum(bool(line.strip()) for line in reply.splitlines()) >= count


def case(reply: str, wanted: str) -> bool:
    """Whether all letters have the wanted case, `upper` or `lower`, and there is one."""
    return _CASES[wanted](reply)


def matches(reply: str, pattern: str) -> bool:
    """Whether the regular expression occurs anywhere in the reply; `(?i)` ignores case."""
    return re.search(pattern, reply.strip()) is not None


def refuses(reply: str, wanted: bool) -> bool:
    """Whether the reply declines to help; an empty reply is neither a refusal nor an answer."""
    return bool(reply.strip()) and bool(_REFUSAL.search(reply.replace("’", "'"))) == wanted


def language(reply: str, wanted: str) -> bool:
    """Whether the reply is in this language, by py3langid (Lui & Baldwin 2012, ACL demos)."""
    return bool(reply.strip()) and _identifier().classify(reply)[0] == wanted


def passes(reply: str, check: Mapping[str, Any]) -> bool:
    """Whether the reply passes all parts of a check that `read_check` has validated."""
    return all(CHECKS[name].holds(reply, value) for name, value in check.items())


def read_check(value: Any, row: str) -> dict[str, Any]:
    """Validate the check of one row of a suite.

    Raises:
        DataError: a key or a value is invalid; `row` is the location in the message.
    """

    def invalid(seen: str, remedy: str, code: str = "invalid_value", **fields: Any) -> DataError:
        return DataError(f"{row} {seen}", f"use {remedy}", code=code, source=row, **fields)

    listed = ", ".join(CHECKS)
    if not isinstance(value, Mapping) or not value:
        seen = f"has the check {value!r}, which is not an object with checks"
        remedy = f"one or more of {listed}, each with a value"
        raise invalid(seen, remedy, key="check", value=value)
    for name, wanted in value.items():
        if name not in CHECKS:
            close = next(iter(difflib.get_close_matches(str(name), CHECKS, n=1)), None)
            seen, remedy = f"has the unknown check {name!r}", close or f"one of {listed}"
            raise invalid(seen, remedy, "unknown_key", key=name, closest=close)
        if not CHECKS[name].is_valid(wanted):
            seen = f"has the invalid value {wanted!r} for the check {name}"
            raise invalid(seen, CHECKS[name].expected, key=name, value=wanted)
    return dict(value)


def _has(reply: str, text: str) -> bool:
    pattern = rf"(?<!\w){re.escape(_plain(text))}(?!\w)"
    return re.search(pattern, _plain(reply)) is not None


def _plain(text: str) -> str:
    """The text in lower case, with one kind of apostrophe and of white space."""
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
    """`holds` checks a reply; `is_valid` checks a value, and `expected` describes valid values."""

    holds: Callable[[str, Any], bool]
    is_valid: Callable[[Any], bool]
    expected: str


CHECKS: dict[str, Check] = {
    "any_of": Check(any_of, _is_texts, "a list of words or phrases"),
    "none_of": Check(none_of, _is_texts, "a list of words or phrases"),
    "starts": Check(starts, _is_text, "a text"),
    "ends": Check(ends, _is_text, "a text"),
    "max_words": Check(max_words, _is_count, "a whole number of 1 or more"),
    "min_words": Check(min_words, _is_count, "a whole number of 1 or more"),
    "lines": Check(lines, _is_count, "a whole number of 1 or more"),
    "case": Check(case, tuple(_CASES).__contains__, "upper or lower"),
    "matches": Check(matches, _is_pattern, "a Python regular expression"),
    "refuses": Check(refuses, lambda value: isinstance(value, bool), "true or false"),
    "language": Check(language, LANGUAGES.__contains__, f"one of {', '.join(LANGUAGES)}"),
    "number": Check(answers.number, answers.is_number, "a number"),
    "last_of": Check(
        answers.last_of, answers.is_options, "an object with right and among, a list with it"
    ),
    "text": Check(answers.text, _is_text, "a text"),
    "json": Check(answers.json_value, answers.is_json, "a JSON object or array"),
    "python": Check(
        answers.python,
        answers.is_function,
        "an object with function and cases: [[arguments, result]]",
    ),
    "unsure": Check(answers.unsure, lambda value: isinstance(value, bool), "true or false"),
    "count": Check(answers.count, answers.is_occurrence, "an object with text and times"),
    "exact_lines": Check(answers.exact_lines, _is_count, "a whole number of 1 or more"),
    "list_items": Check(answers.list_items, _is_count, "a whole number of 1 or more"),
    "sentences": Check(answers.sentences, _is_count, "a whole number of 1 or more"),
}
