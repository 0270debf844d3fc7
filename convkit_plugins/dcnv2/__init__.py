"""DCNv2: deformable convolution for every adapter whose model holds such a layer.

`DCN` is the layer with the official parameter names, `deform_conv2d` the operator behind it. Both
train and run on any device without a compiled extension, and export to one ONNX ``DeformConv``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from convkit import hookimpl

if TYPE_CHECKING:
    from convkit import EngineProbe, KnownError, ModulePatch, Option, Rewrite, Target, TensorRTPlugin
    from convkit_plugins.dcnv2.op import DCN, deform_conv2d

__all__ = ["DCN", "deform_conv2d"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.op"), name)


@hookimpl
def convkit_export_patches() -> Iterable[ModulePatch]:
    """Replace the compiled deformable layers of other projects while the model is exported."""
    from convkit_plugins.dcnv2.export import patches

    return patches()


@hookimpl
def convkit_onnx_translations(target: Any) -> Mapping[Callable[..., Any], Callable[..., Any]]:
    """Emit ``DeformConv`` for the operator."""
    from convkit_plugins.dcnv2.export import translations

    return translations(target.opset)


@hookimpl
def convkit_options() -> Iterable[Option]:
    """Offer the choice of what an engine gets for each ``DeformConv``."""
    from convkit import Option

    return [
        Option(
            "dcn",
            "auto",
            "what engines get for DeformConv: grid-sample or gather (standard operators), native; auto takes the best",
            ("auto", "grid-sample", "gather", "native"),
        )
    ]


@hookimpl
def convkit_graph_rewrites(target: Target) -> Iterable[Rewrite]:
    """Fold the BatchNormalization behind each ``DeformConv``, and decompose that for engines without it."""
    from convkit_plugins.dcnv2.export import DecomposeGather, DecomposeGridSample, FoldBatchNorm

    form = target.options.get("dcn", "auto")
    if form == "auto":
        form = {"tensorrt-rtx": "grid-sample", "tensorrt": "gather"}.get(target.format, "native")
    rewrites: list[Rewrite] = [FoldBatchNorm()]
    if target.format != "onnx" and form != "native":
        rewrites.append(DecomposeGather() if form == "gather" else DecomposeGridSample())
    return rewrites


@hookimpl
def convkit_tensorrt_plugins() -> Iterable[TensorRTPlugin]:
    """Name the plugin of TensorRT's own library that its parser makes of ``DeformConv``."""
    from convkit import TensorRTPlugin

    return [
        TensorRTPlugin(
            op_type="DeformConv",
            plugin="ModulatedDeformConv2d",
            version="2",
            note="float32 or float16; stride, padding and dilation equal in both directions. In float16 the"
            " sampling positions are rounded to half precision. Fix height and width: its workspace is sized"
            " without them when they are dynamic. Parsers before 10.15 take version 1, which is still shipped.",
        )
    ]


@hookimpl
def convkit_engine_probes() -> Iterable[EngineProbe]:
    """Bring layers on which ``convkit doctor --tensorrt`` tries the choices of the option ``dcn``."""
    from convkit_plugins.dcnv2.export import probes

    return probes()


@hookimpl
def convkit_torch_operators() -> Mapping[tuple[str, str], Callable[..., Any]]:
    """Run ``DeformConv`` in the backend ``torch`` by the operator."""
    from convkit_plugins.dcnv2.export import OPERATORS

    return OPERATORS


@hookimpl
def convkit_known_errors() -> Iterable[KnownError]:
    """Return the errors that deformable layers are known for."""
    from pathlib import Path

    from convkit import KnownError

    return KnownError.read(Path(__file__).with_name("known_errors.toml"))
