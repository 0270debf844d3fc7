"""The faults in outputs, which the kit plants too: each changes what it says, where there is something to change."""

from __future__ import annotations

import numpy as np
import pytest

from convkit import TensorSpec
from convkit.self_test import OUTPUT_FAULTS, OutputFault, changes_nothing, plant_output
from convkit.testing import FAULTS

FAULT = {fault.name: fault for fault in OUTPUT_FAULTS}
VALUES = TensorSpec("logits", ("batch", 3))
ROWS = TensorSpec("boxes", ("batch", 2, 6), compare="results")
VALUE = np.array([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]], np.float32)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("channels moved", [[3, 1, -2], [-6, 4, 5]]),
        ("negated", [[-1, 2, -3], [-4, -5, 6]]),
        ("scaled by 1.001", [[1.001, -2.002, 3.003], [4.004, 5.005, -6.006]]),
        ("clamped", [[1, -2, 3], [3.9, 3.9, -6]]),
        ("in half precision", [[1, -2, 3], [4, 5, -6]]),
        ("not a number", [[1, -2, 3], [np.nan, 5, -6]]),
        ("left at zero", [[0, 0, 0], [0, 0, 0]]),
        ("samples mixed up", [[4, 5, -6], [1, -2, 3]]),
    ],
)
def test_fault_is_what_it_says(name: str, expected: list[list[float]]) -> None:
    original = VALUE.copy()
    spoilt = plant_output(FAULT[name], VALUE, VALUES)
    assert spoilt.dtype == np.float32
    np.testing.assert_allclose(spoilt, expected, rtol=1e-6)
    np.testing.assert_array_equal(VALUE, original, err_msg="the fault wrote into the engine's own output")


def test_half_precision_rounds_to_eleven_bits() -> None:
    spoilt = plant_output(FAULT["in half precision"], np.float32([[1 + 2**-12, 1 + 2**-10, 0]]), VALUES)
    np.testing.assert_array_equal(spoilt, [[1, 1 + 2**-10, 0]])


def test_channels_of_detections_are_columns() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(1, 2, 6)
    spoilt = plant_output(FAULT["channels moved"], rows, ROWS)
    np.testing.assert_array_equal(spoilt[0, 0], [5, 0, 1, 2, 3, 4])


@pytest.mark.parametrize("fault", OUTPUT_FAULTS, ids=lambda fault: fault.name)
def test_fault_changes_a_tensor_of_many(fault: OutputFault) -> None:
    assert not changes_nothing(fault, VALUES, (2, 3))


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("channels moved", (4, 1), "float32"),
        ("samples mixed up", (1, 4), "float32"),
        ("clamped", (1, 1), "float32"),
        ("in half precision", (2, 3), "int64"),
        ("scaled by 1.001", (2, 3), "int64"),
    ],
)
def test_fault_that_cannot_change_anything_is_known(name: str, shape: tuple[int, ...], dtype: str) -> None:
    assert changes_nothing(FAULT[name], TensorSpec("x", shape, dtype), shape)


def test_integers_are_spoilt_too() -> None:
    spoilt = plant_output(FAULT["not a number"], np.array([[1, 2, 3]]), TensorSpec("ids", ("batch", 3), "int64"))
    assert spoilt.dtype == np.int64
    assert (spoilt != [[1, 2, 3]]).sum() == 1


def test_the_kit_plants_the_same_faults() -> None:
    assert FAULTS is OUTPUT_FAULTS


@pytest.mark.parametrize("name", FAULT)
def test_outputs_of_bfloat16_are_probed_as_the_host_has_them(name: str) -> None:
    """In float32, for NumPy has no bfloat16."""
    narrow = TensorSpec("y", ("batch", 3), "bfloat16")
    wide = TensorSpec("y", ("batch", 3), "float32")
    assert changes_nothing(FAULT[name], narrow, (2, 3)) == changes_nothing(FAULT[name], wide, (2, 3))
