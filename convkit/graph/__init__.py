"""Graph rewrites: what one is, how it is applied, and those that serve every graph."""

from convkit.graph._rewrite import PHASES, NodeRewrite, NoMatch, Phase, Rewrite, RewriteRecord, apply_rewrite, in_phases

__all__ = [
    "PHASES",
    "NoMatch",
    "NodeRewrite",
    "Phase",
    "Rewrite",
    "RewriteRecord",
    "apply_rewrite",
    "in_phases",
]
