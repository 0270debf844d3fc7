"""Graph rewrites: what one is, how it is applied, those that serve every graph, and the metadata in it."""

from convkit.graph._bodies import all_graphs, read_names
from convkit.graph._drop_identity import DropIdentity
from convkit.graph._fold_constants import FoldConstants
from convkit.graph._metadata import (
    INT8_KEY,
    MODULE_KEY,
    PRECISION_KEY,
    REWRITES_KEY,
    annotate,
    metadata_of,
    module_of,
)
from convkit.graph._rewrite import PHASES, NodeRewrite, NoMatch, Phase, Rewrite, RewriteRecord, apply_rewrite, in_phases
from convkit.graph._save import fits_in_one_file, save_onnx

__all__ = [
    "INT8_KEY",
    "MODULE_KEY",
    "PHASES",
    "PRECISION_KEY",
    "REWRITES_KEY",
    "DropIdentity",
    "FoldConstants",
    "NoMatch",
    "NodeRewrite",
    "Phase",
    "Rewrite",
    "RewriteRecord",
    "all_graphs",
    "annotate",
    "apply_rewrite",
    "fits_in_one_file",
    "in_phases",
    "metadata_of",
    "module_of",
    "read_names",
    "save_onnx",
]
