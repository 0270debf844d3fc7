"""Which plugin preprocesses and decodes by a specification, and what of it runs on a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from convkit.errors import AdapterError, ConversionError, InputError, KernelArgumentError, PluginError, blamed_on, named
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
    _check_kind(spec, "preprocess")
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
    _check_kind(spec, "decode")
    found = manager().first("convkit_decode", spec=spec)
    if found is None:
        raise ConversionError(
            f"No plugin decodes outputs for {spec.get('kind')!r}.",
            hint="Install or enable the plugin of this adapter; a model without decode has an empty specification.",
        )
    result: Decode = _checked(found, Decode, "convkit_decode", spec)
    return result


def device_preprocess(preprocess: Preprocess) -> DevicePreprocess | None:
    """Return the preprocess on the GPU, or None where it has none, or none for its settings.

    Raises:
        AdapterError: its ``on_device`` failed, or returned something that is no `DevicePreprocess`.
    """
    side: DevicePreprocess | None = _device_side(preprocess, DevicePreprocess)
    return side


def device_decode(decode: Decode | None) -> DeviceDecode | None:
    """Return the decode on the GPU, or None where it has none, or none for its settings.

    Raises:
        AdapterError: its ``on_device`` failed, or returned something that is no `DeviceDecode`.
    """
    side: DeviceDecode | None = _device_side(decode, DeviceDecode) if decode else None
    return side


def _device_side(host: Preprocess | Decode, kind: Any) -> Any:
    what, plugin = f"on_device() of {type(host).__name__}", manager().origin(host)
    try:
        with blamed_on(what, plugin):
            side = host.on_device()
    except KernelArgumentError:
        return None
    if side is not None and not isinstance(side, kind):
        members = [name for name in dir(kind) if not name.startswith("_")]
        lacking = [name for name in members if not hasattr(side, name)]
        raise AdapterError(
            f"{named(what, plugin)} returned a {type(side).__name__}, which is no convkit.{kind.__name__}.",
            hint=f"It lacks {', '.join(lacking)}.",
        )
    return side


def _check_kind(spec: Any, what: str) -> None:
    if not isinstance(spec, Mapping) or not isinstance(spec.get("kind"), str):
        given = f"has no kind, but {', '.join(map(str, spec))}" if isinstance(spec, Mapping) else f"is {spec!r}"
        raise AdapterError(
            f"ModelSpec.{what} {given}.",
            hint=f'Give it a "kind" by which the hook convkit_{what} knows that it is its own; leave it empty for a'
            f" model without {what}.",
        )


def _checked(found: Any, kind: Any, hook: str, spec: Mapping[str, Any]) -> Any:
    if not isinstance(found, kind):
        raise PluginError(
            f"{hook} returned a {type(found).__name__} for {spec.get('kind')!r}, not a convkit.{kind.__name__}.",
            hint=f"Derive the class from convkit.{kind.__name__}.",
        )
    return found
