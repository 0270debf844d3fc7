"""ONNX files with fields that were cleared, repeated or given odd values, and bytes that were changed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import onnx
from onnx import TensorProto, helper
from support.trials._small import warmed

from convkit.cli import execute

ODD = {
    "int": (0, 1, -1, 2**31 - 1, -(2**31), 77, 2**62, -(2**62)),
    "text": ("", "x", "../../x", "/etc/passwd", "a\x1b[2J", "y" * 70_000, "Conv", "If", "Loop", "ai.onnx"),
    "float": (0.0, float("nan"), float("inf"), -1e30),
}


def base() -> onnx.ModelProto:
    """Return a small graph with weights, a constant, a branch, metadata and a function."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, 8, 8])
    w = helper.make_tensor("w", TensorProto.FLOAT, [4, 3, 3, 3], bytes(4 * 108), raw=True)
    condition = helper.make_tensor("c", TensorProto.BOOL, [], [True])
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(op, ["h"], ["o"])], name, [], [helper.make_empty_tensor_value_info("o")]
        )
        for name, op in (("then", "Relu"), ("else", "Neg"))
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Constant", [], ["k"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [2.0])),
        helper.make_node("If", ["c"], ["b"], name="if", **branches),
        helper.make_node("Twice", ["b"], ["t"], name="twice", domain="own"),
        helper.make_node("Mul", ["t", "k"], ["y"], name="mul"),
    ]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    twice = helper.make_function("own", "Twice", ["a"], ["s"], [helper.make_node("Add", ["a", "a"], ["s"])], opsets[:1])
    graph = helper.make_graph(nodes, "g", [x], [y], [w, condition])
    model = helper.make_model(graph, opset_imports=opsets, functions=[twice], ir_version=9)
    model.metadata_props.add(
        key="convkit.rewrites", value='[{"name": "a", "removed": ["x"], "added": [], "changed": []}]'
    )
    return model


def graph_cases(folder: Path, random: Random, count: int) -> Iterator[tuple[str, Callable[[], object], int]]:
    """Yield cases that inspect a changed graph, or compare it with the one it was made of."""
    good, file = folder / "good.onnx", folder / "changed.onnx"
    good.write_bytes(base().SerializeToString())
    warmed(["inspect", str(good)], ["diff", str(good), str(good), "--json"])
    for number in range(count):
        if number % 4 == 0:
            data = bytearray(good.read_bytes())
            for _ in range(random.choice((1, 3, 20))):
                data[random.randrange(len(data))] = random.randrange(256)
            what, content = "bytes", bytes(data[: random.choice((len(data), random.randrange(len(data))))])
        else:
            model = base()
            what = "; ".join(change(model, random) for _ in range(random.choice((1, 1, 2, 5))))
            content = model.SerializeToString()
        file.write_bytes(content)
        words = ["inspect", str(file)] if number % 3 else ["diff", str(good), str(file), "--json"]
        yield f"{words[0]}: {what}", functools.partial(execute, words), len(content)


def _messages(message: Any, depth: int = 0) -> Iterator[Any]:
    yield message
    if depth < 12:
        for field, value in message.ListFields():
            if field.message_type is not None:
                for inner in value if field.is_repeated else [value]:
                    yield from _messages(inner, depth + 1)


def change(model: onnx.ModelProto, random: Random) -> str:
    """Change one field of one message of a model, in place; return what was done."""
    message = random.choice(list(_messages(model)))
    field = random.choice(list(message.DESCRIPTOR.fields))
    name = f"{message.DESCRIPTOR.name}.{field.name}"
    present = field.name in {known.name for known, _ in message.ListFields()}
    if field.message_type is not None:
        value = getattr(message, field.name)
        if field.is_repeated and len(value) and random.random() < 0.6:
            kept = [type(value[0]).FromString(each.SerializeToString()) for each in value]
            value.extend(kept * random.choice((1, 50)))
            return f"{name} repeated"
        if not field.is_repeated and not present:
            value.SetInParent()
            return f"{name} empty"
        message.ClearField(field.name)
        return f"{name} cleared"
    if present and random.random() < 0.3:
        message.ClearField(field.name)
        return f"{name} cleared"
    kinds = {field.CPPTYPE_STRING: "text", field.CPPTYPE_FLOAT: "float", field.CPPTYPE_DOUBLE: "float"}
    value = random.choice(ODD[kinds.get(field.cpp_type, "int")])
    value = value.encode() if field.type == field.TYPE_BYTES else value
    if field.enum_type is not None:
        value = random.choice([each.number for each in field.enum_type.values])
    elif field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32):
        value = max(min(value, 2**31 - 1), 0 if field.cpp_type == field.CPPTYPE_UINT32 else -(2**31))
    elif field.cpp_type == field.CPPTYPE_UINT64:
        value = abs(value)
    if field.is_repeated:
        getattr(message, field.name).extend([value] * random.choice((1, 3, 70)))
    else:
        setattr(message, field.name, value)
    return f"{name} = {str(value)[:40]!r}"
