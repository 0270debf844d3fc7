"""The preflight: what an adapter must keep to, checked in seconds on one or two samples, before any long work."""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit.conversion._inputs import RawInputs
from convkit.errors import AdapterError, ConversionError, InputError, PatchError, PluginError, blamed_on, named, suggest
from convkit.graph import Rewrite, in_phases
from convkit.model import (
    BATCH,
    AttributePatch,
    Dim,
    ModelSpec,
    ModulePatch,
    Patch,
    SourceModel,
    Target,
    TensorSpec,
    json_fault,
    patched,
    resolve,
)
from convkit.plugins import manager
from convkit.processing import (
    Decode,
    ImageReader,
    Preprocess,
    check_normalisation,
    decode_batch,
    device_decode,
    device_preprocess,
    find_decode,
    find_preprocess,
    prepare,
    take_items,
)
from convkit.proof import Case, Samples, TorchCompute, check_repeated, patched_compute, run_parallel, shape_cases
from convkit.results import SLACK, json_difference

if TYPE_CHECKING:
    from convkit.processing import Prepared

__all__ = ["Checked", "check_network", "check_processing", "check_source", "preflight"]

LOOKED_AT = 2
"""Samples that the preflight runs."""

Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Checked:
    """What the preflight found, for the stages after it."""

    source: SourceModel
    plugin: str
    patches: Mapping[str, Sequence[Patch]]
    rewrites: Mapping[str, Sequence[Rewrite]]
    case: Case
    samples: Samples
    raw: Any


def check_source(source: Any, adapter: str, plugin: str) -> SourceModel:
    """Return what ``load`` of an adapter returned, if it is a model that convkit can work with.

    Raises:
        AdapterError: it is no `SourceModel` of a module on the CPU, in float32 and eval mode, with a specification of
            plain JSON.
    """
    import torch

    who = named(f"load() of adapter {adapter!r}", plugin)
    if not isinstance(source, SourceModel):
        raise AdapterError(f"{who} returned a {_name(source)}.", hint="Return SourceModel(module, spec, reference).")
    for field, kind in (("module", torch.nn.Module), ("spec", ModelSpec)):
        value = getattr(source, field)
        if not isinstance(value, kind):
            raise AdapterError(
                f"{who} returned a {_name(value)} as {field}.", hint="Return SourceModel(module, spec, reference)."
            )
    if not callable(source.reference):
        raise AdapterError(
            f"{who} returned a {_name(source.reference)} as reference.",
            hint="The reference is a function of the module and its input tensors by name.",
        )
    _check_module(source.module, who)
    for name in ("preprocess", "decode", "info"):
        if fault := json_fault(getattr(source.spec, name) or {}, f"ModelSpec.{name}"):
            raise AdapterError(f"{who}: {fault[0]}.", hint=fault[1])
    if fault := json_fault([source.spec.variant, *source.spec.classes], "ModelSpec.variant or a class name"):
        raise AdapterError(f"{who}: {fault[0]}.", hint=fault[1])
    return source


def preflight(
    adapter: str, source: SourceModel, dims: Sequence[Dim], inputs: RawInputs, target: Target, plugin: str
) -> Checked:
    """Check a loaded model, its processing and its patches on a few samples in float32.

    ``dims`` are those that were asked for, ``plugin`` is the one that offers the adapter.

    Raises:
        AdapterError, PluginError, PatchError: something breaks its contract; the error names it.
        ConversionError: the model expects a patch or rewrite that no loaded plugin brings.
    """
    checked = check_processing(adapter, source, dims, inputs, target, plugin)
    check_network(checked, TorchCompute(source, source.module, "float32", plugin=plugin))
    return checked


def check_processing(
    adapter: str, source: SourceModel, dims: Sequence[Dim], inputs: RawInputs, target: Target, plugin: str
) -> Checked:
    """Do the part of the `preflight` that runs no network."""
    spec = source.spec
    _check_dims(spec, dims, named(f"adapter {adapter!r}", plugin))
    images = isinstance(find_preprocess(spec.preprocess).reader, ImageReader)
    check_normalisation(spec.preprocess, images=images)
    patches = manager().gather(
        "convkit_export_patches", of=(ModulePatch, AttributePatch), adapter=adapter, model=source, target=target
    )
    rewrites = manager().gather("convkit_graph_rewrites", of=Rewrite, adapter=adapter, target=target)
    _check_names(spec, patches, rewrites)
    in_phases(rewrites)
    case = next(case for case in shape_cases(spec.dims) if "opt" in case.name.split("="))
    samples = _samples(spec, inputs, case, plugin)
    return Checked(source, plugin, patches, rewrites, case, samples, inputs.values[0])


