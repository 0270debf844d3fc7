"""convert(): the stages in order, each proved against the one before it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit import __version__
from convkit.adapter import Adapter, Request, SourceModel, Target
from convkit.artifact import MODEL, VERDICT, Artifact, check_destination, publish, staging
from convkit.backends import open_session
from convkit.errors import ConversionError, ProofFailedError, SettingError
from convkit.manifest import environment, spec_to_json, weights_entry
from convkit.plugins import manager
from convkit.settings import Settings, read_config, resolve_settings

if TYPE_CHECKING:
    import onnx

    from convkit.graph import RewriteRecord
    from convkit.patching import PatchRecord
    from convkit.proof import Verdict

__all__ = ["Conversion", "convert", "default_output"]

STORED_SAMPLES = 2
"""Samples whose inputs and reference outputs the artifact carries."""

Progress = Callable[[str], None]


def convert(
    adapter: str,
    *,
    weights: Path | str,
    output: Path | str | None = None,
    config: Path | None = None,
    overwrite: bool = False,
    progress: Progress = lambda text: None,
    **settings: Any,
) -> Artifact:
    """Convert a checkpoint to a proved artifact.

    ``settings`` are those of the command line: ``form``, ``shape`` (list of ``NAME=N`` or
    ``NAME=MIN:OPT:MAX``), ``opset``, ``inputs`` (folder of images), ``names`` (file), ``set``
    (mapping of adapter options), ``samples``, ``seed``, ``backend``, ``device``.

    Raises:
        AdapterNotFoundError, SettingError, CheckpointError, OutputError: what was asked cannot be done.
        ConversionError: a stage failed.
        ProofFailedError: the engine does not compute what PyTorch computes; the result was kept
            beside ``output`` as ``<output>.rejected``.
    """
    conversion = Conversion.plan(adapter, weights=weights, output=output, config=config, settings=settings)
    return conversion.run(overwrite=overwrite, progress=progress)


@dataclass
class Conversion:
    """One conversion: what was asked, resolved, and the records of what each stage did."""

    adapter: Adapter
    settings: Settings
    weights: Path
    output: Path | None
    patches: dict[str, list[PatchRecord]] = field(default_factory=dict)
    rewrites: list[tuple[str, RewriteRecord]] = field(default_factory=list)
    translations: dict[str, str] = field(default_factory=dict)
    ir_version: int = 0

    @classmethod
    def plan(
        cls,
        adapter: str,
        *,
        weights: Path | str,
        output: Path | str | None = None,
        config: Path | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Conversion:
        """Resolve what was asked; nothing is read but the configuration file."""
        chosen = manager().adapter(adapter)
        table, origin = read_config(config)
        resolved = resolve_settings(chosen, settings or {}, table, origin)
        return cls(chosen, resolved, Path(weights), Path(output) if output else None)

    @property
    def target(self) -> Target:
        """What the hooks are told of the result."""
        return Target(self.settings["to"], self.settings["opset"], self.settings["form"], self.settings["precision"])

    def run(self, *, overwrite: bool = False, progress: Progress = lambda text: None) -> Artifact:
        """Run all stages and return the artifact."""
        if self.output:
            check_destination(self.output, overwrite=overwrite)
        images, sources = self._images()
        progress("reading the checkpoint")
        source = self.adapter.load(
            Request(
                weights=self.weights,
                form=self.settings["form"],
                dims=self.settings.dims,
                names=_read_names(self.settings["names"]),
                options=self.settings.options,
            )
        )
        output = self.output or default_output(self.adapter, source, self.settings["form"])
        if not self.output:
            check_destination(output, overwrite=overwrite)
        if images is None:
            images = list(
                self.adapter.representative_images(source.spec, self.settings["samples"], self.settings["seed"])
            )
            sources = [f"synthetic scene {index}, seed {self.settings['seed']}" for index in range(len(images))]
        with staging(output) as folder:
            verdict = self._build(source, images, sources, folder, progress)
            progress("writing the artifact")
            (folder / VERDICT).write_text(
                json.dumps(verdict.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )
            manifest = self._manifest(source, verdict)
            if verdict.passed:
                return publish(folder, output, manifest, overwrite=overwrite)
            rejected = output.with_name(output.name + ".rejected")
            publish(folder, rejected, manifest, overwrite=True)
        error = ProofFailedError(
            f"The ONNX model does not compute what PyTorch computes: {verdict.headline()}.",
            hint=f"The result was kept as {rejected} for inspection; `convkit validate {rejected}` shows every check.",
        )
        error.verdict = verdict  # type: ignore[attr-defined]
        raise error

    def _images(self) -> tuple[list[np.ndarray] | None, list[str]]:
        """Return the user's own images, evenly chosen, or None where there are none."""
        if self.settings["inputs"] is None:
            return None, []
        from convkit.imaging import find_images, read_image

        path: Path = self.settings["inputs"]
        files = [path] if path.is_file() else find_images(path)
        count = min(len(files), self.settings["samples"])
        chosen = [files[index * len(files) // count] for index in range(count)]
        return [read_image(file) for file in chosen], [file.name for file in chosen]

    def _build(
        self,
        source: SourceModel,
        images: Sequence[np.ndarray],
        sources: list[str],
        folder: Path,
        progress: Progress,
    ) -> Verdict:
        """Export, rewrite and prove; write model and evidence below ``folder``."""
        from convkit.export import check_graph, export_onnx
        from convkit.graph import apply_rewrite
        from convkit.patching import patched
        from convkit.proof import (
            Ledger,
            Samples,
            TorchCompute,
            Verdict,
            find_decode,
            measure_yardsticks,
            prove,
            save_evidence,
            shape_cases,
        )

        spec, target, hooks = source.spec, self.target, manager()
        cases = shape_cases(spec.dims)
        decode = find_decode(self.adapter.name, spec.decode)
        samples = Samples.prepare(self.adapter.name, spec, images, [case.picture for case in cases])

        progress("running PyTorch in float64 and float32")
        exact = TorchCompute(copy.deepcopy(source.module).double(), source.reference, "float64")
        float32 = TorchCompute(source.module, source.reference, "float32")
        yardsticks = measure_yardsticks(spec, exact, float32, samples, cases, decode)
        opt = next(case for case in cases if "opt" in case.name.split("="))
        ledger = Ledger(spec, samples.first(STORED_SAMPLES).feed(opt), exact, yardsticks)
        ledger.add("PyTorch float32", float32, "the checkpoint's own network")

        found = hooks.gather("convkit_export_patches", adapter=self.adapter.name, model=source, target=target)
        patches = [patch for group in found.values() for patch in group]
        translations = hooks.gather("convkit_onnx_translations", target=target)
        self.translations = {str(op): name for name, pairs in translations.items() for op, _ in pairs}
        with patched(source.module, patches, dict(spec.expect)) as records:
            ledger.add("patched", _patched_compute(source), f"{sum(len(r.sites) for r in records)} places patched")
            progress("exporting to ONNX")
            model = export_onnx(
                source.module,
                spec,
                opset=target.opset,
                translations={op: function for pairs in translations.values() for op, function in pairs},
            )
        by_name = {record.name: record for record in records}
        self.patches = {name: [by_name[patch.name] for patch in group] for name, group in found.items() if group}
        with _StageRunner(folder, self.settings["backend"], self.settings["device"]) as runner:
            ledger.add("exported", runner(model), f"opset {target.opset}, {len(model.graph.node)} nodes")
            for plugin, rewrites in hooks.gather(
                "convkit_graph_rewrites", adapter=self.adapter.name, target=target
            ).items():
                for rewrite in rewrites:
                    progress(f"rewriting: {rewrite.name}")
                    model, record = apply_rewrite(model, rewrite, spec.expect.get(rewrite.name))
                    self.rewrites.append((plugin, record))
                    if record.fired:
                        check_graph(model)
                        ledger.add(rewrite.name, runner(model), f"fired {record.fired} times")
        self._check_expectations(spec.expect, by_name)
        self._stamp(model, source)
        self.ir_version = model.ir_version
        (folder / MODEL).write_bytes(model.SerializeToString())

        device = self.settings["device"]
        session = open_session(self.settings["backend"], folder / MODEL, device=device)
        verdict = Verdict(
            self.settings["backend"], device, inputs=_describe_inputs(self.settings, images), yardsticks=yardsticks
        )
        prove(
            spec,
            reference=exact,
            engine=session.run,
            samples=samples,
            cases=cases,
            yardsticks=yardsticks,
            decode=decode,
            verdict=verdict,
            progress=progress,
        )
        session.close()
        verdict.ledger = ledger.stages
        save_evidence(folder, samples.first(STORED_SAMPLES), exact, sources[:STORED_SAMPLES])
        return verdict

    def _check_expectations(self, expect: Mapping[str, Any], patches: Mapping[str, Any]) -> None:
        """Refuse a model that expects a patch or rewrite which no loaded plugin brings."""
        known = {*patches, *(record.name for _, record in self.rewrites)}
        for name, wanted in expect.items():
            if name not in known and not wanted.accepts(0):
                raise ConversionError(
                    f"The model expects {name!r} to fire {wanted}, but no loaded plugin brings it.",
                    hint="`convkit plugins` lists the loaded ones; is one left out by --no-plugin?",
                )

    def _stamp(self, model: onnx.ModelProto, source: SourceModel) -> None:
        """Write into the ONNX file who made it and what each rewrite did, for `convkit diff`."""
        rewrites = [
            {"name": r.name, "removed": r.removed, "added": r.added, "changed": r.changed}
            for _, r in self.rewrites
            if r.fired
        ]
        model.producer_name, model.producer_version = "convkit", __version__
        for key, value in {
            "convkit.adapter": self.adapter.name,
            "convkit.variant": source.spec.variant,
            "convkit.form": self.settings["form"],
            "convkit.rewrites": json.dumps(rewrites),
        }.items():
            model.metadata_props.add(key=key, value=value)

    def _manifest(self, source: SourceModel, verdict: Verdict) -> dict[str, Any]:
        plugins = {info.name: info for info in manager().infos()}
        offers = manager().gather("convkit_adapters")
        owner = next(name for name, items in offers.items() if self.adapter.name in {item.name for item in items})
        return {
            "convkit": __version__,
            "adapter": {
                "name": self.adapter.name,
                "plugin": owner,
                "distribution": plugins[owner].distribution,
                "version": plugins[owner].version,
            },
            "weights": weights_entry(self.weights),
            "model": spec_to_json(source.spec),
            "graph": {"format": self.target.format, "opset": self.target.opset, "form": self.target.form,
                      "precision": self.target.precision, "ir_version": self.ir_version},
            "settings": self.settings.to_json(),
            "patches": {name: [asdict(record) for record in group] for name, group in self.patches.items()},
            "translations": self.translations,
            "rewrites": [{"plugin": plugin, **asdict(record)} for plugin, record in self.rewrites],
            "environment": environment({"backend": self.settings["backend"], "device": self.settings["device"]}),
            "verdict": {"passed": verdict.passed, "headline": verdict.headline()},
        }  # fmt: skip


class _StageRunner:
    """Runs the model of an intermediate stage on the backend."""

    def __init__(self, folder: Path, backend: str, device: str) -> None:
        self.file, self.backend, self.device = folder / ".stage.onnx", backend, device

    def __enter__(self) -> _StageRunner:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.unlink(missing_ok=True)

    def __call__(self, model: onnx.ModelProto) -> Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]:
        self.file.write_bytes(model.SerializeToString())
        session = open_session(self.backend, self.file, device=self.device)
        return session.run


def _patched_compute(source: SourceModel) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """Return what the patched module computes, as a `Compute`."""
    import torch

    def compute(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            result = source.module(*(torch.from_numpy(feed[tensor.name]) for tensor in source.spec.inputs))
        values = (result,) if isinstance(result, torch.Tensor) else tuple(result)
        if len(values) != len(source.spec.outputs):
            raise ConversionError(
                f"The patched model returns {len(values)} values; the adapter declares {len(source.spec.outputs)}.",
                hint="Patch the model's forward so that it returns the outputs as a tuple.",
            )
        return {tensor.name: value.numpy() for tensor, value in zip(source.spec.outputs, values, strict=True)}

    return compute


def default_output(adapter: Adapter, source: SourceModel, form: str) -> Path:
    """Return for example ``centernet-resdcn18-512`` or ``centernet-resdcn18-64x96-tutorial``."""
    dims = {dim.name: dim for dim in source.spec.dims}
    parts = [adapter.name, source.spec.variant.replace("_", "")]
    if "height" in dims and "width" in dims:
        height, width = dims["height"], dims["width"]
        parts.append(f"{height.opt}" if height.opt == width.opt else f"{height.opt}x{width.opt}")
    if form != adapter.forms[0]:
        parts.append(form)
    return Path("-".join(part for part in parts if part))


def _read_names(path: Path | None) -> tuple[str, ...] | None:
    """Return the class names of a file, one a line."""
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"The names file {path} cannot be read: {error}", hint="Give a UTF-8 text file.") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise SettingError(f"The names file {path} is empty.", hint="Write one class name a line.")
    return names


def _describe_inputs(settings: Settings, images: Sequence[np.ndarray]) -> str:
    if settings["inputs"]:
        return f"{len(images)} images of {Path(settings['inputs']).name}"
    return f"{len(images)} synthetic scenes, seed {settings['seed']}"
