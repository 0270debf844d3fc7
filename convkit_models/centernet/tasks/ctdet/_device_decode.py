"""The decode on a GPU: heads, packed rows or detections to boxes in the image, in one launch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convkit import Detections, Result
from convkit.cuda import ArrayView, Variant, itemsize
from convkit.errors import KernelArgumentError
from convkit_models.centernet.tasks._device_decode import ROWS, DecodeLaunch, LaunchedDecode
from convkit_models.centernet.tasks._device_layout import DTYPES, LAYOUTS
from convkit_models.centernet.tasks.ctdet._decode_kernels import MOST_ROWS, TUNINGS, peaks_variant, pro_variant
from convkit_models.centernet.tasks.ctdet._decode_plan import PACKED_FORM, Tuning, plan_decode
from convkit_models.centernet.tasks.ctdet._decode_pro import MODE

__all__ = ["CudaDecode", "check_count", "peaks_variants"]


class CudaDecode(LaunchedDecode):
    """`CtdetDecode` on a GPU, with results that are equal to the bit for equal float32 heads.

    16-bit outputs are widened to float32 first. Rows are x1, y1, x2, y2, score and class; there may be up to
    `MOST_ROWS` of them per image.

    Raises:
        KernelArgumentError: the specification asks for more detections.
    """

    def __init__(self, spec: Mapping[str, Any], tuning: Tuning | None = None) -> None:
        check_count(spec["topk"], "detections")
        super().__init__(spec, columns=6)
        self._tuning = tuning

    def kernels(self) -> Sequence[Variant]:
        """Return variants for each dtype that the outputs may have, for contiguous maps of whole vectors."""
        if self._spec["form"] == "detections":
            return [ROWS.variant(T=dtype, LABELS=True, THREADS=128) for dtype in DTYPES]
        packed = self._spec["form"] == PACKED_FORM
        if self._spec.get("mode") == MODE:
            return [pro_variant(dtype, LAYOUTS["packed" if packed else "planes"], 256) for dtype in DTYPES]
        return peaks_variants(self._spec, self._tuning, packed=packed)

    def plan(self, outputs: Mapping[str, ArrayView]) -> DecodeLaunch:
        """Return the launch for outputs, which may be any others of these shapes later.

        Raises:
            KernelArgumentError: an output is missing, or has the wrong shape, dtype or layout, or is too large.
        """
        return plan_decode(self._spec, outputs, self._tuning)

    def read(self, results: Mapping[str, np.ndarray], metas: Sequence[Mapping[str, Any]]) -> list[Result]:
        """Return the detections of each image from the host's copies of what ``launch`` wrote."""
        classes = tuple(self._spec["classes"])
        return [
            Detections(row[:count, :4].copy(), row[:count, 4].copy(), row[:count, 5].astype(np.int64), classes)
            for row, count, _ in zip(results["rows"], results["counts"], metas, strict=True)
        ]


def check_count(topk: int, what: str) -> None:
    """Raise `KernelArgumentError` if more peaks are asked for than the GPU sorts."""
    if topk > MOST_ROWS:
        raise KernelArgumentError(
            f"On a GPU there are at most {MOST_ROWS} {what} an image, not {topk}.",
            hint="Decode on the host, or ask for fewer.",
        )


def peaks_variants(
    spec: Mapping[str, Any], tuning: Tuning | None, *, packed: bool = False, in_cells: bool = False
) -> list[Variant]:
    """Return the variants that find peaks, for each dtype, in contiguous maps of whole vectors; see `peaks_variant`."""
    found, classes = [], len(spec["classes"])
    for dtype in DTYPES:
        vector = 16 // itemsize(dtype)
        while packed and any(number % vector for number in (4, classes, 4 + 2 * classes)):
            vector //= 2
        layout = LAYOUTS["packed" if packed else "planes"]
        for each in [tuning] if tuning else TUNINGS:
            found.append(peaks_variant(dtype, layout, vector, each, spec["topk"], in_cells=in_cells))
    return found
