"""Reference and runners side by side, node by node: what each errs by itself, and in all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from convkit.bisection._graph import GraphParts
from convkit.bisection._run import Parts, Runner
from convkit.bisection._segments import Segment, segments_of
from convkit.graph import read_names
from convkit.progress import Progress, silent

if TYPE_CHECKING:
    import onnx

__all__ = ["Found", "Lockstep"]

Values = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Found:
    """One tensor of one runner: the reference's value, what the runner makes of the reference's inputs, and of its own.

    ``segment`` has the nodes that made it and ``tensor`` its name in the reference's graph.
    """

    runner: int
    tensor: str
    segment: Segment
    reference: np.ndarray
    local: np.ndarray
    accumulated: np.ndarray


class Lockstep:
    """Runs a reference in float64 and some runners on one feed after the other.

    Nodes run one by one, in the order of the reference; a value is dropped when nothing needs it any more. What is kept
    at any time is what the network itself keeps at that point, once for the reference and once for each runner.

    Raises:
        EnvironmentProblem: a backend is missing, or lacks an operator or a type of the graph.
    """

    def __init__(self, reference: onnx.ModelProto, runners: Sequence[Runner]) -> None:
        self.parts = GraphParts.of(reference)
        self.runners = runners
        self.segments = [segments_of(GraphParts.of(runner.model), self.parts) for runner in runners]
        self.float32_nodes: list[str] = []

    def run(
        self, feed: Values, visit: Callable[[Found], None], progress: Progress = silent
    ) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
        """Call ``visit`` with each tensor that a runner shares with the reference.

        Returns:
            The reference's outputs, and the outputs of each runner, made of its own values.
        """
        with ExitStack() as stack:
            exact = stack.enter_context(Parts("torch"))
            parts = [stack.enter_context(Parts(runner.backend, runner.device)) for runner in self.runners]
            result = self._run(feed, visit, exact, parts, progress)
        self.float32_nodes = list(dict.fromkeys([*self.float32_nodes, *exact.float32_nodes]))
        return result

    def _run(
        self, feed: Values, visit: Callable[[Found], None], exact: Parts, parts: Sequence[Parts], progress: Progress
    ) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
        nodes = [(node, *self._ends(node)) for node in self.parts.nodes]
        values = _Store(feed, chain(*(inputs for _, inputs, _ in nodes), *map(_needed, chain(*self.segments))))
        sides = [
            _Side(index, list(segments), _Store(feed, chain(*(segment.inputs for segment in segments))), runs)
            for index, (segments, runs) in enumerate(zip(self.segments, parts, strict=True))
        ]
        wanted, exactly = set(self.parts.outputs), {}
        for count, (node, inputs, results) in enumerate(nodes):
            progress("running nodes", count, len(nodes))
            model = self.parts.cut_out([node], inputs, results)
            made = exact.run_exactly(model, {name: values[name] for name in inputs})
            exactly.update({name: value for name, value in made.items() if name in wanted})
            values.add(made)
            values.used(inputs)
            for side in sides:
                side.advance(values, visit, wanted)
        return exactly, [side.outputs for side in sides]

    def _ends(self, node: onnx.NodeProto) -> tuple[list[str], list[str]]:
        """Return the tensors that a node reads and makes, without constants."""
        read = dict.fromkeys(name for name in read_names(node) if not self.parts.is_constant(name))
        return list(read), [name for name in node.output if name]


class _Store:
    """Values by name, each dropped after its last use."""

    def __init__(self, feed: Values, uses: Iterable[str]) -> None:
        self._uses = Counter(uses)
        self._values: dict[str, np.ndarray] = {}
        self.add(feed)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def add(self, values: Values) -> None:
        self._values.update({name: value for name, value in values.items() if self._uses[name] > 0})

    def used(self, names: Iterable[str]) -> None:
        for name in names:
            self._uses[name] -= 1
            if self._uses[name] <= 0:
                self._values.pop(name, None)


@dataclass
class _Side:
    """One runner on its way through the graph: the segments that wait, and its own values."""

    index: int
    waiting: list[Segment]
    own: _Store
    parts: Parts
    outputs: dict[str, np.ndarray] = field(default_factory=dict)

    def advance(self, values: _Store, visit: Callable[[Found], None], wanted: Collection[str]) -> None:
        """Run what can be run with the reference's values that are there."""
        while True:
            ready = [
                segment
                for segment in self.waiting
                if all(name in values for name in _needed(segment)) and all(name in self.own for name in segment.inputs)
            ]
            if not ready:
                return
            for segment in ready:
                self._run(segment, values, visit, wanted)
            self.waiting = [segment for segment in self.waiting if segment not in ready]

    def _run(self, segment: Segment, values: _Store, visit: Callable[[Found], None], wanted: Collection[str]) -> None:
        local, own = self.parts.run(
            segment.model(),
            {name: values[other] for name, other in segment.inputs.items()},
            {name: self.own[name] for name in segment.inputs},
        )
        for name in segment.measured:
            tensor = segment.outputs[name]
            visit(Found(self.index, tensor, segment, values[tensor], local[name], own[name]))
        self.outputs.update({name: value for name, value in own.items() if name in wanted})
        self.own.add(own)
        self.own.used(segment.inputs)
        values.used(_needed(segment))


def _needed(segment: Segment) -> tuple[str, ...]:
    """Return the names of the reference's values that a segment is fed and compared with."""
    return (*segment.inputs.values(), *segment.outputs.values())
