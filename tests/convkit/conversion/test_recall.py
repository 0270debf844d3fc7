"""What the engine computed while it was proved is looked up by the pipeline's proof, and nothing else is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.plugins import registered
from support.toy import ToyPlugin

from convkit import convert
from convkit.backends import Session
from convkit.conversion._recall import RecallingSession
from convkit.conversion._stages import Runner
from convkit.evaluation import check_pipeline
from convkit.proof import Check
from convkit.runtime import Predictor


class Doubles(Session):
    """Doubles its input and counts its runs."""

    def __init__(self) -> None:
        self.runs, self.closed = 0, False

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.runs += 1
        return {"y": inputs["x"] * 2}

    def close(self) -> None:
        self.closed = True


def test_everything_is_run_until_recall_and_then_only_what_is_new():
    inner = Doubles()
    session = RecallingSession(inner)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for _ in range(2):
        session.run({"x": x})
    assert inner.runs == 2, "a proof that runs one feed twice asks for two runs"
    session.recall()
    first = session.run({"x": x.copy()})
    first["y"][:] = 0
    np.testing.assert_array_equal(session.run({"x": x})["y"], x * 2)
    assert inner.runs == 2
    for other in (np.nextafter(x, np.float32(9)), x[:1], x.astype(np.float64), x.reshape(3, 2)):
        np.testing.assert_array_equal(session.run({"x": other})["y"], other * 2)
    assert inner.runs == 6
    session.close()
    assert inner.closed


@dataclass
class Watched:
    """The runs of an engine while it was proved and while the pipeline was, and the checks of right and wrong ones."""

    before: list[int]
    runs: dict[str, list[int]]
    checks: dict[str, list[Check]]


@pytest.fixture(scope="module")
def watched(toy_weights_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """Convert the toy; prove its pipeline as it is, with brighter inputs, and with results in reverse."""
    noted: list[int] = []
    seen = Watched([], {}, {})
    opened, prepare, run = Runner.open, Predictor.prepare, Predictor._run

    def brighter(predictor: Predictor, raw: Any) -> Any:
        item = prepare(predictor, raw)
        return replace(item, tensors={name: tensor + np.float32(0.5) for name, tensor in item.tensors.items()})

    def reversed_(predictor: Predictor, items: Any) -> Any:
        return {name: value[::-1] for name, value in run(predictor, items).items()}

    class Noting(Session):
        def __init__(self, session: Session) -> None:
            self.session = session

        def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            noted.append(len(next(iter(inputs.values()))))
            return self.session.run(inputs)

    def check(predictor: Predictor, *arguments: Any) -> list[Check]:
        seen.before = seen.before or list(noted)
        for name, fault in (
            ("right", {}),
            ("brighter", {"prepare": brighter}),
            ("reversed", {"_run": reversed_}),
        ):
            noted.clear()
            with pytest.MonkeyPatch.context() as patch:
                for method, function in fault.items():
                    patch.setattr(Predictor, method, function)
                seen.checks[name] = check_pipeline(predictor, *arguments)
            seen.runs[name] = list(noted)
        return seen.checks["right"]

    with registered(ToyPlugin()), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "open", lambda runner, file: Noting(opened(runner, file)))
        patch.setattr("convkit.conversion._proving.check_pipeline", check)
        convert("toy", weights=toy_weights_file, output=tmp_path_factory.mktemp("recall") / "out", samples=4)
    return seen


def test_the_pipeline_of_a_conversion_runs_only_what_the_proof_did_not(watched):
    assert 4 in watched.before
    assert watched.runs["right"] == [1], "of the samples, the second alone was not run before"
    assert [(check.case, check.passed) for check in watched.checks["right"]] == [
        ("batch 1", True),
        ("mixed stream", True),
    ]


def test_inputs_that_come_out_otherwise_in_the_pipeline_are_run_and_fail(watched):
    assert watched.runs["brighter"] == [1, 1, 4]
    assert not any(check.passed for check in watched.checks["brighter"])


def test_results_of_others_fail_though_nothing_is_run(watched):
    assert watched.runs["reversed"] == []
    assert [check.case for check in watched.checks["reversed"] if not check.passed] == ["mixed stream"]
