"""What a chat template can write, found by rendering small conversations with it.

Families differ in whether there is a system role, how an answer is asked for with or without a
thought, in which field a thought stands and in which form they want function calls.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import TemplateError

from burnish.data.call_formats import HERMES, CallFormat, format_of

REASONING = ("reasoning_content", "reasoning", "thinking")
# Variables of templates that switch thinking on and off.
_SWITCHES = ("enable_thinking", "thinking")
# How a thought begins and ends.
THOUGHTS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
)
# Words that no template writes by itself.
_ASK, _SAY, _THINK, _RULE = "Qaskq", "Qsayq", "Qthinkq", "Qruleq"
_FUNCTION, _KEY, _VALUE, _WORD = "qcallq", "qkeyq", "qvalueq", "qwordq"
_ERRORS = (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class CallFields:
    """How a template wants a turn with calls.

    Attributes:
        empty: the content of a turn that has only calls.
        text_arguments: whether arguments are JSON text instead of an object.
    """

    empty: str | None
    text_arguments: bool


@dataclass(frozen=True, slots=True)
class TemplateForm:
    """What one chat template can write.

    Attributes:
        in_parts: whether contents must be lists of parts, as for models that also see images.
        has_system: whether system turns are written.
        switches: variables that switch thinking on and off.
        reasoning: where a turn's thought goes: into a field of its own, into the content as a
            `<think>` block, behind a prompt that opens it; empty where thoughts are not written.
        opens: whether a prompt ends with the beginning of a thought unless a switch is off.
        has_tools: whether offered tools are written.
        calls: the form of calls; that of Hermes where the template writes none itself.
        fields: how calls are passed to the template; None if they stand in the content.
        thought: what an answer writes before its thought and between thought and text; None where
            thoughts are not written.
        start: what an answer without a thought writes before its text.
        call: an answer that is a call, as an example; empty where calls are not written.
    """

    in_parts: bool
    has_system: bool
    switches: tuple[str, ...]
    reasoning: Literal["field", "content", "prompt", ""]
    opens: bool
    has_tools: bool
    calls: CallFormat
    fields: CallFields | None
    thought: tuple[str, str] | None
    start: str
    call: str

    @property
    def thinks(self) -> bool:
        """Whether answers may begin with a thought."""
        return bool(self.switches or self.reasoning)

    def variables(self, thinking: bool | None) -> dict[str, bool]:
        """Values for the template's switches; none where the template decides."""
        return {} if thinking is None else dict.fromkeys(self.switches, thinking)


