"""int8: what is quantised and what is not and why, with which scales, and that the graph computes what it says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.graphs import make_model, node, run_model
from support.quantisable import chain, feeds, products, residual_network, weights

from convkit.backends import open_session
from convkit.errors import ConversionError, InputError, RewriteError, SettingError
from convkit.graph import INT8_KEY, apply_rewrite, metadata_of
from convkit.graph.precision import To16Bit, ToInt8, calibrate, quantize

SHAPE = (2, 3, 16, 24)


@pytest.fixture(scope="module")
def samples() -> list[dict[str, np.ndarray]]:
    return feeds(4, *SHAPE)


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def makers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: each for each in model.graph.node for name in each.output}


def quantised_from(model: onnx.ModelProto, name: str, place: int = 0) -> tuple[str, Any] | None:
    """Return the tensor and the scale that an input of a node is quantised from and with; None if it is not."""
    (reader,) = (each for each in model.graph.node if each.name == name)
    found = makers(model)
    back = found.get(reader.input[place])
    if back is None or back.op_type != "DequantizeLinear":
        return None
    scale = constants(model)[back.input[1]]
    whole = found.get(back.input[0])
    return (whole.input[0] if whole is not None else "", scale)


def excluded(model: onnx.ModelProto) -> dict[str, str]:
    return {each.name: text for each in model.graph.node if (text := metadata_of(each, INT8_KEY))}


def test_every_convolution_is_int8_but_for_those_that_are_sensitive(samples):
    model, records = quantize(residual_network(), samples, method="minmax", low="fp32")
    onnx.checker.check_model(model, full_check=True)
    (record,) = records
    reasons = {
        "stem": "it is the first layer: it reads the input of the network",
        "size.2": "it is the last layer before an output",
        "heat.0": "Equal 'equal' decides on its result",
    }
    assert excluded(model) == reasons
    assert record.near_misses == [f"{name}: {reasons[name]}" for name in ("stem", "heat.0", "size.2")]
    expected = {"a.1", "a.2", "b.short", "b.1", "b.2", "mix", "up", "size.0"}
    quantised = {each.name for each in model.graph.node if each.op_type in ("Conv", "ConvTranspose")} - set(reasons)
    assert quantised == expected
    assert record.fired == len(expected)
    for name in expected:
        assert quantised_from(model, name) is not None, name
        assert quantised_from(model, name, 1) is not None, name
    for name in reasons:
        assert quantised_from(model, name) is None, f"{name} reads what was not quantised"


def test_everything_is_symmetric_and_no_bias_is_quantised(samples):
    model, _ = quantize(residual_network(), samples, low="fp32")
    held = constants(model)
    for each in model.graph.node:
        if each.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = held[each.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
            assert (held[each.input[1]] > 0).all()
        if each.op_type == "DequantizeLinear" and each.input[0] in held:
            assert np.abs(held[each.input[0]].astype(int)).max() == 127
        if each.op_type == "Conv" and len(each.input) > 2:
            assert held[each.input[2]].dtype == np.float32
    assert {each.op_type for each in model.graph.node} == {
        "Add", "Concat", "Conv", "ConvTranspose", "DequantizeLinear", "Equal", "MaxPool", "QuantizeLinear", "Relu",
        "Where",
    }  # fmt: skip
    assert (
        Counter(each.input[0] for each in model.graph.node if each.op_type == "QuantizeLinear").most_common(1)[0][1]
        == 1
    )


def test_the_shortcut_of_a_sum_is_quantised_and_the_convolution_before_it_is_not(samples):
    model, _ = quantize(residual_network(), samples, low="fp32")
    assert quantised_from(model, "a.add", 0) is None
    shortcut = quantised_from(model, "a.add", 1)
    assert shortcut is not None
    assert shortcut[0] == "r"
    assert shortcut[1] == quantised_from(model, "a.1")[1], "one tensor has one scale"
    assert quantised_from(model, "b.add", 1) is None, "b.2 is the longer way"
    assert quantised_from(model, "b.add", 0)[0] == "d"


def test_the_inputs_of_a_concat_share_the_scale_of_its_result(samples):
    model, _ = quantize(residual_network(), samples, method="minmax", low="fp32")
    found = [quantised_from(model, "concat", place) for place in range(3)] + [quantised_from(model, "mix")]
    assert [each[0] for each in found] == ["b", "p", "b1r", "c"]
    assert len({float(each[1]) for each in found}) == 1
    assert quantised_from(model, "b.2")[1] == found[0][1], "b1r has one scale, wherever it is read"


def test_scales_and_weights_are_those_of_onnxruntime(tmp_path, samples):
    """Its own tool, by MinMax, on a network where both quantise the same."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        rest = iter(samples)

        def get_next(self):
            return next(self.rest, None)

    onnx.save(chain(), tmp_path / "float.onnx")
    quantize_static(
        tmp_path / "float.onnx", tmp_path / "int8.onnx", Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, nodes_to_exclude=["conv0", "conv3"],
        op_types_to_quantize=["Conv"],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )  # fmt: skip
    theirs = onnx.load(tmp_path / "int8.onnx")
    ours, _ = quantize(chain(), samples, method="minmax", low="fp32")
    for name in ("conv1", "conv2"):
        for place in (0, 1):
            np.testing.assert_allclose(
                quantised_from(ours, name, place)[1], quantised_from(theirs, name, place)[1], rtol=1e-6
            )
        whole = []
        for model in (ours, theirs):
            (conv,) = (each for each in model.graph.node if each.name == name)
            whole.append(constants(model)[makers(model)[conv.input[1]].input[0]].astype(int))
        assert np.abs(whole[0] - whole[1]).max() <= 1, "a value between two whole numbers rounds either way"
        assert (whole[0] != whole[1]).mean() < 0.02
    x = feeds(1, *SHAPE)[0]
    ours_y, theirs_y, exact = (run_model(model, **x)["y"] for model in (ours, theirs, chain()))
    assert np.linalg.norm(ours_y - exact) <= 1.05 * np.linalg.norm(theirs_y - exact), "theirs rounds results, too"


