"""Answers that must be JSON are."""

import json
from typing import Any

import pytest
import torch

from burnish.errors import ModelError
from burnish.inference.grammar import call_grammar, json_grammar, schema_grammar
from burnish.inference.sampling import Sampler, sample_tokens
from burnish.inference.types import GenerationRequest, SamplingSettings
from tests.refused import refused

SCHEMA = {
    "type": "object",
    "properties": {
        "label": {"enum": ["parcel", "tent"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["label", "count", "tags"],
    "additionalProperties": False,
}


def check(text: str) -> None:
    value = json.loads(text)
    assert set(value) == {"label", "count", "tags"}
    assert value["label"] in ("parcel", "tent")
    assert isinstance(value["count"], int)
    assert 0 <= value["count"] <= 99
    assert len(value["tags"]) <= 2
    assert all(isinstance(tag, bool) for tag in value["tags"])


@pytest.mark.parametrize("seed", range(8))
def test_noise_becomes_what_the_schema_says(tiny_tokenizer: Any, seed: int) -> None:
    """Of logits that mean nothing, and more of them than there are tokens."""
    sampler = Sampler(
        SamplingSettings(400, seed=seed, grammar=schema_grammar(tiny_tokenizer, SCHEMA))
    )
    generator = torch.Generator().manual_seed(seed)
    tokens: list[int] = []
    while sampler.grammar is not None and not sampler.grammar.ended:
        logits = torch.randn(1, len(tiny_tokenizer) + 5, generator=generator)
        sampler.adjust_logits(logits[0])
        tokens += sample_tokens(logits, [sampler])
        sampler.accept(tokens[-1])
    check(tiny_tokenizer.decode(tokens))


def test_the_engine_keeps_to_the_schema(engine: Any, model: Any) -> None:
    """Answers with and without one in the same batch; one factory for many answers."""
    opened = engine()
    grammar = schema_grammar(model.tokenizer, SCHEMA)
    draws = [
        SamplingSettings(400, seed=seed, grammar=grammar if seed % 2 else None) for seed in range(6)
    ]
    running = [opened.submit(GenerationRequest((5, 6, 7), sampling)) for sampling in draws]
    for sampling, stream in zip(draws, running, strict=True):
        pieces = list(stream)
        if sampling.grammar is not None:
            assert pieces[-1].end == "stop"
            check("".join(piece.text for piece in pieces))


def test_any_object(tiny_tokenizer: Any) -> None:
    make = json_grammar(tiny_tokenizer)
    grammar = make()
    for token in tiny_tokenizer('{"a": [1, null, {"b": "c"}]}')["input_ids"]:
        assert not grammar.ended
        logits = torch.zeros(len(tiny_tokenizer))
        grammar.mask(logits)
        assert logits[token] == 0
        grammar.advance(token)
    assert grammar.ended
    with refused("schema_not_followed", ModelError):
        make().advance(tiny_tokenizer("tent")["input_ids"][0])


def test_words_are_free_until_a_call(tiny_tokenizer: Any) -> None:
    """They may end with whatever ends an answer; a call may end nowhere but behind it."""
    strict = {"type": "object", "properties": {"a": {"const": 3}}, "required": ["a"]}
    functions = [{"name": "f", "parameters": strict | {"additionalProperties": False}}]
    make = call_grammar(tiny_tokenizer, functions, several=True, answer="words")
    stop = tiny_tokenizer.convert_tokens_to_ids("<|im_start|>")
    call = '<tool_call>\n{"name": "f", "arguments": {"a": 3}}\n</tool_call>'
    tokens = tiny_tokenizer(f"a < b <tool {call}\n{call}")["input_ids"]
    grammar, ended = make(), []
    for place, token in enumerate(tokens):
        logits = torch.zeros(len(tiny_tokenizer))
        grammar.mask(logits, [stop])
        assert logits[token] == 0
        said = tiny_tokenizer.decode(tokens[:place])
        ended.append(bool(logits[stop] == 0))
        assert ended[-1] is ("<tool_call>" not in said or said.endswith("</tool_call>"))
        grammar.advance(token)
    assert set(ended) == {True, False}
    *before, wrong = tiny_tokenizer(f"a {call.partition('3')[0]}4")["input_ids"]
    grammar = make()
    for token in before:
        grammar.advance(token)
    with refused("schema_not_followed", ModelError):
        grammar.advance(wrong)


NO_PARAMETERS: list[dict[str, Any]] = [
    {},
    {"parameters": None},
    {"parameters": {}},
    {"parameters": {"type": "object"}},
    {"parameters": {"properties": {}}},
    {"parameters": {"type": "object", "properties": {}, "required": []}},
    {"parameters": {"type": "object", "properties": None, "title": "Nothing"}},
    {"parameters": {"type": "null"}},
    {"parameters": {"type": ["object", "null"], "properties": {}}, "strict": True},
    {"parameters": {"type": "object", "properties": {}, "additionalProperties": False}},
]


def drawn_call(tokenizer: Any, functions: list[dict[str, Any]], seed: int, **options: Any) -> str:
    """What a model of noise writes where it must call; it may write 400 tokens."""
    grammar = call_grammar(tokenizer, functions, **{"several": False} | options)
    sampler = Sampler(SamplingSettings(400, seed=seed, grammar=grammar))
    generator = torch.Generator().manual_seed(seed)
    tokens: list[int] = []
    while sampler.grammar is not None and not sampler.grammar.ended and len(tokens) < 400:
        logits = torch.randn(1, len(tokenizer), generator=generator)
        sampler.adjust_logits(logits[0])
        tokens += sample_tokens(logits, [sampler])
        sampler.accept(tokens[-1])
    return str(tokenizer.decode(tokens, skip_special_tokens=True))


@pytest.mark.parametrize("function", NO_PARAMETERS, ids=json.dumps)
def test_no_parameters_are_an_empty_object(tiny_tokenizer: Any, function: Any) -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    for seed in range(3):
        assert drawn_call(tiny_tokenizer, [{"name": "f", **function}], seed) == call
    both = [{"name": "f", **function}, {"name": "f"}]
    several = drawn_call(tiny_tokenizer, both, 0, several=True)
    assert set(several.replace(call, "")) <= {"\n"}


@pytest.mark.parametrize("kind", ["string", "array", "boolean"])
def test_arguments_of_another_type_are_refused(tiny_tokenizer: Any, kind: str) -> None:
    function = {"name": "f", "parameters": {"type": kind}}
    with refused("parameters_not_an_object", type=kind):
        call_grammar(tiny_tokenizer, [function], several=False)


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"id": {"enum": [7]}}, "required": ["id"], "additionalProperties": False},
        {"$ref": "#/$defs/One", "$defs": {"One": {"properties": {"id": {"const": 7}},
                                                  "required": ["id"],
                                                  "additionalProperties": False}}},
        {"anyOf": [{"const": {"id": 7}}, {"type": "string"}, {"type": "null"}]},
        {"type": ["object", "null"], "enum": [{"id": 7}, None]},
    ],
)  # fmt: skip
def test_arguments_are_an_object_without_a_type(tiny_tokenizer: Any, schema: Any) -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {"id": 7}}\n</tool_call>'
    for seed in range(3):
        assert drawn_call(tiny_tokenizer, [{"name": "f", "parameters": schema}], seed) == call


