"""The deformable convolution as PyTorch operator and layer."""

from convkit_plugins.dcnv2.op._compute import compute
from convkit_plugins.dcnv2.op._dispatch import autocast_on_cuda, layer_of, on_kernels, register_backward
from convkit_plugins.dcnv2.op._layer_op import dcnv2, split_offset_mask
from convkit_plugins.dcnv2.op._module import DCN
from convkit_plugins.dcnv2.op._op import check, deform_conv2d, output_size, pair

__all__ = [
    "DCN",
    "autocast_on_cuda",
    "check",
    "compute",
    "dcnv2",
    "deform_conv2d",
    "layer_of",
    "on_kernels",
    "output_size",
    "pair",
    "register_backward",
    "split_offset_mask",
]
