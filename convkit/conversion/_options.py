"""Options of adapters and plugins, as ``--set NAME=VALUE`` gives them: looked up, and in the types they declare."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from convkit.errors import SettingError, suggest
from convkit.model import Adapter, Option
from convkit.plugins import manager

__all__ = ["adapter_options", "option_pairs", "resolve_options"]


def adapter_options(adapter: Adapter, sources: Iterable[tuple[str, Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values of all options of an adapter and of plugins, and the origin of each as ``set.NAME``.

    ``sources`` are origins with ``NAME=VALUE`` texts or mappings, the first that has a name counts.

    Raises:
        SettingError: there is no option of a name, or it cannot have that value.
    """
    declared = {option.name: option for option in (*_plugin_options(), *adapter.options)}
    given: dict[str, tuple[str, Any]] = {}
    for label, source in sources:
        if isinstance(source, str):
            raise SettingError(f"set is {source!r}.", hint="Write a table [convert.set] with one line an option.")
        pairs = source if isinstance(source, Mapping) else option_pairs(source or ())
        for name, value in pairs.items():
            if name not in declared:
                raise SettingError(
                    f"Adapter {adapter.name!r} has no option {name!r}.",
                    hint=f"{suggest(name, declared)} It has {', '.join(declared) or 'none'}.",
                )
            given.setdefault(name, (label, _convert(declared[name], value)))
    found = {name: given.get(name, ("adapter", option.default)) for name, option in declared.items()}
    return (
        {name: value for name, (_, value) in found.items()},
        {f"set.{name}": label for name, (label, _) in found.items()},
    )


def resolve_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of plugins in the types that they declare.

    Raises:
        SettingError: no plugin has an option of that name, or it cannot have that value.
    """
    declared = {option.name: option for option in _plugin_options()}
    for name in given:
        if name not in declared:
            raise SettingError(
                f"No plugin has an option {name!r}.",
                hint=f"{suggest(name, declared)} There is {', '.join(declared) or 'none'}; options of the adapter are"
                " those of the conversion.",
            )
    return {name: _convert(declared[name], value) for name, value in given.items()}


def _plugin_options() -> list[Option]:
    return [option for found in manager().gather("convkit_options", of=Option).values() for option in found]


def option_pairs(texts: Iterable[str]) -> dict[str, str]:
    """Return ``NAME=VALUE`` texts as a mapping, the first of two with one name.

    Raises:
        SettingError: a text has no value.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        name, found, value = text.partition("=")
        if not found:
            raise SettingError(f"--set {text!r} has no value.", hint="Write --set NAME=VALUE.")
        pairs.setdefault(name.strip(), value.strip())
    return pairs


def _convert(option: Option, value: Any) -> Any:
    try:
        if isinstance(option.default, tuple):
            parts = value.split(",") if isinstance(value, str) else list(value)
            converted: Any = tuple(float(part) for part in parts)
            if len(converted) != len(option.default):
                raise ValueError(f"{len(option.default)} numbers are needed")
        else:
            converted = _boolean(value) if isinstance(option.default, bool) else type(option.default)(value)
            if isinstance(value, bool) or (not isinstance(value, str) and converted != value):
                raise ValueError(f"it is no {type(option.default).__name__}")
        numbers = converted if isinstance(converted, tuple) else (converted,)
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise ValueError("it is not finite")
    except (TypeError, ValueError, OverflowError) as error:
        raise SettingError(
            f"Option {option.name!r} cannot be {value!r}: {error}.", hint=f"{option.help} Default: {option.default}."
        ) from error
    if option.choices and converted not in option.choices:
        raise SettingError(
            f"Option {option.name!r} cannot be {converted!r}.",
            hint=f"{suggest(str(converted), option.choices)} Choices: {', '.join(option.choices)}.",
        )
    return converted


def _boolean(value: Any) -> bool:
    words = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}
    if isinstance(value, bool):
        return value
    if str(value).lower() not in words:
        raise ValueError("true or false is needed")
    return words[str(value).lower()]
