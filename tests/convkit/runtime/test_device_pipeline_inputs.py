"""The device pipeline on a model without images: several inputs of other ranks and dtypes, one without a batch axis.

The device sides are NumPy functions that see only what the pipeline gives them: records, payloads and declared arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from support.device_pipeline import NumpyDevice

from convkit import Decode, Placement, Prepared, Preprocess, Result
from convkit.backends import DeviceSession
from convkit.errors import AdapterError, InputError
from convkit.model import Dim, ModelSpec, TensorSpec
from convkit.processing import ArraySpec
from convkit.runtime import DevicePipeline

SPEC = ModelSpec(
    variant="text",
    dims=(Dim("batch", 1, 1, 8), Dim("length", 1, 5, 10**6)),
    inputs=(
        TensorSpec("ids", ("batch", "length"), "int64"),
        TensorSpec("scale", ("batch",), "float32"),
        TensorSpec("table", (4, 2), "float32"),
    ),
    outputs=(TensorSpec("features", ("batch", 2)), TensorSpec("norm", (1,))),
    preprocess={},
    decode={},
)
TABLE = np.arange(8, dtype=np.float32).reshape(4, 2) / 8
RECORD = np.dtype([("offset", "<i8"), ("length", "<i4"), ("scale", "<f4")])


class Numbers(Result):
    """A vector and a count."""

    def __init__(self, values: Sequence[float], best: int) -> None:
        self.values, self.best = [float(value) for value in values], int(best)

    def to_json(self) -> dict[str, Any]:
        return {"values": self.values, "best": self.best}

    def summary(self) -> str:
        return str(self.to_json())


class Ids(Preprocess):
    """Text as numbers from 0 to 3; a scale from its length."""

    def __init__(self, device: bool, table: np.ndarray = TABLE) -> None:
        self.device, self.table = device, table

    def __call__(self, raw: Any) -> Prepared:
        ids = np.array([ord(letter) - ord("a") for letter in raw["text"]], np.int64)
        tensors = {"ids": ids, "scale": np.array(raw["scale"], np.float32), "table": self.table}
        return Prepared(tensors, {"bias": [len(ids), -1.5], "id": raw["id"]})

    def on_device(self) -> Any:
        return IdsOnDevice(self) if self.device else None


class IdsOnDevice:
    record = RECORD

    def __init__(self, host: Ids) -> None:
        self.host = host

    def place(self, raw: Any) -> Placement:
        prepared = self.host(raw)
        shapes = {name: value.shape for name, value in prepared.tensors.items()}
        payload = prepared.tensors["ids"].astype(np.int32).reshape(-1, 1)
        return Placement(shapes, prepared.meta, payload, detail=raw["scale"])

    def row(self, placement: Placement, offset: int) -> tuple[Any, ...]:
        assert offset % 16 == 0
        return offset, len(placement.payload), placement.detail

    def launch(self, records: Any, payloads: Any, tensors: Mapping[str, Any], stream: int) -> None:
        assert stream == NumpyDevice.stream
        assert records.shape[1] == RECORD.itemsize
        for index, record in enumerate(records.view(RECORD)[:, 0]):
            start, length = int(record["offset"]), int(record["length"])
            tensors["ids"][index] = payloads[start : start + 4 * length].view(np.int32)
            tensors["scale"][index] = record["scale"]
        tensors["table"][:] = TABLE

    def kernels(self) -> list[Any]:
        return []


class Sums(Decode):
    """Features and a bias from the meta."""

    def __init__(self, device: bool) -> None:
        self.device = device

    def __call__(self, outputs: Mapping[str, np.ndarray], metas: Sequence[Mapping[str, Any]]) -> list[Result]:
        assert outputs["norm"].shape == (1,)
        return [
            Numbers([*row.astype(np.float64) + meta["bias"], outputs["norm"][0]], int(row.argmax()) + meta["id"])
            for row, meta in zip(outputs["features"], metas, strict=True)
        ]

    def on_device(self) -> Any:
        return SumsOnDevice() if self.device else None


class SumsOnDevice:
    inputs = (ArraySpec("id", (), "int64"), ArraySpec("bias", (2, 1), "float64"))
    results = (ArraySpec("best", (), "int64"), ArraySpec("values", (3,), "float64"))

    def values(self, meta: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {"id": np.array(meta["id"]), "bias": np.array(meta["bias"]).reshape(2, 1)}

    def launch(self, outputs: Any, inputs: Any, results: Any, stream: int) -> None:
        assert stream == NumpyDevice.stream
        features = outputs["features"]
        results["values"][:, :2] = features.astype(np.float64) + inputs["bias"][..., 0]
        results["values"][:, 2] = outputs["norm"][0]
        results["best"][:] = features.argmax(1) + inputs["id"]

    def read(self, results: Mapping[str, np.ndarray], metas: Sequence[Mapping[str, Any]]) -> list[Result]:
        return [Numbers(row, best) for row, best in zip(results["values"], results["best"], strict=True)]

    def kernels(self) -> list[Any]:
        return []


class Embedding(DeviceSession):
    """Features: the scaled sum of the table's rows; norm: the table's sum."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def buffer(self, name: str, shape: Sequence[int]) -> np.ndarray:
        dtype = {each.name: each.dtype for each in SPEC.inputs}[name]
        return np.full(tuple(shape), 3, dtype)

    def fill(self, buffer: np.ndarray, values: np.ndarray) -> None:
        assert buffer.shape == values.shape
        assert buffer.dtype == values.dtype
        buffer[...] = values

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.batches.append(len(inputs["ids"]))
        return embed(inputs)

    def fetch(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(outputs)

    def capture(self, body: Any) -> Any:
        return body


def embed(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    features = inputs["table"][inputs["ids"]].sum(1) * inputs["scale"][:, None]
    return {"features": features, "norm": inputs["table"].sum(keepdims=True).reshape(1)}


def raws(length: int, count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(length)
    return [
        {"text": "".join(rng.choice(list("abcd"), length)), "scale": 0.5 + index, "id": 100 * index}
        for index in range(count)
    ]


def on_host(raw: Any) -> dict[str, Any]:
    prepared = Ids(device=False)(raw)
    ids, scale, table = (prepared.tensors[name] for name in ("ids", "scale", "table"))
    outputs = embed({"ids": ids[None], "scale": scale[None], "table": table})
    return Sums(device=False)(outputs, [prepared.meta])[0].to_json()


def make_pipeline(preprocess: bool = True, decode: bool = True, batch_min: int = 1) -> DevicePipeline:
    return DevicePipeline(NumpyDevice(), Embedding(), SPEC, Ids(preprocess), Sums(decode), batch_min=batch_min)


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("preprocess", [True, False])
@pytest.mark.parametrize(("batch", "batch_min"), [(1, 1), (3, 1), (3, 4)])
def test_results_are_those_of_the_host(preprocess: bool, decode: bool, batch: int, batch_min: int) -> None:
    pipeline = make_pipeline(preprocess, decode, batch_min)
    for _ in range(4):
        for length in (5, 1, 17):
            given = raws(length, 6)
            items = [pipeline.item(raw) for raw in given]
            assert items[0].shapes == {"ids": (length,), "scale": (), "table": (4, 2)}
            batches = [items[start : start + batch] for start in range(0, 6, batch)]
            found = [result.to_json() for result in pipeline.flow(batches)]
            assert found == [on_host(raw) for raw in given]
    assert set(pipeline.engine.batches) == {max(batch, batch_min)}  # type: ignore[attr-defined]


def test_outputs_without_a_batch_axis_stay_whole() -> None:
    pipeline = make_pipeline(batch_min=3)
    outputs = pipeline.outputs([pipeline.item(raw) for raw in raws(4, 2)])
    assert outputs["features"].shape == (2, 2)
    assert outputs["norm"].shape == (1,)


def test_inputs_without_a_batch_axis_must_agree_within_a_batch() -> None:
    pipeline = make_pipeline(preprocess=False)
    first, second = (pipeline.item(raw) for raw in raws(4, 2))
    pipeline._host_preprocess = Ids(device=False, table=TABLE + 1)
    other = pipeline.item(raws(4, 1)[0])
    assert len(list(pipeline.flow([[first, second], [other]]))) == 3
    with pytest.raises(InputError, match="'table' has no batch axis, but differs"):
        list(pipeline.flow([[first, other]]))


def test_records_must_fill_whole_units() -> None:
    class Wrong(Ids):
        def on_device(self) -> Any:
            side = IdsOnDevice(self)
            side.record = np.dtype([("offset", "<i8"), ("length", "<i4")])
            return side

    with pytest.raises(AdapterError, match="The record of IdsOnDevice has 12 bytes") as caught:
        DevicePipeline(NumpyDevice(), Embedding(), SPEC, Wrong(device=True), None, batch_min=1)
    assert "multiple of 16 bytes" in caught.value.hint


def test_payloads_may_be_large_and_lie_apart_in_memory() -> None:
    """Several threads copy payloads of many megabytes; a payload need not be contiguous."""

    class Strided(IdsOnDevice):
        def place(self, raw: Any) -> Placement:
            placed = super().place(raw)
            wide = np.zeros((len(placed.payload), 2), np.int32)
            wide[:, :1] = placed.payload
            return Placement(placed.shapes, placed.meta, wide[:, :1], placed.detail)

    class Apart(Ids):
        def on_device(self) -> Any:
            return Strided(self)

    pipeline = DevicePipeline(NumpyDevice(), Embedding(), SPEC, Apart(device=True), Sums(device=True), batch_min=1)
    given = raws(700_001, 3)
    found = [result.to_json() for result in pipeline.flow([[pipeline.item(raw) for raw in given]])]
    assert found == [on_host(raw) for raw in given]
    pipeline.close()
