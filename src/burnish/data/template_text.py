"""Writes conversations with the model's chat template: one way for training, tests and serving."""

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError

from burnish.conversation import Conversation, Message
from burnish.data.call_formats import HERMES, FunctionCall
from burnish.data.chat_templates import template_for
from burnish.data.template_form import (
    REASONING,
    CallFields,
    TemplateForm,
    apply_template,
    as_parts,
    opened_thought,
    template_form,
)
from burnish.data.tool_calls import offered_tools
from burnish.errors import DataError

# It has no width, so a reader sees the same text.
_JOINER = "\N{WORD JOINER}"
_SHORTEST_NAME = 3
_BLOCK = re.compile(r"\A\s*<think>(.*?)</think>\s*", re.DOTALL)
# Behind an opened thought these close an empty one, as Qwen's and DeepSeek's own files write it.
_CLOSING = "\n{}\n\n"
# What templates raise where a field has a value that they do not expect.
_ODD_VALUES = (ArithmeticError, AttributeError, LookupError, TypeError)


def special_texts(tokenizer: Any) -> frozenset[str]:
    """The texts of the tokenizer's special tokens."""
    added = tokenizer.added_tokens_decoder.values()
    return frozenset(tokenizer.all_special_tokens) | {t.content for t in added if t.special}


def escape_special_tokens(role: str, text: str, tokenizer: Any) -> str:
    """The text of a turn, with a zero-width character in each special token that it contains.

    Assistant turns are unchanged. Without this, a user who writes `<|im_end|>` into a message would
    end the turn and could continue as another role.
    """
    names = _special_names(tokenizer)
    if role == "assistant" or names is None:
        return text
    return names.sub(lambda match: match[0][0] + _JOINER + match[0][1:], text)


@functools.lru_cache(maxsize=8)  # it iterates over all added tokens
def _special_names(tokenizer: Any) -> re.Pattern[str] | None:
    special = special_texts(tokenizer)
    names = sorted((n for n in special if len(n) >= _SHORTEST_NAME), key=len)
    return re.compile("|".join(map(re.escape, reversed(names)))) if names else None


def form_for(tokenizer: Any, tools: Any = None) -> TemplateForm:
    """What the template for a conversation with these tools can write."""
    return template_form(tokenizer, template_for(tokenizer, tools))


def split_thought(content: str) -> tuple[str, str]:
    """The thought in a `<think>` block at the beginning of a text, and the rest."""
    block = _BLOCK.match(content)
    return (block[1].strip(), content[block.end() :]) if block else ("", content)


def with_thought_apart(turn: Message, form: TemplateForm) -> Message:
    """An assistant turn with the `<think>` block of its content as its reasoning, where the
    template writes thoughts."""
    if turn.role != "assistant" or turn.reasoning or not form.thinks:
        return turn
    thought, content = split_thought(turn.content)
    return replace(turn, reasoning=thought, content=content) if thought else turn


def conversation_text(
    turns: Conversation,
    tokenizer: Any,
    *,
    asks: bool = False,
    thinking: bool | None = None,
    where: str = "a prompt",
) -> str:
    """The conversation as the chat template writes it; see `messages_text`.

    Raises:
        DataError: the template refuses the turns, or writes no tools.
    """
    tools = offered_tools(turns)
    form = form_for(tokenizer, tools)
    messages = [_as_message(with_thought_apart(turn, form), form) for turn in turns]
    return messages_text(messages, tools, tokenizer, asks=asks, thinking=thinking, where=where)


def messages_text(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    tokenizer: Any,
    *,
    asks: bool = False,
    thinking: bool | None = None,
    where: str = "a prompt",
) -> str:
    """Messages in the form of the OpenAI API as the chat template writes them.

    Where the family has no system role, the system text goes before the first user turn.

    Args:
        messages: with text as content, and the arguments of calls as objects.
        tools: the functions that may be called.
        tokenizer: of the model.
        asks: adds the beginning of an answer.
        thinking: whether the answer begins with a thought; None where the template decides.
        where: what the messages are, for errors.

    Raises:
        DataError: the template refuses the messages, or writes no tools.
    """
    template = template_for(tokenizer, tools)
    form = template_form(tokenizer, template)
    if tools and not form.has_tools:
        raise DataError(
            f"{where} offers tools, but the model's chat template does not support tools",
            "remove the tools, or use a model whose template supports them",
            code="no_template_for_tools",
            source=where,
        )
    own = [
        {**one, "content": escape_special_tokens(one["role"], one["content"], tokenizer)}
        for one in messages
    ]
    own = _numbered(own if form.has_system else _without_system(own), form)
    own = [as_parts(one) for one in own] if form.in_parts else own
    variables = form.variables(thinking)
    with _refusals(where):
        text = apply_template(tokenizer, template, own, tools=tools, asks=asks, variables=variables)
    if asks and thinking is False and (marks := opened_thought(text)):
        text = text.rstrip() + "\n" + _CLOSING.format(marks[1])
    return text


