"""From the PyTorch operator to ONNX and back: patches, translation, rewrites, and the operator of the torch backend."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convkit_plugins.dcnv2.export._complete_inputs import CompleteInputs
    from convkit_plugins.dcnv2.export._decompose_gather import DecomposeGather
    from convkit_plugins.dcnv2.export._decompose_grid_sample import DecomposeGridSample
    from convkit_plugins.dcnv2.export._fold_batchnorm import FoldBatchNorm
    from convkit_plugins.dcnv2.export._patch import patches
    from convkit_plugins.dcnv2.export._probes import probes
    from convkit_plugins.dcnv2.export._tensorrt_native import TensorRTNative
    from convkit_plugins.dcnv2.export._tensorrt_plugin import TensorRTPluginNode, plugin_rewrite
    from convkit_plugins.dcnv2.export._torch_operator import OPERATORS
    from convkit_plugins.dcnv2.export._translation import FIRST_OPSET, translations

__all__ = [
    "FIRST_OPSET",
    "OPERATORS",
    "CompleteInputs",
    "DecomposeGather",
    "DecomposeGridSample",
    "FoldBatchNorm",
    "TensorRTNative",
    "TensorRTPluginNode",
    "patches",
    "plugin_rewrite",
    "probes",
    "translations",
]

_HOMES = {
    "_complete_inputs": ("CompleteInputs",),
    "_decompose_gather": ("DecomposeGather",),
    "_decompose_grid_sample": ("DecomposeGridSample",),
    "_fold_batchnorm": ("FoldBatchNorm",),
    "_patch": ("patches",),
    "_probes": ("probes",),
    "_tensorrt_native": ("TensorRTNative",),
    "_tensorrt_plugin": ("TensorRTPluginNode", "plugin_rewrite"),
    "_torch_operator": ("OPERATORS",),
    "_translation": ("FIRST_OPSET", "translations"),
}
"""Where names are loaded from when they are first used: a rewrite needs neither PyTorch nor the exporter."""


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
