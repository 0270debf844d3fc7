"""Convert a full-size resdcn_18 at 512x512 with --precision auto: seconds of each step, and peak memory.

The checkpoint is random but well-conditioned, in the official format: 14.4 M parameters, 80 classes. Run with two
cores; processor seconds stand beside the wall time, for machines that others use too. Exit status 1 if what auto adds
to a conversion takes longer than the limit.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from convkit import convert

LIMIT_SECONDS = 300.0
OWN_STEPS = ("measuring the range", "searching for nodes", "rewriting: graph.to-", "running PyTorch in float16")
"""What a conversion to float32 does not do, by the beginning of its steps."""


class Clock:
    """Adds up wall and processor seconds by step."""

    def __init__(self) -> None:
        self.wall: Counter[str] = Counter()
        self.cpu: Counter[str] = Counter()
        self._last = ("", time.perf_counter(), time.process_time())

    def __call__(self, step: str, done: int = 0, total: int = 0) -> None:
        """End the step before and begin this one."""
        del done, total
        name, wall, cpu = self._last
        self._last = (step, time.perf_counter(), time.process_time())
        if name:
            self.wall[name] += self._last[1] - wall
            self.cpu[name] += self._last[2] - cpu


def main() -> None:
    """Print the table; exit 1 when the limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    from support.checkpoints import make_checkpoint

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        weights = make_checkpoint(Path(folder) / "resdcn_18.pth", classes=80, width=1.0, head_conv=64)
        output = Path(folder) / "artifact"
        done = convert("centernet", weights=weights, output=output, precision=options.precision, progress=clock)
        clock("end")
        found = done.artifact.manifest["precision"]
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n\n| step | wall | CPU |\n|---|---|---|")
    for step, seconds in clock.wall.items():
        print(f"| {step} | {seconds:.1f} s | {clock.cpu[step]:.1f} s |")
    own = [step for step in clock.wall if step.startswith(OWN_STEPS)]
    wall, cpu = (sum(table[step] for step in own) for table in (clock.wall, clock.cpu))
    print(f"\n{options.precision} adds {wall:.0f} s ({cpu:.0f} s CPU, limit {LIMIT_SECONDS:g}); peak {gib:.2f} GiB")
    if search := found.get("search"):
        print(f"kept {len(search['kept'])} nodes in {len(search['trials'])} trials, minimal: {search['minimal']}")
    sys.exit(wall > LIMIT_SECONDS)


if __name__ == "__main__":
    main()
