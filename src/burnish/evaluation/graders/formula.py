"""Formulas over grades: arithmetic and a few functions."""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

_OPERATORS: dict[type, Callable[[float, float], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,
}
_SIGNS: dict[type, Callable[[float], float]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "sqrt": math.sqrt,
    "log": math.log,
    "exp": math.exp,
}
_LONGEST = 2000


class FormulaError(ValueError):
    """A formula that is invalid, or has no value for these grades."""


class Formula:
    """A formula such as `0.5 * name + max(email, 0)`; `^` is the power, as `**` is.

    Raises:
        FormulaError: it contains anything but numbers, names, `+ - * / ^` and the functions.
    """

    def __init__(self, text: str) -> None:
        if len(text) > _LONGEST:
            raise FormulaError(
                f"the formula has {len(text)} characters, more than the limit of {_LONGEST}"
            )
        try:
            # Python's ^ binds weaker than +, a formula's binds stronger than *.
            self._tree = ast.parse(text.replace("^", "**").strip(), mode="eval").body
            self.names = frozenset(_names(self._tree))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise FormulaError(f"{text[:80]!r} is not a valid formula: {error}") from None

    def value(self, grades: Mapping[str, float]) -> float:
        """Evaluate the formula.

        Raises:
            FormulaError: it has no value for these grades, for example a division by 0.
        """
        try:
            value = _value(self._tree, grades)
            finite = math.isfinite(value)
        except (ArithmeticError, ValueError, TypeError, RecursionError) as error:
            raise FormulaError(f"the formula has no value: {error}") from None
        if not finite:
            raise FormulaError("the formula's value is not finite")
        return float(value)


def _names(node: ast.expr) -> set[str]:
    match node:
        case ast.Constant(value=bool()):
            raise ValueError("true and false are not numbers")
        case ast.Constant(value=int() | float()):
            return set()
        case ast.Name(id=name):
            return {name}
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _names(left) | _names(right)
        case ast.UnaryOp(op=op, operand=inner) if type(op) in _SIGNS:
            return _names(inner)
        case ast.Call(func=ast.Name(id=name), args=parts, keywords=[]) if name in _FUNCTIONS:
            return set().union(*map(_names, parts))
    raise ValueError(f"{ast.unparse(node)[:40]!r} is not allowed in a formula")


def _value(node: ast.expr, grades: Mapping[str, float]) -> float:
    """Evaluate a tree that `_names` has checked; floats keep powers from growing without limit."""
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name):
            return float(grades[name])
        case ast.BinOp(left=left, op=op, right=right):
            value: float = _OPERATORS[type(op)](_value(left, grades), _value(right, grades))
            return value
        case ast.UnaryOp(op=op, operand=inner):
            return _SIGNS[type(op)](_value(inner, grades))
        case ast.Call(func=ast.Name(id=name), args=parts):
            values = [_value(part, grades) for part in parts]
            # min and max of one number are that number, as in mathematics and not as in Python.
            if name in ("min", "max"):
                return _FUNCTIONS[name](values)
            return float(_FUNCTIONS[name](*values))
    raise AssertionError(node)
