"""The contract with plugins: every hook of convkit, one function each.

A plugin is a module named by an entry point in the group ``convkit``. It marks its functions with
``@convkit.hookimpl`` and may accept any subset of a hook's arguments. The module itself must be
light: heavy imports (torch, onnx, cupy …) belong inside the functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import typer

    from convkit.backends import Backend, EngineProbe, TensorRTPlugin
    from convkit.doctor import KnownError
    from convkit.graph import Rewrite
    from convkit.model import Adapter, Option, Patch, SourceModel, Target
    from convkit.processing import Decode, Preprocess

hookspec = pluggy.HookspecMarker("convkit")
hookimpl = pluggy.HookimplMarker("convkit")


@hookspec
def convkit_adapters() -> Iterable[Adapter]:
    """Return the adapters of this distribution."""


@hookspec
def convkit_options() -> Iterable[Option]:
    """Return settings of the plugin itself, given as ``--set NAME=VALUE``; hooks find them in ``target.options``."""


@hookspec
def convkit_export_patches(adapter: str, model: SourceModel, target: Target) -> Iterable[Patch]:
    """Return reversible patches that make modules of the model exportable."""


@hookspec
def convkit_onnx_translations(target: Target) -> Mapping[Callable[..., Any], Callable[..., Any]]:
    """Return torch operators mapped to the onnxscript functions that the exporter emits for them."""


@hookspec
def convkit_graph_rewrites(adapter: str, target: Target) -> Iterable[Rewrite]:
    """Return rewrites of the exported ONNX graph; each runs in its phase, within it in the order given here."""


@hookspec(firstresult=True)
def convkit_preprocess(spec: Mapping[str, Any]) -> Preprocess | None:
    """Return what turns raw inputs into input tensors by this specification, or None if it is not yours."""


@hookspec(firstresult=True)
def convkit_decode(spec: Mapping[str, Any]) -> Decode | None:
    """Return what turns output tensors into results by this specification, or None if it is not yours."""


@hookspec
def convkit_tensorrt_plugins(target: Target) -> Iterable[TensorRTPlugin]:
    """Return the TensorRT plugins that serve ONNX nodes which TensorRT has no layer for."""


@hookspec
def convkit_engine_probes() -> Iterable[EngineProbe]:
    """Return small models on which ``convkit doctor --tensorrt`` tries the choices of an option."""


@hookspec
def convkit_backends() -> Iterable[Backend]:
    """Return inference engines that can run an artifact."""


@hookspec
def convkit_torch_operators() -> Mapping[tuple[str, str], Callable[..., Any]]:
    """Return builders of torch calls by domain and ONNX operator, for the backend ``torch``."""


@hookspec
def convkit_commands(app: typer.Typer) -> None:
    """Add commands to the ``convkit`` command line."""


@hookspec
def convkit_known_errors() -> Iterable[KnownError]:
    """Return error texts of other tools with their causes and cures, for ``convkit doctor``."""