def test_scales_are_numbers_of_the_type_around_them_and_clip_nothing(samples):
    import ml_dtypes

    exact = calibrate(residual_network(), samples, method="minmax")
    for low, dtype in (("fp16", np.float16), ("bf16", ml_dtypes.bfloat16)):
        model, _ = apply_rewrite(residual_network(), ToInt8(exact.thresholds, low))
        held = constants(model)
        for each in model.graph.node:
            if each.op_type == "DequantizeLinear":
                scale = held[each.input[1]]
                np.testing.assert_array_equal(scale, scale.astype(dtype).astype(np.float32))
        for name in ("a.1", "up", "size.0"):
            tensor, scale = quantised_from(model, name)
            assert exact.thresholds[tensor] <= 127 * scale <= exact.thresholds[tensor] * (1 + 2.0**-7)


@pytest.mark.parametrize(("make", "shape"), [(residual_network, SHAPE), (products, (5, 16))])
def test_pytorch_and_onnxruntime_compute_the_same_of_it(make, shape, tmp_path):
    """The torch backend against ONNX Runtime with optimisations off; both near the float32 network."""
    model, _ = quantize(make(), feeds(4, *shape), low="fp32")
    onnx.save(model, tmp_path / "model.onnx")
    session = open_session("torch", tmp_path / "model.onnx")
    for feed in feeds(2, *shape):
        found, expected, exact = session.run(feed), run_model(model, **feed), run_model(make(), **feed)
        for name in ("size", "y"):
            if name in exact:
                # Between the two, few values lie so near to a tie that they round to another whole number.
                apart = found[name] - expected[name]
                assert np.linalg.norm(apart) < 0.01 * np.linalg.norm(exact[name])
                assert np.median(np.abs(apart)) < 1e-5
                assert np.linalg.norm(found[name] - exact[name]) < 0.12 * np.linalg.norm(exact[name])


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_it_computes_its_definition_in_float64(backend, tmp_path):
    """A product of matrices by hand: round, multiply whole numbers, scale.

    Left to itself, ONNX Runtime adds int8 products in 16 bits on processors without VNNI, and they overflow.
    """
    nodes = [
        node("MatMul", ["x", "w0"], ["a"], name="first"),
        node("MatMul", ["a", "w1"], ["b"], name="middle"),
        node("MatMul", ["b", "w2"], ["y"], name="last"),
    ]
    held = {"w0": np.eye(64, dtype=np.float32), "w1": np.abs(weights(64, 64)), "w2": np.eye(64, dtype=np.float32)}
    model, _ = quantize(
        make_model(nodes, {"x": ["n", 64]}, {"y": ["n", 64]}, held), feeds(3, 4, 64), method="minmax", low="fp32"
    )
    onnx.save(model, tmp_path / "model.onnx")
    x = np.abs(feeds(1, 64, 64)[0]["x"])
    (_, scale), (_, scales) = quantised_from(model, "middle"), quantised_from(model, "middle", 1)
    np.testing.assert_allclose(scales, np.abs(held["w1"]).max(axis=0) / 127, rtol=1e-6)
    whole = np.clip(np.rint(x.astype(np.float64) / scale), -128, 127) @ np.rint(held["w1"].astype(np.float64) / scales)
    found = open_session(backend, tmp_path / "model.onnx").run({"x": x})["y"]
    np.testing.assert_allclose(found, whole * scale * scales, rtol=0, atol=1e-5)


