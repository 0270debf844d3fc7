"""Ranges of shapes and compute capabilities: what people write is checked before TensorRT sees it."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from support.graphs import make_model, node

from convkit.backends.tensorrt import GraphInput, find_flavour, graph_inputs, parse_ranges, parse_targets
from convkit.errors import ConversionError, SettingError

IMAGE = GraphInput("images", TensorProto.FLOAT, ("batch", 3, "height", None))
TOKENS = GraphInput("tokens", TensorProto.INT64, ("batch", 8))
FIXED = GraphInput("scale", TensorProto.FLOAT, (4, 1))
RTX = find_flavour("tensorrt-rtx")


def test_ranges_of_dimensions_and_of_inputs():
    ranges = parse_ranges([IMAGE, TOKENS, FIXED], ["batch=1:2:4", "images=1x3x8x8:2x3x16x8:4x3x32x9"])
    assert ranges == {
        "images": ((1, 3, 8, 8), (2, 3, 16, 8), (4, 3, 32, 9)),
        "tokens": ((1, 8), (2, 8), (4, 8)),
        "scale": ((4, 1), (4, 1), (4, 1)),
    }


def test_one_size_is_a_range():
    assert parse_ranges([TOKENS], ["batch=3"]) == {"tokens": ((3, 8), (3, 8), (3, 8))}


def test_names_may_have_equals_signs_and_dots():
    given = GraphInput("a=b.0", TensorProto.FLOAT, ("n.1",))
    assert parse_ranges([given], ["n.1=1:2:3"]) == {"a=b.0": ((1,), (2,), (3,))}
    assert parse_ranges([given], ["a=b.0=5"]) == {"a=b.0": ((5,), (5,), (5,))}


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["batch=4:2:8"], "range 4:2:8"),
        (["batch=2:4:3"], "range 2:4:3"),
        (["batch=0:1:2"], "range 0:1:2"),
        (["batch=1:2"], "not a shape"),
        (["batch"], "not a shape"),
        (["batch=-1"], "not a shape"),
        (["=3"], "not a shape"),
        (["depth=3"], "no input and no dimension 'depth'"),
        (["batch=1", "batch=2"], "twice"),
        (["tokens=1x8x8"], "3 dimensions"),
        (["tokens=1x9"], "fixes at 8"),
        (["tokens=1x8:2x8x1:3x8"], "different ranks"),
        (["tokens=0x8"], "on axis 0"),
        (["batch=2x2"], "no input and no dimension"),
        ([], "no range is given"),
    ],
)
def test_what_cannot_be_is_refused(texts, says):
    with pytest.raises(SettingError, match=says) as caught:
        parse_ranges([TOKENS], texts)
    assert caught.value.hint


def test_a_dimension_without_a_name_is_asked_for_by_its_input():
    with pytest.raises(SettingError) as caught:
        parse_ranges([IMAGE], ["batch=1", "height=8"])
    assert "--shape images=" in caught.value.hint


def test_inputs_are_those_that_a_caller_feeds():
    model = make_model(
        [node("Add", ["x", "w"], ["y"])], {"x": ("batch", 4)}, {"y": ("batch", 4)}, {"w": np.ones(4, np.float32)}
    )
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4]))
    assert graph_inputs(model) == [GraphInput("x", TensorProto.FLOAT, ("batch", 4))]


def test_an_input_that_is_no_tensor_is_refused():
    model = make_model([node("Relu", ["x"], ["y"])], {"x": (2,)}, {"y": (2,)})
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [2]))
    model.graph.input.append(helper.make_value_info("s", kind))
    with pytest.raises(SettingError, match="'s' is not a tensor"):
        graph_inputs(model)


@pytest.mark.parametrize("text", ["sm86", "8.6", "SM_86", "86"])
def test_spellings_of_a_compute_capability(text):
    assert parse_targets(RTX, [text]) == ("sm86",)


def test_several_compute_capabilities():
    assert parse_targets(RTX, ["sm86,12.0", "sm86"]) == ("sm86", "sm120")
    assert parse_targets(RTX, []) == ("sm80", "sm86", "sm89", "sm120")


@pytest.mark.parametrize("text", ["sm90", "9.0", "sm100", "sm70"])
def test_others_are_refused_with_those_that_there_are(text):
    with pytest.raises(ConversionError) as caught:
        parse_targets(RTX, [text])
    assert all(target in caught.value.hint for target in RTX.targets)


@pytest.mark.parametrize("text", ["ampere", "sm", "8", "sm8.66"])
def test_what_is_no_compute_capability(text):
    with pytest.raises(SettingError, match="not a compute capability"):
        parse_targets(RTX, [text])


def test_a_flavour_that_does_not_exist():
    with pytest.raises(SettingError, match="no TensorRT backend 'tensorrt-rx'") as caught:
        find_flavour("tensorrt-rx")
    assert "tensorrt-rtx" in caught.value.hint
