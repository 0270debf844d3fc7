"""The adapter under test: how the kit loads, patches, feeds and converts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convkit.graph import in_phases
from convkit.model import Adapter, Dim, Request, SourceModel, Target, apply_overrides
from convkit.plugins import manager
from convkit.processing import find_decode
from convkit.proof import Samples, shape_cases

if TYPE_CHECKING:
    import numpy as np

    from convkit.artifact import Artifact
    from convkit.graph import Rewrite
    from convkit.model import Patch
    from convkit.processing import Decode

__all__ = ["Subject"]

SMALL_BATCH = "batch=1:2:3"


@dataclass(frozen=True)
class Subject:
    """An adapter, a checkpoint for it, and what the kit asks of it."""

    adapter: Adapter
    weights: Path
    shapes: tuple[str, ...] = ()
    options: Mapping[str, Any] | None = None
    backend: str = "onnxruntime"

    @classmethod
    def find(
        cls, name: str, weights: Path, shapes: Sequence[str], options: Mapping[str, Any], backend: str = "onnxruntime"
    ) -> Subject:
        """Return the subject; a batch that may vary is kept to three samples unless ``shapes`` names it."""
        adapter = manager().adapter(name)
        varies = any(dim.name == "batch" and dim.dynamic for dim in adapter.dims)
        named = any(shape.partition("=")[0] == "batch" for shape in shapes)
        kept = (*shapes, SMALL_BATCH) if varies and not named else tuple(shapes)
        return cls(adapter, Path(weights), kept, options, backend)

    @property
    def plugin(self) -> str:
        """The entry-point name of the plugin that offers the adapter."""
        return manager().owner(self.adapter.name).name

    @property
    def dims(self) -> tuple[Dim, ...]:
        """The dimensions that the kit asks for."""
        return apply_overrides(self.adapter.dims, self.shapes)

    def request(self, form: str, *, weights: Path | None = None, names: tuple[str, ...] | None = None) -> Request:
        """Return what `Adapter.load` is asked for."""
        options = self._options(form)
        own = {option.name: options[option.name] for option in self.adapter.options}
        return Request(weights or self.weights, form, self.dims, names, own)

    def load(self, form: str) -> SourceModel:
        """Load the checkpoint anew."""
        return self.adapter.load(self.request(form))

    def target(self, form: str) -> Target:
        """Return what the hooks learn of the result: options of the adapter and of plugins, as in a conversion."""
        return Target(opset=self.adapter.opset, form=form, options=self._options(form))

    def patches(self, source: SourceModel, form: str) -> list[Patch]:
        """Return the export patches of every plugin."""
        arguments: dict[str, Any] = {"adapter": self.adapter.name, "model": source, "target": self.target(form)}
        return [patch for group in manager().gather("convkit_export_patches", **arguments).values() for patch in group]

    def rewrites(self, form: str) -> list[Rewrite]:
        """Return the graph rewrites of every plugin, in order."""
        found = manager().gather("convkit_graph_rewrites", adapter=self.adapter.name, target=self.target(form))
        return [rewrite for _, rewrite in in_phases(found)]

    def decode(self, source: SourceModel) -> Decode | None:
        """Return the decode of the model, or None where it has none."""
        return find_decode(source.spec.decode)

    def samples(self, source: SourceModel, raws: Sequence[Any]) -> Samples:
        """Return the raw inputs made ready for every shape that the kit asks for."""
        return Samples.prepare(source.spec, raws, [case.item_sizes for case in shape_cases(source.spec.dims)])

    def feed(self, source: SourceModel, raws: Sequence[Any]) -> dict[str, np.ndarray]:
        """Return the input tensors of the first shape."""
        return self.samples(source, raws).feed(shape_cases(source.spec.dims)[0])

    def _options(self, form: str) -> Mapping[str, Any]:
        from convkit.conversion import resolve_settings

        asked = {"form": form, "set": dict(self.options or {})}
        return resolve_settings(self.adapter, asked, {}, "the kit", Path(self.weights)).options

    def preflight(self, form: str, raws: Sequence[Any]) -> None:
        """Check the adapter on its first raw inputs, as ``convkit convert`` does before any long work.

        Raises:
            ConvkitError: it breaks its contract.
        """
        from convkit.conversion import RawInputs, check_source, preflight

        source = check_source(self.load(form), self.adapter.name, self.plugin)
        inputs = RawInputs(raws, [f"input {index}" for index in range(len(raws))], "the kit", by_adapter=True)
        preflight(self.adapter.name, source, self.dims, inputs, self.target(form), self.plugin)

    def convert(self, form: str, output: Path) -> Artifact:
        """Convert the checkpoint with few samples.

        Raises:
            ConvkitError: the conversion or the proof failed.
        """
        from convkit.conversion import convert

        return convert(
            self.adapter.name,
            weights=self.weights,
            output=output,
            form=form,
            shape=list(self.shapes),
            set=dict(self.options or {}),
            samples=4,
            backend=self.backend,
        ).artifact