def check_network(checked: Checked, float32: TorchCompute) -> None:
    """Do the rest of the `preflight`; ``float32`` runs the network, and remembers what it gave."""
    source, case, samples, plugin = checked.source, checked.case, checked.samples, checked.plugin
    spec = source.spec
    outputs, metas = _reference(source, float32, samples, case, plugin)
    decode = find_decode(spec.decode)
    if decode:
        _check_decode(decode, spec, outputs, metas)
    _check_device_sides(find_preprocess(spec.preprocess, dict(case.item_sizes)), decode, checked.raw, metas[0])
    _check_patched(source, checked.patches, samples.feed(_of(case, 1)), case, plugin)


def _check_module(module: Any, who: str) -> None:
    training = [path or type(part).__name__ for path, part in module.named_modules() if part.training]
    if training:
        raise AdapterError(
            f"{who} returned a module in training mode: {_some(training)}.",
            hint="Call module.eval() before you return it: BatchNorm and dropout compute something else in training.",
        )
    tensors = [*module.named_parameters(), *module.named_buffers()]
    wrong = [
        f"{name} ({str(value.dtype).removeprefix('torch.')} on {value.device.type})"
        for name, value in tensors
        if value.device.type != "cpu" or (value.is_floating_point() and str(value.dtype) != "torch.float32")
    ]
    if wrong:
        raise AdapterError(
            f"{who} returned a module that is not in float32 on the CPU: {_some(wrong)}.",
            hint="Load with map_location='cpu' and call module.float(); the engine's precision is chosen later.",
        )


def _check_dims(spec: ModelSpec, asked: Sequence[Dim], who: str) -> None:
    wanted, found = {dim.name: dim for dim in asked}, {dim.name: dim for dim in spec.dims}
    hint = "Return request.dims in ModelSpec.dims, narrowed where the model must."
    if wanted.keys() != found.keys():
        raise AdapterError(
            f"{who} returned the dimensions {', '.join(found) or 'none'} where {', '.join(wanted)} were asked for.",
            hint=hint,
        )
    for name, dim in found.items():
        if not wanted[name].min <= dim.min <= dim.max <= wanted[name].max:
            raise AdapterError(f"{who} returned the dimension {dim} where {wanted[name]} was asked for.", hint=hint)


def _check_names(
    spec: ModelSpec, patches: Mapping[str, Sequence[Patch]], rewrites: Mapping[str, Sequence[Rewrite]]
) -> None:
    """Refuse two changes of one name, and expectations of the model that are about none."""
    known: dict[str, str] = {}
    for plugin, group in (*patches.items(), *rewrites.items()):
        for change in group:
            if change.name in known:
                owners = " and ".join(sorted({repr(known[change.name]), repr(plugin)}))
                raise PluginError(
                    f"Two patches or rewrites have the name {change.name!r}: of plugin {owners}.",
                    hint="Name each of them for itself, as plugin.what-it-does.",
                )
            known[change.name] = plugin
    for name, wanted in spec.expect.items():
        if name not in known and not wanted.accepts(0):
            raise ConversionError(
                f"The model expects {name!r} to fire {wanted}, but no loaded plugin brings it.",
                hint=f"{suggest(name, known)} `convkit plugins` lists the loaded ones; is one left out by --no-plugin?"
                " ModelSpec.expect takes names of patches and rewrites.".strip(),
            )


