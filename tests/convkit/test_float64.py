"""Convolutions of float64 in strips: PyTorch's own results, a few rows at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from convkit._float64 import in_strips


class Rows(TorchFunctionMode):
    """Notes how many rows each convolution reads."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d:
            self.seen.append(args[0].shape[2])
        return func(*args, **(kwargs or {}))


def compared(shape: tuple[int, ...], filters: tuple[int, ...], bias: bool = True, **settings: Any) -> list[int]:
    """Compare a convolution in strips with the same as one sum of products; return the rows of each strip."""
    torch.manual_seed(0)
    x, weight = (torch.randn(size, dtype=torch.float64) for size in (shape, filters))
    offset = torch.randn(filters[0], dtype=torch.float64) if bias else None
    with torch.no_grad(), Rows() as rows:
        with in_strips():
            found = F.conv2d(x, weight, offset, **settings)
        count = len(rows.seen)
        expected = F.conv2d(x, weight, offset, **settings)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    return rows.seen[:count]


@pytest.mark.parametrize(
    ("shape", "filters", "settings"),
    [
        ((1, 16, 160, 96), (8, 16, 3, 3), {"padding": 1}),
        ((2, 16, 161, 97), (8, 16, 3, 3), {"padding": (1, 2), "stride": (2, 1)}),
        ((1, 16, 170, 96), (8, 16, 3, 5), {"padding": (4, 0), "dilation": (3, 1), "bias": False}),
        ((1, 16, 150, 128), (8, 4, 5, 3), {"padding": 2, "groups": 4}),
        ((1, 3, 256, 256), (4, 3, 7, 7), {"padding": 3, "stride": 2}),
        ((1, 32, 400, 120), (3, 32, 3, 3), {"stride": 3}),
        ((1, 8, 60, 200), (3, 8, 2, 3), {"padding": (40, 1)}),
        ((1, 16, 160, 96), (8, 16, 3, 3), {"stride": np.int64(1), "padding": [1]}),
    ],
)
def test_strips_give_what_the_whole_gives(shape, filters, settings):
    rows = compared(shape, filters, **settings)
    assert len(rows) > 1
    assert max(rows) < shape[2]


@pytest.mark.parametrize(
    ("shape", "filters", "settings"),
    [
        ((1, 16, 160, 96), (8, 16, 1, 1), {}),
        ((1, 8, 20, 20), (3, 8, 3, 3), {"padding": 1}),
        ((16, 160, 96), (8, 16, 3, 3), {"padding": 1}),
        ((1, 16, 160, 96), (8, 16, 3, 3), {"padding": "same"}),
    ],
)
def test_what_is_small_or_unusual_is_left_whole(shape, filters, settings):
    assert len(compared(shape, filters, **settings)) == 1


def test_other_types_and_gradients_are_left_alone():
    x, weight = torch.randn(1, 16, 160, 96), torch.randn(8, 16, 3, 3)
    with Rows() as rows, in_strips():
        F.conv2d(x, weight)
        exact = weight.double().requires_grad_()
        F.conv2d(x.double(), exact).sum().backward()
    assert rows.seen == [160, 160]
    assert exact.grad is not None


def test_a_convolution_that_cannot_be_says_so():
    with torch.no_grad(), in_strips(), pytest.raises(RuntimeError, match="channels"):
        F.conv2d(torch.zeros(1, 16, 160, 96).double(), torch.zeros(8, 15, 3, 3).double())
