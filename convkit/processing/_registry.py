"""Which plugin preprocesses and decodes by a specification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convkit.errors import ConversionError
from convkit.plugins import manager
from convkit.processing._protocols import Decode, Preprocess

__all__ = ["find_decode", "find_preprocess"]


def find_preprocess(adapter: str, spec: Mapping[str, Any], sizes: Mapping[str, int] | None = None) -> Preprocess:
    """Return the preprocess that a plugin offers for ``spec``; ``sizes`` replaces its height and width.

    Raises:
        ConversionError: no plugin knows this specification.
    """
    resized = {**spec, **{name: size for name, size in (sizes or {}).items() if name in spec}}
    found = manager().hook.convkit_preprocess(adapter=adapter, spec=resized)
    if found is None:
        raise ConversionError(
            f"No plugin preprocesses images for {spec.get('kind')!r}.",
            hint="Install or enable the plugin of this adapter; `convkit plugins` lists the loaded ones.",
        )
    result: Preprocess = found
    return result


def find_decode(adapter: str, spec: Mapping[str, Any]) -> Decode | None:
    """Return the decode that a plugin offers for ``spec``, or None."""
    found: Decode | None = manager().hook.convkit_decode(adapter=adapter, spec=spec)
    return found
