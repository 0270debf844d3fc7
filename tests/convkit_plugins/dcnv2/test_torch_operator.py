"""``DeformConv`` in the torch backend against ONNX Runtime's, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.graphs import node, run_model

from convkit.backends import open_session
from convkit.errors import EnvironmentProblem


def deform(kernel: tuple[int, int] = (3, 3), groups: int = 1, inputs: int = 5, **attributes: Any) -> onnx.ModelProto:
    names = ["x", "w", "offset", "bias", "mask"][:inputs]
    shapes: dict[str, list[Any]] = {name: [2, None, None, None] for name in names}
    shapes |= {"x": [2, 4, 9, 8], "w": [6, 4, *kernel], "bias": [6]}
    graph = helper.make_graph(
        [node("DeformConv", names, ["y"], kernel_shape=list(kernel), offset_group=groups, **attributes)],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in names],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 6, None, None])],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def feeds(kernel: tuple[int, int], groups: int, inputs: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
    rng, taps = np.random.default_rng(0), groups * kernel[0] * kernel[1]
    values = {
        "x": rng.standard_normal((2, 4, 9, 8)),
        "w": rng.standard_normal((6, 4, *kernel)),
        "offset": rng.standard_normal((2, 2 * taps, *size)) * 2,
        "bias": rng.standard_normal(6),
        "mask": rng.random((2, taps, *size)),
    }
    return {name: value.astype(np.float32) for name, value in list(values.items())[:inputs]}


def open_model(model: onnx.ModelProto, folder: Path) -> Any:
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return open_session("torch", folder / "model.onnx")


@pytest.mark.parametrize(
    ("kernel", "groups", "inputs", "attributes", "size"),
    [
        ((3, 3), 1, 5, {"pads": [1, 1, 1, 1]}, (9, 8)),
        ((3, 3), 2, 5, {"pads": [1, 0, 1, 0], "strides": [2, 1]}, (5, 6)),
        ((3, 2), 1, 5, {"pads": [2, 1, 2, 1], "dilations": [2, 1]}, (9, 9)),
        ((1, 1), 1, 4, {}, (9, 8)),
        ((3, 3), 1, 3, {}, (7, 6)),
    ],
)
def test_it_computes_what_onnx_runtime_computes(tmp_path, kernel, groups, inputs, attributes, size):
    model = deform(kernel, groups, inputs, **attributes)
    given = feeds(kernel, groups, inputs, size)
    expected = run_model(model, **given)["y"]
    np.testing.assert_allclose(open_model(model, tmp_path).run(given)["y"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("attributes", "message"), [({"pads": [1, 1, 0, 1]}, r"\(1, 1\).*\(0, 1\)"), ({"group": 2}, "group=2")]
)
def test_settings_that_the_operator_lacks_are_refused(tmp_path, attributes, message):
    with pytest.raises(EnvironmentProblem, match=message):
        open_model(deform(**attributes), tmp_path)
