r"""Time an evaluation: the share of it that the engine takes, and what test-time augmentation costs.

    convkit convert centernet --weights examples/digits/digits_resdcn18.pth --shape batch=1:1:2 --output digits-512
    python benchmarks/evaluate.py digits-512 --coco examples/digits/heldout/annotations.json \
        --images examples/digits/heldout/images

Plain and mirrored runs of the same images take turns, so that a busy machine slows down both. On a busy machine only
the CPU seconds of a single thread say much: threads that wait for others that do not run wait actively.

    OMP_NUM_THREADS=1 python benchmarks/evaluate.py ...
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from convkit import load
from convkit.evaluation import EvaluationOptions, evaluate_artifact
from convkit.processing import read_image
from convkit.runtime import Predictor

SHARE_LIMIT, FLIP_LIMIT = 0.9, 2.1


@dataclass
class Spent:
    """Seconds of images: on the wall clock, of all cores of this process, and of these those outside the engine."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    host: list[float] = field(default_factory=list)

    def text(self) -> str:
        """Return the median of each."""
        return (
            f"{1e3 * median(self.wall):.1f} ms, CPU {1e3 * median(self.cpu):.1f} ms,"
            f" of which outside the engine {1e3 * median(self.host):.1f} ms"
        )


def flip(artifact: Path, images: list[Path], rounds: int) -> tuple[Spent, Spent]:
    """Return what images take, plain and with their mirrors, from pixels to results; the two take turns."""
    raws = [read_image(file) for file in images]
    with load(artifact) as plain, load(artifact, augment={"flip": "yes"}) as both:
        clocks = {id(predictor): _engine_clock(predictor) for predictor in (plain, both)}
        found = Spent(), Spent()
        for turn in range(rounds + 1):
            for raw in raws:
                for predictor, spent in zip((plain, both), found, strict=True):
                    clock = clocks[id(predictor)]
                    clock.clear()
                    wall, cpu = time.perf_counter(), time.process_time()
                    predictor(raw)
                    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                    if turn:
                        spent.wall.append(wall)
                        spent.cpu.append(cpu)
                        spent.host.append(cpu - sum(clock))
    return found


def _engine_clock(predictor: Predictor) -> list[float]:
    """Return a list to which every run of the predictor's engine adds its CPU seconds."""
    spent: list[float] = []
    run = predictor.session.run

    def timed(feed: Any) -> Any:
        start = time.process_time()
        outputs = run(feed)
        spent.append(time.process_time() - start)
        return outputs

    predictor.session.run = timed  # type: ignore[method-assign]
    return spent


def share(
    artifact: Path, coco: Path, images: Path, limit: int, *, idle: bool = False
) -> tuple[float, float, float, float]:
    """Return the seconds of an evaluation up to the figures, those of it in the engine's session; its CPU time; the AP.

    Threads read images while the engine runs: what they take from it counts as the engine's on the wall. With ``idle``
    the engine runs once and returns the same outputs from then on, so that the CPU time is that of all else.
    """
    spent, ended, cpu = 0.0, 0.0, 0.0
    known: dict[int, Any] = {}
    opened = Predictor.run

    def timed(self: Predictor, prepared: Any) -> Any:
        if not getattr(self.session, "timed", False):
            run = self.session.run

            def engine(feed: Any) -> Any:
                nonlocal spent
                start = time.perf_counter()
                size = len(next(iter(feed.values())))
                outputs = known[size] if idle and size in known else run(feed)
                known[size] = outputs
                spent += time.perf_counter() - start
                return outputs

            self.session.run, self.session.timed = engine, True  # type: ignore[method-assign,attr-defined]
        return opened(self, prepared)

    def progress(step: str, done: int = 0, total: int = 0) -> None:
        nonlocal started, ended, cpu
        if step == "running images" and not started:
            started, cpu = time.perf_counter(), time.process_time()
        if step == "computing AP":
            ended, cpu = time.perf_counter(), time.process_time() - cpu

    started = 0.0
    Predictor.run = timed  # type: ignore[method-assign]
    try:
        report = evaluate_artifact(artifact, coco, images, EvaluationOptions(limit=limit), progress=progress)
    finally:
        Predictor.run = opened  # type: ignore[method-assign]
    return ended - started, spent, cpu, next(iter(report.figures.values()))["AP"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    whole, engine, cpu, ap = share(options.artifact, options.coco, options.images, options.limit)
    print(
        f"evaluate, {options.limit} images: {whole:.2f} s, of which the engine {engine:.2f} s = {engine / whole:.1%}"
        f" (at least {SHARE_LIMIT:.0%}), AP {ap:.4f}"
    )
    some = sorted(options.images.iterdir())[:8]
    others = share(options.artifact, options.coco, options.images, options.limit, idle=True)[2]
    print(f"CPU time: {cpu:.1f} s; without the engine {others:.1f} s: the engine takes {1 - others / cpu:.1%}")
    plain, both = flip(options.artifact, some, options.rounds)
    print(f"plain: {plain.text()}")
    print(f"flip:  {both.text()}")
    print(
        f"flip in terms of plain: {median(both.cpu) / median(plain.cpu):.2f} times the CPU (at most {FLIP_LIMIT}),"
        f" {median(both.wall) / median(plain.wall):.2f} times the time"
    )


if __name__ == "__main__":
    main()
