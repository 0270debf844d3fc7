"""Which tactic of the Hopper kernel is the fastest for each measured layer: writes ``tactics.json``.

Tries every tactic that fits and that the registers of a multiprocessor allow, checks its result against float64, and
keeps the four fastest of each layer, batch and way of blending. Compiling takes all cores for a few minutes.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from gpu_dcn import BATCHES, LAYERS, Case, graph_microseconds

from convkit.errors import ConvkitError
from convkit.kernels import compile_variant, load
from convkit_plugins.dcnv2 import _hopper
from convkit_plugins.dcnv2._compute import compute
from convkit_plugins.dcnv2._layers import Layer, Layout
from convkit_plugins.dcnv2._tactics import Problem, Tactic, fits
from convkit_plugins.dcnv2._weights import pack_for_wgmma

KEPT = 4


def every_tactic(problem: Problem, multiprocessors: int) -> Iterator[Tactic]:
    """Yield the tactics that fit, leaving out what cannot be fast: too few registers, or most of the GPU idle."""
    choices = ((32, 64, 128, 256), (1, 2, 3, 4), (1, 2, 4), (1, 2), (1, 2, 4, 8), (1, 2), (1, 2), (1, 2))
    for tile_n, wm, wk, cm, ck, depth, buffers, blocks in itertools.product(*choices):
        part = problem.tiles // ck
        if not 256 <= wm * wk * 128 * blocks <= 512 or (cm > 1 and filled_by_one(problem) < multiprocessors):
            continue
        registers = min(255, 65536 // (wm * wk * 128 * blocks) // 8 * 8)
        needed = tile_n // 2 + 32 * depth + 16 * buffers + 38
        filled = -(-problem.pixels // 64) / wm * -(-problem.filters // tile_n) * ck / (multiprocessors * blocks)
        if needed > registers or problem.filters % tile_n or filled < 0.35 or (wk * ck > 1 and filled > 4):
            continue
        for stages in sorted({min(part, 4), part}):
            tactic = Tactic(tile_n, wm, wk, cm, ck, stages, depth, buffers, blocks)
            if fits(tactic, problem) and not (cm > 1 and stages >= part):
                yield tactic


def filled_by_one(problem: Problem) -> int:
    """Return how many patches there are."""
    return -(-problem.pixels // 64)


def measure(case: Case, exact: bool, multiprocessors: int) -> list[tuple[float, Tactic]]:
    """Return the time of every tactic of a case whose result is right, fastest first."""
    layer = Layer(case.filters, (3, 3), (1, 1), (1, 1))
    problem = _hopper.problem_of(layer, case.channels, case.batch * case.side**2, exact)
    tactics = list(every_tactic(problem, multiprocessors))
    variants = {
        tactic: _hopper.hopper_variant(layer, "float16", case.channels, tactic, sigmoid=True, exact=exact)
        for tactic in tactics
    }
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda variant: _try(lambda: compile_variant(variant, "sm_90a", "cubin")), variants.values()))
    out = torch.empty(case.batch, case.filters, case.side, case.side, device="cuda", dtype=torch.float16)
    out = out.contiguous(memory_format=torch.channels_last)
    views = case.x, case.raw[:, :18], case.raw[:, 18:], out
    scalars = _hopper.layout_scalars(*(Layout(tuple(view.shape), view.stride()) for view in views))
    x, raw, weight, bias = (tensor.double() for tensor in (case.x[:1], case.raw[:1], case.weight, case.bias))
    wanted = compute(x, weight, raw[:, :18], bias, raw[:, 18:].sigmoid(), (1, 1), (1, 1), (1, 1), 1)
    packed: dict[int, Any] = {}
    found = []
    for tactic, variant in variants.items():
        launcher = _try(lambda variant=variant: load(variant))
        if launcher is None:
            continue
        sizes = {"batch": case.batch, "out_height": case.side, "out_width": case.side}
        launch = launcher.geometry(**sizes, multiprocessors=multiprocessors)
        columns = tactic.tile_n
        weights = packed.setdefault(columns, pack_for_wgmma(case.weight, columns))

        def call(launcher: Any = launcher, launch: Any = launch, weights: Any = weights) -> None:
            launcher(launch, case.x, views[1], views[2], weights, case.bias, out, *scalars)

        out.fill_(float("nan"))
        call()
        error = float((out[:1].double() - wanted).norm() / wanted.norm())
        if error < 1e-3:
            found.append((graph_microseconds(call, calls=10, repeats=5), tactic))
        else:
            print(f"WRONG by {error:.1e}: {tactic}")
    return sorted(found)


def _try(call: Any) -> Any:
    try:
        return call()
    except ConvkitError:
        return None


def main() -> None:
    """Measure, print the fastest, write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("tactics.json"))
    options = parser.parse_args()
    multiprocessors = torch.cuda.get_device_properties(0).multi_processor_count
    measured = []
    for (channels, filters, side), batch, exact in itertools.product(LAYERS, BATCHES, (False, True)):
        best = measure(Case(channels, filters, side, batch), exact, multiprocessors)[:KEPT]
        print(f"{channels} to {filters} at {side}, batch {batch}, exact {exact}:", *best[:2], flush=True)
        entry = {"channels": channels, "filters": filters, "pixels": batch * side**2, "exact": exact}
        tactics = {"tactics": [list(tactic) for _, tactic in best], "microseconds": [round(us, 1) for us, _ in best]}
        measured.append({**entry, **tactics})
    about = (
        "3x3 layers of stride 1 and padding 1 in float16, channels-last, one offset group; exact: bilinear weights in"
        f" float32. Columns of a tactic: {', '.join(Tactic._fields)}."
    )
    head = {"about": about, "date": str(datetime.date.today()), "device": torch.cuda.get_device_name()}
    lines = ",\n".join("    " + json.dumps(entry) for entry in measured)
    options.output.write_text(f'{json.dumps(head, indent=2)[:-2]},\n  "measured": [\n{lines}\n  ]\n}}\n')


if __name__ == "__main__":
    main()
