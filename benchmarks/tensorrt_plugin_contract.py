"""How many faulty plugins of full TensorRT are rejected without TensorRT, in three versions of its genuine bindings.

    python benchmarks/tensorrt_plugin_contract.py [--verbose] [VERSION ...]

Drives a right plugin and faulty ones through NVIDIA's own plugin code, over a stand-in of its plugin registry. Needs a
C++ compiler and no GPU; the bindings are downloaded once. Ends with exit code 1 where the right plugin is objected to,
or a faulty one is not that the bindings of that version could tell.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.tensorrt_bindings import VERSIONS, search_path
from support.tensorrt_drive import drive_all
from support.tensorrt_geometry import BASE, PLAIN, UNEVEN, differences
from support.tensorrt_mutants import LISTED, OWN, examine, stage_of

STAGES = ("registration", "call", "drive", "numbers")


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Faulty plugins rejected over a stand-in of TensorRT's registry.")
    parser.add_argument("versions", nargs="*", metavar="VERSION", default=VERSIONS)
    parser.add_argument("--verbose", action="store_true", help="why each is rejected")
    arguments = parser.parse_args()
    status = 0
    print(f"{'TensorRT':12} {'right':6} {'faults of users':16} {'further faults':15} {'by':40} seconds")
    for version in arguments.versions:
        search_path(version)
        start = time.perf_counter()
        geometries = (PLAIN, UNEVEN)
        answers = drive_all(version, [geometry.job(BASE.read_text(encoding="utf-8")) for geometry in geometries])
        wrong = [
            problem for geometry, answer in zip(geometries, answers, strict=True)
            for problem in answer["problems"] or differences(geometry, answer)
        ]  # fmt: skip
        mutants = (*LISTED, *OWN)
        reasons = examine(version, mutants)
        counts = dict.fromkeys(STAGES, 0)
        for reason in filter(None, reasons):
            counts[stage_of(reason)] += 1
        seconds = time.perf_counter() - start
        rejected = [bool(reason) for reason in reasons]
        split = len(LISTED)
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        print(
            f"{version:12} {'fails' if wrong else 'passes':6} {f'{sum(rejected[:split])} of {split}':16}"
            f" {f'{sum(rejected[split:])} of {len(OWN)}':15} {shown:40} {seconds:.1f}"
        )
        for problem in wrong:
            print(f"    the right plugin: {problem}")
        for mutant, reason in zip(mutants, reasons, strict=True):
            if arguments.verbose or not reason:
                print(f"    {mutant.title}: {reason or 'not noticed'}")
            status |= not reason and version not in mutant.accepted
        status |= bool(wrong)
    return int(status)


if __name__ == "__main__":
    raise SystemExit(main())
