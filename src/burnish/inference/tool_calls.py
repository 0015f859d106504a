"""Tool calls in a growing reply, in the form of the model's family.

Calls in the form of Hermes and Qwen are told as they grow; those of other families when they are
complete. A grammar that demands a call demands it in the form of Hermes, whatever the family.
"""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from burnish.data.call_formats import HERMES, CallFormat

_OPENING, _CLOSING = "<tool_call>", "</tool_call>"
# How templates have a call begin; what follows are its arguments.
_BEGUN = re.compile(
    _OPENING + r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*', re.DOTALL
)
_ENDED = re.compile(r"\}\s*" + _CLOSING)
_WHOLE = re.compile(_OPENING + r"\s*(\{.*?\})\s*" + _CLOSING, re.DOTALL)


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call in a reply.

    Attributes:
        name: of the function.
        arguments: as the model wrote them, which need be no JSON; so far, where they are cut.
        whole: whether they are all there.
    """

    name: str
    arguments: str
    whole: bool = True


def parse_tool_calls(
    text: str,
    offered: Collection[str],
    *,
    limited: bool,
    call_format: CallFormat = HERMES,
    tools: Sequence[Any] = (),
) -> tuple[str, list[Call], bool]:
    """Return the text of a reply without its calls, the calls, and whether the reply ends within
    one.

    A call of what is not offered, or in a form of its own that is no JSON, stays text; one that is
    cut before its arguments is left out. Where the reply was `limited`, what a call may begin with
    is one that was cut.
    """
    if call_format is not HERMES and not _BEGUN.search(text):
        return _parse_others(text, offered, limited, call_format, tools)
    said, calls, place, cut = "", [], 0, False
    while not cut and (start := text.find(_OPENING, place)) >= 0:
        said += text[place:start]
        call, place = _call_at(text, start, offered)
        if call is not None:
            calls.append(call)
        elif place:
            said += text[start:place]
        cut = not place or (call is not None and not call.whole)
    tail = "" if cut else text[place:]
    if limited and len(held := text_before_calls(tail)) < len(tail.rstrip()):
        tail, cut = held, True
    said += tail
    return (said.rstrip() if calls or cut else said), calls, cut


def _parse_others(
    text: str,
    offered: Collection[str],
    limited: bool,
    call_format: CallFormat,
    tools: Sequence[Any],
) -> tuple[str, list[Call], bool]:
    """The same for the form of another family."""
    said, calls, at = "", [], 0
    for found in call_format.read(text, tools):
        own = [call for call in found.calls if call.name in offered]
        if own:
            said += text[at : found.start]
            at = found.end
            calls += [Call(c.name, json.dumps(c.arguments, ensure_ascii=False)) for c in own]
    tail, cut = text[at:], False
    if limited and len(held := call_format.before(tail)) < len(tail.rstrip()):
        tail, cut = held, True
    said += tail
    return (said.rstrip() if calls or cut else said), calls, cut


def text_before_calls(text: str, call_format: CallFormat = HERMES) -> str:
    """Return the part of a growing reply that is not, and will not become, part of a call."""
    if call_format is not HERMES:
        return min(call_format.before(text), text_before_calls(text), key=len)
    start = text.find(_OPENING)
    if start < 0:
        sizes = range(min(len(_OPENING) - 1, len(text)), 0, -1)
        start = len(text) - next((n for n in sizes if _OPENING.startswith(text[-n:])), 0)
    return text[:start].rstrip()


def _call_at(text: str, start: int, offered: Collection[str]) -> tuple[Call | None, int]:
    """The call that opens there, None where it is none; and where it ends, 0 if nowhere."""
    begun = _BEGUN.match(text, start)
    name = _json(begun[1]) if begun else None
    if begun is not None and name in offered:
        if ended := _ENDED.search(text, begun.end()):
            return Call(str(name), text[begun.end() : ended.start()].rstrip()), ended.end()
        arguments = _stable_prefix(text[begun.end() :])
        return Call(str(name), arguments, _json(arguments) is not None), len(text)
    whole = _WHOLE.match(text, start) if begun is None else None
    result = _json(whole[1]) if whole else None
    if whole is not None and isinstance(result, dict) and str(result.get("name")) in offered:
        return Call(str(result["name"]), json.dumps(result.get("arguments", {}))), whole.end()
    closing = text.find(_CLOSING, start)
    return None, closing + len(_CLOSING) if closing >= 0 else 0


def _stable_prefix(arguments: str) -> str:
    """Of arguments that grow, what will not come to be the end of their call."""
    before, brace, after = arguments.rstrip().rpartition("}")
    return (before if brace and _CLOSING.startswith(after.lstrip()) else arguments).rstrip()


def _json(text: str) -> object:
    """Parse JSON; None if it is invalid or nested too deeply."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
