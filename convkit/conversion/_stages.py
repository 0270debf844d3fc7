"""From the loaded model to the proved graph: each stage run and entered in the ledger."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit import __version__
from convkit.artifact import EXPORTED, KERNELS, MODEL
from convkit.backends import Session, open_session
from convkit.conversion._export import check_graph, export_onnx
from convkit.conversion._patching import patched
from convkit.cuda import write_kernels
from convkit.errors import ConversionError
from convkit.graph import REWRITES_KEY, apply_rewrite
from convkit.model import SourceModel, Target
from convkit.plugins import manager
from convkit.processing import find_decode, find_preprocess
from convkit.progress import Progress
from convkit.proof import (
    Ledger,
    Samples,
    TorchCompute,
    Verdict,
    measure_yardsticks,
    prove,
    save_ends,
    save_evidence,
    shape_cases,
)

if TYPE_CHECKING:
    import onnx

    from convkit.conversion._patching import PatchRecord
    from convkit.graph import RewriteRecord
    from convkit.proof import Compute

__all__ = ["Builder", "Images"]

STORED_SAMPLES = 2
"""Samples whose inputs and reference outputs the artifact carries."""


@dataclass(frozen=True)
class Images:
    """The images of a proof: BGR arrays, a name for each, and where they all come from."""

    arrays: Sequence[np.ndarray]
    names: Sequence[str]
    origin: str


@dataclass
class Builder:
    """Builds and proves one graph below ``folder``; the records tell what each stage did."""

    adapter: str
    source: SourceModel
    target: Target
    images: Images
    folder: Path
    backend: str
    device: str
    progress: Progress
    keep_exported: bool = False
    patches: dict[str, list[PatchRecord]] = field(default_factory=dict)
    rewrites: list[tuple[str, RewriteRecord]] = field(default_factory=list)
    translations: dict[str, str] = field(default_factory=dict)
    pictures: list[tuple[str, np.ndarray]] = field(default_factory=list)
    ir_version: int = 0

    def __post_init__(self) -> None:
        spec = self.source.spec
        self.cases = shape_cases(spec.dims)
        self.opt = next(case for case in self.cases if "opt" in case.name.split("="))
        self.decode = find_decode(self.adapter, spec.decode)
        pictures = [case.picture for case in self.cases]
        self.samples = Samples.prepare(self.adapter, spec, self.images.arrays, pictures)
        self.stored = self.samples.first(STORED_SAMPLES)

    def run(self) -> Verdict:
        """Export, rewrite and prove; write model, evidence and kernels."""
        self._measure()
        model = self._rewrite(self._export())
        self._check_expectations()
        self._stamp(model)
        self.ir_version = model.ir_version
        (self.folder / MODEL).write_bytes(model.SerializeToString())
        del model
        verdict = self._prove()
        self._write_kernels()
        return verdict

    def _measure(self) -> None:
        """Run the untouched network in float64 and float32."""
        self.progress(f"running PyTorch in float64 and float32 on {self.images.origin}")
        module, reference = self.source.module, self.source.reference
        self.exact = TorchCompute(copy.deepcopy(module).double(), reference, "float64")
        float32 = TorchCompute(module, reference, "float32")
        self.yardsticks = measure_yardsticks(
            self.source.spec, self.exact, float32, self.samples, self.cases, self.decode
        )
        self.ledger = Ledger(self.source.spec, self.stored.feed(self.opt), self.exact, self.yardsticks)
        self.ledger.add("PyTorch float32", float32, "the checkpoint's own network")

    def _export(self) -> onnx.ModelProto:
        """Export under the patches of all plugins."""
        hooks, source = manager(), self.source
        found = hooks.gather("convkit_export_patches", adapter=self.adapter, model=source, target=self.target)
        translations = hooks.gather("convkit_onnx_translations", target=self.target)
        self.translations = {str(op): plugin for plugin, pairs in translations.items() for op, _ in pairs}
        patches = [patch for group in found.values() for patch in group]
        with patched(source.module, patches, dict(source.spec.expect)) as records:
            sites = sum(len(record.sites) for record in records)
            self.ledger.add("patched", _patched(source), f"{sites} place{'' if sites == 1 else 's'} patched")
            self.progress("exporting to ONNX")
            model = export_onnx(
                source.module,
                source.spec,
                opset=self.target.opset,
                translations={op: function for pairs in translations.values() for op, function in pairs},
            )
        by_name = {record.name: record for record in records}
        self.patches = {plugin: [by_name[patch.name] for patch in group] for plugin, group in found.items() if group}
        return model

    def _rewrite(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Apply the rewrites of all plugins, each checked and entered in the ledger."""
        found = manager().gather("convkit_graph_rewrites", adapter=self.adapter, target=self.target)
        if self.keep_exported:
            (self.folder / EXPORTED).write_bytes(model.SerializeToString())
        self._run_stage("exported", model, f"opset {self.target.opset}, {len(model.graph.node)} nodes")
        for plugin, rewrites in found.items():
            for rewrite in rewrites:
                self.progress(f"rewriting: {rewrite.name}")
                model, record = apply_rewrite(model, rewrite, self.source.spec.expect.get(rewrite.name))
                self.rewrites.append((plugin, record))
                if record.fired:
                    check_graph(model)
                    self._run_stage(rewrite.name, model, f"fired {record.fired} time{'' if record.fired == 1 else 's'}")
        return model

    def _run_stage(self, name: str, model: onnx.ModelProto, note: str) -> None:
        file = self.folder / ".stage.onnx"
        try:
            file.write_bytes(model.SerializeToString())
            session = self._open(file)
            self.ledger.add(name, session.run, note)
            session.close()
        finally:
            file.unlink(missing_ok=True)

    def _prove(self) -> Verdict:
        """Prove the written file in every case, draw what it finds, keep the evidence."""
        session = self._open(self.folder / MODEL)
        verdict = prove(
            self.source.spec,
            reference=self.exact,
            engine=session.run,
            samples=self.samples,
            cases=self.cases,
            yardsticks=self.yardsticks,
            decode=self.decode,
            verdict=Verdict(
                self.backend,
                self.device,
                inputs=self.images.origin,
                yardsticks=self.yardsticks,
                ledger=self.ledger.stages,
            ),
            progress=self.progress,
        )
        self._draw(session.run)
        session.close()
        names = list(self.images.names[:STORED_SAMPLES])
        save_evidence(self.folder, self.stored, self.exact, names)
        save_ends(self.folder, self.source.spec, self.images.arrays[:STORED_SAMPLES], self.decode)
        return verdict

    def _draw(self, engine: Compute) -> None:
        if self.decode is None:
            return
        metas = [item.meta for item in self.stored.items(self.opt)]
        results = self.decode(engine(self.stored.feed(self.opt)), metas)
        self.pictures = [
            (f"{name}: {result.summary()}", result.draw(image))
            for name, result, image in zip(
                self.images.names[:STORED_SAMPLES], results, self.images.arrays, strict=False
            )
        ]

    def _write_kernels(self) -> None:
        """Write the CUDA kernels of preprocess and decode, where they have a side on the device."""
        ends: list[Any] = [find_preprocess(self.adapter, self.source.spec.preprocess), self.decode]
        sides = [end.on_device() for end in ends if hasattr(end, "on_device")]
        variants = [variant for side in sides if hasattr(side, "kernels") for variant in side.kernels()]
        if variants:
            self.progress("writing the CUDA kernels")
            write_kernels(self.folder / KERNELS, variants)

    def _open(self, file: Path) -> Session:
        return open_session(self.backend, file, device=self.device)

    def _check_expectations(self) -> None:
        """Refuse a model that expects a patch or rewrite which no loaded plugin brings."""
        known = {record.name for group in self.patches.values() for record in group}
        known |= {record.name for _, record in self.rewrites}
        for name, wanted in self.source.spec.expect.items():
            if name not in known and not wanted.accepts(0):
                raise ConversionError(
                    f"The model expects {name!r} to fire {wanted}, but no loaded plugin brings it.",
                    hint="`convkit plugins` lists the loaded ones; is one left out by --no-plugin?",
                )

    def _stamp(self, model: onnx.ModelProto) -> None:
        """Write into the ONNX file who made it and what each rewrite did, for `convkit diff`."""
        rewrites = [
            {"name": r.name, "removed": r.removed, "added": r.added, "changed": r.changed}
            for _, r in self.rewrites
            if r.fired
        ]
        model.producer_name, model.producer_version = "convkit", __version__
        for key, value in {
            "convkit.adapter": self.adapter,
            "convkit.variant": self.source.spec.variant,
            "convkit.form": self.target.form,
            REWRITES_KEY: json.dumps(rewrites),
        }.items():
            model.metadata_props.add(key=key, value=value)


def _patched(source: SourceModel) -> Compute:
    """Return what the patched module computes."""
    import torch

    def compute(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            result: Any = source.module(*(torch.from_numpy(feed[tensor.name]) for tensor in source.spec.inputs))
        values = (result,) if isinstance(result, torch.Tensor) else tuple(result)
        if len(values) != len(source.spec.outputs):
            raise ConversionError(
                f"The patched model returns {len(values)} values; the adapter declares {len(source.spec.outputs)}.",
                hint="Patch the model's forward so that it returns the outputs as a tuple.",
            )
        return {tensor.name: value.numpy() for tensor, value in zip(source.spec.outputs, values, strict=True)}

    return compute
