"""Reads function calls out of an answer, in the form in which each model family writes them.

A chat template shows which form its family has; `format_of` finds it by the marks in the template.
The arguments of forms without types (Qwen 3 Coder, GLM, Muse) are read by the types that the
offered functions declare; where none is declared, what reads as JSON is JSON.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from burnish.data.gemma_arguments import read_braces

_LITERALS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A call that an answer contains; `arguments` is an object of JSON values."""

    name: str
    arguments: dict[str, Any]

    @property
    def text(self) -> str:
        """The call in the form of Hermes, in which rows, scorers and reports have it."""
        call = {"name": self.name, "arguments": self.arguments}
        return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"


@dataclass(frozen=True, slots=True)
class FoundCalls:
    """Calls that stand in the characters [start, end) of an answer."""

    start: int
    end: int
    calls: tuple[FunctionCall, ...]


Tools = Sequence[Mapping[str, Any]]
Reader = Callable[[str, Tools], Iterator[FoundCalls]]


@dataclass(frozen=True, slots=True)
class CallFormat:
    """The form of one family's calls.

    Attributes:
        name: of the family.
        signs: texts that a template of the family contains, all of them.
        openings: a call begins with one of these.
        read: the calls in an answer, in order.
        marks: special tokens that belong to calls, beside those that the template writes.
        starts_answer: whether calls are the whole answer, so that one begins only at its start.
    """

    name: str
    signs: tuple[str, ...]
    openings: tuple[str, ...]
    read: Reader
    marks: tuple[str, ...] = ()
    starts_answer: bool = False

    def parse(self, text: str, tools: Tools = ()) -> tuple[str, list[FunctionCall]]:
        """The answer without its calls, and the calls."""
        calls: list[FunctionCall] = []
        rest, at = "", 0
        for found in self.read(text, tools):
            rest += text[at : found.start]
            calls += found.calls
            at = found.end
        return (rest + text[at:]).rstrip() if calls else text, calls

    def before(self, text: str) -> str:
        """The part of a growing answer that will not become part of a call."""
        if self.starts_answer:
            begun = text.lstrip()
            holds = any(o.startswith(begun[: len(o)]) for o in self.openings)
            return "" if holds else text
        starts = [at for o in self.openings if (at := text.find(o)) >= 0]
        if not starts:
            starts = [len(text) - _overlap(text, opening) for opening in self.openings]
        return text[: min(starts)].rstrip()


def _overlap(text: str, opening: str) -> int:
    sizes = range(min(len(opening) - 1, len(text)), 0, -1)
    return next((n for n in sizes if opening.startswith(text[-n:])), 0)


def format_of(template: str) -> CallFormat | None:
    """The form of calls whose marks a chat template contains; None if it contains none."""
    return next((form for form in FORMATS if all(sign in template for sign in form.signs)), None)


def _typed(text: str, function: str, parameter: str, tools: Tools) -> Any:
    """The value that stands in a call as bare text."""
    kind = _declared(function, parameter, tools).get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    if kinds == ["string"]:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    return _LITERALS.get(text, text) if "string" not in kinds else text


def _declared(function: str, parameter: str, tools: Tools) -> Mapping[str, Any]:
    """What the offered function declares of its parameter."""
    for tool in tools:
        own = tool.get("function", tool)
        if isinstance(own, Mapping) and own.get("name") == function:
            parameters = own.get("parameters")
            named = parameters.get("properties") if isinstance(parameters, Mapping) else None
            found = named.get(parameter) if isinstance(named, Mapping) else None
            return found if isinstance(found, Mapping) else {}
    return {}


def _json_at(text: str, start: int) -> tuple[Any, int] | None:
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return value, end


def _one(name: Any, arguments: Any) -> tuple[FunctionCall, ...]:
    if isinstance(arguments, str):  # JSON in JSON, as the OpenAI API has it
        read = _json_at(arguments, 0)
        arguments = read[0] if read else arguments
    if arguments is None:
        arguments = {}
    is_call = isinstance(name, str) and bool(name) and isinstance(arguments, dict)
    return (FunctionCall(name, arguments),) if is_call else ()


_HERMES = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)


def _hermes(text: str, _tools: Tools) -> Iterator[FoundCalls]:
    for match in _HERMES.finditer(text):
        read = _json_at(match[1], 0)
        if read and isinstance(read[0], dict):
            call = read[0]
            if found := _one(call.get("name"), call.get("arguments", call.get("parameters"))):
                yield FoundCalls(*match.span(), found)


_CODER = re.compile(
    r"<tool_call>\s*<function=([^>\n]+)>\s*(.*?)</function>\s*</tool_call>", re.DOTALL
)
_CODER_VALUE = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)


