"""What an adapter says of its model: inputs, outputs, dimensions, tolerances, expectations, patches for the export."""

from convkit.model._adapter import Adapter, Option, Request, SourceModel
from convkit.model._dims import Dim, apply_overrides, parse_shape
from convkit.model._expect import Expect, at_least, exactly, optional
from convkit.model._extents import Extent, extent_names, resolve, substitute
from convkit.model._patching import AttributePatch, ModulePatch, Patch, PatchRecord, patched
from convkit.model._plain import json_fault
from convkit.model._precision import PRECISIONS, Precision, find_precision
from convkit.model._spec import BATCH, ModelSpec, TensorSpec, Tolerance
from convkit.model._target import Target

__all__ = [
    "BATCH",
    "PRECISIONS",
    "Adapter",
    "AttributePatch",
    "Dim",
    "Expect",
    "Extent",
    "ModelSpec",
    "ModulePatch",
    "Option",
    "Patch",
    "PatchRecord",
    "Precision",
    "Request",
    "SourceModel",
    "Target",
    "TensorSpec",
    "Tolerance",
    "apply_overrides",
    "at_least",
    "exactly",
    "extent_names",
    "find_precision",
    "json_fault",
    "optional",
    "parse_shape",
    "patched",
    "resolve",
    "substitute",
]
