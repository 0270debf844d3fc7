"""The fewest nodes in float32: found where they were planted, and on an artifact."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from support.graphs import make_model, node

from convkit.bisection import Limits, find_kept, search_artifact
from convkit.errors import ConversionError, SettingError
from convkit.graph import apply_rewrite
from convkit.graph.precision import To16Bit

RNG = np.random.default_rng(3)


def network(loud: int, depth: int = 8) -> onnx.ModelProto:
    """Return convolutions with an activation each, of which one makes values beyond 65504 and the next small again."""
    nodes, constants, tensor = [], {}, "x"
    for place in range(depth):
        factor = {loud - 1: 30.0, loud: 1e4, loud + 1: 1e-2}.get(place, 1.0)
        constants[f"w{place}"] = (factor * RNG.standard_normal((6, 6, 3, 3)) / 5).astype(np.float32)
        after = "y" if place == depth - 1 else f"r{place}"
        nodes.append(node("Conv", [tensor, f"w{place}"], [f"c{place}"], name=f"layer{place}/Conv", pads=[1] * 4))
        nodes.append(node("LeakyRelu", [f"c{place}"], [after], name=f"layer{place}/LeakyRelu"))
        tensor = after
    return make_model(nodes, {"x": ["n", 6, 12, 12]}, {"y": ["n", 6, 12, 12]}, constants)


@pytest.mark.parametrize(("loud", "by_module"), [(2, False), (5, True)])
def test_the_layer_that_overflows_is_found_and_named(loud, by_module):
    model = network(loud)
    feeds = [{"x": RNG.standard_normal((1, 6, 12, 12)).astype(np.float32)} for _ in range(2)]

    def typed(kept):
        return apply_rewrite(model, To16Bit("fp16", kept))[0]

    def judge(found):
        return all(np.isfinite(outputs["y"]).all() for outputs in found), "finite or not"

    kept = find_kept(model, typed, feeds, judge, by_module=by_module)
    assert set(kept.search.kept) == {f"layer{loud}/Conv", f"layer{loud}/LeakyRelu", f"layer{loud + 1}/Conv"}
    assert kept.search.minimal
    assert kept.search.monotone
    assert len(kept.search.trials) <= 16
    assert list(kept.reasons) == [f"layer{loud}/Conv", f"layer{loud}/LeakyRelu", f"layer{loud + 1}/Conv"]
    assert all("leaves the range of float16" in reason for reason in kept.reasons.values())


def test_a_task_has_to_accept_what_the_judge_does():
    """The task wants a layer in float32 that the judge does not need; what the judge refuses it never sees."""
    model, asked = network(2), []
    feeds = [{"x": RNG.standard_normal((1, 6, 12, 12)).astype(np.float32)}]

    def judge(found):
        return all(np.isfinite(outputs["y"]).all() for outputs in found), "finite or not"

    def task(graph):
        weight = next(node.input[1] for node in graph.graph.node if node.name == "layer6/Conv")
        asked.append(weight)
        return weight == "w6", "the task"

    kept = find_kept(model, lambda names: apply_rewrite(model, To16Bit("fp16", names))[0], feeds, judge, task=task)
    assert {"layer2/Conv", "layer3/Conv", "layer6/Conv"} <= set(kept.search.kept)
    figures = [trial.figures for trial in kept.search.trials]
    assert len(asked) == figures.count("finite or not; the task") < len(figures)


def test_where_errors_add_up_the_worst_nodes_are_kept(toy, toy_artifact):
    everything = search_artifact(toy_artifact.path, "bf16", limits=Limits(score=0.5))
    assert everything.search.kept == ()
    strict = search_artifact(toy_artifact.path, "bf16", limits=Limits(score=3e-5))
    assert strict.search.kept
    assert strict.search.minimal
    assert set(strict.reasons) == set(strict.search.kept)
    assert len(strict.search.kept) < len(strict.bisection.nodes)
    again = search_artifact(toy_artifact.path, "bf16", limits=Limits(score=3e-5))
    assert again.search == strict.search


def test_a_model_without_decode_is_judged_by_its_outputs(embedding, embedding_artifact):
    kept = search_artifact(embedding_artifact.path, "fp16", limits=Limits(values=0.05))
    assert kept.search.kept == ()
    assert "outputs" in kept.search.trials[0].figures
    with pytest.raises(ConversionError, match=r"Even with all .* outputs"):
        search_artifact(embedding_artifact.path, "fp16", limits=Limits(values=0.0))


def test_a_search_in_float32_is_refused(toy_artifact):
    with pytest.raises(SettingError, match="There is no search in fp32"):
        search_artifact(toy_artifact.path, "fp32")
