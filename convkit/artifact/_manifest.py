"""What the manifest says, and the model specification read back from it."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from convkit.errors import AdapterError, IntegrityError, SettingError
from convkit.model import Dim, ModelSpec, TensorSpec, Tolerance

__all__ = ["environment", "spec_from_manifest", "spec_to_json"]

PACKAGES = (
    "convkit", "numpy", "onnx", "onnx-graphsurgeon", "onnxruntime", "onnxscript", "opencv-python-headless",
    "polygraphy", "torch",
)  # fmt: skip


def spec_to_json(spec: ModelSpec) -> dict[str, Any]:
    """Return the part of the manifest that describes the model."""
    return {
        "variant": spec.variant,
        "dims": [dim.to_json() for dim in spec.dims],
        "inputs": [_tensor_to_json(tensor) for tensor in spec.inputs],
        "outputs": [_tensor_to_json(tensor) for tensor in spec.outputs],
        "preprocess": dict(spec.preprocess),
        "decode": dict(spec.decode),
        "classes": list(spec.classes),
        "info": dict(spec.info),
    }


def spec_from_manifest(manifest: Mapping[str, Any]) -> ModelSpec:
    """Return the model specification that `spec_to_json` wrote.

    Raises:
        IntegrityError: its parts do not fit each other.
    """
    model = manifest["model"]
    try:
        return ModelSpec(
            variant=model["variant"],
            dims=tuple(Dim(**dim) for dim in model["dims"]),
            inputs=tuple(_tensor_from_json(tensor) for tensor in model["inputs"]),
            outputs=tuple(_tensor_from_json(tensor) for tensor in model["outputs"]),
            preprocess=model["preprocess"],
            decode=model["decode"],
            classes=tuple(model["classes"]),
            info=model["info"],
        )
    except (AdapterError, SettingError) as error:
        raise IntegrityError(
            f"The manifest describes a model that cannot be: {error.message}",
            hint="Restore the artifact or convert again.",
        ) from error


def environment(backend: str, device: str, machine: Mapping[str, str]) -> dict[str, Any]:
    """Return versions of Python and the packages, and the engine and machine on which the proof ran."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": versions,
        "engine": {"backend": backend, "device": device, **machine},
    }


def _tensor_to_json(tensor: TensorSpec) -> dict[str, Any]:
    return {**asdict(tensor), "shape": list(tensor.shape)}


def _tensor_from_json(entry: Mapping[str, Any]) -> TensorSpec:
    shape: Sequence[int | str] = entry["shape"]
    return TensorSpec(entry["name"], tuple(shape), entry["dtype"], entry["compare"], Tolerance(**entry["tolerance"]))
