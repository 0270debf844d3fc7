"""What TensorRT-RTX 1.7.1 accepts and builds as something else: the rows of a table in docs/tensorrt.md, as data.

A fault has node tests of the ONNX standard, a model of its own, or both; a ``healed`` model says the same in a way that
is built rightly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Case = tuple[onnx.ModelProto, dict[str, np.ndarray]]
VERSION = "1.7.1.116"


@dataclass(frozen=True)
class ParserFault:
    """A row of the table: its title, the operator of the node, and the tests of the standard that show it."""

    title: str
    operator: str
    tests: tuple[str, ...] = ()
    model: Callable[[], Case] | None = None
    healed: Callable[[], Case] | None = None


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def _case(
    operator: str,
    inputs: Mapping[str, np.ndarray],
    constants: Sequence[Any] = (),
    *,
    outputs: int = 1,
    opset: int = 20,
    **attributes: Any,
) -> Callable[[], Case]:
    """Return what makes a model of one node: its inputs, then constants (None for one that is left out)."""

    def make() -> Case:
        names = list(inputs)
        held = []
        for index, value in enumerate(constants):
            names.append("" if value is None else f"k{index}")
            if isinstance(value, onnx.TensorProto):
                value.name = f"k{index}"
                held.append(value)
            elif value is not None:
                held.append(numpy_helper.from_array(np.asarray(value), f"k{index}"))
        results = [f"y{index}" for index in range(outputs)]
        node = helper.make_node(operator, names, results, name="it", **attributes)
        return _model([node], inputs, results, held, opset), dict(inputs)

    return make


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[str],
    constants: Sequence[onnx.TensorProto] = (),
    opset: int = 20,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes), "fault",
        [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
         for name, value in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs], list(constants),
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model)
    for value in model.graph.output:
        if not value.type.tensor_type.HasField("shape"):  # the scan output of a loop
            value.type.tensor_type.shape.dim.add().dim_param = "turns"
            value.type.tensor_type.shape.dim.add().dim_value = 4
    onnx.checker.check_model(model)
    return model


def _codes(kind: int, numbers: Sequence[float], *, raw: bool) -> Callable[[], Case]:
    """Return what makes: float32 of an 8-bit constant, written as the specification's int32 items or as bytes."""

    def make() -> Case:
        tensor = helper.make_tensor("codes", kind, [len(numbers)], np.array(numbers))
        if raw:
            data = bytes(int(item) for item in tensor.int32_data)
            tensor = helper.make_tensor("codes", kind, [len(numbers)], data, raw=True)
        x = {"x": _random(2, len(numbers))}
        nodes = [helper.make_node("Cast", ["codes"], ["k"], name="it", to=TensorProto.FLOAT),
                 helper.make_node("Add", ["x", "k"], ["y0"], name="sum")]  # fmt: skip
        return _model(nodes, x, ["y0"], [tensor]), x

    return make


def _loop(*, early: bool) -> Callable[[], Case]:
    """Return what makes a loop of five turns at most, which its condition ends after the third if ``early``."""

    def make() -> Case:
        scalar, vector = [], [4]
        value = helper.make_tensor_value_info
        body = helper.make_graph(
            [helper.make_node("Add", ["sum", "x"], ["sum_out"], name="add"),
             helper.make_node("Less", ["turn", "last"], ["go_on"], name="less"),
             helper.make_node("Identity", ["sum_out"], ["each"], name="each")],
            "body",
            [value("turn", TensorProto.INT64, scalar), value("going", TensorProto.BOOL, scalar),
             value("sum", TensorProto.FLOAT, vector)],
            [value("go_on", TensorProto.BOOL, scalar), value("sum_out", TensorProto.FLOAT, vector),
             value("each", TensorProto.FLOAT, vector)],
        )  # fmt: skip
        constants = {"turns": np.int64(5), "start": np.array(True), "last": np.int64(2 if early else 9)}
        x = {"x": _random(4)}
        node = helper.make_node("Loop", ["turns", "start", "x"], ["y0", "y1"], body=body, name="it")
        held = [numpy_helper.from_array(np.asarray(item), name) for name, item in constants.items()]
        return _model([node], x, ["y0", "y1"], held), x

    return make