def _coder(text: str, tools: Tools) -> Iterator[FoundCalls]:
    yield from _tagged(text, tools, _CODER, _CODER_VALUE)


_GLM = re.compile(r"<tool_call>([^\n<{]+?)\s*(<arg_key>.*?)?\s*</tool_call>", re.DOTALL)
_GLM_VALUE = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)


def _glm(text: str, tools: Tools) -> Iterator[FoundCalls]:
    yield from _tagged(text, tools, _GLM, _GLM_VALUE)


_MUSE = re.compile(
    r"(?:(?:<\|eom\|>)?(?:<\|start\|>assistant)? ?to=\S+<\|message\|>)?<atem:function_calls>\s*"
    r'<atem:invoke name="([^"]+)">\s*(.*?)</atem:invoke>\s*</atem:function_calls>',
    re.DOTALL,
)
_MUSE_VALUE = re.compile(r'<atem:parameter name="([^"]+)">(.*?)</atem:parameter>', re.DOTALL)


def _muse(text: str, tools: Tools) -> Iterator[FoundCalls]:
    yield from _tagged(text, tools, _MUSE, _MUSE_VALUE)


def _tagged(
    text: str, tools: Tools, calls: re.Pattern[str], values: re.Pattern[str]
) -> Iterator[FoundCalls]:
    for match in calls.finditer(text):
        name = match[1].strip()
        pairs = values.findall(match[2] or "")
        arguments = {key: _typed(value, name, key, tools) for key, value in pairs}
        yield FoundCalls(*match.span(), (FunctionCall(name, arguments),))


_LLAMA = re.compile(r"\s*(?:<\|python_tag\|>)?\s*(?=\{)")


def _llama(text: str, _tools: Tools) -> Iterator[FoundCalls]:
    """Calls are the whole answer: JSON objects, separated by white space or semicolons."""
    at = 0
    while (opening := _LLAMA.match(text, at)) is not None:
        read = _json_at(text, opening.end())
        if read is None or not isinstance(read[0], dict):
            return
        call = read[0]
        if not (found := _one(call.get("name"), call.get("parameters", call.get("arguments")))):
            return
        yield FoundCalls(at, read[1], found)
        at = read[1] + (text[read[1] : read[1] + 1] == ";")


_MISTRAL = re.compile(r"([\w.-]+)(?:\[CALL_ID\][^\[]*)?(?:\[ARGS\])?\s*(?=\{)")


def _mistral(text: str, _tools: Tools) -> Iterator[FoundCalls]:
    """A list of calls as JSON, or each call with its name before its arguments."""
    at = 0
    while (start := text.find("[TOOL_CALLS]", at)) >= 0:
        at = start + len("[TOOL_CALLS]")
        listed = _json_at(text, at + len(text[at:]) - len(text[at:].lstrip()))
        if listed and isinstance(listed[0], list):
            calls = [c for one in listed[0] if isinstance(one, dict) for c in _named(one)]
            at = listed[1]
        else:
            named = _MISTRAL.match(text, at + len(text[at:]) - len(text[at:].lstrip()))
            read = _json_at(text, named.end()) if named else None
            if named is None or read is None:
                return
            calls, at = list(_one(named[1], read[0])), read[1]
        yield FoundCalls(start, at, tuple(calls))


def _named(call: Mapping[str, Any]) -> tuple[FunctionCall, ...]:
    return _one(call.get("name"), call.get("arguments", call.get("parameters")))


_HARMONY = re.compile(
    r"(?:<\|start\|>assistant)?\s*(?:<\|channel\|>\w+)?\s*to=(?:functions\.)?([\w.-]+)\s*"
    r"(?:<\|channel\|>\w+)?\s*(?:<\|constrain\|>)?\s*\w*<\|message\|>\s*"
)


def _harmony(text: str, _tools: Tools) -> Iterator[FoundCalls]:
    for match in _HARMONY.finditer(text):
        read = _json_at(text, match.end())
        if read and (found := _one(match[1], read[0])):
            end = read[1]
            closing = re.compile(r"\s*(?:<\|call\|>|<\|end\|>)").match(text, end)
            yield FoundCalls(match.start(), closing.end() if closing else end, found)


_GEMMA = re.compile(r"<\|tool_call>call:([^\s{]+)(?=\{)")


def _gemma(text: str, _tools: Tools) -> Iterator[FoundCalls]:
    for match in _GEMMA.finditer(text):
        read = read_braces(text, match.end())
        if read is not None:
            closing = re.compile(r"\s*<tool_call\|>").match(text, read[1])
            if closing:
                yield FoundCalls(match.start(), closing.end(), _one(match[1], read[0]))


