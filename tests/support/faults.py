"""Mistakes that converters make, planted in an ONNX graph. Each fault changes the model in place.

A fault raises `NotApplicable` where the graph has no place for it, so that a test cannot pass by
planting nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper
from support.graphs import run_model

Fault = Callable[[onnx.ModelProto, np.ndarray], None]
"""A function of the model and of one input batch, which tells what values really occur."""


class NotApplicable(Exception):
    """The graph has no place for this fault."""


FAULTS: dict[str, Fault] = {}


def fault(function: Fault) -> Fault:
    """Enter a fault in the table under its name."""
    FAULTS[function.__name__] = function
    return function


def nodes(model: onnx.ModelProto, *op_types: str) -> list[onnx.NodeProto]:
    """Return the nodes of these types, at least one."""
    found = [node for node in model.graph.node if node.op_type in op_types]
    if not found:
        raise NotApplicable(f"no {' or '.join(op_types)}")
    return found


def constant(model: onnx.ModelProto, name: str) -> np.ndarray:
    """Return the value of an initializer."""
    for initializer in model.graph.initializer:
        if initializer.name == name:
            return numpy_helper.to_array(initializer).copy()
    raise NotApplicable(f"{name} is no constant")


def replace(model: onnx.ModelProto, name: str, value: np.ndarray) -> None:
    """Give an initializer another value; one that several nodes share changes for all."""
    if np.array_equal(constant(model, name), value):
        raise NotApplicable(f"{name} stays as it is")
    for initializer in model.graph.initializer:
        if initializer.name == name:
            initializer.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), name))


def weighted(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield convolutions and linear layers with a constant weight, in order."""
    names = {initializer.name for initializer in model.graph.initializer}
    for node in nodes(model, "Conv", "ConvTranspose", "DeformConv", "Gemm"):
        if node.input[1] in names:
            yield node


def bypass(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """Take a node out: what it fed is fed by its first input."""
    if any(output.name == node.output[0] for output in model.graph.output):
        node.CopyFrom(helper.make_node("Identity", [node.input[0]], [node.output[0]], name=node.name))
        return
    for other in model.graph.node:
        other.input[:] = [node.input[0] if name == node.output[0] else name for name in other.input]
    model.graph.node.remove(node)


def before_output(model: onnx.ModelProto, make: Callable[[str, str], list[onnx.NodeProto]], output: int = 0) -> None:
    """Insert nodes between an output and what computes it."""
    name = model.graph.output[output].name
    inner = f"{name}/inner"
    for node in model.graph.node:
        node.input[:] = [inner if item == name else item for item in node.input]
        node.output[:] = [inner if item == name else item for item in node.output]
    model.graph.node.extend(make(inner, name))


def offset_predictors(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the convolutions whose first channels are the offsets of a deformable one."""
    source = {output: node for node in model.graph.node for output in node.output}
    return [source[source[node.input[2]].input[0]] for node in nodes(model, "DeformConv")]


@fault
def input_channels_swapped(model: onnx.ModelProto, feed: np.ndarray) -> None:
    """RGB for BGR."""
    name = next(weighted(model)).input[1]
    replace(model, name, constant(model, name)[:, ::-1])


@fault
def output_channels_swapped(model: onnx.ModelProto, feed: np.ndarray) -> None:
    """Two channels of the last layer in each other's place."""
    node = list(weighted(model))[-1]
    axis = 1 if node.op_type == "ConvTranspose" else 0
    for name in list(node.input[1:3]):
        value = constant(model, name)
        order = np.arange(value.shape[axis if value.ndim > 1 else 0])
        order[[0, 1]] = order[[1, 0]]
        replace(model, name, np.take(value, order, axis if value.ndim > 1 else 0))


@fault
def padding_off_by_one(model: onnx.ModelProto, feed: np.ndarray) -> None:
    """The same amount of padding, one pixel further down and right."""
    for node in nodes(model, "Conv"):
        for attribute in node.attribute:
            if attribute.name == "pads" and min(attribute.ints) > 0:
                top, left, bottom, right = attribute.ints
                attribute.ints[:] = [top - 1, left - 1, bottom + 1, right + 1]
                return
    raise NotApplicable("no padded convolution")


@fault
def relu_dropped(model: onnx.ModelProto, feed: np.ndarray) -> None:
    """An activation lost in a fusion."""
    bypass(model, nodes(model, "Relu")[-1])


@fault
def sigmoid_dropped(model: onnx.ModelProto, feed: np.ndarray) -> None:
    """Logits where probabilities are expected, for example the mask of a deformable convolution."""
    bypass(model, nodes(model, "Sigmoid")[0])


@fault
def sigmoid_twice(model: onnx.ModelProto, feed: np.ndarray) -> None:
    """The mask as a plug-in takes it that applies the sigmoid itself."""
    node = nodes(model, "Sigmoid")[0]
    name = f"{node.output[0]}/once"
    again = helper.make_node("Sigmoid", [name], [node.output[0]], name=f"{node.name}/again")
    node.output[0] = name
    model.graph.node.insert(list(model.graph.node).index(node) + 1, again)


@fault
def values_clamped(model: onnx.ModelProto, feed: np.ndarray) -> None:
    """A range that calibration took too narrow: the upper 2 % of an output are cut off."""
    name = model.graph.output[0].name
    value = run_model(model, **{model.graph.input[0].name: feed})[name]
    limit = np.float32(value.min() + 0.98 * (value.max() - value.min()))
    model.graph.initializer.append(numpy_helper.from_array(limit, "clamp/limit"))
    before_output(
        model, lambda inner, outer: [helper.make_node("Min", [inner, "clamp/limit"], [outer], name="clamp/Min")]
    )


@fault
def bias_zeroed(model: onnx.ModelProto, feed: np.ndarray) -> None:
    """The bias of the last layer that has one is lost."""
    name = next(node.input[2] for node in reversed(list(weighted(model))) if len(node.input) > 2)
    replace(model, name, np.zeros_like(constant(model, name)))


@fault
def one_bias_slightly_off(model: onnx.ModelProto, feed: np.ndarray) -> None:
    """One number of the last layer, by a hundredth of the layer's largest bias."""
    name = next(node.input[2] for node in reversed(list(weighted(model))) if len(node.input) > 2)
    value = constant(model, name)
    value.flat[0] += 1e-2 * np.abs(value).max()
    replace(model, name, value)


@fault
def weight_scaled(model: onnx.ModelProto, feed: np.ndarray) -> None:
    """One layer off by a thousandth."""
    name = next(weighted(model)).input[1]
    replace(model, name, constant(model, name) * np.float32(1.001))


@fault
def weights_in_half_precision(model: onnx.ModelProto, feed: np.ndarray) -> None:
    """One layer rounded to float16, though float32 was asked for."""
    name = next(weighted(model)).input[1]
    replace(model, name, constant(model, name).astype(np.float16).astype(np.float32))


@fault
def kernel_transposed(model: onnx.ModelProto, feed: np.ndarray) -> None:
    """Rows for columns in one kernel."""
    node = next(node for node in weighted(model) if constant(model, node.input[1]).shape[-1] == 3)
    replace(model, node.input[1], constant(model, node.input[1]).swapaxes(-1, -2))


@fault
def transposed_kernel_flipped(model: onnx.ModelProto, feed: np.ndarray) -> None:
    """A transposed convolution is no correlation with the same kernel."""
    name = nodes(model, "ConvTranspose")[0].input[1]
    replace(model, name, constant(model, name)[..., ::-1, ::-1])


@fault
def samples_mixed(model: onnx.ModelProto, feed: np.ndarray) -> None:
    """Every sample of a batch is the first one: a batch of one would not notice."""
    name = model.graph.input[0].name
    inner = f"{name}/mixed"
    for node in model.graph.node:
        node.input[:] = [inner if item == name else item for item in node.input]
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "mix/first"))
    added = [
        helper.make_node("Gather", [name, "mix/first"], ["mix/one"], axis=0, name="mix/Gather"),
        helper.make_node("Shape", [name], ["mix/shape"], name="mix/Shape"),
        helper.make_node("Expand", ["mix/one", "mix/shape"], [inner], name="mix/Expand"),
    ]
    for node in reversed(added):
        model.graph.node.insert(0, node)


