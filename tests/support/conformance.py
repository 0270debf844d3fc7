"""Run single checks of the conformance kit on the toy adapter and on faulty variants of it."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.plugins import registered
from support.toy import Resize, Softmax, ToyAdapter, ToyPlugin

from convkit import (
    Adapter,
    Artifact,
    CheckpointError,
    Classification,
    ModulePatch,
    Prepared,
    Request,
    Rewrite,
    SourceModel,
    hookimpl,
)
from convkit.testing import FAULTS, AdapterConformance
from convkit.testing._replay import Replay
from convkit.testing._subject import Subject

Edit = Callable[[SourceModel], SourceModel]

CHECKS = sorted(name for name in dir(AdapterConformance) if name.startswith("test_"))


class SoundToy(ToyAdapter):
    """The toy with the error that an adapter owes its users."""

    def load(self, request: Request) -> SourceModel:
        """Return the model; whatever goes wrong is a `CheckpointError`."""
        try:
            return super().load(request)
        except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{request.weights}: {error}", hint="Give another file.") from error


@dataclass(eq=False)
class Variant(ToyPlugin):
    """The toy's plugin with one part replaced.

    ``edit`` changes what ``load`` returns, ``patch`` what the export patches are, and so on.
    """

    adapter: type[Adapter] = SoundToy
    edit: Edit = lambda source: source
    patch: Callable[[ModulePatch], Iterable[ModulePatch]] = lambda patch: [patch]
    preprocess: Callable[[Mapping[str, Any]], Any] = Resize
    decode: Callable[[Mapping[str, Any]], Any] = Softmax
    rewrites: tuple[Rewrite, ...] = ()
    fault: None = field(default=None, init=False)

    @hookimpl
    def convkit_adapters(self) -> Iterable[Adapter]:
        """Offer the adapter, edited."""
        adapter, edit = self.adapter(), self.edit
        original = adapter.load
        adapter.load = lambda request: edit(original(request))  # type: ignore[method-assign]
        return [adapter]

    @hookimpl
    def convkit_export_patches(self, adapter: str) -> Iterable[ModulePatch]:
        """Return the toy's patch, edited."""
        return [changed for patch in super().convkit_export_patches(adapter) for changed in self.patch(patch)]

    @hookimpl
    def convkit_graph_rewrites(self, adapter: str) -> Iterable[Rewrite]:
        """Return the rewrites of this variant."""
        return self.rewrites if adapter == "toy" else ()

    @hookimpl
    def convkit_preprocess(self, spec: Mapping[str, Any]) -> Any:
        """Serve the toy's specification."""
        return self.preprocess(spec) if spec.get("kind") == "toy.resize" else None

    @hookimpl
    def convkit_decode(self, spec: Mapping[str, Any]) -> Any:
        """Serve the toy's specification."""
        return self.decode(spec) if spec.get("kind") == "toy.softmax" else None


def run_check(
    check: str, variant: Variant, weights: Path, folder: Path, artifact: Artifact | None = None, **given: Any
) -> None:
    """Run one check of the kit; ``artifact`` spares a conversion, ``given`` replaces arguments.

    A check that is parametrised runs with every parameter that ``given`` does not fix.
    """
    method = getattr(AdapterConformance(), check)
    wanted = inspect.signature(method).parameters
    with registered(variant):
        subject = Subject.find("toy", weights, (), {})

        def converted() -> Artifact:
            return artifact or subject.convert("logits", folder / "artifact")

        makers: dict[str, Callable[[], Any]] = {
            "subject": lambda: subject,
            "source": lambda: subject.load("logits"),
            "raws": lambda: list(subject.adapter.samples(subject.load("logits").spec, 4, 0)),
            "form": lambda: "logits",
            "tmp_path": lambda: folder,
            "artifact": converted,
            "replay": lambda: Replay(converted()),
        }
        arguments = {name: given[name] if name in given else makers[name]() for name in wanted if name in makers}
        for parameters in _parameters(wanted, given):
            method(**arguments, **parameters)


def _parameters(wanted: Iterable[str], given: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    for name, values in (("fault", FAULTS), ("damage", ("empty", "web page", "cut short", "missing"))):
        if name in wanted:
            return [{name: given[name]}] if name in given else [{name: value} for value in values]
    return [{}]


def spec_with(**changes: Any) -> Edit:
    """Return an edit that replaces fields of the specification."""

    def edit(source: SourceModel) -> SourceModel:
        return SourceModel(source.module, replace(source.spec, **changes), source.reference)

    return edit


def reference_with(change: Callable[[torch.nn.Module, torch.Tensor], Any]) -> Edit:
    """Return an edit that applies ``change(module, logits)`` to what the reference gives."""

    def edit(source: SourceModel) -> SourceModel:
        def reference(module: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"logits": change(module, module(inputs["images"])["logits"])}

        return SourceModel(source.module, source.spec, reference)

    return edit


def adapter_with(**attributes: Any) -> Variant:
    """Return a variant whose adapter has these class attributes."""
    return Variant(adapter=type("Toy", (SoundToy,), attributes))


def preprocess_with(change: Callable[[np.ndarray, Prepared], Any]) -> Variant:
    """Return a variant whose preprocess returns ``change(image, prepared)``."""

    class Changed(Resize):
        def __call__(self, image: np.ndarray) -> Prepared:
            return change(image, super().__call__(image))

    return Variant(preprocess=Changed)


def decode_with(change: Callable[[Mapping[str, np.ndarray], list[Classification]], Any]) -> Variant:
    """Return a variant whose decode returns ``change(outputs, results)``."""

    class Changed(Softmax):
        def __call__(self, outputs: Mapping[str, np.ndarray], metas: Any) -> Any:
            return change(outputs, super().__call__(outputs, metas))

    return Variant(decode=Changed)


def result_with(**methods: Any) -> Variant:
    """Return a variant whose results have these methods."""
    kind = type("Changed", (Classification,), methods)
    return decode_with(lambda outputs, results: [kind(r.probabilities, r.classes) for r in results])


def module_with(change: Callable[[torch.nn.Module], Any]) -> Variant:
    """Return a variant that does ``change(module)`` to the loaded module."""

    def edit(source: SourceModel) -> SourceModel:
        change(source.module)
        return source

    return Variant(edit=edit)


def patch_with(change: Callable[..., Any]) -> Variant:
    """Call ``change(module, result)`` in the patched forward."""

    def patch(old: ModulePatch) -> list[ModulePatch]:
        def forward(module: torch.nn.Module, original: Any, images: torch.Tensor) -> Any:
            return change(module, old.forward(module, original, images))

        return [replace(old, forward=forward)]

    return Variant(patch=patch)
