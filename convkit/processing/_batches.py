"""Prepared inputs into batches, batches of outputs into results; what adapters return is checked here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from convkit.errors import AdapterError, ConvkitError, InputError, blamed_on, named
from convkit.model import ModelSpec, TensorSpec, extent_names, resolve
from convkit.plugins import manager
from convkit.processing._protocols import Decode, Prepared, Preprocess
from convkit.processing._registry import NamedArrays
from convkit.results import Result

__all__ = [
    "checked_results",
    "collate",
    "decode_batch",
    "fitted_inputs",
    "item_sizes",
    "prepare",
    "take_items",
    "widened",
]


def prepare(spec: ModelSpec, preprocess: Preprocess, raw: Any) -> Prepared:
    """Return one raw input as the preprocess makes it ready; float32 is rounded where the model takes 16 bits.

    Raises:
        InputError: it is no input that the model takes.
        AdapterError: the preprocess failed, or returned something else than a `Prepared` whose tensors have the names,
            dtypes and ranks of the model's inputs. Where a raw input is the input arrays, that is an `InputError`.
    """
    error, gives = _blame(preprocess)
    with blamed_on(f"the preprocess {type(preprocess).__name__}", manager().origin(preprocess)):
        prepared: Any = preprocess(raw)
    if not isinstance(prepared, Prepared) or not isinstance(prepared.tensors, Mapping):
        what = type(prepared).__name__ if not isinstance(prepared, Prepared) else type(prepared.tensors).__name__
        raise AdapterError(
            f"{gives} a {what}.",
            hint="Return Prepared({input name: array, ...}, meta), with arrays that have no batch axis.",
        )
    fitted: Prepared = replace(prepared, views=tuple(_checked(spec, view, error, gives) for view in prepared.views))
    return _checked(spec, fitted, error, gives)


def _checked(spec: ModelSpec, prepared: Prepared, error: type[ConvkitError], gives: str) -> Prepared:
    """Return a prepared input in the model's types, once names, dtypes and ranks of its tensors are checked."""
    names = [tensor.name for tensor in spec.inputs]
    if set(prepared.tensors) != set(names):
        raise error(
            f"{gives} tensors for {', '.join(prepared.tensors) or 'nothing'};"
            f" the model's inputs are {', '.join(names)}.",
            hint="Each of the model's inputs needs one array under its name, and no other may be there.",
        )
    fitted = replace(prepared, tensors=fitted_inputs(spec.inputs, prepared.tensors))
    for tensor in spec.inputs:
        value = fitted.tensors[tensor.name]
        if not isinstance(value, np.ndarray) or str(value.dtype) != tensor.host_dtype:
            kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
            raise error(
                f"{gives} {kind} for {tensor.name!r}; the model takes {tensor.host_dtype}.",
                hint=f"A NumPy array of that dtype is needed, for example from .astype({tensor.host_dtype!r}).",
            )
        if value.ndim != len(tensor.item_shape):
            raise error(
                f"{gives} a tensor of shape {value.shape} for {tensor.name!r};"
                f" one item of it is {_shape_text(tensor)}.",
                hint="It has to come without the batch axis, and with channels where the shape has them.",
            )
    return fitted


