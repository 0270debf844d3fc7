"""The plugin ``convkit::DCNv2`` of full TensorRT: its kernel is compiled when the engine is built and lies in the plan.

NVIDIA's bindings call such a plugin *quickly deployable* and *ahead of time*. Its inputs are x [N, C, H, W], offset
[N, 2 G kh kw, oh, ow], mask [N, G kh kw, oh, ow], the packed weights and the bias [O], all of one type; its attributes
are those of `AotSettings`.
"""
# Without "from __future__ import annotations": the bindings want types as annotations, not texts.

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from convkit.cuda import evaluate
from convkit.errors import ConvkitError, EnvironmentProblem, PluginError
from convkit_plugins.dcnv2.tensorrt._aot_kernels import FORMATS, SIZES, Launch, check_sizes, launches
from convkit_plugins.dcnv2.tensorrt._aot_settings import DOMAIN, FIELDS, OP_TYPE, AotSettings, WeightOrder
from convkit_plugins.dcnv2.tensorrt._packing import packed_size
from convkit_plugins.dcnv2.tensorrt._ptx import aot_ptx, local_gpu

__all__ = ["register_aot"]

ID = f"{DOMAIN}::{OP_TYPE}"
INPUTS = ("x", "offset", "mask", "weight", "bias")
INSTEAD = "or use --set dcn=gather, which needs no plugin"
_TYPES = {"FLOAT": ("float32", "FP32"), "HALF": ("float16", "FP16"), "BF16": ("bfloat16", "BF16")}
"""TensorRT's types, with their names here and in the list of combinations."""

_registered: dict[str, object] = {}


def register_aot(api: Any, failures: list[str]) -> object:
    """Register the plugin in full TensorRT's registry and return what has to live on; once a process is enough.

    ``api`` is the module of NVIDIA's bindings. What goes wrong in the plugin is appended to ``failures``.

    Raises:
        EnvironmentProblem: these bindings have no plugins of this kind.
        PluginError: another plugin of this name is registered.
    """
    if api.__name__ not in _registered:
        try:
            plugins = importlib.import_module(f"{api.__name__}.plugin")
        except ImportError as error:
            raise EnvironmentProblem(
                f"The bindings {api.__name__} have no module for plugins: {error}.",
                hint="dcn=plugin needs TensorRT 10.13 or newer with its Python package, pip install tensorrt; "
                + INSTEAD.removeprefix("or "),
            ) from error
        registry = api.get_plugin_registry()
        if registry.get_creator(OP_TYPE, "1", DOMAIN) is not None:
            raise PluginError(
                f"A TensorRT plugin {ID} is registered already, and not by convkit.",
                hint="Run the build in a process that loads no other plugin library, " + INSTEAD + ".",
            )
        _registered[api.__name__] = _define(api, plugins, failures)
    return _registered[api.__name__]


def _define(api: Any, plugins: Any, failures: list[str]) -> object:
    """Declare the plugin to the bindings: outputs, formats with tactics, kernels."""
    capability, driver = local_gpu()

    def describe(given: Sequence[Any], settings: AotSettings) -> Any:
        """Return type and shape of the output: that of x with the filters, in the size of the offsets."""
        x, offset = given[:2]
        out = x.like()
        out.shape_expr[1] = settings.layer.filters
        for axis in (2, 3):
            out.shape_expr[axis] = offset.shape_expr[axis]
        return out

    def combinations(given: Sequence[Any], settings: AotSettings, outputs: Any) -> list[Any]:
        """Return the formats of the network's type, each with its tactics."""
        dtype, name = _type_of(given, settings)
        _check(settings, dtype, given)
        tactics: dict[tuple[bool, bool], list[int]] = {}
        for launch in launches(settings, dtype):
            tactics.setdefault((launch.x_last, launch.out_last), []).append(launch.tactic)
        last = {False: "LINEAR", True: FORMATS[dtype]}
        return [
            plugins.AutoTuneCombination(
                ", ".join([name] * 6), ", ".join([last[x_last], *["LINEAR"] * 4, last[out_last]]), numbers
            )
            for (x_last, out_last), numbers in tactics.items()
        ]

    def kernel(given: Sequence[Any], settings: AotSettings, outputs: Any, tactic: int) -> tuple[Any, ...]:
        """Return name, code, launch configuration and integers of a kernel."""
        dtype, _ = _type_of(given, settings)
        x, offset = given[:2]
        wanted = (*(tensor.format != api.TensorFormat.LINEAR for tensor in (x, outputs[0])), tactic)
        launch = next(each for each in launches(settings, dtype) if (each.x_last, each.out_last, each.tactic) == wanted)
        sizes = (x.shape_expr[0], *(tensor.shape_expr[axis] for tensor in (x, offset) for axis in (2, 3)))
        parameters, extra = _expressions(plugins, launch, dict(zip(SIZES, sizes, strict=True)))
        return launch.variant.kernel.name, aot_ptx(launch.variant, capability, driver), parameters, extra

    described = _declared(describe, failures, plugins.TensorDesc, (), plugins.TensorDesc)
    plugins.register(ID)(described)
    plugins.autotune(ID)(_declared(combinations, failures, None, ("outputs",), list[plugins.AutoTuneCombination]))
    code = tuple[str | bytes, str | bytes, plugins.KernelLaunchParams, plugins.SymIntExprs]
    plugins.aot_impl(ID)(_declared(kernel, failures, None, ("outputs", "tactic"), code))
    return described


