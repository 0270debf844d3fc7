"""The search for a tactic, on a device that is made up: a clock, a name, and whether a graph is being captured."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from convkit.errors import ConvkitError, KernelError
from convkit_plugins.dcnv2.cuda import Problem, Tactic, _search
from convkit_plugins.dcnv2.cuda._search import best_tactic

PROBLEM = Problem(64, 64, 9, 1, 4096, False)
SLOW, FAST, MIDDLE = (Tactic(tile_n, 1, 1, 1, 1, 4, 2, 2, 1) for tile_n in (32, 64, 128))
RESULT = torch.randn(50, generator=torch.Generator().manual_seed(0)).half()


@dataclass
class Device:
    """A GPU that takes so many milliseconds for each tactic and records the calls."""

    times: dict[Tactic, float] = field(default_factory=lambda: {SLOW: 3.0, FAST: 1.0, MIDDLE: 2.0})
    results: dict[Tactic, torch.Tensor | ConvkitError] = field(default_factory=dict)
    name: str = "a GPU"
    capturing: bool = False
    now: float = 0.0
    prepared: list[Tactic] = field(default_factory=list)
    compiled: int = 0
    reference: torch.Tensor | None = field(default_factory=lambda: RESULT)
    compared: int = 0

    def prepare(self, tactic: Tactic) -> Callable[[], torch.Tensor]:
        self.prepared.append(tactic)
        result = self.results.get(tactic, RESULT)
        if isinstance(result, ConvkitError):
            raise result

        def call() -> torch.Tensor:
            self.now += self.times[tactic]
            return result

        return call

    def expected(self) -> torch.Tensor | None:
        assert not self.prepared
        self.compared += 1
        return self.reference

    def compile_all(self) -> None:
        assert not self.prepared, "compiled too late"
        self.compiled += 1

    def next_process(self) -> None:
        _search._known.clear()
        self.prepared.clear()
        self.compiled = 0

    def best(self, problem: Problem = PROBLEM, key: str = "key", tactics: tuple[Tactic, ...] = ()) -> Tactic:
        return best_tactic(
            problem, key, tactics or (SLOW, FAST, MIDDLE), self.prepare,
            reference=self.expected, compile_all=self.compile_all,
        )  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("CONVKIT_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache" / "tactics"
    _search._known.clear()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device()

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = device.now

        def synchronize(self) -> None:
            pass

        def elapsed_time(self, other: Event) -> float:
            return other.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: device.name)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: device.capturing)
    return device


def test_the_fastest_wins(device: Device) -> None:
    assert device.best() == FAST
    assert device.compiled == 1
    device.times[FAST] = 9.0
    device.next_process()
    assert device.best(key="another") == MIDDLE


def test_the_median_counts(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """One hiccup in a few calls, as others on the GPU cause it, changes nothing."""
    calls = iter(range(1000))
    prepare = device.prepare

    def hiccup(tactic: Tactic) -> Callable[[], torch.Tensor]:
        call = prepare(tactic)

        def with_hiccup() -> torch.Tensor:
            if tactic == FAST and next(calls) == 3:
                device.now += 1000
            return call()

        return with_hiccup

    monkeypatch.setattr(device, "prepare", hiccup)
    assert device.best() == FAST


@pytest.mark.parametrize(
    "result",
    [KernelError("It does not compile."), RESULT + 0.1, torch.full_like(RESULT, torch.nan), torch.zeros_like(RESULT)],
    ids=["does not compile", "computes something else", "computes no numbers", "computes nothing"],
)
def test_one_that_fails_is_left_out(device: Device, result: torch.Tensor | ConvkitError) -> None:
    device.results[FAST] = result
    assert device.best() == MIDDLE


@pytest.mark.parametrize("wrong", [SLOW, FAST, MIDDLE], ids=["first", "fastest", "last"])
@pytest.mark.parametrize(
    "result",
    [-RESULT, torch.full_like(RESULT, torch.nan), torch.zeros_like(RESULT), RESULT.roll(1), RESULT * 1.01],
    ids=["negated", "nan", "zero", "shifted", "scaled"],
)
def test_a_tactic_that_computes_something_else_is_left_out(wrong: Tactic, result: torch.Tensor, device: Device) -> None:
    """Also the first one, although nothing was measured before it, and although the others are slower."""
    device.results[wrong] = result
    device.times[wrong] = 0.5
    assert device.best() == (MIDDLE if wrong == FAST else FAST)


def test_one_wrong_element_is_enough(device: Device) -> None:
    result = RESULT.clone()
    result[17] += 1
    device.results[FAST] = result
    assert device.best() == MIDDLE


def test_a_search_without_a_right_tactic_is_an_error(device: Device, cache: Path) -> None:
    device.results.update(dict.fromkeys(device.times, -RESULT))
    with pytest.raises(KernelError, match="wrong result with each of 3 tactics") as caught:
        device.best()
    assert "report" in caught.value.hint
    assert not cache.exists()


def test_a_tactic_that_does_not_run_is_left_out(device: Device) -> None:
    device.results[FAST] = KernelError("It does not compile.")
    assert device.best() == MIDDLE


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float16, 2**-10), (torch.bfloat16, 2**-7)], ids=str)
def test_results_may_differ_by_roundings(dtype: torch.dtype, rounding: float, device: Device) -> None:
    device.reference = RESULT.to(dtype)
    device.results = dict.fromkeys(device.times, device.reference)
    device.results[FAST] = (RESULT.double() * (1 + rounding)).to(dtype)
    assert device.best() == FAST


def test_overflows_agree_with_the_largest_number(device: Device) -> None:
    device.reference = RESULT.clone()
    device.reference[:2] = torch.tensor([torch.inf, -torch.inf])
    for tactic in device.times:
        device.results[tactic] = device.reference.clamp(-65504, 65504)
    assert device.best() == FAST


@pytest.mark.parametrize("reference", [None, torch.full_like(RESULT, torch.nan)], ids=["none", "nan"])
def test_inputs_that_allow_no_comparison_are_not_searched_with(
    reference: torch.Tensor | None, device: Device, cache: Path
) -> None:
    device.reference = reference
    assert device.best() == SLOW, "the most promising"
    assert not device.prepared
    assert not cache.exists()
    device.reference = RESULT
    assert device.best() == FAST


def test_the_error_of_tactics_that_do_not_run_is_raised(device: Device) -> None:
    device.results.update(dict.fromkeys(device.times, KernelError("It does not compile.")))
    with pytest.raises(KernelError, match="does not compile"):
        device.best()


def test_a_process_searches_once(device: Device, cache: Path) -> None:
    device.best()
    for file in cache.iterdir():
        file.unlink()
    device.prepared.clear()
    assert device.best() == FAST
    assert not device.prepared


def test_later_processes_read_the_result(device: Device, cache: Path) -> None:
    device.best()
    (file,) = cache.iterdir()
    content = json.loads(file.read_text())
    assert content["tactic"] == FAST._asdict()
    assert content["measured"] == [
        {**tactic._asdict(), "microseconds": pytest.approx(1000 * ms)} for tactic, ms in device.times.items()
    ]
    device.next_process()
    device.times[FAST] = 9.0
    assert device.best() == FAST
    assert not device.prepared
    assert not device.compiled


@pytest.mark.parametrize("what", ["problem", "blending", "key", "device"])
def test_what_a_choice_depends_on_is_searched_apart(device: Device, what: str) -> None:
    device.best()
    device.times[FAST] = 9.0
    device.next_process()
    if what == "device":
        device.name = "another GPU"
    problem = replace(PROBLEM, pixels=8192) if what == "problem" else replace(PROBLEM, blend_fp32=what == "blending")
    assert device.best(problem, "another" if what == "key" else "key") == MIDDLE


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"tactic": 3}', '{"tactic": {"tile_n": 64}}', '{"tactic": {"tile": 64}}', "\xff"]
)
def test_a_corrupt_file_is_searched_again(device: Device, cache: Path, text: str) -> None:
    device.best()
    (file,) = cache.iterdir()
    file.write_bytes(text.encode("latin-1"))
    device.next_process()
    assert device.best() == FAST
    assert device.compiled == 1
    assert json.loads(file.read_text())["tactic"] == FAST._asdict()


def test_a_tactic_that_is_no_longer_proposed_is_searched_again(device: Device) -> None:
    device.best()
    device.next_process()
    assert device.best(tactics=(SLOW, MIDDLE)) == MIDDLE


def test_nothing_is_measured_while_a_graph_is_captured(device: Device, cache: Path) -> None:
    device.capturing = True
    assert device.best() == SLOW, "the most promising"
    assert not device.prepared
    assert not cache.exists()
    device.capturing = False
    assert device.best() == FAST, "and it is not remembered"
    device.capturing = True
    assert device.best() == FAST


def test_one_tactic_needs_no_search(device: Device) -> None:
    assert device.best(tactics=(MIDDLE,)) == MIDDLE
    assert not device.prepared


def test_a_folder_that_cannot_be_written_is_fine(device: Device, cache: Path) -> None:
    """A file lies where the folder should be: that also stops root."""
    cache.parent.parent.mkdir(exist_ok=True)
    cache.parent.write_text("")
    assert device.best() == FAST
    device.next_process()
    assert device.best() == FAST
    assert device.compiled == 1


def test_threads_search_once(device: Device) -> None:
    found: list[Tactic] = []
    threads = [threading.Thread(target=lambda: found.append(device.best())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [FAST] * 8
    assert device.compiled == 1
