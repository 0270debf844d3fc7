"""What the plugin ``tensorrt_standin/base_plugin.py`` answers, by definition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from support.tensorrt_bindings import SOURCES
from support.tensorrt_drive import Input, Job

BASE = SOURCES / "base_plugin.py"
SPACE, NAME = "convkit_test", "DCNv2"
SHARED, BLOCKS = 4096, {1: 128, 2: 256}


@dataclass(frozen=True)
class Geometry:
    """Attributes of the convolution; the kernel has 3 x 3 taps."""

    stride: int = 1
    padding: int = 1
    dilation: int = 1
    groups: int = 1
    dtype: str = "HALF"
    sizes: tuple[tuple[int, int, int], ...] = ((2, 96, 128), (1, 9, 8), (8, 256, 256))
    """Batch, height and width of the cases."""
    variable: bool = True

    channels: int = 64
    outputs: int = 32

    def length(self, size: int) -> int:
        """Return the number of places that a window of three taps has along an axis."""
        return len(range(-self.padding, size + self.padding - 2 * self.dilation, self.stride))

    def fields(self) -> dict[str, np.ndarray]:
        """Return the attributes."""
        names = ("stride", "padding", "dilation", "groups")
        return {name: np.array([getattr(self, name)], np.int32) for name in names}

    def shapes(self, batch: int, height: int, width: int) -> list[tuple[int, ...]]:
        """Return the shapes of all inputs."""
        out = self.length(height), self.length(width)
        weight = (self.outputs, self.channels // self.groups, 3, 3)
        return [(batch, self.channels, height, width), (batch, 18, *out), (batch, 9, *out), weight, (self.outputs,)]

    def job(self, setup: str, **changed: Any) -> Job:
        """Return the drive of a plugin with these attributes, for all cases."""
        cases = [self.shapes(*size) for size in self.sizes]
        bounds = cases[0] * 3 if not self.variable else [*self.shapes(1, 9, 8), *cases[0], *self.shapes(8, 256, 256)]
        inputs = []
        for index in range(5):
            low, best, high = bounds[index], bounds[index + 5], bounds[index + 10]
            dims = tuple(-1 if a != b else a for a, b in zip(low, high, strict=True))
            inputs.append(Input(self.dtype, dims, low, best, high))
        whole = {"name": NAME, "namespace": SPACE, "inputs": inputs, "fields": self.fields(), "cases": cases}
        return Job(setup, **{**whole, **changed}, file=str(BASE))

    def launch(self, tactic: int, batch: int, height: int, width: int) -> list[int]:
        """Return grid, block and shared memory."""
        blocks = -(-self.length(height) * self.length(width) // BLOCKS[tactic])
        return [blocks, self.outputs, batch, BLOCKS[tactic], 1, 1, SHARED]

    def extra(self, batch: int, height: int, width: int) -> list[int]:
        """Return the integers that the kernel is passed."""
        sizes = [self.channels, height, width, self.outputs, self.length(height), self.length(width)]
        return [*sizes, self.stride, self.padding, self.dilation, self.groups]


PLAIN = Geometry()
UNEVEN = Geometry(stride=2, padding=3, dilation=2, groups=2)


def differences(geometry: Geometry, answer: Mapping[str, Any]) -> Iterator[str]:
    """Yield where the answer of a plugin without problems differs from the definition."""
    sizes = geometry.sizes
    wanted = [[batch, 32, geometry.length(height), geometry.length(width)] for batch, height, width in sizes]
    (output,) = answer["outputs"]
    if (output["dtype"], output["alias"], output["shapes"]) != (geometry.dtype, -1, wanted):
        yield f"the output is {output}"
    if [entry["tactic"] for entry in answer["variants"]] != [1, 2]:
        yield f"the tactics are {[entry['tactic'] for entry in answer['variants']]}"
        return
    for entry in answer["variants"]:
        tactic = entry["tactic"]
        if (entry["types"], entry["formats"]) != ([geometry.dtype] * 6, ["LINEAR"] * 6):
            yield f"tactic {tactic} is for {entry['types']}, {entry['formats']}"
        for size, launch, extra in zip(sizes, entry["launches"], entry["extras"], strict=True):
            if launch != geometry.launch(tactic, *size):
                yield f"tactic {tactic} is launched with {launch} for {size}"
            if extra != geometry.extra(*size):
                yield f"tactic {tactic} is passed {extra} for {size}"
        if entry["kernel"] != f"dcn_{BLOCKS[tactic]}":
            yield f"the kernel of tactic {tactic} is {entry['kernel']}"
