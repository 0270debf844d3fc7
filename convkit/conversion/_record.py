"""What the manifest of an artifact says of its conversion."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from convkit import __version__
from convkit.artifact import environment, spec_to_json, weights_record
from convkit.plugins import manager

if TYPE_CHECKING:
    from convkit.conversion._convert import ConversionPlan
    from convkit.conversion._proving import Proved
    from convkit.conversion._stages import Exported, Rewritten
    from convkit.conversion._typing import Typed
    from convkit.model import SourceModel

__all__ = ["conversion_record"]


def conversion_record(
    plan: ConversionPlan,
    source: SourceModel,
    exported: Exported,
    rewritten: Rewritten,
    proved: Proved,
    typed: Typed | None,
) -> dict[str, Any]:
    """Return the manifest of a finished conversion, but for the hashes of its files."""
    graph = {**asdict(plan.target), "ir_version": rewritten.model.ir_version}
    if typed:
        opset = next(entry.version for entry in typed.model.opset_import if entry.domain in ("", "ai.onnx"))
        graph |= {"precision": typed.precision.name, "opset": opset, "ir_version": typed.model.ir_version}
    rewrites = [] if plan.brought else [*rewritten.rewrites, *(typed.rewrites if typed else ())]
    if plan.brought:
        graph["brought"] = plan.brought.to_json()
    verdict, metric = proved.verdict, {"metric": dict(proved.metric)} if proved.metric else {}
    owner = manager().owner(plan.adapter.name)
    origin = {"plugin": owner.name, "distribution": owner.distribution, "version": owner.version}
    return {
        "convkit": __version__,
        "adapter": {"name": plan.adapter.name, **origin},
        "weights": weights_record(plan.weights),
        "model": spec_to_json(typed.spec if typed else source.spec),
        "graph": graph,
        **({"precision": {**typed.to_json(), **metric}} if typed and typed.precision.name != "fp32" else {}),
        "settings": plan.settings.to_json(),
        "patches": {plugin: [asdict(record) for record in group] for plugin, group in exported.patches.items()},
        "translations": dict(exported.translations),
        "rewrites": [{"plugin": plugin, **asdict(record)} for plugin, record in rewrites],
        "environment": environment(verdict.backend, verdict.device, proved.machine),
        "verdict": {"passed": verdict.passed, "headline": verdict.headline()},
    }
