"""Settings of a conversion with their origin: flag over convkit.toml over checkpoint over adapter over built-in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from convkit._text import printable, read_text
from convkit.backends import find_builder
from convkit.conversion._edges import check_edges_fit, read_edges, refuse_for_engines
from convkit.conversion._options import adapter_options
from convkit.errors import AdapterError, CheckpointError, SettingError, blamed_on, named, suggest
from convkit.model import Adapter, Dim, apply_overrides, find_precision
from convkit.plugins import manager

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "AUTO",
    "CONFIG_FILE",
    "OPSETS",
    "ConvertSettings",
    "read_config",
    "resolve_settings",
]

CONFIG_FILE = "convkit.toml"
OPSETS = range(19, 24)
"""DeformConv enters ONNX at 19; 23 is the newest that PyTorch 2.9 to 2.13 writes."""
MAX_SAMPLES = 64
AUTO = "auto"
"""The precision in which a search says which nodes stay float32; the others are float16."""


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("Give a text.")  # noqa: TRY004 - the caller makes a SettingError of it
    return value


def _path(value: Any) -> Path:
    if not isinstance(value, str | Path):
        raise ValueError("Give a path.")  # noqa: TRY004
    return Path(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("Give true or false.")  # noqa: TRY004
    return value


def _shapes(value: Any) -> tuple[str, ...]:
    shapes = [value] if isinstance(value, str) else value
    if not isinstance(shapes, list | tuple) or not all(isinstance(shape, str) for shape in shapes):
        raise ValueError("Give a list of NAME=N or NAME=MIN:OPT:MAX.")
    return tuple(shapes)


def _words(value: Any) -> tuple[str, ...]:
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise ValueError("Give a list of words, or words between commas.")
    return tuple(word.strip() for text in words for word in text.split(",") if word.strip())


def _whole(low: int, high: int | None = None) -> Callable[[Any], int]:
    limit = f"{low} to {high}" if high is not None else f"{low} or a larger number"

    def parse(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError("Give a whole number.")  # noqa: TRY004
        if value < low or (high is not None and value > high):
            raise ValueError(f"Give {limit}.")
        return value

    return parse


def _precision(value: Any) -> str:
    if value == AUTO:
        return AUTO
    try:
        return find_precision(value).name
    except SettingError as error:
        raise ValueError(error.hint) from None


def _method(value: Any) -> str:
    from convkit.graph.precision import find_method

    try:
        return find_method(str(value))
    except SettingError as error:
        raise ValueError(error.hint) from None


def _setting(parse: Callable[[Any], Any], default: Any) -> Any:
    """Return a field whose given values go through ``parse``, which raises ValueError with the remedy."""
    return field(default=default, metadata={"parse": parse})


@dataclass(frozen=True)
class ConvertSettings:
    """All settings of one conversion; ``dims`` and ``options`` follow from ``shape``, ``set`` and the adapter.

    ``origins`` contains who gave each setting and option (``set.NAME``): ``flag``, the configuration file,
    ``checkpoint``, ``adapter`` or ``built-in``.
    """

    form: str = _setting(_text, "")
    shape: tuple[str, ...] = _setting(_shapes, ())
    opset: int = _setting(_whole(OPSETS[0], OPSETS[-1]), 0)
    to: str = _setting(_text, "onnx")
    target: tuple[str, ...] = _setting(_words, ())
    precision: str = _setting(_precision, "fp32")
    io_precision: str = _setting(read_edges, "fp32")
    keep_fp32: Path | None = _setting(_path, None)
    graph: Path | None = _setting(_path, None)
    calibrate: Path | None = _setting(_path, None)
    calibration: str = _setting(_method, "percentile")
    metric_data: Path | None = _setting(_path, None)
    inputs: Path | None = _setting(_path, None)
    names: Path | None = _setting(_path, None)
    samples: int = _setting(_whole(1, MAX_SAMPLES), 8)
    seed: int = _setting(_whole(0), 0)
    backend: str = _setting(_text, "onnxruntime")
    device: str = _setting(_text, "cpu")
    keep_exported: bool = _setting(_flag, False)
    dims: tuple[Dim, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> list[dict[str, Any]]:
        """Return every setting with its origin, paths reduced to their names."""
        values = {name: getattr(self, name) for name in _PARSERS} | {
            f"set.{name}": value for name, value in self.options.items()
        }
        return [{"name": name, "value": _plain(value), "origin": self.origins[name]} for name, value in values.items()]


_PARSERS: dict[str, Callable[[Any], Any]] = {
    item.name: item.metadata["parse"] for item in fields(ConvertSettings) if "parse" in item.metadata
}


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
    except OSError as error:
        raise SettingError(f"{file} cannot be read: {error.strerror or error}.", hint="Check --config.") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError; so is a number of 5,000 digits
        raise SettingError(f"{file} is not valid TOML: {error}", hint="See https://toml.io for the syntax.") from error
    table = document.get("convert", {})
    if not isinstance(table, dict):
        raise SettingError(f"{file}: 'convert' is not a table.", hint="Write [convert] and the settings below it.")
    return table, file.name


def resolve_settings(
    adapter: Adapter, flags: Mapping[str, Any], config: Mapping[str, Any], origin: str, weights: Path | None = None
) -> ConvertSettings:
    """Bring flags, configuration, checkpoint, adapter and built-in values together.

    ``flags`` and ``config`` use the names of `ConvertSettings` and ``set``; None or an empty list means not given. A
    table ``[convert.ADAPTER]`` goes over ``[convert]``. Of ``weights`` the adapter says which defaults follow from it.

    Raises:
        SettingError: an unknown name, or a value that cannot be obeyed.
    """
    own = config.get(adapter.name, {})
    if not isinstance(own, dict):
        raise SettingError(f"{origin}: {adapter.name!r} is not a table.", hint=f"Write [convert.{adapter.name}].")
    general = {key: value for key, value in config.items() if not isinstance(value, dict) or key == "set"}
    for where, names in (("This call", flags), (origin, own), (origin, general)):
        for name in names:
            if name not in _PARSERS and name != "set":
                raise SettingError(f"{where} has an unknown setting {name!r}.", hint=suggest(name, _PARSERS))
    adapter_values = {"form": adapter.forms[0], "opset": adapter.opset, "shape": ()}
    sources = [("flag", flags), (origin, own), (origin, general), ("adapter", adapter_values)]
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, parse in _PARSERS.items():
        given = [(label, source[name]) for label, source in sources if source.get(name) not in (None, [], ())]
        origins[name] = given[0][0] if given else "adapter" if name in adapter_values else "built-in"
        if given:
            values[name] = _parsed(name, parse, given[0][1])
    if values["form"] not in adapter.forms:
        raise SettingError(
            f"Adapter {adapter.name!r} has no output form {values['form']!r}.",
            hint=f"{suggest(str(values['form']), adapter.forms)} It offers {', '.join(adapter.forms)}.",
        )
    if values.get("to", "onnx") != "onnx":
        find_builder(values["to"])
    elif values.get("target"):
        raise SettingError("target is for engines, and the result is an ONNX file.", hint="Add --to tensorrt-rtx.")
    _check_precision(values)
    options, option_origins = adapter_options(adapter, [(label, source.get("set")) for label, source in sources[:3]])
    found = _from_checkpoint(adapter, weights, options) if weights else {}
    for name, value in found.items():
        if option_origins.get(f"set.{name}") == "adapter":
            options[name], option_origins[f"set.{name}"] = value, "checkpoint"
    dims = apply_overrides([found.get(dim.name, dim) for dim in adapter.dims], values.get("shape", ()))
    return ConvertSettings(**values, dims=dims, options=options, origins=origins | option_origins)


def _from_checkpoint(adapter: Adapter, weights: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults that follow from a checkpoint; none of one that cannot be read, which `load` says.

    Raises:
        AdapterError: the adapter returned a name or value that it has not.
    """
    plugin = manager().origin(adapter)
    with suppress(CheckpointError), blamed_on("Adapter.defaults()", plugin):
        found = dict(adapter.defaults(weights, options))
        dims = {dim.name for dim in adapter.dims}
        wrong = [name for name, value in found.items() if (name in dims) != isinstance(value, Dim)]
        if wrong := wrong or [name for name in found if name not in dims and name not in options]:
            raise AdapterError(
                f"{named('Adapter.defaults()', plugin)} returned {wrong[0]!r}: {found[wrong[0]]!r}.",
                hint="Return a convkit.Dim by the name of a dimension, and the value of an option by its name.",
            )
        return found
    return {}