def _declared(
    function: Callable[..., Any], failures: list[str], tensor: Any, more: Sequence[str], returns: Any
) -> Callable[..., Any]:
    """Return the function with the signature that the bindings look at: all inputs, all attributes, and ``more``.

    ``tensor`` is the type of the inputs; the function that registers has to name it, the others cannot in all versions.
    The library prints an error of the function and goes on with a message of its own, so errors are noted here.
    """
    names = (*INPUTS, *FIELDS, *more)
    kinds = {**dict.fromkeys(INPUTS, tensor), **dict.fromkeys(FIELDS, npt.NDArray[np.int32])} if tensor else {}
    empty = inspect.Parameter.empty
    signature = inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=kinds.get(name, empty))
            for name in names
        ],
        return_annotation=returns,
    )

    def declared(*args: Any, **named: Any) -> Any:
        try:
            given = signature.bind(*args, **named).arguments
            settings = AotSettings.from_fields({name: given[name] for name in FIELDS})
            return function([given[name] for name in INPUTS], settings, *(given[name] for name in more))
        except Exception as error:
            text = f"{error.message} {error.hint}".strip() if isinstance(error, ConvkitError) else repr(error)
            failures.append(f"{ID}: {text}")
            raise

    declared.__signature__ = signature  # type: ignore[attr-defined]
    return declared


def _expressions(plugins: Any, launch: Launch, known: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return launch configuration and integers in TensorRT's symbolic integers.

    NumPy integers and plain texts would silently become nothing there, so everything is one of TensorRT's.
    """
    operations: dict[str, Callable[[Any, Any], Any]] = {
        "+": lambda first, second: first + second,
        "-": lambda first, second: first - second,
        "*": lambda first, second: first * second,
        "//": lambda first, second: first // second,
        "cdiv": plugins.cdiv,
        "min": plugins.min,
        "max": plugins.max,
    }

    def number(expression: Any) -> Any:
        return plugins.SymInt32(evaluate(expression, known, operations))

    parameters, config = plugins.KernelLaunchParams(), launch.config
    for kind in ("grid", "block"):
        for axis, value in zip("xyz", getattr(config, kind), strict=True):
            setattr(parameters, f"{kind}_{axis}", number(value))
    parameters.shared_mem = number(config.dynamic_smem_bytes)
    extra = plugins.SymIntExprs(len(launch.scalars))
    for index, value in enumerate(launch.scalars):
        extra[index] = number(value)
    return parameters, extra


def _type_of(given: Sequence[Any], settings: AotSettings) -> tuple[str, str]:
    """Return the type of the tensors by its name here and in the list of combinations."""
    types = [tensor.dtype.name for tensor in given]
    if set(types) - {types[0]} or types[0] not in _TYPES:
        listed = ", ".join(f"{name} {kind}" for name, kind in zip(INPUTS, types, strict=True))
        raise PluginError(
            f"It computes in one type, FLOAT, HALF or BF16; its inputs are {listed}.", hint=_again("a typed graph")
        )
    size = {WeightOrder.TENSOR_16: 2, WeightOrder.TENSOR_TF32: 4}.get(settings.order)
    if size is not None and size != (4 if types[0] == "FLOAT" else 2):
        raise PluginError(f"Its weights are packed for {8 * size} bits, and are {types[0]}.", hint=_again("the type"))
    return _TYPES[types[0]]


def _check(settings: AotSettings, dtype: str, given: Sequence[Any]) -> None:
    """Raise a `ConvkitError` where shapes do not fit the settings, or not every shape of the profile can be served."""
    lowest, highest = ([_bound(tensor, which) for tensor in given] for which in ("min", "max"))
    layer = settings.layer
    taps = layer.groups * layer.taps
    for shapes in (lowest, highest):
        x, offset = shapes[:2]
        expected = {
            "x": (x[0], settings.channels, *x[2:]),
            "offset": (x[0], 2 * taps, *offset[2:]),
            "mask": (x[0], taps, *offset[2:]),
            "weight": (packed_size(settings),),
            "bias": (layer.filters,),
        }
        for (name, wanted), shape in zip(expected.items(), shapes, strict=True):
            if shape != wanted or (len(shape) != 4 and name in ("x", "offset")):
                raise PluginError(
                    f"{name} has the shape {list(shape)}; {list(wanted)} fits the others.", hint=_again("the shapes")
                )
    if settings.order != WeightOrder.PLAIN and min(lowest[0][2:]) < 2:
        raise PluginError(
            f"Its kernel reads images of at least 2 x 2 pixels; the profile goes down to {list(lowest[0])}.",
            hint=f"Raise the lowest height and width of the model, {INSTEAD}.",
        )
    x, offset = highest[:2]
    check_sizes(settings, dtype, dict(zip(SIZES, (x[0], *x[2:], *offset[2:]), strict=True)))


def _bound(tensor: Any, which: str) -> tuple[int, ...]:
    """Return the lowest or highest shape of a tensor."""
    shape = tensor.shape
    return tuple(int(size) for size in (getattr(shape, which) if shape.is_dynamic else shape))


def _again(what: str) -> str:
    return f"Build again from the artifact, which settles {what}, {INSTEAD}."
