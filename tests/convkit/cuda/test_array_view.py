"""Views of arrays of any library: shape, strides, dtype, address, device, and what they check."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from convkit.cuda import ArrayView
from convkit.errors import KernelArgumentError


class Array:
    """An array of some library, whose memory lies on the host."""

    def __init__(self, array: np.ndarray, device: int = 0) -> None:
        self.array, self.device = array, SimpleNamespace(id=device)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.array.__array_interface__


def view(array: np.ndarray) -> ArrayView:
    return ArrayView.of("x", Array(array))


def test_dense_and_strided_arrays() -> None:
    array = np.zeros((2, 3, 4, 5), np.float16)
    assert view(array) == ArrayView((2, 3, 4, 5), (60, 20, 5, 1), "float16", array.ctypes.data, 0)
    part = array[:, ::2, 1:, ::-2]
    assert view(part) == ArrayView((2, 2, 3, 3), (60, 40, 5, -2), "float16", part.ctypes.data, 0)
    assert ArrayView.of("x", Array(array, 3)).device == 3


def test_the_driver_knows_the_device_of_an_array_that_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = pytest.importorskip("cupy")
    monkeypatch.setattr(cupy.cuda.runtime, "pointerGetAttributes", lambda address: SimpleNamespace(device=5))
    array = Array(np.zeros(3, np.int32))
    del array.device
    assert ArrayView.of("x", array).device == 5


def test_tensors_of_the_host_and_other_values_are_refused() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(KernelArgumentError, match="'maps' is in host memory, not on a GPU"):
        ArrayView.of("maps", torch.zeros(3))
    for value in (np.zeros(3), [1], None, 16):
        with pytest.raises(KernelArgumentError, match=f"'maps' is a {type(value).__name__}: no cupy array"):
            ArrayView.of("maps", value)


def test_a_view_is_its_own_view() -> None:
    first = view(np.zeros((2, 3), np.float32))
    assert ArrayView.of("x", first) is first


@pytest.mark.parametrize(
    ("shape", "axes", "contiguous", "last"),
    [
        ((2, 3, 4, 5), (0, 1, 2, 3), True, False),
        ((2, 4, 5, 3), (0, 3, 1, 2), False, True),
        ((2, 5, 3), (0, 2, 1), False, True),
        ((2, 4, 5, 6, 3), (0, 4, 1, 2, 3), False, True),
        ((2, 5, 4, 3), (0, 3, 2, 1), False, False),
        ((4, 5, 3, 2), (3, 2, 0, 1), False, False),
        ((2, 1, 4, 5), (0, 1, 2, 3), True, True),
        ((2, 1, 1, 3), (0, 3, 1, 2), True, True),
        ((3, 4), (0, 1), True, False),
        ((3, 4), (1, 0), False, False),
        ((7,), (0,), True, False),
    ],
)
def test_layouts_of_transposed_arrays(
    shape: tuple[int, ...], axes: tuple[int, ...], contiguous: bool, last: bool
) -> None:
    found = view(np.zeros(shape, np.float32).transpose(axes))
    assert (found.contiguous, found.channels_last) == (contiguous, last)
    if not contiguous:
        with pytest.raises(KernelArgumentError, match=r"'x' of shape \[.*\] has the strides \[") as caught:
            found.check_contiguous("x")
        assert caught.value.hint == "Make it contiguous."
    if not (contiguous or last):
        with pytest.raises(KernelArgumentError, match="has the strides"):
            found.check_dense("x")
    else:
        found.check_dense("x")


def test_gaps_are_neither_layout() -> None:
    for part in (np.zeros((2, 3, 4, 6))[..., :5], np.zeros((2, 4, 5, 4))[..., :3].transpose(0, 3, 1, 2)):
        assert not view(part).contiguous
        assert not view(part).channels_last


def test_strides_of_single_entries_do_not_matter() -> None:
    one = ArrayView((1, 3, 1, 5), (7, 5, 99, 1), "float32")
    assert one.contiguous
    assert [one.step(axis) for axis in range(4)] == [0, 5, 0, 1]
    assert one.extent() == 2 * 5 + 4
    assert one.extent(2) == 4


def test_shapes_are_compared() -> None:
    found = view(np.zeros((2, 3), np.float32))
    found.check_contiguous("rows", (2, 3))
    with pytest.raises(KernelArgumentError, match=r"'rows' has the shape \[2, 3\]; expected \[3, 2\]"):
        found.check_contiguous("rows", (3, 2))
