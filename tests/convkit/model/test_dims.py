"""Named dimensions: ranges, their syntax on the command line, overrides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convkit.errors import SettingError
from convkit.model import Dim, apply_overrides, parse_shape

names = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Draw (min, opt, max, multiple_of) that make a valid dimension."""
    step = draw(st.integers(1, 64))
    low, opt, high = sorted(draw(st.lists(st.integers(1, 40), min_size=3, max_size=3)))
    return low * step, opt * step, high * step, step


@given(names, ranges())
def test_what_a_dimension_prints_as_is_what_shape_parses(name, limits):
    dim = Dim(name, *limits)
    assert parse_shape(str(dim)) == (name, *limits[:3])
    assert dim.dynamic == (limits[0] != limits[2])
    assert Dim(**dim.to_json()) == dim


@given(names, st.integers(1, 5000))
def test_one_number_fixes_a_dimension(name, size):
    assert parse_shape(f"{name}={size}") == (name, size, size, size)
    assert not Dim.fixed(name, size).dynamic


@pytest.mark.parametrize(
    "text",
    [
        "",
        "batch",
        "batch=",
        "batch=a",
        "batch=1:2",
        "batch=1:2:3:4",
        "=4",
        "Batch=4",
        "batch=-1",
        "batch=1.5",
        "a=1,b=2",
    ],
)
def test_text_that_is_no_shape_is_refused_with_the_syntax(text):
    with pytest.raises(SettingError) as caught:
        parse_shape(text)
    assert repr(text) in caught.value.message
    assert "NAME=MIN:OPT:MAX" in caught.value.hint


@given(st.tuples(*[st.integers(-2, 12)] * 3))
def test_only_ascending_positive_ranges_are_dimensions(limits):
    low, opt, high = limits
    if 1 <= low <= opt <= high:
        assert Dim("batch", *limits).opt == opt
    else:
        with pytest.raises(SettingError, match=f"{low}:{opt}:{high}"):
            Dim("batch", *limits)


@given(st.integers(1, 500), st.integers(2, 64))
def test_a_size_off_the_step_is_refused_and_the_hint_names_allowed_sizes(size, step):
    if size % step == 0:
        assert Dim.fixed("height", size, multiple_of=step).opt == size
        return
    with pytest.raises(SettingError, match=f"multiple of {step}") as caught:
        Dim.fixed("height", size, multiple_of=step)
    offered = [int(word) for word in caught.value.hint.replace(".", "").split() if word.isdigit()]
    assert offered
    assert all(number % step == 0 and number > 0 and abs(number - size) < step for number in offered)
    assert len(set(offered)) == len(offered)


ADAPTER_DIMS = (Dim("batch", 1, 1, 8), Dim.fixed("height", 512, multiple_of=32), Dim.fixed("width", 512))


def test_overrides_replace_ranges_and_keep_order_and_step():
    batch, height, width = apply_overrides(ADAPTER_DIMS, ["width=96", "height=64:128:256"])
    assert batch == ADAPTER_DIMS[0]
    assert height == Dim("height", 64, 128, 256, 32)
    assert width == Dim.fixed("width", 96)
    assert apply_overrides(ADAPTER_DIMS, []) == ADAPTER_DIMS


@pytest.mark.parametrize(
    ("shapes", "message", "hint"),
    [
        (["heigth=64"], "no dimension 'heigth'", "Did you mean 'height'"),
        (["depth=64"], "no dimension 'depth'", "batch, height, width"),
        (["batch=1", "batch=2"], "twice", "once"),
        (["height=65"], "multiple of 32", "64"),
        (["batch=4:2:8"], "4:2:8", "MIN <= OPT <= MAX"),
        (["batch=0"], "0:0:0", "1 <= MIN"),
    ],
)
def test_overrides_that_cannot_be_obeyed_are_refused(shapes, message, hint):
    with pytest.raises(SettingError, match=message) as caught:
        apply_overrides(ADAPTER_DIMS, shapes)
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2
