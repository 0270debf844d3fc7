"""Graph rewrites: what one is, how it is applied, those that serve every graph, and the metadata in it."""

from convkit.graph._drop_identity import DropIdentity
from convkit.graph._fold_constants import FoldConstants
from convkit.graph._metadata import MODULE_KEY, REWRITES_KEY, module_of
from convkit.graph._rewrite import PHASES, NodeRewrite, NoMatch, Phase, Rewrite, RewriteRecord, apply_rewrite, in_phases

__all__ = [
    "MODULE_KEY",
    "PHASES",
    "REWRITES_KEY",
    "DropIdentity",
    "FoldConstants",
    "NoMatch",
    "NodeRewrite",
    "Phase",
    "Rewrite",
    "RewriteRecord",
    "apply_rewrite",
    "in_phases",
    "module_of",
]
