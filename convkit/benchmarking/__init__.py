"""Benchmarks of artifacts: how long engines take on this machine, measured in turns, with the protocol."""

from convkit.benchmarking._bench import bench
from convkit.benchmarking._candidates import SCOPES, Candidate
from convkit.benchmarking._plot import check_plot, write_plot
from convkit.benchmarking._protocol import protocol
from convkit.benchmarking._result import Benchmark, Cell, Memory, NotRun, Run
from convkit.benchmarking._settings import BenchSettings

__all__ = [
    "SCOPES",
    "BenchSettings",
    "Benchmark",
    "Candidate",
    "Cell",
    "Memory",
    "NotRun",
    "Run",
    "bench",
    "check_plot",
    "protocol",
    "write_plot",
]
