"""The rewrite ``tensorrt.float32-islands``: float32 around what TensorRT does not build in bfloat16."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from convkit.graph import PRECISION_KEY, NodeRewrite, NoMatch, Phase, annotate

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["Float32Islands"]


class Float32Islands(NodeRewrite):
    """Let an operator compute in float32 where TensorRT-RTX 1.7 takes it in float32 and float16 only.

    Its parser refuses HardSwish and Mish of bfloat16; its builder fails at ConvTranspose.
    """

    name: ClassVar[str] = "tensorrt.float32-islands"
    reason: ClassVar[str] = "TensorRT-RTX does not build the operator in bfloat16"
    phase: ClassVar[Phase] = "target"
    op_types: ClassVar[tuple[str, ...]] = ("ConvTranspose", "HardSwish", "Mish")

    def match(self, graph: gs.Graph, node: gs.Node) -> bool | NoMatch | None:
        """Match nodes of bfloat16."""
        return True if any(_is_bfloat16(tensor) for tensor in (*node.inputs, *node.outputs)) else None

    def rewrite(self, graph: gs.Graph, node: gs.Node, match: bool) -> None:
        """Cast what the node reads to float32, and its result back; what is dequantised for it needs no Cast."""
        import onnx
        import onnx_graphsurgeon as gs

        taken = set(graph.tensors())
        for place, tensor in enumerate(list(node.inputs)):
            if not _is_bfloat16(tensor):
                continue
            name = _unused(f"{tensor.name}.float32", taken)
            if _dequantised_for(tensor, node):
                (maker,) = tensor.inputs
                scale = maker.inputs[1]
                wide_scale = np.asarray(scale.values).astype(np.float32)
                maker.inputs[1] = gs.Constant(_unused(f"{scale.name}.float32", taken), wide_scale)
                tensor.dtype = np.float32
                continue
            if isinstance(tensor, gs.Constant):
                node.inputs[place] = gs.Constant(name, np.asarray(tensor.values).astype(np.float32))
                continue
            node.inputs[place] = gs.Variable(name, np.float32, tensor.shape)
            cast = gs.Node("Cast", f"{name}/Cast", {"to": onnx.TensorProto.FLOAT}, [tensor], [node.inputs[place]])
            graph.nodes.append(cast)
        result = node.outputs[0]
        wide = gs.Variable(_unused(f"{result.name}.float32", taken), np.float32, result.shape)
        node.outputs[0] = wide
        back = {"to": onnx.TensorProto.BFLOAT16}
        graph.nodes.append(gs.Node("Cast", f"{wide.name}/Cast", back, [wide], [result]))
        annotate(node, PRECISION_KEY, self.reason)


def _is_bfloat16(tensor: gs.Tensor) -> bool:
    import ml_dtypes
    import onnx

    return tensor.dtype in (onnx.TensorProto.BFLOAT16, np.dtype(ml_dtypes.bfloat16))


def _dequantised_for(tensor: gs.Tensor, node: gs.Node) -> bool:
    """Return whether a tensor is made of whole numbers by a constant scale, for this node alone."""
    import onnx_graphsurgeon as gs

    if len(tensor.inputs) != 1 or any(reader is not node for reader in tensor.outputs):
        return False
    (maker,) = tensor.inputs
    return maker.op == "DequantizeLinear" and isinstance(maker.inputs[1], gs.Constant)


def _unused(name: str, taken: set[str]) -> str:
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name}.{number}", number + 1
    taken.add(candidate)
    return candidate