@pytest.mark.parametrize("low", ["fp16", "bf16"])
def test_the_rest_is_16_bit_without_a_cast_at_the_quantisation(low, samples, tmp_path):
    model, records = quantize(residual_network(), samples, low=low)
    onnx.checker.check_model(model, full_check=True)
    assert [record.name for record in records] == ["graph.to-int8", f"graph.to-{low}"]
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    number = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[low]
    found = makers(model)
    for each in model.graph.node:
        if each.op_type in ("Conv", "ConvTranspose"):
            assert types[each.output[0]] == (TensorProto.FLOAT if each.name == "heat.0" else number), each.name
        if each.op_type == "DequantizeLinear":
            assert types[each.output[0]] == number
        if each.op_type == "Cast":
            assert found.get(each.input[0], each).op_type not in ("DequantizeLinear", "QuantizeLinear")
    casts = [each for each in model.graph.node if each.op_type == "Cast"]
    assert len(casts) == 3, "the input, what the heat map reads, and the output size"
    onnx.save(model, tmp_path / "model.onnx")
    feed = feeds(1, *SHAPE)[0]
    exact, close = run_model(residual_network(), **feed), open_session("torch", tmp_path / "model.onnx").run(feed)
    assert np.linalg.norm(close["size"] - exact["size"]) < 0.12 * np.linalg.norm(exact["size"])


def test_applied_again_it_changes_nothing(samples):
    found = calibrate(residual_network(), samples)
    for low in ("fp32", "fp16"):
        model, record = apply_rewrite(residual_network(), ToInt8(found.thresholds, low))
        assert record.fired == 8
        again, second = apply_rewrite(model, ToInt8(found.thresholds, low))
        assert again is model
        assert second.fired == 0
        typed, _ = apply_rewrite(model, To16Bit("fp16"))
        assert apply_rewrite(typed, To16Bit("fp16"))[0] is typed
        assert apply_rewrite(typed, ToInt8(found.thresholds, low))[0] is typed


@pytest.mark.parametrize("seed", range(4))
def test_it_does_not_depend_on_the_order_of_the_nodes(seed, samples):
    thresholds = calibrate(residual_network(), samples).thresholds
    model, generator = residual_network(), np.random.default_rng(seed)
    waiting, made = list(model.graph.node), {each.name for each in (*model.graph.input, *model.graph.initializer)}
    order = []
    while waiting:
        ready = [place for place, each in enumerate(waiting) if made.issuperset(each.input)]
        order.append(waiting.pop(generator.choice(ready)))
        made.update(order[-1].output)
    shuffled = onnx.ModelProto()
    shuffled.CopyFrom(model)
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(order)
    changed, expected = (apply_rewrite(each, ToInt8(thresholds, "fp16"))[0] for each in (shuffled, model))
    assert [each.name for each in changed.graph.node] != [each.name for each in expected.graph.node]
    names = [Counter(each.op_type for each in found.graph.node) for found in (changed, expected)]
    assert names[0] == names[1]
    for each in model.graph.node:
        if each.op_type in ("Conv", "ConvTranspose", "Add", "Concat"):
            for place in range(len(each.input)):
                ours, theirs = (quantised_from(found, each.name, place) for found in (changed, expected))
                assert (ours is None) == (theirs is None)
                assert ours is None or (ours[0] == theirs[0] and np.array_equal(ours[1], theirs[1]))


