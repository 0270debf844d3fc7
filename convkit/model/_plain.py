"""Whether a value is plain JSON, and which part of it is not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["json_fault"]

_REMEDIES = {
    "ndarray": "Write it as a list: .tolist().",
    "Tensor": "Write it as a list: .tolist().",
    "set": "Write it as a list: sorted(...).",
    "PosixPath": "Write it as text: str(...).",
    "WindowsPath": "Write it as text: str(...).",
}


def json_fault(value: Any, where: str) -> tuple[str, str] | None:
    """Return what keeps ``value`` from being plain JSON as (fact, remedy), or None if nothing does.

    ``where`` is what the value is called, such as ``ModelSpec.decode``. Tuples count as lists; numbers have to be
    finite, keys texts.
    """
    if value is None or isinstance(value, str | bool | int):
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else (f"{where} is {value}", "JSON knows finite numbers only.")
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                return f"{where} has the key {key!r}, a {type(key).__name__}", "JSON has texts as keys: str(...)."
            if fault := json_fault(item, f"{where}[{key!r}]"):
                return fault
        return None
    if isinstance(value, list | tuple):
        return next(filter(None, (json_fault(item, f"{where}[{index}]") for index, item in enumerate(value))), None)
    kind = type(value)
    if kind.__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        remedy = "Write it as a number of Python: .item()."
    else:
        remedy = _REMEDIES.get(kind.__name__, "Write it with numbers, texts, lists and dicts.")
    name = f"{kind.__module__}.{kind.__name__}" if kind.__module__ != "builtins" else kind.__name__
    return f"{where} is a {name}, which is no JSON", remedy
