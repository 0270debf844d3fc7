"""Random PyTorch fragments through export, every rewrite and every engine that runs here, against float64.

    python benchmarks/fuzz.py [--graphs N] [--seed S] [--json]

Each fault is reduced to the smallest program that still fails, and printed with the seed that makes it again. Ends with
exit code 1 where there is one. Needs no GPU; --tensorrt compares some graphs as TensorRT-RTX's parser reads them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.fuzz import Outcome, Program, batches, find_faults, reduce, understood


def attempt(programs: Sequence[Program], sizes: int, keep: bool) -> Outcome:
    """Return what comes of programs, on one thread; what is no fault of theirs ends the script."""
    torch.set_num_threads(1)
    return find_faults(programs, sizes, keep_graphs=keep)


def main() -> int:
    parser = argparse.ArgumentParser(description="Random PyTorch fragments through export, rewrites and engines.")
    parser.add_argument("--graphs", type=int, default=300, help="number of programs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first program")
    parser.add_argument("--length", type=int, default=5, help="steps that a program has at most")
    parser.add_argument("--together", type=int, default=20, help="programs that are exported as one graph")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--tensorrt", action="store_true", help="compare every eighth graph as TensorRT-RTX reads it")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    began, outcome = time.perf_counter(), Outcome()
    work = batches(options.seed, options.graphs, options.together, options.length)
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        pending = [
            pool.submit(attempt, programs, sizes, options.tensorrt and number % 8 in (0, 5))
            for number, (programs, sizes) in enumerate(work)
        ]
        for done in as_completed(pending):
            new = done.result()
            outcome.add(new)
            print(f"{outcome.programs} programs, {len(outcome.faults)} faults", file=sys.stderr, flush=True)
            for fault in new.faults:
                print(fault, file=sys.stderr, flush=True)
    first: dict[int, str] = {}
    for fault in outcome.faults:
        if fault.program.seed not in first:
            first[fault.program.seed] = str(reduce(fault))
    agreed, differing, left = understood(outcome.graphs) if outcome.graphs else (0, [], [])
    report = {
        "programs": outcome.programs, "seconds": round(time.perf_counter() - began), "judged": dict(outcome.judged),
        "kinds": dict(outcome.kinds), "not_exported": outcome.not_exported, "refused": dict(outcome.refused),
        "not_comparable": dict(outcome.not_comparable), "faults": first,
        "known": sorted({f"seed {fault.program.seed}, {fault.stage}" for fault in outcome.known}),
        "close": sorted({f"seed {fault.program.seed}, {fault.stage}" for fault in outcome.close}),
        "tensorrt": {"understood": agreed, "differing": differing, "not_compared": left},
    }  # fmt: skip
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print(f"{outcome.programs} programs, {outcome.judged.total()} results judged in {report['seconds']} s")
        for title, table in (("judged", outcome.judged), ("not comparable", outcome.not_comparable),
                             ("refused", outcome.refused), ("not exported", outcome.not_exported)):  # fmt: skip
            print(f"{title}:", *(f"  {count}  {name}" for name, count in table.items()), sep="\n")
        print(f"understood by TensorRT-RTX: {agreed}; differing: {differing}; not compared: {left}")
        print(f"a known fault of ONNX Runtime: {report['known']}")
        print(f"beyond the limit by rounding: {report['close']}")
        print(f"{len(first)} programs with a fault", *first.values(), sep="\n\n")
    return 1 if first or differing else 0


if __name__ == "__main__":
    sys.exit(main())
