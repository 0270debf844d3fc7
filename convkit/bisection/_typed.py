"""An artifact's graph in the types of a precision, with some nodes kept in float32."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from convkit.artifact import Artifact, spec_from_manifest
from convkit.graph import apply_rewrite, in_phases
from convkit.graph.precision import To16Bit
from convkit.model import Target, find_precision
from convkit.plugins import manager

if TYPE_CHECKING:
    import onnx

    from convkit.graph import Rewrite

__all__ = ["typed_graph"]


def typed_graph(
    artifact: Artifact, model: onnx.ModelProto, precision: str, keep: Collection[str] = ()
) -> onnx.ModelProto:
    """Return the graph of an artifact as the rewrites of phase *precision* type it; ``fp32`` leaves it as it is.

    ``keep`` are names of nodes that stay in float32.

    Raises:
        SettingError: there is no such precision, or no node of such a name.
    """
    graph, name = artifact.manifest["graph"], artifact.manifest["adapter"]["name"]
    target = Target("onnx", graph["opset"], graph["form"], find_precision(precision).name, graph["options"])
    expect = spec_from_manifest(artifact.manifest).expect
    for _, change in in_phases(manager().gather("convkit_graph_rewrites", adapter=name, target=target)):
        if change.phase == "precision":
            model, _ = apply_rewrite(model, _keeping(change, keep), expect.get(change.name))
    return model


def _keeping(change: Rewrite, keep: Collection[str]) -> Rewrite:
    return To16Bit(change.precision.name, keep) if isinstance(change, To16Bit) and keep else change
