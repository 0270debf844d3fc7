"""Quick exports: the graph that PyTorch makes by itself, without running what it captured again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

from convkit.conversion._decomposition import quick_exports
from convkit.conversion._export import clean_names


class Layers(nn.Module):
    """Layers of every kind that is settled in place, read as ``read`` tells."""

    def __init__(self, read: Callable[[Layers, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2, bias=False)
        self.grow = nn.ConvTranspose2d(4, 2, 3)
        self.read = read

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self, x)


def network(layers: Layers, x: torch.Tensor) -> torch.Tensor:
    first = functional.relu_(layers.norm(layers.conv(x)))
    down = functional.max_pool2d(first, 2)
    total = down + 1
    before = total * 2
    torch.sigmoid_(total)
    after = total - before
    functional.silu(total, inplace=True)
    wide = torch.cat([layers.up(total + after), functional.interpolate(down, scale_factor=2.0)], dim=1)
    return layers.grow(wide[:, 2:6] / 2) - first.mean((2, 3), keepdim=True)[:, :2]


def detections(layers: Layers, x: torch.Tensor) -> torch.Tensor:
    heat = layers.conv(x)
    peaks = torch.where(heat == functional.max_pool2d(heat, 3, 1, 1), heat, -100.0)
    scores, places = peaks.flatten(1).topk(3)
    rows = places // 8 - 8 * (places // 64)
    read = heat.flatten(2).gather(2, rows.unsqueeze(1).expand(-1, 4, -1))
    return torch.cat([read.transpose(1, 2), torch.stack([scores, rows.float()], dim=2)], dim=2)


def of_any_size(layers: Layers, x: torch.Tensor) -> torch.Tensor:
    heat = layers.conv(x)[:, :, ::2]
    width, cells = heat.shape[3], heat.shape[2] * heat.shape[3]
    scores, places = heat.flatten(1).topk(3)
    rows = (places - places // cells * cells) // width + 0 * (width - 1)
    read = heat.flatten(2).gather(2, rows.unsqueeze(1).expand(-1, 4, -1))
    return torch.cat([read.transpose(1, 2), torch.stack([scores, rows.float()], dim=2)], dim=2)


def poses(layers: Layers, x: torch.Tensor) -> torch.Tensor:
    found = layers.conv(x).view(-1, 2, 2, 8, 8)
    far = torch.logical_and(found >= found[:, :, 0].unsqueeze(2), found <= 2).all(2)
    near = torch.logical_and(found.amax(2) >= 0, far)
    nearest = (found * found).sum(2).argmin(3)
    kept = torch.where(near, found[:, :, 1], found.amax(2, keepdim=True).squeeze(2))
    return torch.cat([kept, torch.zeros_like(kept), (nearest > 1).float().unsqueeze(3)], dim=3)


def two_products(layers: Layers, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([layers.conv(x), x[:, :1].expand(-1, 4, -1, -1)]).flatten(1, 2) * 2


def written_view(layers: Layers, x: torch.Tensor) -> torch.Tensor:
    total = layers.conv(x) + 1
    part = total[:, :2]
    functional.relu_(total)
    return part + 1


def through_view(layers: Layers, x: torch.Tensor) -> torch.Tensor:
    total = layers.conv(x) + 1
    functional.relu_(total[:, :2])
    return total * 2


def normed_last(layers: Layers, x: torch.Tensor) -> torch.Tensor:
    return layers.norm(layers.conv(x))


def other_operators(layers: Layers, x: torch.Tensor) -> torch.Tensor:
    return functional.adaptive_avg_pool2d(functional.hardtanh_(layers.conv(x) + 1), 1).flatten(1) + torch.arange(4)


def exported(module: Layers) -> onnx.ModelProto:
    sizes = {0: torch.export.Dim("batch", min=1, max=4)}
    if module.read is of_any_size:
        sizes[3] = torch.export.Dim("width", min=4, max=32)
    if module.read not in (detections, poses):
        sizes[2] = torch.export.Dim("height", min=4, max=32)
    inputs = (torch.zeros(2, 3, 8, 8),)
    named: dict[str, Any] = {"output_names": ["out"], "dynamic_shapes": (sizes,)}
    program = torch.onnx.export(module, inputs, dynamo=True, verbose=False, **named)
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    clean_names(model)
    return model


READS = [network, detections, poses, two_products, written_view, through_view, normed_last, other_operators]


@pytest.mark.parametrize("read", READS)
def test_the_graph_is_that_of_pytorch(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = Layers(read).eval()
    expected = exported(module)
    decompose = torch.export.ExportedProgram.run_decompositions
    asked = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        asked.append(args)
        return decompose(*args, **kwargs)

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", counted)
    with quick_exports():
        model = exported(module)
    for field in ("node", "initializer", "input", "output", "value_info"):
        assert list(getattr(model.graph, field)) == list(getattr(expected.graph, field))
    assert len(asked) == (read not in (network, detections, poses)), "left to PyTorch"
    assert torch.export.ExportedProgram.run_decompositions is counted, "PyTorch is as it was"


def test_axes_whose_sizes_vary_are_joined_without_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = Layers(of_any_size).eval()
    plain = exported(module)
    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", None)
    with quick_exports():
        model = exported(module)
    assert sum(node.op_type == "Reshape" for node in model.graph.node) == 2
    assert len(model.graph.node) < len(plain.graph.node)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for size in [(1, 3, 8, 8), (4, 3, 9, 32), (2, 3, 32, 5)]:
        images = torch.rand(size)
        (found,) = session.run(None, {model.graph.input[0].name: images.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), module(images))
