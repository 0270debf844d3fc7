"""The exporter writes one DeformConv a layer, and ONNX Runtime computes with it what PyTorch does."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from convkit import Target
from convkit.errors import ExportError
from convkit.graph import apply_rewrite
from convkit_plugins import dcnv2
from convkit_plugins.dcnv2 import DCN

logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)


class Network(nn.Module):
    """Deformable layers of several kinds with what stands around them in a detector."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.plain = nn.Sequential(DCN(8, 6, 3, 1, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.strided = nn.Sequential(DCN(6, 4, (3, 2), (2, 1), (1, 2), 1, 2), nn.BatchNorm2d(4))
        self.dilated = DCN(4, 5, 3, 1, 2, 2, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.dilated(self.strided(self.plain(self.stem(images))))


def make_network() -> Network:
    """Return a network whose offsets are some pixels, mostly from the bias, and whose statistics are not trivial."""
    torch.manual_seed(0)
    network = Network()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, DCN):
                module.conv_offset_mask.weight.normal_(0, 0.02)
                module.conv_offset_mask.bias.normal_(0, 2)
                module.bias.normal_()
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return network.eval()


def export(network: nn.Module, opset: int) -> onnx.ModelProto:
    sizes = ({0: torch.export.Dim("batch", max=8), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.onnx.export(
            network,
            (torch.randn(2, 3, 24, 32),),
            dynamo=True,
            verbose=False,
            opset_version=opset,
            dynamic_shapes=sizes,
            input_names=["images"],
            output_names=["y"],
            custom_translation_table=dcnv2.convkit_onnx_translations(Target(opset=opset)),
        )
    return program.model_proto


@pytest.mark.slow
@pytest.mark.parametrize("opset", [19, 22])
def test_exports_one_node_a_layer_that_computes_the_same(opset: int) -> None:
    network = make_network()
    model = export(network, opset)
    onnx.checker.check_model(model, full_check=True)
    assert [entry.version for entry in model.opset_import if not entry.domain] == [opset]
    ops = [node.op_type for node in model.graph.node]
    assert ops.count("DeformConv") == 3
    assert set(ops) == {"Conv", "Slice", "Sigmoid", "DeformConv", "BatchNormalization", "Relu"}

    nodes = [node for node in model.graph.node if node.op_type == "DeformConv"]
    attributes = [{a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} for node in nodes]
    assert all(len(node.input) == 5 and all(node.input) for node in nodes)
    assert attributes[1] == {
        "kernel_shape": [3, 2],
        "strides": [2, 1],
        "pads": [1, 2, 1, 2],
        "dilations": [1, 1],
        "group": 1,
        "offset_group": 2,
    }
    assert [node.input[1] for node in nodes] == ["plain.0.weight", "strided.0.weight", "dilated.weight"]

    folded, record = apply_rewrite(model, next(iter(dcnv2.convkit_graph_rewrites(Target(opset=opset)))))
    assert record.fired == 2
    assert "BatchNormalization" not in [node.op_type for node in folded.graph.node]

    exact = make_network().double()
    for graph in (model, folded):
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        for shape in ((1, 3, 24, 32), (3, 3, 33, 17), (2, 3, 5, 64)):
            images = torch.randn(shape, generator=torch.Generator().manual_seed(1))
            with torch.no_grad():
                expected = exact(images.double()).numpy()
                eager_error = np.abs(network(images).numpy() - expected).max()
            (actual,) = session.run(None, {"images": images.numpy()})
            assert np.abs(actual - expected).max() <= 3 * eager_error + 1e-6


def test_an_opset_without_the_operator_is_refused() -> None:
    with pytest.raises(Exception) as caught:
        export(DCN(3, 2, 3, 1, 1).eval(), 18)
    chain: list[BaseException] = [caught.value]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    errors = [error for error in chain if isinstance(error, ExportError)]
    assert len(errors) == 1
    assert "opset 18" in errors[0].message
    assert "--opset 19" in errors[0].hint
