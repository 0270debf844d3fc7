"""A stand-in of NVIDIA's bindings, as far as a plugin is made of them: base classes, enumerations, fields, shapes.

It computes nothing. With it a plugin's object exists, and can be called, where TensorRT is not installed.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT32 = 3
    BF16 = 7


class TensorFormat(enum.Enum):
    LINEAR = 0
    CHW2 = 1
    HWC8 = 2
    HWC = 8


KINDS = {"float32": DataType.FLOAT, "float16": DataType.HALF, "bfloat16": DataType.BF16}


class Registry:
    """Takes each name once."""

    def __init__(self) -> None:
        self.creators: dict[tuple[str, str, str], Any] = {}

    def register_creator(self, creator: Any, namespace: str) -> bool:
        key = creator.name, creator.plugin_version, namespace
        return self.creators.setdefault(key, creator) is creator


class Size:
    """A dimension in ``get_output_shapes``: fixed, or None for one that varies."""

    def __init__(self, value: int | None) -> None:
        self.value = value

    def is_constant(self) -> bool:
        return self.value is not None

    def get_constant_value(self) -> int:
        assert self.value is not None, "a size that varies has no value"
        return self.value


class DimsExprs(list[Any]):
    def __init__(self, count: int) -> None:
        super().__init__([None] * count)


def standin_api(name: str = "standin_bindings") -> Any:
    """Return a module of bindings with a registry of its own."""
    registry = Registry()
    bases = ("IPluginV3", "IPluginV3OneCore", "IPluginV3OneBuild", "IPluginV3OneRuntime", "IPluginCreatorV3One")

    def field(name: str, data: np.ndarray, kind: Any) -> Any:
        assert data.dtype == np.int32, "numbers of another type become something else in TensorRT"
        return SimpleNamespace(name=name, data=data, type=kind)

    return SimpleNamespace(
        __name__=name,
        **{base: type(base, (), {}) for base in bases},
        DataType=DataType,
        TensorFormat=TensorFormat,
        PluginFieldType=SimpleNamespace(INT32="int32"),
        PluginField=field,
        PluginFieldCollection=list,
        DimsExprs=DimsExprs,
        get_plugin_registry=lambda: registry,
    )


def described(shape: Sequence[int], dtype: str = "float32", layout: str = "LINEAR") -> Any:
    """Return what a plugin is told of a tensor at run time."""
    return SimpleNamespace(dims=tuple(shape), type=KINDS[dtype], format=TensorFormat[layout])


def ranged(shape: Sequence[int], dtype: str = "float32", layout: str = "LINEAR") -> Any:
    """Return what a plugin is told of a tensor while an engine is built; -1 is a size that varies."""
    return SimpleNamespace(desc=described(shape, dtype, layout), min=shape, opt=shape, max=shape)


def sizes(shape: Sequence[int | None]) -> list[Size]:
    """Return a shape as ``get_output_shapes`` gets it."""
    return [Size(value) for value in shape]
