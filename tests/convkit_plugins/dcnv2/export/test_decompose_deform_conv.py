"""DeformConv by standard operators: both forms equal ONNX Runtime's kernel and the definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from support.deform_layers import DeformLayer
from support.graphs import op_types, run_model

from convkit.backends import open_session
from convkit.graph import PRECISION_KEY, NodeRewrite, RewriteRecord, apply_rewrite, metadata_of
from convkit.graph.precision import To16Bit
from convkit_plugins.dcnv2.export import DecomposeGather, DecomposeGridSample

FORMS = {"gather": DecomposeGather, "grid_sample": DecomposeGridSample}
both_forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
Form = type[NodeRewrite]

FULL = DeformLayer(
    channels=8, kernel=(3, 2), stride=(2, 1), pads=(0, 1, 2, 3), dilation=(1, 2), group=2, offset_group=4, size=(8, 10)
)
LAYERS = {
    "plain": DeformLayer(),
    "no mask": DeformLayer(mask=False),
    "no bias": DeformLayer(bias=False),
    "neither": DeformLayer(mask=False, bias=False),
    "one by one": DeformLayer(kernel=(1, 1), pads=(0, 0, 0, 0)),
    "tall kernel": DeformLayer(kernel=(4, 1), pads=(2, 0, 1, 0)),
    "single pixel": DeformLayer(size=(1, 1)),
    "single column": DeformLayer(size=(6, 1), batch=1),
    "everything": FULL,
    "depthwise": DeformLayer(channels=4, filters=4, group=4, offset_group=2),
    "opset 19": DeformLayer(opset=19),
    "opset 22": DeformLayer(opset=22),
}


def decompose(model: onnx.ModelProto, form: Form) -> tuple[onnx.ModelProto, RewriteRecord]:
    result, record = apply_rewrite(model, form())
    onnx.checker.check_model(result, full_check=True)
    return result, record


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference over the largest value; infinite where a result is not finite."""
    assert actual.shape == expected.shape
    assert np.isfinite(expected).all()
    difference = np.abs(actual.astype(np.float64) - expected).max()
    return float(difference / np.abs(expected).max()) if np.isfinite(difference) else float("inf")


@both_forms
@pytest.mark.parametrize("dynamic", ["", "n", "nhw"])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
def test_equals_the_kernel_of_onnx_runtime(layer: DeformLayer, dynamic: str, form: Form) -> None:
    model, feeds = replace(layer, dynamic=dynamic).model(), layer.feeds()
    decomposed, record = decompose(model, form)
    assert record.fired == 1
    assert "DeformConv" not in op_types(decomposed)
    assert relative_error(run_model(decomposed, **feeds)["y"], run_model(model, **feeds)["y"]) <= 1e-5


@both_forms
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
def test_equals_the_definition(layer: DeformLayer, form: Form) -> None:
    feeds = layer.feeds(seed=1)
    decomposed, _ = decompose(layer.model(), form)
    assert relative_error(run_model(decomposed, **feeds)["y"], layer.by_definition(feeds)) <= 1e-5


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def layers(draw: Callable[..., object]) -> DeformLayer:
    group, offset_group = draw(st.sampled_from([(1, 1), (2, 1), (1, 3), (2, 3), (3, 2), (6, 6)]))
    return DeformLayer(
        batch=draw(st.integers(1, 3)),
        channels=6 * draw(st.integers(1, 2)),
        filters=6,
        size=draw(st.tuples(st.integers(6, 12), st.integers(6, 12))),
        kernel=draw(pairs),
        stride=draw(pairs),
        pads=draw(st.tuples(*[st.integers(0, 2)] * 4)),
        dilation=draw(pairs),
        group=group,
        offset_group=offset_group,
        mask=draw(st.booleans()),
        bias=draw(st.booleans()),
        dynamic=draw(st.sampled_from(["", "n", "h", "w", "hw", "nhw"])),
        opset=draw(st.sampled_from([19, 20, 22])),
    )


@both_forms
@settings(max_examples=60, deadline=None, derandomize=True)
@given(layer=layers().filter(lambda layer: min(layer.output_size) > 0))
def test_equals_the_kernel_for_any_parameters(form: Form, layer: DeformLayer) -> None:
    model, feeds = layer.model(), layer.feeds()
    decomposed, _ = decompose(model, form)
    assert relative_error(run_model(decomposed, **feeds)["y"], run_model(model, **feeds)["y"]) <= 1e-5


