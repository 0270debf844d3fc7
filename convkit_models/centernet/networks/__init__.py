"""The networks of CenterNet: layout, construction, and inference of both from a checkpoint."""

from convkit_models.centernet.networks._infer import check_fit, infer_layout
from convkit_models.centernet.networks._layout import ARCHITECTURES, BLOCKS, STRIDE, Head, Layout, Stage, Step
from convkit_models.centernet.networks._networks import CenterNetwork, build, expected_shapes, restore

__all__ = [
    "ARCHITECTURES",
    "BLOCKS",
    "STRIDE",
    "CenterNetwork",
    "Head",
    "Layout",
    "Stage",
    "Step",
    "build",
    "check_fit",
    "expected_shapes",
    "infer_layout",
    "restore",
]
