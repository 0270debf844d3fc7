"""The stages of a conversion: functions that take the records they need and return one of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit import __version__
from convkit.artifact import EXPORTED, KERNELS, MODEL
from convkit.backends import Backend, Engine, Session, open_engine
from convkit.conversion._export import check_graph, export_onnx
from convkit.conversion._export_errors import named_in_exports
from convkit.cuda import write_kernels
from convkit.errors import blamed_on
from convkit.graph import REWRITES_KEY, Rewrite, RewriteRecord, apply_rewrite, in_phases, save_onnx
from convkit.model import ModelSpec, Patch, PatchRecord, SourceModel, Target, patched
from convkit.plugins import manager
from convkit.processing import (
    device_decode,
    device_preprocess,
    find_decode,
    find_preprocess,
)
from convkit.progress import Progress
from convkit.proof import (
    Ledger,
    patched_compute,
)
from convkit.reporting import excerpts_of

if TYPE_CHECKING:
    import onnx

__all__ = [
    "Exported",
    "Rewritten",
    "Runner",
    "export",
    "rewrite",
    "write_device_kernels",
]


@dataclass(frozen=True)
class Runner:
    """The backend that runs the graph at each stage, and its device."""

    backend: Backend
    device: str

    def open(self, file: Path) -> Session:
        """Return a session of an ONNX file."""
        return open_engine(self.backend, Engine(self.backend.name, file), device=self.device)

    def run(self, file: Path, feeds: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        """Return the outputs of an ONNX file on each of the feeds."""
        session = self.open(file)
        try:
            return [session.run(feed) for feed in feeds]
        finally:
            session.close()


@dataclass(frozen=True)
class Exported:
    """The graph as PyTorch exported it, and by which patches and translations."""

    model: onnx.ModelProto
    patches: Mapping[str, Sequence[PatchRecord]]
    translations: Mapping[str, str]


@dataclass(frozen=True)
class Rewritten:
    """The graph after the rewrites, what each did, by plugin, and for the report what it looks like at one place."""

    model: onnx.ModelProto
    rewrites: Sequence[tuple[str, RewriteRecord]]
    graphs: Sequence[Mapping[str, Any]] = ()


def export(
    source: SourceModel,
    target: Target,
    found: Mapping[str, Sequence[Patch]],
    ledger: Ledger,
    plugin: str,
    progress: Progress,
) -> Exported:
    """Export the model under the patches of all plugins, ``found`` by plugin."""
    translations = manager().gather("convkit_onnx_translations", target=target)
    patches = [patch for group in found.values() for patch in group]
    with patched(source.module, patches, source.spec.expect) as records:
        sites = sum(len(record.sites) for record in records)
        ledger.add("patched", patched_compute(source, plugin), f"{sites} place{'' if sites == 1 else 's'} patched")
        progress("exporting to ONNX")
        with named_in_exports(found, translations):
            model = export_onnx(
                source.module,
                source.spec,
                opset=target.opset,
                translations={op: function for pairs in translations.values() for op, function in pairs},
            )
    by_name = {record.name: record for record in records}
    return Exported(
        model,
        {plugin: [by_name[patch.name] for patch in group] for plugin, group in found.items() if group},
        {str(op): plugin for plugin, pairs in translations.items() for op, _ in pairs},
    )


def rewrite(
    adapter: str,
    spec: ModelSpec,
    target: Target,
    found: Mapping[str, Sequence[Rewrite]],
    exported: Exported,
    runner: Runner,
    ledger: Ledger,
    folder: Path,
    progress: Progress,
    *,
    keep_exported: bool = False,
) -> Rewritten:
    """Apply the rewrites of all plugins, ``found`` by plugin, by phase; each is checked and entered in the ledger.

    Raises:
        RewriteError: a rewrite fired another number of times than it declares.
        ExportError: it left a graph that is not valid.
    """
    model = exported.model
    if keep_exported:
        save_onnx(model, folder / EXPORTED)
    records: list[tuple[str, RewriteRecord]] = []
    graphs: list[Mapping[str, Any]] = []
    _enter(ledger, "exported", model, runner, folder, f"opset {target.opset}, {len(model.graph.node)} nodes")
    for plugin, change in in_phases(found):
        progress(f"rewriting: {change.name}")
        before = model
        model, record = apply_rewrite(model, change, spec.expect.get(change.name))
        graphs += excerpts_of(before, model, record)
        records.append((plugin, record))
        if record.fired:
            check_graph(model, f"rewrite {change.name!r} of plugin {plugin!r}")
            note = f"fired {record.fired} time{'' if record.fired == 1 else 's'}"
            _enter(ledger, change.name, model, runner, folder, note)
    _stamp(model, adapter, spec, target, records)
    save_onnx(model, folder / MODEL)
    return Rewritten(model, records, graphs)


def write_device_kernels(spec: ModelSpec, folder: Path, progress: Progress) -> None:
    """Write the CUDA kernels of preprocess and decode, where they run on a GPU."""
    preprocess, decode = find_preprocess(spec.preprocess), find_decode(spec.decode)
    variants = []
    for host, side in ((preprocess, device_preprocess(preprocess)), (decode, device_decode(decode))):
        if side is not None:
            with blamed_on(f"kernels() of {type(side).__name__}", manager().origin(host)):
                variants += list(side.kernels())
    if variants:
        progress("writing the CUDA kernels")
        write_kernels(folder / KERNELS, variants)


def _enter(ledger: Ledger, name: str, model: onnx.ModelProto, runner: Runner, folder: Path, note: str) -> None:
    """Run a graph on the ledger's samples and enter it there."""
    file = folder / ".stage.onnx"
    try:
        save_onnx(model, file)
        (outputs,) = runner.run(file, [ledger.feed])
    finally:
        for part in folder.glob(f"{file.name}*"):
            part.unlink()
    ledger.add(name, lambda feed: outputs, note)


def _stamp(
    model: onnx.ModelProto,
    adapter: str,
    spec: ModelSpec,
    target: Target,
    rewrites: Sequence[tuple[str, RewriteRecord]],
) -> None:
    """Write into the ONNX file who made it and what each rewrite did, for `convkit diff`."""
    changes: list[dict[str, Any]] = [
        {"name": r.name, "removed": r.removed, "added": r.added, "changed": r.changed} for _, r in rewrites if r.fired
    ]
    model.producer_name, model.producer_version = "convkit", __version__
    for key, value in {
        "convkit.adapter": adapter,
        "convkit.variant": spec.variant,
        "convkit.form": target.form,
        REWRITES_KEY: json.dumps(changes),
    }.items():
        model.metadata_props.add(key=key, value=value)
