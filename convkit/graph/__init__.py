"""Graph rewrites, and the metadata that convkit writes into a graph."""

from convkit.graph._metadata import MODULE_KEY, REWRITES_KEY, module_of
from convkit.graph._rewrite import Miss, NodeRewrite, Rewrite, RewriteRecord, apply_rewrite

__all__ = [
    "MODULE_KEY",
    "REWRITES_KEY",
    "Miss",
    "NodeRewrite",
    "Rewrite",
    "RewriteRecord",
    "apply_rewrite",
    "module_of",
]
