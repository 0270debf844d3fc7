"""Time the host side of CenterNet: the preprocess against the warp in it, and the decode of its outputs.

    python benchmarks/preprocess_decode.py

Each figure is the median of many calls; what is compared with each other is called in turn, so that
a busy machine slows down both. OpenCV uses its default number of threads.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import cv2
import numpy as np

from convkit.processing import synthetic_scenes
from convkit_models.centernet import convkit_decode, convkit_preprocess
from convkit_models.centernet._adapter import COCO_MEAN, COCO_STD
from convkit_models.centernet._geometry import affine
from convkit_models.centernet._names import COCO

SIZE = (512, 512)
RATIO_LIMIT, DECODE_LIMIT_MS = 1.5, 3.0


def medians(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median time of each function in milliseconds, called in turn."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 10):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn >= 10:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: median(values) for name, values in times.items()}


def preprocess(rounds: int) -> list[tuple[str, float, str]]:
    (image,) = synthetic_scenes(1, height=1080, width=1920)
    spec = {"kind": "centernet.affine", "resize": "fix_res", "height": SIZE[1], "width": SIZE[0], "pad": 31}
    prepare = convkit_preprocess({**spec, "mean": COCO_MEAN, "std": COCO_STD})
    assert prepare is not None
    matrix = affine((960, 540), 1920.0, SIZE)
    mean, std = np.float32(COCO_MEAN), np.float32(COCO_STD)

    def by_formula() -> np.ndarray:
        warped = cv2.warpAffine(image, matrix, SIZE, flags=cv2.INTER_LINEAR)
        return np.ascontiguousarray(((warped / 255.0 - mean) / std).astype(np.float32).transpose(2, 0, 1))

    assert np.array_equal(prepare(image).tensors["images"], by_formula())
    found = medians(
        {
            "bare": lambda: cv2.warpAffine(image, matrix, SIZE, flags=cv2.INTER_LINEAR),
            "whole": lambda: prepare(image),
        },
        rounds,
    )
    found |= medians({"formula": by_formula, "write": lambda: np.empty((3, *SIZE), np.float32).fill(0)}, rounds // 5)
    ratio = found["whole"] / found["bare"]
    return [
        ("cv2.warpAffine alone, 1920x1080 to 512x512", found["bare"], ""),
        ("whole preprocess", found["whole"], f"{ratio:.2f} of the warp (goal: at most {RATIO_LIMIT})"),
        ("of that, to write 3 MB of float32 takes at least", found["write"], ""),
        ("official float64 formula", found["formula"], f"{found['formula'] / found['bare']:.2f} of the warp"),
    ]


def decode(rounds: int) -> list[tuple[str, float, str]]:
    rng = np.random.default_rng(0)
    grain = rng.standard_normal((80, 128, 128)).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(plane, (0, 0), 2) for plane in grain])
    maps = {"smooth maps": 3 * smooth / smooth.std() - 6, "white noise": 2 * grain - 6}
    meta = {"center": [960.0, 540.0], "scale": 1920.0, "input": [512, 512]}
    spec = {"kind": "centernet.ctdet", "stride": 4, "topk": 100, "sizes_per_class": False, "classes": list(COCO)}
    wh, reg = (rng.random((1, 2, 128, 128), dtype=np.float32) for _ in range(2))
    functions = {}
    for name, hm in maps.items():
        pooled = np.stack([cv2.dilate(plane, np.ones((3, 3), np.uint8)) for plane in hm])
        joined = np.concatenate([reg[0], wh[0], hm, pooled]).reshape(164, -1).T
        outputs = {
            "heads": {"hm": hm[None], "wh": wh, "reg": reg},
            "tensorrt-pro": {"output": np.ascontiguousarray(joined)[None]},
        }
        for form, tensors in outputs.items():
            functions[f"decode {form}, 80 classes at 128x128, {name}"] = _decoder({**spec, "form": form}, tensors, meta)
    return [
        (name, medians({name: function}, rounds)[name], f"goal: at most {DECODE_LIMIT_MS} ms")
        for name, function in functions.items()
    ]


def _decoder(spec: dict[str, Any], tensors: dict[str, np.ndarray], meta: dict[str, Any]) -> Callable[[], object]:
    run = convkit_decode(spec)
    assert run is not None
    return lambda: run(tensors, [meta])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=300, help="calls of each function")
    rounds = parser.parse_args().rounds
    print(f"{platform.processor() or platform.machine()}, OpenCV {cv2.__version__} on {cv2.getNumThreads()} threads")
    for name, value, note in [*preprocess(rounds), *decode(rounds)]:
        print(f"{name:58s} {value:7.2f} ms  {note}")


if __name__ == "__main__":
    main()
