"""What a comparison of runners found, node by node, and how it is ranked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["FACTOR", "Bisection", "Decision", "Figures", "NodeErrors"]

FACTOR = 4.0
"""How many units of its type a node may err by itself, or times as much as the same node in the first runner."""


@dataclass(frozen=True)
class Figures:
    """How far a tensor lies from the reference's: ``rel_l2`` relative in the Euclidean norm, ``max_abs`` at most.

    Both are infinite where the tensor has a NaN, or an infinity that the reference has not.
    """

    rel_l2: float = 0.0
    max_abs: float = 0.0

    def worst(self, other: Figures) -> Figures:
        """Return the larger of each."""
        return Figures(max(self.rel_l2, other.rel_l2), max(self.max_abs, other.max_abs))

    def to_json(self) -> dict[str, float | None]:
        """Return the figures as a JSON object; None stands for infinity, which JSON lacks."""
        return {
            name: value if math.isfinite(value) else None
            for name, value in (("rel_l2", self.rel_l2), ("max_abs", self.max_abs))
        }


@dataclass(frozen=True)
class NodeErrors:
    """The errors of one tensor, and the node that makes it in the reference's graph.

    ``local`` is what the node errs when it is fed the reference's values, ``accumulated`` what it and all before it
    err, one for each runner; None for a runner whose graph lacks the tensor. ``dtype`` is the coarsest type that the
    last runner computes it with and ``unit`` what that rounds away, ``scale`` the largest magnitude of the reference.
    ``share`` is the part of the last runner's squared output error that comes of the local error alone, of the output
    where that is largest; None where it was not measured. The figures are the worst of all samples.
    """

    node: str
    operator: str
    module: str
    tensor: str
    dtype: str
    unit: float
    scale: float
    local: tuple[Figures | None, ...]
    accumulated: tuple[Figures | None, ...]
    share: float | None = None

    @property
    def limit(self) -> float:
        """The local error, relative, that the type and the first runner explain."""
        first = self.local[0] if len(self.local) > 1 else None
        return FACTOR * max(self.unit, first.rel_l2 if first else 0.0)

    @property
    def parted(self) -> bool:
        """Whether the last runner errs more here, by this node alone, than is explained."""
        return self._last(self.local).rel_l2 > self.limit

    @property
    def reason(self) -> str:
        """Why the node should stay in float32, in words."""
        error = self._last(self.local)
        where = f"{self.operator}{f' of {self.module}' if self.module else ''}"
        if not math.isfinite(error.rel_l2):
            return f"{where}: leaves the range of {self.dtype}, the values reach {self.scale:.3g}"
        return f"{where}: errs {error.rel_l2:.2g} by itself (relative), {self.limit:.2g} is explained"

    @staticmethod
    def _last(figures: Sequence[Figures | None]) -> Figures:
        return figures[-1] or Figures()

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {
            "node": self.node,
            "operator": self.operator,
            "module": self.module,
            "tensor": self.tensor,
            "dtype": self.dtype,
            "scale": self.scale if math.isfinite(self.scale) else None,
            "local": [figures and figures.to_json() for figures in self.local],
            "accumulated": [figures and figures.to_json() for figures in self.accumulated],
            "limit": self.limit if math.isfinite(self.limit) else None,
            "parted": self.parted,
            "share": self.share if self.share is None or math.isfinite(self.share) else None,
        }


@dataclass(frozen=True)
class Decision:
    """A tensor of whole numbers or truth values: the share of it that a runner makes otherwise of the same inputs."""

    node: str
    operator: str
    runner: str
    share: float


@dataclass(frozen=True)
class Bisection:
    """The errors of each node in the order of the reference's graph, and those of the outputs, by runner.

    The last of ``runners`` is the one that is judged; another before it shows what is usual. ``float32_nodes`` are
    nodes of the reference that nothing computes in float64.
    """

    runners: tuple[str, ...]
    samples: int
    nodes: tuple[NodeErrors, ...]
    outputs: Mapping[str, tuple[Figures, ...]]
    decisions: tuple[Decision, ...] = ()
    float32_nodes: tuple[str, ...] = ()

    def ranked(self) -> list[NodeErrors]:
        """Return the nodes by the local error of the last runner, over its limit first, then the largest."""
        return sorted(self.nodes, key=lambda row: (not row.parted, -self._judged(row)))

    def first_parting(self) -> NodeErrors | None:
        """Return the first node of the graph where the last runner errs more by itself than is explained."""
        return next((row for row in self.nodes if row.parted), None)

    def weights(self) -> dict[str, float]:
        """Return what the last runner errs by node: the ranking of a search, infinite where a node leaves its range.

        It is the share of the output error, or the squared local error where no share was measured; of a node with
        several results their sum.
        """
        table: dict[str, float] = {}
        for row in self.nodes:
            local = self._judged(row)
            weight = row.share if row.share is not None and math.isfinite(local) else local**2
            table[row.node] = table.get(row.node, 0.0) + weight
        return table

    @staticmethod
    def _judged(row: NodeErrors) -> float:
        figures = row.local[-1]
        return figures.rel_l2 if figures else 0.0

    def keep_reasons(self) -> dict[str, str]:
        """Return the nodes that should stay in float32, those where the last runner parts, with the reasons."""
        return {row.node: row.reason for row in self.nodes if row.parted and row.node}

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object, nodes in the order of the graph."""
        first = self.first_parting()
        return {
            "runners": list(self.runners),
            "samples": self.samples,
            "first_parting": first.node if first else None,
            "nodes": [row.to_json() for row in self.nodes],
            "outputs": {name: [figures.to_json() for figures in each] for name, each in self.outputs.items()},
            "decisions": [
                {"node": each.node, "operator": each.operator, "runner": each.runner, "share": each.share}
                for each in self.decisions
            ],
            "float32_nodes": list(self.float32_nodes),
        }
