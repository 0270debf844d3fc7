"""CenterNet's decoding on a GPU: convkit's kernel beside the usual PyTorch code, eager and compiled.

Needs PyTorch with CUDA and cupy. Everything runs as CUDA graphs, also PyTorch: one call is captured for each of
several input sets, and the median of the replays is divided by their number. The sets of ``cold`` hold more than 300 MB
together, so that no heat map is still in the L2 cache; ``warm`` repeats one set, whose heat map stays in it if it fits
(2.6 MB at batch 1 in float16), as it does when the network has just written it. The byte floor is the heat map read
once at the nominal bandwidth of the GPU's memory. PyTorch's code: sigmoid, max_pool2d, top-K of each class, top-K of
those, gather, affine map into the image; ours does the same and also orders ties.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import cupy
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from convkit.cuda import ArrayView, CompiledKernel, Variant, compile_variant, load
from convkit_models.centernet.tasks.ctdet import CtdetDecode, CudaDecode, Tuning, plan_decode
from convkit_models.centernet.tasks.ctdet._decode_kernels import TUNINGS

CLASSES, SIDE, TOPK = 80, 128, 100
BANDWIDTH = {"H100 80GB HBM3": 3.35e6, "H200": 4.8e6, "A100-SXM4-80GB": 2.04e6}
"""Bytes per microsecond of GPUs, as NVIDIA publishes them, by a part of the name."""
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
META = {"center": [960.0, 540.0], "scale": 1920.0, "input": [4 * SIDE, 4 * SIDE]}


def spec(form: str = "heads") -> dict[str, Any]:
    names = [str(index) for index in range(CLASSES)]
    return {"form": form, "stride": 4, "topk": TOPK, "sizes_per_class": False, "classes": names}


def microseconds(calls: Sequence[Callable[[], object]], repeats: int) -> float:
    """Return the median time of one call: all of them are captured in one graph, some times over."""
    turns = max(1, 32 // len(calls))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in [*calls, *calls]:
            call()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for call in calls * turns:
                call()
        times = []
        for _ in range(repeats + 3):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record(stream)
            graph.replay()
            end.record(stream)
            end.synchronize()
            times.append(start.elapsed_time(end) * 1e3 / len(calls) / turns)
    return statistics.median(times[3:])


def make_maps(kind: str, batch: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return heads of random values: "noise", "smooth" as trained networks give them, or "flat", all cells equal."""
    hm = torch.randn(batch, CLASSES, SIDE, SIDE, device="cuda")
    if kind == "smooth":
        hm = F.avg_pool2d(F.avg_pool2d(hm, 5, 1, 2), 5, 1, 2)
        hm /= hm.std()
    hm = torch.full_like(hm, -2.19) if kind == "flat" else 2 * hm - 6
    wh, reg = (torch.rand(batch, 2, SIDE, SIDE, device="cuda") for _ in range(2))
    return {name: value.to(dtype) for name, value in (("hm", hm), ("wh", wh * 20), ("reg", reg))}


