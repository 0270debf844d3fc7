"""The network alone on the CPU: convkit's engines beside PyTorch, and where ONNX Runtime's time goes.

Full-size networks at 512x512, batch 1, float32, with random but well-conditioned weights and 80 classes. For each
number of threads a process of its own is bound to as many cores; the engines in it run in turns. CPU time is that of
all threads of the process; with one thread, other work on the machine disturbs it less than the clock on the wall.
`torch.compile` takes part where it finds a C++ compiler. ONNX Runtime's own profiler says what each type of
node takes on one thread, and a loop of multiply-adds (where there is a compiler) what the processor can do.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

OURS = ("onnxruntime", "torch")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
PEAK = r"""
#include <stdio.h>
#include <time.h>
typedef float v8 __attribute__((vector_size(32)));
int main(void) {
    double best = 0;
    for (int turn = 0; turn < 50; turn++) {
        v8 a[12];
        for (int i = 0; i < 12; i++) a[i] = (v8){0} + (float)i;
        v8 x = (v8){0} + 0.999f, y = (v8){0} + 0.001f;
        struct timespec s, e;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &s);
        for (int n = 0; n < 2000000; n++)
            for (int i = 0; i < 12; i++) a[i] = a[i] * x + y;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &e);
        double gflops = 2e6 * 12 * 16 / ((e.tv_sec - s.tv_sec) * 1e9 + (e.tv_nsec - s.tv_nsec));
        if (gflops > best) best = gflops;
        volatile float sink = 0;
        for (int i = 0; i < 12; i++) sink += a[i][0];
    }
    printf("%.1f\n", best);
}
"""


def artifact_of(arch: str, folder: Path) -> tuple[Path, Path]:
    """Return the checkpoint and the artifact of a network in ``folder``; what is there already is used again."""
    from support.checkpoints import make_checkpoint

    import convkit

    weights, artifact = folder / f"{arch}.pth", folder / arch
    if not weights.is_file():
        make_checkpoint(weights, arch, classes=80, width=1.0, head_conv=64 if arch.startswith("res") else 256)
    if not artifact.is_dir():
        convkit.convert("centernet", weights=weights, output=artifact, shape=["batch=1"], samples=2)
    return weights, artifact


def engines(weights: Path, artifact: Path, threads: int, compiled: bool) -> dict[str, Callable[[Any], object]]:
    """Return what runs the network on an image [1, 3, 512, 512], by name."""
    import torch

    import convkit
    from convkit.model import Request
    from convkit.plugins import manager

    torch.set_num_threads(threads)
    adapter = manager().adapter("centernet")
    predictors = {name: convkit.load(artifact, backend=name, unproved=True) for name in OURS}
    options = {option.name: option.default for option in adapter.options}
    dims = next(iter(predictors.values())).spec.dims
    module = adapter.load(Request(weights, "heads", dims, None, options)).module.eval()

    def by_torch(network: Callable[[Any], object]) -> Callable[[Any], object]:
        def call(image: Any) -> object:
            with torch.inference_mode():
                return network(torch.from_numpy(image))

        return call

    found = {"PyTorch eager": by_torch(module)}
    if compiled:
        found["torch.compile"] = by_torch(torch.compile(module))
    for name, predictor in predictors.items():
        found[f"convkit, {name}"] = lambda image, session=predictor.session: session.run({"images": image})  # type: ignore[misc]
    return found


def image() -> Any:
    """Return an input of the network."""
    import numpy as np

    return np.random.default_rng(0).normal(size=(1, 3, 512, 512)).astype(np.float32)


def timed(calls: dict[str, Callable[[Any], object]], runs: int, warm_up: int = 2) -> dict[str, dict[str, float]]:
    """Return milliseconds of each call on the wall and of CPU time, measured in turns."""
    pixels, times = image(), defaultdict(list)
    for turn in range(runs + warm_up):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call(pixels)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if turn >= warm_up:
                times[name].append((1e3 * wall, 1e3 * cpu))
    table = {}
    for name, pairs in times.items():
        walls, cpus = zip(*pairs, strict=True)
        table[name] = {
            "wall_best": min(walls), "wall_median": statistics.median(walls), "cpu_median": statistics.median(cpus),
        }  # fmt: skip
    return table


def profile(artifact: Path, runs: int) -> dict[str, dict[str, float]]:
    """Return the number of the nodes of each type in ONNX Runtime's graph, their milliseconds and GFLOP on one thread.

    The profiler measures on the wall. Its shares of all runs, times the CPU time of a run, leave other work out.
    """
    import onnx

    from convkit._onnxruntime import onnxruntime
    from convkit.backends.onnxruntime import session_options
    from convkit.inspection import graph_stats

    flops = graph_stats(onnx.load(str(artifact / "model.onnx")), {}).flops_by_operator()
    with tempfile.TemporaryDirectory() as folder:
        options = session_options()
        options.intra_op_num_threads, options.enable_profiling = 1, True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(
            str(artifact / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        row = timed({"run": lambda pixels: session.run(None, {"images": pixels})}, runs)["run"]
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes: dict[str, set[str]] = defaultdict(set)
    spent: dict[str, float] = defaultdict(float)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            kind = event["args"]["op_name"]
            nodes[kind].add(event["name"])
            spent[kind] += event["dur"]
    scale = row["cpu_median"] / sum(spent.values())
    order = sorted(spent, key=lambda kind: -spent[kind])
    return {
        kind: {"nodes": len(nodes[kind]), "ms": spent[kind] * scale, "gflop": flops.get(kind, 0) / 1e9}
        for kind in order
    }


def peak() -> float | None:
    """Return the GFLOP/s of multiply-adds of one core with vectors of 256 bits; None without a compiler."""
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "peak.c").write_text(PEAK, encoding="ascii")
        program = str(Path(folder) / "peak")
        command = [compiler, "-O2", "-march=native", "-ffp-contract=fast", "-funroll-loops"]
        subprocess.run([*command, f"{folder}/peak.c", "-o", program], check=True)
        return float(subprocess.run([program], check=True, capture_output=True, text=True).stdout)


def work(weights: Path, artifact: Path, threads: int, runs: int, compiled: bool) -> dict[str, dict[str, float]]:
    """Return what `timed` does, of a process of its own on as many cores as threads."""
    variables = dict.fromkeys(THREAD_VARIABLES, str(threads))
    task = json.dumps([str(weights), str(artifact), threads, runs, compiled])
    command = [sys.executable, __file__, "--worker", task]
    done = subprocess.run(command, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def worker(task: str) -> None:
    """Do what `work` asks for, and print the result as JSON."""
    weights, artifact, threads, runs, compiled = json.loads(task)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    print(json.dumps(timed(engines(Path(weights), Path(artifact), threads, compiled), runs)))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", default=["resdcn_18"], help="the networks")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--only", choices=["engines", "nodes"], help="print one of the two parts")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--folder", type=Path, help="where checkpoints and artifacts are kept, to use them again")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker)
        return
    from convkit.benchmarking import BenchSettings, protocol

    compiled = not options.no_compile and bool(shutil.which("g++") or shutil.which("clang++"))
    conditions = protocol(BenchSettings(runs=max(5, options.runs), warm_up=2), (), max(options.threads))
    result: dict[str, Any] = {"machine": conditions["machine"], "versions": conditions["versions"], "networks": {}}
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if options.only != "nodes":
            print("| network | threads | engine | wall, best | wall, median | CPU, median | CPU of eager's |")
            print("|---|---|---|---|---|---|---|")
        for arch in options.arch:
            found = result["networks"][arch] = {}
            weights, artifact = artifact_of(arch, folder)
            for threads in options.threads if options.only != "nodes" else ():
                rows = found.setdefault("threads", {})[threads] = work(
                    weights, artifact, threads, options.runs, compiled
                )
                for name, row in rows.items():
                    times = " | ".join(f"{row[key]:.0f} ms" for key in ("wall_best", "wall_median", "cpu_median"))
                    ratio = row["cpu_median"] / rows["PyTorch eager"]["cpu_median"]
                    print(f"| {arch} | {threads} | {name} | {times} | {ratio:.2f} |", flush=True)
        for arch in options.arch if options.only != "engines" else ():
            nodes = result["networks"][arch]["nodes"] = profile(artifact_of(arch, folder)[1], options.runs)
            total = sum(row["ms"] for row in nodes.values())
            print(f"\n| {arch}, one thread | nodes | CPU time | share | GFLOP/s |\n|---|---|---|---|---|")
            for kind, row in nodes.items():
                rate = f"{1e3 * row['gflop'] / row['ms']:.0f}" if row["gflop"] else ""
                print(f"| {kind} | {row['nodes']:.0f} | {row['ms']:.1f} ms | {row['ms'] / total:.1%} | {rate} |")
        result["peak_gflops"] = None if options.only == "engines" else peak()
        if result["peak_gflops"]:
            print(f"\nMultiply-adds of one core at best: {result['peak_gflops']} GFLOP/s.")
    if not compiled and options.only != "nodes":
        print("\ntorch.compile was left out: there is no C++ compiler, or --no-compile.")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
