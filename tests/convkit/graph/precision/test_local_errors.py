"""What quantisation costs each node by itself, and the limit that names a node."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.graphs import make_model, node, run_model
from support.quantisable import feeds, products, residual_network, weights

from convkit.backends import open_session
from convkit.errors import ConversionError
from convkit.graph.precision import SQNR_LIMIT, LocalError, local_errors, quantize, require_local

SHAPE = (2, 3, 16, 24)


def spoil_scale(model: onnx.ModelProto, name: str, factor: float) -> onnx.ModelProto:
    """Return the model with a scale multiplied."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    (tensor,) = (each for each in result.graph.initializer if each.name.startswith(f"{name}.scale"))
    tensor.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(tensor) * factor).astype(np.float32), tensor.name))
    return result


def test_the_error_is_that_of_the_definition_in_float64():
    """Of a product of matrices by hand, with the inputs of the float32 graph, over all samples."""
    nodes = [
        node("MatMul", ["x", "w0"], ["a"], name="first"), node("MatMul", ["a", "w1"], ["b"], name="one"),
        node("MatMul", ["b", "w2"], ["c"], name="two"), node("MatMul", ["c", "w0"], ["y"], name="last"),
    ]  # fmt: skip
    held = {"w0": weights(16, 16), "w1": weights(16, 16, seed=1), "w2": weights(16, 16, seed=2)}
    samples = feeds(3, 8, 16)
    model = make_model(nodes, {"x": ["n", 16]}, {"y": ["n", 16]}, held)
    quantised, _ = quantize(model, samples, method="minmax", low="fp32")
    found = {error.node: error.sqnr for error in local_errors(model, quantised, samples)}
    exact = {name: value.astype(np.float64) for name, value in held.items()}
    inputs = {"one": [feed["x"] @ held["w0"] for feed in samples]}
    inputs["two"] = [value @ held["w1"] for value in inputs["one"]]
    for name, weight in (("one", exact["w1"]), ("two", exact["w2"])):
        scale = max(np.abs(value).max() for value in inputs[name]) / 127
        scales = np.abs(weight).max(axis=0) / 127
        rounded = np.rint(weight / scales) * scales
        signal = noise = 0.0
        for value in inputs[name]:
            wanted = value.astype(np.float64) @ weight
            error = np.rint(value.astype(np.float64) / scale) * scale @ rounded - wanted
            signal, noise = signal + (wanted**2).sum(), noise + (error**2).sum()
        assert found[name] == pytest.approx(10 * math.log10(signal / noise), abs=0.05)
    assert set(found) == {"one", "two"}


@pytest.mark.parametrize("low", ["fp32", "fp16"])
def test_every_node_that_reads_int8_is_measured_and_keeps_its_result(low):
    model, samples = residual_network(), feeds(3, *SHAPE)
    quantised, _ = quantize(model, samples, low=low)
    found = local_errors(model, quantised, samples)
    assert {error.node for error in found} == {
        "a.1", "a.2", "a.add", "b.short", "b.1", "b.2", "b.add", "concat", "mix", "up", "size.0",
    }  # fmt: skip
    assert found == sorted(found, key=lambda error: error.sqnr)
    assert min(error.sqnr for error in found) > 28
    require_local(found)


def test_bfloat16_is_measured_with_pytorch(tmp_path):
    model, samples = residual_network(), feeds(2, *SHAPE)
    quantised, _ = quantize(model, samples, low="bf16")

    def with_torch(part: onnx.ModelProto):
        onnx.save(part, tmp_path / "part.onnx")
        return open_session("torch", tmp_path / "part.onnx").run

    found = local_errors(model, quantised, samples, open_model=with_torch)
    assert len(found) == 11
    require_local(found)


def test_a_fault_is_found_in_the_node_that_has_it_and_in_no_other():
    """Errors do not add up: what follows a wrong scale gets right inputs."""
    model, samples = residual_network(), feeds(2, *SHAPE)
    quantised, _ = quantize(model, samples, low="fp32")
    before = {error.node: error.sqnr for error in local_errors(model, quantised, samples)}
    found = local_errors(model, spoil_scale(quantised, "wa2", 1.5), samples)
    assert found[0].node == "a.2"
    assert found[0].sqnr == pytest.approx(20 * math.log10(2), abs=0.2), "half of the result is wrong"
    assert {error.node: error.sqnr for error in found[1:]} == {k: v for k, v in before.items() if k != "a.2"}
    with pytest.raises(ConversionError, match=r"loses too much in Conv 'a.2' \(6.0 dB\): 20 dB are needed"):
        require_local(found)
    require_local(found, least=5)


def test_a_value_that_is_no_number_is_below_the_limit():
    with pytest.raises(ConversionError, match="nan dB"):
        require_local([LocalError("a", "Conv", math.nan), LocalError("b", "Conv", math.inf)])
    require_local([LocalError("b", "Conv", SQNR_LIMIT)])


def test_graphs_that_do_not_belong_together_are_refused():
    samples = feeds(1, *SHAPE)
    quantised, _ = quantize(residual_network(), samples)
    with pytest.raises(ConversionError, match=r"The reference has no node 'a\.1'"):
        local_errors(products(), quantised, samples)
    with pytest.raises(ConversionError, match="Nothing is quantised"):
        local_errors(residual_network(), residual_network(), samples)


def test_nothing_is_printed_and_the_graphs_are_left_alone(capfd):
    model, samples = residual_network(), feeds(1, *SHAPE)
    quantised, _ = quantize(model, samples, low="fp32")
    before = quantised.SerializeToString()
    local_errors(model, quantised, samples)
    assert quantised.SerializeToString() == before
    assert capfd.readouterr() == ("", "")
    assert run_model(model, **samples[0]).keys() == {"heat", "size"}
