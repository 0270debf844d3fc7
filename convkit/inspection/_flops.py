"""The arithmetic of a graph: floating-point operations of its sums of products.

A multiplication and an addition count as two operations, as in the literature. Counted are the
operators whose work is sums of products::

    Conv           2 * |output| * (C / group) * kernel area
    ConvTranspose  2 * |input|  * (O / group) * kernel area
    Gemm, MatMul   2 * |output| * length of the summed axis
    DeformConv     as Conv, and for every sampled value (output position x tap x input channel)
                   4 products and 3 sums of the bilinear interpolation, and 1 product with the mask
                   where there is one; sampling positions and corner weights, which all channels of
                   an offset group share, are left out

and their integer forms. Taps on padding count; biases do not, nor does anything that
works element by element (activations, pooling, normalisation, resampling, moving data): such
operators are bound by memory rather than by arithmetic. Operators that may contain sums of products
but have no formula here (recurrent cells, control flow, other domains …) are reported, not guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["Shapes", "has_formula", "is_opaque", "node_flops"]

Shapes = Mapping[str, tuple[int, ...]]
"""Fully known shapes by tensor name."""

_OPAQUE = {"Attention", "Einsum", "GRU", "If", "LSTM", "Loop", "RNN", "Scan", "DFT", "STFT"}


def node_flops(node: onnx.NodeProto, shapes: Shapes) -> int | None:
    """Return the operations of a node that `has_formula`, or None where a shape is unknown."""
    try:
        return _FORMULAS[node.op_type](node, shapes)
    except (KeyError, IndexError):
        return None


def has_formula(node: onnx.NodeProto) -> bool:
    """Return whether the node's work is counted."""
    return node.domain in ("", "ai.onnx") and node.op_type in _FORMULAS


def is_opaque(node: onnx.NodeProto) -> bool:
    """Return whether the node may contain sums of products that cannot be counted."""
    return node.domain not in ("", "ai.onnx") or node.op_type in _OPAQUE


def _conv(node: onnx.NodeProto, shapes: Shapes, weight: int = 1) -> int:
    return 2 * prod(shapes[node.output[0]]) * prod(shapes[node.input[weight]][1:])


def _conv_transpose(node: onnx.NodeProto, shapes: Shapes) -> int:
    return 2 * prod(shapes[node.input[0]]) * prod(shapes[node.input[1]][1:])


def _deform_conv(node: onnx.NodeProto, shapes: Shapes) -> int:
    output, weight, channels = shapes[node.output[0]], shapes[node.input[1]], shapes[node.input[0]][1]
    samples = output[0] * prod(output[2:]) * prod(weight[2:]) * channels
    masked = len(node.input) > 4 and bool(node.input[4])
    return _conv(node, shapes) + samples * (8 if masked else 7)


def _gemm(node: onnx.NodeProto, shapes: Shapes) -> int:
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    summed = shapes[node.input[0]][0 if transposed else 1]
    return 2 * prod(shapes[node.output[0]]) * summed


def _matmul(node: onnx.NodeProto, shapes: Shapes) -> int:
    return 2 * prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


_FORMULAS: dict[str, Callable[[onnx.NodeProto, Shapes], int]] = {
    "Conv": _conv,
    "ConvInteger": _conv,
    "ConvTranspose": _conv_transpose,
    "DeformConv": _deform_conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearConv": lambda node, shapes: _conv(node, shapes, weight=3),
    "QLinearMatMul": _matmul,
}
