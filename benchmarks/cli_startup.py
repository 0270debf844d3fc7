"""How long the command line takes to answer, as whole processes: best and median of several."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

LIMITS = {"--help": 0.3, "adapters": 0.4, "plugins": 0.4, "--version": 0.3}


def measure(word: str, runs: int = 9) -> list[float]:
    """Return the seconds of ``runs`` processes."""
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "convkit", word], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return times


def main() -> None:
    """Print the table; exit 1 when a limit is passed by the median."""
    good = True
    print("| command | best | median | limit |")
    print("|---|---|---|---|")
    for word, limit in LIMITS.items():
        times = measure(word)
        good &= statistics.median(times) <= limit
        print(f"| convkit {word} | {min(times):.3f} s | {statistics.median(times):.3f} s | {limit} s |")
    sys.exit(not good)


if __name__ == "__main__":
    main()
