"""Graphs as files, with room for more weights than one protobuf message can hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["fits_in_one_file", "save_onnx"]

PROTO_LIMIT = 2**31 - 2**24
"""Bytes of weights in one protobuf file: 2 GiB, with room for the nodes."""


def fits_in_one_file(model: onnx.ModelProto) -> bool:
    """Return whether protobuf can serialise a model."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer) <= PROTO_LIMIT


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write a model; weights of more than 2 GiB, which protobuf cannot hold, go to ``<name>.data`` beside it."""
    import onnx

    if fits_in_one_file(model):
        path.write_bytes(model.SerializeToString())
        return
    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # saving turns the weights of the model that it gets into references
    onnx.save_model(copy, str(path), save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)
