"""Messages of the API as prompt tokens, and what a reply says of tools."""

import json
import re
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from burnish.data.render import PLAIN_TEMPLATE, turn_text
from burnish.serving.api.errors import invalid

# How Hermes and Qwen templates ask for calls; other families are told that there is no such tool.
_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)

_OPENING, _CLOSING = "<tool_call>", "</tool_call>"
_ROLES = {"developer": "system", "function": "tool"}


@dataclass(frozen=True, slots=True)
class Call:
    """A tool that the reply wants called; `arguments` is JSON as the model wrote it."""

    id: str
    name: str
    arguments: str


def prompt_tokens(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], tokenizer: Any
) -> tuple[int, ...]:
    """The conversation through the model's chat template, ready for a reply.

    Raises:
        ApiError: the template refuses the messages, or knows no tools.
    """
    if tools and not knows_tools(tokenizer):
        raise invalid("This model has no template for tools.", "tools", "unsupported_parameter")
    try:
        tokens = tokenizer.apply_chat_template(
            [_turn(message, tokenizer) for message in messages],
            tools=list(tools) or None,
            chat_template=None if tokenizer.chat_template else PLAIN_TEMPLATE,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
    except (TemplateError, TypeError, KeyError, RecursionError) as error:
        said = f"The model's chat template refuses these messages: {error}."
        raise invalid(said, "messages") from error
    return tuple(int(token) for token in tokens)


def knows_tools(tokenizer: Any) -> bool:
    """Whether the template shows tools, and writes calls as we read them."""
    template = str(tokenizer.chat_template or "")
    return "tools" in template and "<tool_call>" in template


def tool_calls(
    text: str, offered: Collection[str], *, limited: bool
) -> tuple[str, list[Call], bool]:
    """What the reply says beside its calls, the calls, and whether it ends in the midst of one.

    A call that is no JSON, or is of what is not offered, stays text; one without its end is left
    out. Where the reply was `limited`, what a call may begin with is one that was cut.
    """
    calls: list[Call] = []

    def taken(match: re.Match[str]) -> str:
        try:
            found = json.loads(match[1])
            name, arguments = str(found["name"]), json.dumps(found.get("arguments", {}))
        except (ValueError, KeyError, TypeError, RecursionError):
            return match[0]
        if name not in offered:
            return match[0]
        calls.append(Call(f"call_{uuid.uuid4().hex[:24]}", name, arguments))
        return ""

    rest = _CALL.sub(taken, text)
    ended = rest.rfind(_CLOSING) + 1  # of the last call that stays text
    said = rest[:ended] + before_calls(rest[ended:])
    cut = len(said) < len(rest.rstrip()) and (limited or _OPENING in rest[ended:])
    return (said if cut else rest.rstrip() if calls else rest), calls, cut


def before_calls(text: str) -> str:
    """What of a growing reply is no call and will not become a part of one."""
    start = text.find(_OPENING)
    if start < 0:
        sizes = range(min(len(_OPENING) - 1, len(text)), 0, -1)
        start = len(text) - next((n for n in sizes if _OPENING.startswith(text[-n:])), 0)
    return text[:start].rstrip()


def _turn(message: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    """As templates know it: one text, and their own names for older and newer roles."""
    role = _ROLES.get(message["role"], message["role"])
    content = message.get("content")  # a turn that refused has none, and its words beside it
    text = _text(message.get("refusal") if content is None else content)
    text = turn_text(role, text, tokenizer)
    turn: dict[str, Any] = {"role": role, "content": text}
    calls = list(message.get("tool_calls") or ())
    if function := message.get("function_call"):  # as calls were sent before there were tools
        calls.append({"function": function})
    if calls:
        turn["tool_calls"] = [_called(call) for call in calls]
    if name := message.get("name"):
        turn["name"] = name
    return turn


def _text(content: Any) -> str:
    """Parts of a message one after the other; only text can be read."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(_part(part) for part in content)


def _part(part: Mapping[str, Any]) -> str:
    """The text of a part stands under the name of its type."""
    kind = part.get("type")
    if kind not in ("text", "refusal"):
        said = f"This model reads text, no content part of type {str(kind)[:40]!r}."
        raise invalid(said, "messages", "unsupported_content_type")
    if not isinstance(found := part.get(kind), str):
        seen = f"a {kind!r} that is {str(found)[:40]!r}" if kind in part else f"no {kind!r}"
        raise invalid(f"A content part of type {kind!r} has {seen}; make it a text.", "messages")
    return found


def _called(call: Mapping[str, Any]) -> dict[str, Any]:
    """Templates want arguments as an object, the API sends them as JSON; or as the model wrote
    them, where it was none."""
    given = call.get("function") or {}
    if not isinstance(given, Mapping):
        said = f"The 'function' of a tool call is {str(given)[:40]!r}, and must be an object."
        raise invalid(said, "messages", "invalid_type")
    function = dict(given)
    written = function.get("arguments") or "{}"
    if not isinstance(written, str):
        said = f"The 'arguments' of a tool call are {str(written)[:40]!r}, and must be a text."
        raise invalid(said, "messages")
    try:
        function["arguments"] = json.loads(written)
    except (ValueError, RecursionError):  # the last: nested too deep
        function["arguments"] = written
    return {"type": "function", "id": call.get("id"), "function": function}
