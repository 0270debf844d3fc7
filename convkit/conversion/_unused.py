"""Options of an adapter that change nothing for the model which it loaded, and that somebody set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convkit.conversion._settings import ConvertSettings
from convkit.errors import AdapterError, SettingError, named, suggest
from convkit.model import SourceModel

__all__ = ["refuse_unused"]


def refuse_unused(source: SourceModel, settings: ConvertSettings, own: Mapping[str, Any], plugin: str) -> None:
    """Refuse those of the adapter's options, ``own``, that somebody set and that change nothing for this model.

    Raises:
        SettingError: there is one.
        AdapterError: the adapter speaks of an option that it has not.
    """
    what = named("SourceModel.unused", plugin)
    if not isinstance(source.unused, Mapping):
        raise AdapterError(f"{what} is {source.unused!r}.", hint="Give the reason of each option: {'nms': '...'}.")
    for name, reason in source.unused.items():
        if name not in own:
            raise AdapterError(
                f"{what} has {name!r}, which is no option of the adapter.",
                hint=f"{suggest(str(name), own)} It has {', '.join(own) or 'none'}.",
            )
        origin = settings.origins[f"set.{name}"]
        if origin not in ("adapter", "checkpoint"):
            where = f"--set {name}" if origin == "flag" else f"{name} of set in {origin}"
            raise SettingError(f"Option {name!r} changes nothing for this model: {reason}.", hint=f"Leave {where} out.")