def test_a_model_that_repeats_its_call_comes_to_an_end(tiny_tokenizer: Any) -> None:
    make = call_grammar(tiny_tokenizer, [{"name": "f"}], several=True)
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    grammar = make()
    for token in tiny_tokenizer("\n".join([call] * 32))["input_ids"]:
        grammar.advance(token)
    assert grammar.ended


@pytest.mark.parametrize("schema", [{"$ref": "#"}, {"$ref": "#/$defs/No"}, {"type": "dict"}])
def test_parameters_that_say_nothing_are_refused(tiny_tokenizer: Any, schema: Any) -> None:
    with refused("invalid_function_parameters"):
        call_grammar(tiny_tokenizer, [{"name": "f", "parameters": schema}], several=False)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "objet"}, "objet"),
        ({"type": "object", "properties": {"a": {"not": {"type": "string"}}}}, "not"),
        ({"$ref": "#/nowhere"}, "nowhere"),
        ([1], "object"),
    ],
)
def test_a_schema_that_cannot_be_kept_to(tiny_tokenizer: Any, schema: Any, value: str) -> None:
    with refused("invalid_json_schema") as error:
        schema_grammar(tiny_tokenizer, schema)
    assert value in error.value.fields["reason"]


def test_a_schema_that_is_too_large(tiny_tokenizer: Any) -> None:
    """The API's largest one is taken: 5,000 properties, and 120,000 characters of names."""
    names = [f"n{place:023}" for place in range(5000)]
    large = {"type": "object", "properties": {name: {"type": "string"} for name in names}}
    schema_grammar(tiny_tokenizer, large | {"required": names, "additionalProperties": False})
    huge = {"type": "object", "description": "x" * (1 << 19)}
    with refused("schema_too_long", count=524_325, most=524_288):
        schema_grammar(tiny_tokenizer, huge)
    asked = huge | {"required": ["a"]}
    with refused("schema_too_long", most=524_288):
        call_grammar(tiny_tokenizer, [{"name": "f", "parameters": asked}], several=False)
