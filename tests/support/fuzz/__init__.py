"""A fuzzer of graphs: random PyTorch fragments through export, rewrites and engines, with float64 as the oracle.

`generate` gives one program a seed. `find_faults` exports programs together, puts the graph through every rewrite,
runs it on every engine, and judges each result by the rule of convkit's own proof. `reduce` makes a program that fails
small.
"""

from support.fuzz._campaign import batches, understood
from support.fuzz._check import TARGETS, Fault, Outcome, find_faults, known_fault
from support.fuzz._module import Fragment
from support.fuzz._program import Program, Step, Type, generate
from support.fuzz._reduce import candidates, reduce

__all__ = [
    "TARGETS", "Fault", "Fragment", "Outcome", "Program", "Step", "Type", "batches", "candidates", "find_faults",
    "generate", "known_fault", "reduce", "understood",
]  # fmt: skip
