"""What the manifest says, and the model specification read back from it."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convkit import __version__
from convkit._text import printable
from convkit.artifact._directory import sha256
from convkit.model import Adapter, Dim, ModelSpec, TensorSpec, Tolerance
from convkit.plugins import manager

if TYPE_CHECKING:
    from convkit.conversion import Builder, Settings

__all__ = ["make_manifest", "spec_from_manifest", "spec_to_json"]

PACKAGES = (
    "convkit", "numpy", "onnx", "onnx-graphsurgeon", "onnxruntime", "onnxscript", "opencv-python-headless",
    "polygraphy", "torch",
)  # fmt: skip


def make_manifest(
    adapter: Adapter, weights: Path, settings: Settings, builder: Builder, verdict: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the manifest of a finished build, but for the hashes of its files."""
    target = builder.target
    return {
        "convkit": __version__,
        "adapter": {"name": adapter.name, **_origin(adapter.name)},
        "weights": {"file": printable(weights.name), "bytes": weights.stat().st_size, "sha256": sha256(weights)},
        "model": spec_to_json(builder.source.spec),
        "graph": {**asdict(target), "ir_version": builder.ir_version},
        "settings": settings.to_json(),
        "patches": {plugin: [asdict(record) for record in group] for plugin, group in builder.patches.items()},
        "translations": builder.translations,
        "rewrites": [{"plugin": plugin, **asdict(record)} for plugin, record in builder.rewrites],
        "environment": _environment({"backend": builder.backend, "device": builder.device}),
        "verdict": {"passed": verdict["passed"], "headline": verdict["headline"]},
    }


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
        "facts": dict(spec.facts),
    }


def spec_from_manifest(manifest: Mapping[str, Any]) -> ModelSpec:
    """Return the model specification that `spec_to_json` wrote."""
    model = manifest["model"]
    return ModelSpec(
        variant=model["variant"],
        dims=tuple(Dim(**dim) for dim in model["dims"]),
        inputs=tuple(_tensor_from_json(tensor) for tensor in model["inputs"]),
        outputs=tuple(_tensor_from_json(tensor) for tensor in model["outputs"]),
        preprocess=model["preprocess"],
        decode=model["decode"],
        classes=tuple(model["classes"]),
        facts=model["facts"],
    )


def _origin(adapter: str) -> dict[str, str]:
    """Return the plugin that offers an adapter and its distribution."""
    offers = manager().gather("convkit_adapters")
    plugin = next(name for name, items in offers.items() if adapter in {item.name for item in items})
    info = next(info for info in manager().infos() if info.name == plugin)
    return {"plugin": plugin, "distribution": info.distribution, "version": info.version}


def _environment(engine: Mapping[str, str]) -> dict[str, Any]:
    """Return versions of Python, the packages and the engine on which the proof ran."""
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
        "engine": dict(engine),
    }


def _tensor_to_json(tensor: TensorSpec) -> dict[str, Any]:
    return {**asdict(tensor), "shape": list(tensor.shape)}


def _tensor_from_json(entry: Mapping[str, Any]) -> TensorSpec:
    shape: Sequence[int | str] = entry["shape"]
    return TensorSpec(entry["name"], tuple(shape), entry["dtype"], entry["compare"], Tolerance(**entry["tolerance"]))