def test_an_output_of_the_graph_may_be_quantised_for_others(samples):
    model = residual_network()
    model.graph.output.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", 8, "h", "v"]))
    for low in ("fp32", "fp16"):
        result, _ = quantize(model, samples, low=low)
        onnx.checker.check_model(result, full_check=True)
        source, _ = quantised_from(result, "b.1")
        assert source == {"fp32": "a", "fp16": "a.float16"}[low], (
            "others read it before it is cast to the output's type"
        )


def test_nodes_are_excluded_and_kept_by_name(samples):
    model, records = quantize(residual_network(), samples, exclude=["a.2"], keep=["up"])
    reasons = excluded(model)
    assert reasons["a.2"] == reasons["up"] == "it is excluded by name"
    assert quantised_from(model, "a.add", 1) is None, "there is nothing to compute in one pass"
    assert "up: it is kept by name" in records[1].near_misses
    for unknown in ({"exclude": ["a.3"]}, {"keep": ["a.3"]}):
        with pytest.raises(SettingError, match=r"no node 'a\.3'") as caught:
            quantize(residual_network(), samples, **unknown)
        assert "Did you mean 'a.1'?" in caught.value.hint or "Did you mean 'a.2'?" in caught.value.hint


def offsets() -> onnx.ModelProto:
    """A deformable convolution with offsets and mask of one convolution, and a GridSample."""
    nodes = [
        node("Conv", ["x", "w0"], ["f"], name="stem", pads=[1, 1, 1, 1]),
        node("Conv", ["f", "w1"], ["o"], name="offsets", pads=[1, 1, 1, 1]),
        node("Slice", ["o", "zero", "eighteen", "one"], ["xy"], name="xy"),
        node("Slice", ["o", "eighteen", "end", "one"], ["m"], name="m"),
        node("Sigmoid", ["m"], ["mask"], name="mask"),
        node("DeformConv", ["f", "w2", "xy", "b2", "mask"], ["d"], name="deform", pads=[1, 1, 1, 1]),
        node("Conv", ["d", "w3"], ["g"], name="grid", pads=[1, 1, 1, 1]),
        node("Transpose", ["g"], ["t"], name="turn", perm=[0, 2, 3, 1]),
        node("GridSample", ["d", "t"], ["q"], name="sample"),
        node("Conv", ["q", "w4"], ["e"], name="inner", pads=[1, 1, 1, 1]),
        node("Conv", ["e", "w5"], ["y"], name="head"),
    ]
    held = {
        "w0": weights(4, 3, 3, 3), "w1": weights(27, 4, 3, 3), "w2": weights(4, 4, 3, 3), "b2": weights(4),
        "w3": weights(2, 4, 3, 3), "w4": weights(4, 4, 3, 3, seed=1), "w5": weights(2, 4, 1, 1), "zero": np.array([0]),
        "eighteen": np.array([18]), "end": np.array([27]), "one": np.array([1]),
    }  # fmt: skip
    return make_model(nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 2, 8, 8]}, held)


def test_what_says_where_to_sample_is_not_quantised():
    model, _ = quantize(offsets(), feeds(2, 1, 3, 8, 8))
    assert excluded(model) == {
        "stem": "it is the first layer: it reads the input of the network",
        "offsets": "DeformConv 'deform' samples where its result says",
        "deform": "engines have no int8 DeformConv",
        "grid": "GridSample 'sample' samples where its result says",
        "head": "it is the last layer before an output",
    }
    assert quantised_from(model, "inner")[0] == "q"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda held: held.update(w1=np.full((4, 4, 3, 3), np.inf, np.float32)), "its weights are not finite"),
        (lambda held: held.pop("w1"), "its weights are not constant"),
    ],
)
def test_other_weights_are_left_alone(change, reason):
    nodes = [
        node("Conv", ["x", "w0"], ["a"], name="first"), node("Conv", ["a", "w1"], ["b"], name="odd"),
        node("Conv", ["b", "w2"], ["c"], name="middle"), node("Conv", ["c", "w0b"], ["y"], name="last"),
    ]  # fmt: skip
    held = {"w0": weights(4, 4, 1, 1), "w1": weights(4, 4, 3, 3), "w2": weights(4, 4, 1, 1, seed=1),
            "w0b": weights(4, 4, 1, 1, seed=2)}  # fmt: skip
    change(held)
    inputs = {"x": [1, 4, 8, 8]} | ({} if "w1" in held else {"w1": [4, 4, 3, 3]})
    model = make_model(nodes, inputs, {"y": [1, 4, 6, 6]}, held)
    result, record = apply_rewrite(model, ToInt8({"b": 1.0}))
    assert excluded(result)["odd"] == reason
    assert record.fired == 1