def packed(maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the packed tensor of these heads."""
    pooled = F.max_pool2d(maps["hm"], 3, stride=1, padding=1)
    joined = torch.cat([maps["reg"], maps["wh"], maps["hm"], pooled], dim=1)
    return {"output": joined.flatten(2).transpose(1, 2).contiguous()}


def usual(hm: Tensor, wh: Tensor, reg: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes [B, K, 4], scores and classes [B, K] as CenterNet's own code computes them, in PyTorch."""
    width = hm.shape[3]
    heat = hm.sigmoid()
    heat = heat * (F.max_pool2d(heat, 3, stride=1, padding=1) == heat)
    class_scores, class_cells = heat.flatten(2).topk(TOPK)
    scores, picks = class_scores.flatten(1).topk(TOPK)
    cells = class_cells.flatten(1).gather(1, picks)
    index = cells.unsqueeze(1).expand(-1, 2, -1)
    centres = torch.stack([cells % width, cells // width], 1).float() + reg.flatten(2).gather(2, index).float()
    halves = wh.flatten(2).gather(2, index).float() / 2
    corners = torch.stack([centres - halves, centres + halves], 1)
    boxes = torch.einsum("bij,bcjk->bkci", matrix[:, :, :2], corners) + matrix[:, None, None, :, 2]
    return boxes.flatten(2), scores, picks // TOPK


class Ours:
    """A decoding with buffers for one batch."""

    def __init__(self, form: str, batch: int, tuning: Tuning | None = None) -> None:
        self.decode = CudaDecode(spec(form), tuning)
        matrix = self.decode.values(META)["output_to_image"]
        self.inputs = {"output_to_image": torch.from_numpy(np.stack([matrix] * batch)).cuda()}
        self.rows = torch.empty(batch, TOPK, 6, device="cuda")
        self.counts = torch.empty(batch, dtype=torch.int32, device="cuda")

    def __call__(self, outputs: Mapping[str, Tensor]) -> None:
        """Launch on the current stream."""
        results = {"rows": self.rows, "counts": self.counts}
        self.decode.launch(outputs, self.inputs, results, torch.cuda.current_stream().cuda_stream)


def copies(maps: Mapping[str, Tensor], warm: bool) -> list[dict[str, Tensor]]:
    """Return input sets: one, or as many as the L2 cache cannot hold."""
    count = 1 if warm else max(2, -(-300_000_000 // maps["hm"].nbytes))
    return [
        {name: value.clone(memory_format=torch.preserve_format) for name, value in maps.items()} for _ in range(count)
    ]


def ours(form: str, sets: Sequence[Mapping[str, Tensor]], repeats: int, tuning: Tuning | None = None) -> float:
    """Return the time of a call of convkit's kernel."""
    run = Ours(form, len(next(iter(sets[0].values()))), tuning)
    return microseconds([partial(run, outputs) for outputs in sets], repeats)


def tunings(batch: int) -> list[Tuning]:
    """Return what a sweep tries for a batch of 1 or more."""
    if batch == 1:
        shapes = ((1, 16), (2, 16), (4, 8), (4, 16), (8, 4), (8, 8))
        found = [Tuning(threads, *shape) for threads in (256, 512, 1024) for shape in shapes]
        return [*found, Tuning(256, 4, 8, 1, 2), Tuning(512, 4, 8, 1, 2), Tuning(512, 4, 16, 1, 2)]
    least_blocks = {256: (3, 4, 5), 512: (2,), 1024: (1,)}
    return [
        Tuning(threads, unroll, 8, rounds, blocks)
        for threads in least_blocks
        for unroll, rounds in ((4, 1), (4, 2), (4, 4), (8, 1), (8, 2))
        for blocks in least_blocks[threads]
    ]


def planned(tuning: Tuning | None, maps: Mapping[str, Tensor], step: int = 0) -> Variant:
    """Return the variant of the heads' kernel, which ends at a step if one is given."""
    views = {name: ArrayView.of(name, value) for name, value in maps.items()}
    return ending(plan_decode(spec(), views, tuning).steps[0].variant, step)


def ending(variant: Variant, step: int) -> Variant:
    """Return the variant that ends at a step of the kernel; 0 for none."""
    if not step:
        return variant
    kernel = replace(variant.kernel, constants=(*variant.kernel.constants, "STOP"))
    return Variant(kernel, (*variant.constants, ("STOP", step)))


def compile_all(variants: Sequence[Variant]) -> list[CompiledKernel]:
    """Compile on all cores, so that `load` finds the images in the cache."""
    target = "sm_{}{}".format(*torch.cuda.get_device_capability())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda variant: compile_variant(variant, target, "cubin"), variants))


def expected(maps: Mapping[str, Tensor]) -> tuple[Any, Any]:
    """Return rows and counts as the host's decoding gives them, as tensors on the host."""
    outputs = {name: value.float().cpu().numpy() for name, value in maps.items()}
    found: Any = CtdetDecode(spec())(outputs, [META] * len(outputs["hm"]))
    rows = np.zeros((len(found), TOPK, 6), np.float32)
    for row, one in zip(rows, found, strict=True):
        row[: len(one)] = np.column_stack([one.boxes, one.scores, one.class_ids])
    return torch.from_numpy(rows), torch.tensor([len(one) for one in found], dtype=torch.int32)


def equal(run: Ours, maps: Mapping[str, Tensor], wanted: tuple[Any, Any]) -> bool:
    """Run once and tell whether rows and counts are those wanted, to the bit."""
    run.rows.fill_(torch.nan)
    run.counts.fill_(-1)
    run(maps)
    torch.cuda.synchronize()
    rows, counts = run.rows.cpu(), run.counts.cpu()
    return torch.equal(rows.view(torch.int32), wanted[0].view(torch.int32)) and torch.equal(counts, wanted[1])


def sweep(repeats: int) -> None:
    """Print the times of our kernel with other tunings, float16 planes, fastest first; and whether all is right."""
    for batch in (1, 32):
        kinds = ("noise", "smooth")
        maps = {kind: make_maps(kind, batch, torch.float16) for kind in kinds}
        data = {kind: copies(maps[kind], warm=batch == 1) for kind in kinds}
        wanted = {kind: expected(maps[kind]) for kind in kinds}
        default = TUNINGS[batch > 1]
        tried = list(dict.fromkeys([default, *tunings(batch)]))
        images = compile_all([planned(tuning, maps["noise"]) for tuning in tried])
        found = []
        for tuning, image in zip(tried, images, strict=True):
            try:
                run = Ours("heads", batch, tuning)
                right = all(equal(run, maps[kind], wanted[kind]) for kind in kinds)
                times = [microseconds([partial(run, one) for one in data[kind]], repeats) for kind in kinds]
            except Exception as error:  # a tuning that does not fit is one row less
                print(f"{tuning}: {type(error).__name__}: {error}")
                continue
            used = image.resources.registers if image.resources else 0
            found.append((times, right, used, tuning))
        print(f"\nbatch {batch}{' (warm)' if batch == 1 else ''}: us noise, us smooth, equal to the host, registers")
        for times, right, used, tuning in sorted(found, key=lambda row: row[0]):
            sign = "equal" if right else "WRONG"
            mark = " <- default" if tuning == default else ""
            print(f"{times[0]:6.1f} {times[1]:6.1f}  {sign} {used:3d}  {tuning}{mark}", flush=True)


STEPS = ("scan", "last block", "bound", "groups", "tiles", "peaks", "all")


def steps(repeats: int, tried: Sequence[Tuning]) -> None:
    """Print what a call of batch 1 and 32 takes if it ends after each step."""
    for batch, kind in ((1, "noise"), (1, "smooth"), (32, "noise")):
        maps = make_maps(kind, batch, torch.float16)
        sets = copies(maps, warm=batch == 1)
        wanted = expected(maps)
        print(f"\nbatch {batch}, {kind}: us until {', '.join(STEPS)}")
        for tuning in tried:
            numbers = [*range(1, len(STEPS)), 0]
            compile_all([planned(tuning, maps, number) for number in numbers])
            times, right = [], False
            for number in numbers:
                run = Ours("heads", batch, tuning)
                right = equal(run, maps, wanted)
                launches = run.decode._launches  # filled by the first launch
                for key, (planned_launch, _) in launches.items():
                    launches[key] = planned_launch, (load(ending(planned_launch.steps[0].variant, number)),)
                times.append(microseconds([partial(run, one) for one in sets], repeats))
            cells = " ".join(f"{time:6.1f}" for time in times)
            print(f"{cells}  {'equal' if right else 'WRONG'}  {tuning}", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out, which takes a minute")
    parser.add_argument("--sweep", action="store_true", help="time ours only, with other tunings")
    parser.add_argument("--steps", action="store_true", help="time ours only, cut off after each step")
    parser.add_argument(
        "--tuning", action="append", default=[], metavar="NUMBERS", help="threads,unroll,groups,rounds,blocks"
    )
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.steps:
        tried = [Tuning(*map(int, numbers.split(","))) for numbers in options.tuning]
        steps(options.repeats, tried or [TUNINGS[0], TUNINGS[1], Tuning(1024)])
    if options.sweep:
        sweep(options.repeats)
    if options.sweep or options.steps:
        return
    name = torch.cuda.get_device_name()
    bandwidth = next((value for part, value in BANDWIDTH.items() if part in name), None)
    versions = f"torch {torch.__version__} (CUDA {torch.version.cuda}), cupy {cupy.__version__}"
    print(f"{name}, {versions}, {datetime.date.today()}")
    print(f"Command: python {' '.join(sys.argv)}\n")
    print(f"Microseconds a call; {CLASSES} classes at {SIDE}x{SIDE}, K={TOPK}, planes, noise.\n")
    print("| dtype | batch | cache | ours | torch eager | torch compiled | eager / ours | byte floor | ours / floor |")
    print("|---|---|---|---|---|---|---|---|---|")
    matrix = (
        torch.from_numpy(Ours("heads", 1).decode.values(META)["output_to_image"][:6].reshape(1, 2, 3)).float().cuda()
    )
    for dtype in ("float16", "float32"):
        for batch in (1, 8, 32):
            maps = make_maps("noise", batch, DTYPES[dtype])
            matrices = matrix.repeat(batch, 1, 1)
            compiled = None if options.no_compile else torch.compile(usual, dynamic=False)
            for cache in ("warm", "cold") if batch == 1 else ("cold",):
                sets = copies(maps, cache == "warm")
                times = [ours("heads", sets, options.repeats)]
                for function in (usual, compiled):
                    calls = [partial(function, **maps, matrix=matrices) for maps in sets] if function else []
                    times.append(microseconds(calls, options.repeats) if calls else float("nan"))
                floor = maps["hm"].nbytes / bandwidth if bandwidth else float("nan")
                cells = [dtype, str(batch), cache, *(f"{time:.1f}" for time in times), f"{times[1] / times[0]:.1f}"]
                cells += [f"{floor:.1f}", f"{times[0] / floor:.2f}"] if cache == "cold" else ["", ""]
                print(f"| {' | '.join(cells)} |", flush=True)
    print("\nOurs in float16 for other maps and layouts:\n")
    print("| maps | layout | batch 1, warm | batch 1 | batch 8 | batch 32 |")
    print("|---|---|---|---|---|---|")
    for kind in ("noise", "smooth", "flat"):
        for layout in ("planes", "cells", "tensorrt-pro"):
            times = []
            for batch, warm in ((1, True), (1, False), (8, False), (32, False)):
                maps = make_maps(kind, batch, torch.float16)
                if layout == "cells":
                    maps = {key: value.to(memory_format=torch.channels_last) for key, value in maps.items()}
                sets: Sequence[Mapping[str, Tensor]] = copies(maps, warm)
                if layout == "tensorrt-pro":
                    sets = [packed(maps) for maps in sets]
                times.append(ours("tensorrt-pro" if layout == "tensorrt-pro" else "heads", sets, options.repeats))
            print(f"| {kind} | {layout} | {' | '.join(f'{time:.1f}' for time in times)} |", flush=True)


if __name__ == "__main__":
    main()
