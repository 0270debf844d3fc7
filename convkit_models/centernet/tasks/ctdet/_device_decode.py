"""The decoding on a GPU: heads, tutorial tensor or detections to boxes in the image, in one launch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convkit import Detections
from convkit.cuda import Variant, itemsize, load
from convkit.errors import KernelArgumentError
from convkit_models.centernet._geometry import affine
from convkit_models.centernet.tasks.ctdet._decode_kernels import (
    DTYPES,
    LAYOUTS,
    MOST_ROWS,
    ROWS,
    TUNINGS,
    decode_variants,
    peaks_variant,
    pro_variant,
)
from convkit_models.centernet.tasks.ctdet._decode_plan import Call, Tensor, Tuning
from convkit_models.centernet.tasks.ctdet._decode_pro import MODE

__all__ = ["Call", "CudaDecode", "Tensor", "Tuning", "decode_variants"]


class CudaDecode:
    """`CtdetDecode` on a GPU, with the same results to the bit for the same float32 heads.

    16-bit outputs are widened to float32 first. There may be up to `MOST_ROWS` detections an image. An object serves
    one stream at a time, because its scratch memory belongs to the launch that is running.
    """

    def __init__(self, spec: Mapping[str, Any], tuning: Tuning | None = None) -> None:
        if spec["topk"] > MOST_ROWS:
            raise KernelArgumentError(
                f"On a GPU there are at most {MOST_ROWS} detections an image, not {spec['topk']}.",
                hint="Decode on the host, or ask for fewer.",
            )
        self.rows: int = spec["topk"]
        self._spec = spec
        self._tuning = tuning
        self._calls: dict[Any, tuple[Call, Any, Any]] = {}

    def kernels(self) -> Sequence[Variant]:
        """Return variants for each dtype that the outputs may have, for contiguous maps of whole vectors."""
        if self._spec["form"] == "detections":
            return [ROWS.variant(T=dtype, THREADS=128) for dtype in DTYPES]
        layout = LAYOUTS["tutorial" if self._spec["form"] == "tutorial" else "planes"]
        if self._spec.get("mode") == MODE:
            return [pro_variant(dtype, layout, 256) for dtype in DTYPES]
        classes = len(self._spec["classes"])
        found = []
        for dtype in DTYPES:
            vector = 16 // itemsize(dtype)
            while layout == LAYOUTS["tutorial"] and any(number % vector for number in (4, classes, 4 + 2 * classes)):
                vector //= 2
            tunings = [self._tuning] if self._tuning else TUNINGS
            found += [peaks_variant(dtype, layout, vector, tuning, self.rows) for tuning in tunings]
        return found

    def back(self, meta: Mapping[str, Any]) -> np.ndarray:
        """Return float64 [8]: the 2 x 3 matrix from output map to image, the width of the map, and 0."""
        height, width = meta["input"]
        size = (width // self._spec["stride"], height // self._spec["stride"])
        matrix = affine(meta["center"], meta["scale"], size, inverse=True)
        return np.array([*matrix.reshape(6), size[0], 0])

    def launch(self, outputs: Mapping[str, Any], back: Any, results: Any, counts: Any, stream: int) -> None:
        """Write ``results`` float32 [B, rows, 6] (x1, y1, x2, y2, score, class) and ``counts`` int32 [B].

        Rows beyond the count are 0. ``outputs`` are torch tensors or cupy arrays of float32, float16 or bfloat16,
        contiguous or channels-last; ``back`` is float64 [B, 8]; results, counts and back are contiguous. The first
        launch for a batch and size compiles, allocates and waits; those after it may be captured in a CUDA graph.

        Raises:
            KernelArgumentError: an argument has the wrong dtype, device, shape or layout, or is too large.
        """
        tensors = {name: Tensor.of(name, value) for name, value in outputs.items()}
        # all that a plan depends on: of the addresses only how far they are aligned
        key = tuple((name, t.shape, t.strides, t.dtype, t.device, t.address % 16) for name, t in tensors.items())
        if key not in self._calls:
            call = Call.plan(self._spec, tensors, self._tuning)
            self._calls[key] = call, load(call.variant), _zeros(call.scratch)
        call, launcher, scratch = self._calls[key]
        for name, value, shape in (
            ("back", back, (call.batch, 8)),
            ("results", results, (call.batch, self.rows, 6)),
            ("counts", counts, (call.batch,)),
        ):
            Tensor.of(name, value).check_contiguous(name, shape)
        arrays = [0 if name is None else outputs[name] for name in call.inputs]
        memory = () if scratch is None else (scratch,)
        launcher(call.launch, *arrays, back, results, counts, *memory, *call.scalars, stream=stream)

    def results(self, rows: np.ndarray, counts: np.ndarray) -> list[Detections]:
        """Return the detections of each image from the host's copies of what ``launch`` wrote."""
        classes = tuple(self._spec["classes"])
        return [
            Detections(row[:count, :4].copy(), row[:count, 4].copy(), row[:count, 5].astype(np.int64), classes)
            for row, count in zip(rows, counts, strict=True)
        ]


def _zeros(count: int) -> Any:
    """Return that many uint64 zeros on the current device, once they are there; None for none."""
    if not count:
        return None
    import cupy

    with cupy.cuda.Stream(non_blocking=True) as stream:
        array = cupy.zeros(count, cupy.uint64)
        stream.synchronize()
    return array