@both_forms
@pytest.mark.parametrize("offset_group", [1, 2])
def test_one_graph_serves_every_batch_and_image_size(form: Form, offset_group: int) -> None:
    layer = DeformLayer(stride=(2, 1), offset_group=offset_group, dynamic="nhw")
    model = layer.model()
    decomposed, _ = decompose(model, form)
    for batch, size in ((1, (5, 5)), (3, (16, 4)), (2, (9, 30))):
        feeds = replace(layer, batch=batch, size=size).feeds()
        assert relative_error(run_model(decomposed, **feeds)["y"], run_model(model, **feeds)["y"]) <= 1e-5


SHAPE_ARITHMETIC = {"Shape", "Range", "Concat", "Mod"}


@both_forms
@pytest.mark.parametrize("layer", [DeformLayer(), FULL], ids=["plain", "everything"])
@pytest.mark.parametrize("dynamic", ["", "n"])
def test_fixed_image_sizes_need_no_shape_arithmetic(form: Form, dynamic: str, layer: DeformLayer) -> None:
    decomposed, _ = decompose(replace(layer, dynamic=dynamic).model(), form)
    assert not SHAPE_ARITHMETIC & set(op_types(decomposed))


@pytest.mark.parametrize(("form", "static", "dynamic"), [(DecomposeGather, 23, 36), (DecomposeGridSample, 12, 26)])
def test_the_graph_stays_small(form: Form, static: int, dynamic: int) -> None:
    assert len(decompose(DeformLayer().model(), form)[0].graph.node) <= static
    assert len(decompose(DeformLayer(dynamic="nhw").model(), form)[0].graph.node) <= dynamic
    grouped = DeformLayer(offset_group=2, dynamic="n")
    assert len(decompose(grouped.model(), form)[0].graph.node) <= static + 2


def test_gather_takes_no_index_from_an_offset_that_is_no_number() -> None:
    layer = DeformLayer()
    model, feeds = layer.model(), layer.feeds()
    feeds["offset"][0, ::3, 2:4] = np.nan
    decomposed, _ = decompose(model, DecomposeGather)
    result = run_model(decomposed, **feeds)["y"]
    assert relative_error(result, layer.by_definition(feeds)) <= 1e-5
    assert relative_error(result, run_model(model, **feeds)["y"]) <= 1e-5


@both_forms
def test_attributes_left_out_have_their_defaults(form: Form) -> None:
    layer = DeformLayer(pads=(0, 0, 0, 0))
    model, feeds = layer.model(), layer.feeds()
    del model.graph.node[0].attribute[:]
    decomposed, _ = decompose(model, form)
    assert relative_error(run_model(decomposed, **feeds)["y"], run_model(model, **feeds)["y"]) <= 1e-5


@both_forms
def test_output_sizes_come_from_the_features_where_the_offsets_have_none(form: Form) -> None:
    layer = replace(FULL, dynamic="n")
    model, feeds = layer.model(), layer.feeds()
    for value in (model.graph.input[1], model.graph.input[2], model.graph.output[0]):
        for axis, symbol in ((2, "rows"), (3, "columns")):
            value.type.tensor_type.shape.dim[axis].dim_param = symbol
    decomposed, _ = decompose(model, form)
    assert not SHAPE_ARITHMETIC & set(op_types(decomposed))
    assert relative_error(run_model(decomposed, **feeds)["y"], run_model(model, **feeds)["y"]) <= 1e-5


@both_forms
def test_large_images_do_not_store_a_position_for_every_sample(form: Form) -> None:
    layer = DeformLayer(batch=1, channels=1, filters=1, size=(150, 140))
    model, feeds = layer.model(), layer.feeds()
    decomposed, _ = decompose(model, form)
    assert decomposed.ByteSize() < 2**18
    assert relative_error(run_model(decomposed, **feeds)["y"], run_model(model, **feeds)["y"]) <= 1e-5


