"""A plugin with a fault in the typing of a graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from convkit import NodeRewrite, Rewrite, hookimpl

__all__ = ["Disturb", "DisturbPlugin"]


class Disturb(NodeRewrite):
    """A fault in the typed graph alone: it multiplies what 16-bit convolutions add up."""

    name: ClassVar[str] = "test.disturb"
    reason: ClassVar[str] = "for the test"
    phase: ClassVar = "precision"
    op_types: ClassVar[tuple[str, ...]] = ("Conv",)
    factor: float = 1.0

    def match(self, graph: gs.Graph, node: gs.Node) -> bool | None:
        return None if node.name.endswith("/disturbed") else True

    def rewrite(self, graph: gs.Graph, node: gs.Node, match: bool) -> None:
        node.name += "/disturbed"
        weight = node.inputs[1]
        node.inputs[1] = gs.Constant(f"{weight.name}/disturbed", (weight.values * self.factor).astype(np.float32))


class DisturbPlugin:
    """Brings the fault for precisions other than float32."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    @hookimpl
    def convkit_graph_rewrites(self, target: Any) -> Iterable[Rewrite]:
        rewrite = Disturb()
        rewrite.factor = self.factor
        return [rewrite] if target.precision != "fp32" else []
