"""Faults in the graph of an artifact: the spoilt graph is opened by the backend in place of the sound one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import onnx

from convkit.self_test._fault import Fault, Site
from convkit.self_test._faults_nodes import NODE_FAULTS
from convkit.self_test._faults_precision import PRECISION_FAULTS
from convkit.self_test._faults_weights import WEIGHT_FAULTS
from convkit.self_test._graph import Graph

if TYPE_CHECKING:
    from convkit.self_test._judge import Judge

__all__ = ["GRAPH_FAULTS", "spoilt_graphs"]

_FINDERS = {**WEIGHT_FAULTS, **NODE_FAULTS, **PRECISION_FAULTS}


def _fault(kind: str) -> Fault:
    cause, find = _FINDERS[kind]

    def sites(judge: Judge, rng: np.random.Generator) -> Iterator[Site]:
        graph = Graph(judge.model)
        for spot in find(graph, rng):
            yield Site(
                spot.where,
                lambda spot=spot: judge.subject(graph.changed(spot.change)),  # type: ignore[misc]
            )

    return Fault(kind, "graph", cause, sites)


GRAPH_FAULTS: tuple[Fault, ...] = tuple(_fault(kind) for kind in _FINDERS)
"""Kinds of fault that change the graph."""


def spoilt_graphs(model: onnx.ModelProto, kind: str, *, seed: int = 0) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Yield where a fault of this kind is planted and a copy of the model with it, for each place that it has."""
    graph = Graph(model)
    for spot in _FINDERS[kind][1](graph, np.random.default_rng(seed)):
        yield spot.where, graph.changed(spot.change)
