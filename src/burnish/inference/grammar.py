"""Answers that are JSON by construction: tokens that would break it cannot be drawn.

llguidance walks the grammar; here it is given the tokenizer once.
"""

import json
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from torch import Tensor

from burnish.errors import ModelError, UserError
from burnish.inference.schema_cost import check_cost
from burnish.inference.types import Grammar

# Any JSON allows space without end between its marks, and a model may like writing it.
_SPACE = r"[ \n\t]{0,20}"
# Characters of a schema: the API's 120,000 of names and values, with all that stands around them.
_LARGEST = 1 << 19
# Arguments as chat templates write them, so that a model finds what it has learnt.
_AS_TEMPLATES = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_OF_SCHEMA, _OF_TOOLS = "the JSON schema has", "the schemas of the tools have"
_OPENING, _CLOSING = "<tool_call>", "}\n</tool_call>"
# Words, and behind them what a call begins with: the first one ends them.
_WORDS = ["WORDS: /(.|\\n)*/", f"begun[lazy]: WORDS {json.dumps(_OPENING)}"]
# Keywords that give an object members; without any of them a function takes no arguments.
_MEMBERS = frozenset(
    ("properties", "required", "additionalProperties", "patternProperties", "minProperties",
     "unevaluatedProperties", "dependentSchemas", "anyOf", "oneOf", "allOf", "if", "then", "else",
     "enum", "const", "$ref", "$dynamicRef")
)  # fmt: skip
_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}
# Calls of one answer: a model that is not made for calls may repeat one without end.
_MOST_CALLS = 32
_TOKENIZERS: "weakref.WeakKeyDictionary[Any, LLTokenizer]" = weakref.WeakKeyDictionary()