def _samples(spec: ModelSpec, inputs: RawInputs, case: Case, plugin: str) -> Samples:
    """Return the first raw inputs made ready, twice and alike, and once more from the files that they become."""
    raws = list(inputs.values[:LOOKED_AT])
    try:
        samples = Samples.prepare(spec, raws, [case.item_sizes])
    except InputError as error:
        if not inputs.by_adapter:
            raise
        raise AdapterError(
            f"{named('the preprocess', plugin)} does not take what samples() returns: {error.message}",
            hint=f"Adapter.samples must return raw inputs as the preprocess takes them. {error.hint}",
        ) from error
    preprocess = find_preprocess(spec.preprocess, dict(case.item_sizes))
    who = named(f"the preprocess {type(preprocess).__name__}", manager().origin(preprocess))
    for item, raw in zip(samples.prepared[case.item_sizes], raws, strict=True):
        for name, tensor in item.tensors.items():
            if count := _not_finite(tensor):
                raise AdapterError(
                    f"{who} returned {count} values for {name!r} that are NaN or infinite.",
                    hint="Is a standard deviation zero, or an input of another scale than the preprocess expects?",
                )
        if not _alike(item, prepare(spec, preprocess, raw)):
            raise AdapterError(
                f"{who} returned two different results for one input.",
                hint="A preprocess must be deterministic, and may not write into its input.",
            )
    _check_reader(spec, preprocess, raws[0], samples.items(_of(case, 1))[0])
    return samples


def _check_reader(spec: ModelSpec, preprocess: Preprocess, raw: Any, item: Prepared) -> None:
    reader = preprocess.reader
    what, plugin = f"the reader {type(reader).__name__}", manager().origin(preprocess)
    with tempfile.TemporaryDirectory() as folder:
        with blamed_on(f"write() of {what}", plugin):
            file: Any = reader.write(raw, Path(folder) / "input")
        if not isinstance(file, Path) or not file.is_file():
            raise AdapterError(
                f"{named(f'write() of {what}', plugin)} returned {file!r}, which is no file.",
                hint="Return the path that was written: the given one with a suffix.",
            )
        with blamed_on(f"read() of {what}", plugin):
            again = reader.read(file)
    if not _alike(item, prepare(spec, preprocess, again)):
        raise AdapterError(
            f"{named(what, plugin)} reads another input from {file.name} than it wrote.",
            hint="write() must keep an input without loss: the artifact's proof is replayed on what is read back.",
        )


def _reference(
    source: SourceModel, compute: TorchCompute, samples: Samples, case: Case, plugin: str
) -> tuple[Outputs, list[Mapping[str, Any]]]:
    """Return what the reference gives for the samples, in one batch where that may be, and their metas."""
    spec, who = source.spec, named("the adapter's reference", plugin)
    count = min(len(samples.prepared[case.item_sizes]), spec.batch.max)
    several = _of(case, count)
    feed = samples.feed(several)
    before = {name: value.copy() for name, value in feed.items()}
    run_parallel(compute.pending([feed], anew=True))  # here: what it does besides is not seen in other processes
    outputs = compute(feed)
    for name, value in feed.items():
        if not np.array_equal(value, before[name], equal_nan=value.dtype.kind == "f"):
            raise AdapterError(f"{who} writes into its input {name!r}.", hint="Work on a copy: x = x.clone().")
    sizes = {**case.table, BATCH: count}
    for tensor in spec.outputs:
        value = outputs[tensor.name]
        _check_tensor(value, tensor, sizes, who)
        where_infinite = np.isinf(value) if tensor.compare == "values" and value.dtype.kind == "f" else False
        if count := _not_finite(np.where(where_infinite, 0, value)):
            raise AdapterError(
                f"{who} returned {count} values in {tensor.name!r} that are no finite numbers.",
                hint="Do the weights belong to this network, and are the samples what it was trained on?",
            )
    return outputs, samples.metas(several)


def _check_patched(
    source: SourceModel,
    patches: Mapping[str, Sequence[Patch]],
    feed: Mapping[str, np.ndarray],
    case: Case,
    plugin: str,
) -> None:
    """Run the patched model once: module patches fire, outputs are tensors as declared, and the weights stay."""
    spec, before = source.spec, _weights(source.module)
    with patched(source.module, [patch for group in patches.values() for patch in group], spec.expect, calls=False):
        outputs = patched_compute(source, plugin)(feed)
    after = _weights(source.module)
    if changed := [name for name in before if before[name] != after.get(name)]:
        owners = " or ".join(repr(patch.name) for group in patches.values() for patch in group)
        raise PatchError(
            f"The patched model changes its own weights when it runs: {_some(changed)}. Patches: {owners or 'none'}.",
            hint="Work on copies: the network without patches is the reference of the proof.",
        )
    sizes = {**case.table, BATCH: 1}
    for tensor in spec.outputs:
        _check_tensor(outputs[tensor.name], tensor, sizes, named("the patched model", plugin))


