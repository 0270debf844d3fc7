"""Symbolic integers: a launch configuration is written once and read as numbers, C or another library's symbols."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

__all__ = ["NUMBERS", "Symbol", "c_expression", "cdiv", "evaluate", "maximum", "minimum"]

NUMBERS: Mapping[str, Callable[[Any, Any], Any]] = MappingProxyType(
    {
        "+": operator.add,
        "-": operator.sub,
        "*": operator.mul,
        "//": operator.floordiv,
        "cdiv": lambda size, divisor: (size + divisor - 1) // divisor,
        "min": min,
        "max": max,
    }
)
"""The operations of symbols, for numbers."""


@dataclass(frozen=True, eq=False)
class Symbol:
    """An unknown integer: a named size, or an operation on two integers of which at least one is a symbol.

    ``operation`` is ``"size"`` with the name as its only operand, or a key of `NUMBERS` with two operands, each a
    symbol or an int. A product or sum of a number and a symbol has the number on the right. Symbols support
    ``+ - * //``, `cdiv`, `minimum` and `maximum`; comparing or converting one raises TypeError.
    """

    operation: str
    operands: tuple[Any, ...]

    @classmethod
    def size(cls, name: str) -> Symbol:
        """Return the symbol of a named size."""
        return cls("size", (name,))

    def __add__(self, other: Any) -> Symbol:
        return _combine("+", self, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Symbol:
        return _combine("-", self, other)

    def __rsub__(self, other: Any) -> Symbol:
        return _combine("-", other, self)

    def __mul__(self, other: Any) -> Symbol:
        return _combine("*", self, other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Symbol:
        return _combine("//", self, other)

    def __rfloordiv__(self, other: Any) -> Symbol:
        return _combine("//", other, self)

    def _refuse(self, *_: Any) -> NoReturn:
        raise TypeError(
            f"The value of {c_expression(self)} is not known when a launch configuration is traced. "
            "It may use + - * //, cdiv, minimum and maximum on sizes, and branch on constants only."
        )

    __bool__ = __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __index__ = __mod__ = __truediv__ = _refuse

    def __hash__(self) -> int:
        return id(self)


def cdiv(size: Any, divisor: Any) -> Any:
    """Return ``size / divisor`` rounded up, for ints, symbols and other libraries' symbolic integers.

    ``size`` is at least 0 and ``divisor`` at least 1.
    """
    if isinstance(size, Symbol) or isinstance(divisor, Symbol):
        return _combine("cdiv", size, divisor)
    return NUMBERS["cdiv"](size, divisor)


def minimum(first: Any, second: Any) -> Any:
    """Return the smaller of two ints or symbols. For other libraries' symbols see `evaluate`."""
    if isinstance(first, Symbol) or isinstance(second, Symbol):
        return _combine("min", first, second)
    return min(first, second)


def maximum(first: Any, second: Any) -> Any:
    """Return the larger of two ints or symbols. For other libraries' symbols see `evaluate`."""
    if isinstance(first, Symbol) or isinstance(second, Symbol):
        return _combine("max", first, second)
    return max(first, second)


def evaluate(
    expression: Any, sizes: Mapping[str, Any], operations: Mapping[str, Callable[[Any, Any], Any]] = NUMBERS
) -> Any:
    """Return the value of a symbol for given sizes; an int is its own value.

    ``sizes`` may be any values that ``operations`` accept: with TensorRT's symbolic integers and its functions for
    ``cdiv``, ``min`` and ``max``, the result is TensorRT's expression of the same formula.
    """
    if not isinstance(expression, Symbol):
        return expression
    if expression.operation == "size":
        return sizes[expression.operands[0]]
    first, second = (evaluate(operand, sizes, operations) for operand in expression.operands)
    return operations[expression.operation](first, second)


def c_expression(expression: Any) -> str:
    """Return a symbol or int as a C expression over the names of the sizes, meant for signed 64-bit integers.

    Dividends must not be negative: only then is C's division Python's ``//``.
    """
    if not isinstance(expression, Symbol):
        return str(int(expression))
    if expression.operation == "size":
        return str(expression.operands[0])
    first, second = (c_expression(operand) for operand in expression.operands)
    return _C[expression.operation].format(first, second)


_C = {
    "+": "({0} + {1})",
    "-": "({0} - {1})",
    "*": "({0} * {1})",
    "//": "({0} / {1})",
    "cdiv": "(({0} + {1} - 1) / {1})",
    "min": "({0} < {1} ? {0} : {1})",
    "max": "({0} > {1} ? {0} : {1})",
}


def _combine(operation: str, first: Any, second: Any) -> Symbol:
    operands = []
    for operand in (first, second):
        if not isinstance(operand, (Symbol, int)):
            raise TypeError(f"A size is an integer; {operand!r} is a {type(operand).__name__}.")
        operands.append(operand if isinstance(operand, Symbol) else int(operand))
    return Symbol(operation, tuple(operands))