def fitted_inputs(inputs: Sequence[TensorSpec], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return input arrays with float32 rounded where the model takes 16 bits; others stay what they are.

    Those that are rounded to bfloat16 remain arrays of float32.

    Raises:
        InputError: a number is beyond the range of float16.
    """
    found = dict(arrays)
    for tensor in inputs:
        value = found.get(tensor.name)
        if tensor.dtype == "bfloat16" and isinstance(value, np.ndarray) and value.dtype == np.float32:
            import ml_dtypes

            found[tensor.name] = value.astype(ml_dtypes.bfloat16).astype(np.float32)
        if tensor.dtype == "float16" and isinstance(value, np.ndarray) and value.dtype == np.float32:
            with np.errstate(over="ignore"):
                found[tensor.name] = value.astype(np.float16)
            if not np.isfinite(found[tensor.name]).all() and np.isfinite(value).all():
                raise InputError(
                    f"{tensor.name!r} has numbers up to {float(np.abs(value).max()):.6g}, and this model takes float16,"
                    " which ends at 65504.",
                    hint="Leave --io-precision out, or scale the input.",
                )
    return found


def item_sizes(spec: ModelSpec, preprocess: Preprocess, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return the size of each dimension but the batch that input tensors of these shapes have.

    ``shapes`` are those of one item by input name, as the preprocess made it.

    Raises:
        InputError: a size is outside the range in which the model was proved.
        AdapterError: the shapes contradict each other or the specification. Where a raw input is the input arrays, that
            is an `InputError`.
    """
    error, gives = _blame(preprocess)
    dims = {dim.name: dim for dim in spec.dims}
    sizes: dict[str, int] = {}
    for tensor in spec.inputs:
        for size, extent in zip(shapes[tensor.name], tensor.item_shape, strict=True):
            if isinstance(extent, str) and extent in dims and sizes.setdefault(extent, size) != size:
                raise error(
                    f"{gives} tensors with {extent} {sizes[extent]} and {size}.",
                    hint="Every input must have the same size along a dimension.",
                )
    for name, size in sizes.items():
        dim = dims[name]
        if not dim.min <= size <= dim.max or size % dim.multiple_of:
            proved = f"{dim.min} to {dim.max}" if dim.dynamic else f"{dim.opt}"
            range_ = f"--shape {name}={min(dim.min, size)}:{dim.opt}:{max(dim.max, size)}"
            raise InputError(
                f"This needs an input {name} of {size}; the model is for {proved}"
                + (f" in steps of {dim.multiple_of}." if dim.multiple_of > 1 and dim.dynamic else "."),
                hint=f"Give a multiple of {dim.multiple_of}." if size % dim.multiple_of else f"Convert with {range_}.",
            )
    known = {name: sizes.get(name, dim.opt) for name, dim in dims.items() if name in sizes or not dim.dynamic}
    for tensor in spec.inputs:
        if all(name in known for extent in tensor.item_shape for name in extent_names(extent)):
            wanted = resolve(tensor.item_shape, known)
            if tuple(shapes[tensor.name]) != wanted:
                raise error(
                    f"{gives} a tensor of shape {tuple(shapes[tensor.name])} for {tensor.name!r};"
                    f" one item of it is {wanted}.",
                    hint=f"The model declares it as {_shape_text(tensor)}.",
                )
    return sizes


def _blame(preprocess: Preprocess) -> tuple[type[ConvkitError], str]:
    """Return the error for tensors that do not fit the model, and how its message begins."""
    if isinstance(preprocess, NamedArrays):
        return InputError, "The input has"
    return (
        AdapterError,
        f"{named(f'the preprocess {type(preprocess).__name__}', manager().origin(preprocess))} returned",
    )


def collate(inputs: Sequence[TensorSpec], items: Sequence[Prepared]) -> dict[str, np.ndarray]:
    """Return the input arrays of a batch: stacked along axis 0 for inputs with a batch axis, others as they are.

    Raises:
        AdapterError: the items differ in an input without a batch axis.
    """
    arrays = {}
    for tensor in inputs:
        values = [item.tensors[tensor.name] for item in items]
        if not tensor.batched and any(value.tobytes() != values[0].tobytes() for value in values[1:]):
            raise AdapterError(
                f"The items of one batch differ in {tensor.name!r}, which has no batch axis.",
                hint="Give the input a batch axis in ModelSpec.inputs, or convert with --shape batch=1.",
            )
        arrays[tensor.name] = np.stack(values) if tensor.batched else values[0]
    return arrays


def take_items(tensors: Sequence[TensorSpec], arrays: Mapping[str, np.ndarray], index: Any) -> dict[str, np.ndarray]:
    """Return the items at ``index`` (a number, slice or list) of the arrays that have a batch axis, others whole."""
    return {
        tensor.name: np.asarray(arrays[tensor.name][index]) if tensor.batched else arrays[tensor.name]
        for tensor in tensors
    }


def decode_batch(
    decode: Decode, outputs: Mapping[str, np.ndarray], metas: Sequence[Mapping[str, Any]]
) -> Sequence[Result]:
    """Return one result for each of ``metas``; the decode gets outputs of 16 bits as float32.

    Raises:
        AdapterError: the decode failed, returned another number of results, or something that is no `Result`.
    """
    what, plugin = f"the decode {type(decode).__name__}", manager().origin(decode)
    with blamed_on(what, plugin):
        results = decode(widened(outputs), metas)
    return checked_results(results, len(metas), named(what, plugin))


def widened(outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return outputs with float32 in place of 16 bits, as a decode gets them."""
    return {
        name: value.astype(np.float32)
        if isinstance(value, np.ndarray) and value.dtype.name in ("float16", "bfloat16")
        else value
        for name, value in outputs.items()
    }


def checked_results(results: Any, count: int, who: str) -> Sequence[Result]:
    """Return ``results`` if they are one `Result` for each of ``count`` inputs; ``who`` names what returned them.

    Raises:
        AdapterError: they are not.
    """
    if not isinstance(results, Sequence) or len(results) != count:
        found = len(results) if isinstance(results, Sequence) else f"a {type(results).__name__} instead of"
        raise AdapterError(
            f"{who} returned {found} results for {count} inputs.",
            hint="Return a list with one result for each of metas, in their order.",
        )
    for result in results:
        if not isinstance(result, Result):
            raise AdapterError(
                f"{who} returned {'a ' if result is not None else ''}{type(result).__name__} among its results.",
                hint="Return objects of a class from convkit.Result.",
            )
    checked: Sequence[Result] = results
    return checked


def _shape_text(tensor: TensorSpec) -> str:
    return " x ".join(map(str, tensor.item_shape)) or "a scalar"