class JsonGrammar:
    """Which tokens may come next in one answer."""

    def __init__(self, tokens: LLTokenizer, matcher: LLMatcher) -> None:
        self._matcher = matcher.deep_copy()
        self._words_W = torch.zeros((tokens.vocab_size + 31) // 32, dtype=torch.int32)
        self._check()

    def mask(self, logits_V: Tensor, stops: Collection[int] = ()) -> None:
        """Sets what may not come next to -inf, in place; stop tokens may come at an end."""
        size = self._words_W.numel() * self._words_W.element_size()
        self._matcher.unsafe_compute_mask_ptr(self._words_W.data_ptr(), size)
        self._check()
        bits_W_32 = self._words_W[:, None] >> torch.arange(32, dtype=torch.int32) & 1
        allowed_V = bits_W_32.flatten()[: len(logits_V)].bool().to(logits_V.device)
        # llguidance knows the tokenizer's own stop token only.
        ends = list(stops) if self._matcher.is_accepting() else []
        kept = logits_V[ends]
        logits_V[: len(allowed_V)].masked_fill_(~allowed_V, -torch.inf)
        logits_V[len(allowed_V) :] = -torch.inf  # rows of the projection that are no token
        logits_V[ends] = kept

    def advance(self, token: int) -> None:
        """The token was drawn."""
        self._matcher.consume_token(token)
        self._check()

    @property
    def ended(self) -> bool:
        """Nothing but the end may follow."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = _first_line(self._matcher.get_error())
            raise ModelError(
                f"the answer cannot follow the JSON schema ({reason})",
                "simplify the schema",
                code="schema_not_followed",
                reason=reason,
            )


@dataclass(frozen=True, slots=True, eq=False)
class SchemaGrammar:
    """JSON that a schema allows; called, it makes the grammar of one answer."""

    schema: Mapping[str, Any]
    tokens: LLTokenizer
    matcher: LLMatcher  # compiled once, by whoever asks; the engine only copies it

    def __call__(self) -> Grammar:
        return JsonGrammar(self.tokens, self.matcher)


@dataclass(frozen=True, slots=True, eq=False)
class ToolCallGrammar:
    """Calls of tools, or an answer, in llguidance's dialect of Lark; called, one answer's."""

    tokens: LLTokenizer
    lark: str
    matcher: LLMatcher | None = None  # of a grammar that was checked

    def __call__(self) -> Grammar:
        checked = self.matcher or _matcher(self.tokens, LLMatcher.grammar_from_lark(self.lark))
        return JsonGrammar(self.tokens, checked)


def json_grammar(tokenizer: Any) -> SchemaGrammar:
    """Any JSON object; one grammar an answer is made by calling the result."""
    return schema_grammar(tokenizer, {"type": "object"})


def lenient(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema without what cannot be kept to: a keyword such as `not` binds nothing then."""
    return {**schema, "x-guidance": {"lenient": True}}


def schema_grammar(tokenizer: Any, schema: Mapping[str, Any]) -> SchemaGrammar:
    """JSON that a schema allows; one grammar an answer is made by calling the result.

    Raises:
        ModelError: the tokenizer is not of the fast kind.
        UserError: the schema is invalid, too large, or uses a keyword that cannot be enforced.
    """
    tokens, written = _tokens(tokenizer), json.dumps(schema)
    _check_size(written, _OF_SCHEMA)
    check_cost([schema], _OF_SCHEMA)
    with _usable("the JSON schema", "simplify the schema", "invalid_json_schema"):
        return SchemaGrammar(schema, tokens, _matcher(tokens, _compiled(written)))


def call_grammar(
    tokenizer: Any,
    functions: Sequence[Mapping[str, Any]],
    *,
    several: bool,
    answer: Mapping[str, Any] | Literal["words"] | None = None,
) -> ToolCallGrammar:
    """Calls of these functions and nothing else, one or `several`, as `calls.tool_calls` reads
    them; arguments keep to each function's `parameters`. An `answer` of that schema does as well,
    or any `words`, whether calls follow or not.

    Raises:
        ModelError: the tokenizer is not of the fast kind.
        UserError: a schema is invalid, too large, or uses a keyword that cannot be enforced.
    """
    tokens, opening = _tokens(tokenizer), json.dumps(_OPENING)
    more = f" (SPACE one){{0,{_MOST_CALLS - 1}}}" if several else ""
    lines = [f"one: {opening} call", 'SPACE: "\\n"']
    if answer is None:
        lines.append(f"start: one{more}")
    elif answer == "words":
        lines += [f"start: WORDS | begun call{more}", *_WORDS]
    else:
        shape = _json(answer, {"whitespace_pattern": _SPACE})
        lines += [f"start: answer | one{more}", f"answer: {shape}"]
    lines.append("call: " + " | ".join(f"call_{place}" for place in range(len(functions))))
    for place, function in enumerate(functions):
        called = json.dumps(f'\n{{"name": {json.dumps(function["name"])}, "arguments": ')
        strict = bool(function.get("strict"))
        given = _arguments(function.get("parameters"), free=not strict and answer is not None)
        arguments = _json(given if strict else lenient(given), _AS_TEMPLATES)
        lines.append(f"call_{place}: {called} {arguments} {json.dumps(_CLOSING)}")
    lark = "\n".join(lines)
    _check_size(lark, _OF_TOOLS)
    compiled = [function.get("parameters") or {} for function in functions]
    check_cost([*compiled, answer] if isinstance(answer, Mapping) else compiled, _OF_TOOLS)
    with _usable(
        "the tools", "simplify the schemas of their parameters", "invalid_function_parameters"
    ):
        return ToolCallGrammar(tokens, lark, _matcher(tokens, LLMatcher.grammar_from_lark(lark)))


@contextmanager
def _usable(what: str, remedy: str, code: str) -> Iterator[None]:
    """Raises UserError where llguidance cannot keep to what is made within."""
    try:
        yield
    except ValueError as error:
        reason = _first_line(str(error))
        seen = f"{what} cannot be used ({reason})"
        raise UserError(seen, remedy, code=code, reason=reason) from error


def _matcher(tokens: LLTokenizer, compiled: str) -> LLMatcher:
    """
    Raises:
        ValueError: the grammar cannot be kept to.
    """
    if error := LLMatcher.validate_grammar(compiled, tokens):
        raise ValueError(error)
    return LLMatcher(tokens, compiled, log_level=0)


def _arguments(parameters: Mapping[str, Any] | None, *, free: bool) -> dict[str, Any]:
    """The schema of a call's arguments: an object, and an empty one where it names no members.

    A keyword that is null is absent, and the type null is none. Where the model is `free` not to
    call, an object whose members are not named may have any, as in a reply that keeps to no
    grammar.

    Raises:
        UserError: they are no object.
    """
    schema = {name: value for name, value in (parameters or {}).items() if value is not None}
    kind = schema.get("type", "object")
    if kind == "null":
        return _NO_ARGUMENTS
    if kind in ("string", "number", "integer", "boolean", "array"):
        raise UserError(
            f"the parameters of a function have the type {kind!r}, but the arguments of a call are "
            "an object",
            "use the type 'object', with one property for each argument",
            code="parameters_not_an_object",
            type=kind,
        )
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        return schema
    named = any(schema.get(name) for name in _MEMBERS)
    return {**schema, "type": "object"} if named or (free and schema) else _NO_ARGUMENTS


def _json(schema: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """A schema within a grammar; llguidance reads how to keep to it in the schema itself."""
    given = schema.get("x-guidance")
    merged = {**given, **options} if isinstance(given, Mapping) else options
    return f"%json {json.dumps({**schema, 'x-guidance': merged})}"


def _check_size(written: str, what: str) -> None:
    if len(written) > _LARGEST:
        raise UserError(
            f"{what} {len(written)} characters",
            f"use at most {_LARGEST}",
            code="schema_too_long",
            count=len(written),
            most=_LARGEST,
        )


def _compiled(schema: str) -> str:
    return str(LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": _SPACE}))


def _tokens(tokenizer: Any) -> LLTokenizer:
    """Tables of the whole vocabulary, made once a tokenizer: they take a second."""
    if tokenizer not in _TOKENIZERS:
        try:
            _TOKENIZERS[tokenizer] = from_tokenizer(tokenizer)
        except ValueError as error:
            raise ModelError(
                f"the tokenizer does not support JSON grammars ({_first_line(str(error))})",
                "use a model with a tokenizer.json",
                code="tokenizer_not_fast",
            ) from error
    return _TOKENIZERS[tokenizer]


def _first_line(text: str) -> str:
    return text.partition("\n")[0][:200]
