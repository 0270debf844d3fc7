"""The core's own rewrites come first, so that plugins see a folded graph."""

from __future__ import annotations

import pytest
from support.plugins import names_of

from convkit import Target
from convkit.graph import in_phases
from convkit.plugins import manager


def test_the_rewrites_of_the_core_come_before_those_of_plugins(toy):
    found = manager().gather("convkit_graph_rewrites", adapter="toy", target=Target())
    assert [plugin for plugin, _ in in_phases(found)][:2] == ["graph", "graph"]
    assert names_of(found["graph"]) == ["graph.fold-constants", "graph.drop-identity"]


def test_every_rewrite_says_what_it_is_for():
    found = manager().gather("convkit_graph_rewrites", adapter="toy", target=Target())
    for plugin, rewrites in found.items():
        for rewrite in rewrites:
            assert rewrite.name.startswith(f"{plugin}.")
            assert rewrite.reason


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_target_of_16_bits_brings_the_rewrite_that_types_the_graph(precision):
    target = Target(format="tensorrt-rtx", precision=precision)
    found = in_phases(manager().gather("convkit_graph_rewrites", adapter="toy", target=target))
    names = [rewrite.name for _, rewrite in found]
    assert names.count(f"graph.to-{precision}") == 1
    later = names[names.index(f"graph.to-{precision}") + 1 :]
    assert "dcnv2.decompose-grid-sample" in later
    assert ("tensorrt.float32-islands" in later) is (precision == "bf16")
