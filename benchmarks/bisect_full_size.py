"""Bisect a full-size resdcn_18 at 512x512 in fp16, and search what to keep in float32: time and peak memory.

The checkpoint is random but well-conditioned, in the official format: 14.4 M parameters, 80 classes. Run with two
cores. CPU seconds stand beside the wall time, for machines that others use too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

BISECT_SECONDS, SEARCH_SECONDS, LIMIT_GIB = 180.0, 300.0, 4.0


def run(*words: object) -> tuple[float, float, float, Any]:
    """Run a command; return wall and CPU seconds, peak resident memory in GiB, and the JSON that it prints."""
    command = [sys.executable, "-m", "convkit", *map(str, words)]
    with tempfile.TemporaryFile() as stream:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=stream)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        stream.seek(0)
        text = stream.read()
    if status:
        sys.exit(f"{command[3]} failed with status {os.waitstatus_to_exitcode(status)}")
    document = json.loads(text) if "--json" in words else None
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20, document


def main() -> None:
    """Print the table; exit 1 when a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifact", type=Path, help="an artifact to use in place of the random resdcn_18")
    parser.add_argument("--score", type=float, default=0.01, help="how far scores may differ in the search")
    parser.add_argument("--precision", default="fp16", help="of the search: fp16 or bf16")
    options = parser.parse_args()
    from support.checkpoints import make_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        artifact = options.artifact or Path(folder) / "artifact"
        if options.artifact is None:
            weights = make_checkpoint(Path(folder) / "resdcn_18.pth", classes=80, width=1.0, head_conv=64)
            run("convert", "centernet", "-w", weights, "-o", artifact)
        bisected = run("bisect", artifact, "--json")
        searched = run("bisect", artifact, "--search", options.precision, "--score", options.score, "--json")
    found = searched[3]["search"]
    print("| figure | wall | CPU | memory | limit |")
    print("|---|---|---|---|---|")
    passed = True
    for title, (wall, cpu, memory, _), limit in (
        ("bisect in fp16, 2 samples, shares of 10 nodes", bisected, BISECT_SECONDS),
        (f"search in {options.precision}, scores within {options.score:g}", searched, SEARCH_SECONDS),
    ):
        print(f"| {title} | {wall:.0f} s | {cpu:.0f} s | {memory:.2f} GiB | {limit:.0f} s, {LIMIT_GIB:.0f} GiB |")
        passed &= wall <= limit and memory <= LIMIT_GIB
    print(
        f"\nThe search kept {len(found['kept'])} nodes in {len(found['trials'])} trials;"
        f" minimal: {found['minimal']}, monotone: {found['monotone']}."
    )
    sys.exit(not passed)


if __name__ == "__main__":
    main()
