"""Random ONNX graphs: a few operators in a row and side by side, with settings that people and exporters rarely use.

`generate` gives one graph a seed. The operators are those of the ONNX standard that take and give float32 numbers, and
those that count and select; shapes come from ONNX's own shape inference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
LARGEST = 20_000
"""Elements that a tensor has at most."""


@dataclass(frozen=True)
class Value:
    """A float32 tensor of the graph."""

    name: str
    shape: tuple[int, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass
class Graph:
    """A graph that grows. ``try_node`` adds a node if shape inference takes it."""

    rng: np.random.Generator
    inputs: list[Value] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    count: int = 0

    def fresh(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def choice(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def whole(self, low: int, high: int) -> int:
        """Return a whole number from ``low`` to ``high``."""
        return int(self.rng.integers(low, high + 1))

    def normal(self, *shape: int, scale: float = 1.0) -> str:
        return self.constant((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def constant(self, array: Any) -> str:
        name = self.fresh("k")
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def integers(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64))

    def node(self, operator: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> list[str]:
        names = [self.fresh(operator.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, name=self.fresh(f"node_{operator}"), **attributes))
        return names

    def one(self, operator: str, *inputs: str, **attributes: Any) -> str:
        return self.node(operator, list(inputs), **attributes)[0]

    def model(self, outputs: list[str]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes, "generated",
            [helper.make_tensor_value_info(value.name, TensorProto.FLOAT, value.shape) for value in self.inputs],
            [onnx.ValueInfoProto(name=name) for name in outputs], self.constants,
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)

    def inferred(self, name: str) -> Value | None:
        """Return a tensor with the shape that ONNX infers; None unless it is of float32, known and small."""
        try:
            model = onnx.shape_inference.infer_shapes(self.model([name]), strict_mode=True, data_prop=True)
        except Exception:
            return None
        (output,) = model.graph.output
        tensor = output.type.tensor_type
        dims = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in tensor.shape.dim]
        if tensor.elem_type != TensorProto.FLOAT or min(dims, default=1) < 1 or np.prod(dims, initial=1) > LARGEST:
            return None
        return Value(name, tuple(dims))


Maker = Callable[[Graph, Value], "str | None"]
MAKERS: dict[str, Maker] = {}
"""By name: what adds a node or a few, and returns the name of the result; None where the input does not suit."""


def maker(function: Maker) -> Maker:
    MAKERS[function.__name__] = function
    return function


def _spatial(g: Graph, x: Value, window: list[int], *, dilated: bool = True) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if dilated and g.whole(0, 2) == 0 and min(x.shape[2:]) >= 5:
        settings["dilations"] = [g.whole(1, 2) for _ in window]
    kind = g.choice("pads", "pads", "none", "SAME_UPPER", "SAME_LOWER", "VALID")
    same = kind.startswith("SAME")  # with strides beyond the window neither ONNX nor TensorRT says where windows begin
    settings["strides"] = [g.whole(1, size if same else 3) for size in window]
    if kind == "pads":
        settings["pads"] = [g.whole(0, size - 1) for size in window * 2]
    elif kind != "none":
        settings["auto_pad"] = kind
    return settings


@maker
def conv(g: Graph, x: Value) -> str | None:
    if x.rank not in (3, 4, 5):
        return None
    channels = x.shape[1]
    groups = g.choice(1, 1, channels)
    window = _window(g, x)
    kernel = g.normal(groups * g.whole(1, 3), channels // groups, *window, scale=0.5)
    inputs = [x.name, kernel]
    if g.whole(0, 1):
        inputs.append(g.normal(numpy_helper.to_array(g.constants[-1]).shape[0]))
    return g.one("Conv", *inputs, group=groups, kernel_shape=window, **_spatial(g, x, window))


@maker
def conv_transpose(g: Graph, x: Value) -> str | None:
    if x.rank not in (3, 4):
        return None
    window = [g.whole(1, 3) for _ in x.shape[2:]]
    groups = g.choice(1, 1, x.shape[1])
    kernel = g.normal(x.shape[1], g.whole(1, 3), *window, scale=0.5)
    settings = _spatial(g, x, window)
    if "auto_pad" not in settings and g.whole(0, 1):
        settings["output_padding"] = [g.whole(0, step - 1) for step in settings["strides"]]
    return g.one("ConvTranspose", x.name, kernel, group=groups, kernel_shape=window, **settings)


def _window(g: Graph, x: Value) -> list[int]:
    """Return the size of a window that fits."""
    return [g.whole(1, min(3, size)) for size in x.shape[2:]]


def _pool(g: Graph, x: Value) -> dict[str, Any]:
    window = _window(g, x)
    settings = {"kernel_shape": window, **_spatial(g, x, window, dilated=False)}
    if "auto_pad" not in settings:
        settings["ceil_mode"] = g.whole(0, 1)
    return settings


@maker
def max_pool(g: Graph, x: Value) -> str | None:
    if x.rank not in (4, 5):
        return None
    return g.one("MaxPool", x.name, **_pool(g, x))


@maker
def average_pool(g: Graph, x: Value) -> str | None:
    if x.rank not in (3, 4, 5):
        return None
    return g.one("AveragePool", x.name, count_include_pad=g.whole(0, 1), **_pool(g, x))


@maker
def global_pool(g: Graph, x: Value) -> str | None:
    return g.one(g.choice("GlobalAveragePool", "GlobalMaxPool"), x.name) if x.rank in (3, 4, 5) else None


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
        ("LeakyRelu", {"alpha": 0.3}), ("LeakyRelu", {}), ("Elu", {"alpha": 0.7}), ("Elu", {}), ("Celu", {"alpha": 1.4}),
        ("Celu", {}), ("Selu", {"alpha": 1.5, "gamma": 0.9}), ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
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
def transpose(g: Graph, x: Value) -> str | None:
    if g.whole(0, 3) == 0:
        return g.one("Transpose", x.name)
    return g.one("Transpose", x.name, perm=[int(axis) for axis in g.rng.permutation(x.rank)])


@maker
def reshape(g: Graph, x: Value) -> str | None:
    shape = list(x.shape)
    if x.rank > 1 and g.whole(0, 1):
        axis = g.whole(0, x.rank - 2)
        shape[axis : axis + 2] = [shape[axis] * shape[axis + 1]]
    elif max(shape) > 1:
        axis = int(np.argmax(shape))
        factor = next((n for n in (2, 3, 5) if shape[axis] % n == 0), 1)
        shape[axis : axis + 1] = [factor, shape[axis] // factor]
    if g.whole(0, 1):
        shape[g.whole(0, len(shape) - 1)] = -1
    shape = [0 if axis < x.rank and size == x.shape[axis] and g.whole(0, 2) == 0 else size
             for axis, size in enumerate(shape)]  # fmt: skip
    return g.one("Reshape", x.name, g.integers(*shape))


@maker
def flatten(g: Graph, x: Value) -> str | None:
    return g.one("Flatten", x.name, axis=g.whole(-x.rank, x.rank))


@maker
def squeeze(g: Graph, x: Value) -> str | None:
    if g.whole(0, 1) and x.rank < 5:
        return g.one("Unsqueeze", x.name, g.integers(g.whole(-x.rank - 1, x.rank)))
    ones = [axis for axis, size in enumerate(x.shape) if size == 1]
    if not ones or x.rank < 3:
        return None
    axis = ones[0]
    return g.one("Squeeze", x.name, g.integers(axis - g.choice(0, x.rank)))


@maker
def slice_(g: Graph, x: Value) -> str | None:
    axes = [int(axis) for axis in g.rng.permutation(x.rank)[: g.whole(1, x.rank)]]
    starts, ends, steps = [], [], []
    for axis in axes:
        size = x.shape[axis]
        step = g.choice(1, 1, 2, -1, -2)
        low, high = sorted((g.whole(0, size - 1), g.whole(1, size)))
        low, high = (low, high) if low < high else (0, size)
        if step > 0:
            start, end = low, g.choice(high, size + 5, 2**31 - 1)
        else:
            start, end = g.choice(high - 1, size + 3), g.choice(-size - 1, low - 1 if low else -size - 7)
        starts.append(start - size if 0 <= start < size and g.whole(0, 1) else start)
        ends.append(end)
        steps.append(step)
    named = [axis - x.rank if g.whole(0, 1) else axis for axis in axes]
    return g.one("Slice", x.name, g.integers(*starts), g.integers(*ends), g.integers(*named), g.integers(*steps))


@maker
def pad(g: Graph, x: Value) -> str | None:
    mode = g.choice("constant", "reflect", "edge", "wrap")
    most = min(2, min(x.shape) - 1) if mode == "reflect" else min(2, min(x.shape))
    amounts = [g.whole(0, max(most, 0)) for _ in range(2 * x.rank)]
    if mode == "constant" and min(x.shape) > 2 and g.whole(0, 2) == 0:
        amounts[g.whole(0, 2 * x.rank - 1)] = -1
    inputs = [x.name, g.integers(*amounts)]
    if mode == "constant" and g.whole(0, 1):
        inputs.append(g.constant(np.float32(0.7)))
    return g.one("Pad", *inputs, mode=mode)


@maker
def concat(g: Graph, x: Value) -> str | None:
    axis = g.whole(0, x.rank - 1)
    shape = [g.whole(1, 3) if other == axis else size for other, size in enumerate(x.shape)]
    return g.one("Concat", x.name, g.normal(*shape), x.name, axis=axis - g.choice(0, x.rank))


@maker
def split(g: Graph, x: Value) -> str | None:
    axis = g.whole(0, x.rank - 1)
    size = x.shape[axis]
    if size < 2:
        return None
    if g.whole(0, 1):
        first, second = g.node("Split", [x.name], 2, axis=axis - g.choice(0, x.rank), num_outputs=2)
    else:
        first, second = g.node("Split", [x.name, g.integers(1, size - 1)], 2, axis=axis)
    return g.choice(first, second)


@maker
def tile(g: Graph, x: Value) -> str | None:
    return g.one("Tile", x.name, g.integers(*[g.whole(1, 2) for _ in x.shape]))


@maker
def expand(g: Graph, x: Value) -> str | None:
    shape = [g.whole(1, 3) if size == 1 else g.choice(1, size) for size in x.shape]
    return g.one("Expand", x.name, g.integers(*([2] if x.rank < 4 and g.whole(0, 1) else []), *shape))


@maker
def gather(g: Graph, x: Value) -> str | None:
    axis = g.whole(0, x.rank - 1)
    size = x.shape[axis]
    shape = g.choice((), (2,), (2, 2)) if x.rank > 1 else (2,)
    indices = g.constant(g.rng.integers(-size, size, shape).astype(g.choice(np.int64, np.int32)))
    return g.one("Gather", x.name, indices, axis=axis - g.choice(0, x.rank))


@maker
def gather_elements(g: Graph, x: Value) -> str | None:
    axis = g.whole(0, x.rank - 1)
    shape = [g.whole(1, size) for size in x.shape]
    indices = g.constant(g.rng.integers(-x.shape[axis], x.shape[axis], shape))
    return g.one("GatherElements", x.name, indices, axis=axis - g.choice(0, x.rank))


@maker
def gather_nd(g: Graph, x: Value) -> str | None:
    if x.rank < 2:
        return None
    shared = g.choice(0, 0, 1) if x.rank > 2 else 0
    width = g.whole(1, x.rank - shared)
    columns = [g.rng.integers(-size, size, (*x.shape[:shared], 3)) for size in x.shape[shared : shared + width]]
    return g.one("GatherND", x.name, g.constant(np.stack(columns, -1)), batch_dims=shared)


@maker
def scatter_elements(g: Graph, x: Value) -> str | None:
    axis = g.whole(0, x.rank - 1)
    size = x.shape[axis]
    count = g.whole(1, size)
    places = g.rng.permutation(size)[:count]
    shape = [count if other == axis else 1 for other in range(x.rank)]
    indices = g.constant(places.reshape(shape) - g.choice(0, size))
    return g.one("ScatterElements", x.name, indices, g.normal(*shape), axis=axis)


@maker
def scatter_nd(g: Graph, x: Value) -> str | None:
    rows = g.rng.permutation(x.shape[0])[: g.whole(1, x.shape[0])]
    return g.one("ScatterND", x.name, g.constant(rows.reshape(-1, 1)), g.normal(len(rows), *x.shape[1:]))


@maker
def resize(g: Graph, x: Value) -> str | None:
    if x.rank != 4:
        return None
    mode = g.choice("nearest", "nearest", "linear", "cubic")
    settings: dict[str, Any] = {
        "mode": mode,
        "coordinate_transformation_mode": g.choice("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel",
                                                   "half_pixel_symmetric"),
    }  # fmt: skip
    if mode == "nearest":
        settings["nearest_mode"] = g.choice("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    if mode == "cubic" and g.whole(0, 1):
        settings |= {"cubic_coeff_a": g.choice(-0.5, -0.75), "exclude_outside": g.whole(0, 1)}
    if g.whole(0, 1):
        scales = [1.0, 1.0, g.choice(2.0, 0.5, 1.5, 0.7, 3.0), g.choice(2.0, 0.5, 1.5, 0.6)]
        return g.one("Resize", x.name, "", g.constant(np.array(scales, np.float32)), **settings)
    sizes = g.integers(*x.shape[:2], g.whole(1, 9), g.whole(1, 9))
    return g.one("Resize", x.name, "", "", sizes, **settings)


@maker
def upsample_axes(g: Graph, x: Value) -> str | None:
    if x.rank != 4:
        return None
    scales = g.constant(np.array([2.0, 1.5], np.float32))
    return g.one("Resize", x.name, "", scales, axes=[2, 3], mode=g.choice("nearest", "linear"))


@maker
def grid_sample(g: Graph, x: Value) -> str | None:
    if x.rank != 4:
        return None
    grid = g.constant(g.rng.uniform(-1.4, 1.4, (x.shape[0], g.whole(1, 5), g.whole(1, 5), 2)).astype(np.float32))
    return g.one("GridSample", x.name, grid, mode=g.choice("linear", "nearest", "cubic"), align_corners=g.whole(0, 1),
                 padding_mode=g.choice("zeros", "border", "reflection"))  # fmt: skip


@maker
def depth_to_space(g: Graph, x: Value) -> str | None:
    if x.rank != 4:
        return None
    if x.shape[1] % 4 == 0:
        return g.one("DepthToSpace", x.name, blocksize=2, mode=g.choice("DCR", "CRD"))
    if x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0:
        return g.one("SpaceToDepth", x.name, blocksize=2)
    return None


@maker
def reduce(g: Graph, x: Value) -> str | None:
    operator = g.choice("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
                        "ReduceSumSquare", "ReduceLogSumExp", "ReduceLogSum")  # fmt: skip
    source = g.one("Abs", x.name) if operator == "ReduceLogSum" else x.name
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
def matmul(g: Graph, x: Value) -> str | None:
    if x.rank < 2:
        return None
    if g.whole(0, 3) == 0:
        return g.one("MatMul", x.name, g.normal(x.shape[-1]))
    lead = [] if g.whole(0, 1) else [size if g.whole(0, 1) else 1 for size in x.shape[:-2]]
    return g.one("MatMul", x.name, g.normal(*lead, x.shape[-1], g.whole(1, 4), scale=0.5))


@maker
def gemm(g: Graph, x: Value) -> str | None:
    if x.rank != 2:
        return None
    across, flipped = g.whole(0, 1), g.whole(0, 1)
    rows, inner = x.shape[::-1] if across else x.shape
    width = g.whole(1, 4)
    kernel = g.normal(*((width, inner) if flipped else (inner, width)), scale=0.5)
    bias = [g.normal(*g.choice((width,), (1, width), (rows, 1), (1,)))] if g.whole(0, 1) else []
    return g.one("Gemm", x.name, kernel, *bias, transA=across, transB=flipped, alpha=g.choice(1.0, 0.5),
                 beta=g.choice(1.0, 2.0))  # fmt: skip


@maker
def einsum(g: Graph, x: Value) -> str | None:
    if x.rank == 2:
        return g.one("Einsum", x.name, g.normal(x.shape[1], 3), equation=g.choice("ij,jk->ik", "ij,jk->ki", "ij,jk"))
    if x.rank == 3:
        return g.one("Einsum", x.name, g.normal(x.shape[2], 2), equation=g.choice("bij,jk->bik", "bij,jk->bk"))
    return None


@maker
def normalise(g: Graph, x: Value) -> str | None:
    if x.rank < 3:
        return None
    channels = x.shape[1]
    kind = g.choice("batch", "instance", "group", "layer", "lp", "lrn")
    if kind == "batch":
        variance = g.constant(g.rng.uniform(0.3, 2, channels).astype(np.float32))
        return g.one("BatchNormalization", x.name, g.normal(channels), g.normal(channels), g.normal(channels), variance,
                     epsilon=g.choice(1e-5, 0.1))  # fmt: skip
    if kind == "instance":
        return g.one("InstanceNormalization", x.name, g.normal(channels), g.normal(channels), epsilon=g.choice(1e-5, 0.1))
    if kind == "group":
        groups = g.choice(1, channels)
        return g.one("GroupNormalization", x.name, g.normal(groups), g.normal(groups), num_groups=groups)
    if kind == "layer":
        axis = g.whole(1, x.rank - 1)
        extra = [g.normal(*x.shape[axis:])] if g.whole(0, 1) else []
        return g.one("LayerNormalization", x.name, g.normal(*x.shape[axis:]), *extra, axis=axis - g.choice(0, x.rank),
                     epsilon=g.choice(1e-5, 0.1))  # fmt: skip
    if kind == "lp":
        return g.one("LpNormalization", x.name, axis=g.whole(-x.rank, x.rank - 1), p=g.whole(1, 2))
    return None if x.rank != 4 else g.one("LRN", x.name, size=g.choice(1, 3, 5), alpha=0.1, beta=0.6, bias=1.5)


@maker
def cumulative(g: Graph, x: Value) -> str | None:
    axis = g.constant(np.int64(g.whole(-x.rank, x.rank - 1)))
    return g.one("CumSum", x.name, axis, exclusive=g.whole(0, 1), reverse=g.whole(0, 1))


@maker
def triangle(g: Graph, x: Value) -> str | None:
    if x.rank < 2:
        return None
    inputs = [x.name] if g.whole(0, 1) else [x.name, g.constant(np.int64(g.whole(-2, 2)))]
    return g.one("Trilu", *inputs, upper=g.whole(0, 1))


@maker
def one_hot(g: Graph, x: Value) -> str | None:
    if x.rank > 3:
        return None
    index = g.one("ArgMax", x.name, axis=-1, keepdims=0)
    values = g.constant(np.array([0.25, 0.75], np.float32))
    return g.one("OneHot", index, g.constant(np.int64(x.shape[-1])), values, axis=g.whole(-1, x.rank - 1))


@maker
def from_shape(g: Graph, x: Value) -> str | None:
    """Reshape by arithmetic on the shape, as exporters do."""
    shape = g.one("Shape", x.name)
    first = g.one("Slice", shape, g.integers(0), g.integers(1))
    target = g.one("Concat", first, g.integers(-1), axis=0)
    return g.one("Reshape", x.name, target)


@maker
def ramp(g: Graph, x: Value) -> str | None:
    """Add the numbers of a range as long as the last axis."""
    length = g.one("Gather", g.one("Shape", x.name), g.constant(np.int64(-1)))
    steps = g.one("Range", g.constant(np.int64(0)), length, g.constant(np.int64(1)))
    return g.one("Add", x.name, g.one("Cast", steps, to=TensorProto.FLOAT))


@maker
def quantise(g: Graph, x: Value) -> str | None:
    scale = g.constant(np.float32(g.choice(0.05, 0.013)))
    zero = g.constant(np.int8(0))
    return g.one("DequantizeLinear", g.one("QuantizeLinear", x.name, scale, zero), scale, zero)


@maker
def casts(g: Graph, x: Value) -> str | None:
    kind = g.choice(TensorProto.FLOAT16, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL)
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


def _shape(rng: np.random.Generator) -> tuple[int, ...]:
    """Return the shape of the input, which the generator's first numbers decide."""
    rank = int(rng.choice([4, 4, 4, 3, 2, 5]))
    return (int(rng.integers(1, 3)), int(rng.integers(1, 5)), *(int(size) for size in rng.integers(3, 9, rank - 2)))


