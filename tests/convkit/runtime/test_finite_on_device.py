"""NaN in outputs that stay on the GPU, by the kernel on the host and a device of NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from support.device_pipeline import NumpyDevice, WatchOnHost

from convkit import Artifact
from convkit.errors import NotFiniteError
from convkit.model import TensorSpec
from convkit.runtime import FiniteCheck

BAD = {np.nan: "NaN", -np.nan: "NaN", np.inf: "infinity", -np.inf: "infinity"}
OUTPUTS = (
    TensorSpec("maps", ("batch", 3, 7, 11)),
    TensorSpec("counts", ("batch", 2), "int64"),
    TensorSpec("whole", (5,)),
)


class NothingInfinite(FiniteCheck):
    """A check of a model whose reference has no infinity."""

    def _allowed(self) -> frozenset[str]:
        return frozenset()


def check(outputs: dict[str, np.ndarray], count: int = 3) -> None:
    watch = WatchOnHost(NothingInfinite(Artifact(None, {}), OUTPUTS), OUTPUTS)  # type: ignore[arg-type]
    flags = np.full((3, *watch.flags.shape), 0xA5, np.int32)
    watch.launch(outputs, flags, NumpyDevice.stream)
    watch.refuse(flags[:count])


def arrays(dtype: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"maps": (3, 3, 7, 11), "whole": (5,)}
    largest = np.finfo(dtype).max
    found = {name: (rng.normal(size=shape) * 100).astype(dtype) for name, shape in shapes.items()}
    found["maps"].flat[:2] = largest, -largest
    return {**found, "counts": np.full((3, 2), 2**62)}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("place", [0, 230, 231, 500, 692])
def test_every_place_is_looked_at_and_the_row_is_named(dtype, place):
    outputs = arrays(dtype)
    check(outputs)
    for value, what in BAD.items():
        outputs["maps"].flat[place] = value
        with pytest.raises(NotFiniteError, match=f"{what} in output 'maps'") as caught:
            check(outputs)
        assert caught.value.row == place // 231


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_large_items_of_any_alignment_are_looked_at_to_the_end(dtype):
    size = 3 * 77 * 113
    maps = TensorSpec("maps", ("batch", 3, 77, 113))
    watch = WatchOnHost(NothingInfinite(Artifact(None, {}), [maps]), [maps])  # type: ignore[arg-type]
    for place in (0, 8191, 8192, size - 1, size, 2 * size - 1, 3 * size - 1):
        value = np.zeros((3, 3, 77, 113), dtype)
        value.flat[place] = np.inf
        flags = np.full((3, *watch.flags.shape), 0xA5, np.int32)
        watch.launch({"maps": value}, flags, NumpyDevice.stream)
        with pytest.raises(NotFiniteError, match="infinity") as caught:
            watch.refuse(flags)
        assert caught.value.row == place // size


def test_an_output_without_batch_axis_is_looked_at_once():
    outputs = arrays("float32")
    outputs["whole"][4] = np.nan
    with pytest.raises(NotFiniteError, match="'whole'"):
        check(outputs)


def test_rows_of_padding_do_not_matter():
    outputs = arrays("float32")
    outputs["maps"][2] = np.nan
    check(outputs, count=2)
    with pytest.raises(NotFiniteError):
        check(outputs, count=3)
