"""PyTorch to ONNX: one graph, checked, with names that map back to the modules."""

from __future__ import annotations

import ast
import contextlib
import logging
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convkit.conversion._decomposition import quick_exports
from convkit.conversion._registry import one_registry
from convkit.errors import ConvkitError, ExportError
from convkit.graph import MODULE_KEY, fits_in_one_file, save_onnx
from convkit.model import Dim, Extent, extent_names, resolve, substitute

if TYPE_CHECKING:
    import onnx
    import torch

    from convkit.model import ModelSpec

__all__ = ["check_graph", "export_onnx"]

SCOPES_KEY = "pkg.torch.onnx.name_scopes"
WEIGHT = ".weight"
_CHATTY = ("torch.onnx._internal.exporter._registration", "onnxscript.optimizer._constant_folding")
_UNSOLVED = re.compile(r"inequality.*cannot be\s+solved", re.S)
"""What PyTorch says where it cannot tell whether two expressions of a size are equal, such as x/32 and (x/16)//2."""
_KEPT_METADATA = {MODULE_KEY, "pkg.onnxscript.rewriter.rule_name"}


def export_onnx(
    module: torch.nn.Module,
    spec: ModelSpec,
    *,
    opset: int,
    translations: Mapping[Callable[..., Any], Callable[..., Any]],
) -> onnx.ModelProto:
    """Export ``module`` (already patched, so that it returns the outputs as a tuple) to ONNX.

    Dimensions of ``spec.dims`` that span a range become symbolic under their names. The nodes are
    named after the module they come from (``layer1.0.conv1/Conv``), and carry its path in their
    metadata.

    Raises:
        ExportError: PyTorch cannot export the module, or the graph is not valid.
    """
    import torch

    dims = {dim.name: dim for dim in spec.dims}
    # An example with a batch of one makes some traces specialise on it; two is as good and safe.
    sizes = {dim.name: max(dim.opt, min(dim.max, 2 * dim.multiple_of)) if dim.dynamic else dim.opt for dim in spec.dims}
    inputs = tuple(
        torch.zeros(resolve(tensor.shape, sizes), dtype=_torch_dtype(tensor.dtype)) for tensor in spec.inputs
    )

    def traced(symbols: Mapping[str, Any]) -> Any:
        fixed = {dim.name: dim.opt for dim in spec.dims if not dim.dynamic}
        axes = tuple(
            {axis: _symbol(extent, symbols, fixed) for axis, extent in enumerate(tensor.shape)
             if set(extent_names(extent)) & symbols.keys()}
            for tensor in spec.inputs
        )  # fmt: skip
        return torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            opset_version=opset,
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
            dynamic_shapes=_per_argument(module, axes) if symbols else None,
            custom_translation_table=dict(translations),
            external_data=False,
            verbose=False,
        )

    varying = [dim for dim in spec.dims if dim.dynamic]
    try:
        with _quiet(), torch.no_grad(), one_registry(), quick_exports(translations):
            try:
                program = traced({dim.name: torch.export.Dim(dim.name, min=dim.min, max=dim.max) for dim in varying})
            except Exception as error:
                if not any(_UNSOLVED.search(str(cause)) for cause in _causes(error)):
                    raise
                program = traced({dim.name: _in_steps(dim) for dim in varying})
    except Exception as error:
        for cause in _causes(error):
            if isinstance(cause, ConvkitError):
                raise cause from error
        raise ExportError(
            f"PyTorch could not export the model to ONNX opset {opset}: {_first_line(error)}",
            hint=_export_hint(error),
        ) from error
    if program is None:
        raise ExportError("PyTorch's exporter returned nothing.", hint="Check the installed torch and onnxscript.")
    model: onnx.ModelProto = program.model_proto
    clean_names(model)
    _name_dims(model, spec, dims)
    check_graph(model)
    return model


def check_graph(model: onnx.ModelProto, maker: str = "") -> None:
    """Run the ONNX checker with full shape inference; ``maker`` names what made the graph, for the error.

    Raises:
        ExportError: the graph is not valid.
    """
    import onnx

    try:
        if fits_in_one_file(model):
            onnx.checker.check_model(model, full_check=True)
        else:  # the checker serialises what it gets, which protobuf refuses beyond 2 GiB
            with tempfile.TemporaryDirectory() as folder:
                save_onnx(model, Path(folder) / "model.onnx")
                onnx.checker.check_model(str(Path(folder) / "model.onnx"), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"The ONNX checker rejects the graph{' after ' + maker if maker else ''}: {_first_line(error)}",
            hint=f"It is made by {maker}: mend that." if maker else "A translation made an invalid node.",
        ) from error


def clean_names(model: onnx.ModelProto) -> None:
    """Name nodes ``<module path>/<op type>`` and their outputs after them, in place.

    Graph inputs, outputs and initializers keep their names. The exporter's bulky metadata (stack
    traces with local paths, FX code) is dropped; the module path stays as ``convkit.module``.
    """
    fixed = {value.name for value in (*model.graph.input, *model.graph.output)}
    weights = {tensor.name for tensor in model.graph.initializer if tensor.name.endswith(WEIGHT)}
    renamed: dict[str, str] = {}
    seen: Counter[str] = Counter()
    for node in model.graph.node:
        path = _module_path(node, weights)
        stem = f"{path}/{node.op_type}" if path else node.op_type
        seen[stem] += 1
        node.name = stem if seen[stem] == 1 else f"{stem}_{seen[stem]}"
        for index, output in enumerate(node.output):
            if output and output not in fixed:
                renamed[output] = f"{node.name}:{index}"
        kept = [entry for entry in node.metadata_props if entry.key in _KEPT_METADATA - {MODULE_KEY}]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
        node.metadata_props.add(key=MODULE_KEY, value=path)
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for value in model.graph.value_info:
        value.name = renamed.get(value.name, value.name)
    for graph_value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        del graph_value.metadata_props[:]
    for initializer in model.graph.initializer:
        del initializer.metadata_props[:]
    del model.graph.metadata_props[:]


