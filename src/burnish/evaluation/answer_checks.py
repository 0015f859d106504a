"""Checks of a reply whose answer is one value: a number, an option, JSON, or a working function."""

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from burnish.evaluation.graders.sandbox import Limits, run_grade
from burnish.evaluation.graders.template import GradingError

# Seconds that a function of a reply may take for all of its cases.
_SECONDS = 10.0
_NUMBER = re.compile(r"(?<![\w.])[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\w]|[.,]\d)")
_FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)
_ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+\S", re.MULTILINE)
_SENTENCE_END = re.compile(r"[.!?…。！？]+[\"'”’)]*(?:\s+|\Z)")
_UNSURE = re.compile(
    r"\b(?:do not|don't|cannot|can't|could not|couldn't|can not) "
    r"(?:actually )?(?:know|have (?:any |enough )?(?:information|record|data|knowledge)|find|"
    r"recognize|recognise|provide|answer|say|confirm|verify|determine|tell|be sure)\b"
    r"|\b(?:I am|I'm) (?:not (?:sure|aware|familiar|certain|able)|unable|unsure|unaware|"
    r"unfamiliar)\b"
    r"|\b(?:I have|have|there is|there's|I know of|is) no (?:known |such |reliable |"
    r"information|record|evidence|mention|data|country|city|person|book|film|element|word)"
    r"|\b(?:does not|doesn't|do not|don't|did not|didn't) (?:seem to |appear to |actually )?exist"
    r"|\b(?:is|are|was|be|appears to be|seems to be) (?:not (?:a )?(?:real|known|recogni[sz]ed)|"
    r"(?:a )?(?:fictional|fictitious|made-up|imaginary|unknown))\b"
    r"|\bno such\b|\bnot (?:known|available|enough information)\b|\bunknown\b"
    r"|\b(?:never|not) heard of\b|\bfictional\b|\bnonexistent\b|\bnon-existent\b",
    re.IGNORECASE,
)
# The source of a grader; it compares JSON, so that no class of the reply decides what is equal.
_GRADE = """
import json

def grade(sample, item):
    scope = {"__name__": "reply"}
    exec(sample["output_text"], scope)
    function = scope[item["function"]]
    for arguments, result in item["cases"]:
        if json.dumps(function(*arguments), sort_keys=True) != json.dumps(result, sort_keys=True):
            return 0.0
    return 1.0
"""


def number(reply: str, value: float) -> bool:
    """Whether the last number in the reply equals the value; `1,234.0` and `$1234` are equal."""
    found = _NUMBER.findall(reply)
    return bool(found) and _decimal(found[-1]) == Decimal(str(value))


def last_of(reply: str, options: Mapping[str, Any]) -> bool:
    """Whether `right` is the option of `among` that the reply mentions last, as whole words."""
    ends = {option: _last_mention(reply, option) for option in options["among"]}
    best = max(ends.values())
    return best[0] >= 0 and bool(ends[options["right"]] == best)


def text(reply: str, wanted: str) -> bool:
    """Whether the reply is this text, apart from a code fence and white space at line ends."""
    return _trimmed(_unfenced(reply)) == _trimmed(wanted)


def json_value(reply: str, value: Any) -> bool:
    """Whether the first JSON object or array in the reply equals the value; 1 equals 1.0."""
    found = _first_json(_unfenced(reply))
    return found is not None and _plain(found[0]) == _plain(value)


def python(reply: str, task: Mapping[str, Any]) -> bool:
    """Whether the code of the reply defines a function that returns the result of every case.

    The code runs in the sandbox of Python graders; code that fails or takes too long is wrong.

    Raises:
        GradingError: no process can be started on this machine.
    """
    sample, item = {"output_text": _unfenced(reply)}, dict(task)
    try:
        return run_grade(_GRADE, sample, item, Limits(seconds=_SECONDS)) == 1.0
    except GradingError as error:
        if error.kind == "start":
            raise
        return False


def unsure(reply: str, wanted: bool) -> bool:
    """Whether the reply says that its writer does not know, or that a thing does not exist."""
    return bool(reply.strip()) and bool(_UNSURE.search(reply.replace("’", "'"))) == wanted


def count(reply: str, wanted: Mapping[str, Any]) -> bool:
    """Whether `text` occurs exactly `times` times as whole words, ignoring case."""
    pattern = rf"(?<!\w){re.escape(wanted['text'])}(?!\w)"
    return bool(len(re.findall(pattern, reply, re.IGNORECASE)) == wanted["times"])


def exact_lines(reply: str, wanted: int) -> bool:
    """Whether the reply has exactly this many lines that are not empty."""
    return sum(bool(line.strip()) for line in reply.splitlines()) == wanted


def list_items(reply: str, wanted: int) -> bool:
    """Whether exactly this many lines start with a bullet or a number, as in `- one`."""
    return len(_ITEM.findall(reply)) == wanted


def sentences(reply: str, wanted: int) -> bool:
    """Whether the reply has exactly this many sentences, by their final punctuation."""
    parts = [part for part in _SENTENCE_END.split(reply.strip()) if re.search(r"\w", part)]
    return len(parts) == wanted


def is_options(value: Any) -> bool:
    """Whether the value has `right` and `among`, a list of different texts with `right`."""
    if not isinstance(value, Mapping) or set(value) != {"right", "among"}:
        return False
    among = value["among"]
    texts = isinstance(among, Sequence) and all(isinstance(one, str) and one for one in among)
    return texts and len(set(among)) == len(among) and value["right"] in among


def is_function(value: Any) -> bool:
    """Whether the value has the name of a `function` and `cases`: pairs of arguments and result."""
    if not isinstance(value, Mapping) or set(value) != {"function", "cases"}:
        return False
    cases = value["cases"]
    named = isinstance(value["function"], str) and value["function"].isidentifier()
    return named and bool(cases) and all(len(c) == 2 and isinstance(c[0], list) for c in cases)


def is_occurrence(value: Any) -> bool:
    """Whether the value has a `text` and a number of `times`."""
    return (
        isinstance(value, Mapping)
        and set(value) == {"text", "times"}
        and isinstance(value["text"], str)
        and type(value["times"]) is int
    )


def is_number(value: Any) -> bool:
    """Whether the value is a number, true and false excluded."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_json(value: Any) -> bool:
    """Whether the value is a JSON object or array."""
    return isinstance(value, dict | list)


def _decimal(text: str) -> Decimal:
    return Decimal(text.replace(",", "").replace("−", "-"))


def _last_mention(reply: str, option: str) -> tuple[int, int]:
    """End and length of the last mention; of two that end together, the longer one counts."""
    pattern = rf"(?<!\w){re.escape(option)}(?!\w)"
    ends = [match.end() for match in re.finditer(pattern, reply, re.IGNORECASE)]
    return (ends[-1], len(option)) if ends else (-1, 0)


def _unfenced(reply: str) -> str:
    """The text inside the first code fence, or the whole reply."""
    match = _FENCE.search(reply)
    return match[1] if match else reply


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _first_json(reply: str) -> tuple[Any] | None:
    decoder = json.JSONDecoder()
    for match in re.finditer(r"[{\[]", reply):
        try:
            return (decoder.raw_decode(reply, match.start())[0],)
        except (ValueError, RecursionError):
            continue
    return None


def _plain(value: Any) -> str:
    """A canonical text of a JSON value, in which 1 and 1.0 are equal and 1 and true are not."""
    return json.dumps(_whole(value), sort_keys=True)


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_whole(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
