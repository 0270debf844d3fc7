"""The node tests of the ONNX standard that the parser takes, replayed: all agree but those of the table."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.every_case import EVERY_CASE
from support.standard import node_tests, some_node_tests
from support.tensorrt_faults import FAULTS, NOT_REPLAYED, UNSPECIFIED

from convkit.backends.tensorrt import Task, Understanding, find_flavour, run_tasks, understand

pytest.importorskip("tensorrt_rtx_bindings")
pytestmark = pytest.mark.slow
ACCEPTED = 1013 if EVERY_CASE else 575
"""Node tests of ONNX 1.23.2 that the parser of TensorRT-RTX 1.7.1 takes; of half of them and all that are listed."""
LISTED = {name for fault in FAULTS for name in fault.tests} | UNSPECIFIED.keys() | NOT_REPLAYED.keys()


@pytest.fixture(scope="module")
def understandings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Understanding]:
    """What came of every node test that the parser takes, by name.

    The standard prints some expected values with few digits, so a test that differs from them is given a second
    opinion: the same comparison with what ONNX Runtime or ONNX's reference evaluator computes.
    """
    some = {case.name for case in some_node_tests()} | LISTED
    cases = [case for case in node_tests() if case.name in some]
    folder: Path = tmp_path_factory.mktemp("models")
    tasks = []
    for index, case in enumerate(cases):
        (folder / f"{index}.onnx").write_bytes(case.content)
        tasks.append(Task(folder / f"{index}.onnx", read=True))
    found = {}
    for case, outcome in zip(cases, run_tasks(find_flavour("tensorrt-rtx"), tasks), strict=True):
        assert outcome.problem is None, (case.name, outcome.problem)
        if outcome.network is None:
            continue
        feeds, expected = ([sides[side] for sides in case.data] for side in (0, 1))
        result = understand(outcome.network, case.model, feeds, expected=expected)
        if result.parting is not None:
            result = understand(outcome.network, case.model, feeds)
        found[case.name] = result
    return found


def test_number_of_tests(understandings: dict[str, Understanding]):
    assert len(understandings) == ACCEPTED


def test_every_disagreement_is_known_and_every_known_one_is_there(understandings: dict[str, Understanding]):
    partings = {name: str(found.parting) for name, found in understandings.items() if found.parting is not None}
    known = {name for fault in FAULTS for name in fault.tests} | UNSPECIFIED.keys()
    assert {name: text for name, text in partings.items() if name not in known} == {}
    assert known - partings.keys() == set()


def test_disagreements_name_the_operator(understandings: dict[str, Understanding]):
    for fault in FAULTS:
        for name in fault.tests:
            parting = understandings[name].parting
            assert parting is not None
            # A function of the standard is parsed as its nodes, and pooling is two operators.
            named = {parting.operator, *({"MaxPool"} if parting.operator == "AveragePool" else ())}
            named |= {"Cast"} if parting.operator == "CastLike" else set()
            named |= {"GRU"} if parting.operator in ("RNN", "LSTM") else set()
            assert fault.operator in named, name


def test_what_is_not_replayed_is_said_by_name(understandings: dict[str, Understanding]):
    lacking = {name: found.not_replayed for name, found in understandings.items() if found.not_replayed}
    assert lacking.keys() == NOT_REPLAYED.keys()
    for name, kind in NOT_REPLAYED.items():
        assert kind in lacking[name][0]
        assert not understandings[name].passed