@fault
def last_sample_dropped(model: onnx.ModelProto, feed: np.ndarray) -> None:
    """An output with a batch of one, whatever comes in."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "drop/first"))
    before_output(
        model,
        lambda inner, outer: [helper.make_node("Gather", [inner, "drop/first"], [outer], axis=0, name="drop/Gather")],
    )
    del model.graph.value_info[:]


@fault
def one_value_is_nan(model: onnx.ModelProto, feed: np.ndarray) -> None:
    """0/0 in one place of an output."""
    name = model.graph.output[0].name
    shape = run_model(model, **{model.graph.input[0].name: feed})[name].shape[1:]
    poison = np.zeros((1, *shape), np.float32)
    poison.flat[-1] = np.nan
    model.graph.initializer.append(numpy_helper.from_array(poison, "nan/poison"))
    before_output(model, lambda inner, outer: [helper.make_node("Add", [inner, "nan/poison"], [outer], name="nan/Add")])


@fault
def offsets_swapped(model: onnx.ModelProto, feed: np.ndarray) -> None:
    """x before y in the offsets of a deformable convolution."""
    node = offset_predictors(model)[0]
    for name in list(node.input[1:3]):
        value = constant(model, name)
        order = np.arange(len(value))
        order[0:18:2], order[1:18:2] = order[1:18:2].copy(), order[0:18:2].copy()
        replace(model, name, value[order])


@fault
def offsets_ignored(model: onnx.ModelProto, feed: np.ndarray) -> None:
    """A deformable convolution that has become a plain one."""
    for node in offset_predictors(model):
        for name in list(node.input[1:3]):
            value = constant(model, name)
            value[:18] = 0
            replace(model, name, value)


@fault
def offsets_in_planes(model: onnx.ModelProto, feed: np.ndarray) -> None:
    """All y offsets first and all x offsets after, instead of in turn."""
    node = offset_predictors(model)[0]
    for name in list(node.input[1:3]):
        value = constant(model, name)
        replace(model, name, value[[*range(0, 18, 2), *range(1, 18, 2), *range(18, 27)]])


def plant(model: onnx.ModelProto, name: str, feed: np.ndarray) -> onnx.ModelProto:
    """Return a copy of the model with the fault in it; it is still a valid graph."""
    spoilt = onnx.ModelProto()
    spoilt.CopyFrom(model)
    FAULTS[name](spoilt, feed)
    onnx.checker.check_model(spoilt)
    return spoilt