def generate(seed: int, length: int = 6) -> onnx.ModelProto:
    """Return a model of ``length`` steps; the same one for the same seed.

    Of three seeds in a row, one gives a model of fixed shapes, one a model with a batch of any size, and one whose input
    has no fixed size at all, though sizes that its nodes hold may allow but one.
    """
    g = Graph(np.random.default_rng(seed))
    g.inputs.append(Value("x", _shape(g.rng)))
    values = list(g.inputs)
    names = list(MAKERS)
    while len(values) <= length:
        make = MAKERS[names[g.whole(0, len(names) - 1)]]
        for source in (values[-1], g.choice(*values), values[0]):
            made = _attempt(g, make, source)
            if made is not None:
                values.append(made)
                break
    used = {name for node in g.nodes for name in node.input}
    model = g.model([value.name for value in values[1:] if value.name not in used])
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    del model.graph.value_info[:]
    if seed % 3:
        _free(model, 1 if seed % 3 == 1 else x_rank(model))
    onnx.checker.check_model(model, full_check=True)
    return model


def x_rank(model: onnx.ModelProto) -> int:
    return len(model.graph.input[0].type.tensor_type.shape.dim)


def _free(model: onnx.ModelProto, axes: int) -> None:
    """Make the first axes of the input symbolic, and leave the shapes of the outputs open."""
    for axis, dim in enumerate(model.graph.input[0].type.tensor_type.shape.dim[:axes]):
        dim.dim_param = "batch" if axis == 0 else f"n{axis}"
    for output in model.graph.output:
        for axis, dim in enumerate(output.type.tensor_type.shape.dim):
            dim.dim_param = f"{output.name}_{axis}"


def _attempt(g: Graph, make: Maker, source: Value) -> Value | None:
    nodes, constants = len(g.nodes), len(g.constants)
    name = make(g, source)
    made = None if name is None else g.inferred(name)
    if made is None or made.rank == 0:
        del g.nodes[nodes:], g.constants[constants:]
        return None
    return made


def inputs_of(seed: int) -> dict[str, np.ndarray]:
    """Return a normally distributed input for the model of this seed."""
    return {"x": np.random.default_rng(seed).standard_normal(_shape(np.random.default_rng(seed))).astype(np.float32)}