_IMAGE = {"x": _random(2, 4, 5, 6)}
_HALF_IMAGE = {"x": _random(2, 4, 5, 6).astype(np.float16)}
_BRAIN_IMAGE = {"x": _random(2, 4, 5, 6).astype(ml_dtypes.bfloat16)}
_BOUND = np.array(0.5, ml_dtypes.bfloat16)
_BOXES = {
    "boxes": np.array([[[0, 0, 1, 1], [0, 0.1, 1, 1.1], [0, 2, 1, 3]]], np.float32),
    "scores": np.array([[[0.9, -0.2, -0.5]]], np.float32),
}
_WEIGHTS = [_random(1, 18, 4), _random(1, 18, 6)]

FAULTS = (
    ParserFault(
        "Trilu without `upper`",
        "Trilu",
        tuple(f"test_{name}" for name in ("triu", "triu_neg", "triu_one_row", "triu_out_neg_out", "triu_out_pos",
                                          "triu_pos", "triu_square", "triu_square_neg")),
        _case("Trilu", _IMAGE), _case("Trilu", _IMAGE, upper=1),
    ),
    ParserFault(
        "Selu without `alpha` and `gamma`", "Selu", ("test_selu_default",), _case("Selu", _IMAGE),
        _case("Selu", _IMAGE, alpha=1.6732632423543772, gamma=1.0507009873554805),
    ),
    ParserFault(
        "pooling with `ceil_mode` whose last window begins in the padding or outside",
        "MaxPool",
        ("test_averagepool_2d_ceil_last_window_starts_on_pad", "test_maxpool_2d_ceil_output_size_reduce_by_one"),
        _case("MaxPool", _IMAGE, kernel_shape=[1, 1], strides=[2, 3], ceil_mode=1),
        _case("MaxPool", _IMAGE, kernel_shape=[1, 1], strides=[2, 3]),
    ),
    ParserFault(
        "ConvTranspose with `output_shape` and `auto_pad`", "ConvTranspose", (),
        _case("ConvTranspose", _IMAGE, [_random(4, 3, 3, 3)], strides=[2, 2], output_shape=[9, 11],
              auto_pad="SAME_UPPER"),
        _case("ConvTranspose", _IMAGE, [_random(4, 3, 3, 3)], strides=[2, 2], pads=[1, 1, 1, 1]),
    ),
    ParserFault(
        "Mean of several float16 or bfloat16 inputs", "Mean", (),
        _case("Mean", _HALF_IMAGE, [np.ones(6, np.float16), np.ones(1, np.float16)]),
        _case("Mean", _IMAGE, [np.ones(6, np.float32), np.ones(1, np.float32)]),
    ),
    ParserFault(
        "Clip of bfloat16 with a bound left out by an empty name", "Clip", (),
        _case("Clip", _BRAIN_IMAGE, [None, _BOUND]), _case("Clip", _BRAIN_IMAGE, [-_BOUND, _BOUND]),
    ),
    ParserFault(
        "GlobalLpPool with an odd `p`", "GlobalLpPool", (), _case("GlobalLpPool", _IMAGE, p=3),
        _case("GlobalLpPool", _IMAGE, p=2),
    ),
    ParserFault(
        "ReduceL1, ReduceL2, ReduceLogSum, ReduceSumSquare with `noop_with_empty_axes` and no axes", "ReduceL2", (),
        _case("ReduceL2", _IMAGE, noop_with_empty_axes=1), _case("ReduceL2", _IMAGE, [np.array([0])]),
    ),
    ParserFault(
        "Resize 11 and 12 with `tf_half_pixel_for_nn` and another mode than `nearest`", "Resize", (),
        _case("Resize", _IMAGE, [np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32)], opset=11, mode="linear",
              coordinate_transformation_mode="tf_half_pixel_for_nn"),
        _case("Resize", _IMAGE, [np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32)], opset=11, mode="linear",
              coordinate_transformation_mode="half_pixel"),
    ),
    ParserFault(
        "NonMaxSuppression without a largest number of boxes", "NonMaxSuppression", (),
        _case("NonMaxSuppression", _BOXES), _case("NonMaxSuppression", _BOXES, [np.int64(0)]),
    ),
    ParserFault(
        "NonMaxSuppression without a score threshold, on scores below zero", "NonMaxSuppression", (),
        _case("NonMaxSuppression", _BOXES, [np.int64(3)]),
        _case("NonMaxSuppression", _BOXES, [np.int64(3), None, np.float32(-9)]),
    ),
    ParserFault(
        "RNN, GRU and LSTM with `layout` 1", "GRU",
        ("test_gru_batchwise", "test_lstm_batchwise", "test_simple_rnn_batchwise"),
        _case("GRU", {"x": _random(3, 1, 4)}, _WEIGHTS, outputs=2, hidden_size=6, layout=1),
        _case("GRU", {"x": _random(3, 1, 4)}, _WEIGHTS, outputs=2, hidden_size=6),
    ),
    ParserFault(
        "Loop that ends before its trip count", "Loop", (), _loop(early=True), _loop(early=False),
    ),
    ParserFault("Loop whose condition is an input of the graph", "", ("test_loop11",)),
    ParserFault(
        "initializers of uint8 and float8 that are not written as raw bytes", "Cast", (),
        _codes(TensorProto.UINT8, [1, 2, 3, 200], raw=False), _codes(TensorProto.UINT8, [1, 2, 3, 200], raw=True),
    ),
    ParserFault(
        "QuantizeLinear with a zero point of uint8 that is an input", "QuantizeLinear",
        ("test_quantizelinear", "test_quantizelinear_axis", "test_quantizelinear_blocked_asymmetric"),
    ),
    ParserFault(
        "Cast and CastLike to float8 with `saturate` 0", "Cast",
        tuple(f"test_{name}" for name in (
            "cast_no_saturate_FLOAT_to_FLOAT8E4M3FN", "cast_no_saturate_FLOAT16_to_FLOAT8E4M3FN",
            "castlike_no_saturate_FLOAT_to_FLOAT8E4M3FN", "castlike_no_saturate_FLOAT_to_FLOAT8E4M3FN_expanded",
            "castlike_no_saturate_FLOAT16_to_FLOAT8E4M3FN", "castlike_no_saturate_FLOAT16_to_FLOAT8E4M3FN_expanded",
        )),
    ),
    ParserFault("SpaceToDepth with `mode`", "SpaceToDepth", ("test_spacetodepth_crd_mode_example",)),
    ParserFault(
        "Attention with `left_window_size` or `right_window_size`", "Attention",
        ("test_attention_local_window", "test_attention_bidirectional_window"),
    ),
    ParserFault(
        "Attention with `nonpad_kv_seqlen`", "Attention",
        ("test_attention_4d_gqa_causal_nonpad_decode", "test_attention_4d_gqa_causal_nonpad_decode_fp16",
         "test_attention_4d_causal_nonpad_continued_prefill", "test_attention_4d_causal_nonpad_batch_prefill",
         "test_attention_4d_causal_nonpad_negative_offset_structural_empty"),
    ),
)  # fmt: skip
"""Faults of the parser: what it builds is not what the model says, by TensorRT's own description of what it built."""

UNSPECIFIED = {
    "test_attention_23_boolmask_fullymasked_row_nan_robustness": "a row whose mask lets nothing through",
    **dict.fromkeys(
        ("test_cast_FLOAT_to_FLOAT4E2M1", "test_cast_FLOAT16_to_FLOAT4E2M1", "test_castlike_FLOAT_to_FLOAT4E2M1",
         "test_castlike_FLOAT_to_FLOAT4E2M1_expanded", "test_castlike_FLOAT16_to_FLOAT4E2M1",
         "test_castlike_FLOAT16_to_FLOAT4E2M1_expanded"),
        "not-a-number as float4, which has none",
    ),
}  # fmt: skip
"""Node tests that differ where TensorRT does not say what it computes."""

NOT_REPLAYED = {
    "test_bernoulli_double_expanded": "FILL RANDOM_UNIFORM",
    "test_bernoulli_seed_expanded": "FILL RANDOM_UNIFORM",
}
"""Node tests whose network has something without a replay."""
