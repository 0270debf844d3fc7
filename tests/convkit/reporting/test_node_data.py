"""Node data for Model Explorer: names of nodes with what they err, the larger the redder."""

from __future__ import annotations

from typing import Any

from convkit.reporting import node_data


def row(node: str, rel_l2: float | None, *, parted: bool = False) -> dict[str, Any]:
    return {"node": node, "local": [{"rel_l2": 1.0}, {"rel_l2": rel_l2}], "parted": parted}


def red_of(colour: str) -> int:
    """Return how much redder a colour is than it is green."""
    assert len(colour) == 7
    return int(colour[1:3], 16) - int(colour[3:5], 16)


def test_errors_are_those_of_the_last_runner_with_colours_by_their_logarithm():
    errors = {
        "nodes": [
            row("a", 1e-6), row("b", 1e-4), row("c", 1e-2), row("d", 0.0), row("e", None, parted=True),
            row("two", 1e-5), row("two", 1e-3), row("", 1e-2), {"node": "gone", "local": [None, None], "parted": False},
        ]
    }  # fmt: skip
    results = node_data(errors)["results"]
    assert {name: found["value"] for name, found in results.items()} == {
        "a": 1e-6, "b": 1e-4, "c": 1e-2, "d": 0.0, "e": 3.4e38, "two": 1e-3
    }  # fmt: skip
    reds = {name: red_of(found["bgColor"]) for name, found in results.items()}
    assert reds["d"] == reds["a"] < reds["b"] < reds["two"] < reds["c"]
    assert abs((reds["b"] - reds["a"]) - (reds["c"] - reds["b"])) <= 2
    assert [name for name, found in results.items() if "textColor" in found] == ["e"]
    assert node_data({"nodes": []}) == {"results": {}}
