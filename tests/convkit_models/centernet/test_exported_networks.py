"""The networks beside the ResNets, converted: what their graphs consist of, and what TensorRT-RTX makes of one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from support.checkpoints import make_checkpoint, make_network_of

from convkit import Artifact, convert
from convkit.conversion import build_engine
from convkit_models.centernet.networks import Head, HourglassLayout

pytestmark = pytest.mark.slow


def operators(artifact: Artifact) -> dict[str, int]:
    return dict(Counter(node.op_type for node in onnx.load(artifact.model).graph.node))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("networks")


def test_dla_34(folder: Path) -> None:
    """No BatchNorm is left, nor what nothing depends on; an engine is built of it."""
    weights = make_checkpoint(folder / "dla.pth", "dla_34", width=0.05, head_conv=8)
    shape = ["batch=1", "height=32", "width=64"]
    artifact = convert("centernet", weights=weights, output=folder / "dla", shape=shape, samples=2).artifact
    assert operators(artifact) == {
        "Conv": 37 + 16 + 6,  # trunk without the projections of levels 3 and 4, offsets, heads
        "DeformConv": 16,
        "Slice": 2 * 16,
        "Sigmoid": 16,
        "ConvTranspose": 8,
        "Relu": 52,
        "Add": 20,
        "Concat": 6,
        "MaxPool": 4,  # one for each level from 2 on
    }
    built = build_engine(artifact.path, "tensorrt-rtx", targets=["sm86"])
    rungs = ("exported", "accepted", "understood", "built")
    assert {name: built.ladder[name].status for name in rungs} == dict.fromkeys(rungs, "passed")


def test_dlav0_34(folder: Path) -> None:
    weights = make_checkpoint(folder / "dlav0.pth", "dlav0_34", width=0.05, head_conv=8)
    shape = ["batch=1", "height=32", "width=64"]
    artifact = convert("centernet", weights=weights, output=folder / "dlav0", shape=shape, samples=2).artifact
    assert operators(artifact) == {
        "Conv": 37 + 12 + 6,
        "ConvTranspose": 6,
        "Relu": 48,
        "Add": 12,
        "Concat": 12,
        "MaxPool": 4,
    }


def test_hourglass(folder: Path) -> None:
    """The heads of the first stack are gone; the upsampling has constant factors, also where the size varies."""
    heads = (Head("hm", 3, 4), Head("wh", 2, 4), Head("reg", 2, 4))
    network = make_network_of(HourglassLayout(2, 4, (6, 6, 8), (1, 1, 2), 6, heads))
    weights = folder / "hourglass.pth"
    torch.save({"epoch": 50, "state_dict": network.state_dict()}, weights)
    shape = ["batch=1", "height=32:32:64", "width=64"]
    artifact = convert("centernet", weights=weights, output=folder / "hourglass", shape=shape, samples=2).artifact
    # a stack: per level three ways of a residual of two convolutions, at the bottom two; strided or wider ones project
    stack = {"Conv": 2 * 3 * 2 + 2 * 2 + 3 + 1, "Add": 2 * 3 + 2 + 2, "Relu": 2 * (2 * 3 + 2) + 1}
    assert operators(artifact) == {
        "Conv": 4 + 2 * stack["Conv"] + 2 + 2 + 6,
        "Add": 1 + 2 * stack["Add"] + 1 + 1,
        "Relu": 3 + 2 * stack["Relu"] + 1 + 2 + 3,
        "Resize": 4,
    }
    graph = onnx.load(artifact.model).graph
    constants = {tensor.name for tensor in graph.initializer}
    assert all(node.input[2] in constants for node in graph.node if node.op_type == "Resize")
