"""Extents of shapes: numbers, named dimensions, and sums and products of both.

``height/4``, ``n+1``, ``21*height/32`` and ``height/8*width/8+height/16*width/16`` are extents. Each is read as a sum
of terms, a rational number times dimensions; a size that is no whole number is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import lru_cache
from math import prod

from convkit.errors import AdapterError, suggest

__all__ = ["Extent", "extent_names", "resolve", "substitute"]

Extent = int | str
"""One axis of a shape: a number, or an expression over named dimensions."""

Term = tuple[Fraction, tuple[str, ...]]
_NUMBER, _NAME = re.compile(r"\d+"), re.compile(r"[a-z_][a-z0-9_]*")


@lru_cache(maxsize=1024)
def parse_extent(expression: str) -> tuple[Term, ...]:
    """Return the terms whose sum an expression is: (coefficient, names of its dimensions).

    Raises:
        AdapterError: it is no such expression.
    """
    first, *rest = re.split(r"([+-])", expression)
    terms = [_term(first, 1, expression)]
    for operator, text in zip(rest[::2], rest[1::2], strict=True):
        terms.append(_term(text, 1 if operator == "+" else -1, expression))
    return tuple(terms)


def _term(text: str, sign: int, expression: str) -> Term:
    coefficient, names = Fraction(sign), []
    first, *rest = re.split(r"([*/])", text)
    for operator, factor in zip(("*", *rest[::2]), (first, *rest[1::2]), strict=True):
        word = factor.strip()
        if _NUMBER.fullmatch(word) and (operator == "*" or int(word)):
            coefficient = coefficient * int(word) if operator == "*" else coefficient / int(word)
        elif _NAME.fullmatch(word) and operator == "*":
            names.append(word)
        else:
            raise AdapterError(
                f"{expression!r} is no extent of a shape.",
                hint="Write numbers, named dimensions, and sums and products of them, such as height/8*width/8+n.",
            )
    return coefficient, tuple(names)


def extent_names(extent: Extent) -> tuple[str, ...]:
    """Return the dimensions that an extent names, each once."""
    if isinstance(extent, int):
        return ()
    return tuple(dict.fromkeys(name for _, names in parse_extent(extent) for name in names))


def resolve(shape: Iterable[Extent], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Return ``shape`` in numbers: ``("batch", 80, "height/4")`` with sizes gives ``(1, 80, 128)``.

    Raises:
        AdapterError: an extent names an unknown dimension, or is no whole number or negative for these sizes.
    """
    return tuple(extent if isinstance(extent, int) else _evaluate(extent, sizes) for extent in shape)


def substitute(extent: Extent, sizes: Mapping[str, int]) -> str:
    """Return ``extent`` with the dimensions in ``sizes`` as numbers: ``128*width/4`` becomes ``32*width``."""
    if not set(extent_names(extent)) & sizes.keys():
        return str(extent)
    terms: dict[tuple[str, ...], Fraction] = {}
    for coefficient, names in parse_extent(str(extent)):
        free = tuple(name for name in names if name not in sizes)
        value = coefficient * prod(sizes[name] for name in names if name in sizes)
        terms[free] = terms.get(free, Fraction(0)) + value
    ordered = sorted(terms.items(), key=lambda term: term[1] < 0)  # an expression cannot begin with a minus
    text = "+".join(_text(value, names) for names, value in ordered).replace("+-", "-")
    return f"0{text}" if text.startswith("-") else text


def _evaluate(expression: str, sizes: Mapping[str, int]) -> int:
    unknown = [name for name in extent_names(expression) if name not in sizes]
    if unknown:
        raise AdapterError(
            f"The shape {expression!r} names an unknown dimension {unknown[0]!r}.",
            hint=f"{suggest(unknown[0], sizes)} Its dimensions are {', '.join(sizes) or 'none'}.",
        )
    value = sum(
        (coefficient * prod(sizes[name] for name in names) for coefficient, names in parse_extent(expression)),
        Fraction(0),
    )
    if value.denominator != 1 or value < 0:
        given = ", ".join(f"{name} {sizes[name]}" for name in extent_names(expression)) or "any size"
        raise AdapterError(
            f"The shape {expression!r} is {'negative' if value < 0 else 'no whole number'} for {given}.",
            hint="Give the dimension a matching min or multiple_of in the adapter.",
        )
    return int(value)


def _text(value: Fraction, names: tuple[str, ...]) -> str:
    number = [] if abs(value.numerator) == 1 and names else [str(abs(value.numerator))]
    text = ("-" if value < 0 else "") + "*".join([*number, *names])
    return text if value.denominator == 1 else f"{text}/{value.denominator}"