def thought_end(prompt: str) -> str:
    """What closes the thought that a prompt opens, before the answer; empty if it opens none."""
    marks = opened_thought(prompt)
    return _CLOSING.format(marks[1]) if marks else ""


@contextmanager
def _refusals(where: str) -> Iterator[None]:
    """Turns what a template raises into a sentence about `where`."""
    try:
        yield
    except TemplateSyntaxError as error:
        raise DataError(
            f"the model's chat template has a syntax error in line {error.lineno} ({error})",
            "fix it in the model's chat_template.jinja or tokenizer_config.json",
            code="broken_template",
            line=error.lineno,
            reason=str(error),
        ) from error
    except (TemplateError, *_ODD_VALUES) as error:
        raise DataError(
            f"the model's chat template rejects {where} ({error})",
            "arrange the turns as the model expects, with user and assistant alternating",
            code="refused_by_template",
            source=where,
            reason=str(error),
        ) from error


def _as_message(turn: Message, form: TemplateForm) -> dict[str, Any]:
    """A turn of a row; calls leave its content where the template writes them in another form."""
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.role != "assistant":
        return message
    if form.fields is not None and form.calls is not HERMES:
        content, calls = HERMES.parse(turn.content)
        if calls:
            message["content"] = content
            message["tool_calls"] = [
                {"type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                for c in calls
            ]
    return message | ({"reasoning_content": turn.reasoning} if turn.reasoning else {})


def _without_system(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose system texts stand before the first user turn, with an empty line between."""
    rules = [one["content"] for one in messages if one["role"] == "system"]
    rest = [one for one in messages if one["role"] != "system"]
    first = next((n for n, one in enumerate(rest) if one["role"] == "user"), None)
    if not rules or first is None:
        return list(messages)
    content = "\n\n".join([*filter(None, rules), rest[first]["content"]])
    return [*rest[:first], {**rest[first], "content": content}, *rest[first + 1 :]]


def _numbered(messages: Sequence[dict[str, Any]], form: TemplateForm) -> list[dict[str, Any]]:
    """Messages as the template wants them: thoughts, and calls whose results follow in order."""
    waiting: list[tuple[str, str | None]] = []
    result, number = [], 0
    for one in messages:
        message, fields = _with_thought(one, form), form.fields
        if fields is None and form.has_tools and message.get("tool_calls"):
            message = _with_call_text(message)
        if calls := message.get("tool_calls"):
            numbered, waiting = [], []
            for call in calls:
                ready = _ready(call, f"call{number:05}", fields)
                waiting.append((ready["id"], ready["function"].get("name")))
                numbered.append(ready)
                number += 1
            message["tool_calls"] = numbered
            if fields is not None and not message["content"]:
                message["content"] = fields.empty
        elif message["role"] == "tool" and waiting:
            given = message.get("tool_call_id")
            at = next((n for n, (i, _) in enumerate(waiting) if i == given), 0)
            answered, name = waiting.pop(at)
            message = {**message, "tool_call_id": answered, "name": message.get("name") or name}
        result.append(message)
    return result


def _with_call_text(message: Mapping[str, Any]) -> dict[str, Any]:
    """A turn whose calls are text, as rows have them, for a template that writes no calls."""
    functions = [call["function"] for call in message["tool_calls"]]
    texts = [
        FunctionCall(str(one.get("name")), one.get("arguments") or {}).text for one in functions
    ]
    content = "\n".join(part for part in (message["content"], *texts) if part)
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**rest, "content": content}


def _ready(call: Mapping[str, Any], number: str, fields: CallFields | None) -> dict[str, Any]:
    function = dict(call["function"])
    arguments = function.get("arguments")
    if fields is not None and fields.text_arguments and not isinstance(arguments, str):
        function["arguments"] = json.dumps(arguments, ensure_ascii=False)
    return {"type": "function", "id": call.get("id") or number, "function": function}


def _with_thought(message: dict[str, Any], form: TemplateForm) -> dict[str, Any]:
    thought = message.get("reasoning_content")
    rest = {key: value for key, value in message.items() if key not in REASONING}
    if not thought or form.reasoning not in ("field", "content"):
        # A field that the template does not know changes nothing.
        return rest | ({"reasoning_content": thought} if thought else {})
    if form.reasoning == "content":
        return {**rest, "content": f"<think>\n{thought}\n</think>\n\n{rest['content']}"}
    return rest | dict.fromkeys(REASONING, thought)
