"""Schemas that would take seconds to compile are refused; those that people write are not."""

import time
from typing import Any

import pytest

from burnish.errors import UserError
from burnish.serving.engine.schema_cost import MULTIPLE, OPTIONAL, SUBSCHEMAS, check_cost


def members(count: int, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(count)}} | (
        more
    )


def nested(schema: dict[str, Any], depth: int) -> dict[str, Any]:
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": {"type": "array", "items": schema}}}
    return schema


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (members(OPTIONAL + 1), "1001 optional properties"),
        (nested(members(OPTIONAL + 1), 20), "1001 optional properties"),
        ({"anyOf": [members(10, required=[f"p{i}" for i in range(10)])] * 1000}, "subschemas"),
        (
            members(SUBSCHEMAS, required=[f"p{i}" for i in range(SUBSCHEMAS)]),
            "6003 subschemas",
        ),
        ({"type": "integer", "multipleOf": 999983}, "999983"),
        ({"type": "number", "multipleOf": 1.2345678}, "1.2345678"),
        ({"properties": {f"p{i}": {"multipleOf": 997 + i} for i in range(20)}}, "multipleOf"),
        ({"allOf": [{"multipleOf": n} for n in (97, 89, 101)]}, "multipleOf"),
        (
            {"$defs": {"a": {"multipleOf": 977}}, "$ref": "#/$defs/a", "multipleOf": 97},
            "multipleOf",
        ),
        ({"allOf": [{"multipleOf": 1e-300}, {"multipleOf": 7e300}]}, "multipleOf"),
        ({"multipleOf": 10**5000 + 1}, "multipleOf"),
    ],
)
def test_dear_schemas(schema: dict[str, Any], said: str) -> None:
    started = time.monotonic()
    with pytest.raises(UserError, match=said):
        check_cost([{}, schema], "the JSON schema has")
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    "schema",
    [
        members(OPTIONAL),
        members(2000, required=[f"p{i}" for i in range(1500)]),
        {"type": "number", "multipleOf": 0.01},
        {"type": "integer", "multipleOf": 100_000},
        {"properties": {f"p{n}": {"multipleOf": n} for n in (5, 7, 11, 13, 17, 19, 60, 365)}},
        {"allOf": [{"multipleOf": 0.25}, {"multipleOf": 5}]},
        {"multipleOf": MULTIPLE - 1},
        {"multipleOf": "no number", "properties": [], "required": [{}]},
        {"multipleOf": True},
        {"multipleOf": 0},
        {"properties": {"a": {}}, "required": [{}, 1, "a"]},
        {"enum": [str(i) for i in range(100_000)]},
    ],
)
def test_common_schemas(schema: dict[str, Any]) -> None:
    check_cost([schema], "the JSON schema has")
