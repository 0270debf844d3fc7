"""A convkit adapter for a small classifier of handwritten digits.

This is the module that the entry point names. It stays light: torch, NumPy and OpenCV are imported
inside functions only, so that ``convkit --help`` and ``convkit adapters`` stay fast.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from convkit import Adapter, Dim, Option, hookimpl

if TYPE_CHECKING:
    import numpy as np

    from convkit import Decode, ModelSpec, ModulePatch, Preprocess, Request, Rewrite, SourceModel, Target

__all__ = ["MinimalDigits"]


class MinimalDigits(Adapter):
    """Reads the checkpoints that ``train.py`` writes."""

    name = "minimal-digits"
    summary = "one handwritten digit an image, 0 to 9"
    forms = ("logits", "probabilities")
    dims = (Dim("batch", 1, 1, 8),)
    options = (Option("ink", "light", "whether the strokes are lighter or darker than the ground", ("light", "dark")),)

    def load(self, request: Request) -> SourceModel:
        """Read the checkpoint; everything about the network follows from it."""
        from convkit_adapter_minimal.checkpoint import load

        return load(request)

    def samples(self, spec: ModelSpec, count: int, seed: int) -> Sequence[np.ndarray]:
        """Return scanned digits that training never saw."""
        from convkit_adapter_minimal.processing import sample_digits

        return sample_digits(count, seed, ink=spec.preprocess["ink"])


@hookimpl
def convkit_adapters() -> Iterable[Adapter]:
    """Offer the adapter."""
    return [MinimalDigits()]


@hookimpl
def convkit_export_patches(adapter: str, target: Target) -> Iterable[ModulePatch]:
    """Make the network return one tensor: ONNX has no dicts."""
    if adapter != MinimalDigits.name:
        return []
    from convkit_adapter_minimal.patch import single_output

    return [single_output(target.form)]


@hookimpl
def convkit_graph_rewrites(adapter: str) -> Iterable[Rewrite]:
    """Put one HardSwish in place of the activation that the network spells out."""
    if adapter != MinimalDigits.name:
        return []
    from convkit_adapter_minimal.rewrite import FuseHardSwish

    return [FuseHardSwish()]


@hookimpl
def convkit_preprocess(spec: Mapping[str, Any]) -> Preprocess | None:
    """Serve the specifications that `MinimalDigits.load` writes."""
    if spec.get("kind") != "minimal.grey":
        return None
    from convkit_adapter_minimal.processing import GreyResize

    return GreyResize(spec)


@hookimpl
def convkit_decode(spec: Mapping[str, Any]) -> Decode | None:
    """Serve the specifications that `MinimalDigits.load` writes."""
    if spec.get("kind") != "minimal.classify":
        return None
    from convkit_adapter_minimal.processing import Classify

    return Classify(spec)
