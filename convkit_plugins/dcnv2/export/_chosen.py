"""Rewrites for a way that the user chose: what they cannot serve is an error, since nothing else would serve it."""

from __future__ import annotations

from abc import ABC
from typing import TYPE_CHECKING, ClassVar

from convkit import NodeRewrite
from convkit.errors import RewriteError

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["ChosenRewrite"]


class ChosenRewrite(NodeRewrite, ABC):
    """A rewrite of every DeformConv for ``--set dcn=<way>``."""

    phase = "target"
    op_types = ("DeformConv",)
    way: ClassVar[str]
    instead: ClassVar[str]

    def apply(self, graph: gs.Graph, near_misses: list[str]) -> int:
        """Rewrite every node.

        Raises:
            RewriteError: there is a node that this way does not serve.
        """
        before = len(near_misses)
        fired = super().apply(graph, near_misses)
        if len(near_misses) > before:
            others = "".join(f"\n  {miss}" for miss in near_misses[before + 1 : before + 8])
            raise RewriteError(
                f"dcn={self.way} does not serve the DeformConv {near_misses[before]}.",
                hint=f"Use {self.instead}.{f' So it is with:{others}' if others else ''}",
            )
        return fired
