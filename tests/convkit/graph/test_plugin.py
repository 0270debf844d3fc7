"""The core's own rewrites come first, so that plugins see a folded graph."""

from __future__ import annotations

from support.plugins import names_of

from convkit import Target
from convkit.plugins import manager


def test_the_rewrites_of_the_core_come_before_those_of_plugins(toy):
    found = manager().gather("convkit_graph_rewrites", adapter="toy", target=Target())
    assert next(iter(found)) == "graph"
    assert names_of(found["graph"]) == ["graph.fold-constants", "graph.drop-identity"]


def test_every_rewrite_says_what_it_is_for():
    found = manager().gather("convkit_graph_rewrites", adapter="toy", target=Target())
    for plugin, rewrites in found.items():
        for rewrite in rewrites:
            assert rewrite.name.startswith(f"{plugin}.")
            assert rewrite.reason
