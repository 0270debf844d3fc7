"""Plain JSON: which part of a value is none, and what to write instead."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convkit.model import json_fault

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(plain)
def test_nothing_is_wrong_with_what_json_keeps(value):
    assert json_fault(value, "x") is None
    assert json_fault((value, [value]), "x") is None


@pytest.mark.parametrize(
    ("value", "fact", "remedy"),
    [
        (np.zeros(2), "x is a numpy.ndarray, which is no JSON", ".tolist()"),
        (torch.zeros(2), "x is a torch.Tensor, which is no JSON", ".tolist()"),
        ({"a": [1, {"b": np.float32(1)}]}, "x['a'][1]['b'] is a numpy.float32, which is no JSON", ".item()"),
        ({"a": np.int64(1)}, "x['a'] is a numpy.int64, which is no JSON", ".item()"),
        ({"a": {1, 2}}, "x['a'] is a set, which is no JSON", "sorted(...)"),
        ([Path("a")], f"x[0] is a pathlib.{type(Path()).__name__}, which is no JSON", "str(...)"),
        ({"a": object()}, "x['a'] is a object, which is no JSON", "numbers, texts, lists and dicts"),
        ({"a": float("nan")}, "x['a'] is nan", "finite"),
        ([float("-inf")], "x[0] is -inf", "finite"),
        ({"a": {3: 1}}, "x['a'] has the key 3, a int", "str(...)"),
    ],
)
def test_the_part_that_is_no_json_is_named_with_what_to_write_instead(value, fact, remedy):
    found = json_fault(value, "x")
    assert found is not None
    assert found[0] == fact
    assert remedy in found[1]
    with pytest.raises((TypeError, ValueError)):
        json.dumps(value, allow_nan=False) if "key" not in fact else (_ for _ in ()).throw(TypeError)