def test_nothing_to_quantise_is_an_error_with_the_reasons():
    model = make_model(
        [node("Conv", ["x", "w"], ["y"], name="only")],
        {"x": [1, 3, 4, 4]},
        {"y": [1, 4, 4, 4]},
        {"w": weights(4, 3, 1, 1)},
    )
    with pytest.raises(ConversionError, match="Nothing of the model can become int8: only"):
        quantize(model, feeds(1, 1, 3, 4, 4))
    plain = make_model([node("Relu", ["x"], ["y"], name="relu")], {"x": [2]}, {"y": [2]})
    with pytest.raises(ConversionError, match="it has no convolution"):
        quantize(plain, feeds(1, 2))


def test_values_that_overflow_are_named_with_the_sample(samples):
    large = {"x": samples[0]["x"] * np.float32(1e38)}
    with pytest.raises(
        ConversionError, match=r"'\w+' has (infinite values|values that are no numbers) .* ?on sample 1"
    ):
        quantize(residual_network(), [samples[0], large])


def test_no_samples_and_tensors_without_a_threshold_are_errors():
    with pytest.raises(InputError, match="no samples"):
        quantize(residual_network(), [])
    with pytest.raises(RewriteError, match="nothing is known of its values"):
        apply_rewrite(residual_network(), ToInt8({}))


def test_a_model_that_is_quantised_or_16_bit_is_refused(samples):
    model, _ = quantize(residual_network(), samples, low="fp32")
    with pytest.raises(SettingError, match=r"quantised already: it has (De)?[qQ]uantizeLinear"):
        quantize(model, samples)
    model, _ = apply_rewrite(residual_network(), To16Bit("fp16"))
    with pytest.raises(SettingError, match="16-bit already"):
        quantize(model, samples)
    with pytest.raises(SettingError, match="precision cannot be 'int4'"):
        quantize(residual_network(), samples, low="int4")


def test_samples_are_read_one_by_one_and_nothing_is_printed_or_left(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    alive: list[np.ndarray] = []

    def stream():
        import weakref

        for feed in feeds(5, *SHAPE):
            assert sum(reference() is not None for reference in alive) <= 1
            array = feed["x"].copy()
            alive.append(weakref.ref(array))
            feed = {"x": array}
            del array
            yield feed
            del feed

    quantize(residual_network(), stream())
    assert len(alive) == 5
    assert list(Path(tmp_path).iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_samples_of_several_sizes_and_an_activation_that_is_always_0():
    mixed = [*feeds(1, 1, 3, 8, 8), *feeds(1, 3, 3, 12, 20), {"x": np.zeros((1, 3, 8, 8), np.float32)}]
    model, _ = quantize(residual_network(), mixed)
    onnx.checker.check_model(model, full_check=True)
    dead = residual_network()
    for tensor in dead.graph.initializer:
        if tensor.name in ("wa1", "ba"):
            tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name))
    model, _ = quantize(dead, mixed, low="fp32")
    assert quantised_from(model, "a.2")[1] == 1
    feed = feeds(1, *SHAPE)[0]
    assert np.isfinite(run_model(model, **feed)["size"]).all()


def test_the_opset_is_raised_for_bfloat16_alone(samples):
    for low, opset in (("fp16", 20), ("bf16", 22), ("fp32", 20)):
        model, _ = quantize(residual_network(), samples[:1], low=low)
        assert model.opset_import[0].version == opset
    assert helper.make_opsetid("", 22) in model.opset_import or model.opset_import[0].version == 20