def apply_template(
    tokenizer: Any,
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    asks: bool = False,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """The text that a template writes; `asks` adds the beginning of an answer.

    Raises:
        TemplateError: the template refuses the messages.
    """
    text: str = tokenizer.apply_chat_template(
        list(messages),
        tools=list(tools) if tools else None,
        chat_template=template,
        tokenize=False,
        add_generation_prompt=asks,
        **(variables or {}),
    )
    return text


def as_parts(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message whose content is a list with one part of text."""
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return {**message, "content": parts}


def template_form(tokenizer: Any, template: str) -> TemplateForm:
    """What a template can write."""
    form: TemplateForm = _form(tokenizer, template)
    return form


@functools.lru_cache(maxsize=64)
def _form(tokenizer: Any, template: str) -> TemplateForm:
    write = functools.partial(_written, tokenizer, template)
    user = {"role": "user", "content": _ASK}
    in_parts = _ASK not in write([user]) and _ASK in write([user], in_parts=True)
    write = functools.partial(write, in_parts=in_parts)
    switches = _switches(write, template)
    on = dict.fromkeys(switches, True)
    ruled = write([{"role": "system", "content": _RULE}, user])
    opens = opened_thought(write([user], asks=True, variables=on)) is not None
    calls, fields, call = _calls(write, template)
    reasoning, thought = _reasoning(write, template, on, opens=opens)
    off = dict.fromkeys(switches, False)
    plain = _behind(write, [user], [{"role": "assistant", "content": _SAY}], off)
    return TemplateForm(
        in_parts=in_parts,
        has_system=_RULE in ruled or not write([user]),
        switches=switches,
        reasoning=reasoning,
        opens=opens,
        has_tools="tools" in template,
        calls=calls,
        fields=fields,
        thought=thought,
        start=plain.partition(_SAY)[0] if _SAY in plain else "",
        call=call,
    )


def opened_thought(prompt: str) -> tuple[str, str] | None:
    """The marks of the thought that a prompt begins at its end; None if it begins none."""
    end = prompt.rstrip()
    return next((marks for marks in THOUGHTS if end.endswith(marks[0])), None)


def _written(
    tokenizer: Any, template: str, messages: Any, *, in_parts: bool = False, **options: Any
) -> str:
    """What the template writes; nothing where it refuses."""
    try:
        turns = list(map(as_parts, messages)) if in_parts else messages
        return apply_template(tokenizer, template, turns, **options)
    except _ERRORS:
        return ""


def _switches(write: Any, template: str) -> tuple[str, ...]:
    """The variables of a template that change how an answer is asked for."""
    user = {"role": "user", "content": _ASK}
    named = [switch for switch in _SWITCHES if switch in template]

    def asked(switch: str, value: bool) -> str:
        return str(write([user], asks=True, variables={switch: value}))

    return tuple(one for one in named if asked(one, True) != asked(one, False))


def _behind(write: Any, before: list[Any], turns: list[Any], variables: Mapping[str, bool]) -> str:
    """What the template writes for turns behind the prompt of the turns before; empty if it writes
    the prompt differently when turns follow."""
    prompt = write(before, asks=True, variables=variables)
    whole = write([*before, *turns], variables=variables)
    return whole[len(prompt) :] if prompt and whole.startswith(prompt) else ""


_Reasoning = Literal["field", "content", "prompt", ""]


def _reasoning(
    write: Any, template: str, on: Mapping[str, bool], *, opens: bool
) -> tuple[_Reasoning, tuple[str, str] | None]:
    """Where a thought goes, and what is written before and behind it."""
    user = {"role": "user", "content": _ASK}
    fields = {name: _THINK for name in REASONING if name in template}
    block = {"role": "assistant", "content": f"<think>\n{_THINK}\n</think>\n\n{_SAY}"}
    said = {"role": "assistant", "content": _SAY, **fields}
    ways: list[tuple[_Reasoning, Any]] = [("field", said)] if fields else []
    ways += [("content", block)] if "</think>" in template else []
    for kind, turn in ways:
        written = write([user, turn], variables=on)
        if _THINK in written and written.count(THOUGHTS[0][0]) < 2:
            answer = _behind(write, [user], [turn], on)
            before, _, rest = answer.partition(_THINK)
            between, said_at, _ = rest.partition(_SAY)
            return kind, (before, between) if said_at else THOUGHTS[0]
    return ("prompt", THOUGHTS[0]) if opens else ("", None)


def _calls(write: Any, template: str) -> tuple[CallFormat, CallFields | None, str]:
    """The form of calls and how they are passed, such that what is written reads back."""
    call_format = format_of(template)
    if "tool_calls" not in template or call_format is None:
        return HERMES, None, ""
    properties = {_KEY: {"type": "string", "description": _WORD}}
    function = {
        "name": _FUNCTION,
        "description": _WORD,
        "parameters": {"type": "object", "properties": properties, "required": [_KEY]},
    }
    tools = [{"type": "function", "function": function}]
    arguments = {_KEY: _VALUE}
    user = {"role": "user", "content": _ASK}
    ways = [CallFields(empty, text) for text in (False, True) for empty in ("", None)]
    for way in ways:
        written: Any = json.dumps(arguments) if way.text_arguments else arguments
        own = {"name": _FUNCTION, "arguments": written}
        call = {"type": "function", "id": "call00000", "function": own}
        turn = {"role": "assistant", "content": way.empty, "tool_calls": [call]}
        text = write([user, turn], tools=tools)
        asked = write([user], tools=tools, asks=True)
        at = common_length(text, asked)
        found = call_format.parse(text[at:], tools)[1]
        if [(one.name, one.arguments) for one in found] == [(_FUNCTION, arguments)]:
            return call_format, way, text[at:]
    return HERMES, None, ""


def common_length(one: str, other: str) -> int:
    """Length of the common beginning of two texts."""
    low, high = min(one, other), max(one, other)
    return next((n for n, c in enumerate(low) if c != high[n]), len(low))
