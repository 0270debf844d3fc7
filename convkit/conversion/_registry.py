"""The exporter's table of translations from PyTorch to ONNX, made once a process."""

from __future__ import annotations

import contextlib
import copy
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

__all__ = ["forget", "one_registry"]

_LOCK = threading.RLock()
_known: dict[tuple[Any, ...], Any] = {}
"""The tables by opset and by whether there are operators of torchvision, which enter it once that is imported."""


@contextlib.contextmanager
def one_registry() -> Iterator[None]:
    """Let ``torch.onnx.export`` use the table again that it made before in this process, while the context is open.

    By itself it makes one for each export, and parses the source of 500 functions for the name of their domain: a
    second. A table that an export adds its own translations to is a copy.
    """
    try:
        from torch.onnx._internal.exporter import _registration

        kind: Any = _registration.ONNXRegistry
        own = kind.__dict__["from_torchlib"]
        quick = classmethod(_made_once(own.__func__))
    except (ImportError, AttributeError, KeyError):  # another version of PyTorch or onnxscript: it does as it does
        yield
        return
    with _LOCK:
        kind.from_torchlib = quick
        try:
            yield
        finally:
            kind.from_torchlib = own


def _made_once(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return what copies the table that ``make``, PyTorch's ``ONNXRegistry.from_torchlib``, gave for the arguments."""
    from onnxscript._internal.values import TracedOnnxFunction

    traced: Any = TracedOnnxFunction
    parsed = traced.__dict__["function_ir"]

    def domain_only(function: Any) -> Any:
        opset = getattr(function, "_opset", None)
        return parsed.__get__(function) if opset is None else SimpleNamespace(domain=opset.domain)

    @functools.wraps(make)
    def from_torchlib(cls: Any, *args: Any, **options: Any) -> Any:
        key = (args, tuple(options.items()), "torchvision" in sys.modules)
        with _LOCK:
            if key not in _known:
                traced.function_ir = property(domain_only)
                try:
                    _known[key] = make(cls, *args, **options)
                finally:
                    traced.function_ir = parsed
        own = copy.copy(_known[key])
        own.functions = {target: list(group) for target, group in own.functions.items()}
        return own

    return from_torchlib


def forget() -> None:
    """Let the next export make its table anew."""
    _known.clear()
