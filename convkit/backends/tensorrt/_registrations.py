"""Plugins that a process registers in TensorRT's registry, and what goes wrong in them where nobody else sees it."""

from __future__ import annotations

from collections.abc import Iterable

from convkit.backends._tensorrt_plugin import load_function
from convkit.backends.tensorrt._bindings import Bindings
from convkit.errors import ConvkitError, PluginError

__all__ = ["Registrations"]


class Registrations:
    """The plugins of one process; they live as long as it does, for TensorRT keeps no hold of them."""

    def __init__(self, bindings: Bindings) -> None:
        self.bindings = bindings
        self._alive: dict[str, object] = {}
        self._failures: list[str] = []

    def add(self, functions: Iterable[str]) -> None:
        """Call functions that register plugins, each once (see `TensorRTPlugin.register`).

        Raises:
            PluginError: there is no such function, or it fails.
        """
        for place in functions:
            if place in self._alive:
                continue
            function = load_function(place)
            try:
                self._alive[place] = function(self.bindings.api, self._failures)
            except ConvkitError:
                raise
            except Exception as error:
                raise PluginError(
                    f"{place} registers no plugin: {type(error).__name__}: {error}",
                    hint="Its message says why; a plugin of that name may be registered already.",
                ) from error

    def check(self) -> None:
        """Raise `PluginError` where a plugin failed since the last call: the library swallows some exceptions."""
        failures, self._failures[:] = list(dict.fromkeys(self._failures)), []
        if failures:
            raise PluginError(
                f"A TensorRT plugin failed: {'; '.join(failures)}",
                hint="Where that is no limit of the plugin that it states, report it to its author.",
            )
