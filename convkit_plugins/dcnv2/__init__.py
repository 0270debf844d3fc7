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
    from convkit import KnownError, ModulePatch, Option, Rewrite, Target, TensorRTPlugin
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
            "what engines get for DeformConv: standard operators (grid-sample, gather), a kernel of convkit (plugin in"
            " TensorRT, creator in TensorRT-RTX), TensorRT's own layer (native); auto takes standard operators",
            ("auto", "grid-sample", "gather", "plugin", "creator", "native"),
        )
    ]


_LACKING = {
    ("plugin", "tensorrt-rtx"): ("TensorRT-RTX takes no plugins that lie in the plan", "grid-sample, or creator"),
    ("native", "tensorrt-rtx"): ("TensorRT-RTX has no layer for DeformConv", "grid-sample, or creator"),
    ("creator", "tensorrt"): ("TensorRT makes a plugin of its own of DeformConv", "plugin, or gather"),
}
"""Ways that a flavour lacks: why, and what it has."""


@hookimpl
def convkit_graph_rewrites(target: Target) -> Iterable[Rewrite]:
    """Fold the BatchNormalization behind each ``DeformConv``, and fit that to the engine.

    Raises:
        SettingError: the engine lacks the way that was chosen.
    """
    from convkit.errors import SettingError
    from convkit_plugins.dcnv2 import export

    form = target.options.get("dcn", "auto")
    rewrites: list[Rewrite] = [export.FoldBatchNorm()]
    if target.format == "onnx":
        return rewrites
    if (form, target.format) in _LACKING:
        reason, instead = _LACKING[form, target.format]
        raise SettingError(f"dcn={form} does not go with {target.format}: {reason}.", hint=f"Use --set dcn={instead}.")
    if form == "auto":
        form = {"tensorrt-rtx": "grid-sample", "tensorrt": "gather"}.get(target.format, "native")
    if form == "grid-sample":
        rewrites.append(export.DecomposeGridSample())
    elif form == "gather":
        rewrites.append(export.DecomposeGather())
    elif target.format == "tensorrt":
        rewrites.append(export.plugin_rewrite() if form == "plugin" else export.TensorRTNative())
    return rewrites


@hookimpl
def convkit_tensorrt_plugins(target: Target) -> Iterable[TensorRTPlugin]:
    """Name the plugin of TensorRT's own library that its parser makes of ``DeformConv``, and that of convkit."""
    from convkit import TensorRTPlugin

    shipped = TensorRTPlugin(
        op_type="DeformConv",
        plugin="ModulatedDeformConv2d",
        version="2",
        note="float32 or float16; stride, padding and dilation equal in both directions. In float16 the"
        " sampling positions are rounded to half precision. Fix height and width: its workspace is sized"
        " without them when they are dynamic. Parsers before 10.15 take version 1, which is still shipped.",
    )
    own = TensorRTPlugin(
        op_type="DCNv2",
        plugin="DCNv2",
        version="1",
        source="convkit",
        note="Made of DeformConv by --set dcn=plugin: float32, float16 or bfloat16; coordinates and sums are float32."
        " The plan contains its kernel and runs without convkit.",
        register=f"{__name__}.tensorrt:register_aot",
        reference=f"{__name__}.tensorrt:replay_aot",
    )
    return [shipped] if target.format == "tensorrt-rtx" else [shipped, own]


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
