"""NVIDIA's TensorRT-RTX takes both forms of a decomposed DeformConv and builds them, on a machine without a GPU."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from support.deform_layers import DeformLayer

from convkit.graph import NodeRewrite, apply_rewrite
from convkit_plugins.dcnv2.export import DecomposeGather, DecomposeGridSample

trt = pytest.importorskip("tensorrt_rtx_bindings")

TARGETS = ("SM75", "SM86", "SM89", "SM120")
LAYER = DeformLayer(channels=16, filters=8, size=(24, 20))
FULL = replace(
    LAYER, kernel=(3, 2), stride=(2, 1), pads=(0, 1, 2, 3), dilation=(1, 2), group=2, offset_group=4, size=(24, 32)
)
SIZES = {"batch": (1, 2, 4), "height": (24, 32, 48), "width": (20, 32, 48)}
LOGGER = trt.Logger(trt.Logger.ERROR)


class Parsed:
    """A parsed network; builder and parser live as long as it does."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.builder = trt.Builder(LOGGER)
        self.network = self.builder.create_network(0)
        self.parser = trt.OnnxParser(self.network, LOGGER)
        accepted = self.parser.parse(model.SerializeToString())
        self.errors = [self.parser.get_error(index).desc() for index in range(self.parser.num_errors)]
        assert accepted == (not self.errors)

    def layers(self, kind: str) -> list[Any]:
        """Return the layers of one type, each as its own class."""
        found = []
        for index in range(self.network.num_layers):
            layer = self.network.get_layer(index)
            if layer.type == getattr(trt.LayerType, kind):
                layer.__class__ = getattr(trt, f"I{kind.title().replace('_', '')}Layer")
                found.append(layer)
        return found

    def build(self, layer: DeformLayer) -> int:
        """Build for all targets and return the size of the plan in bytes."""
        config = self.builder.create_builder_config()
        config.num_compute_capabilities = len(TARGETS)
        for index, target in enumerate(TARGETS):
            assert config.set_compute_capability(getattr(trt.ComputeCapability, target), index)
        profile = self.builder.create_optimization_profile()
        corners = [self._shapes(layer, *sizes) for sizes in zip(*SIZES.values(), strict=True)]
        for index in range(self.network.num_inputs):
            tensor = self.network.get_input(index)
            if -1 in tensor.shape:
                profile.set_shape(tensor.name, *(shapes[tensor.name] for shapes in corners))
        assert profile
        assert config.add_optimization_profile(profile) == 0
        plan = self.builder.build_serialized_network(self.network, config)
        assert plan is not None
        return int(plan.nbytes)

    @staticmethod
    def _shapes(layer: DeformLayer, batch: int, height: int, width: int) -> dict[str, tuple[int, ...]]:
        size = (height, width) if "h" in layer.dynamic else layer.size
        return {name: value.shape for name, value in replace(layer, batch=batch, size=size).feeds().items()}


both_forms = pytest.mark.parametrize("form", [DecomposeGather, DecomposeGridSample], ids=["gather", "grid_sample"])


@both_forms
@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("dynamic", ["n", "nhw"])
@pytest.mark.parametrize("layer", [LAYER, FULL], ids=["plain", "everything"])
def test_builds_for_every_target(layer: DeformLayer, dynamic: str, dtype: Any, form: type[NodeRewrite]) -> None:
    layer = replace(layer, dynamic=dynamic, dtype=dtype)
    parsed = Parsed(apply_rewrite(layer.model(), form())[0])
    assert parsed.errors == []
    (convolution,) = parsed.layers("CONVOLUTION")
    assert convolution.get_input(0).dtype == convolution.get_output(0).dtype == getattr(trt, dtype.__name__)
    assert parsed.build(layer) > layer.constants["weight"].nbytes


def test_grid_sample_is_read_as_it_is_meant() -> None:
    for opset in (19, 20, 22):
        parsed = Parsed(apply_rewrite(replace(LAYER, opset=opset, dtype=np.float16).model(), DecomposeGridSample())[0])
        (layer,) = parsed.layers("GRID_SAMPLE")
        assert layer.interpolation_mode == trt.InterpolationMode.LINEAR
        assert layer.sample_mode == trt.SampleMode.FILL
        assert not layer.align_corners
        assert layer.get_input(0).dtype == layer.get_input(1).dtype == trt.float32


@pytest.mark.parametrize(("form", "most"), [(DecomposeGather, 36), (DecomposeGridSample, 20)])
def test_few_layers(form: type[NodeRewrite], most: int) -> None:
    parsed = Parsed(apply_rewrite(replace(LAYER, dynamic="n").model(), form())[0])
    network = parsed.network
    types = Counter(str(network.get_layer(index).type) for index in range(network.num_layers))
    assert types.total() <= most, types


def test_deform_conv_itself_is_refused() -> None:
    assert Parsed(LAYER.model()).errors
