"""Which tactic of the Hopper kernel is the fastest for each measured layer: writes ``tactics.json``.

For each layer and batch, tries every division into columns, producers and slices with usual values of the rest, then
changes one field at a time of the fastest, as long as that helps. Every result is checked against float64. The four
fastest are kept; they are measured with float32 blending, too. Compiling takes all cores for a few minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from gpu_dcn import BATCHES, LAYERS, Case, graph_microseconds

from convkit.cuda import ArrayView, Variant, compile_variant, load
from convkit.errors import ConvkitError
from convkit_plugins.dcnv2.cuda import (
    PATCH,
    Layer,
    Problem,
    Tactic,
    fits,
    hopper_variant,
    layout_scalars,
    pack_for_wgmma,
    problem_of,
    registers,
)
from convkit_plugins.dcnv2.op import compute

KEPT = 4
FIELDS: dict[str, tuple[int, ...]] = {
    "tile_n": (32, 64, 128, 256),
    "patches": (1, 2, 4),
    "producers": (1, 2, 3, 4, 5, 6),
    "cluster_m": (1, 2, 4),
    "cluster_k": (1, 2, 4, 8),
    "weight_stages": (2, 3, 4, 6, 8, 9, 18, 36),
    "sample_stages": (2, 3, 4, 5, 6, 8, 10, 12),
    "prefetch": (1, 2, 4),
    "blocks_per_sm": (1, 2),
}
ROUNDS, FOLLOWED = 2, 2
"""How often, and how many of the fastest tactics get their fields changed."""


def worth_trying(tactic: Tactic, problem: Problem, multiprocessors: int) -> bool:
    """Tell whether a tactic fits, has the registers that it needs, and does not leave most of the GPU idle."""
    patches, columns = -(-problem.pixels // PATCH), -(-problem.filters // tactic.tile_n)
    filled = patches / tactic.patches * columns * tactic.cluster_k / (multiprocessors * tactic.blocks_per_sm)
    return (
        fits(tactic, problem)
        and problem.filters % tactic.tile_n == 0
        and registers(tactic).producer >= 40 + 16 * tactic.prefetch
        and filled >= 0.4
        and (tactic.cluster_k == 1 or filled <= 1.1)
        and (
            tactic.cluster_m == 1
            or (tactic.weight_stages < problem.tiles // tactic.cluster_k and patches >= 2 * tactic.cluster_m)
        )
    )


def first_tactics(problem: Problem) -> Iterator[Tactic]:
    """Yield every division into columns, patches, producers and slices, each with a few values of the rest."""
    choices = (FIELDS["tile_n"], (1, 2), (2, 3, 4, 5), FIELDS["cluster_k"], (1, 2))
    for tile_n, patches, producers, cluster_k, prefetch in itertools.product(*choices):
        part = max(1, problem.tiles // cluster_k)
        for weight_stages in sorted({part, min(part, 4)}):
            yield Tactic(
                tile_n, patches, producers, cluster_m=1, cluster_k=cluster_k, weight_stages=weight_stages,
                sample_stages=producers + 2, prefetch=prefetch, blocks_per_sm=1,
            )  # fmt: skip


def neighbours(tactic: Tactic) -> Iterator[Tactic]:
    """Yield what differs in one field."""
    for name, values in FIELDS.items():
        for value in values:
            yield tactic._replace(**{name: value})
    for producers in FIELDS["producers"]:
        yield tactic._replace(producers=producers, sample_stages=producers + 2)


class Measurement:
    """The times of tactics for one case."""

    def __init__(self, case: Case, *, blend_fp32: bool) -> None:
        self.case, self.blend_fp32 = case, blend_fp32
        self.layer = Layer(case.filters, (3, 3), (1, 1), (1, 1))
        self.problem = problem_of(self.layer, case.channels, case.batch * case.side**2, blend_fp32=blend_fp32)
        self.multiprocessors = torch.cuda.get_device_properties(0).multi_processor_count
        out = torch.empty(case.batch, case.filters, case.side, case.side, device="cuda", dtype=torch.float16)
        self.out = out.contiguous(memory_format=torch.channels_last)
        self.offset, self.mask = case.raw[:, :18], case.raw[:, 18:]
        views = case.x, self.offset, self.mask, self.out
        self.scalars = layout_scalars(*(ArrayView.of("tensor", view) for view in views))
        x, raw, weight, bias = (tensor.double() for tensor in (case.x[-1:], case.raw[-1:], case.weight, case.bias))
        self.wanted = compute(x, weight, raw[:, :18], bias, raw[:, 18:].sigmoid(), (1, 1), (1, 1), (1, 1), 1)
        self.weights: dict[int, Any] = {}
        self.times: dict[Tactic, float] = {}

    def take(self, tactics: Iterable[Tactic]) -> None:
        """Time those that have not been yet and are worth it."""
        new = [
            tactic
            for tactic in dict.fromkeys(tactics)
            if tactic not in self.times and worth_trying(tactic, self.problem, self.multiprocessors)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda t: _try(lambda: compile_variant(self._variant(t), "sm_90a", "cubin")), new))
        for tactic in new:
            self.times[tactic] = self._time(tactic)

    def fastest(self, count: int) -> list[tuple[float, Tactic]]:
        """Return the fastest, each with its microseconds."""
        return sorted((us, tactic) for tactic, us in self.times.items() if us < math.inf)[:count]

    def _variant(self, tactic: Tactic) -> Variant:
        channels, fp32 = self.case.channels, self.blend_fp32
        return hopper_variant(self.layer, "float16", channels, tactic, sigmoid=True, blend_fp32=fp32)

    def _time(self, tactic: Tactic) -> float:
        launcher = _try(lambda: load(self._variant(tactic)))
        if launcher is None:
            return math.inf
        case, columns = self.case, tactic.tile_n
        sizes = {"batch": case.batch, "out_height": case.side, "out_width": case.side}
        config = launcher.launch_config(**sizes, multiprocessors=self.multiprocessors)
        weights = self.weights.setdefault(columns, pack_for_wgmma(case.weight, columns))

        def call() -> None:
            launcher(config, case.x, self.offset, self.mask, weights, case.bias, self.out, *self.scalars)

        self.out.fill_(float("nan"))
        call()
        error = float((self.out[-1:].double() - self.wanted).norm() / self.wanted.norm())
        if not error < 1e-3:
            print(f"WRONG by {error:.1e}: {tactic}")
            return math.inf
        return graph_microseconds(call, calls=10, repeats=5)


def search(case: Case) -> Measurement:
    """Return the times of tactics for a case, blended in float16."""
    measurement = Measurement(case, blend_fp32=False)
    measurement.take(first_tactics(measurement.problem))
    for _ in range(ROUNDS):
        before = measurement.fastest(FOLLOWED)
        measurement.take(tactic for _, best in before for tactic in neighbours(best))
        if measurement.fastest(FOLLOWED) == before:
            break
    return measurement


def _try(call: Any) -> Any:
    try:
        return call()
    except ConvkitError:
        return None


def main() -> None:
    """Measure, print the fastest, write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("tactics.json"))
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--layers", type=int, nargs="+", default=range(len(LAYERS)), help="numbers of the layers")
    options = parser.parse_args()
    measured = []
    for number, batch in itertools.product(options.layers, options.batches):
        channels, filters, side = LAYERS[number]
        half = search(Case(channels, filters, side, batch))
        single = Measurement(half.case, blend_fp32=True)
        single.take(tactic for _, tactic in half.fastest(3 * KEPT))
        for measurement in (half, single):
            tactics = [{**tactic._asdict(), "microseconds": round(us, 1)} for us, tactic in measurement.fastest(KEPT)]
            problem = dataclasses.asdict(measurement.problem)
            measured.append({**problem, "tactics": tactics})
            print(json.dumps(measured[-1]), len(measurement.times), flush=True)
    about = (
        "The fastest tactics of the Hopper kernel for 3x3 layers of stride 1 and padding 1 in float16, channels-last."
        " blend_fp32: bilinear weights and blending in float32. Fields of a tactic: Tactic in _tactics.py."
    )
    head = {"about": about, "date": str(datetime.date.today()), "device": torch.cuda.get_device_name()}
    options.output.write_text(table(head, measured))


def table(head: dict[str, str], measured: list[dict[str, Any]]) -> str:
    """Return the text of ``tactics.json`` with one tactic per line."""
    entries = []
    for entry in measured:
        problem = {name: value for name, value in entry.items() if name != "tactics"}
        tactics = ",\n".join("      " + json.dumps(tactic) for tactic in entry["tactics"])
        entries.append(f'    {json.dumps(problem)[:-1]}, "tactics": [\n{tactics}\n    ]}}')
    return f'{json.dumps(head, indent=2)[:-2]},\n  "measured": [\n' + ",\n".join(entries) + "\n  ]\n}\n"


if __name__ == "__main__":
    main()
