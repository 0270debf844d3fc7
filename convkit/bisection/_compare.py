"""The errors of runners on some feeds: the run in lockstep, measured, with the share of the worst in the outputs'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from convkit.bisection._errors import Bisection, Decision, Figures, NodeErrors
from convkit.bisection._graph import GraphParts
from convkit.bisection._lockstep import Found, Lockstep
from convkit.bisection._run import Parts, Runner
from convkit.bisection._shares import Carried, Carrier, shares_of
from convkit.errors import SettingError
from convkit.graph import module_of
from convkit.progress import Progress, silent
from convkit.proof import measure

if TYPE_CHECKING:
    import onnx

__all__ = ["DEFAULT_SHARES", "compare_runners"]

Values = Mapping[str, np.ndarray]
DEFAULT_SHARES = 10
_MOST_RUNNERS = 2


@dataclass
class _Row:
    found: Found
    local: dict[int, Figures] = field(default_factory=dict)
    accumulated: dict[int, Figures] = field(default_factory=dict)
    scale: float = 0.0


@dataclass
class _Table:
    """Collects figures of tensors as they are found; of the last runner also what their errors do to the outputs.

    That is asked at once where all are wanted (``kept`` None), else the values of the worst are remembered for it.
    """

    last: int
    kept: int | None
    carrier: Carrier | None = None
    rows: dict[str, _Row] = field(default_factory=dict)
    decisions: dict[tuple[str, int], float] = field(default_factory=dict)
    worst: dict[str, tuple[float, np.ndarray]] = field(default_factory=dict)
    carried: dict[str, Carried] = field(default_factory=dict)

    def visit(self, found: Found) -> None:
        if found.reference.dtype.kind != "f":
            same = found.reference.shape == found.local.shape
            share = float(np.mean(found.reference != found.local)) if same and found.reference.size else float(not same)
            key = found.tensor, found.runner
            self.decisions[key] = max(self.decisions.get(key, 0.0), share)
            return
        local, accumulated = measure(found.reference, found.local), measure(found.reference, found.accumulated)
        row = self.rows.setdefault(found.tensor, _Row(found))
        if found.runner == self.last:
            row.found = found
            self._remember(found, local.rel_l2)
        row.scale = max(row.scale, float(np.abs(found.reference).max(initial=0.0)))
        for table, error in ((row.local, local), (row.accumulated, accumulated)):
            figures = Figures(error.rel_l2, error.max_abs)
            table[found.runner] = figures.worst(table.get(found.runner, Figures()))
        # The values themselves are not needed any more, and would fill the memory.
        row.found = replace(row.found, reference=_NOTHING, local=_NOTHING, accumulated=_NOTHING)

    def _remember(self, found: Found, error: float) -> None:
        if self.carrier is None:
            return
        if self.kept is None:
            self.carried[found.tensor] = self.carrier.carry(found.tensor, found.local)
            return
        self.worst[found.tensor] = error, found.local.astype(np.float32)
        if len(self.worst) > self.kept:
            del self.worst[min(self.worst, key=lambda name: self.worst[name][0])]

    def carry_worst(self, progress: Progress) -> None:
        """Ask what the errors that were remembered do to the outputs, and forget them."""
        if self.carrier is not None:
            for count, (tensor, (_, value)) in enumerate(self.worst.items()):
                progress("carrying local errors to the outputs", count, len(self.worst))
                self.carried[tensor] = self.carrier.carry(tensor, value)
        self.worst, self.carrier = {}, None


_NOTHING = np.zeros(0)


def compare_runners(
    reference: onnx.ModelProto,
    runners: Sequence[Runner],
    feeds: Sequence[Values],
    *,
    shares: int | None = DEFAULT_SHARES,
    progress: Progress = silent,
) -> Bisection:
    """Return what each node of one or two runners errs against ``reference`` in float64, on each of the feeds.

    Tensors are the same that have the same name in both graphs; what a runner has between two of those is one node.
    The last runner is judged, by the first where there are two. ``shares`` is the number of its worst nodes whose part
    of the output error is measured, on the first feed: their local error alone, carried to the outputs; None is all.

    Raises:
        SettingError: there are no feeds, or more than two runners or none.
        ConversionError, EnvironmentProblem: nothing here can run a node.
    """
    if not feeds or not 1 <= len(runners) <= _MOST_RUNNERS:
        raise SettingError(
            f"{len(runners)} runners on {len(feeds)} samples cannot be compared.",
            hint="Name one or two runners, and at least one sample.",
        )
    last = len(runners) - 1
    lockstep = Lockstep(reference, runners)
    parts = lockstep.parts
    table, totals = _Table(last, shares), dict[str, tuple[Figures, ...]]()
    found_shares: dict[str, float] = {}
    for number, feed in enumerate(feeds):
        with Parts("torch") as runs:
            table.carrier = Carrier(parts, runs, feed) if shares != 0 and not number else None
            exact, outputs = lockstep.run(feed, table.visit, _numbered(progress, number, len(feeds)))
            table.carry_worst(progress)
        _add_totals(totals, exact, outputs)
        if not number:
            found_shares = shares_of(table.carried, {name: figures[last].rel_l2 for name, figures in totals.items()})
    nodes = [_errors(parts, table.rows[name], runners, found_shares.get(name)) for name in _ordered(parts, table, last)]
    decisions = [
        Decision(*_node(parts, name)[:2], runners[runner].name, share)
        for (name, runner), share in table.decisions.items()
        if share
    ]
    names = tuple(runner.name for runner in runners)
    return Bisection(names, len(feeds), tuple(nodes), totals, tuple(decisions), tuple(lockstep.float32_nodes))


def _numbered(progress: Progress, number: int, count: int) -> Progress:
    return lambda step, done=0, total=0: progress(f"{step} on sample {number + 1} of {count}", done, total)


def _add_totals(totals: dict[str, tuple[Figures, ...]], exact: Values, outputs: Sequence[Values]) -> None:
    for name, value in exact.items():
        if value.dtype.kind != "f" or not all(name in found for found in outputs):
            continue
        errors = [measure(value, found[name]) for found in outputs]
        known = totals.get(name, tuple(Figures() for _ in outputs))
        totals[name] = tuple(
            old.worst(Figures(error.rel_l2, error.max_abs)) for old, error in zip(known, errors, strict=True)
        )


def _ordered(parts: GraphParts, table: _Table, last: int) -> list[str]:
    """Return the tensors that the last runner has, in the order of the reference."""
    names = [name for node in parts.nodes for name in node.output]
    return [name for name in names if name in table.rows and last in table.rows[name].local]


def _node(parts: GraphParts, tensor: str) -> tuple[str, str, str]:
    node = parts.nodes[parts.makers[tensor]]
    return node.name, node.op_type, module_of(node)


def _errors(parts: GraphParts, row: _Row, runners: Sequence[Runner], share: float | None) -> NodeErrors:
    segment, tensor = row.found.segment, row.found.tensor
    count = range(len(runners))
    return NodeErrors(
        *_node(parts, tensor), tensor, segment.dtype, segment.unit, row.scale,
        tuple(row.local.get(index) for index in count), tuple(row.accumulated.get(index) for index in count), share,
    )  # fmt: skip
