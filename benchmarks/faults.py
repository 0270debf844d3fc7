"""Kills, failing disks and hostile files: how many of each, how they ended, and what offends.

    python benchmarks/faults.py [--count N] [--seed S] [--only KIND ...] [--json]

Kinds: kills, errnos, conversions (whole ones, killed), together (eight processes on one output, artifact, cache and
conversion), documents, parts (graph, samples and records of artifacts), inputs, settings, weights, graphs, images and
stream. Of conversions there are a tenth, of each kind of eight processes a fortieth, and a stream has fifty images a
case. ``TMPDIR=/dev/shm`` spares the disk.

Each case runs in a process of its own and offends if it ends in a traceback or a signal, takes more than 60 s or more
than 1 GB beyond its file, prints control characters, executes something, or loses or half-writes an artifact. Ends with
exit code 1 where one does. The default takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

from support.faults import build_library, preloaded  # noqa: E402

KINDS = (
    "kills",
    "errnos",
    "conversions",
    "together",
    "documents",
    "parts",
    "inputs",
    "settings",
    "weights",
    "graphs",
    "images",
    "stream",
)

LIMITS = {"conversions": 300, "together": 600}
"""Seconds that a case may take where that is not a minute: a case has several conversions."""

ARTIFACTS = ("conversions", "together", "documents", "parts", "inputs")
"""Kinds that need a small artifact."""


def cases(kind: str, folder: Path, random: Random, count: int) -> Iterator[Any]:
    """Return the cases of one kind."""
    from support import trials

    small = trials.small_artifact(folder.parent) if kind in ARTIFACTS else folder
    makers: dict[str, Callable[[], Iterator[Any]]] = {
        "kills": lambda: trials.disk_cases(folder, random, count, errnos=False),
        "errnos": lambda: trials.disk_cases(folder, random, count, errnos=True),
        "conversions": lambda: trials.conversion_cases(small, folder, random, -(-count // 10)),
        "together": lambda: trials.together_cases(small, folder, -(-count // 40)),
        "documents": lambda: trials.document_cases(small, folder, random, count),
        "parts": lambda: trials.part_cases(small, folder, random, count),
        "inputs": lambda: trials.input_cases(small, folder, random, count),
        "settings": lambda: trials.settings_cases(folder, random, count),
        "weights": lambda: trials.weights_cases(folder, random, count),
        "graphs": lambda: trials.graph_cases(folder, random, count),
        "images": lambda: trials.image_cases(folder, random, count),
    }
    return makers[kind]()


def stream(folder: Path, count: int) -> dict[str, Any]:
    """Run many image files through one predictor; return its memory after a tenth of them and at the end."""
    import cv2
    import torch
    from support.blobs import BlobPlugin, blob_weights, draw_blobs

    from convkit import convert, load
    from convkit.plugins import manager

    manager().register(BlobPlugin(), "blobs", "tests")
    torch.save(blob_weights(), folder / "blobs.pth")
    files = [folder / f"{number}.png" for number in range(16)]
    for number, file in enumerate(files):
        cv2.imwrite(str(file), draw_blobs(number)[0])
    artifact = convert("blobs", weights=folder / "blobs.pth", output=folder / "blobs", samples=1).artifact
    with load(artifact.path) as predictor:
        sizes = []
        for number, _ in enumerate(predictor.stream((files[n % 16] for n in range(count)), batch=2), start=1):
            if number in (count // 10, count):
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                sizes.append(pages * resource.getpagesize())
    return {"images": count, "bytes": sizes, "growth": sizes[1] / sizes[0] - 1}


def main() -> int:
    parser = argparse.ArgumentParser(description="Kills, failing disks and hostile files.")
    parser.add_argument("--count", type=int, default=200, help="cases of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the changes")
    parser.add_argument("--only", nargs="+", default=KINDS, choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        folder = Path(name)
        if "faults.so" not in os.environ.get("LD_PRELOAD", ""):
            import subprocess

            environment = preloaded(build_library(folder), PYTHONPATH=str(ROOT))
            return subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode
        report, offends = {}, False
        for kind in options.only:
            began = time.perf_counter()
            place = folder / kind
            place.mkdir()
            if kind == "stream":
                found = stream(place, options.count * 50)
                offends |= found["growth"] > 0.05
            else:
                from support.trials import SECONDS, Trial

                each = cases(kind, place, Random(options.seed), options.count)
                trial = Trial(kind).run(each, LIMITS.get(kind, SECONDS))
                offends |= bool(trial.offenders)
                found = {
                    "cases": sum(trial.ends.values()),
                    "ends": dict(trial.ends),
                    "longest_seconds": round(trial.seconds, 2),
                    "most_megabytes": trial.bytes >> 20,
                    "offenders": [f"{each.end}: {each.name}: {each.text.strip()[-300:]}" for each in trial.offenders],
                }
            report[kind] = {**found, "seconds": round(time.perf_counter() - began, 1)}
            print(f"{kind}: {json.dumps(report[kind], indent=1)}", file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps({"seed": options.seed, **report}, indent=1))
    else:
        print("| kind | cases | done | refused | offenders | longest | memory |\n|---|---|---|---|---|---|---|")
        for kind, found in report.items():
            if "ends" in found:
                ends, bad = found["ends"], len(found["offenders"])
                figures = (found["cases"], ends.get("done", 0), ends.get("refused", 0), bad)
                worst = f"{found['longest_seconds']} s | {found['most_megabytes']} MB"
                print(f"| {kind} | {' | '.join(map(str, figures))} | {worst} |")
    return int(offends)


if __name__ == "__main__":
    sys.exit(main())
