"""What the libraries of a flavour say once they are loaded: builder, runtime, registry, plugins of convkit."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from convkit.backends.tensorrt._bindings import load_bindings
from convkit.backends.tensorrt._flavour import find_flavour
from convkit.backends.tensorrt._registrations import Registrations
from convkit.errors import ConvkitError

__all__ = ["describe_library"]


def describe_library(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the libraries of ``job["flavour"]`` do here; call it in a process of its own.

    ``job["plugins"]`` are functions that register plugins (see `TensorRTPlugin.register`); ``job["runtime"]`` says
    whether to make a runtime, which without a driver some libraries do not survive.

    The result has ``version`` (of the bindings), ``parser`` (the number of its version), ``creators`` (name, version
    and namespace of each plugin that is registered), and the entries ``builder``, ``runtime`` (if asked for) and
    ``plugins`` (by function) with what went wrong, or an empty text.

    Raises:
        EnvironmentProblem: the libraries do not load.
    """
    folder = Path(tempfile.mkdtemp(prefix="convkit-tensorrt-"))
    try:
        bindings = load_bindings(find_flavour(job["flavour"]), folder)
        api, lines = bindings.api, []
        bindings.sinks.append(lambda severity, text: lines.append(text) if "ERROR" in severity else None)
        registrations = Registrations(bindings)
        result: dict[str, Any] = {"version": bindings.version, "parser": int(api.get_nv_onnx_parser_version())}
        result["builder"] = _trouble(lambda: api.Builder(bindings.logger), lines)
        if job["runtime"]:
            result["runtime"] = _trouble(lambda: api.Runtime(bindings.logger), lines)
        api.init_libnvinfer_plugins(bindings.logger, "")
        result["plugins"] = {
            place: _trouble(partial(_register, registrations, place), lines) for place in job["plugins"]
        }
        registry = api.get_plugin_registry()
        result["creators"] = sorted(
            [creator.name, creator.plugin_version, creator.plugin_namespace]
            for creator in (registry.all_creators if registry is not None else ())
        )
        return result
    finally:
        for link in folder.iterdir():
            link.unlink()
        folder.rmdir()


def _register(registrations: Registrations, place: str) -> bool:
    registrations.add([place])
    return True


def _trouble(action: Callable[[], Any], lines: list[str]) -> str:
    """Return why an action did not succeed, with what the library logged meanwhile; an empty text if it did."""
    del lines[:]
    try:
        made = action()
    except ConvkitError as error:
        return f"{error.message} {error.hint}".strip()
    except Exception as error:
        return "; ".join([*(str(error).splitlines()[:1] or [type(error).__name__]), *lines[-2:]])
    return "" if made is not None else "; ".join(lines[-2:]) or "the library gave no reason"
