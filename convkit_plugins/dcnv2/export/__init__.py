"""From the PyTorch operator to ONNX and back: patches, translation, rewrites, and the operator of the torch backend."""

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
