"""What PyTorch's exporter makes anew for each export although it is always the same, made once a process.

Half of the time of exporting a small network goes into a table of translations to ONNX, which convkit keeps, too, into
a list of operators, and into type hints. A user exports once; tests export a thousand times.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from copy import copy
from functools import lru_cache, wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["forget", "quick_exports"]

_MODULE = "torch.onnx._internal.exporter._registration"
_TABLES: dict[tuple[Any, ...], Any] = {}


def quick_exports() -> None:
    """Let exports after the first be quick, which are else the same. Nothing is imported before an export imports it.

    What a version of PyTorch does not have is left alone.
    """
    if _MODULE not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def forget() -> None:
    """Let the next export make its table of translations itself, with all that PyTorch says about it."""
    from convkit.conversion import _registry

    _TABLES.clear()
    _registry.forget()


class _Finder(MetaPathFinder):
    """Changes the exporter as soon as it is loaded."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        loader: Any = spec.loader if spec else None
        if loader is not None:
            load = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                _keep_translations(module)
                _keep_operators()
                _keep_hints()

            loader.exec_module = exec_module
        return spec


def _keep_translations(module: ModuleType) -> None:
    """Copy the table of translations instead of making it, without convkit, which does it in its own exports."""
    kind = getattr(module, "ONNXRegistry", None)
    make = getattr(getattr(kind, "from_torchlib", None), "__func__", None)
    if kind is None or make is None:
        return

    @wraps(make)
    def from_torchlib(cls: Any, *args: Any, **kwargs: Any) -> Any:
        key = (*args, *sorted(kwargs.items()))
        if key not in _TABLES:
            _TABLES[key] = make(cls, *args, **kwargs)
        own = copy(_TABLES[key])
        own.functions = {target: list(functions) for target, functions in own.functions.items()}
        return own

    kind.from_torchlib = classmethod(from_torchlib)


def _keep_operators() -> None:
    """Look each operator of C++ up once; the exporter asks for all of them 28 times, twice an export."""
    import torch
    from torch._export import utils
    from torch.export import decomp_utils, exported_program

    look_up = getattr(utils, "_materialize_cpp_cia_ops", None)
    collect = getattr(utils, "_collect_all_valid_cia_ops", None)
    names = getattr(torch._C, "_dispatch_get_registrations_for_dispatch_key", None)
    if look_up is None or collect is None or names is None:
        return
    known: list[str] = []
    collecting = False

    def once() -> None:
        if not collecting:
            found = names("CompositeImplicitAutograd")
            if found != known:
                look_up()
                known[:] = found

    def collect_once() -> Any:
        nonlocal collecting
        once()
        collecting = True
        try:
            return collect()
        finally:
            collecting = False

    utils._materialize_cpp_cia_ops = once
    for module in (utils, decomp_utils, exported_program):
        if getattr(module, "_collect_all_valid_cia_ops", None) is collect:
            module._collect_all_valid_cia_ops = collect_once


def _keep_hints() -> None:
    """Make the type hint of a function once, of which the exporter defines ten thousand an export."""
    import torch._ops

    if getattr(torch._ops, "Callable", None) is Callable:
        torch._ops.Callable = _Hint  # type: ignore[misc, assignment]


class _Hints(type):
    """``Callable``, for hints and ``isinstance``."""

    def __instancecheck__(cls, value: object) -> bool:
        return callable(value)

    @lru_cache  # noqa: B019 - one class
    def __getitem__(cls, item: Any) -> Any:
        return Callable[item]


class _Hint(metaclass=_Hints):
    """Stands for ``Callable`` in PyTorch."""
