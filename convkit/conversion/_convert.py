"""convert(): the stages in order, from what was asked to the published artifact."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convkit._text import printable, read_text
from convkit.artifact import REPORT, VERDICT, Artifact, anchored, check_destination, publish, staging
from convkit.backends import find_backend
from convkit.conversion._settings import Settings, read_config, resolve_settings
from convkit.errors import CheckpointError, ProofFailedError, SettingError
from convkit.model import Adapter, ModelSpec, Request, SourceModel, Target
from convkit.plugins import manager
from convkit.progress import Progress, silent

if TYPE_CHECKING:
    from convkit.conversion._stages import Images

__all__ = ["Conversion", "convert", "default_output"]


def convert(
    adapter: str,
    *,
    weights: Path | str,
    output: Path | str | None = None,
    config: Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
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


@dataclass(frozen=True)
class Conversion:
    """What was asked of one conversion, resolved."""

    adapter: Adapter
    settings: Settings
    weights: Path
    output: Path | None

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
        target = Path(output) if output else None
        if target and target.name in ("", ".."):  # a name is needed for what lies beside it meanwhile
            target = anchored(target)
        return cls(chosen, resolved, Path(weights), target)

    @property
    def target(self) -> Target:
        """What the hooks are told of the result."""
        return Target(self.settings["to"], self.settings["opset"], self.settings["form"], self.settings["precision"])

    def run(self, *, overwrite: bool = False, progress: Progress = silent) -> Artifact:
        """Run all stages and return the artifact."""
        if self.output:
            _reserve(self.output, overwrite=overwrite)
        find_backend(self.settings["backend"], self.settings["device"])
        own_images = self._own_images()
        progress("reading the checkpoint")
        source = self._load()
        output = self.output or default_output(self.adapter, source, self.settings["form"])
        if not self.output:
            _reserve(output, overwrite=overwrite)
        images = own_images or self._synthetic_images(source.spec)
        with staging(output) as folder:
            return self._build(source, images, folder, output, overwrite=overwrite, progress=progress)

    def _build(
        self, source: SourceModel, images: Images, folder: Path, output: Path, *, overwrite: bool, progress: Progress
    ) -> Artifact:
        from convkit.artifact import make_manifest, render_report
        from convkit.conversion._stages import Builder

        backend, device = self.settings["backend"], self.settings["device"]
        builder = Builder(
            self.adapter.name,
            source,
            self.target,
            images,
            folder,
            backend,
            device,
            progress,
            keep_exported=self.settings["keep_exported"],
        )
        verdict = builder.run()
        progress("writing the artifact")
        document = verdict.to_json()
        manifest = make_manifest(self.adapter, self.weights, self.settings, builder, document)
        (folder / VERDICT).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / REPORT).write_text(render_report(manifest, document, builder.pictures), encoding="utf-8")
        if verdict.passed:
            return publish(folder, output, manifest, overwrite=overwrite)
        rejected = _rejected(output)
        publish(folder, rejected, manifest, overwrite=True)
        raise ProofFailedError(
            f"The ONNX model does not compute what PyTorch computes: {verdict.headline()}.",
            hint=f"The result was kept as {rejected} for inspection; `convkit validate {rejected}` shows every check.",
            verdict=verdict,
        )

    def _load(self) -> SourceModel:
        source = self.adapter.load(
            Request(
                weights=self.weights,
                form=self.settings["form"],
                dims=self.settings.dims,
                names=_read_names(self.settings["names"]),
                options=self.settings.options,
            )
        )
        for name, tensor in source.module.state_dict().items():
            if not bool(tensor.isfinite().all()):
                raise CheckpointError(
                    f"{self.weights} holds NaN or infinite weights: {name}.",
                    hint="Training diverged or the file is damaged: give an earlier checkpoint.",
                )
        return source

    def _own_images(self) -> Images | None:
        """Return the user's own images, evenly chosen, or None where none are given."""
        if self.settings["inputs"] is None:
            return None
        from convkit.conversion._stages import Images
        from convkit.processing import find_images, read_image

        path: Path = self.settings["inputs"]
        files = [path] if path.is_file() else find_images(path)
        count = min(len(files), self.settings["samples"])
        chosen = [files[index * len(files) // count] for index in range(count)]
        return Images(
            [read_image(file) for file in chosen],
            [printable(file.name) for file in chosen],
            f"{count} image{'' if count == 1 else 's'} from {printable(path.name)}",
        )

    def _synthetic_images(self, spec: ModelSpec) -> Images:
        from convkit.conversion._stages import Images

        count, seed = self.settings["samples"], self.settings["seed"]
        arrays = list(self.adapter.representative_images(spec, count, seed))
        names = [f"synthetic scene {index}" for index in range(len(arrays))]
        return Images(arrays, names, f"{len(arrays)} synthetic scene{'' if len(arrays) == 1 else 's'}, seed {seed}")


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


def _reserve(output: Path, *, overwrite: bool) -> None:
    """Refuse early what could not be written later: the artifact, or a rejected one beside it."""
    check_destination(output, overwrite=overwrite)
    check_destination(_rejected(output), overwrite=True)


def _rejected(output: Path) -> Path:
    return output.with_name(output.name + ".rejected")


def _read_names(path: Path | None) -> tuple[str, ...] | None:
    """Return the class names of a file, one a line."""
    if path is None:
        return None
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"The names file {path} cannot be read: {error}", hint="Give a UTF-8 text file.") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise SettingError(f"The names file {path} is empty.", hint="Write one class name a line.")
    return names
