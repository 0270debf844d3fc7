"""Convert a full-size network at 512x512: wall time, peak memory, and inference beside PyTorch.

The checkpoint is random but well-conditioned, in the official format, with 80 classes: a resdcn_18 of 14.4 M
parameters, or with --arch another. Options behind "--" are given to the conversion, whose time alone is then printed:

    python benchmarks/convert_full_size.py -- --backend torch --device cuda

Run with two cores to compare with docs/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

LIMITS = {"resdcn_18": (25.0, 3.0), "dla_34": (60.0, 4.0), "hourglass": (240.0, 10.0)}
"""Seconds and GiB of a conversion, on two cores."""
LIMIT_RATIO = 0.75


def convert(weights: Path, output: Path, extra: list[str]) -> tuple[float, float]:
    """Run the command in a process of its own; return seconds and peak memory in GiB, of its own processes too.

    Pages that processes share count once (the proportional set size of Linux, read every two seconds).
    """
    command = [sys.executable, "-m", "convkit", "convert", "centernet", "-w", str(weights), "-o", str(output), *extra]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0.0
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = process.wait(2)
            break
        peak = max(peak, memory_of(process.pid))
    seconds = time.perf_counter() - started
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{usage.ru_utime + usage.ru_stime:.0f} s of CPU time", file=sys.stderr)
    if status:
        sys.exit(f"the conversion failed with status {status}")
    return seconds, peak


def memory_of(process: int) -> float:
    """Return the memory of a process and of those that it forked, in GiB."""
    total = 0.0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if process in (parent, int(folder.name)):
                lines = (folder / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 2**20
    return total


def inference(weights: Path, artifact: Path, runs: int) -> tuple[float, float]:
    """Return the median milliseconds of PyTorch eager and of ONNX Runtime, measured in turns."""
    import numpy as np
    import torch

    import convkit
    from convkit.model import Request
    from convkit.plugins import manager

    predictor = convkit.load(artifact)
    spec = predictor.spec
    adapter = manager().adapter("centernet")
    options = {option.name: option.default for option in adapter.options}
    module = adapter.load(Request(weights, "heads", spec.dims, None, options)).module
    image = np.random.default_rng(0).normal(size=(1, 3, 512, 512)).astype(np.float32)
    tensor = torch.from_numpy(image)
    times: dict[str, list[float]] = {"torch": [], "ort": []}
    with torch.no_grad():
        for turn in range(runs + 2):
            for name, call in (
                ("torch", lambda: module(tensor)),
                ("ort", lambda: predictor.session.run({"images": image})),
            ):
                started = time.perf_counter()
                call()
                if turn >= 2:
                    times[name].append(1e3 * (time.perf_counter() - started))
    return statistics.median(times["torch"]), statistics.median(times["ort"])


def main() -> None:
    """Print the table; exit 1 when a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15, help="timed inferences of each engine")
    parser.add_argument("--arch", default="resdcn_18", choices=LIMITS, help="the network")
    parser.add_argument("--weights", type=Path, help="a checkpoint to use in place of the random one")
    parser.add_argument("extra", nargs="*", help="options of the conversion, behind --")
    options = parser.parse_args()
    from support.checkpoints import make_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        weights = options.weights or make_checkpoint(
            Path(folder) / f"{options.arch}.pth",
            options.arch,
            classes=80,
            width=1.0,
            head_conv=64 if options.arch.startswith("res") else 256,
        )
        artifact = Path(folder) / "artifact"
        seconds, memory = convert(weights, artifact, options.extra)
        if options.extra:
            print(f"convert {options.arch} {' '.join(options.extra)}: {seconds:.1f} s, {memory:.2f} GiB")
            return
        torch_ms, ort_ms = inference(weights, artifact, options.runs)
    limit_seconds, limit_gib = LIMITS[options.arch]
    ratio = ort_ms / torch_ms
    print("| figure | measured | limit |")
    print("|---|---|---|")
    what = f"convert {options.arch} 512x512, batch 1:1:8, to a proved artifact"
    print(f"| {what} | {seconds:.1f} s | {limit_seconds:.0f} s |")
    print(f"| peak memory of that | {memory:.2f} GiB | {limit_gib:.0f} GiB |")
    print(f"| PyTorch eager, batch 1 | {torch_ms:.1f} ms | |")
    print(f"| ONNX Runtime, batch 1 | {ort_ms:.1f} ms ({ratio:.2f} of eager) | {LIMIT_RATIO} of eager |")
    sys.exit(not (seconds <= limit_seconds and memory <= limit_gib and ratio <= LIMIT_RATIO))


if __name__ == "__main__":
    main()
