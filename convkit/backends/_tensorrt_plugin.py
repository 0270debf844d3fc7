"""What convkit knows of TensorRT's plugins without TensorRT: which ONNX nodes they serve, and who registers them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from convkit.errors import PluginError
from convkit.model import Target
from convkit.plugins import manager

__all__ = ["TensorRTPlugin", "load_function", "own_plugins"]


@dataclass(frozen=True)
class TensorRTPlugin:
    """A TensorRT plugin that runs ONNX nodes of type ``op_type``, of one ``domain`` or (empty) of any.

    ``source`` says where it comes from: ``"shipped"`` for NVIDIA's own plugin library, else the distribution that
    brings it. ``note`` tells what a user has to know, for example dtypes.

    ``register`` and ``reference`` are functions as ``package.module:function``, for plugins that are not shipped:

    ``register(api, failures)`` gets the module of NVIDIA's Python bindings, registers the plugin in TensorRT's
    registry, and returns the objects that have to live on. It is called once in each process that parses a model with
    such a node. The library swallows some exceptions of a plugin: the plugin appends the text of each to the list
    ``failures``, and convkit makes an error of it.

    ``reference(inputs, fields)`` returns the outputs of the layer as PyTorch tensors; it computes in the dtype of the
    inputs (float32 or float64). ``fields`` are what the plugin serialises, by name.

    ``to_run`` says that the plan does not contain the code of the plugin: the process that runs it registers it too.
    """

    op_type: str
    plugin: str
    version: str
    source: str = "shipped"
    note: str = ""
    register: str = ""
    reference: str = ""
    to_run: bool = False
    domain: str = ""


def own_plugins(backend: str, op_types: Iterable[str] | None = None) -> list[TensorRTPlugin]:
    """Return the plugins that convkit's plugins bring for a backend, of all or of those that serve these node types."""
    found = manager().gather("convkit_tensorrt_plugins", of=TensorRTPlugin, target=Target(backend)).values()
    wanted = None if op_types is None else set(op_types)
    return [
        plugin
        for group in found
        for plugin in group
        if plugin.register and (wanted is None or plugin.op_type in wanted)
    ]


def load_function(place: str) -> Callable[..., Any]:
    """Return the function that ``package.module:function`` names.

    Raises:
        PluginError: there is none.
    """
    module, _, name = place.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise PluginError(f"{place!r} names no function: {error}.", hint="Write package.module:function.") from error
    if not callable(function):
        raise PluginError(f"{place!r} is a {type(function).__name__}, not a function.", hint="Name a function.")
    return function  # type: ignore[no-any-return]
