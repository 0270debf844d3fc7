"""Graph rewrites: what one is, how it is applied, and the metadata that convkit writes into a graph."""

from convkit.graph._metadata import MODULE_KEY, REWRITES_KEY, module_of
from convkit.graph._rewrite import PHASES, NodeRewrite, NoMatch, Phase, Rewrite, RewriteRecord, apply_rewrite, in_phases

__all__ = [
    "MODULE_KEY",
    "PHASES",
    "REWRITES_KEY",
    "NoMatch",
    "NodeRewrite",
    "Phase",
    "Rewrite",
    "RewriteRecord",
    "apply_rewrite",
    "in_phases",
    "module_of",
]
