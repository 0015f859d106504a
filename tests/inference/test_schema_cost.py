"""Schemas that would take seconds to compile are refused; those that people write are not."""

import time
from typing import Any

import pytest

from burnish.inference.schema_cost import MULTIPLE, OPTIONAL, SUBSCHEMAS, check_cost
from tests.refused import refused


def members(count: int, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(count)}} | (
        more
    )


def nested(schema: dict[str, Any], depth: int) -> dict[str, Any]:
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": {"type": "array", "items": schema}}}
    return schema


COSTLY = "multiple_of_too_costly"


@pytest.mark.parametrize(
    ("schema", "code", "values"),
    [
        (members(OPTIONAL + 1), "too_many_optional_properties", {"count": 1001}),
        (nested(members(OPTIONAL + 1), 20), "too_many_optional_properties", {"count": 1001}),
        (
            {"anyOf": [members(10, required=[f"p{i}" for i in range(10)])] * 1000},
            "too_many_subschemas",
            {"most": SUBSCHEMAS},
        ),
        (
            members(SUBSCHEMAS, required=[f"p{i}" for i in range(SUBSCHEMAS)]),
            "too_many_subschemas",
            {"count": 6003},
        ),
        ({"type": "integer", "multipleOf": 999983}, COSTLY, {"value": "999983"}),
        (
            {"type": "number", "multipleOf": 1.2345678},
            COSTLY,
            {"value": "1.2345678"},
        ),
        (
            {"properties": {f"p{i}": {"multipleOf": 997 + i} for i in range(20)}},
            COSTLY,
            {},
        ),
        ({"allOf": [{"multipleOf": n} for n in (97, 89, 101)]}, COSTLY, {}),
        (
            {"$defs": {"a": {"multipleOf": 977}}, "$ref": "#/$defs/a", "multipleOf": 97},
            COSTLY,
            {},
        ),
        ({"allOf": [{"multipleOf": 1e-300}, {"multipleOf": 7e300}]}, COSTLY, {}),
        ({"multipleOf": 10**5000 + 1}, COSTLY, {}),
    ],
)
def test_dear_schemas(schema: dict[str, Any], code: str, values: dict[str, Any]) -> None:
    started = time.monotonic()
    with refused(code, **values):
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
