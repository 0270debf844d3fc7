"""Object detection as in CenterNet: outputs, specification, decode on the host and on the GPU."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from convkit_models.centernet.tasks.ctdet._decode import CtdetDecode, are_peaks, best, find_peaks, max_pool, sigmoid
from convkit_models.centernet.tasks.ctdet._decode_kernels import MOST_ROWS, Tuning
from convkit_models.centernet.tasks.ctdet._decode_plan import plan_decode
from convkit_models.centernet.tasks.ctdet._decode_pro import MODE, MOST_CELLS, ProDecode, least_logit, overlaps
from convkit_models.centernet.tasks.ctdet._device_decode import CudaDecode, check_count, peaks_variants
from convkit_models.centernet.tasks.ctdet._spec import DECODE, OUTPUT_PATCH, PREPROCESS, check_heads, describe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convkit import Decode
    from convkit_models.centernet.tasks.ctdet._outputs import output_patch, reference

_WITH_TORCH = ("output_patch", "reference")
"""What is imported when it is first used: an artifact runs where there is no torch."""

__all__ = [
    "DECODE",
    "MODE",
    "MOST_CELLS",
    "MOST_ROWS",
    "OUTPUT_PATCH",
    "PREPROCESS",
    "CtdetDecode",
    "CudaDecode",
    "ProDecode",
    "Tuning",
    "are_peaks",
    "best",
    "check_count",
    "check_heads",
    "describe",
    "find_peaks",
    "least_logit",
    "make_decode",
    "max_pool",
    "output_patch",
    "overlaps",
    "peaks_variants",
    "plan_decode",
    "reference",
    "sigmoid",
]


def make_decode(spec: Mapping[str, Any]) -> Decode:
    """Return the decode of a specification."""
    return ProDecode(spec) if spec.get("mode") == MODE else CtdetDecode(spec)


def __getattr__(name: str) -> Any:
    if name not in _WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}._outputs"), name)
