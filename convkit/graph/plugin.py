"""The plugin that brings the rewrites every graph can use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from convkit.hookspecs import hookimpl

if TYPE_CHECKING:
    from convkit.graph._rewrite import Rewrite
    from convkit.model import Target


@hookimpl
def convkit_graph_rewrites(target: Target) -> Iterable[Rewrite]:
    """Tidy the exported graph before anybody looks for patterns, and type it for a precision below float32."""
    from convkit.graph._drop_identity import DropIdentity
    from convkit.graph._fold_constants import FoldConstants

    rewrites: list[Rewrite] = [FoldConstants(), DropIdentity()]
    if target.precision != "fp32":
        from convkit.graph.precision import To16Bit, ToInt8
        from convkit.model import find_precision

        precision = find_precision(target.precision)
        if precision.rest:
            rewrites.append(ToInt8({}, precision.rest))
        rewrites.append(To16Bit(precision.rest or precision.name))
    return rewrites
