"""AP of the digits demo in every precision: typed ONNX graphs run by the torch backend on the CPU.

int8 is calibrated on scenes made for it from the training half of digits and photographs; AP is measured on
the held-out scenes. Exit status 1 if a precision loses more AP than the limit.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

DIGITS = Path(__file__).resolve().parents[1] / "examples" / "digits"
LIMITS = {"fp16": 0.002, "bf16": 0.002, "int8": 0.01}
SEED = 21
"""Seed of the scenes for calibration; no other set was made with it."""


def convert(folder: Path, size: int) -> Path:
    """Return an artifact of the checkpoint, for square images of this size."""
    command = [
        *(sys.executable, "-m", "convkit", "convert", "centernet", "--weights", DIGITS / "digits_resdcn18.pth"),
        *("--names", DIGITS / "names.txt", "--shape", f"height={size}", "--shape", f"width={size}"),
        *("--inputs", DIGITS / "images", "--output", folder / "digits"),
    ]
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    return folder / "digits"


def scenes(folder: Path, count: int) -> None:
    """Write new scenes."""
    command = [sys.executable, str(DIGITS / "generate.py"), "--images", str(folder), "--split", "train"]
    subprocess.run([*command, "--count", str(count), "--seed", str(SEED)], check=True, stdout=subprocess.DEVNULL)


def engine(artifact: Any, model: Any, folder: Path, name: str) -> Callable[[Path], Any]:
    """Return what turns an image file into detections, with a graph run by the torch backend."""
    import onnx

    from convkit.backends import open_session
    from convkit.runtime import Predictor

    file = folder / f"{name}.onnx"
    onnx.save(model, file)
    return Predictor(artifact, open_session("torch", file))


def graphs(model: Any, feeds: list[Mapping[str, np.ndarray]], methods: list[str]) -> dict[str, Any]:
    """Return the typed models by name of the precision."""
    from convkit.graph import apply_rewrite
    from convkit.graph.precision import To16Bit, quantize, ranges

    seen = ranges(model, feeds)
    table = {"fp32": model}
    for precision in ("fp16", "bf16"):
        table[precision], record = apply_rewrite(model, To16Bit(precision, ranges=seen))
        print(f"{precision}: {record.fired} nodes, {len(record.near_misses)} kept in float32")
    for method in methods:
        started = time.perf_counter()
        table[f"int8 {method}"], records = quantize(model, feeds, method=method)
        print(f"int8 {method}: {records[0].fired} nodes, in {time.perf_counter() - started:.1f} s")
    return table


def main() -> None:
    """Print the table; exit 1 when a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifact", type=Path, help="an artifact of the digits checkpoint; converted if left out")
    parser.add_argument("--size", type=int, default=256, help="height and width of the images")
    parser.add_argument("--calibrate", type=int, default=64, help="scenes for calibration")
    parser.add_argument("--limit", type=int, help="held-out scenes to run; all if left out")
    parser.add_argument("--method", action="append", help="of calibration; may be repeated; all if left out")
    options = parser.parse_args()
    import onnx

    from convkit.artifact import Artifact, spec_from_manifest
    from convkit.conversion import CalibrationFiles
    from convkit.evaluation import evaluate_engines
    from convkit.graph.precision import METHODS

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        artifact = Artifact.open(options.artifact or convert(folder, options.size))
        spec = spec_from_manifest(artifact.manifest)
        scenes(folder / "scenes", options.calibrate)
        feeds = list(CalibrationFiles(spec, folder / "scenes", options.calibrate))
        table = graphs(onnx.load(str(artifact.model)), feeds, options.method or list(METHODS))
        engines = {key: engine(artifact, model, folder, key) for key, model in table.items()}
        heldout = DIGITS / "heldout"
        report = evaluate_engines(
            engines, spec.classes, heldout / "annotations.json", heldout / "images", limit=options.limit
        )
    print(f"\n{report.images} images, {len(feeds)} scenes for calibration\n")
    print("| graph | AP | AP50 | AP75 | lost AP | limit |\n|---|---|---|---|---|---|")
    failed = False
    for key, figures in report.figures.items():
        lost = report.figures["fp32"]["AP"] - figures["AP"]
        limit = LIMITS.get(key.split()[0])
        failed = failed or (limit is not None and lost > limit)
        row = [figures["AP"], figures["AP50"], figures["AP75"], lost]
        print(f"| {key} | {' | '.join(f'{value:.4f}' for value in row)} | {'' if limit is None else limit} |")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
