"""CenterNet for convkit: object detectors with all networks of the original, from its checkpoints.

This module is the entry point: it is light, and each hook imports what it needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from convkit import hookimpl

if TYPE_CHECKING:
    from convkit import Adapter, Decode, KnownError, ModulePatch, Preprocess, SourceModel

_ADAPTER = "centernet"


@hookimpl
def convkit_adapters() -> Iterable[Adapter]:
    """Offer the adapter ``centernet``."""
    from convkit_models.centernet._adapter import CenterNet

    return [CenterNet()]


@hookimpl
def convkit_export_patches(adapter: str, model: SourceModel) -> Iterable[ModulePatch]:
    """Make the network return the output form that was asked for."""
    if adapter != _ADAPTER:
        return []
    from convkit_models.centernet.tasks import graph_spec, room_of

    spec = graph_spec(model.spec)
    room = room_of(spec)
    return [] if room is None else [room.output_patch(spec)]


@hookimpl
def convkit_preprocess(spec: Mapping[str, Any]) -> Preprocess | None:
    """Serve the official affine warp and normalisation."""
    from convkit_models.centernet.tasks import PREPROCESS

    if spec.get("kind") != PREPROCESS:
        return None
    from convkit_models.centernet._preprocess import Affine, CalibratedAffine

    return CalibratedAffine(spec) if spec.get("side") == "width" else Affine(spec)


@hookimpl
def convkit_decode(spec: Mapping[str, Any]) -> Decode | None:
    """Serve the decoding of every task and output form."""
    from convkit_models.centernet.tasks import room_of

    room = room_of(spec)
    return None if room is None else room.make_decode(spec)


@hookimpl
def convkit_known_errors() -> Iterable[KnownError]:
    """Return the errors of exporting CenterNet by hand."""
    from pathlib import Path

    from convkit import KnownError

    return KnownError.read(Path(__file__).with_name("known_errors.toml"))
