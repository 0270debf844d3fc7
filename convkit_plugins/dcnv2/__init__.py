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
            "what engines get for DeformConv: standard operators (grid-sample, gather), a kernel of convkit (plugin in"
            " TensorRT, creator in TensorRT-RTX), TensorRT's own layer (native); auto takes standard operators",
            ("auto", "grid-sample", "gather", "plugin", "creator", "native"),
        )
    ]


_STANDARD = ("grid-sample", "gather")
_WAYS = {"tensorrt": (*_STANDARD, "plugin", "native"), "tensorrt-rtx": (*_STANDARD, "creator")}
"""The ways that an engine has; others than these have the node itself (native) and standard operators."""
_AUTO = {"tensorrt": "gather", "tensorrt-rtx": "grid-sample"}


@hookimpl
def convkit_graph_rewrites(target: Target) -> Iterable[Rewrite]:
    """Fold the BatchNormalization behind each ``DeformConv``, and fit that to the engine.

    Raises:
        SettingError: the engine lacks the way that was chosen.
    """
    from convkit.errors import SettingError
    from convkit_plugins.dcnv2 import export

    rewrites: list[Rewrite] = [export.FoldBatchNorm()]
    if target.format == "onnx":
        return rewrites
    way, ways = target.options.get("dcn", "auto"), _WAYS.get(target.format, (*_STANDARD, "native"))
    if way == "auto":
        way = _AUTO.get(target.format, "native")
    if way not in ways:
        raise SettingError(
            f"{target.format} has no way dcn={way} to run a deformable convolution"
            f"{''.join(f'; {name} has' for name, theirs in _WAYS.items() if way in theirs)}.",
            hint=f"Use --set {', '.join(f'dcn={each}' for each in ways[:-1])} or dcn={ways[-1]}.",
        )
    fitting: dict[str, Callable[[], Rewrite]] = {
        "grid-sample": export.DecomposeGridSample,
        "gather": export.DecomposeGather,
        "plugin": export.plugin_rewrite,
        "creator": export.CompleteInputs,
    }
    if way in fitting:
        rewrites.append(fitting[way]())
    elif target.format == "tensorrt":
        rewrites.append(export.TensorRTNative())
    return rewrites


@hookimpl
def convkit_tensorrt_plugins(target: Target) -> Iterable[TensorRTPlugin]:
    """Name the plugins that TensorRT makes of ``DeformConv``: its own and ours, which TensorRT-RTX needs to run it."""
    from convkit import TensorRTPlugin

    if target.format == "tensorrt-rtx":
        return [
            TensorRTPlugin(
                op_type="DeformConv",
                plugin="DeformConv",
                version="1",
                source="convkit",
                note="float32, float16 or bfloat16, ungrouped; coordinates and sums are float32.",
                register=f"{__name__}.tensorrt:register_creator",
                reference=f"{__name__}.tensorrt:deform_conv",
                to_run=True,
            )
        ]
    return [
        TensorRTPlugin(
            op_type="DeformConv",
            plugin="ModulatedDeformConv2d",
            version="2",
            note="float32 or float16; stride, padding and dilation equal in both directions. In float16 the"
            " sampling positions are rounded to half precision. Fix height and width: its workspace is sized"
            " without them when they are dynamic. Parsers before 10.15 take version 1, which is still shipped.",
        ),
        TensorRTPlugin(
            op_type="DCNv2",
            plugin="DCNv2",
            version="1",
            source="convkit",
            note="Made of DeformConv by --set dcn=plugin: float32, float16 or bfloat16, ungrouped; coordinates and sums"
            " are float32. The plan contains its kernel and runs without convkit.",
            register=f"{__name__}.tensorrt:register_aot",
            reference=f"{__name__}.tensorrt:replay_aot",
            domain="convkit",
        ),
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
