"""A network as TensorRT's parser built it, as plain data: it needs no TensorRT to be looked at or replayed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["ParsedLayer", "ParsedNetwork", "ParsedTensor", "Weights", "read_network"]

FLOATING = frozenset({"FLOAT", "HALF", "BF16", "FP8", "FP4"})


@dataclass(frozen=True)
class ParsedTensor:
    """A tensor of the network: its name, TensorRT's name of its type, and its shape with -1 for what varies."""

    name: str
    dtype: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True, eq=False)
class Weights:
    """Numbers that the parser put into a layer: raw bytes in row-major order, ``count`` items of ``dtype``."""

    dtype: str
    count: int
    data: np.ndarray = field(repr=False)


@dataclass(frozen=True, eq=False)
class ParsedLayer:
    """A layer of the network.

    ``type`` is TensorRT's name of the layer type and ``node`` the ONNX node that it came from, empty for layers that
    the parser added. ``inputs`` and ``outputs`` are indices of `ParsedNetwork.tensors`, None for an input left out.
    ``attributes`` has enumerators as names and dimensions as lists; ``group`` names the loop, conditional or attention
    that the layer belongs to.
    """

    index: int
    name: str
    type: str
    node: str
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]
    attributes: Mapping[str, Any]
    weights: Mapping[str, Weights]
    group: str = ""

    def __str__(self) -> str:
        return f"{self.type} layer {self.name!r}"


@dataclass(frozen=True, eq=False)
class ParsedNetwork:
    """All layers of a network, in the order of the parser, which is not one that they can run in."""

    flavour: str
    version: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    tensors: tuple[ParsedTensor, ...]
    layers: tuple[ParsedLayer, ...]
    shape_inputs: tuple[str, ...] = ()

    def names(self, indices: tuple[int, ...]) -> list[str]:
        """Return the names of these tensors."""
        return [self.tensors[index].name for index in indices]

    def dtype_of(self, layer: ParsedLayer) -> str:
        """Return the type of a layer's first output, or of its first input where it has no output."""
        for index in (*layer.outputs, *layer.inputs):
            if index is not None:
                return self.tensors[index].dtype
        return "NONE"

    def audit(self) -> dict[str, int]:
        """Return how many layers compute in each type, constants and arithmetic on shapes included."""
        return dict(Counter(self.dtype_of(layer) for layer in self.layers).most_common())

    def floating_layers(self) -> dict[str, list[ParsedLayer]]:
        """Return the layers that make numbers of a floating type, by that type; constants are left out."""
        found: dict[str, list[ParsedLayer]] = {}
        for layer in self.layers:
            dtype = self.dtype_of(layer)
            if dtype in FLOATING and layer.type != "CONSTANT":
                found.setdefault(dtype, []).append(layer)
        return found

    def to_json(self) -> list[dict[str, Any]]:
        """Return a row a layer: name, type, ONNX node, and the types and shapes of what it makes."""
        return [
            {
                "name": layer.name,
                "type": layer.type,
                "node": layer.node,
                "outputs": [
                    {"name": tensor.name, "dtype": tensor.dtype, "shape": tensor.shape}
                    for tensor in (self.tensors[index] for index in layer.outputs)
                ],
            }
            for layer in self.layers
        ]


def read_network(folder: Path) -> ParsedNetwork:
    """Return the network that a child process wrote into this folder, its weights read into memory."""
    table = json.loads((folder / "network.json").read_text(encoding="utf-8"))
    blob = np.fromfile(folder / "weights.bin", dtype=np.uint8)
    tensors = tuple(
        ParsedTensor(name, dtype, None if shape is None else tuple(shape)) for name, dtype, shape in table["tensors"]
    )
    layers = tuple(
        ParsedLayer(
            index,
            entry["name"],
            entry["type"],
            entry["node"],
            tuple(entry["inputs"]),
            tuple(entry["outputs"]),
            entry["attributes"],
            {
                name: Weights(dtype, count, blob[start : start + size])
                for name, (dtype, count, start, size) in entry["weights"].items()
            },
            entry["group"],
        )
        for index, entry in enumerate(table["layers"])
    )
    return ParsedNetwork(
        table["flavour"], table["version"], tuple(table["inputs"]), tuple(table["outputs"]), tensors, layers,
        tuple(table["shape_inputs"]),
    )  # fmt: skip
