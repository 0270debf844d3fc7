"""What people who convert deformable networks run into, with cause and cure."""

from __future__ import annotations

from convkit import Remedy

__all__ = ["REMEDIES"]

_CONVERT = "Convert from the checkpoint: `convkit convert ADAPTER --weights FILE` writes the standard DeformConv"

REMEDIES = (
    Remedy(
        pattern=r"No importer registered for op: (DCNv2(_2)?|Plugin)\b|No Op registered for DCNv2(_2)?\b",
        cause="The graph holds a private node for the deformable convolution, which only a patched parser reads.",
        cure=f"{_CONVERT} instead, which TensorRT (10.1 or newer) and ONNX Runtime import as they are.",
    ),
    Remedy(
        pattern=r"Couldn't export Python operator (_?DCNv2|\w*Deform\w*)",
        cause="The layer calls a compiled extension through an autograd function, which the exporter cannot read.",
        cure=f"{_CONVERT}; the dcnv2 plugin replaces such layers while the model is exported.",
    ),
    Remedy(
        pattern=r"torch\.utils\.ffi is deprecated"
        r"|\bTHC?/THC?\.h: No such file"
        r"|(THCState_getCurrentStream|THCudaBlas_\w+)\"? is undefined"
        r"|THFloatBlas_\w+.{0,3} was not declared",
        cause="The DCNv2 extension is written against interfaces that PyTorch has removed.",
        cure="Do not build it: convkit needs no extension. In training code, put"
        " `from convkit_plugins.dcnv2 import DCN` in place of the import of its DCN; checkpoints stay valid.",
    ),
    Remedy(
        pattern=r"No module named '(_ext|[\w.]*DCNv2[\w.]*)'|cannot import name '_?dcn_?v2\w*'",
        cause="The compiled DCNv2 extension is missing.",
        cure="It is not needed: `from convkit_plugins.dcnv2 import DCN` is the same layer in plain PyTorch,"
        " with the same parameter names.",
    ),
    Remedy(
        pattern=r"Not implement(ed)? on (the )?cpu|Not compiled with GPU support"
        r"|dcn_v2\w*\.py[\s\S]{0,400}NotImplementedError",
        cause="The compiled DCNv2 extension computes on a GPU only, and this one cannot use any.",
        cure="convkit converts without it, on the CPU. To run the model itself there, put"
        " `from convkit_plugins.dcnv2 import DCN` in place of the import of its DCN.",
    ),
    Remedy(
        pattern=r"operator '?(torchvision::)?deform_conv2d'? to\s+(ONNX )?opset"
        r"|No ONNX function found for <OpOverload\(op='torchvision\.deform_conv2d'",
        cause="The exporter has no translation of torchvision's deformable convolution.",
        cure="Convert through convkit: its dcnv2 plugin exports torchvision.ops.DeformConv2d layers as DeformConv.",
    ),
    Remedy(
        pattern=r"No Op registered for DeformConv",
        cause="ONNX has DeformConv from opset 19 on; the model declares an older one.",
        cure="Export with --opset 19 or higher.",
    ),
    Remedy(
        pattern=r"Could not find an implementation for DeformConv",
        cause="This ONNX Runtime cannot run DeformConv: the first release that can is 1.25, for Python 3.11 or newer.",
        cure='Update it: python -m pip install "onnxruntime>=1.25"',
    ),
    Remedy(
        pattern=r"No importer registered for op: DeformConv\b",
        cause="This TensorRT is older than 10.1, the first release whose parser imports DeformConv.",
        cure="Update TensorRT to 10.13 or newer.",
    ),
    Remedy(
        pattern=r"could not find plugin:? ModulatedDeformConv2d",
        cause="TensorRT's own plugins are not registered; its DeformConv is one of them.",
        cure="Call trt.init_libnvinfer_plugins(logger, '') before parsing, or load libnvinfer_plugin.",
    ),
)
