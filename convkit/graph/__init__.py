"""Graph rewrites: what one is, how it is applied, and those that serve every graph."""

from convkit.graph._rewrite import NoMatch, NodeRewrite, PHASES, Phase, Rewrite, RewriteRecord, apply_rewrite, in_phases

__all__ = [
    "NoMatch",
    "NodeRewrite",
    "PHASES",
    "Phase",
    "Rewrite",
    "RewriteRecord",
    "apply_rewrite",
    "in_phases",
]
