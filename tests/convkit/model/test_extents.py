"""Extents of shapes against Python's own arithmetic on the same expressions."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from convkit.errors import AdapterError
from convkit.model import extent_names, resolve, substitute

NAMES = ("batch", "height", "n", "width_2")
sizes = st.fixed_dictionaries({name: st.integers(1, 96) for name in NAMES})


@st.composite
def expressions(draw: st.DrawFn) -> str:
    """Draw sums of products and quotients, with spaces here and there."""
    text = ""
    for index in range(draw(st.integers(1, 3))):
        factors = [draw(st.sampled_from([*NAMES, "1", "2", "21"]))]
        for _ in range(draw(st.integers(0, 3))):
            factors.append(draw(st.sampled_from(["*{}", " * {}"])).format(draw(st.sampled_from([*NAMES, "3", "16"]))))
            if draw(st.booleans()):
                factors.append(draw(st.sampled_from(["/1", "/2", "/8", " / 32"])))
        text += (draw(st.sampled_from(["+", "-", " + ", " - "])) if index else "") + "".join(factors)
    return text


def value_of(expression: str, table: dict[str, int]) -> Fraction:
    """Return what Python makes of an expression, in exact arithmetic."""
    exact = re.sub(r"(?<![a-z_0-9])(\d+)", r"Fraction(\1)", expression)
    return Fraction(eval(exact, {"Fraction": Fraction}, {name: Fraction(size) for name, size in table.items()}))


@given(expressions(), sizes)
def test_an_extent_is_what_python_computes_or_an_error(expression, table):
    wanted = value_of(expression, table)
    if wanted.denominator == 1 and wanted >= 0:
        assert resolve((expression, 7), table) == (int(wanted), 7)
    else:
        with pytest.raises(AdapterError, match=r"is (no whole number|negative) for") as caught:
            resolve((expression, 7), table)
        assert repr(expression) in caught.value.message


@given(expressions(), sizes, st.sets(st.sampled_from(NAMES)))
@example("batch-batch*batch", {"batch": 2, "height": 1, "n": 1, "width_2": 1}, {"batch"})
def test_a_substitution_keeps_the_value_and_leaves_only_the_other_names(expression, table, known):
    left = substitute(expression, {name: table[name] for name in known})
    assert set(extent_names(left)) <= set(NAMES) - known
    rest = {name: size for name, size in table.items() if name not in known}
    assert value_of(left, rest) == value_of(expression, table)
    wanted = value_of(expression, table)
    if wanted.denominator == 1 and wanted >= 0:
        assert resolve((left,), rest) == (int(wanted),)


@pytest.mark.parametrize(
    ("expression", "table", "wanted"),
    [
        ("21*height/32", {"height": 64}, 42),
        ("n+1", {"n": 7}, 8),
        ("n-1", {"n": 7}, 6),
        ("1+n", {"n": 7}, 8),
        ("height/8*width/8+height/16*width/16", {"height": 64, "width": 32}, 40),
        ("height/2*width/3", {"height": 3, "width": 2}, 1),  # 3/2 * 2/3: a quotient may be broken, the size may not
        ("4", {}, 4),
        ("n-n", {"n": 3}, 0),
    ],
)
def test_extents_in_numbers(expression, table, wanted):
    assert resolve((expression,), table) == (wanted,)


def test_a_shape_keeps_its_order_and_its_numbers():
    assert resolve(("batch", 80, "height/4", 0), {"batch": 1, "height": 512}) == (1, 80, 128, 0)
    assert resolve((), {}) == ()


@pytest.mark.parametrize(
    "expression",
    ["", " ", "+", "n+", "+n", "-n", "n++1", "n//2", "n/", "/2", "2/n", "n/m", "n/0", "n^2", "n**2", "(n+1)*2", "n m",
     "1.5*n", "N", "n%2", "größe", "-1", "?"],
)  # fmt: skip
def test_what_is_no_extent_is_refused_with_the_syntax(expression):
    with pytest.raises(AdapterError) as caught:
        extent_names(expression)
    assert repr(expression) in caught.value.message
    assert "height/8*width/8+n" in caught.value.hint
    with pytest.raises(AdapterError):
        resolve((expression,), {"n": 4, "m": 2})


def test_an_unknown_dimension_is_refused_with_the_known_ones():
    with pytest.raises(AdapterError, match="unknown dimension 'heigth'") as caught:
        resolve(("batch", "heigth/4"), {"batch": 1, "height": 8})
    assert "Did you mean 'height'?" in caught.value.hint
    assert "batch, height" in caught.value.hint
    with pytest.raises(AdapterError, match="unknown dimension 'n'") as caught:
        resolve(("n",), {})
    assert "none" in caught.value.hint


def test_a_broken_size_is_refused_with_the_sizes_and_the_remedy():
    with pytest.raises(AdapterError, match=r"'height/4\*n' is no whole number for height 30, n 3") as caught:
        resolve(("height/4*n",), {"height": 30, "n": 3, "other": 1})
    assert "multiple_of" in caught.value.hint


def test_a_negative_size_is_refused():
    with pytest.raises(AdapterError, match="'n-5' is negative for n 3"):
        resolve(("n-5",), {"n": 3})


def test_the_names_of_an_extent_come_once_in_order_of_their_first_use():
    assert extent_names("width*height/4-2*width+n") == ("width", "height", "n")
    assert extent_names(5) == ()
    assert extent_names("5") == ()


@pytest.mark.parametrize(
    ("extent", "known", "wanted"),
    [
        ("128*width/4", {}, "128*width/4"),
        ("height*width/4", {"height": 128}, "32*width"),
        ("height*width/16", {"height": 4}, "width/4"),
        ("height/8*width/8+n", {"height": 8, "width": 16}, "2+n"),
        ("n+1", {"n": 4}, "4+1"),
        ("n-m", {"n": 4}, "4-m"),
        ("n-m", {"m": 4}, "n-4"),
        ("n", {"n": 4}, "4"),
        ("n*m-2*n*m+width", {"m": 1}, "width-n"),
        (80, {"n": 4}, "80"),
    ],
)
def test_known_sizes_are_put_into_an_extent(extent, known, wanted):
    text = substitute(extent, known)
    free = {name: size for name, size in {"height": 12, "width": 16, "n": 12, "m": 2}.items() if name not in known}
    assert resolve((text,), free) == resolve((wanted,), free)
    assert set(extent_names(text)) == set(extent_names(wanted))


def test_a_substitution_reads_like_the_extent_it_came_from():
    assert substitute("128*width/4", {"height": 2}) == "128*width/4"
    assert substitute("height*width/4", {"height": 128}) == "32*width"
    assert substitute("n-m", {"n": 4}) == "4-m"
    assert substitute("n", {"n": 4}) == "4"
