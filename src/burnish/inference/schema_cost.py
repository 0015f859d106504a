"""How much a JSON schema may ask of whoever compiles it; dearer ones are refused unread.

Compiling takes time in the number of subschemas, in the square of an object's optional members, and
in the number whose multiples are wanted, where one of six digits takes 24 s.
"""

import math
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from burnish.errors import UserError

# Each alone takes less than 2 s; the API's largest schema has 5,000 properties.
SUBSCHEMAS, OPTIONAL, MULTIPLE = 6_000, 1_000, 10_000
# Keywords under which a number may have to be a multiple of several others at once.
_MERGING = frozenset({"allOf", "anyOf", "oneOf", "$ref"})


def check_cost(schemas: Iterable[Mapping[str, Any]], what: str) -> None:
    """
    Args:
        schemas: that are compiled together.
        what: how an error begins, such as "the JSON schema has".

    Raises:
        UserError: they would take too long to compile.
    """
    found, merging = 0, False
    multiples: set[Decimal] = set()
    pending: list[Any] = list(schemas)
    while pending:
        part = pending.pop()
        if isinstance(part, list):
            pending.extend(part)
        if not isinstance(part, Mapping):
            continue
        found += 1
        merging = merging or not _MERGING.isdisjoint(part)
        multiples |= _multiple(part.get("multipleOf"))
        if (optional := _optional(part)) > OPTIONAL:
            raise UserError(
                f"{what} an object with {optional} optional properties",
                f"use at most {OPTIONAL}, or list the mandatory ones in 'required'",
                code="too_many_optional_properties",
                count=optional,
                most=OPTIONAL,
            )
        pending.extend(part.values())
    if found > SUBSCHEMAS:
        raise UserError(
            f"{what} {found} subschemas",
            f"use at most {SUBSCHEMAS}",
            code="too_many_subschemas",
            count=found,
            most=SUBSCHEMAS,
        )
    if (steps := _steps(multiples, merging=merging)) > MULTIPLE:
        largest = max(multiples)
        raise UserError(
            f"{what} 'multipleOf' up to {largest}, which needs {steps} states to check",
            f"use values that need at most {MULTIPLE} states, such as 1, 0.01 or 250",
            code="multiple_of_too_costly",
            value=str(largest),
            count=steps,
            most=MULTIPLE,
        )


def _optional(schema: Mapping[str, Any]) -> int:
    members, required = schema.get("properties"), schema.get("required")
    if not isinstance(members, Mapping):
        return 0
    named = required if isinstance(required, list) else []
    return len(members.keys() - {name for name in named if isinstance(name, str)})


def _multiple(value: Any) -> set[Decimal]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return set()
    try:
        number = abs(Decimal(str(value)))
    except (InvalidOperation, ValueError):  # an integer too long to be written
        return {Decimal(MULTIPLE + 1)}
    return {number} if number.is_finite() and number else set()


def _steps(multiples: set[Decimal], *, merging: bool) -> int:
    """Remainders that are told apart; zeros at the end cost nothing."""
    if not multiples:
        return 0
    lowest = min(_exponent(number) for number in multiples)
    if max(number.adjusted() for number in multiples) - lowest > 30:
        return MULTIPLE + 1
    whole = [int(number.scaleb(-lowest)) for number in multiples]
    if merging:
        return _short(math.lcm(*whole))
    return sum(map(_short, whole))


def _exponent(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    return exponent


def _short(number: int) -> int:
    while number % 10 == 0:
        number //= 10
    return number
