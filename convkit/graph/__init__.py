"""Graph rewrites and what reads graphs."""

from convkit.graph._rewrite import Miss, NodeRewrite, Rewrite, RewriteRecord, apply_rewrite

__all__ = ["Miss", "NodeRewrite", "Rewrite", "RewriteRecord", "apply_rewrite"]
