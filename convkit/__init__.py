"""convkit: research checkpoint to deployable engine, with the proof that both compute the same thing.

Everything a plugin or a script needs is here; importing the package is light, and each name is
loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import convkit._environment  # noqa: F401 - before any library that reads it
from convkit.hookspecs import hookimpl

if TYPE_CHECKING:
    from convkit.artifact import Artifact
    from convkit.backends import Backend, DeviceSession, Engine, EngineProbe, Session, TensorRTPlugin
    from convkit.backends.torch._node import TorchNode
    from convkit.conversion import Conversion, convert
    from convkit.doctor import KnownError
    from convkit.errors import CheckpointError, ConvkitError, InputError
    from convkit.evaluation import validate
    from convkit.graph import NodeRewrite, NoMatch, Rewrite
    from convkit.model import (
        Adapter,
        AttributePatch,
        Dim,
        Expect,
        ModelSpec,
        ModulePatch,
        Option,
        Request,
        SourceModel,
        Target,
        TensorSpec,
        Tolerance,
        at_least,
        exactly,
        optional,
    )
    from convkit.processing import (
        ArrayReader,
        ArraySpec,
        Decode,
        DeviceDecode,
        DevicePreprocess,
        ImageReader,
        JsonReader,
        Placement,
        Prepared,
        Preprocess,
        Reader,
        synthetic_scenes,
    )
    from convkit.proof import Verdict
    from convkit.results import Boxes3D, Classification, Detections, Difference, Poses, Result
    from convkit.runtime import Predictor, load
    from convkit.weights import read_weights

__version__ = "0.1.0"

_HOMES = {
    "convkit.artifact": ("Artifact",),
    "convkit.backends": ("Backend", "DeviceSession", "Engine", "EngineProbe", "Session", "TensorRTPlugin"),
    "convkit.backends.torch._node": ("TorchNode",),
    "convkit.conversion": ("Conversion", "convert"),
    "convkit.doctor": ("KnownError",),
    "convkit.errors": ("CheckpointError", "ConvkitError", "InputError"),
    "convkit.evaluation": ("validate",),
    "convkit.graph": ("NoMatch", "NodeRewrite", "Rewrite"),
    "convkit.model": (
        "Adapter", "AttributePatch", "Dim", "Expect", "ModelSpec", "ModulePatch", "Option", "Request", "SourceModel",
        "Target", "TensorSpec", "Tolerance", "at_least", "exactly", "optional",
    ),
    "convkit.processing": (
        "ArrayReader", "ArraySpec", "Decode", "DeviceDecode", "DevicePreprocess", "ImageReader", "JsonReader",
        "Placement", "Prepared", "Preprocess", "Reader", "synthetic_scenes",
    ),
    "convkit.proof": ("Verdict",),
    "convkit.results": ("Boxes3D", "Classification", "Detections", "Difference", "Poses", "Result"),
    "convkit.runtime": ("Predictor", "load"),
    "convkit.weights": ("read_weights",),
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Adapter",
    "ArrayReader",
    "ArraySpec",
    "Artifact",
    "AttributePatch",
    "Backend",
    "Boxes3D",
    "CheckpointError",
    "Classification",
    "Conversion",
    "ConvkitError",
    "Decode",
    "Detections",
    "DeviceDecode",
    "DevicePreprocess",
    "DeviceSession",
    "Difference",
    "Dim",
    "Engine",
    "EngineProbe",
    "Expect",
    "ImageReader",
    "InputError",
    "JsonReader",
    "KnownError",
    "ModelSpec",
    "ModulePatch",
    "NoMatch",
    "NodeRewrite",
    "Option",
    "Placement",
    "Poses",
    "Predictor",
    "Prepared",
    "Preprocess",
    "Reader",
    "Request",
    "Result",
    "Rewrite",
    "Session",
    "SourceModel",
    "Target",
    "TensorRTPlugin",
    "TensorSpec",
    "Tolerance",
    "TorchNode",
    "Verdict",
    "at_least",
    "convert",
    "exactly",
    "hookimpl",
    "load",
    "optional",
    "read_weights",
    "synthetic_scenes",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'convkit' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
