"""In which order do the arguments of a plugin's kernel arrive? A model whose outputs tell, and how to read them.

Full TensorRT passes the pointers of inputs, then integers, then the pointers of outputs. A wrong order is no error: it
gives wrong numbers. Nothing but an engine that runs can show it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

__all__ = ["NAME", "NAMESPACE", "SEVEN", "argument_order_faults", "argument_order_inputs", "argument_order_model"]

NAMESPACE, NAME = "convkit_doctor", "ArgumentOrder"
SEVEN = 7
"""The constant among the integers; the others are the length of the tensors and three times that."""


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
