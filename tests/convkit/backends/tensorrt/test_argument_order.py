"""The probe of the argument order: NVIDIA's bindings take its plugin, its kernel tells every wrong order."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from support.tensorrt_bindings import VERSIONS, Unavailable
from support.tensorrt_drive import Input, Job, drive

from convkit.backends.tensorrt import argument_order_faults, argument_order_inputs, argument_order_model
from convkit.backends.tensorrt._argument_order_plugin import KERNEL, register_argument_order
from convkit.cuda import LaunchConfig
from convkit.errors import ConvkitError
from convkit.testing.cuda_host import run_on_host

SETUP = """
import tensorrt_bindings
from convkit.backends.tensorrt import register_argument_order
ALIVE = register_argument_order(tensorrt_bindings, [])
"""
COUNT = 300


def kernel_outputs(inputs: dict[str, np.ndarray], scalars: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Run the kernel on the CPU, with memory behind each array for a wrong length."""
    room = [np.pad(value, (0, 2 * COUNT)) for value in inputs.values()]
    numbers, copy = (np.full(3 * COUNT, np.nan, np.float32) for _ in range(2))
    run_on_host(KERNEL.variant(), LaunchConfig((8, 1, 1), (128, 1, 1)), [*room, *scalars, numbers, copy])
    return {"numbers": numbers[:COUNT], "copy": copy[:COUNT]}


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_the_plugin_is_taken_and_launched_as_declared(version: str):
    model = argument_order_model()
    onnx.checker.check_model(model)
    length = Input("FLOAT", (-1,), (5,), (100,), (1000,))
    try:
        answer = drive(version, Job.of_node(SETUP, model.graph.node[0], [length, length]))
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert answer["problems"] == []
    (variant,) = answer["variants"]
    assert variant["kernel"] == KERNEL.name
    assert variant["ptx"]["parameters"] == ["u64", "u64", "u32", "u32", "u32", "u64", "u64"]
    assert variant["ptx"]["target"] == "sm_75"
    assert variant["extras"] == [[7, 5, 15], [7, 100, 300], [7, 1000, 3000]]
    for launch, count in zip(variant["launches"], (5, 100, 1000), strict=True):
        config = KERNEL.launch_config(count=count)
        assert launch == [*config.grid, *config.block, config.dynamic_smem_bytes]


def test_the_right_order_has_no_faults():
    inputs = argument_order_inputs(COUNT)
    assert argument_order_faults(inputs, kernel_outputs(inputs, (7, COUNT, 3 * COUNT))) == []


@pytest.mark.parametrize("scalars", list(itertools.permutations((7, COUNT, 3 * COUNT)))[1:])
def test_integers_in_another_order_are_found(scalars: tuple[int, int, int]):
    inputs = argument_order_inputs(COUNT)
    assert argument_order_faults(inputs, kernel_outputs(inputs, scalars))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda i, o: o.update(numbers=o["copy"], copy=o["numbers"]), "the second output"),
        (lambda i, o: i.update(first=i["second"], second=i["first"]), "the first output"),
        (lambda i, o: o["numbers"].fill(0), "should be 7 and is 0"),
        (lambda i, o: o["copy"].fill(np.nan), "the second output"),
    ],
)
def test_pointers_in_another_order_and_lost_outputs_are_found(change: Any, fault: str):
    inputs = argument_order_inputs(COUNT)
    outputs = kernel_outputs(inputs, (7, COUNT, 3 * COUNT))
    change(inputs, outputs)
    assert any(fault in text for text in argument_order_faults(inputs, outputs))


def test_bindings_without_plugins_are_an_import_error():
    """TensorRT-RTX has none: the probe is not for it."""
    bindings = pytest.importorskip("tensorrt_rtx_bindings")
    with pytest.raises((ImportError, ConvkitError)):
        register_argument_order(bindings, [])
