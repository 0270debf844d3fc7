"""Settings of a conversion with their origin: flag over convkit.toml over adapter over built-in."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convkit._text import printable, read_text
from convkit.errors import SettingError, suggest
from convkit.model import Adapter, Dim, Option, apply_overrides

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["CONFIG_FILE", "Setting", "Settings", "read_config", "resolve_settings"]

CONFIG_FILE = "convkit.toml"
OPSETS = range(19, 24)
"""DeformConv enters ONNX at 19; 23 is the newest that PyTorch 2.9 to 2.13 writes."""
MAX_SAMPLES = 64

_BUILT_IN: dict[str, Any] = {
    "to": "onnx",
    "precision": "fp32",
    "inputs": None,
    "names": None,
    "samples": 8,
    "seed": 0,
    "backend": "onnxruntime",
    "device": "cpu",
    "keep_exported": False,
}


@dataclass(frozen=True)
class Setting:
    """One value and who said so: ``flag``, the configuration file, ``adapter`` or ``built-in``."""

    name: str
    value: Any
    origin: str


@dataclass(frozen=True)
class Settings:
    """All settings of one conversion."""

    items: tuple[Setting, ...]
    dims: tuple[Dim, ...]
    options: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return next(item.value for item in self.items if item.name == name)

    def to_json(self) -> list[dict[str, Any]]:
        """Return every setting with its origin, paths reduced to their names."""
        plain = [
            (item, printable(item.value.name) if isinstance(item.value, Path) else item.value) for item in self.items
        ]
        return [{"name": item.name, "value": value, "origin": item.origin} for item, value in plain]


def read_config(path: Path | None = None) -> tuple[dict[str, Any], str]:
    """Return the ``[convert]`` table of a configuration file and the file's name.

    Without ``path``, ``convkit.toml`` of the working directory is read where there is one.

    Raises:
        SettingError: the file is named but missing, or is no TOML.
    """
    file = path or Path(CONFIG_FILE)
    if not file.is_file():
        if path is None:
            return {}, ""
        raise SettingError(f"There is no configuration file {file}.", hint="Check --config.")
    try:
        document = tomllib.loads(read_text(file))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{file} is not valid TOML: {error}", hint="See https://toml.io for the syntax.") from error
    table = document.get("convert", {})
    if not isinstance(table, dict):
        raise SettingError(f"{file}: 'convert' is not a table.", hint="Write [convert] and the settings below it.")
    return table, file.name


def resolve_settings(adapter: Adapter, flags: Mapping[str, Any], config: Mapping[str, Any], origin: str) -> Settings:
    """Bring flags, configuration, adapter and built-in values together.

    ``flags`` and ``config`` use the names form, shape, opset, set and those of the built-in table;
    None or an empty list means not given. A table ``[convert.ADAPTER]`` goes over ``[convert]``.

    Raises:
        SettingError: an unknown name, or a value that cannot be obeyed.
    """
    own = config.get(adapter.name, {})
    if not isinstance(own, dict):
        raise SettingError(f"{origin}: {adapter.name!r} is not a table.", hint=f"Write [convert.{adapter.name}].")
    general = {key: value for key, value in config.items() if not isinstance(value, dict) or key == "set"}
    sources = [("flag", flags), (origin, own), (origin, general)]
    adapter_values = {"form": adapter.forms[0], "opset": adapter.opset, "shape": []}
    known = {*_BUILT_IN, *adapter_values, "set"}
    for name in (*own, *general):
        if name not in known:
            raise SettingError(f"{origin} has an unknown setting {name!r}.", hint=suggest(name, known))
    items = []
    for name in (*adapter_values, *_BUILT_IN):
        given = [(label, source[name]) for label, source in sources if source.get(name) not in (None, [], ())]
        fallback = ("adapter", adapter_values[name]) if name in adapter_values else ("built-in", _BUILT_IN[name])
        label, value = given[0] if given else fallback
        items.append(Setting(name, _normalise(name, value), label))
    options, option_items = _options(adapter, [(label, source.get("set")) for label, source in sources])
    settings = Settings((*items, *option_items), (), options)
    _check(adapter, settings)
    return Settings(settings.items, apply_overrides(adapter.dims, settings["shape"]), options)


def _normalise(name: str, value: Any) -> Any:
    if name == "shape":
        shapes = [value] if isinstance(value, str) else value
        if not isinstance(shapes, list | tuple) or not all(isinstance(shape, str) for shape in shapes):
            raise SettingError(f"shape is {value!r}.", hint="Give a list of NAME=N or NAME=MIN:OPT:MAX.")
        return list(shapes)
    if name in ("opset", "samples", "seed"):
        if not isinstance(value, int) or isinstance(value, bool):
            raise SettingError(f"{name} is {value!r}.", hint="Give a whole number.")
    elif name == "keep_exported":
        if not isinstance(value, bool):
            raise SettingError(f"{name} is {value!r}.", hint="Give true or false.")
    elif value is not None and not isinstance(value, str | Path):
        raise SettingError(f"{name} is {value!r}.", hint="Give a text.")
    return Path(value) if name in ("inputs", "names") and value is not None else value


def _check(adapter: Adapter, settings: Settings) -> None:
    if settings["form"] not in adapter.forms:
        raise SettingError(
            f"Adapter {adapter.name!r} has no output form {settings['form']!r}.",
            hint=f"{suggest(str(settings['form']), adapter.forms)} It offers {', '.join(adapter.forms)}.".strip(),
        )
    if settings["opset"] not in OPSETS:
        raise SettingError(
            f"Opset {settings['opset']} is not supported.", hint=f"Give one of {', '.join(map(str, OPSETS))}."
        )
    if settings["to"] != "onnx":
        raise SettingError(f"This convkit cannot convert to {settings['to']!r}.", hint="Use --to onnx.")
    if settings["precision"] != "fp32":
        raise SettingError(
            f"This convkit cannot make precision {settings['precision']!r}.", hint="Use --precision fp32."
        )
    if not 1 <= settings["samples"] <= MAX_SAMPLES:
        raise SettingError(f"--samples is {settings['samples']}.", hint=f"Give 1 to {MAX_SAMPLES}.")
    if settings["seed"] < 0:
        raise SettingError(f"seed is {settings['seed']}.", hint="Give 0 or a larger number.")


def _options(adapter: Adapter, sources: Iterable[tuple[str, Any]]) -> tuple[dict[str, Any], list[Setting]]:
    declared = {option.name: option for option in adapter.options}
    given: dict[str, tuple[str, Any]] = {}
    for label, source in sources:
        if isinstance(source, str):
            raise SettingError(f"set is {source!r}.", hint="Write a table [convert.set] with one line an option.")
        pairs = source.items() if isinstance(source, Mapping) else [_pair(text) for text in source or ()]
        for name, value in pairs:
            if name not in declared:
                raise SettingError(
                    f"Adapter {adapter.name!r} has no option {name!r}.",
                    hint=f"{suggest(name, declared)} It has {', '.join(declared) or 'none'}.".strip(),
                )
            given.setdefault(name, (label, _convert(declared[name], value)))
    items = [
        Setting(f"set.{option.name}", *reversed(given.get(option.name, ("adapter", option.default))))
        for option in adapter.options
    ]
    return {item.name.removeprefix("set."): item.value for item in items}, items


def _pair(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found:
        raise SettingError(f"--set {text!r} has no value.", hint="Write --set NAME=VALUE.")
    return name.strip(), value.strip()


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
            hint=f"{suggest(str(converted), option.choices)} Choices: {', '.join(option.choices)}.".strip(),
        )
    return converted


def _boolean(value: Any) -> bool:
    words = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}
    if isinstance(value, bool):
        return value
    if str(value).lower() not in words:
        raise ValueError("true or false is needed")
    return words[str(value).lower()]
