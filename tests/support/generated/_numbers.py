"""Steps that compute: one element at a time, or over axes."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto
from support.generated._graph import Graph, Value, maker


@maker
def unary(g: Graph, x: Value) -> str | None:
    return g.one(
        g.choice("Abs", "Neg", "Exp", "Sin", "Cos", "Tanh", "Sigmoid", "Erf", "Relu", "Floor", "Ceil", "Round", "Sign",
                 "Atan", "Asinh", "Softplus", "Softsign", "Mish", "HardSwish", "Identity", "Sinh", "Cosh", "Tan"),
        x.name,
    )  # fmt: skip


@maker
def positive(g: Graph, x: Value) -> str | None:
    return g.one(g.choice("Log", "Sqrt", "Reciprocal"), g.one("Add", g.one("Abs", x.name), g.constant(np.float32(0.5))))


@maker
def activation(g: Graph, x: Value) -> str | None:
    name, settings = g.choice(
        ("LeakyRelu", {"alpha": 0.3}), ("LeakyRelu", {}), ("Elu", {"alpha": 0.7}), ("Elu", {}), ("Celu", {}),
        ("Celu", {"alpha": 1.4}), ("Selu", {"alpha": 1.5, "gamma": 0.9}), ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
        ("HardSigmoid", {}), ("ThresholdedRelu", {"alpha": 0.4}), ("ThresholdedRelu", {}), ("Gelu", {}),
        ("Gelu", {"approximate": "tanh"}), ("Shrink", {"lambd": 0.4, "bias": 0.1}),
    )  # fmt: skip
    return g.one(name, x.name, **settings)


@maker
def clip(g: Graph, x: Value) -> str | None:
    low = g.choice("", g.constant(np.float32(-0.4)))
    return g.one("Clip", x.name, low, g.choice("", g.constant(np.float32(0.8))))


@maker
def prelu(g: Graph, x: Value) -> str | None:
    return g.one("PRelu", x.name, g.normal(*[size if g.whole(0, 1) else 1 for size in x.shape]))


@maker
def binary(g: Graph, x: Value) -> str | None:
    shape = [size if g.whole(0, 2) else 1 for size in x.shape][g.whole(0, x.rank) :]
    other = g.normal(*shape)
    operator = g.choice("Add", "Sub", "Mul", "Div", "Max", "Min", "Mod", "Pow")
    if operator == "Pow":
        return g.one("Pow", g.one("Abs", x.name), g.one("Abs", other))
    if operator == "Mod":
        return g.one("Mod", x.name, g.constant(np.float32(g.choice(0.7, -0.7))), fmod=1)
    pair = [x.name, other] if g.whole(0, 1) else [other, x.name]
    return g.one(operator, *pair)


@maker
def several(g: Graph, x: Value) -> str | None:
    return g.one(g.choice("Sum", "Mean", "Max", "Min"), x.name, g.normal(x.shape[-1]), g.normal(1))


@maker
def compare(g: Graph, x: Value) -> str | None:
    operator = g.choice("Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal")
    condition = g.one(operator, x.name, g.normal(x.shape[-1]))
    if g.whole(0, 1):
        condition = g.one("Not", condition)
    if g.whole(0, 1):
        other = g.one("Less", x.name, g.constant(np.float32(0.2)))
        condition = g.one(g.choice("And", "Or", "Xor"), condition, other)
    if g.whole(0, 2) == 0:
        return g.one("Cast", condition, to=TensorProto.FLOAT)
    return g.one("Where", condition, x.name, g.normal(*[1] * g.whole(0, x.rank)))


@maker
def reduce(g: Graph, x: Value) -> str | None:
    operator = g.choice("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
                        "ReduceSumSquare", "ReduceLogSumExp", "ReduceLogSum")  # fmt: skip
    bounded = {"ReduceLogSum": "Abs", "ReduceProd": "Tanh"}
    source = g.one(bounded[operator], x.name) if operator in bounded else x.name
    axes = [int(axis) - g.choice(0, x.rank) for axis in g.rng.permutation(x.rank)[: g.whole(1, x.rank)]]
    inputs = [source] if g.whole(0, 4) == 0 else [source, g.integers(*axes)]
    return g.one(operator, *inputs, keepdims=g.whole(0, 1))


@maker
def arg(g: Graph, x: Value) -> str | None:
    index = g.one(g.choice("ArgMax", "ArgMin"), x.name, axis=g.whole(-x.rank, x.rank - 1), keepdims=g.whole(0, 1))
    return g.one("Cast", index, to=TensorProto.FLOAT)


@maker
def top_k(g: Graph, x: Value) -> str | None:
    axis = g.whole(0, x.rank - 1)
    values, indices = g.node(
        "TopK", [x.name, g.integers(g.whole(1, x.shape[axis]))], 2, axis=axis - g.choice(0, x.rank),
        largest=g.whole(0, 1),
    )  # fmt: skip
    return g.choice(values, g.one("Cast", indices, to=TensorProto.FLOAT))


@maker
def softmax(g: Graph, x: Value) -> str | None:
    operator = g.choice("Softmax", "Softmax", "LogSoftmax", "Hardmax")
    return g.one(operator, x.name, axis=g.whole(-x.rank, x.rank - 1)) if g.whole(0, 3) else g.one(operator, x.name)


@maker
def cumulative(g: Graph, x: Value) -> str | None:
    axis = g.constant(np.int64(g.whole(-x.rank, x.rank - 1)))
    return g.one("CumSum", x.name, axis, exclusive=g.whole(0, 1), reverse=g.whole(0, 1))


@maker
def one_hot(g: Graph, x: Value) -> str | None:
    if x.rank > 3:
        return None
    index = g.one("ArgMax", x.name, axis=-1, keepdims=0)
    values = g.constant(np.array([0.25, 0.75], np.float32))
    return g.one("OneHot", index, g.constant(np.int64(x.shape[-1])), values, axis=g.whole(-1, x.rank - 1))


@maker
def ramp(g: Graph, x: Value) -> str | None:
    """Add the numbers of a range as long as the last axis."""
    length = g.one("Gather", g.one("Shape", x.name), g.constant(np.int64(-1)))
    steps = g.one("Range", g.constant(np.int64(0)), length, g.constant(np.int64(1)))
    return g.one("Add", x.name, g.one("Cast", steps, to=TensorProto.FLOAT))


@maker
def casts(g: Graph, x: Value) -> str | None:
    kind = g.choice(TensorProto.FLOAT16, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL)
    if kind == TensorProto.BOOL:  # true where it is anything but zero, so nothing may round to that
        return g.one("Cast", g.one("Cast", g.one("Relu", x.name), to=kind), to=TensorProto.FLOAT)
    bounded = g.one("Mul", g.one("Sigmoid", x.name), g.constant(np.float32(7.3)))
    return g.one("Cast", g.one("Cast", bounded, to=kind), to=TensorProto.FLOAT)


@maker
def integers(g: Graph, x: Value) -> str | None:
    """Arithmetic on int64 numbers of both signs."""
    number = g.one("Cast", g.one("Mul", g.one("Tanh", x.name), g.constant(np.float32(20.3))), to=TensorProto.INT64)
    operator = g.choice("Div", "Mod", "Mul", "Max", "Abs", "Neg", "Sign")
    if operator in ("Abs", "Neg", "Sign"):
        result = g.one(operator, number)
    else:
        result = g.one(operator, number, g.constant(np.int64(g.choice(3, -3, 7))))
    return g.one("Cast", result, to=TensorProto.FLOAT)
