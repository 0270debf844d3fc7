"""Objects that training scripts save beside the weights, read as data: nothing of the programs they come from runs."""

from __future__ import annotations

import argparse
import re
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["is_inert", "plain_objects", "stand_ins"]

_MAPPINGS = re.compile(
    r"collections\.defaultdict|easydict\.EasyDict|addict\.addict\.Dict|(yacs|fvcore\.common|detectron2\.config)\."
    r"config\.CfgNode|mmcv\.utils\.config\.ConfigDict|mmengine\.config\.config\.ConfigDict|"
    r"(lightning_fabric\.utilities\.data|lightning\.fabric\.utilities\.data|pytorch_lightning\.utilities\.parsing|"
    r"lightning\.pytorch\.utilities\.parsing)\.AttributeDict|box\.box\.Box"
)
"""Dictionaries of other packages, such as the settings of a training script."""

_VALUES = re.compile(
    r"pathlib(\._local)?\.(Pure)?(Posix|Windows)?Path|datetime\.(datetime|date|time|timedelta|timezone)|"
    r"types\.SimpleNamespace|uuid\.UUID|decimal\.Decimal|fractions\.Fraction|torch\.torch_version\.TorchVersion|"
    r"builtins\.(int|float|str|bool|dict|list|tuple|frozenset|slice|range|object)|typing\.Any|"
    r"omegaconf(\.\w+)+|mmengine\.logging\.history_buffer\.HistoryBuffer"
)
"""Values and objects that contain nothing but data."""


class _Namespace(argparse.Namespace):
    """The options of a training script; what a file says of it can only become attributes."""

    def __new__(cls) -> _Namespace:
        return super().__new__(cls)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class _Array(np.ndarray):
    """An array of numbers or texts, and of nothing else."""

    def __new__(cls, *arguments: Any) -> _Array:
        raise TypeError("an array is made by _reconstruct alone")

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, _, data = state[-5:]
        if not isinstance(dtype, np.dtype) or dtype.kind not in "?biufcSU" or dtype.fields or dtype.subdtype:
            raise TypeError("not an array of numbers or texts")
        if not isinstance(data, bytes) or len(data) != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
            raise ValueError("an array whose bytes are not all there")
        super().__setstate__(state)


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    """Return the empty array that the state which follows fills, whatever the file asks for."""
    del kind, shape, code
    made: _Array = np.ndarray.__new__(_Array, (0,), np.int8)
    return made


def _no_bytes() -> bytes:
    """Return what pickles of protocol 2 call `bytes` for."""
    return b""


class _Value:
    """What a file says of an object of another program: its arguments, and its state as attributes."""

    def __new__(cls, *arguments: Any) -> _Value:
        made = super().__new__(cls)
        made.__dict__["arguments"] = arguments
        return made

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})


class _Mapping:
    """A dictionary of another program becomes one of Python."""

    def __new__(cls, *arguments: Any) -> Any:
        del arguments
        return OrderedDict()


def plain_objects() -> list[Any]:
    """Return what unpickles NumPy scalars and arrays, under their old and new names, and options, as data."""
    scalar = np.float64(0).__reduce__()[0]
    dtypes = [np.dtype, *(type(np.dtype(code)) for code in "?bhilqBHILQefdgFDSU")]
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    return [
        *((scalar, f"{module}.scalar") for module in modules),
        *((_reconstruct, f"{module}._reconstruct") for module in modules),
        *dtypes,
        (_no_bytes, "builtins.bytes"),
        (_Array, "numpy.ndarray"),
        (_Namespace, "argparse.Namespace"),
    ]


def is_inert(name: str) -> bool:
    """Return whether objects of a class, by its full name, are read as data by a stand-in."""
    return bool(_MAPPINGS.fullmatch(name) or _VALUES.fullmatch(name))


def stand_ins(names: Iterable[str]) -> list[Any]:
    """Return stand-ins for those of the names that `is_inert`."""
    return [(_Mapping if _MAPPINGS.fullmatch(name) else _Value, name) for name in names if is_inert(name)]