@both_forms
@pytest.mark.parametrize("dynamic", ["", "nhw"])
def test_half_precision_keeps_positions_and_interpolation_in_single(form: Form, dynamic: str) -> None:
    layer = DeformLayer(channels=8, offset_group=2, dtype=np.float16, dynamic=dynamic)
    feeds = layer.feeds()
    decomposed, _ = decompose(layer.model(), form)
    inferred = onnx.shape_inference.infer_shapes(decomposed, strict_mode=True)
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    narrow = {name for name, kind in kinds.items() if kind == TensorProto.FLOAT16}
    arithmetic = {"Add", "Sub", "Mul", "Abs", "Min", "Max", "Floor", "Clip", "GridSample", "ReduceSum", "ReduceProd"}
    assert not [node.name for node in decomposed.graph.node if node.op_type in arithmetic and narrow & {*node.output}]
    conv = next(node for node in decomposed.graph.node if node.op_type == "Conv")
    assert {*conv.input, *conv.output} & set(kinds) <= narrow

    result = run_model(decomposed, **feeds)["y"]
    assert result.dtype == np.float16
    assert relative_error(result, layer.by_definition(feeds)) <= 2e-3


@both_forms
def test_half_precision_finds_the_right_place_in_a_large_image(form: Form) -> None:
    """On a ramp, a position in half precision would be wrong by up to 0.25 at 400 and more."""
    layer = DeformLayer(1, 1, 1, (1, 512), (1, 1), pads=(0, 0, 0, 0), mask=False, bias=False, dtype=np.float16)
    offset = np.zeros((1, 2, 1, 512), np.float16)
    offset[0, 1, 0, :-1] = 0.125
    x = np.arange(512, dtype=np.float16).reshape(1, 1, 1, 512)
    model = layer.model()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float16), "weight"))
    decomposed, _ = decompose(model, form)
    columns = next(node.input[0] for node in decomposed.graph.node if node.op_type == "Conv")
    before = next((node.input[0] for node in decomposed.graph.node if node.output[0] == columns), columns)
    decomposed.graph.output.append(helper.make_tensor_value_info(before, TensorProto.FLOAT, None))
    found = run_model(decomposed, x=x, offset=offset)[before].reshape(-1)
    np.testing.assert_allclose(found, np.arange(512) + offset[0, 1, 0], atol=1e-4)


@both_forms
@pytest.mark.parametrize(("precision", "limit"), [("fp16", 2e-3), ("bf16", 1.5e-2)])
def test_a_typed_layer_samples_in_single_and_multiplies_in_16_bits(
    form: Form, precision: str, limit: float, tmp_path: Path
) -> None:
    """The layer as an engine gets it, run by PyTorch in these very types."""
    layer = DeformLayer(channels=8, offset_group=2, dynamic="nhw")
    kind = np.dtype(np.float16 if precision == "fp16" else ml_dtypes.bfloat16)
    feeds = {name: value.astype(kind).astype(np.float32) for name, value in layer.feeds().items()}
    typed, record = apply_rewrite(layer.model(), To16Bit(precision))
    assert record.fired == 1
    decomposed, _ = decompose(typed, form)
    inferred = onnx.shape_inference.infer_shapes(decomposed, strict_mode=True)
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    narrow = helper.np_dtype_to_tensor_dtype(kind)
    assert kinds["dcn.positions"] == TensorProto.FLOAT
    assert kinds["dcn.conv"] == narrow
    kept = [node for node in decomposed.graph.node if metadata_of(node, PRECISION_KEY)]
    assert any(node.name == "dcn.positions" for node in kept)
    onnx.save(decomposed, tmp_path / "typed.onnx")
    found = open_session("torch", tmp_path / "typed.onnx").run(feeds)["y"]
    assert 0 < relative_error(found, layer.by_definition(feeds)) <= limit


@both_forms
def test_new_nodes_are_called_after_the_old_one_and_its_metadata_stay(form: Form) -> None:
    model = DeformLayer(dynamic="nhw").model(name="/backbone/dcn")
    model.graph.node[0].metadata_props.add(key="namespace", value="backbone.dcn")
    decomposed, record = decompose(model, form)
    names = [node.name for node in decomposed.graph.node]
    assert all(name.startswith("/backbone/dcn.") for name in names)
    assert len(set(names)) == len(names)
    assert record.removed == ["/backbone/dcn"]
    last = next(node for node in decomposed.graph.node if "y" in node.output)
    assert [(entry.key, entry.value) for entry in last.metadata_props] == [("namespace", "backbone.dcn")]
    assert decomposed.graph.output == model.graph.output
    assert decomposed.graph.input == model.graph.input


@both_forms
def test_a_second_run_changes_nothing(form: Form) -> None:
    decomposed, _ = decompose(FULL.model(), form)
    again, record = decompose(decomposed, form)
    assert record.fired == 0
    assert again.SerializeToString() == decomposed.SerializeToString()


