"""Symbols: the same rule as numbers, as C text, and as another library's symbols."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convkit.cuda import Symbol, c_expression, cdiv, evaluate, maximum, minimum

HEIGHT, WIDTH = Symbol.size("height"), Symbol.size("width")


def rule(height, width):
    """A rule that uses every operation, with numbers on either side."""
    inner = (height + 2 * 3 - 1) // 2 + (7 + width) * 3
    return (
        maximum(cdiv(inner, 4) - minimum(width, 5), 1 + 100 // (width + 1))
        + (50_000 - height)
        + (width * 2 - width) * maximum(2, 1)
    )


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_a_traced_rule_is_the_rule(height, width):
    assert evaluate(rule(HEIGHT, WIDTH), {"height": height, "width": width}) == rule(height, width)
    assert evaluate(rule(HEIGHT, 3), {"height": height}) == rule(height, 3)


@given(st.integers(0, 2**40), st.integers(1, 2**20))
def test_cdiv_rounds_up(size, divisor):
    quotient = cdiv(size, divisor)
    assert (quotient - 1) * divisor < size <= quotient * divisor or size == quotient == 0


def test_c_text():
    assert c_expression(cdiv(HEIGHT, 8)) == "((height + 8 - 1) / 8)"
    assert c_expression(minimum(HEIGHT - 1, 4) * WIDTH // 2) == "((((height - 1) < 4 ? (height - 1) : 4) * width) / 2)"
    assert c_expression(7) == "7"


class Theirs:
    """A symbolic integer which, like TensorRT's, takes a number on its right only and has no order."""

    def __init__(self, text):
        self.text = text

    def _binary(self, sign, other):
        return Theirs(f"({self.text} {sign} {other.text if isinstance(other, Theirs) else other})")

    def __add__(self, other):
        return self._binary("+", other)

    def __sub__(self, other):
        return self._binary("-", other)

    def __mul__(self, other):
        return self._binary("*", other)

    def __floordiv__(self, other):
        return self._binary("//", other)


def test_other_symbols_through_arithmetic():
    assert cdiv(Theirs("h"), 8).text == "(((h + 8) - 1) // 8)"


def test_other_symbols_through_evaluate():
    functions = {
        "+": lambda a, b: a + b,
        "*": lambda a, b: a * b,
        "cdiv": lambda a, b: Theirs(f"cdiv({a.text}, {b})"),
        "min": lambda a, b: Theirs(f"min({a.text}, {b})"),
    }
    traced = 3 * minimum(cdiv(HEIGHT, 8), 5) + (2 + WIDTH)
    sizes = {"height": Theirs("h"), "width": Theirs("w")}
    assert evaluate(traced, sizes, functions).text == "((min(cdiv(h, 8), 5) * 3) + (w + 2))"


@pytest.mark.parametrize(
    "use",
    [
        bool,
        lambda size: size > 3,
        lambda size: size == 3,
        lambda size: size % 2,
        lambda size: size / 2,
        range,
        lambda size: min(size, 3),
    ],
)
def test_a_symbol_has_no_value(use):
    with pytest.raises(TypeError, match=r"height \+ 1\) is not known when a launch configuration is traced"):
        use(HEIGHT + 1)


@pytest.mark.parametrize("other", [1.5, "2", None])
def test_a_size_is_an_integer(other):
    with pytest.raises(TypeError, match="A size is an integer"):
        HEIGHT * other
