"""The specification of a model: its inputs and outputs, how they are processed, and the tolerances of its proof."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from convkit.model._dims import Dim, Extent
from convkit.model._expect import Expect

__all__ = ["ModelSpec", "TensorSpec", "Tolerance"]


@dataclass(frozen=True)
class Tolerance:
    """How far an output may lie from the float64 reference, and why.

    ``factor`` multiplies PyTorch's own float32 error against float64; ``atol`` is added, in units
    of the output.
    """

    factor: float = 3.0
    atol: float = 0.0
    reason: str = "float32 kernels that sum in another order"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of the graph: name, shape of numbers and named dimensions, NumPy dtype.

    ``compare`` says how two values of an output are compared: ``"values"`` element by element,
    ``"detections"`` as rows of (x1, y1, x2, y2, score, class) that are matched before.
    """

    name: str
    shape: tuple[Extent, ...]
    dtype: str = "float32"
    compare: str = "values"
    tolerance: Tolerance = Tolerance()


@dataclass(frozen=True)
class ModelSpec:
    """Everything about the loaded model that outlives the checkpoint.

    ``dims`` are those of the request, narrowed where the model must. ``preprocess`` and ``decode``
    are JSON objects whose ``kind`` tells a plugin's ``convkit_preprocess`` or ``convkit_decode``
    hook that they are its own. ``facts`` are for people. ``expect`` overrides how often the patch
    or rewrite of that name must fire for this model.
    """

    variant: str
    dims: tuple[Dim, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Mapping[str, Any]
    decode: Mapping[str, Any]
    classes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    expect: Mapping[str, Expect] = field(default_factory=dict)
