"""Adapters with one mistake each: the toy adapter, changed in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import torch
from support.toy import Resize, Softmax, ToyAdapter, ToyNet
from torch import nn

from convkit import (
    Adapter,
    ArraySpec,
    Classification,
    ModulePatch,
    NodeRewrite,
    Placement,
    Prepared,
    Request,
    SourceModel,
    at_least,
    exactly,
    hookimpl,
)


def boom(*args: Any, **kwargs: Any) -> Any:
    """Fail as code does that nobody tried."""
    raise RuntimeError("boom")


class Thrice(NodeRewrite):
    """Puts another Relu behind every Relu: it fires on the two of the toy network."""

    name = "mine.again"
    reason = "to be counted"
    op_types = ("Relu",)

    def __init__(self, **changes: Any) -> None:
        vars(self).update(changes)

    def match(self, graph: gs.Graph, node: gs.Node) -> Any:
        return None if node.name.endswith("/again") else True

    def rewrite(self, graph: gs.Graph, node: gs.Node, match: Any) -> None:
        self.put(graph, node, "Relu")

    def put(self, graph: gs.Graph, node: gs.Node, op_type: str) -> None:
        middle = gs.Variable(f"{node.name}:again", dtype=np.float32)
        graph.nodes.append(gs.Node(op_type, f"{node.name}/again", inputs=[middle], outputs=list(node.outputs)))
        node.outputs = [middle]


class Invalid(Thrice):
    """Makes a node of no known type."""

    def rewrite(self, graph: gs.Graph, node: gs.Node, match: Any) -> None:
        self.put(graph, node, "Gemmm")


class Foreign(Thrice):
    """Makes a node of a domain that no engine knows."""

    def rewrite(self, graph: gs.Graph, node: gs.Node, match: Any) -> None:
        self.put(graph, node, "Gate")
        graph.nodes[-1].domain = "mine"
        graph.import_domains = [*graph.import_domains, *gs_domain("mine")]


def gs_domain(name: str) -> list[Any]:
    """Return the import of a domain, as onnx-graphsurgeon keeps it."""
    from onnx import helper

    return [helper.make_opsetid(name, 1)]


@dataclass
class Mine:
    """The plugin of an author: what is given replaces what is right."""

    loaded: Callable[[SourceModel], Any] = lambda source: source
    samples: Callable[[Sequence[Any]], Any] = lambda values: values
    prepared: Callable[[np.ndarray, Prepared], Any] = lambda image, prepared: prepared
    decoded: Callable[[Mapping[str, np.ndarray], Any], Any] = lambda outputs, results: results
    match: Callable[[str, nn.Module], Any] = lambda path, module: path == ""
    forward: Callable[..., Any] = lambda module, original, images: (original(images)["logits"],)
    rewrites: Sequence[Any] = ()
    patches: Callable[[list[Any]], Any] = lambda patches: patches
    preprocess: Callable[[Any], Any] = lambda preprocess: preprocess
    decode: Callable[[Any], Any] = lambda decode: decode
    adapters: Callable[[Adapter], Any] = lambda adapter: [adapter]
    translations: Mapping[Any, Any] = field(default_factory=dict)

    @hookimpl
    def convkit_adapters(self) -> Iterable[Adapter]:
        mine = self

        class Changed(ToyAdapter):
            def load(self, request: Request) -> SourceModel:
                source = super().load(request)
                source.spec = replace(source.spec, expect={})
                return mine.loaded(source)  # type: ignore[no-any-return]

            def samples(self, spec: Any, count: int, seed: int) -> Any:
                return mine.samples(super().samples(spec, count, seed))

        return self.adapters(Changed())  # type: ignore[no-any-return]

    @hookimpl
    def convkit_export_patches(self, adapter: str) -> Iterable[ModulePatch]:
        if adapter != "toy":
            return []
        return self.patches(  # type: ignore[no-any-return]
            [ModulePatch("mine.tuple", "ONNX has no dicts", self.match, self.forward, at_least(1))]
        )

    @hookimpl
    def convkit_graph_rewrites(self, adapter: str) -> Iterable[NodeRewrite]:
        return self.rewrites if adapter == "toy" else []

    @hookimpl
    def convkit_onnx_translations(self) -> Mapping[Any, Any]:
        return self.translations

    @hookimpl
    def convkit_preprocess(self, spec: Mapping[str, Any]) -> Any:
        if spec.get("kind") != "toy.resize":
            return None
        mine = self

        class Changed(Resize):
            def __call__(self, image: np.ndarray) -> Prepared:
                return mine.prepared(image, super().__call__(image))  # type: ignore[no-any-return]

        return self.preprocess(Changed(spec))

    @hookimpl
    def convkit_decode(self, spec: Mapping[str, Any]) -> Any:
        if spec.get("kind") != "toy.softmax":
            return None
        mine = self

        class Changed(Softmax):
            def __call__(
                self, outputs: Mapping[str, np.ndarray], metas: Sequence[Mapping[str, Any]]
            ) -> list[Classification]:
                return mine.decoded(outputs, super().__call__(outputs, metas))  # type: ignore[no-any-return]

        return self.decode(Changed(spec))


def loaded_with(**changes: Any) -> Mine:
    """Return a plugin whose adapter returns a source with other fields."""
    return Mine(loaded=lambda source: replace(source, **changes))


def spec_with(**changes: Any) -> Mine:
    """Return a plugin whose adapter returns a specification with other fields."""
    return Mine(loaded=lambda source: replace(source, spec=replace(source.spec, **changes)))


def part_with(part: str, **changes: Any) -> Mine:
    """Return a plugin whose specification of preprocess or decode has other entries."""

    def change(source: SourceModel) -> SourceModel:
        entries = {**getattr(source.spec, part), **changes}
        return replace(source, spec=replace(source.spec, **{part: entries}))

    return Mine(loaded=change)


def reference_with(change: Callable[[nn.Module, Mapping[str, torch.Tensor], dict[str, torch.Tensor]], Any]) -> Mine:
    """Return a plugin whose reference returns ``change(module, inputs, outputs)``."""
    return Mine(
        loaded=lambda source: replace(
            source, reference=lambda module, inputs: change(module, inputs, module(inputs["images"]))
        )
    )


def tensor_with(change: Callable[[np.ndarray], Any]) -> Mine:
    """Return a plugin whose preprocess returns ``change(tensor)`` as its tensor."""
    return Mine(prepared=lambda image, prepared: Prepared({"images": change(prepared.tensors["images"])}))


def training(source: SourceModel) -> SourceModel:
    """Forget eval()."""
    source.module.stem.train()  # type: ignore[operator, union-attr]
    return source


def deciding(module: nn.Module, original: Any, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Decide in Python by a value, which cannot be exported."""
    logits = original(images)["logits"]
    if logits.sum() > 1e6:
        return (-logits,)
    return (logits,)


