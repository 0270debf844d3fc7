"""The shapes of a proof: the corners of the profile and one odd shape, each once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convkit import Dim
from convkit.proof import Case, shape_cases


def odd_size(dim: Dim) -> int:
    """Return the size that the odd case of one dimension has."""
    (odd,) = (case for case in shape_cases((dim,)) if "odd" in case.name.split("="))
    return odd.table[dim.name]


@st.composite
def dimensions(draw: st.DrawFn, name: str = "batch") -> Dim:
    step = draw(st.integers(1, 32))
    low, opt, high = sorted(draw(st.lists(st.integers(1, 40), min_size=3, max_size=3)))
    return Dim(name, low * step, opt * step, high * step, step)


@given(dimensions(), dimensions("height"), dimensions("width"))
def test_every_corner_is_proved_once_and_every_size_is_allowed(batch, height, width):
    dims = (batch, height, width)
    cases = shape_cases(dims)
    sizes = [case.table for case in cases]
    assert len({tuple(table.items()) for table in sizes}) == len(cases)
    for corner in ("min", "opt", "max"):
        assert {dim.name: getattr(dim, corner) for dim in dims} in sizes
    for table in sizes:
        for dim in dims:
            assert dim.min <= table[dim.name] <= dim.max
            assert table[dim.name] % dim.multiple_of == 0
    words = [word for case in cases for word in case.name.split("=")]
    assert sorted(words) == ["max", "min", "odd", "opt"]


@given(dimensions())
def test_the_odd_size_is_none_of_the_corners_where_there_is_another(dim):
    odd = odd_size(dim)
    inside = set(range(dim.min, dim.max + 1, dim.multiple_of)) - {dim.min, dim.opt, dim.max}
    assert odd in inside if inside else odd == dim.opt


@pytest.mark.parametrize(
    ("dim", "size"),
    [
        (Dim("batch", 1, 1, 8), 3),
        (Dim("batch", 1, 4, 32), 3),
        (Dim("height", 256, 512, 768, 32), 544),
        (Dim("batch", 1, 1, 2), 1),
        (Dim.fixed("height", 512), 512),
        (Dim("batch", 8, 9, 11), 10),
    ],
)
def test_the_odd_size_is_a_prime_number_of_steps_where_there_is_one(dim, size):
    assert odd_size(dim) == size


def test_a_static_model_has_one_case_that_is_all_of_them():
    (case,) = shape_cases((Dim.fixed("batch", 1), Dim.fixed("height", 64)))
    assert case.name == "min=opt=max=odd"
    assert str(case) == "min=opt=max=odd (batch 1, height 64)"


def test_a_case_says_which_sizes_vary():
    cases = shape_cases((Dim("batch", 1, 1, 4), Dim.fixed("height", 64)))
    assert [str(case) for case in cases] == ["min=opt (batch 1)", "max (batch 4)", "odd (batch 3)"]
    assert [case.batch for case in cases] == [1, 4, 3]
    assert cases[0].item_sizes == (("height", 64),)
    assert cases[1].to_json() == {"name": "max", "sizes": {"batch": 4, "height": 64}}


def test_a_model_without_a_batch_dimension_has_a_batch_of_one():
    assert Case("opt", (("height", 8),)).batch == 1