def _weights(module: Any) -> dict[str, int]:
    """Return a check sum of each parameter."""
    return {
        name: zlib.crc32(np.ascontiguousarray(value.detach().numpy()).data) for name, value in module.named_parameters()
    }


def _check_tensor(value: np.ndarray, tensor: TensorSpec, sizes: Mapping[str, int], who: str) -> None:
    shape, dtype = resolve(tensor.shape, sizes), str(value.dtype)
    if value.shape != shape or dtype != tensor.dtype:
        raise AdapterError(
            f"{who} returned {tensor.name!r} as {dtype} {list(value.shape)}; ModelSpec.outputs declares"
            f" {tensor.dtype} {list(shape)} ({' x '.join(map(str, tensor.shape)) or 'a scalar'}).",
            hint="Mend the TensorSpec of that output, or what returns it.",
        )


def _check_decode(decode: Decode, spec: ModelSpec, outputs: Outputs, metas: Sequence[Mapping[str, Any]]) -> None:
    """Decode the samples together, again, and one by one: a result for each, the same each time, and plain JSON."""
    who = named(f"the decode {type(decode).__name__}", manager().origin(decode))
    before = {name: value.copy() for name, value in outputs.items()}
    results = decode_batch(decode, outputs, metas)
    for name, value in outputs.items():
        if not np.array_equal(value, before[name], equal_nan=value.dtype.kind == "f"):
            raise AdapterError(f"{who} writes into the output {name!r}.", hint="Work on a copy.")
    for result in results:
        with blamed_on(f"to_json() or compare() of {type(result).__name__}", manager().origin(decode)):
            document, same = result.to_json(), result.compare(result)
        if fault := json_fault(document, f"{type(result).__name__}.to_json()"):
            raise AdapterError(f"{who}: {fault[0]}.", hint=fault[1])
        if same.unexplained:
            raise AdapterError(
                f"{who} returned a {type(result).__name__} that differs from itself. {same.note}".rstrip(),
                hint="compare() must find nothing between equal results.",
            )
    check_repeated(decode, outputs, metas, results)
    for row, meta in enumerate(metas if len(metas) > 1 else ()):
        alone = decode_batch(decode, take_items(spec.outputs, outputs, slice(row, row + 1)), [meta])[0]
        note = json_difference(results[row].to_json(), alone.to_json(), SLACK, "result")
        if not note:
            continue
        raise AdapterError(
            f"{who} gives another result for an input in a batch than for that input alone: {note}.",
            hint="Decode each row of the outputs by itself, with the meta of the same row.",
        )


def _check_device_sides(preprocess: Preprocess, decode: Decode | None, raw: Any, meta: Mapping[str, Any]) -> None:
    """Call what of the device ends needs no GPU."""
    ends = (preprocess, device_preprocess(preprocess)), (decode, device_decode(decode))
    for host, side in ends:
        if side is not None:
            with blamed_on(f"kernels() of {type(side).__name__}", manager().origin(host)):
                list(side.kernels())
    place, back = ends[0][1], ends[1][1]
    if place is not None:
        plugin, name = manager().origin(preprocess), type(place).__name__
        with blamed_on(f"place() of {name}", plugin):
            placement = place.place(raw)
        with blamed_on(f"row() of {name}", plugin, "The record must be a structured type whose fields row() fills."):
            np.zeros(1, place.record)[0] = place.row(placement, 0)
    if back is not None:
        name = type(back).__name__
        with blamed_on(f"values() of {name}", manager().origin(decode), "It must give every array of inputs by name."):
            values = back.values(meta)
            for array in back.inputs:
                np.zeros((1, *array.shape), array.dtype)[0] = values[array.name]


def _of(case: Case, batch: int) -> Case:
    """Return the case with another batch."""
    return Case(case.name, tuple((name, batch if name == BATCH else size) for name, size in case.sizes), case.varying)


def _alike(first: Prepared, second: Prepared) -> bool:
    return json.dumps(first.meta) == json.dumps(second.meta) and all(
        np.array_equal(first.tensors[name], second.tensors[name]) for name in first.tensors
    )


def _not_finite(value: np.ndarray) -> int:
    return int((~np.isfinite(value)).sum()) if value.dtype.kind in "fc" else 0


def _some(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _name(value: Any) -> str:
    return f"{value.__name__} (a class)" if isinstance(value, type) else type(value).__name__
