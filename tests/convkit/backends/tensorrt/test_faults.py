"""Each fault of NVIDIA's parser that docs/tensorrt.md lists is there, is found at its node, and can be gone round."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from support import markdown
from support.tensorrt_faults import FAULTS, VERSION, Case

from convkit.backends.tensorrt import Outcome, Task, Understanding, find_flavour, run_tasks, understand

pytest.importorskip("tensorrt_rtx_bindings")
SHOWN = [fault for fault in FAULTS if fault.model is not None]
TITLES = [fault.title for fault in SHOWN]


def _understand_all(cases: list[Case], folder: Path) -> list[tuple[Outcome, Understanding]]:
    tasks = []
    for index, (model, _) in enumerate(cases):
        onnx.save(model, folder / f"{index}.onnx")
        tasks.append(Task(folder / f"{index}.onnx", read=True))
    results = []
    for (model, inputs), outcome in zip(cases, run_tasks(find_flavour("tensorrt-rtx"), tasks), strict=True):
        assert outcome.network is not None, outcome.errors
        results.append((outcome, understand(outcome.network, model, [inputs])))
    return results


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Outcome, Understanding]]:
    results = _understand_all([fault.model() for fault in SHOWN if fault.model], tmp_path_factory.mktemp("faulty"))
    return dict(zip(TITLES, results, strict=True))


@pytest.fixture(scope="module")
def healed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Outcome, Understanding]]:
    results = _understand_all([fault.healed() for fault in SHOWN if fault.healed], tmp_path_factory.mktemp("healed"))
    return dict(zip(TITLES, results, strict=True))


@pytest.mark.parametrize("fault", SHOWN, ids=TITLES)
def test_fault_is_found_at_its_node(fault, built):
    outcome, found = built[fault.title]
    assert outcome.version == VERSION
    assert found.parting is not None
    assert (found.parting.operator, found.parting.name) == (fault.operator, "it")
    assert found.parting.layer


@pytest.mark.parametrize("title", TITLES)
def test_the_same_said_otherwise_is_built_rightly(title, healed):
    assert healed[title][1].passed, healed[title][1].parting


def test_the_page_has_a_row_for_each_fault_and_no_other():
    table = markdown.section("docs/tensorrt.md", "Faults of the parser").text
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if line.startswith("| ")]
    assert rows[1:] == [fault.title for fault in FAULTS]
