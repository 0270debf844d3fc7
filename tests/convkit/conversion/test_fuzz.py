"""Random PyTorch fragments through export, every rewrite and every engine that runs here, judged against float64."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.every_case import EVERY_CASE
from support.fuzz import (
    TARGETS,
    Fault,
    Fragment,
    Outcome,
    Program,
    Step,
    candidates,
    find_faults,
    generate,
    known_fault,
    reduce,
    understood,
)
from support.plugins import registered

from convkit import NodeRewrite, Rewrite, hookimpl

BATCHES = [(50_000 + 45 * place, 45, 0) for place in range(6 if EVERY_CASE else 3)] + [(50_270, 24, 1), (50_294, 6, 2)]
"""First seed and number of programs that are exported together, with fixed sizes (0), any batch (1) and any sizes (2).

``benchmarks/fuzz.py`` takes as many as one likes.
"""
GRAPHS = sum(count for _, count, _ in BATCHES)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    """What comes of the programs: by turns in each precision, with the three that decompose layers differently."""
    threads, labels = torch.get_num_threads(), list(TARGETS)
    torch.set_num_threads(1)
    try:
        found = Outcome()
        for number, (seed, count, sizes) in enumerate(BATCHES):
            programs = [generate(seed + place, 3) for place in range(count)]
            chosen = ["tensorrt-rtx", *(label for place, label in enumerate(labels) if (place + number) % 3 == 0)]
            found.add(find_faults(programs, sizes, dict.fromkeys(chosen), keep_graphs=number == 0 or sizes == 1))
        return found
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_no_graph_computes_anything_else(outcome):
    assert [str(reduce(fault, attempts=20)) for fault in outcome.faults[:3]] == []
    assert len({fault.program.seed for fault in outcome.close}) <= 3
    assert outcome.programs == GRAPHS >= 165
    assert outcome.not_exported == {}
    assert outcome.not_comparable.total() <= 0.05 * outcome.judged.total()
    assert len(outcome.kinds) >= 17
    assert min(outcome.judged[stage] for stage in ("exported on torch", "tensorrt-rtx on onnxruntime")) >= 0.9 * GRAPHS
    assert outcome.judged["onnx fp16 on torch"] >= 40
    assert outcome.judged["onnx bf16 on torch"] >= 40
    assert outcome.judged["tensorrt fp16 plugin on torch"] >= 20


@pytest.mark.slow
def test_nvidias_parser_understands_graphs_of_many_programs(outcome):
    agreed, differing, left = understood(outcome.graphs)
    assert differing == []
    assert (agreed, left) == (2, [])


class _Wrong(NodeRewrite):
    """Doubles what a Sigmoid or Tanh gets."""

    name, reason, op_types = "planted.fault", "to be found", ("Sigmoid", "Tanh")

    def match(self, graph: Any, node: Any) -> bool:
        return "planted" not in node.name

    def rewrite(self, graph: Any, node: Any, match: bool) -> None:
        import numpy as np
        import onnx_graphsurgeon as gs

        doubled = gs.Variable(f"{node.inputs[0].name}.doubled", np.float32, node.inputs[0].shape)
        two = gs.Constant(f"{node.name}.two", np.array(2, np.float32))
        graph.nodes.append(gs.Node("Mul", f"{node.name}.mul", {}, [node.inputs[0], two], [doubled]))
        node.inputs[0], node.name = doubled, f"{node.name}.planted"


class _Plugin:
    @hookimpl
    def convkit_graph_rewrites(self) -> Iterable[Rewrite]:
        return [_Wrong()]


def test_a_planted_fault_is_found_and_reduced_to_its_step():
    steps = (
        Step("conv", (0,), {"out": 3, "kernel": (3, 1), "stride": (1, 2), "pad": (1, 0), "dilation": (1, 1),
                            "groups": 1, "bias": True, "norm": True}, 1),
        Step("activation", (1,), {"of": "tanh"}),
        Step("activation", (2,), {"of": "root"}),
        Step("pair", (3, 2), {"of": "add"}),
    )  # fmt: skip
    program = Program(7, steps)
    assert find_faults([program], 1, ["onnx"]).faults == []
    with registered(_Plugin(), "planted"):
        faults = find_faults([generate(3), program], 1, ["onnx"]).faults
        mine = [fault for fault in faults if fault.program.seed == 7]
        assert {fault.stage for fault in mine} == {"onnx on onnxruntime", "onnx on torch"}
        small = reduce(mine[0])
    assert small.program.steps == (Step("activation", (0,), {"of": "tanh"}),)
    assert small.sizes == 0, "it fails with fixed sizes, too"
    assert "v1 = activation(v0, of=tanh)" in str(small)
    assert "seed 7" in str(small)


def test_the_known_fault_of_onnx_runtime_is_there_and_no_other_engines():
    """If this fails, ONNX Runtime was mended: drop `known_fault`."""
    program = Program(0, (Step("resize", (0,), {"mode": "nearest", "align": False, "size": (8, 4)}),))
    found = find_faults([program], 2, ["onnx"])
    assert {fault.stage for fault in found.known} == {"exported on onnxruntime", "onnx on onnxruntime"}
    assert found.faults == []
    assert known_fault(found.known[0])
    assert not known_fault(replace(found.known[0], stage="onnx on torch"))


def test_the_same_seed_gives_the_same_program_and_the_same_weights():
    assert generate(11) == generate(11)
    assert generate(11) != generate(12)
    one, other = (Fragment(generate(11)).state_dict() for _ in range(2))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_reducer_reaches_the_smallest_program():
    """Two steps are to blame, of which one reads the other."""

    def fails(program: Program, sizes: int) -> Fault | None:
        kinds = [step.kind for step in program.steps]
        blamed = any(
            step.kind == "pair" and any(read and kinds[read - 1] == "softmax" for read in step.reads)
            for step in program.steps
        )
        return Fault(program, sizes, "here", "") if blamed else None

    steps = tuple(
        Step(kind, reads, {"of": kind})
        for kind, reads in (("norm", (0,)), ("softmax", (1,)), ("pad", (2,)), ("pair", (2, 3)), ("norm", (4,)))
    )
    small = reduce(Fault(Program(0, steps), 2, "here", ""), fails).program
    assert [step.kind for step in small.steps] == ["softmax", "pair"]
    assert all(not fails(smaller, 0) for smaller in candidates(small))


def test_a_fault_of_varying_sizes_alone_keeps_its_sizes():
    def fails(program: Program, sizes: int) -> Fault | None:
        return Fault(program, sizes, "here", "") if sizes == 2 else None

    small = reduce(Fault(generate(5), 2, "here", ""), fails)
    assert small.sizes == 2
    assert len(small.program.steps) == 1
