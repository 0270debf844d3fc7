"""Device sides for the toy adapter's preprocess and decode, sound ones and ones with a planted fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from support.toy import Resize, Softmax

from convkit import Classification, Placement, Result
from convkit.cuda import Argument, Kernel, LaunchConfig, Variant, cdiv, load
from convkit.processing import ArraySpec
from convkit.processing.image_warp import ImageWarp

SOFTMAX = Kernel(
    name="test_softmax",
    source=Path(__file__).parent / "kernels" / "softmax.cu",
    arguments=(
        Argument("logits", "float32"),
        Argument("offsets", "float32"),
        Argument("probabilities", "float32", output=True),
        Argument("items", "int32", pointer=False),
        Argument("classes", "int32", pointer=False),
    ),
    sizes=("items",),
    launch_config=lambda items: LaunchConfig((cdiv(items, 32), 1, 1), (32, 1, 1)),
    constants=(),
)


class ResizeOnDevice:
    """The toy's preprocess by the warp kernel; the methods are what faulty ones replace."""

    def __init__(self, host: Resize) -> None:
        self.host = host
        self.warp = self.kernel(np.arange(256, dtype=np.float32) / np.float32(255 * host.scale))
        self.record = self.warp.record

    def kernel(self, levels: np.ndarray) -> ImageWarp:
        """Return the warp for the 8-bit levels of one channel."""
        return ImageWarp(np.tile(levels, (3, 1)), rounding="up", edge="replicate")

    def matrix(self, across: float, down: float) -> list[list[float]]:
        """Return the matrix from the tensor to the image for the scales of both axes."""
        return [[across, 0, 0.5 * across - 0.5], [0, down, 0.5 * down - 0.5]]

    def place(self, raw: np.ndarray) -> Placement:
        """Return the placement of an image, which fills the tensor."""
        rows, columns = raw.shape[:2]
        width, height = self.host.size
        rectangle = (0, 0, width, height) if self.warp.edge == "replicate" else None
        image = self.warp.image(rows, columns, self.matrix(columns / width, rows / height), rectangle=rectangle)
        return Placement({"images": (3, height, width)}, {}, raw, image)

    def row(self, placement: Placement, offset: int) -> tuple[Any, ...]:
        """Return the record of an image."""
        return self.warp.row(placement.detail, offset)

    def launch(self, records: Any, payloads: Any, tensors: Mapping[str, Any], stream: int) -> None:
        """Fill the tensor."""
        self.warp.launch(records, payloads, tensors["images"], stream)

    def kernels(self) -> Sequence[Variant]:
        """Return the variants of the warp."""
        return self.warp.kernels()


class SoftmaxOnDevice:
    """The toy's decode by a kernel; ``offsets``, one for each item, are zero in a sound one."""

    inputs = (ArraySpec("offsets", (), "float32"),)

    def __init__(self, host: Softmax) -> None:
        self.classes = host.classes
        self.results = (ArraySpec("probabilities", (len(self.classes),), "float32"),)

    def values(self, meta: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        """Return the offset of an item."""
        return {"offsets": np.float32(0)}

    def launch(
        self, outputs: Mapping[str, Any], inputs: Mapping[str, Any], results: Mapping[str, Any], stream: int
    ) -> None:
        """Write the probabilities."""
        items, classes = outputs["logits"].shape
        launcher = load(SOFTMAX.variant())
        launch = launcher.launch_config(items=items)
        arrays = outputs["logits"], inputs["offsets"], results["probabilities"]
        launcher(launch, *arrays, items, classes, stream=stream)

    def read(self, results: Mapping[str, np.ndarray], metas: Sequence[Mapping[str, Any]]) -> list[Result]:
        """Return the classes of each item."""
        return [Classification(row, self.classes) for row, _ in zip(results["probabilities"], metas, strict=True)]

    def kernels(self) -> Sequence[Variant]:
        """Return the one variant."""
        return [SOFTMAX.variant()]


def resize_on(device: type[ResizeOnDevice] = ResizeOnDevice, **methods: Any) -> type[Resize]:
    """Return the toy's preprocess with a device side that has these methods instead of its own."""
    changed = type("Changed", (device,), methods)
    return type("OnDevice", (Resize,), {"on_device": lambda self: changed(self)})


def softmax_on(**methods: Any) -> type[Softmax]:
    """Return the toy's decode with a device side that has these methods instead of its own."""
    changed = type("Changed", (SoftmaxOnDevice,), methods)
    return type("OnDevice", (Softmax,), {"on_device": lambda self: changed(self)})


def moved(across: int, down: int) -> Callable[..., Any]:
    """Return a matrix function that reads the image so many pixels of the tensor aside."""

    def matrix(self: ResizeOnDevice, x: float, y: float) -> list[list[float]]:
        (a, b, c), (d, e, f) = ResizeOnDevice.matrix(self, x, y)
        return [[a, b, c + across * x], [d, e, f + down * y]]

    return matrix
