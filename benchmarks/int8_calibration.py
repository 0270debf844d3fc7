"""int8 of a full-size resdcn_18 at 512x512 from 64 image files: time, processor time and peak memory of each part.

The checkpoint is random but well-conditioned: of accuracy, benchmarks/precision_accuracy.py tells.
Run with two cores to compare with docs/performance.md; exit status 1 if a limit is passed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

LIMIT_SECONDS, LIMIT_GIB, LIMIT_TYPING = 90.0, 2.0, 2.0


def write_images(folder: Path, count: int) -> None:
    """Write photograph-like images of 640x480."""
    import cv2

    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        coarse = generator.integers(0, 256, (15, 20, 3), np.uint8)
        image = cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        noisy = np.clip(image + generator.integers(-12, 13, image.shape), 0, 255)
        cv2.imwrite(str(folder / f"{number:04}.jpg"), noisy.astype(np.uint8))


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return the result of a call, its seconds and its processor seconds."""
    wall, used = time.perf_counter(), time.process_time()
    result = call()
    return result, time.perf_counter() - wall, time.process_time() - used


def measure(artifact_path: Path, folder: Path, method: str, count: int) -> dict[str, Any]:
    """Quantise in this process; return what was measured."""
    import resource

    import onnx

    from convkit.artifact import Artifact, spec_from_manifest
    from convkit.conversion import CalibrationFiles, quantize_with
    from convkit.graph import apply_rewrite
    from convkit.graph.precision import To16Bit, local_errors

    artifact = Artifact.open(artifact_path)
    spec, model = spec_from_manifest(artifact.manifest), onnx.load(str(artifact.model))
    (result, records, found), seconds, used = timed(
        lambda: quantize_with(model, spec, folder, method=method, count=count)
    )
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    _, typing, typing_used = timed(lambda: apply_rewrite(model, To16Bit("fp16")))
    feeds = list(CalibrationFiles(spec, folder, 8))[:2]
    errors, local, local_used = timed(lambda: local_errors(model, result, feeds))
    return {
        "images": found.count, "nodes": {record.name: record.fired for record in records},
        "seconds": seconds, "cpu_seconds": used, "gib": memory, "typing": typing, "typing_cpu": typing_used,
        "local": local, "local_cpu": local_used, "worst": [errors[0].node, errors[0].sqnr],
    }  # fmt: skip


def main() -> None:
    """Print the table; exit 1 when a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=64, help="images")
    parser.add_argument("--method", default="percentile", help="of calibration")
    parser.add_argument("--artifact", type=Path, help="an artifact to use in place of the random one")
    parser.add_argument("--measure", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure, options.method, options.count)))
        return
    from support.checkpoints import make_checkpoint

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        artifact = options.artifact
        if artifact is None:
            weights = make_checkpoint(folder / "resdcn_18.pth", classes=80, width=1.0, head_conv=64)
            artifact = folder / "artifact"
            command = [sys.executable, "-m", "convkit", "convert", "centernet", "-w", str(weights), "-o", str(artifact)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        write_images(folder / "images", options.count)
        command = [sys.executable, __file__, "--measure", str(artifact), str(folder / "images")]
        command += ["--method", options.method, "--count", str(options.count)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = json.loads(output.splitlines()[-1])
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {found['images']} images, {found['nodes']}\n")
    print("| part | seconds | processor seconds | limit |\n|---|---|---|---|")
    print(f"| calibration and both passes | {found['seconds']:.1f} | {found['cpu_seconds']:.1f} | {LIMIT_SECONDS:g} |")
    print(f"| fp16 pass alone | {found['typing']:.2f} | {found['typing_cpu']:.2f} | {LIMIT_TYPING:g} |")
    print(f"| local errors on 2 images | {found['local']:.1f} | {found['local_cpu']:.1f} | |")
    print(f"\npeak memory {found['gib']:.2f} GiB (limit {LIMIT_GIB:g}); worst node {found['worst']}")
    over = found["seconds"] > LIMIT_SECONDS or found["gib"] > LIMIT_GIB or found["typing"] > LIMIT_TYPING
    sys.exit(1 if over else 0)


if __name__ == "__main__":
    main()
