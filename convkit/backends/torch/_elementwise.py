"""Operators that work value by value, along an axis, or on matrices."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from convkit.backends.torch._accept import ANY, FLOATS, LOGICAL, NUMBERS, refuse
from convkit.backends.torch._node import Builder, Function, Key, TorchNode, operator

__all__ = ["ELEMENTWISE"]

ELEMENTWISE: dict[Key, Builder] = {}

_ON_FLOATS: dict[str, Function] = {
    "Acos": torch.acos, "Asin": torch.asin, "Atan": torch.atan, "Ceil": torch.ceil, "Cos": torch.cos, "Erf": torch.erf,
    "Exp": torch.exp, "Floor": torch.floor, "HardSwish": F.hardswish, "IsNaN": torch.isnan, "Log": torch.log,
    "Mish": F.mish, "Reciprocal": torch.reciprocal, "Round": torch.round, "Sigmoid": torch.sigmoid, "Sin": torch.sin,
    "Softplus": F.softplus, "Softsign": F.softsign, "Sqrt": torch.sqrt, "Tan": torch.tan, "Tanh": torch.tanh,
}  # fmt: skip
_ON_NUMBERS: dict[str, Function] = {
    "Abs": torch.abs, "Add": torch.add, "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Less": torch.lt,
    "LessOrEqual": torch.le, "MatMul": torch.matmul, "Mul": torch.mul, "Neg": torch.neg, "Relu": torch.relu,
    "Sign": torch.sign, "Sub": torch.sub,
}  # fmt: skip
_LOGICAL: dict[str, Function] = {
    "And": torch.logical_and, "Not": torch.logical_not, "Or": torch.logical_or, "Xor": torch.logical_xor,
}  # fmt: skip
_ON_ANY: dict[str, Function] = {"Equal": torch.eq, "Identity": lambda x: x, "Where": torch.where}
_PLAIN: tuple[tuple[Collection[torch.dtype], dict[str, Function]], ...] = (
    (FLOATS, _ON_FLOATS), (NUMBERS, _ON_NUMBERS), (LOGICAL, _LOGICAL), (ANY, _ON_ANY),
)  # fmt: skip
"""Operators that PyTorch has under the same definition, with the types that both define them for."""


def _enter_plain(name: str, function: Function, types: Collection[torch.dtype]) -> None:
    operator(ELEMENTWISE, name, types=types)(lambda node: function)


for _types, _functions in _PLAIN:
    for _name, _function in _functions.items():
        _enter_plain(_name, _function, _types)


@operator(ELEMENTWISE, "Div", types=NUMBERS)
def _div(node: TorchNode) -> Function:
    def divide(a: Tensor, b: Tensor) -> Tensor:
        return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")

    return divide


@operator(ELEMENTWISE, "Mod", types=NUMBERS)
def _mod(node: TorchNode) -> Function:
    return torch.fmod if node.attributes.get("fmod", 0) else torch.remainder


@operator(ELEMENTWISE, "IsInf", types=FLOATS)
def _is_inf(node: TorchNode) -> Function:
    signs = bool(node.attributes.get("detect_negative", 1)), bool(node.attributes.get("detect_positive", 1))
    functions: dict[tuple[bool, bool], Function] = {
        (True, True): torch.isinf, (True, False): torch.isneginf, (False, True): torch.isposinf,
        (False, False): lambda x: torch.zeros_like(x, dtype=torch.bool),
    }  # fmt: skip
    return functions[signs]


@operator(ELEMENTWISE, "Pow", types=NUMBERS)
def _pow(node: TorchNode) -> Function:
    return lambda base, exponent: torch.pow(base, exponent).to(base.dtype)


@operator(ELEMENTWISE, "Max", "Min", types=NUMBERS)
def _extreme(node: TorchNode) -> Function:
    two: Callable[..., Any] = torch.maximum if node.op_type == "Max" else torch.minimum
    return lambda *values: reduce(two, values)


@operator(ELEMENTWISE, "Sum", "Mean", types=FLOATS)
def _sum(node: TorchNode) -> Function:
    if node.op_type == "Mean":
        return lambda *values: reduce(torch.add, values) / len(values)
    return lambda *values: reduce(torch.add, values)


@operator(ELEMENTWISE, "Clip", types=NUMBERS)
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


_WITH_ALPHA: dict[str, tuple[float, Callable[[Tensor, float], Tensor]]] = {
    "LeakyRelu": (0.01, F.leaky_relu),
    "Elu": (1.0, F.elu),
    "Celu": (1.0, F.celu),
    "ThresholdedRelu": (1.0, lambda x, alpha: torch.where(x > alpha, x, 0)),
}
"""Activations of one parameter, with its default."""


@operator(ELEMENTWISE, *_WITH_ALPHA, types=FLOATS)
def _activation(node: TorchNode) -> Function:
    default, function = _WITH_ALPHA[node.op_type]
    alpha = float(node.attributes.get("alpha", default))
    return lambda x: function(x, alpha)


@operator(ELEMENTWISE, "PRelu", types=NUMBERS)
def _prelu(node: TorchNode) -> Function:
    return lambda x, slope: torch.where(x < 0, x * slope, x)


@operator(ELEMENTWISE, "HardSigmoid", types=FLOATS)
def _hard_sigmoid(node: TorchNode) -> Function:
    alpha, beta = float(node.attributes.get("alpha", 0.2)), float(node.attributes.get("beta", 0.5))
    return lambda x: (alpha * x + beta).clamp(0, 1)


@operator(ELEMENTWISE, "Gelu", types=FLOATS)
def _gelu(node: TorchNode) -> Function:
    approximate = node.choice("approximate", "none", "none", "tanh")
    return lambda x: F.gelu(x, approximate=approximate)


@operator(ELEMENTWISE, "Selu", types=FLOATS)
def _selu(node: TorchNode) -> Function:
    scale = float(node.attributes.get("gamma", 1.0507009873554805))
    alpha = float(node.attributes.get("alpha", 1.6732632423543772))
    return lambda x: scale * (x.clamp_min(0) + alpha * (x.clamp_max(0).exp() - 1))


@operator(ELEMENTWISE, "Dropout", types=FLOATS, apart={2: LOGICAL})
def _dropout(node: TorchNode) -> Function:
    """Return the function of inference; ratio and seed count in training only."""
    node.ignore("ratio", "seed")
    training = node.constant(2)
    if node.has(2) and (training is None or training.any()):
        raise refuse(node, "it is in training mode, or computes whether it is")
    return lambda x, ratio=None, training=None: x


@operator(ELEMENTWISE, "Softmax", "LogSoftmax", types=FLOATS)
def _softmax(node: TorchNode) -> Function:
    function = torch.softmax if node.op_type == "Softmax" else torch.log_softmax
    axis = node.attributes.get("axis", -1 if node.opset >= 13 else 1)
    if node.opset >= 13:
        return lambda x: function(x, axis)

    def flattened(x: Tensor) -> Tensor:
        return function(x.reshape(*x.shape[:axis], -1), -1).reshape(x.shape)

    return flattened if axis >= 0 else lambda x: function(x.flatten(x.dim() + axis), -1).reshape(x.shape)


_Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _product(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    for axis in axes:
        x = x.prod(axis, keepdim=True, dtype=x.dtype)
    return x if keep else x.squeeze(tuple(axes))


_REDUCTIONS: dict[str, tuple[Collection[torch.dtype], _Reduction, Function]] = {
    "ReduceMean": (FLOATS, lambda x, axes, keep: x.mean(axes, keep), lambda x: x),
    "ReduceSum": (NUMBERS, lambda x, axes, keep: x.sum(axes, keep, dtype=x.dtype), lambda x: x),
    "ReduceMax": (ANY, lambda x, axes, keep: x.amax(axes, keep), lambda x: x),
    "ReduceMin": (ANY, lambda x, axes, keep: x.amin(axes, keep), lambda x: x),
    "ReduceProd": (NUMBERS, _product, lambda x: x),
    "ReduceL1": (NUMBERS, lambda x, axes, keep: x.abs().sum(axes, keep, dtype=x.dtype), torch.abs),
    "ReduceL2": (FLOATS, lambda x, axes, keep: x.square().sum(axes, keep).sqrt(), torch.abs),
    "ReduceSumSquare": (NUMBERS, lambda x, axes, keep: x.square().sum(axes, keep, dtype=x.dtype), torch.square),
    "ReduceLogSumExp": (FLOATS, torch.logsumexp, lambda x: x),
}
"""Types, the reduction, and what it does to a value where it reduces along no axis."""


def _enter_reduction(name: str) -> None:
    types, function, alone = _REDUCTIONS[name]

    @operator(ELEMENTWISE, name, types=types, host=(1,))
    def build(node: TorchNode) -> Function:
        keep, skip = bool(node.attributes.get("keepdims", 1)), bool(node.attributes.get("noop_with_empty_axes", 0))
        given = node.integers(1, "axes")

        def run(x: Tensor, axes: Tensor | None = None) -> Tensor:
            listed = given if given is not None else axes.tolist() if axes is not None else []
            if not x.dim() or (not listed and skip):
                result: Tensor = alone(x)
                return result
            return function(x, listed or list(range(x.dim())), keep)

        return run


for _name in _REDUCTIONS:
    _enter_reduction(_name)


@operator(ELEMENTWISE, "ArgMax", "ArgMin", types=NUMBERS)
def _arg(node: TorchNode) -> Function:
    function = torch.argmax if node.op_type == "ArgMax" else torch.argmin
    axis, keep = node.attributes.get("axis", 0), bool(node.attributes.get("keepdims", 1))
    if not node.attributes.get("select_last_index", 0):
        return lambda x: function(x, axis, keep)
    return lambda x: x.shape[axis] - 1 - function(x.flip(axis), axis, keep)


@operator(ELEMENTWISE, "CumSum", types=NUMBERS, host=(1,))
def _cumsum(node: TorchNode) -> Function:
    exclusive, reverse = node.attributes.get("exclusive", 0), node.attributes.get("reverse", 0)

    def run(x: Tensor, axis: Tensor) -> Tensor:
        along = int(axis.item())
        turned = x.flip(along) if reverse else x
        total = turned.cumsum(along, dtype=x.dtype)
        total = total - turned if exclusive else total
        return total.flip(along) if reverse else total

    return run


@operator(ELEMENTWISE, "Gemm", types=FLOATS)
def _gemm(node: TorchNode) -> Function:
    alpha, beta = float(node.attributes.get("alpha", 1.0)), float(node.attributes.get("beta", 1.0))
    turn_a, turn_b = node.attributes.get("transA", 0), node.attributes.get("transB", 0)

    def gemm(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a, b = a.t() if turn_a else a, b.t() if turn_b else b
        return alpha * (a @ b) if c is None else torch.addmm(c, a, b, beta=beta, alpha=alpha)

    return gemm


@operator(ELEMENTWISE, "Einsum", types=NUMBERS)
def _einsum(node: TorchNode) -> Function:
    equation = node.attributes["equation"]
    return lambda *values: torch.einsum(equation, *values)


@operator(ELEMENTWISE, "TopK", types=NUMBERS, outputs=2, host=(1,), oldest=10)
def _topk(node: TorchNode) -> Function:
    axis, largest = node.attributes.get("axis", -1), bool(node.attributes.get("largest", 1))
    node.ignore("sorted")  # sorted values are in one of the orders that unsorted ones may have

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
