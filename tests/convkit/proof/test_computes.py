"""What a proof runs: PyTorch item by item in any precision, and the patched module as it is exported."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from convkit import Dim, ModelSpec, SourceModel, TensorSpec
from convkit.errors import AdapterError
from convkit.proof import TorchCompute, by_items, feed_key, patched_compute, run_parallel

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


def source_of(
    module: nn.Module, run: Any, inputs: Mapping[str, tuple[Any, ...]], outputs: Mapping[str, tuple[Any, ...]]
) -> SourceModel:
    """Return a model whose tensors have these shapes; names that begin with ``index`` are int64."""
    spec = ModelSpec(
        "v",
        (Dim("batch", 1, 1, 4), Dim("n", 1, 1, 8)),
        tuple(TensorSpec(name, shape, "int64" if name == "index" else "float32") for name, shape in inputs.items()),
        tuple(TensorSpec(name, shape) for name, shape in outputs.items()),
    )
    return SourceModel(module, spec, run)


def compute_of(net: nn.Module, dtype: str, **options: Any) -> TorchCompute:
    shapes = {"line": ("batch", 3), "mixed": ("batch", 4)}
    return TorchCompute(source_of(net, reference, {"x": ("batch", 4)}, shapes), net, dtype, **options)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def test_a_batch_is_put_together_from_single_samples(net):
    x = RNG.standard_normal((5, 4)).astype(np.float32)
    outputs = compute_of(net, "float32")({"x": x})
    assert net.sizes == [1] * 5
    with torch.no_grad():
        batched = net(torch.from_numpy(x))
    np.testing.assert_allclose(outputs["line"], batched[0].numpy(), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(outputs["mixed"], np.zeros((5, 4)))  # alone, each sample is its own mean


def test_a_module_that_was_released_is_copied_for_a_new_sample_only(net):
    shapes = {"line": ("batch", 3), "mixed": ("batch", 4)}
    source = source_of(net, reference, {"x": ("batch", 4)}, shapes)
    compute = TorchCompute(source, copy.deepcopy(net).double(), "float64")
    x = RNG.standard_normal((3, 4)).astype(np.float32)
    first = compute({"x": x[:2]})
    compute.release()
    np.testing.assert_array_equal(compute({"x": x[:2]})["line"], first["line"])
    compute.release()
    new = compute({"x": x[2:]})["line"]
    weight, bias = (value.detach().numpy().astype(np.float64) for value in (net.linear.weight, net.linear.bias))
    np.testing.assert_allclose(new, x[2:].astype(np.float64) @ weight.T + bias, rtol=1e-14, atol=1e-15)
    assert net.sizes == [], "the source's own module is not run"
    assert net.linear.weight.dtype == torch.float32


def test_a_sample_that_was_seen_is_not_run_again(net):
    compute = compute_of(net, "float32")
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

    source = source_of(nn.Identity(), rows, {"x": ("batch", "n", "n")}, {"y": ("batch", "n")})
    compute = TorchCompute(source, source.module, "float32")
    assert compute({"x": np.ones((1, 2, 6), np.float32)})["y"].tolist() == [[6, 6]]
    assert compute({"x": np.ones((1, 3, 4), np.float32)})["y"].tolist() == [[4, 4, 4]]


def test_the_asked_precision_is_used_throughout(net):
    x = RNG.standard_normal((2, 4)).astype(np.float32)
    exact = compute_of(net.double(), "float64")({"x": x})["line"]
    assert exact.dtype == np.float64
    weight, bias = (tensor.detach().numpy() for tensor in (net.linear.weight, net.linear.bias))
    np.testing.assert_allclose(exact, x.astype(np.float64) @ weight.T + bias, rtol=1e-14)


def test_whole_numbers_stay_whole_numbers():
    def look_up(module: nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"row": module(inputs["index"])}

    table = nn.Embedding(5, 2).double()
    source = source_of(table, look_up, {"index": ("batch",)}, {"row": ("batch", 2)})
    rows = TorchCompute(source, table, "float64")({"index": np.array([4, 1])})["row"]
    np.testing.assert_array_equal(rows, table.weight.detach().numpy()[[4, 1]])


def test_an_array_that_is_not_contiguous_can_be_a_sample(net):
    x = np.asfortranarray(RNG.standard_normal((3, 4)).astype(np.float32))
    with torch.no_grad():
        expected = net.linear(torch.from_numpy(np.ascontiguousarray(x))).numpy()
    np.testing.assert_allclose(compute_of(net, "float32")({"x": x})["line"], expected, rtol=1e-6)


def test_nothing_is_remembered_where_that_was_asked(net):
    compute = compute_of(net, "float32", remember=False)
    x = RNG.standard_normal((1, 4)).astype(np.float32)
    for _ in range(2):
        compute({"x": x})
    assert len(net.sizes) == 2


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ({"line": torch.zeros(1, 3)}, "reference lacks mixed"),
        ({}, "reference lacks line, mixed"),
        (
            {"line": torch.zeros(1), "mixed": torch.zeros(1), "more": torch.zeros(1)},
            "returned more, which ModelSpec.outputs does not declare",
        ),
        ((torch.zeros(1, 3), torch.zeros(1, 4)), "returned a tuple; its outputs are line, mixed"),
        (torch.zeros(1, 3), "returned a Tensor"),
        (None, "returned a NoneType"),
        ({"line": torch.zeros(1), "mixed": [0.0]}, "returned a list for 'mixed'"),
    ],
)
def test_a_reference_that_breaks_its_contract_is_the_adapters_error(returned, message):
    source = source_of(
        nn.Identity(), lambda module, inputs: returned, {"x": ("batch", 4)}, {"line": ("batch", 3), "mixed": ("batch",)}
    )
    with pytest.raises(AdapterError, match=message) as caught:
        TorchCompute(source, source.module, "float32")({"x": np.zeros((2, 4), np.float32)})
    assert "ModelSpec.outputs" in caught.value.hint


def test_inputs_and_outputs_without_a_batch_axis_are_the_same_for_every_item():
    """A table that all items share goes in whole, and an output that has no batch axis comes from the first."""

    def run(module: nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        assert inputs["x"].shape == (1, 3)
        assert inputs["table"].shape == (3, 2)
        return {"y": inputs["x"] @ inputs["table"], "norm": inputs["table"].norm()}

    source = source_of(nn.Identity(), run, {"x": ("batch", 3), "table": (3, 2)}, {"y": ("batch", 2), "norm": ()})
    x, table = (RNG.standard_normal(shape).astype(np.float32) for shape in ((4, 3), (3, 2)))
    found = TorchCompute(source, source.module, "float64")({"x": x, "table": table})
    np.testing.assert_allclose(found["y"], x.astype(np.float64) @ table, rtol=1e-12)
    assert found["norm"] == pytest.approx(np.linalg.norm(table))


def test_a_model_without_a_batch_axis_is_run_as_it_is():
    calls: list[dict[str, tuple[int, ...]]] = []

    def compute(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        calls.append({name: value.shape for name, value in feed.items()})
        return {"y": feed["x"].sum(0)}

    spec = source_of(nn.Identity(), None, {"x": (5, 3)}, {"y": (3,)}).spec
    x = np.ones((5, 3), np.float32)
    assert by_items(spec, compute, {"x": x})["y"].tolist() == [5, 5, 5]
    assert calls == [{"x": (5, 3)}]


def test_a_feed_is_known_by_names_dtypes_shapes_and_values_whatever_their_order():
    x, y = np.arange(6, dtype=np.float32), np.arange(6, dtype=np.int64)
    key = feed_key({"x": x, "y": y})
    assert key == feed_key({"y": y.copy(), "x": x.copy()})
    others = [
        {"x": x},
        {"x": x, "z": y},
        {"x": y, "y": x},
        {"x": x.reshape(2, 3), "y": y},
        {"x": x, "y": y.astype(np.int32)},
        {"x": x, "y": y + 1},
        {"x": np.nextafter(x, 9, dtype=np.float32), "y": y},
    ]
    assert len({key, *map(feed_key, others)}) == len(others) + 1
    assert feed_key({"x": np.asfortranarray(x.reshape(2, 3))}) == feed_key({"x": x.reshape(2, 3)})


class Pair(nn.Module):
    def forward(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return first - second, first + second


PAIR = {"b": ("batch", 2), "a": ("batch", 2)}


def test_the_patched_module_gets_its_inputs_in_the_order_of_the_specification():
    source = source_of(Pair(), None, PAIR, {"difference": ("batch", 2), "sum": ("batch", 2)})
    feed = {"a": np.full((1, 2), 1, np.float32), "b": np.full((1, 2), 5, np.float32)}
    found = patched_compute(source)(feed)
    assert list(found) == ["difference", "sum"]
    assert found["difference"].tolist() == [[4, 4]]
    assert found["sum"].tolist() == [[6, 6]]


def test_a_patched_module_may_return_its_only_output_as_it_is():
    source = source_of(nn.Identity(), None, {"x": ("batch", 2)}, {"y": ("batch", 2)})
    assert patched_compute(source)({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[1, 1]]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ((torch.zeros(1),), "returns 1 values; the adapter declares 2 outputs"),
        (torch.zeros(1), "returns 1 values; the adapter declares 2 outputs"),
        ({"difference": torch.zeros(1), "sum": torch.zeros(1)}, "returns a dict"),
        ((torch.zeros(1), None), "returns a tuple"),
        (None, "returns None"),
    ],
)
def test_a_patched_module_that_returns_something_else_is_refused(returned, message):
    module = Pair()
    module.forward = lambda first, second: returned
    source = source_of(module, None, PAIR, {"difference": ("batch", 2), "sum": ("batch", 2)})
    with pytest.raises(AdapterError, match=message) as caught:
        patched_compute(source)({"a": np.zeros((1, 2), np.float32), "b": np.zeros((1, 2), np.float32)})
    assert "tuple of tensors" in caught.value.hint


@pytest.mark.parametrize(
    "forward", [lambda first: first, lambda first, second, third: first, lambda first, *, second: first]
)
def test_a_patched_module_that_takes_other_inputs_is_refused(forward):
    module = Pair()
    module.forward = forward
    source = source_of(module, None, PAIR, {"difference": ("batch", 2)})
    with pytest.raises(AdapterError, match=r"2 declared inputs \(b, a\)") as caught:
        patched_compute(source)
    assert "order of ModelSpec.inputs" in caught.value.hint


def test_a_patched_module_may_take_more_than_the_declared_inputs_where_it_has_defaults():
    module = Pair()
    module.forward = lambda first, second, scale=3.0: scale * first
    source = source_of(module, None, PAIR, {"difference": ("batch", 2)})
    feed = {"a": np.full((1, 2), 1, np.float32), "b": np.full((1, 2), 5, np.float32)}
    assert patched_compute(source)(feed)["difference"].tolist() == [[15, 15]]


@pytest.mark.parametrize(("calls", "each"), [(1, 5), (2, 2), (5, 1), (7, 1)])
def test_calls_side_by_side_divide_the_threads(calls: int, each: int) -> None:
    threads, seen, over = torch.get_num_threads(), [], []
    try:
        torch.set_num_threads(5)
        run_parallel([lambda: seen.append(torch.get_num_threads())] * calls, over.append)
        assert torch.get_num_threads() == 5
    finally:
        torch.set_num_threads(threads)
    assert (seen, over) == ([each] * calls, list(range(1, calls + 1)))


BOTH = threading.Barrier(2)


class Keeps(nn.Module):
    """Keeps what it was given, as much research code does, and returns it once another thread has come as far."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.kept = x
        BOTH.wait(60)
        return self.linear(self.kept), self.kept * 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_items_side_by_side_do_not_see_what_a_module_keeps_of_another(dtype: str) -> None:
    torch.manual_seed(0)
    net = Keeps().to(getattr(torch, dtype))
    compute, x = compute_of(net, dtype), RNG.standard_normal((2, 4)).astype(np.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        run_parallel(compute.pending([{"x": x}]))
    finally:
        torch.set_num_threads(threads)
    expected = net.linear(torch.from_numpy(x).to(net.linear.weight)).detach().numpy()
    np.testing.assert_allclose(compute({"x": x})["line"], expected, rtol=1e-6, atol=1e-7)