@both_forms
@pytest.mark.parametrize("name", ["dcn", ""])
def test_layers_of_one_name_that_share_a_weight_stay_apart(form: Form, name: str) -> None:
    layer = DeformLayer()
    model, feeds = layer.model(name), layer.feeds()
    model.graph.node.add().CopyFrom(model.graph.node[0])
    model.graph.node[1].output[0] = "z"
    model.graph.output.add().CopyFrom(model.graph.output[0])
    model.graph.output[1].name = "z"
    decomposed, record = decompose(model, form)
    assert record.fired == 2
    names = [node.name for node in decomposed.graph.node]
    assert len(set(names)) == len(names)
    expected = run_model(layer.model(), **feeds)["y"]
    for result in run_model(decomposed, **feeds).values():
        assert relative_error(result, expected) <= 1e-5


@both_forms
def test_a_weight_that_the_graph_computes_is_used_as_it_comes(form: Form) -> None:
    layer = replace(FULL, dynamic="n")
    model, feeds = layer.model(), layer.feeds()
    weight = model.graph.initializer[0]
    shape = list(weight.dims)
    model.graph.input.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, shape))
    feeds["weight"] = numpy_helper.to_array(weight)
    del model.graph.initializer[0]
    decomposed, _ = decompose(model, form)
    assert relative_error(run_model(decomposed, **feeds)["y"], run_model(model, **feeds)["y"]) <= 1e-5


def test_grid_sample_names_no_mode() -> None:
    """The name of the bilinear mode changed with opset 20, and parsers exist that misread the new one."""
    for opset in (19, 20, 22):
        decomposed, _ = decompose(DeformLayer(opset=opset).model(), DecomposeGridSample)
        node = next(node for node in decomposed.graph.node if node.op_type == "GridSample")
        assert "mode" not in {attribute.name for attribute in node.attribute}


def of_type(kind: int, opset: int = 22) -> onnx.ModelProto:
    model = DeformLayer(bias=False, opset=opset).model()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = kind
    weight = model.graph.initializer[0]
    value = np.zeros(tuple(weight.dims), helper.tensor_dtype_to_np_dtype(kind))
    weight.CopyFrom(numpy_helper.from_array(value, "weight"))
    return model


def weight_of_open_shape() -> onnx.ModelProto:
    model = DeformLayer(bias=False).model()
    del model.graph.initializer[0]
    model.graph.input.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, ["filters", 4, 3, 3]))
    return model


def without_types() -> onnx.ModelProto:
    """Return a graph whose DeformConv reads and makes only tensors of which nothing is recorded."""
    model = DeformLayer(bias=False, mask=False).model()
    del model.graph.initializer[0]
    model.graph.input.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, [6, 4, 3, 3]))
    node = model.graph.node.pop()
    before = [helper.make_node("Identity", [name], [f"{name}.same"], f"{name}.same") for name in node.input]
    node.input[:], node.output[:] = [f"{name}.same" for name in node.input], ["y.same"]
    model.graph.node.extend([*before, node, helper.make_node("Identity", ["y.same"], ["y"], "y.same")])
    return model


NO_MATCHES = {
    "unknown type": (without_types, "dcn: its element type is not known"),
    "float64": (lambda: of_type(TensorProto.DOUBLE), "dcn: its element type is float64; only float32 and 16-bit ones"),
    "open weight": (weight_of_open_shape, "dcn: the shape of its weight weight is not fixed"),
}


@both_forms
@pytest.mark.parametrize(("make", "reason"), NO_MATCHES.values(), ids=NO_MATCHES.keys())
def test_what_cannot_be_replaced_says_why(make: Callable[[], onnx.ModelProto], reason: str, form: Form) -> None:
    model = make()
    result, record = apply_rewrite(model, form())
    assert record.fired == 0
    assert len(record.near_misses) == 1
    assert record.near_misses[0].startswith(reason)
    assert result is model


@both_forms
def test_an_operator_of_another_domain_is_left_alone(form: Form) -> None:
    model = DeformLayer().model()
    model.graph.node[0].domain = "mmcv"
    model.opset_import.append(helper.make_opsetid("mmcv", 1))
    _, record = apply_rewrite(model, form())
    assert (record.fired, record.near_misses) == (0, [])
