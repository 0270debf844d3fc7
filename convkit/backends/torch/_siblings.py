"""Convolutions of one tensor as one: the heads of a detector begin with a layer each, of the same kind.

One wide convolution reads its input once and fills a GPU better than several narrow ones. Its results are channels of
one tensor, which a Split hands out without a copy.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

__all__ = ["joined_siblings"]


def joined_siblings(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with each group of Conv and Relu that read one tensor, with equal settings, made one of each.

    The model itself stays as it is where there is such a group.
    """
    import onnx
    from onnx import helper, numpy_helper

    constants = {item.name: item for item in model.graph.initializer}
    uses = Counter(name for node in model.graph.node for name in node.input)
    uses.update(value.name for value in model.graph.output)
    readers = {name: node for node in model.graph.node for name in node.input}
    groups = defaultdict(list)
    for node in model.graph.node:
        if node.op_type != "Conv" or node.domain not in ("", "ai.onnx") or uses[node.output[0]] != 1:
            continue
        relu = readers.get(node.output[0])
        given = [name for name in node.input[1:] if name]
        if relu is None or relu.op_type != "Relu" or not given or any(name not in constants for name in given):
            continue
        weight = constants[node.input[1]]
        key = (node.input[0], weight.data_type, tuple(weight.dims[1:]), _attributes(node))
        if "group" not in key[3]:
            groups[key].append((node, relu))
    groups = {key: pairs for key, pairs in groups.items() if len(pairs) > 1}  # type: ignore[assignment]
    if not groups:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    starts = {pairs[0][0].output[0]: pairs for pairs in groups.values()}
    gone = {node.output[0] for pairs in groups.values() for pair in pairs for node in pair}
    for node in model.graph.node:
        pairs = starts.get(node.output[0] if node.output else "")
        if pairs is None:
            if node.output[0] not in gone:
                result.graph.node.append(node)
            continue
        name = "+".join(conv.name or conv.output[0] for conv, _ in pairs)
        weights = [numpy_helper.to_array(constants[conv.input[1]]) for conv, _ in pairs]
        biases = [
            numpy_helper.to_array(constants[conv.input[2]])
            if len(conv.input) > 2 and conv.input[2]
            else np.zeros(len(weight), weight.dtype)
            for (conv, _), weight in zip(pairs, weights, strict=True)
        ]
        sizes = np.array([len(weight) for weight in weights], np.int64)
        arrays = {"weight": np.concatenate(weights), "bias": np.concatenate(biases), "sizes": sizes}
        result.graph.initializer.extend(
            numpy_helper.from_array(value, f"{name}.{key}") for key, value in arrays.items()
        )
        wide = helper.make_node("Conv", [node.input[0], f"{name}.weight", f"{name}.bias"], [f"{name}.sum"], name=name)
        wide.attribute.extend(node.attribute)
        outputs = [relu.output[0] for _, relu in pairs]
        result.graph.node.extend((
            wide, helper.make_node("Relu", wide.output, [f"{name}.relu"], name=f"{name}.relu"),
            helper.make_node("Split", [f"{name}.relu", f"{name}.sizes"], outputs, name=f"{name}.split", axis=1),
        ))  # fmt: skip
    return result


def _attributes(node: onnx.NodeProto) -> tuple[str, ...]:
    """Return the attributes as text, in order; a grouped convolution has an entry ``group``."""
    from onnx import helper

    found = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    grouped = found.pop("group", 1) != 1
    return (*(f"{name}={value}" for name, value in sorted(found.items())), *(["group"] if grouped else []))
