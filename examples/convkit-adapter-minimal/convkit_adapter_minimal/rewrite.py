"""The graph rewrite: ``x * clip(x + 3, 0, 6) / 6`` becomes one HardSwish."""

from __future__ import annotations

from typing import ClassVar

import onnx_graphsurgeon as gs

from convkit import NodeRewrite, NoMatch

__all__ = ["FuseHardSwish"]


class FuseHardSwish(NodeRewrite):
    """Replace the four nodes of a spelled-out hard-swish by the ONNX operator (opset 14 and later)."""

    name: ClassVar[str] = "minimal.hard-swish"
    reason: ClassVar[str] = "one kernel reads and writes the tensor once where four nodes did it four times"
    op_types: ClassVar[tuple[str, ...]] = ("Div",)

    def match(self, graph: gs.Graph, node: gs.Node) -> gs.Tensor | NoMatch | None:
        """Return ``x``. A division of anything but a product with a Clip is no candidate at all."""
        product, divisor = node.inputs
        multiply = _producer(product, "Mul")
        clips = [_producer(factor, "Clip") for factor in multiply.inputs] if multiply else []
        clip = next(filter(None, clips), None)
        if multiply is None or clip is None:
            return None
        if _scalar(divisor) != 6:
            return NoMatch(f"it divides by {_scalar(divisor)}, not by 6")
        bounds = [_scalar(bound) for bound in clip.inputs[1:]]
        if bounds != [0, 6]:
            return NoMatch(f"{clip.name} has the bounds {bounds}, not [0, 6]")
        x = _other(multiply.inputs, clip.outputs[0])
        add = _producer(clip.inputs[0], "Add")
        if add is None or not any(tensor is x for tensor in add.inputs):
            return NoMatch(f"{clip.name} does not clip the other factor plus a constant")
        if _scalar(_other(add.inputs, x)) != 3:
            return NoMatch(f"{add.name} adds {_scalar(_other(add.inputs, x))}, not 3")
        for inner in (add, clip, multiply):
            result = inner.outputs[0]
            if len(result.outputs) != 1 or any(result is output for output in graph.outputs):
                return NoMatch(f"the result of {inner.name} is used elsewhere, too")
        return x

    def rewrite(self, graph: gs.Graph, node: gs.Node, match: gs.Tensor) -> None:
        """Turn the division into the HardSwish; the other three nodes are then of no use and go."""
        node.op, node.inputs = "HardSwish", [match]
        node.name = node.name.replace("/Div", "/HardSwish")


def _producer(tensor: gs.Tensor, op: str) -> gs.Node | None:
    """Return the node that computes ``tensor`` if it is of this type."""
    return tensor.inputs[0] if tensor.inputs and tensor.inputs[0].op == op else None


def _other(pair: list[gs.Tensor], tensor: gs.Tensor | None) -> gs.Tensor | None:
    """Return the one of two tensors that is not ``tensor``."""
    return next((candidate for candidate in pair if candidate is not tensor), None)


def _scalar(tensor: gs.Tensor | None) -> float | None:
    """Return the value of a constant with one element."""
    return tensor.values.item() if isinstance(tensor, gs.Constant) and tensor.values.size == 1 else None
