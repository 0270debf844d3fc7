"""Random maps for the decoding, and its kernels on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from convkit import Detections
from convkit.cuda import ArrayView, Variant
from convkit.testing.cuda_host import run_on_host
from convkit_models.centernet.tasks._device_decode import DecodeLaunch
from convkit_models.centernet.tasks.ctdet import CudaDecode, Tuning
from convkit_models.centernet.tasks.multi_pose import CudaPoseDecode

SMALL = Tuning(threads=64, unroll=2, groups=2)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def metas_for(batch: int, height: int = 12, width: int = 16) -> list[dict[str, Any]]:
    return [
        {"center": [321.5 + 7 * index, 239.0], "scale": 640.0 + 11 * index, "input": [4 * height, 4 * width]}
        for index in range(batch)
    ]


def heads(
    batch: int = 1, classes: int = 3, height: int = 12, width: int = 16, *, seed: int = 0, sizes: int = 2
) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return {
        "hm": torch.from_numpy((2.5 * rng.standard_normal((batch, classes, height, width)) - 2).astype(np.float32)),
        "wh": torch.from_numpy(rng.uniform(0, 9, (batch, sizes, height, width)).astype(np.float32)),
        "reg": torch.from_numpy(rng.uniform(0, 1, (batch, 2, height, width)).astype(np.float32)),
    }


def packed(maps: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    pooled = F.max_pool2d(maps["hm"], 3, stride=1, padding=1)
    joined = torch.cat([maps["reg"], maps["wh"], maps["hm"], pooled], dim=1)
    return {"output": joined.flatten(2).transpose(1, 2).contiguous()}


def memory(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor's whole storage, flat; bfloat16 as uint16."""
    flat = torch.as_strided(tensor, (tensor.untyped_storage().nbytes() // tensor.element_size(),), (1,), 0)
    return np.array((flat.view(torch.int16) if flat.dtype == torch.bfloat16 else flat).numpy()).view(
        np.uint16 if flat.dtype == torch.bfloat16 else flat.numpy().dtype
    )


def described(outputs: Mapping[str, torch.Tensor]) -> dict[str, ArrayView]:
    return {
        name: ArrayView(tuple(value.shape), tuple(value.stride()), str(value.dtype).removeprefix("torch."))
        for name, value in outputs.items()
    }


class OnHost:
    """The kernels that the decode launches for these outputs, on the host."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        outputs: Mapping[str, torch.Tensor],
        tuning: Tuning = SMALL,
        kind: type[CudaDecode | CudaPoseDecode] = CudaDecode,
    ) -> None:
        self.decode = kind(settings, tuning)
        self.call = self.decode.plan(described(outputs))
        self.outputs = {name: memory(value) for name, value in outputs.items()}
        self.scratch = {name: np.zeros(count, dtype) for name, (dtype, count) in self.call.scratch.items()}

    @property
    def variant(self) -> Variant:
        """That of the first kernel."""
        return self.call.steps[0].variant

    def __call__(self, metas: Sequence[Mapping[str, Any]], **options: Any) -> list[Any]:
        matrices = np.stack([self.decode.values(meta)["output_to_image"] for meta in metas])
        rows = np.full((self.call.batch, *self.decode.results[0].shape), np.nan, np.float32)
        counts = np.full(self.call.batch, -1, np.int32)
        run_launch(
            self.call,
            {**self.outputs, "output_to_image": matrices, "rows": rows, "counts": counts, **self.scratch},
            **options,
        )
        for row, count in zip(rows, counts, strict=True):
            assert not row[count:].any()
        return self.decode.read({"rows": rows, "counts": counts}, metas)


def run_launch(call: DecodeLaunch, arrays: Mapping[str, np.ndarray], **options: Any) -> None:
    """Run the kernels of a launch on arrays of the host, by name."""
    for step in call.steps:
        given = [None if name is None else arrays[name] for name in step.arrays]
        run_on_host(step.variant, step.config, [*given, *step.scalars], **options)


def assert_equal(found: Sequence[Detections], expected: Sequence[Any]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.class_ids, other.class_ids)
        np.testing.assert_array_equal(one.scores.view(np.uint32), other.scores.view(np.uint32))
        np.testing.assert_array_equal(one.boxes.view(np.uint32), other.boxes.view(np.uint32))
