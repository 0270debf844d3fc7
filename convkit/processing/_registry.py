"""Which plugin preprocesses and decodes by a specification, and what of it runs on a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from convkit.errors import ConversionError, InputError, KernelArgumentError, PluginError
from convkit.plugins import manager
from convkit.processing._protocols import Decode, DeviceDecode, DevicePreprocess, Prepared, Preprocess
from convkit.processing._readers import ArrayReader, Reader

__all__ = ["NamedArrays", "device_decode", "device_preprocess", "find_decode", "find_preprocess"]


class NamedArrays(Preprocess):
    """The preprocess of a model without one: a raw input is a dict of its input arrays by name."""

    reader: Reader = ArrayReader()  # type: ignore[misc]

    def __call__(self, raw: Any) -> Prepared:
        """Return the arrays as they are.

        Raises:
            InputError: it is no mapping of arrays.
        """
        if not isinstance(raw, Mapping):
            raise InputError(
                f"This model takes a dict of arrays by input name, not {type(raw).__name__}.",
                hint="Give {name: array, ...}, or a path of an .npz file.",
            )
        return Prepared({name: np.asarray(value) for name, value in raw.items()})


def find_preprocess(spec: Mapping[str, Any], sizes: Mapping[str, int] | None = None) -> Preprocess:
    """Return the preprocess that a plugin offers for ``spec``; ``sizes`` replaces the sizes that it names.

    An empty specification means that raw inputs are the input arrays themselves.

    Raises:
        ConversionError: no plugin knows this specification.
        PluginError: a plugin offers something that is no `Preprocess`.
    """
    if not spec:
        return NamedArrays()
    resized = {**spec, **{name: size for name, size in (sizes or {}).items() if name in spec}}
    found = manager().first("convkit_preprocess", spec=resized)
    if found is None:
        raise ConversionError(
            f"No plugin preprocesses inputs for {spec.get('kind')!r}.",
            hint="Install or enable the plugin of this adapter; `convkit plugins` lists the loaded ones.",
        )
    result: Preprocess = _checked(found, Preprocess, "convkit_preprocess", spec)
    return result


def find_decode(spec: Mapping[str, Any]) -> Decode | None:
    """Return the decode that a plugin offers for ``spec``; None where the specification is empty.

    Raises:
        ConversionError: no plugin knows this specification.
        PluginError: a plugin offers something that is no `Decode`.
    """
    if not spec:
        return None
    found = manager().first("convkit_decode", spec=spec)
    if found is None:
        raise ConversionError(
            f"No plugin decodes outputs for {spec.get('kind')!r}.",
            hint="Install or enable the plugin of this adapter; a model without decode has an empty specification.",
        )
    result: Decode = _checked(found, Decode, "convkit_decode", spec)
    return result


def device_preprocess(preprocess: Preprocess) -> DevicePreprocess | None:
    """Return the preprocess on the GPU, or None where it has none, or none for its settings."""
    try:
        return preprocess.on_device()
    except KernelArgumentError:
        return None


def device_decode(decode: Decode | None) -> DeviceDecode | None:
    """Return the decode on the GPU, or None where it has none, or none for its settings."""
    try:
        return decode.on_device() if decode else None
    except KernelArgumentError:
        return None


def _checked(found: Any, kind: Any, hook: str, spec: Mapping[str, Any]) -> Any:
    if not isinstance(found, kind):
        raise PluginError(
            f"{hook} returned a {type(found).__name__} for {spec.get('kind')!r}, not a convkit.{kind.__name__}.",
            hint=f"Derive the class from convkit.{kind.__name__}.",
        )
    return found
