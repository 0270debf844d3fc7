"""Runners: PyTorch sample by sample in any precision, and every comparison through polygraphy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from convkit.proof._errors import TensorError
from convkit.proof._runners import compare_runs
from polygraphy.comparator import Comparator
from torch import nn

from convkit import TensorSpec
from convkit.errors import ValidationError
from convkit.proof import MatchError, TorchCompute

RNG = np.random.default_rng(0)


class Net(nn.Module):
    """Count its runs; the second output mixes the samples of a batch, as a faulty export would."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.sizes: list[int] = []

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.sizes.append(len(x))
        return self.linear(x), x - x.mean(0, keepdim=True)


def reference(module: nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    line, mixed = module(inputs["x"])
    return {"line": line, "mixed": mixed}


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def test_a_batch_is_put_together_from_single_samples(net):
    x = RNG.standard_normal((5, 4)).astype(np.float32)
    outputs = TorchCompute(net, reference, "float32")({"x": x})
    assert net.sizes == [1] * 5
    with torch.no_grad():
        batched = net(torch.from_numpy(x))
    np.testing.assert_allclose(outputs["line"], batched[0].numpy(), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(outputs["mixed"], np.zeros((5, 4)))  # alone, each sample is its own mean


def test_a_sample_that_was_seen_is_not_run_again(net):
    compute = TorchCompute(net, reference, "float32")
    x = RNG.standard_normal((3, 4)).astype(np.float32)
    first = compute({"x": x})
    again = compute({"x": x[[2, 0, 0, 1]]})
    assert len(net.sizes) == 3
    np.testing.assert_array_equal(again["line"], first["line"][[2, 0, 0, 1]])
    compute({"x": np.nextafter(x[:1], 9, dtype=np.float32)})
    assert len(net.sizes) == 4, "a difference in the last bit makes another sample"


def test_samples_of_equal_bytes_and_other_shapes_are_told_apart():
    def rows(module: nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"y": inputs["x"].sum(-1)}

    compute = TorchCompute(nn.Identity(), rows, "float32")
    assert compute({"x": np.ones((1, 2, 6), np.float32)})["y"].tolist() == [[6, 6]]
    assert compute({"x": np.ones((1, 3, 4), np.float32)})["y"].tolist() == [[4, 4, 4]]


def test_the_asked_precision_is_used_throughout(net):
    x = RNG.standard_normal((2, 4)).astype(np.float32)
    exact = TorchCompute(net.double(), reference, "float64")({"x": x})["line"]
    assert exact.dtype == np.float64
    weight, bias = (tensor.detach().numpy() for tensor in (net.linear.weight, net.linear.bias))
    np.testing.assert_allclose(exact, x.astype(np.float64) @ weight.T + bias, rtol=1e-14)


def test_whole_numbers_stay_whole_numbers():
    def look_up(module: nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"row": module(inputs["index"])}

    table = nn.Embedding(5, 2).double()
    rows = TorchCompute(table, look_up, "float64")({"index": np.array([4, 1])})["row"]
    np.testing.assert_array_equal(rows, table.weight.detach().numpy()[[4, 1]])


def test_an_array_that_is_not_contiguous_can_be_a_sample(net):
    x = np.asfortranarray(RNG.standard_normal((3, 4)).astype(np.float32))
    with torch.no_grad():
        expected = net.linear(torch.from_numpy(np.ascontiguousarray(x))).numpy()
    np.testing.assert_allclose(TorchCompute(net, reference, "float32")({"x": x})["line"], expected, rtol=1e-6)


INPUTS = (TensorSpec("x", ("batch", 4)),)
OUTPUTS = (TensorSpec("y", ("batch", 4)),)


def test_polygraphy_runs_and_compares_every_runner_on_every_feed(monkeypatch):
    seen = []
    run = Comparator.run

    def spy(runners, **options):
        seen.append([runner.name for runner in runners])
        return run(runners, **options)

    monkeypatch.setattr(Comparator, "run", staticmethod(spy))
    feeds = [{"x": RNG.standard_normal((batch, 4)).astype(np.float32)} for batch in (1, 3)]
    found = compare_runs(
        {
            "exact": lambda feed: {"y": feed["x"].astype(np.float64) * 2},
            "same": lambda feed: {"y": feed["x"] * 2},
            "off": lambda feed: {"y": feed["x"] * 2 + np.float32(0.5)},
        },
        feeds,
        INPUTS,
        OUTPUTS,
    )
    assert seen == [["exact", "same", "off"]]
    assert set(found) == {"same", "off"}
    for name, distance in (("same", 0.0), ("off", 0.5)):
        assert len(found[name]) == 2
        for iteration in found[name]:
            (error,) = iteration["y"]
            assert isinstance(error, TensorError)
            assert error.max_abs == pytest.approx(distance, abs=1e-6)


def test_outputs_of_detections_are_matched_sample_by_sample():
    rows = np.zeros((2, 20, 6), np.float32)
    rows[..., 0] = np.arange(20) * 30
    rows[..., 2] = rows[..., 0] + 20
    rows[..., 3] = 20
    rows[..., 4] = np.linspace(0.9, 0.2, 20)
    shuffled = rows[:, ::-1].copy()
    shuffled[1, :5, 2] += 20
    boxes = (TensorSpec("boxes", ("batch", 20, 6), compare="detections"),)
    found = compare_runs(
        {"a": lambda feed: {"boxes": rows}, "b": lambda feed: {"boxes": shuffled}},
        [{"x": np.zeros((2, 4), np.float32)}],
        INPUTS,
        boxes,
    )
    first, second = found["b"][0]["boxes"]
    assert isinstance(first, MatchError)
    assert (first.matched, first.unexplained) == (20, 0)
    assert (second.matched, second.unexplained) == (15, 10)


@pytest.mark.parametrize("column", range(6))
def test_rows_that_hold_no_number_are_infinitely_wrong_wherever_it_stands(column):
    """Also in the last row, which a tie at the cut would excuse, and in the class, which becomes an integer."""
    rows = np.zeros((1, 20, 6), np.float32)
    rows[..., 4] = np.linspace(0.9, 0.2, 20)
    wrong = rows.copy()
    wrong[0, -1, column] = np.nan
    boxes = (TensorSpec("boxes", ("batch", 20, 6), compare="detections"),)
    found = compare_runs(
        {"a": lambda feed: {"boxes": rows}, "b": lambda feed: {"boxes": wrong}},
        [{"x": np.zeros((1, 4), np.float32)}],
        INPUTS,
        boxes,
    )
    (error,) = found["b"][0]["boxes"]
    assert error.max_abs == np.inf


def test_detections_of_another_shape_are_infinitely_wrong():
    boxes = (TensorSpec("boxes", ("batch", 2, 6), compare="detections"),)
    found = compare_runs(
        {"a": lambda feed: {"boxes": np.zeros((1, 2, 6))}, "b": lambda feed: {"boxes": np.zeros((1, 3, 6))}},
        [{"x": np.zeros((1, 4), np.float32)}],
        INPUTS,
        boxes,
    )
    (error,) = found["b"][0]["boxes"]
    assert error.max_abs == np.inf


def test_an_engine_without_an_output_is_an_error_that_lists_what_it_has():
    with pytest.raises(ValidationError, match="no output 'y'; it returns z"):
        compare_runs(
            {"a": lambda feed: {"y": feed["x"]}, "b": lambda feed: {"z": feed["x"]}},
            [{"x": np.zeros((1, 4), np.float32)}],
            INPUTS,
            OUTPUTS,
        )


def test_comparing_says_nothing(capfd):
    compare_runs(
        {"a": lambda feed: {"y": feed["x"]}, "b": lambda feed: {"y": feed["x"] + 1}},
        [{"x": np.zeros((1, 4), np.float32)}],
        INPUTS,
        OUTPUTS,
    )
    assert capfd.readouterr() == ("", "")
