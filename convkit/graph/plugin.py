"""The plugin that brings the rewrites every graph can use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from convkit.hookspecs import hookimpl

if TYPE_CHECKING:
    from convkit.graph._rewrite import Rewrite


@hookimpl
def convkit_graph_rewrites() -> Iterable[Rewrite]:
    """Tidy the exported graph before anybody looks for patterns."""
    from convkit.graph._drop_identity import DropIdentity
    from convkit.graph._fold_constants import FoldConstants

    return [FoldConstants(), DropIdentity()]