def half(source: SourceModel) -> SourceModel:
    """Leave the weights in half precision."""
    source.module.half()
    return source


def shuffled(outputs: Mapping[str, np.ndarray], results: list[Classification]) -> list[Classification]:
    """Mix the classes up, every time in another way."""
    rng = np.random.default_rng()
    return [Classification(rng.permutation(result.probabilities), result.classes) for result in results]


class Place:
    """A preprocess for the GPU in which one method fails."""

    def __init__(self, host: Any, fails: str) -> None:
        self.host, self.fails = host, fails
        self.record = np.dtype([("start", "<i8"), ("room", "<i8")])

    def place(self, raw: np.ndarray) -> Placement:
        return boom() if self.fails == "place" else Placement({"images": (3, 32, 32)}, {}, raw)

    def row(self, placement: Placement, offset: int) -> tuple[Any, ...]:
        return (offset, 0) if self.fails != "row" else (offset, "no number")

    def launch(self, records: Any, payloads: Any, tensors: Mapping[str, Any], stream: int) -> None:
        boom()

    def kernels(self) -> Sequence[Any]:
        return boom() if self.fails == "kernels" else []


class Back:
    """A decode for the GPU that lacks a value which it declares."""

    inputs = (ArraySpec("scale", (2,), "float32"),)
    results = ()

    def values(self, meta: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        return {}

    def launch(self, outputs: Any, inputs: Any, results: Any, stream: int) -> None:
        boom()

    def read(self, results: Any, metas: Any) -> list[Any]:
        return []

    def kernels(self) -> Sequence[Any]:
        return []


def on_device(side: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return what gives a preprocess or decode a GPU side."""

    def change(host: Any) -> Any:
        host.on_device = lambda: side(host)
        return host

    return change


__all__ = [
    "Back",
    "Foreign",
    "Invalid",
    "Mine",
    "Place",
    "Thrice",
    "ToyNet",
    "boom",
    "deciding",
    "exactly",
    "half",
    "loaded_with",
    "on_device",
    "part_with",
    "reference_with",
    "shuffled",
    "spec_with",
    "tensor_with",
    "training",
]
