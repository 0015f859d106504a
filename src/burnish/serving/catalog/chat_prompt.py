"""Messages of the API as prompt tokens."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from burnish.data.chat_templates import template_for
from burnish.data.render import escape_special_tokens
from burnish.errors import DataError
from burnish.inference.lengths import tokens_within
from burnish.serving.errors import invalid

_ROLES = {"developer": "system", "function": "tool"}


def prompt_tokens(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    most: int = sys.maxsize,
) -> tuple[int, ...]:
    """The conversation through the model's chat template, ready for a reply.

    Raises:
        ApiError: the template refuses the messages, or knows no tools.
        TooLongError: it is so much longer than `max_requests` tokens that nobody counted them.
    """
    template = _template(tokenizer, tools)
    if tools and not _shows_tools(template):
        raise invalid("This model has no template for tools.", "tools", "unsupported_parameter")
    try:
        text = tokenizer.apply_chat_template(
            [_turn(message, tokenizer) for message in messages],
            tools=list(tools) or None,
            chat_template=template,
            add_generation_prompt=True,
            tokenize=False,
        )
    except (TemplateError, TypeError, KeyError, RecursionError) as error:
        said = f"The model's chat template refuses these messages: {error}."
        raise invalid(said, "messages", "refused_by_template") from error
    return tuple(tokens_within(tokenizer, text, most, marks=False))


def _template(tokenizer: Any, tools: Any) -> str:
    try:
        return template_for(tokenizer, tools)
    except DataError as error:
        raise invalid(f"This model cannot chat: {error}.", "model", error.code) from error


def _shows_tools(template: str) -> bool:
    """Whether the template shows tools, and writes calls as we read them."""
    return "tools" in template and "<tool_call>" in template


def _turn(message: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    """As templates know it: one text, and their own names for older and newer roles."""
    role = _ROLES.get(message["role"], message["role"])
    content = message.get("content")  # a turn that refused has none, and its words beside it
    text = _text(message.get("refusal") if content is None else content)
    text = escape_special_tokens(role, text, tokenizer)
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
        said = f"A content part of type {kind!r} has {seen}; make it a text."
        raise invalid(said, "messages", "invalid_type")
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
        raise invalid(said, "messages", "invalid_type")
    try:
        function["arguments"] = json.loads(written)
    except (ValueError, RecursionError):  # the last: nested too deep
        function["arguments"] = written
    return {"type": "function", "id": call.get("id"), "function": function}
