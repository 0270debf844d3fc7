"""Build an engine of a full-size resdcn_18 at 512x512 with TensorRT-RTX: wall time, memory and size of the plan.

The artifact is made first and does not count. Then ``convkit build`` parses the graph, replays what the parser
understood and builds for three compute capabilities, in a process of its own and on a machine without a GPU.
Memory is the sum of the resident memory of that process and its children, sampled every 50 ms; pages they share
count more than once. The engine does not run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

LIMIT_SECONDS, LIMIT_GIB, LIMIT_EXTRA_MB = 20.0, 3.0, 5.0


def resident(process: int) -> int:
    """Return the resident memory in KiB of ``process`` and all its descendants; 0 of one that ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        tasks = list(Path(f"/proc/{process}/task").iterdir())
        children = [name for task in tasks for name in (task / "children").read_text().split()]
    except OSError:
        return 0
    own = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0)
    return own + sum(resident(int(child)) for child in children)


def timed(arguments: list[str]) -> tuple[float, float]:
    """Run ``python -m convkit`` with ``arguments``; return seconds and the peak of the resident memory in GiB."""
    started, peak = time.perf_counter(), 0
    process = subprocess.Popen([sys.executable, "-m", "convkit", *arguments], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, resident(process.pid))
        time.sleep(0.05)
    seconds = time.perf_counter() - started
    if process.returncode:
        sys.exit(f"convkit {arguments[0]} failed with exit code {process.returncode}")
    return seconds, peak / 2**20


def main() -> None:
    """Print the table; exit 1 when a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="sm80,sm86,sm89", help="compute capabilities, as convkit build takes them")
    parser.add_argument("--dcn", choices=["gather", "grid-sample"], default="grid-sample", help="form of DCNv2")
    parser.add_argument("--precision", choices=["fp32", "fp16", "bf16"], default="fp32", help="of the engine")
    options = parser.parse_args()
    from support.checkpoints import make_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        weights = make_checkpoint(Path(folder) / "resdcn_18.pth", classes=80, width=1.0, head_conv=64)
        artifact = Path(folder) / "artifact"
        _, convert_memory = timed(["convert", "centernet", "-w", str(weights), "-o", str(artifact), "-q"])
        build = ["build", str(artifact), "--to", "tensorrt-rtx", "--target", options.target]
        build += ["--precision", options.precision, "--set", f"dcn={options.dcn}", "-q"]
        seconds, memory = timed(build)
        engine = artifact / "engines" / "tensorrt-rtx"
        plan = (engine / "model.plan").stat().st_size / 1e6
        graph = sum(path.stat().st_size for path in artifact.glob("model.onnx*")) / 1e6
        layers = len(json.loads((engine / "engine.json").read_text())["layers"])
    print(f"{options.precision}, dcn={options.dcn}, targets {options.target}, {layers} layers in the network\n")
    print("| figure | measured | limit |")
    print("|---|---|---|")
    print(f"| parse, replay and build | {seconds:.1f} s | {LIMIT_SECONDS:.0f} s |")
    print(
        f"| peak memory of that, beyond the conversion's {convert_memory:.2f} GiB | "
        f"{memory - convert_memory:+.2f} GiB | {LIMIT_GIB:+.0f} GiB |"
    )
    print(f"| plan, of a graph of {graph:.1f} MB | {plan:.1f} MB | {graph + LIMIT_EXTRA_MB:.1f} MB |")
    sys.exit(not (seconds <= LIMIT_SECONDS and memory - convert_memory <= LIMIT_GIB and plan <= graph + LIMIT_EXTRA_MB))


if __name__ == "__main__":
    main()
