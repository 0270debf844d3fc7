"""The examination on a stand-in of the GPU: what is right is recommended, each fault is found, nothing is claimed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.engine_ways import Bench, Ways, make_bench, model
from support.plugins import registered

from convkit import hookimpl
from convkit.backends import backend_named, engine_probes
from convkit.doctor import stored_recommendations
from convkit.doctor.tensorrt import (
    FAILED,
    NOT_OFFERED,
    PASSED,
    SKIPPED,
    WRONG,
    Step,
    TensorRTReport,
    _examination,
    _probes,
    examine_tensorrt,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bench]:
    """A GPU of compute capability 8.6; probes of float32, since the engine of the stand-in has no other type."""
    monkeypatch.setattr(_probes, "DTYPES", ("float32",))
    monkeypatch.setattr("convkit.doctor.tensorrt._ways.DTYPES", ("float32",))
    monkeypatch.setattr(_examination, "try_convolution", lambda *arguments, **options: None)
    monkeypatch.setattr(
        _examination, "engine_probes", lambda: [probe for probe in engine_probes() if probe.option == "way"]
    )
    return make_bench(monkeypatch, tmp_path / "cache")


def examine(bench: Bench, *ways: str, **plugin: Any) -> TensorRTReport:
    with registered(Ways(ways, **plugin), "ways"):
        return examine_tensorrt(bench.progress)


def states(report: TensorRTReport, way: str, case: str = "real, float32") -> dict[str, str]:
    prefix = f"way={way}: "
    found = [step for step in report.steps if step.name.startswith(prefix) and step.case == case]
    return {step.name.removeprefix(prefix): step.state for step in found}


def step(report: TensorRTReport, name: str, case: str = "") -> Step:
    return next(step for step in report.steps if step.name == name and step.case == case)


def test_what_is_right_is_recommended_the_fastest_first(bench: Bench):
    bench.faults = {"slow": lambda world: setattr(world, "milliseconds", 0.75)}
    report = examine(bench, "slow", "good")
    assert report.exit_code == 0, [each.to_json() for each in report.steps if each.state in (WRONG, FAILED)]
    for way in ("slow", "good"):
        assert states(report, way) == dict.fromkeys(
            ("built", "ran", "loaded again", "200 changes of shape", "latency"), PASSED
        )
        assert "latency" not in states(report, way, "small, float32")
    (made,) = report.recommendations
    assert made.best == {"float32": "good"}
    assert dict(made.milliseconds) == {"float32": {"good": 0.25, "slow": 0.75}}
    assert list(made.milliseconds["float32"]) == ["good", "slow"]
    assert made.text == "--set way=good (float32: good 0.250 ms, slow 0.750 ms)"
    assert (made.gpu, made.flavour, made.option) == ("Pretend GPU", "tensorrt-rtx", "way")
    assert stored_recommendations() == [made]


def test_a_plan_without_plugins_is_loaded_again_where_none_is_loaded(bench: Bench):
    examine(bench, "good")
    assert bench.calls == [("good", True), ("good", False)] * 2


def test_wrong_numbers_are_found_and_not_recommended(bench: Bench):
    bench.faults = {"bad": lambda world: setattr(world, "factor", 2.01)}
    report = examine(bench, "bad", "good")
    assert report.exit_code == 4
    found = states(report, "bad")
    assert (found["built"], found["ran"], found["loaded again"]) == (PASSED, WRONG, WRONG)
    assert "the error of twice" in step(report, "way=bad: ran", "real, float32").text
    assert report.recommendations[0].best == {"float32": "good"}
    assert "bad" not in report.recommendations[0].text


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_wrong(bench: Bench, factor: float):
    bench.faults = {"bad": lambda world: setattr(world, "factor", factor)}
    report = examine(bench, "bad")
    assert report.exit_code == 4
    assert "not finite" in step(report, "way=bad: ran", "real, float32").text
    assert report.recommendations == ()
    assert step(report, "recommended way").state == FAILED
    report.to_json()


def test_an_error_within_the_limit_is_none(bench: Bench):
    bench.faults = {"close": lambda world: setattr(world, "factor", 2.001)}
    assert examine(bench, "close").exit_code == 0


def test_a_graph_that_a_rewrite_changed_is_wrong(bench: Bench):
    """The rung *understood* compares with the graph that the parser got; the engine is compared with the probe."""
    bench.faults = {"misread": lambda world: setattr(world, "factor", 0.5)}
    report = examine(bench, "misread")
    assert states(report, "misread")["ran"] == WRONG
    assert report.exit_code == 4


def test_a_parser_that_understands_something_else_is_wrong(bench: Bench):
    report = examine(bench, "misparsed")
    found = step(report, "way=misparsed: built", "small, float32")
    assert (found.state, report.exit_code) == (WRONG, 4)
    assert "Trilu" in found.text
    assert states(report, "misparsed")["ran"] == SKIPPED
    assert bench.calls == []


def test_memory_that_shrinks_with_every_change_is_found(bench: Bench):
    bench.faults = {"leaky": lambda world: setattr(world, "leak", 2**18)}
    report = examine(bench, "leaky")
    found = step(report, "way=leaky: 200 changes of shape", "small, float32")
    assert (found.state, found.text) == (FAILED, "the GPU's memory shrinks by 50 MiB in 200 changes")
    assert "4849" in found.remedy
    assert report.exit_code == 5
    assert "leaky takes memory with every change of shape" in step(report, "recommended way").text


def test_memory_that_another_program_takes_is_no_leak(bench: Bench):
    def takes_once(world: Any) -> None:
        class Counting(type(world.gpu)):  # type: ignore[misc]
            reads = 0

            def free_memory(self, stream: int) -> int:
                Counting.reads += 1
                return 2**33 - (2**30 if Counting.reads > 2 else 0)

        world.gpu.__class__ = Counting

    bench.faults = {"good": takes_once}
    report = examine(bench, "good")
    assert states(report, "good")["200 changes of shape"] == PASSED


def test_a_crash_while_it_runs(bench: Bench):
    bench.crashes = {"frail": "run"}
    report = examine(bench, "frail", "good")
    assert states(report, "frail") == {
        "built": PASSED, "ran": FAILED, "loaded again": SKIPPED, "200 changes of shape": SKIPPED, "latency": SKIPPED,
    }  # fmt: skip
    assert report.exit_code == 5
    assert report.recommendations[0].best == {"float32": "good"}


def test_a_crash_after_it_ran_is_that_of_what_followed(bench: Bench):
    bench.crashes = {"frail": "after"}
    report = examine(bench, "frail")
    assert states(report, "frail") == {
        "built": PASSED, "ran": PASSED, "loaded again": PASSED, "200 changes of shape": FAILED, "latency": FAILED,
    }  # fmt: skip
    assert "SIGSEGV" in step(report, "way=frail: latency", "real, float32").text
    assert report.recommendations == ()


def test_an_engine_that_cannot_be_loaded_again(bench: Bench):
    bench.crashes = {"attached": "reload"}
    report = examine(bench, "attached", "good")
    found = states(report, "attached")
    assert (found["ran"], found["loaded again"], found["latency"]) == (PASSED, FAILED, PASSED)
    assert report.exit_code == 5
    assert "attached" not in report.recommendations[0].text


def test_ways_that_the_flavour_does_not_offer(bench: Bench):
    report = examine(bench, "refused", "strange", "good")
    assert report.exit_code == 0
    refused, strange = (step(report, f"way={way}: built", "small, float32") for way in ("refused", "strange"))
    assert (refused.state, refused.text) == (NOT_OFFERED, "This flavour has no such way.")
    assert strange.state == NOT_OFFERED
    assert "NoSuchOperator" in strange.text
    assert report.recommendations[0].best == {"float32": "good"}


def test_no_way_that_gives_an_engine_is_a_failure(bench: Bench):
    report = examine(bench, "refused")
    assert report.exit_code == 5
    assert report.recommendations == ()


def test_a_run_that_the_library_refuses(bench: Bench):
    bench.faults = {"bad": lambda world: setattr(world, "failing", True)}
    report = examine(bench, "bad")
    assert states(report, "bad")["ran"] == FAILED
    assert "no kernel" in step(report, "way=bad: ran", "real, float32").remedy


def test_an_engine_that_cannot_be_captured_is_timed_all_the_same(bench: Bench):
    bench.faults = {"good": lambda world: setattr(world, "capturable", False)}
    report = examine(bench, "good")
    assert "could not be captured" in step(report, "way=good: latency", "real, float32").text
    assert report.exit_code == 0


def test_a_reference_in_doubt_is_not_used(bench: Bench):
    """The probe gives another function in float64 than in float32."""
    report = examine(bench, "good", model=lambda dtype: model(dtype, 3 if dtype == "float64" else 2))
    found = step(report, "reference", "small")
    assert (found.state, report.exit_code) == (WRONG, 4)
    assert not states(report, "good")


def test_a_probe_that_fails_is_named(bench: Bench):
    def broken(dtype: str) -> Any:
        raise KeyError(dtype)

    report = examine(bench, "good", model=broken)
    found = step(report, "reference", "small")
    assert (found.state, report.exit_code) == (FAILED, 5)
    assert "Probe 'small' raised KeyError" in found.text


def test_a_plugin_that_fails_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_examination, "engine_probes", engine_probes)

    class Broken:
        @hookimpl
        def convkit_engine_probes(self) -> Any:
            raise RuntimeError("no probes today")

    with registered(Broken(), "broken"):
        report = examine_tensorrt()
    assert step(report, "probes").state == FAILED
    assert "no probes today" in step(report, "probes").text


def test_a_gpu_that_the_flavour_does_not_run_on(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(type(bench.world.gpu), "compute_capability", "9.0")
    report = examine(bench, "good")
    assert report.exit_code == 0
    assert states(report, "good")["built"] == SKIPPED
    assert states(report, "good", "small, float32")["built"] == PASSED
    ran = step(report, "way=good: ran", "small, float32")
    assert ran.state == SKIPPED
    assert "compute capability 9.0" in ran.text
    assert report.recommendations == ()
    assert bench.calls == []


def test_a_cache_that_cannot_be_written_is_said(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CONVKIT_CACHE", str(tmp_path / "file"))
    report = examine(bench, "good")
    assert report.recommendations[0].best == {"float32": "good"}
    assert "could not be stored" in step(report, "recommended way").text


def test_inputs_are_given_in_all_shapes(bench: Bench):
    seen: list[int] = []

    def inputs(batch: int) -> dict[str, np.ndarray]:
        seen.append(batch)
        return {"x": np.full((batch, 6), batch, np.float32)}

    report = examine(bench, "good", inputs=inputs)
    assert sorted(set(seen)) == [1, 2, 3]
    errors = step(report, "way=good: ran", "small, float32").details["errors"]
    assert set(errors) == {f"{name} {batch}x6" for name in ("twice", "sums") for batch in (1, 2, 3)}


class TestFullTensorRT:
    """Full TensorRT as if it were installed: which steps are made, for which GPU."""

    @pytest.fixture
    def made(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []

        def note(name: str) -> Any:
            return lambda steps, *arguments, targets, **options: found.append((name, targets)) or {}

        monkeypatch.setattr(_examination, "is_installed", lambda flavour: flavour.name == "tensorrt")
        monkeypatch.setattr(_examination, "try_convolution", note("convolution"))
        monkeypatch.setattr(_examination, "try_timing_cache", note("timing cache"))
        monkeypatch.setattr(_examination, "try_argument_order", note("argument order"))
        monkeypatch.setattr(_examination, "try_ways", note("ways"))
        monkeypatch.setattr(type(backend_named("tensorrt")), "problem", lambda self, device: "")
        return found

    def test_every_step_is_for_the_gpu_that_is_there(self, bench: Bench, made: Any, monkeypatch: Any) -> None:
        monkeypatch.setattr(_examination, "examine_flavour", lambda *arguments: True)
        examine(bench, "good")
        assert made == [(name, ("sm86",)) for name in ("convolution", "timing cache", "argument order", "ways")]

    def test_what_cannot_be_made_is_skipped_by_name(self, bench: Bench, made: Any, monkeypatch: Any) -> None:
        monkeypatch.setattr(_examination, "examine_flavour", lambda *arguments: False)
        report = examine(bench, "good")
        skipped = {each.name: each.text for each in report.steps if each.section == "tensorrt"}
        assert skipped == dict.fromkeys(
            ("convolution", "timing cache", "argument order", "way"), "the library does not work"
        )
        assert made == []

    def test_nothing_installed_is_a_failure(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_examination, "is_installed", lambda flavour: False)
        report = examine(bench, "good")
        assert report.exit_code == 5
        assert "neither TensorRT-RTX nor TensorRT is installed" in step(report, "TensorRT").text
        assert 'pip install "convkit[tensorrt]"' in step(report, "TensorRT").remedy
