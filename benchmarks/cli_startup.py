"""How long the command line takes to answer and an artifact to load, as whole processes: best and median of several.

``python benchmarks/cli_startup.py [ARTIFACT]``; without an artifact the demo network is converted first, which takes a
minute.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMITS = {"--help": 0.3, "adapters": 0.4, "plugins": 0.4, "--version": 0.3}
LOAD_LIMIT = 1.0
LOAD = "import sys, convkit; convkit.load(sys.argv[1]).close()"
WEIGHTS = Path(__file__).parents[1] / "examples" / "digits" / "digits_resdcn18.pth"


def measure(arguments: list[str], runs: int = 9) -> list[float]:
    """Return the seconds of ``runs`` Python processes with these arguments."""
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return times


def main() -> None:
    """Print the table; exit 1 when a limit is passed by the median."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", nargs="?", type=Path)
    artifact = parser.parse_args().artifact
    good = True
    with tempfile.TemporaryDirectory() as folder:
        if artifact is None:
            from convkit import convert

            artifact = convert("centernet", weights=WEIGHTS, output=Path(folder) / "digits", samples=1).artifact.path
        rows = {f"convkit {word}": (["-m", "convkit", word], limit) for word, limit in LIMITS.items()}
        rows["convkit.load(ARTIFACT)"] = (["-c", LOAD, str(artifact)], LOAD_LIMIT)
        print("| process | best | median | limit |")
        print("|---|---|---|---|")
        for name, (arguments, limit) in rows.items():
            times = measure(arguments)
            good &= statistics.median(times) <= limit
            print(f"| {name} | {min(times):.3f} s | {statistics.median(times):.3f} s | {limit} s |")
    sys.exit(not good)


if __name__ == "__main__":
    main()
