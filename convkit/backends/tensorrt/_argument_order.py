"""A tiny ahead-of-time plugin of full TensorRT that writes back its arguments: in which order do they arrive?

TensorRT passes the pointers of inputs, then integers, then the pointers of outputs. A wrong order is no error: it gives
wrong numbers. Nothing but an engine that runs can show it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import GenericAlias
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit.cuda import Argument, Kernel, LaunchConfig, cdiv, check_signature, compile_variant

if TYPE_CHECKING:
    import onnx

__all__ = ["argument_order_faults", "argument_order_inputs", "argument_order_model", "register_argument_order"]

NAMESPACE, NAME = "convkit_doctor", "ArgumentOrder"
SEVEN = 7
THREADS = 128
TARGET = "compute_75"
"""Every GPU that full TensorRT knows compiles the code of this one."""
KERNEL = Kernel(
    name="convkit_argument_order",
    source=Path(__file__).with_name("kernels") / "argument_order.cu",
    arguments=(
        Argument("first", "float32"),
        Argument("second", "float32"),
        Argument("seven", "int32", pointer=False),
        Argument("count", "int32", pointer=False),
        Argument("triple", "int32", pointer=False),
        Argument("numbers", "float32", output=True),
        Argument("copy", "float32", output=True),
    ),
    sizes=("count",),
    launch_config=lambda count: LaunchConfig((cdiv(count, THREADS), 1, 1), (THREADS, 1, 1)),
)


def register_argument_order(api: Any, failures: list[str]) -> list[object]:
    """Register the plugin; see `TensorRTPlugin.register`.

    Raises:
        KernelError: its code is not that of the arguments declared here.
        EnvironmentProblem: NVRTC is missing.
    """
    trtp: Any = importlib.import_module(f"{api.__name__}.plugin")
    variant = KERNEL.variant()
    image = compile_variant(variant, TARGET, "ptx")
    check_signature(image, variant)

    def describe(first: Any, second: Any) -> Any:
        return first.like(), second.like()

    def kernel(first: Any, second: Any, outputs: Any, tactic: int) -> Any:
        count = first.shape_expr[0]
        launch, extra = trtp.KernelLaunchParams(), trtp.SymIntExprs(3)
        try:
            launch.grid_x, launch.block_x = trtp.cdiv(count, THREADS), THREADS
            for index, value in enumerate((SEVEN, count, count * 3)):
                extra[index] = trtp.SymInt32(value)
        except Exception as error:
            failures.append(f"{NAME}: {type(error).__name__}: {error}")
            raise
        return KERNEL.name, image.text, launch, extra

    # The bindings read annotations as types, which this module's annotations are not.
    two = GenericAlias(tuple, (trtp.TensorDesc, trtp.TensorDesc))
    text = str | bytes
    answer = GenericAlias(tuple, (text, text, trtp.KernelLaunchParams, trtp.SymIntExprs))
    inputs = {"first": trtp.TensorDesc, "second": trtp.TensorDesc}
    describe.__annotations__ = {**inputs, "return": two}
    kernel.__annotations__ = {**inputs, "outputs": two, "tactic": int, "return": answer}
    identifier = f"{NAMESPACE}::{NAME}"
    return [trtp.register(identifier)(describe), trtp.aot_impl(identifier)(kernel)]


def argument_order_model() -> onnx.ModelProto:
    """Return a model of one node that the plugin runs; the length of its tensors varies and is named ``count``."""
    from onnx import TensorProto, helper

    def tensor(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["count"])

    node = helper.make_node(
        NAME, ["first", "second"], ["numbers", "copy"], name="order", domain=NAMESPACE,
        plugin_namespace=NAMESPACE, plugin_version="1", aot=1,
    )  # fmt: skip
    graph = helper.make_graph([node], "order", [tensor("first"), tensor("second")], [tensor("numbers"), tensor("copy")])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(NAMESPACE, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def argument_order_inputs(count: int) -> dict[str, np.ndarray]:
    """Return inputs of ``count`` values, at least 4, which tell the tensors and places apart."""
    steps = np.arange(count, dtype=np.float32)
    return {"first": 1000 + steps, "second": -2000 - steps}


def argument_order_faults(inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> list[str]:
    """Return what the outputs say about wrong arguments, one sentence each; nothing if all arrived as they should."""
    count = len(inputs["first"])
    numbers, copy = outputs["numbers"], outputs["copy"]
    scalars = (("the constant", SEVEN), ("the length", count), ("three times the length", 3 * count))
    faults = [
        f"{what} should be {wanted} and is {found:g}"
        for (what, wanted), found in zip(scalars, numbers, strict=False)
        if found != wanted
    ]
    if not np.array_equal(numbers[3:], inputs["first"][3:]):
        faults.append("the first output does not have the values of the first input")
    if not np.array_equal(copy, inputs["second"]):
        faults.append("the second output does not have the values of the second input")
    return faults
