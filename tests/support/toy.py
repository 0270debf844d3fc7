"""A small adapter for tests of the core: an image classifier that the core knows nothing about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from convkit import (
    Adapter,
    Classification,
    Decode,
    Dim,
    ModelSpec,
    ModulePatch,
    Option,
    Prepared,
    Preprocess,
    Request,
    SourceModel,
    TensorSpec,
    at_least,
    exactly,
    hookimpl,
    synthetic_scenes,
)


class ToyNet(nn.Module):
    """Two convolutions and a linear layer; the forward returns a dict, which cannot be exported as it is."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Conv2d(8, 16, 3, padding=1)
        self.head = nn.Linear(16, classes)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features = torch.relu(self.body(self.stem(images)))
        return {"logits": self.head(features.mean((2, 3)))}


def toy_weights(classes: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return a state dict with non-trivial batch-norm statistics."""
    torch.manual_seed(seed)
    net = ToyNet(classes).train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(4, 3, 32, 32))
    return net.state_dict()


class ToyAdapter(Adapter):
    name = "toy"
    summary = "toy classifier"
    forms = ("logits",)
    dims = (Dim("batch", 1, 1, 4), Dim.fixed("height", 32, multiple_of=8), Dim.fixed("width", 32, multiple_of=8))
    options = (Option("scale", 1.0, "what pixels are divided by"),)

    def load(self, request: Request) -> SourceModel:
        state = torch.load(request.weights, weights_only=True)
        classes = state["head.bias"].shape[0]
        net = ToyNet(classes).eval()
        net.load_state_dict(state)
        sizes = {dim.name: dim.opt for dim in request.dims}
        names = request.names or tuple(f"class {index}" for index in range(classes))
        spec = ModelSpec(
            variant="toy_1",
            dims=request.dims,
            inputs=(TensorSpec("images", ("batch", 3, "height", "width")),),
            outputs=(TensorSpec("logits", ("batch", classes)),),
            preprocess={"kind": "toy.resize", "height": sizes["height"], "width": sizes["width"], **request.options},
            decode={"kind": "toy.softmax", "classes": list(names)},
            classes=names,
            expect={"toy.tuple": exactly(1)},
        )
        return SourceModel(net, spec, lambda module, inputs: module(inputs["images"]))

    def samples(self, spec: ModelSpec, count: int, seed: int) -> list[np.ndarray]:
        return synthetic_scenes(count, seed=seed)


class Resize(Preprocess):
    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.size, self.scale = (spec["width"], spec["height"]), spec["scale"]

    def __call__(self, image: np.ndarray) -> Prepared:
        resized = cv2.resize(image, self.size).astype(np.float32) / np.float32(255 * self.scale)
        return Prepared({"images": np.ascontiguousarray(resized.transpose(2, 0, 1))})


class Softmax(Decode):
    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.classes = spec["classes"]

    def __call__(self, outputs: Mapping[str, np.ndarray], metas: Sequence[Mapping[str, Any]]) -> list[Classification]:
        logits = outputs["logits"].astype(np.float64)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        return [Classification((w / w.sum()).astype(np.float32), self.classes) for w in weights]


class ToyPlugin:
    """Register an instance under any name; ``break_export`` plants a fault for the proof to find."""

    def __init__(self, fault: Any = None) -> None:
        self.fault = fault

    @hookimpl
    def convkit_adapters(self) -> Iterable[Adapter]:
        return [ToyAdapter()]

    @hookimpl
    def convkit_export_patches(self, adapter: str) -> Iterable[ModulePatch]:
        if adapter != "toy":
            return []

        def forward(module: nn.Module, original: Any, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            logits = original(images)["logits"]
            return (self.fault(logits) if self.fault else logits,)

        return [ModulePatch("toy.tuple", "ONNX has no dicts", lambda path, module: path == "", forward, at_least(1))]

    @hookimpl
    def convkit_preprocess(self, spec: Mapping[str, Any]) -> Resize | None:
        return Resize(spec) if spec.get("kind") == "toy.resize" else None

    @hookimpl
    def convkit_decode(self, spec: Mapping[str, Any]) -> Softmax | None:
        return Softmax(spec) if spec.get("kind") == "toy.softmax" else None
