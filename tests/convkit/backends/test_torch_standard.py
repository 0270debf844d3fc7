"""ONNX's own node tests on the backend ``torch``: what it runs is right, and what it does not know it refuses."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.graphs import node
from support.standard import NodeTest, difference, node_tests

from convkit.backends import open_session
from convkit.backends.torch import convkit_torch_operators
from convkit.errors import ConvkitError, EnvironmentProblem

RIGHT = 940
"""How many of the tests of ONNX 1.23.2 come out right; more is better."""
OPERATORS = sorted(name for domain, name in convkit_torch_operators() if not domain and "+" not in name)


def outcome(test: NodeTest, folder) -> str:
    """Return "right", "refused" with the message, or in what the result is wrong."""
    path = folder / "model.onnx"
    path.write_bytes(test.content)
    try:
        session = open_session("torch", path)
        for inputs, outputs in test.data:
            found = session.run(inputs)
            for name, value in outputs.items():
                wrong = difference(value, found[name], test.rtol, test.atol)
                if wrong:
                    return wrong
    except ConvkitError as error:
        return f"refused: {error.message}" if error.hint and "\n" not in error.message else f"bad message: {error}"
    return "right"


@pytest.mark.slow
def test_no_test_of_the_standard_is_wrong_in_silence(tmp_path):
    """A raw exception of any test fails this one."""
    found = {test.name: outcome(test, tmp_path) for test in node_tests()}
    wrong = {name: text for name, text in found.items() if text != "right" and not text.startswith("refused")}
    assert wrong == {}
    assert sum(text == "right" for text in found.values()) >= RIGHT


def one(op: str, count: int = 1, results: int = 1, opset: int = 20, kind: int = TensorProto.FLOAT, **attributes):
    """Return a model of one node with any number of inputs x0, x1 … and results y0, y1 …."""
    names, outputs = [f"x{index}" for index in range(count)], [f"y{index}" for index in range(results)]
    graph = helper.make_graph(
        [node(op, names, outputs, "here", **attributes)],
        "graph",
        [helper.make_tensor_value_info(name, kind, None) for name in names],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def refusal(model: onnx.ModelProto, folder) -> str:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(EnvironmentProblem) as caught:
        open_session("torch", path)
    return caught.value.message


@pytest.mark.parametrize("op", OPERATORS)
def test_an_attribute_that_no_translation_looks_at_is_refused_by_name(tmp_path, op):
    schema = onnx.defs.get_schema(op, 20 if op != "Upsample" else 9)
    needed = {
        name: {onnx.defs.OpSchema.AttrType.INT: 1, onnx.defs.OpSchema.AttrType.INTS: [2, 2],
               onnx.defs.OpSchema.AttrType.STRING: "i->i"}[attribute.type]
        for name, attribute in schema.attributes.items() if attribute.required
    }  # fmt: skip
    logical = schema.type_constraints and all(
        kind == "tensor(bool)" for kind in schema.type_constraints[0].allowed_type_strs
    )
    kind = TensorProto.BOOL if logical and op in ("And", "Not", "Or", "Xor") else TensorProto.FLOAT
    kind = TensorProto.INT64 if op == "ConstantOfShape" else kind
    opset = 9 if op == "Upsample" else 20
    text = refusal(one(op, max(schema.min_input, 1), opset=opset, kind=kind, **needed, from_tomorrow=3), tmp_path)
    assert f"::{op} 'here'" in text
    assert "'from_tomorrow'" in text


@pytest.mark.parametrize("op", OPERATORS)
def test_a_result_that_no_translation_computes_is_refused_by_name(tmp_path, op):
    if op == "Split":
        pytest.skip("it has any number of results")
    model = one(op, 1, results=5, opset=9 if op == "Upsample" else 20)
    graph = model.graph
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(EnvironmentProblem, match=f"::{op} 'here'"):
        open_session("torch", path)
    assert len(graph.node[0].output) == 5


@pytest.mark.parametrize(
    ("op", "kind"),
    [("Sigmoid", TensorProto.INT32), ("And", TensorProto.FLOAT), ("Add", TensorProto.UINT16), ("Neg", TensorProto.BOOL),
     ("Relu", TensorProto.STRING), ("Softmax", TensorProto.INT64), ("Add", TensorProto.COMPLEX64)],
)  # fmt: skip
def test_a_type_that_a_translation_does_not_know_is_refused(tmp_path, op, kind):
    text = refusal(one(op, 2 if op in ("And", "Add") else 1, kind=kind), tmp_path)
    assert TensorProto.DataType.Name(kind).lower() in text or f"type {kind}" in text


def test_a_type_inside_of_the_graph_is_refused_too(tmp_path):
    """A sequence, whose type ONNX infers."""
    model = one("Identity")
    model.graph.node[0].CopyFrom(node("SequenceConstruct", ["x0"], ["s"]))
    model.graph.node.append(node("Identity", ["s"], ["y0"], "here"))
    assert "sequence" in refusal(model, tmp_path) or "SequenceConstruct" in refusal(model, tmp_path)


@pytest.mark.parametrize(
    ("op", "count", "attributes", "word"),
    [
        ("GridSample", 2, {"mode": "nearest-ish"}, "nearest-ish"),
        ("GridSample", 2, {"padding_mode": "mirror"}, "mirror"),
        ("Gelu", 1, {"approximate": "sigmoid"}, "sigmoid"),
        ("Pad", 2, {"mode": "twist"}, "twist"),
        ("Conv", 2, {"auto_pad": "SAME"}, "SAME"),
        ("DepthToSpace", 1, {"blocksize": 2, "mode": "RCD"}, "RCD"),
        ("SpaceToDepth", 1, {"blocksize": 2, "mode": "RCD"}, "RCD"),
        ("ScatterND", 3, {"reduction": "add"}, "add"),
        ("Resize", 3, {"coordinate_transformation_mode": "half_pixel_symmetric"}, "half_pixel_symmetric"),
        ("Resize", 3, {"coordinate_transformation_mode": "tf_crop_and_resize"}, "tf_crop_and_resize"),
        ("Resize", 3, {"nearest_mode": "simple"}, "simple"),
        ("Resize", 3, {"mode": "linear", "antialias": 1}, "antialias"),
        ("Resize", 3, {"mode": "cubic", "exclude_outside": 1}, "exclude_outside"),
        ("Resize", 3, {"mode": "cubic", "cubic_coeff_a": -0.5}, "cubic_coeff_a"),
        ("Dropout", 3, {}, "training"),
        ("BatchNormalization", 5, {"training_mode": 1}, "training"),
    ],
)
def test_a_setting_that_the_backend_lacks_is_refused_by_name(tmp_path, op, count, attributes, word):
    text = refusal(one(op, count, **attributes), tmp_path)
    assert f"::{op} 'here'" in text
    assert word in text


@pytest.mark.parametrize("opset", [1, 6, 99])
def test_an_opset_that_the_backend_does_not_follow_is_refused(tmp_path, opset):
    assert str(opset) in refusal(one("Relu", opset=opset), tmp_path)


def test_corners_aligned_by_scales_of_no_whole_size_are_refused(tmp_path):
    """ONNX counts with the size that is not whole, ONNX Runtime with the whole one."""
    model = one("Resize", coordinate_transformation_mode="align_corners", mode="linear")
    model.graph.node[0].input.extend(["", "scales"])
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 0.6, 0.6], np.float32), "scales"))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    with pytest.raises(EnvironmentProblem, match="aligns corners"):
        open_session("torch", path).run({"x0": x})


def test_a_fault_at_a_run_names_the_node(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(one("Concat", 2, axis=5).SerializeToString())
    with pytest.raises(ConvkitError, match="::Concat 'here'"):
        open_session("torch", path).run({name: np.zeros((2, 2), np.float32) for name in ("x0", "x1")})
