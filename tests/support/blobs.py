"""A small detector for tests of the core: it finds rectangles of pure red and green."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from convkit import (
    Adapter,
    Decode,
    Detections,
    Dim,
    ModelSpec,
    ModulePatch,
    Prepared,
    Preprocess,
    Request,
    SourceModel,
    TensorSpec,
    hookimpl,
)
from convkit.processing import Join

COLOURS = {"red": (20, 20, 230), "green": (20, 230, 20)}
"""BGR colours of the two classes, in the order of the network's maps."""


class BlobNet(nn.Module):
    """How red and how green each pixel is, as probabilities [B, 2, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.tone = nn.Conv2d(3, 2, 1)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"maps": torch.sigmoid(self.tone(images))}


def blob_weights() -> dict[str, torch.Tensor]:
    """Return weights by which only the pure colours pass 0.5: the other two channels count against."""
    weight = torch.full((2, 3, 1, 1), -6.0)
    weight[0, 2] = weight[1, 1] = 8.0
    return {"tone.weight": weight, "tone.bias": torch.tensor([-3.0, -3.0])}


class BlobAdapter(Adapter):
    name = "blobs"
    summary = "finds red and green rectangles"
    weights_folder = True
    dims = (Dim("batch", 1, 1, 3), Dim("height", 48, 64, 96, 16), Dim("width", 64, 96, 96, 16))

    def load(self, request: Request) -> SourceModel:
        net = BlobNet().eval()
        files = sorted(request.weights.glob("*.pth")) if request.weights.is_dir() else [request.weights]
        net.load_state_dict({k: v for file in files for k, v in torch.load(file, weights_only=True).items()})
        sizes = {dim.name: dim.opt for dim in request.dims}
        names = request.names or tuple(COLOURS)
        spec = ModelSpec(
            variant="",
            dims=request.dims,
            inputs=(TensorSpec("images", ("batch", 3, "height", "width")),),
            outputs=(TensorSpec("maps", ("batch", 2, "height", "width")),),
            preprocess={"kind": "blobs.resize", "height": sizes["height"], "width": sizes["width"]},
            decode={"kind": "blobs.components", "classes": list(names), "threshold": 0.5},
            classes=names,
        )
        return SourceModel(net, spec, lambda module, inputs: module(inputs["images"]))

    def samples(self, spec: ModelSpec, count: int, seed: int) -> Sequence[np.ndarray]:
        return [draw_blobs(seed * 1000 + index)[0] for index in range(count)]


class Resize(Preprocess):
    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.width, self.height = spec["width"], spec["height"]

    def __call__(self, image: np.ndarray) -> Prepared:
        resized = cv2.resize(image, (self.width, self.height), interpolation=cv2.INTER_NEAREST)
        scale = [image.shape[1] / self.width, image.shape[0] / self.height]
        tensor = np.ascontiguousarray(resized.transpose(2, 0, 1).astype(np.float32) / 255)
        return Prepared({"images": tensor}, {"scale": scale})

    def augmented(self, settings: Mapping[str, str]) -> Preprocess | None:
        return WithDarker(self, float(settings["darker"])) if "darker" in settings else None


class WithDarker(Preprocess):
    """The image and a darker one; see `Components.joining`."""

    def __init__(self, plain: Resize, factor: float) -> None:
        self.plain, self.factor = plain, np.float32(factor)

    def __call__(self, image: np.ndarray) -> Prepared:
        light = self.plain(image)
        dark = Prepared({"images": light.tensors["images"] * self.factor}, light.meta)
        return Prepared(light.tensors, light.meta, (dark,))


class Components(Decode):
    """Each connected component of a map above the threshold is a box, with its mean as score."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.classes, self.threshold = spec["classes"], spec["threshold"]

    def __call__(self, outputs: Mapping[str, np.ndarray], metas: Sequence[Mapping[str, Any]]) -> list[Detections]:
        return [self._image(maps, meta["scale"]) for maps, meta in zip(outputs["maps"], metas, strict=True)]

    def joining(self, settings: Mapping[str, str]) -> Join:
        """Find what is found in both views: pure colours are too dark in the second one at about half of the light."""
        del settings
        return lambda outputs, metas: self._image(np.minimum(*(each["maps"] for each in outputs)), metas[0]["scale"])

    def _image(self, maps: np.ndarray, scale: Sequence[float]) -> Detections:
        rows = []
        for class_id, heat in enumerate(maps):
            count, labels, stats, _ = cv2.connectedComponentsWithStats((heat > self.threshold).astype(np.uint8))
            for label in range(1, count):
                x, y, width, height = stats[label, :4]
                box = np.array([x, y, x + width, y + height]) * [scale[0], scale[1], scale[0], scale[1]]
                rows.append((*box, heat[labels == label].mean(), class_id))
        table = np.array(sorted(rows, key=lambda row: -row[4]), np.float64).reshape(-1, 6)
        return Detections(
            table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(np.int64), self.classes
        )


class BlobPlugin:
    @hookimpl
    def convkit_adapters(self) -> Iterable[Adapter]:
        return [BlobAdapter()]

    @hookimpl
    def convkit_export_patches(self, adapter: str) -> Iterable[ModulePatch]:
        if adapter != "blobs":
            return []
        return [
            ModulePatch(
                "blobs.tuple",
                "ONNX has no dicts",
                lambda path, module: path == "",
                lambda module, original, images: (original(images)["maps"],),
            )
        ]

    @hookimpl
    def convkit_preprocess(self, spec: Mapping[str, Any]) -> Resize | None:
        return Resize(spec) if spec.get("kind") == "blobs.resize" else None

    @hookimpl
    def convkit_decode(self, spec: Mapping[str, Any]) -> Components | None:
        return Components(spec) if spec.get("kind") == "blobs.components" else None


def draw_blobs(seed: int, height: int = 64, width: int = 96) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return an image with some rectangles, their boxes [N, 4] and their classes [N]; none touches another."""
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 120, (height, width, 3), np.uint8)
    boxes, classes = [], []
    for cell in rng.permutation(6)[: rng.integers(1, 6)]:
        x, y = cell % 3 * (width // 3) + 2, cell // 3 * (height // 2) + 2
        w, h = int(rng.integers(6, width // 3 - 4)), int(rng.integers(6, height // 2 - 4))
        class_id = int(rng.integers(2))
        shade = int(rng.integers(0, 20))
        image[y : y + h, x : x + w] = np.clip(np.array(list(COLOURS.values())[class_id]) - shade, 0, 255)
        boxes.append([x, y, x + w, y + h])
        classes.append(class_id)
    return image, np.array(boxes, np.float64), np.array(classes, np.int64)


def write_coco(
    folder: Path, count: int, *, categories: Mapping[str, int], jitter: float = 0.0, size: tuple[int, int] = (64, 96)
) -> Path:
    """Write ``count`` images and their annotations in COCO format; ``jitter`` moves the true boxes (pixels)."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        image, boxes, classes = draw_blobs(index, *size)
        name = f"{index:05d}.png"
        cv2.imwrite(str(folder / "images" / name), image)
        images.append({"id": 100 + index, "file_name": name, "height": size[0], "width": size[1]})
        for box, class_id in zip(boxes + rng.uniform(-jitter, jitter, boxes.shape), classes, strict=True):
            x1, y1, x2, y2 = box.tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 100 + index,
                    "category_id": categories[list(COLOURS)[class_id]],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
    }
    (folder / "annotations.json").write_text(json.dumps(document))
    return folder / "annotations.json"
