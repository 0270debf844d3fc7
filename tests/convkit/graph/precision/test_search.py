"""The search for the smallest set of float32 nodes, against functions whose answer is known."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convkit.errors import ConversionError, SettingError
from convkit.graph.precision import Search, search

NODES = [f"node{number}" for number in range(100)]


def planted(*names: str):
    """Return an ``accept`` that wants exactly these nodes in float32."""
    return lambda kept: kept >= set(names)


def test_nothing_is_kept_where_everything_low_is_good_enough():
    found = search(NODES, lambda kept: True)
    assert (found.kept, found.minimal, len(found.trials)) == ((), True, 1)


def test_the_node_with_the_largest_error_costs_log2_trials():
    found = search(NODES, planted("node70"), errors={"node70": 1.0})
    assert found.kept == ("node70",)
    assert found.minimal
    assert len(found.trials) <= 3 + math.ceil(math.log2(len(NODES)))


@given(
    planted_places=st.sets(st.integers(0, 59), min_size=1, max_size=5),
    errors=st.lists(st.floats(0, 1, allow_nan=False), min_size=60, max_size=60),
    grouped=st.booleans(),
)
def test_a_planted_set_is_found_whatever_the_errors_say_in_few_trials(planted_places, errors, grouped):
    nodes = NODES[:60]
    names = {nodes[place] for place in planted_places}
    groups = {name: f"group{place // 7}" for place, name in enumerate(nodes)} if grouped else None
    found = search(nodes, planted(*names), errors=dict(zip(nodes, errors, strict=True)), groups=groups, limit=1000)
    assert set(found.kept) == names
    assert found.minimal
    assert found.monotone
    size = len(names)
    assert len(found.trials) <= 12 + size * (5 + 2 * math.log2(len(nodes) / size)) + (3 * size + 10) * grouped


@given(errors=st.lists(st.integers(1, 1000), min_size=2, max_size=9), share=st.floats(0.0, 1.0))
def test_where_errors_add_up_the_smallest_of_all_sets_is_found(errors, share):
    nodes = NODES[: len(errors)]
    table = dict(zip(nodes, map(float, errors), strict=True))
    limit = share * sum(errors)

    def accept(kept):
        return sum(error for name, error in table.items() if name not in kept) <= limit

    smallest = next(
        size for size in range(len(nodes) + 1) if any(accept(set(few)) for few in itertools.combinations(nodes, size))
    )
    found = search(nodes, accept, errors=table, limit=1000)
    assert len(found.kept) == smallest
    assert accept(set(found.kept))


def test_of_two_nodes_that_would_do_the_one_with_the_larger_error_is_kept():
    found = search(NODES, lambda kept: bool({"node3", "node90"} & kept), errors={"node3": 0.1, "node90": 0.2})
    assert found.kept == ("node90",)


def test_groups_are_searched_first():
    groups = {name: str(place // 10) for place, name in enumerate(NODES)}
    found = search(NODES, planted("node41", "node47"), groups=groups)
    assert set(found.kept) == {"node41", "node47"}
    sizes = [len(trial.kept) for trial in found.trials]
    assert all(size % 10 == 0 for size in sizes[:6]), "the first trials keep whole groups"


def test_a_nonmonotone_answer_is_reported_and_what_is_kept_was_accepted():
    def accept(kept):
        return "node1" in kept and len(kept) not in range(40, 60)

    found = search(NODES, accept, errors={"node1": 1.0}, limit=1000)
    assert not found.monotone
    small, large = found.contradictions[0]
    assert small.accepted
    assert not large.accepted
    assert small.kept < large.kept
    assert accept(set(found.kept))
    assert found.to_json()["monotone"] is False


def test_a_node_that_larger_sets_make_needed_is_taken_out_in_the_end():
    def accept(kept):  # node0 helps only where node5 is low
        return "node5" not in kept or "node0" in kept

    found = search(NODES[:8], lambda kept: bool(kept) and accept(kept), errors={"node5": 2.0, "node0": 1.0})
    assert len(found.kept) == 1
    assert found.minimal


def test_the_limit_ends_the_search_with_the_smallest_set_that_was_accepted():
    names = NODES[::3]
    found = search(NODES, planted(*names), limit=12)
    assert not found.minimal
    assert len(found.trials) == 12
    assert set(found.kept) >= set(names)
    assert any(trial.accepted and trial.kept == set(found.kept) for trial in found.trials)


def test_no_question_is_asked_twice_and_a_search_repeats_itself():
    asked: list[frozenset[str]] = []

    def accept(kept):
        asked.append(kept)
        return kept >= {"node4", "node40", "node44"}, f"{len(kept)} kept"

    first = search(NODES, accept)
    assert len(set(asked)) == len(asked) == len(first.trials)
    assert first.trials[0].figures == "0 kept"
    assert search(NODES, accept) == first
    assert isinstance(first, Search)


def test_progress_counts_the_trials():
    steps: list[tuple[int, int]] = []
    found = search(
        NODES, planted("node9"), progress=lambda step, done=0, total=0: steps.append((done, total)), limit=30
    )
    assert steps == [(number, 30) for number in range(len(found.trials))]


def test_bad_input_is_refused():
    with pytest.raises(ConversionError, match=r"all 100 nodes in float32 .*: off by 3"):
        search(NODES, lambda kept: (False, "off by 3"))
    with pytest.raises(SettingError, match="'a' is listed twice"):
        search(["a", "b", "a"], lambda kept: True)