def _check_precision(values: Mapping[str, Any]) -> None:
    """Refuse settings of the precision that contradict each other.

    Raises:
        SettingError: they do.
    """
    if values.get("graph"):
        own = [name for name in ("keep_fp32", "keep_exported") if values.get(name)]
        if own or values.get("precision") == AUTO:
            raise SettingError(
                f"{own[0] if own else 'precision auto'} changes how convkit types a graph, and this one is brought.",
                hint="Leave it out, or --graph.",
            )
    typed = values.get("graph") or values.get("precision", "fp32") != "fp32"
    if values.get("metric_data") and not typed:
        raise SettingError(
            "metric_data is to compare a precision with float32, and float32 was asked for.",
            hint="Add --precision, or measure the artifact with `convkit evaluate`.",
        )
    if values.get("keep_fp32") and values.get("precision", "fp32") == "fp32":
        raise SettingError(
            "keep_fp32 lists nodes to keep in float32, and all of a float32 graph are.",
            hint="Add --precision fp16 or bf16.",
        )
    edges = values.get("io_precision", "fp32")
    if edges != "fp32" and values.get("graph"):
        raise SettingError(
            "io_precision changes a graph that convkit types, and this one is brought.",
            hint="Leave it out, or --graph.",
        )
    check_edges_fit(edges, values.get("precision", "fp32"), "graphs")
    if values.get("to", "onnx") != "onnx":
        refuse_for_engines(edges)
    calibrated = values.get("calibrate") or values.get("calibration")
    if calibrated and not values.get("graph") and values.get("precision") != "int8":
        raise SettingError("Inputs for calibration are for int8.", hint="Add --precision int8.")


def _parsed(name: str, parse: Callable[[Any], Any], value: Any) -> Any:
    try:
        return parse(value)
    except ValueError as error:
        raise SettingError(f"{name} cannot be {value!r}.", hint=str(error)) from None


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return printable(value.name)
    return list(value) if isinstance(value, tuple) else value
