"""The deformable convolution as PyTorch operator and layer."""

from convkit_plugins.dcnv2.op._compute import compute
from convkit_plugins.dcnv2.op._layer_op import dcnv2, split_offset_mask
from convkit_plugins.dcnv2.op._module import DCN
from convkit_plugins.dcnv2.op._op import deform_conv2d, output_size, pair

__all__ = ["DCN", "compute", "dcnv2", "deform_conv2d", "output_size", "pair", "split_offset_mask"]