def _module_path(node: onnx.NodeProto, weights: Set[str]) -> str:
    """Return the path of the innermost module that the exporter saw around the node.

    Where a normalisation was fused into a convolution, the exporter keeps the scope of the
    normalisation; the name of the weight tells the convolution's own.
    """
    if len(node.input) > 1 and node.input[1] in weights:
        return str(node.input[1]).removesuffix(WEIGHT)
    for entry in node.metadata_props:
        if entry.key == SCOPES_KEY:
            # What reads the size of an input belongs to no module; the exporter says so in a name of its own.
            scopes = [scope for scope in ast.literal_eval(entry.value) if not scope.startswith("_empty_nn_module")]
            return str(scopes[-2]) if len(scopes) > 1 else ""
    return ""


def _name_dims(model: onnx.ModelProto, spec: ModelSpec, dims: Mapping[str, Dim]) -> None:
    """Write the named dimensions of the specification over the exporter's own expressions.

    An axis that was to vary and came out fixed is refused: the exporter does not always say so.
    """
    if len(model.graph.output) != len(spec.outputs):
        raise ExportError(
            f"The model was exported with {len(model.graph.output)} outputs; the adapter declares {len(spec.outputs)}.",
            hint="The adapter's ModelSpec does not describe what the patched model returns.",
        )
    for value, tensor in zip((*model.graph.input, *model.graph.output), (*spec.inputs, *spec.outputs), strict=True):
        axes = value.type.tensor_type.shape.dim
        if len(axes) != len(tensor.shape):
            raise ExportError(
                f"{tensor.name!r} was exported with {len(axes)} axes; the adapter declares {tensor.shape}.",
                hint="The adapter's ModelSpec does not describe what the patched model returns.",
            )
        for axis, extent in zip(axes, tensor.shape, strict=True):
            if not isinstance(extent, str):
                continue
            varying = [name for name in extent_names(extent) if dims[name].dynamic]
            if axis.HasField("dim_param"):
                axis.dim_param = substitute(extent, {name: dim.opt for name, dim in dims.items() if not dim.dynamic})
            elif varying:
                raise ExportError(
                    f"{tensor.name!r} was exported with the fixed size {axis.dim_value} where {extent} was to vary.",
                    hint="The model makes a number of it, as len(x) and int(x.shape[0]) do: use x.shape[0], or give it"
                    f" one size, for example --shape {varying[0]}=N.",
                )


def _in_steps(dim: Dim) -> Any:
    """Return the symbol of a dimension as a multiple of a free one, so that PyTorch knows that its halves are whole.

    A model that fixes such a dimension is not refused by PyTorch: this is for where the plain symbol leads nowhere.
    """
    import torch

    if dim.multiple_of == 1:
        return torch.export.Dim(dim.name, min=dim.min, max=dim.max)
    steps = f"{dim.name}_by_{dim.multiple_of}"
    return dim.multiple_of * torch.export.Dim(steps, min=dim.min // dim.multiple_of, max=dim.max // dim.multiple_of)


def _symbol(extent: Extent, symbols: Mapping[str, Any], fixed: Mapping[str, int]) -> Any:
    """Return the symbol of an axis of an input: a dimension, or a whole multiple of one plus a number."""
    text = substitute(extent, fixed)
    if text in symbols:
        return symbols[text]
    match = re.fullmatch(r"(?:(\d+)\*)?([a-z_][a-z0-9_]*)(?:([+-]\d+))?", text)
    if not match:
        raise ExportError(
            f"An input cannot have the extent {extent!r}.",
            hint="PyTorch exports inputs with extents NAME, N*NAME and N*NAME+N; name another dimension for this axis.",
        )
    factor, name, offset = match.groups()
    symbol = symbols[name] if factor is None else int(factor) * symbols[name]
    return symbol if offset is None else symbol + int(offset)


def _per_argument(module: torch.nn.Module, axes: Sequence[dict[int, Any]]) -> Any:
    import inspect

    parameters = list(inspect.signature(module.forward).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(positional) >= len(axes):
        return {parameter.name: axis for parameter, axis in zip(positional, axes, strict=False)}
    return axes


def _torch_dtype(name: str) -> torch.dtype:
    import torch

    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ExportError(f"The adapter declares an input of dtype {name!r}.", hint="Use a NumPy name such as float32.")
    return dtype


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter says of packages that the model does not use, of axes and of what it does not fold."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.filterwarnings("ignore", "# The axis name", UserWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what caused it, down to the first cause."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _first_line(error: BaseException) -> str:
    """Return the line of the deepest cause that says what went wrong."""
    *_, error = _causes(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _export_hint(error: BaseException) -> str:
    text = str(error)
    if "No decompositions registered" in text or "No ONNX function found" in text or "DispatchError" in text:
        return "An operator has no ONNX translation; a plugin can give one with the hook convkit_onnx_translations."
    if "Constraints violated" in text or "specialized" in text:
        return "The model fixes a dimension that was asked to vary; give it one size, for example --shape height=512."
    return "Try another --opset, or patch the module that cannot be exported (hook convkit_export_patches)."
