"""Which tactic of the Hopper kernel is the fastest for each measured layer: writes ``tactics.json``.

For each layer and batch, tries every division into columns, producers and slices with usual values of the rest, then
changes one field at a time of the fastest, as long as that helps. Every result is checked against float64. The four
fastest are kept; they are measured with float32 blending, too. Compiling takes all cores for a few minutes.
"""

from __future__ import annotations

import argparse
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

from convkit.cuda import Variant, compile_variant, load
from convkit.errors import ConvkitError
from convkit_plugins.dcnv2.cuda import (
    PATCH,
    Layer,
    Layout,
    Problem,
    Tactic,
    _hopper,
    fits,
    pack_for_wgmma,
    producer_registers,
)
from convkit_plugins.dcnv2.op import compute

KEPT = 4
FIELDS: dict[str, tuple[int, ...]] = {
    "tile_n": (32, 64, 128, 256),
    "patches": (1, 2, 4),
    "producers": (1, 2, 3, 4, 5, 6),
    "cm": (1, 2, 4),
    "ck": (1, 2, 4, 8),
    "stages": (2, 3, 4, 6, 8, 9, 18, 36),
    "ring": (2, 3, 4, 5, 6, 8, 10, 12),
    "depth": (1, 2, 4),
    "blocks": (1, 2),
}
ROUNDS, FOLLOWED = 2, 2
"""How often, and how many of the fastest tactics get their fields changed."""


def worth_trying(tactic: Tactic, problem: Problem, multiprocessors: int) -> bool:
    """Tell whether a tactic fits, has the registers that it needs, and does not leave most of the GPU idle."""
    patches, columns = -(-problem.pixels // PATCH), -(-problem.filters // tactic.tile_n)
    filled = patches / tactic.patches * columns * tactic.ck / (multiprocessors * tactic.blocks)
    return (
        fits(tactic, problem)
        and problem.filters % tactic.tile_n == 0
        and producer_registers(tactic) >= 40 + 16 * tactic.depth
        and filled >= 0.4
        and (tactic.ck == 1 or filled <= 1.1)
        and (tactic.cm == 1 or (tactic.stages < problem.tiles // tactic.ck and patches >= 2 * tactic.cm))
    )


def first_tactics(problem: Problem) -> Iterator[Tactic]:
    """Yield every division into columns, patches, producers and slices, each with a few values of the rest."""
    choices = (FIELDS["tile_n"], (1, 2), (2, 3, 4, 5), FIELDS["ck"], (1, 2))
    for tile_n, patches, producers, ck, depth in itertools.product(*choices):
        part = max(1, problem.tiles // ck)
        for stages in sorted({part, min(part, 4)}):
            yield Tactic(tile_n, patches, producers, 1, ck, stages, producers + 2, depth, 1)


def neighbours(tactic: Tactic) -> Iterator[Tactic]:
    """Yield what differs in one field."""
    for name, values in FIELDS.items():
        for value in values:
            yield tactic._replace(**{name: value})
    for producers in FIELDS["producers"]:
        yield tactic._replace(producers=producers, ring=producers + 2)


class Measurement:
    """The times of tactics for one case."""

    def __init__(self, case: Case, exact: bool) -> None:
        self.case, self.exact = case, exact
        self.layer = Layer(case.filters, (3, 3), (1, 1), (1, 1))
        self.problem = _hopper.problem_of(self.layer, case.channels, case.batch * case.side**2, exact)
        self.multiprocessors = torch.cuda.get_device_properties(0).multi_processor_count
        out = torch.empty(case.batch, case.filters, case.side, case.side, device="cuda", dtype=torch.float16)
        self.out = out.contiguous(memory_format=torch.channels_last)
        self.offset, self.mask = case.raw[:, :18], case.raw[:, 18:]
        views = case.x, self.offset, self.mask, self.out
        self.scalars = _hopper.layout_scalars(*(Layout(tuple(view.shape), view.stride()) for view in views))
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
        return _hopper.hopper_variant(self.layer, "float16", self.case.channels, tactic, sigmoid=True, exact=self.exact)

    def _time(self, tactic: Tactic) -> float:
        launcher = _try(lambda: load(self._variant(tactic)))
        if launcher is None:
            return math.inf
        case, columns = self.case, tactic.tile_n
        sizes = {"batch": case.batch, "out_height": case.side, "out_width": case.side}
        launch = launcher.geometry(**sizes, multiprocessors=self.multiprocessors)
        weights = self.weights.setdefault(columns, pack_for_wgmma(case.weight, columns))

        def call() -> None:
            launcher(launch, case.x, self.offset, self.mask, weights, case.bias, self.out, *self.scalars)

        self.out.fill_(float("nan"))
        call()
        error = float((self.out[-1:].double() - self.wanted).norm() / self.wanted.norm())
        if not error < 1e-3:
            print(f"WRONG by {error:.1e}: {tactic}")
            return math.inf
        return graph_microseconds(call, calls=10, repeats=5)


def search(case: Case) -> Measurement:
    """Return the times of tactics for a case, blended in float16."""
    measurement = Measurement(case, exact=False)
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
        exact = Measurement(half.case, exact=True)
        exact.take(tactic for _, tactic in half.fastest(3 * KEPT))
        for measurement in (half, exact):
            best = measurement.fastest(KEPT)
            entry = {"channels": channels, "filters": filters, "pixels": batch * side**2, "exact": measurement.exact}
            tactics = {
                "tactics": [list(tactic) for _, tactic in best],
                "microseconds": [round(us, 1) for us, _ in best],
            }
            measured.append({**entry, **tactics})
            print(json.dumps(measured[-1]), len(measurement.times), flush=True)
    about = (
        "3x3 layers of stride 1 and padding 1 in float16, channels-last, one offset group; exact: bilinear weights in"
        f" float32. Columns of a tactic: {', '.join(Tactic._fields)}."
    )
    head = {"about": about, "date": str(datetime.date.today()), "device": torch.cuda.get_device_name()}
    lines = ",\n".join("    " + json.dumps(entry) for entry in measured)
    options.output.write_text(f'{json.dumps(head, indent=2)[:-2]},\n  "measured": [\n{lines}\n  ]\n}}\n')


if __name__ == "__main__":
    main()
