"""Operators that work value by value, along an axis, or on matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from convkit.backends.torch._node import Builder, Function, Key, TorchNode, operator

__all__ = ["ELEMENTWISE"]

ELEMENTWISE: dict[Key, Builder] = {}

_PLAIN: dict[str, Function] = {
    "Abs": torch.abs, "Acos": torch.acos, "Add": torch.add, "And": torch.logical_and, "Asin": torch.asin,
    "Atan": torch.atan, "Ceil": torch.ceil, "Cos": torch.cos, "Equal": torch.eq, "Erf": torch.erf, "Exp": torch.exp,
    "Floor": torch.floor, "Greater": torch.gt, "GreaterOrEqual": torch.ge, "HardSwish": F.hardswish,
    "Identity": lambda x: x, "IsInf": torch.isinf, "IsNaN": torch.isnan, "Less": torch.lt, "LessOrEqual": torch.le,
    "Log": torch.log, "Mish": F.mish, "Mul": torch.mul, "Neg": torch.neg, "Not": torch.logical_not,
    "Or": torch.logical_or, "Reciprocal": torch.reciprocal, "Relu": torch.relu, "Round": torch.round,
    "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin, "Softplus": F.softplus, "Softsign": F.softsign,
    "Sqrt": torch.sqrt, "Sub": torch.sub, "Tan": torch.tan, "Tanh": torch.tanh, "Where": torch.where,
    "Xor": torch.logical_xor, "MatMul": torch.matmul,
}  # fmt: skip
"""Operators that PyTorch has under the same definition."""


def _enter_plain(name: str, function: Function) -> None:
    operator(ELEMENTWISE, name)(lambda node: function)


for _name, _function in _PLAIN.items():
    _enter_plain(_name, _function)


@operator(ELEMENTWISE, "Div")
def _div(node: TorchNode) -> Function:
    def divide(a: Tensor, b: Tensor) -> Tensor:
        return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")

    return divide


@operator(ELEMENTWISE, "Mod")
def _mod(node: TorchNode) -> Function:
    return torch.fmod if node.attributes.get("fmod", 0) else torch.remainder


@operator(ELEMENTWISE, "Pow")
def _pow(node: TorchNode) -> Function:
    return lambda base, exponent: torch.pow(base, exponent).to(base.dtype)


@operator(ELEMENTWISE, "Max", "Min", "Sum", "Mean")
def _variadic(node: TorchNode) -> Function:
    two: Callable[..., Any] = {"Max": torch.maximum, "Min": torch.minimum}.get(node.op_type, torch.add)
    if node.op_type == "Mean":
        return lambda *values: reduce(two, values) / len(values)
    return lambda *values: reduce(two, values)


@operator(ELEMENTWISE, "Clip")
def _clip(node: TorchNode) -> Function:
    low, high = node.attributes.get("min"), node.attributes.get("max")
    bounds = [node.constant(position) for position in (1, 2)]
    if not node.has(1) and not node.has(2):
        return lambda x: x if low is None and high is None else x.clamp(low, high)
    if all(bound is not None or not node.has(position) for position, bound in enumerate(bounds, 1)):
        least, most = (None if bound is None else bound.item() for bound in bounds)
        return lambda x, *_: x.clamp(least, most)

    def clip(x: Tensor, least: Tensor | None, most: Tensor | None = None) -> Tensor:
        x = x if least is None else torch.maximum(x, least)
        return x if most is None else torch.minimum(x, most)

    return clip


@operator(
    ELEMENTWISE,
    "LeakyRelu",
    "Elu",
    "Selu",
    "Celu",
    "HardSigmoid",
    "ThresholdedRelu",
    "Gelu",
    "PRelu",
)
def _activation(node: TorchNode) -> Function:
    alpha = float(node.attributes.get("alpha", {"LeakyRelu": 0.01, "HardSigmoid": 0.2}.get(node.op_type, 1.0)))
    if node.op_type == "LeakyRelu":
        return lambda x: F.leaky_relu(x, alpha)
    if node.op_type == "Elu":
        return lambda x: F.elu(x, alpha)
    if node.op_type == "Celu":
        return lambda x: F.celu(x, alpha)
    if node.op_type == "ThresholdedRelu":
        return lambda x: torch.where(x > alpha, x, 0)
    if node.op_type == "PRelu":
        return lambda x, slope: torch.where(x < 0, x * slope, x)
    if node.op_type == "HardSigmoid":
        beta = float(node.attributes.get("beta", 0.5))
        return lambda x: (alpha * x + beta).clamp(0, 1)
    if node.op_type == "Gelu":
        approximate = str(node.attributes.get("approximate", "none"))
        return lambda x: F.gelu(x, approximate=approximate)
    scale = float(node.attributes.get("gamma", 1.0507009873554805))
    alpha = float(node.attributes.get("alpha", 1.6732632423543772))
    return lambda x: scale * (x.clamp_min(0) + alpha * (x.clamp_max(0).exp() - 1))


@operator(ELEMENTWISE, "Dropout")
def _dropout(node: TorchNode) -> Function:
    return lambda x, *_: x


@operator(ELEMENTWISE, "Softmax", "LogSoftmax")
def _softmax(node: TorchNode) -> Function:
    function = torch.softmax if node.op_type == "Softmax" else torch.log_softmax
    axis = node.attributes.get("axis", -1 if node.opset >= 13 else 1)
    if node.opset >= 13:
        return lambda x: function(x, axis)

    def flattened(x: Tensor) -> Tensor:
        return function(x.reshape(*x.shape[:axis], -1), -1).reshape(x.shape)

    return flattened if axis >= 0 else lambda x: function(x.flatten(x.dim() + axis), -1).reshape(x.shape)


_REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keep),
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keep, dtype=x.dtype),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keep),
    "ReduceProd": lambda x, axes, keep: _product(x, axes, keep),
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keep, dtype=x.dtype),
    "ReduceL2": lambda x, axes, keep: x.square().sum(axes, keep).sqrt(),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keep, dtype=x.dtype),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, axes, keep),
}


def _product(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    for axis in axes:
        x = x.prod(axis, keepdim=True, dtype=x.dtype)
    return x if keep else x.squeeze(tuple(axes))


@operator(ELEMENTWISE, *_REDUCTIONS, host=(1,))
def _reduce(node: TorchNode) -> Function:
    function, keep = _REDUCTIONS[node.op_type], bool(node.attributes.get("keepdims", 1))
    given, skip = node.integers(1, "axes"), bool(node.attributes.get("noop_with_empty_axes", 0))

    def run(x: Tensor, axes: Tensor | None = None) -> Tensor:
        listed = given if given is not None else axes.tolist() if axes is not None else []
        if not listed and skip:
            return x
        return function(x, listed or list(range(x.dim())), keep)

    return run


@operator(ELEMENTWISE, "ArgMax", "ArgMin")
def _arg(node: TorchNode) -> Function:
    function = torch.argmax if node.op_type == "ArgMax" else torch.argmin
    axis, keep = node.attributes.get("axis", 0), bool(node.attributes.get("keepdims", 1))
    if not node.attributes.get("select_last_index", 0):
        return lambda x: function(x, axis, keep)
    return lambda x: x.shape[axis] - 1 - function(x.flip(axis), axis, keep)


@operator(ELEMENTWISE, "CumSum", host=(1,))
def _cumsum(node: TorchNode) -> Function:
    exclusive, reverse = node.attributes.get("exclusive", 0), node.attributes.get("reverse", 0)

    def run(x: Tensor, axis: Tensor) -> Tensor:
        along = int(axis.item())
        turned = x.flip(along) if reverse else x
        total = turned.cumsum(along, dtype=x.dtype)
        total = total - turned if exclusive else total
        return total.flip(along) if reverse else total

    return run


@operator(ELEMENTWISE, "Gemm")
def _gemm(node: TorchNode) -> Function:
    alpha, beta = float(node.attributes.get("alpha", 1.0)), float(node.attributes.get("beta", 1.0))
    turn_a, turn_b = node.attributes.get("transA", 0), node.attributes.get("transB", 0)

    def gemm(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a, b = a.t() if turn_a else a, b.t() if turn_b else b
        return alpha * (a @ b) if c is None else torch.addmm(c, a, b, beta=beta, alpha=alpha)

    return gemm


@operator(ELEMENTWISE, "Einsum")
def _einsum(node: TorchNode) -> Function:
    equation = node.attributes["equation"]
    return lambda *values: torch.einsum(equation, *values)


@operator(ELEMENTWISE, "TopK", host=(1,))
def _topk(node: TorchNode) -> Function:
    axis, largest = node.attributes.get("axis", -1), bool(node.attributes.get("largest", 1))

    def run(x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        indices = _best(x.movedim(axis, -1), int(k.item()), largest).movedim(-1, axis)
        return x.gather(axis, indices), indices

    return run


def _best(x: Tensor, count: int, largest: bool) -> Tensor:
    """Return the indices of the best values along the last axis; of equal ones the lower index comes first.

    That is ONNX's rule; torch.topk has none. Types of up to 32 bits become integers in the same order,
    and the index goes into the bits below, so that no two keys are equal.
    """
    if x.dtype in (torch.float64, torch.int64):
        order: Tensor = torch.sort(x, stable=True, dim=-1, descending=largest).indices
        return order[..., :count]
    ranks = x.long() if not x.is_floating_point() else _ordered(x.float())
    places = torch.arange(x.shape[-1], device=x.device)
    keys = (ranks if largest else -ranks) * (1 << 32) - places
    best: Tensor = keys.topk(count, -1).indices
    return best


def _ordered(x: Tensor) -> Tensor:
    """Return float32 as integers of the same order; both zeros are 0."""
    bits = x.view(torch.int32).long()
    return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