_DEEPSEEK = re.compile(
    r"(?:<｜tool▁calls▁begin｜>)?\s*<｜tool▁call▁begin｜>(.*?)<｜tool▁sep｜>"
    r"(.*?)<｜tool▁call▁end｜>\s*(?:<｜tool▁calls▁end｜>)?",
    re.DOTALL,
)
_FENCED = re.compile(r"(.*?)\n```json\n(.*)\n```", re.DOTALL)


def _deepseek(text: str, _tools: Tools) -> Iterator[FoundCalls]:
    """The name stands behind the separator (V3, R1) or before it (V3.1)."""
    for match in _DEEPSEEK.finditer(text):
        fenced = _FENCED.fullmatch(match[2])
        name, arguments = (fenced[1], fenced[2]) if fenced else (match[1], match[2])
        if found := _one(name.strip(), arguments.strip()):
            yield FoundCalls(*match.span(), found)


_BARE_TEXT = re.compile(r"(?<==)'(.*?)'(?=, \w+=|\)(?:, |\]))", re.DOTALL)
_LFM = re.compile(r"<\|tool_call_start\|>\s*(\[.*?\])\s*<\|tool_call_end\|>", re.DOTALL)


def _lfm(text: str, _tools: Tools) -> Iterator[FoundCalls]:
    """A list of calls in the syntax of Python; the family's template escapes no quotation mark."""
    for match in _LFM.finditer(text):
        escaped = _BARE_TEXT.sub(lambda quoted: repr(quoted[1]), match[1])
        for written in (match[1], escaped):
            try:
                calls = tuple(_python_calls(written))
            except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
                continue
            yield FoundCalls(*match.span(), calls)
            break


def _python_calls(text: str) -> Iterator[FunctionCall]:
    listed = ast.parse(text.strip(), mode="eval").body
    for node in listed.elts if isinstance(listed, ast.List) else ():
        if not isinstance(node, ast.Call):
            raise ValueError(text)
        arguments = {str(pair.arg): _python_value(pair.value) for pair in node.keywords}
        yield FunctionCall(ast.unparse(node.func), arguments)


def _python_value(node: ast.expr) -> Any:
    """A literal; `true`, `false` and `null` too, since objects stand there as JSON."""
    if isinstance(node, ast.Name):
        return _LITERALS.get(node.id, node.id)
    if isinstance(node, ast.List | ast.Tuple):
        return [_python_value(part) for part in node.elts]
    if isinstance(node, ast.Dict):
        keys = [_python_value(key) if key is not None else "" for key in node.keys]
        return dict(zip(keys, map(_python_value, node.values), strict=True))
    return ast.literal_eval(node)


_COHERE = re.compile(r"<\|START_ACTION\|>\s*(\[.*?\])\s*<\|END_ACTION\|>", re.DOTALL)


def _cohere(text: str, _tools: Tools) -> Iterator[FoundCalls]:
    for match in _COHERE.finditer(text):
        read = _json_at(match[1], 0)
        listed = read[0] if read and isinstance(read[0], list) else []
        calls = [
            found
            for call in listed
            if isinstance(call, dict)
            for found in _one(call.get("tool_name"), call.get("parameters"))
        ]
        if calls:
            yield FoundCalls(*match.span(), tuple(calls))


HERMES = CallFormat("hermes", ("<tool_call>",), ("<tool_call>",), _hermes)
# The most particular signs first: several families write `<tool_call>`.
FORMATS = (
    CallFormat("glm", ("<arg_key>",), ("<tool_call>",), _glm),
    CallFormat("qwen3-coder", ("<function=", "<tool_call>"), ("<tool_call>",), _coder),
    CallFormat(
        "muse",
        ("<atem:function_calls>",),
        ("<atem:function_calls>", " to="),
        _muse,
    ),
    CallFormat("gemma4", ("<|tool_call>",), ("<|tool_call>",), _gemma),
    CallFormat(
        "deepseek",
        ("<｜tool▁call▁begin｜>",),
        ("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
        _deepseek,
    ),
    CallFormat(
        "harmony",
        ("<|channel|>commentary",),
        (" to=", "<|channel|>commentary"),
        _harmony,
        ("<|constrain|>", "<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|call|>"),
    ),
    CallFormat(
        "mistral",
        ("[TOOL_CALLS]",),
        ("[TOOL_CALLS]",),
        _mistral,
        ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
    ),
    CallFormat("lfm", ("<|tool_call_start|>",), ("<|tool_call_start|>",), _lfm),
    CallFormat("cohere", ("<|START_ACTION|>",), ("<|START_ACTION|>",), _cohere),
    HERMES,
    CallFormat(
        "llama",
        ('"parameters": ',),
        ('{"name"', "<|python_tag|>"),
        _llama,
        ("<|python_tag|>",),
        starts_answer=True,
    ),
)
