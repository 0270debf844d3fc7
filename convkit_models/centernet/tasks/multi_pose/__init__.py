"""Human poses as in CenterNet: outputs, specification, decode on the host and on the GPU."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from convkit_models.centernet.tasks.multi_pose._decode import PoseDecode
from convkit_models.centernet.tasks.multi_pose._device_decode import POSES, CudaPoseDecode, plan_poses, poses_variant
from convkit_models.centernet.tasks.multi_pose._spec import DECODE, check_heads, describe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convkit import Decode
    from convkit_models.centernet.tasks.multi_pose._outputs import output_patch, reference

_WITH_TORCH = ("output_patch", "reference")
"""What is imported when it is first used: an artifact runs where there is no torch."""

__all__ = [
    "DECODE",
    "POSES",
    "CudaPoseDecode",
    "PoseDecode",
    "check_heads",
    "describe",
    "make_decode",
    "output_patch",
    "plan_poses",
    "poses_variant",
    "reference",
]


def make_decode(spec: Mapping[str, Any]) -> Decode:
    """Return the decode of a specification."""
    return PoseDecode(spec)


def __getattr__(name: str) -> Any:
    if name not in _WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}._outputs"), name)
