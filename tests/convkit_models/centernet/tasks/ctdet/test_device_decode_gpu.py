"""The decoding kernels on a GPU against the host's decoding: at full size, to the bit, run after run and in a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from support.decoding import assert_equal
from torch.nn import functional as F

from convkit import Detections
from convkit_models.centernet.tasks.ctdet import MODE, CtdetDecode, CudaDecode, ProDecode, Tuning

pytestmark = pytest.mark.gpu

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
KINDS = ("noise", "smooth", "rounded", "flat", "ramp", "nan", "crowded")


def spec(form: str, classes: int, topk: int) -> dict[str, Any]:
    return {
        "form": form,
        "stride": 4,
        "topk": topk,
        "sizes_per_class": False,
        "classes": [str(index) for index in range(classes)],
    }


def heads(kind: str, batch: int, classes: int, height: int, width: int) -> dict[str, torch.Tensor]:
    """Return float32 maps on the GPU."""
    generator = torch.Generator("cuda").manual_seed(len(kind))
    hm = torch.randn(batch, classes, height, width, device="cuda", generator=generator)
    if kind == "smooth":
        hm = F.avg_pool2d(F.avg_pool2d(hm, 5, 1, 2), 5, 1, 2) * 12
    elif kind == "rounded":
        hm = hm.round()
    elif kind == "flat":
        hm[:] = 0.25
    elif kind == "ramp":
        hm[:] = torch.arange(hm.numel(), device="cuda").reshape(hm.shape) / 1000
    elif kind == "nan":
        hm[hm > 2] = torch.nan
        hm[hm < -3] = -torch.inf
    elif kind == "crowded":
        hm[:, 0, ::2, ::2] += 8
    wh = torch.rand(batch, 2, height, width, device="cuda", generator=generator) * 20
    reg = torch.rand(batch, 2, height, width, device="cuda", generator=generator)
    return {"hm": 2 * hm - 5 if kind != "ramp" else hm, "wh": wh, "reg": reg}


def in_form(form: str, maps: Mapping[str, torch.Tensor], topk: int) -> dict[str, torch.Tensor]:
    if form == "heads":
        return dict(maps)
    if form == "cells":
        return {name: value.to(memory_format=torch.channels_last) for name, value in maps.items()}
    if form == "tensorrt-pro":
        pooled = F.max_pool2d(maps["hm"], 3, stride=1, padding=1)
        joined = torch.cat([maps["reg"], maps["wh"], maps["hm"], pooled], dim=1)
        return {"output": joined.flatten(2).transpose(1, 2).contiguous()}
    rows = torch.rand(len(maps["hm"]), topk, 6, device="cuda") * 300
    rows[..., 4] = (rows[..., 4] / 200 - 0.5).round(decimals=1)
    return {"detections": rows.to(maps["hm"].dtype)}


def read(decode: CudaDecode, rows: np.ndarray, counts: np.ndarray, metas: Any) -> list[Any]:
    return list(decode.read({"rows": rows, "counts": counts}, metas))


class OnGpu:
    """A decoding with its buffers, which are poisoned before each run."""

    def __init__(self, settings: Mapping[str, Any], outputs: Mapping[str, torch.Tensor], tuning: Tuning | None = None):
        self.decode = CudaDecode(settings, tuning)
        self.outputs, self.batch = outputs, len(next(iter(outputs.values())))
        self.metas = [
            {"center": [960.0 + 3 * index, 540.0], "scale": 1920.0 - index, "input": self._input(settings)}
            for index in range(self.batch)
        ]
        matrices = np.stack([self.decode.values(meta)["output_to_image"] for meta in self.metas])
        self.matrices = torch.from_numpy(matrices).cuda()
        self.rows = torch.empty(self.batch, *self.decode.results[0].shape, device="cuda")
        self.counts = torch.empty(self.batch, dtype=torch.int32, device="cuda")

    def _input(self, settings: Mapping[str, Any]) -> list[int]:
        hm = self.outputs.get("hm")
        if hm is not None:
            return [4 * side for side in hm.shape[2:]]
        return settings.get("input", [512, 512])

    def launch(self) -> None:
        stream = torch.cuda.current_stream().cuda_stream
        results = {"rows": self.rows, "counts": self.counts}
        self.decode.launch(self.outputs, {"output_to_image": self.matrices}, results, stream)

    def poison(self) -> None:
        self.rows.fill_(torch.nan)
        self.counts.fill_(-1)

    def results(self) -> list[Detections]:
        return read(self.decode, self.rows.cpu().numpy(), self.counts.cpu().numpy(), self.metas)

    def __call__(self) -> list[Detections]:
        self.poison()
        self.launch()
        return self.results()


def on_host(settings: Mapping[str, Any], device: OnGpu) -> Any:
    outputs = {name: np.ascontiguousarray(value.float().cpu().numpy()) for name, value in device.outputs.items()}
    return CtdetDecode(settings)(outputs, device.metas)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["heads", "cells", "tensorrt-pro", "detections"])
@pytest.mark.parametrize("kind", KINDS)
def test_full_size(form: str, dtype: str, kind: str) -> None:
    maps = {name: value.to(DTYPES[dtype]) for name, value in heads(kind, 2, 80, 128, 128).items()}
    settings = spec("heads" if form == "cells" else form, 80, 100)
    device = OnGpu(settings, in_form(form, maps, 100))
    expected = on_host(settings, device)
    for _ in range(3):
        assert_equal(device(), expected)


SIZES = [
    (3, 1, 128, 128, 100),
    (1, 3, 96, 160, 1000),
    (2, 80, 128, 128, 1000),
    (1, 365, 51, 77, 2048),
    (40, 5, 64, 64, 40),
]
TUNINGS = [Tuning(128, 1, 4), Tuning(512, 8, 32, 2), Tuning(1024, 2, 8), Tuning(256, 4, 8, 4, 4)]


@pytest.mark.parametrize(
    ("batch", "classes", "height", "width", "topk", "tuning"),
    [*((*sizes, None) for sizes in SIZES), *((2, 80, 128, 128, 100, tuning) for tuning in TUNINGS)],
)
@pytest.mark.parametrize("kind", ["noise", "rounded", "flat"])
def test_other_sizes(
    kind: str, batch: int, classes: int, height: int, width: int, topk: int, tuning: Tuning | None
) -> None:
    settings = {**spec("heads", classes, topk), "input": [4 * height, 4 * width]}
    for form in ("heads", "cells", "tensorrt-pro"):
        settings["form"] = "heads" if form == "cells" else form
        maps = {name: value.half() for name, value in heads(kind, batch, classes, height, width).items()}
        device = OnGpu(settings, in_form(form, maps, topk), tuning)
        assert_equal(device(), on_host(settings, device))


@pytest.mark.parametrize("kind", ["noise", "rounded", "flat", "crowded"])
@pytest.mark.parametrize("form", ["heads", "cells", "tensorrt-pro"])
def test_the_mode_of_tensorrt_pro(form: str, kind: str) -> None:
    settings = {**spec("heads" if form == "cells" else form, 80, 100), "mode": MODE, "confidence": 0.3, "nms": 0.5}
    maps = {name: value.half() for name, value in heads(kind, 2, 80, 128, 128).items()}
    device = OnGpu(settings, in_form(form, maps, 100))
    outputs = {name: np.ascontiguousarray(value.float().cpu().numpy()) for name, value in device.outputs.items()}
    expected = ProDecode(settings)(outputs, device.metas)
    for _ in range(3):
        assert_equal(device(), expected)


def test_runs_are_identical_and_a_graph_gives_the_same() -> None:
    settings = spec("heads", 80, 100)
    maps = {name: value.half() for name, value in heads("rounded", 32, 80, 128, 128).items()}
    device = OnGpu(settings, maps)
    device()
    first = device.rows.clone(), device.counts.clone()
    for _ in range(200):
        device.poison()
        device.launch()
        assert torch.equal(device.rows, first[0])
        assert torch.equal(device.counts, first[1])
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        device.launch()  # the first on a stream allocates, which a capture forbids
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        device.launch()
    for _ in range(20):
        device.poison()
        graph.replay()
        assert torch.equal(device.rows, first[0])
        assert torch.equal(device.counts, first[1])
    maps["hm"].copy_(heads("noise", 32, 80, 128, 128)["hm"])
    graph.replay()
    assert_equal(device.results(), on_host(settings, device))


def test_cupy_arrays_on_a_stream_of_their_own() -> None:
    cupy = pytest.importorskip("cupy")
    settings = spec("heads", 80, 100)
    maps = heads("noise", 1, 80, 128, 128)
    device = OnGpu(settings, maps)
    expected = on_host(settings, device)
    torch.cuda.synchronize()
    stream = cupy.cuda.Stream(non_blocking=True)
    rows, counts = cupy.full((1, 100, 6), cupy.nan, cupy.float32), cupy.zeros(1, cupy.int32)
    matrices = cupy.asarray(device.matrices.cpu().numpy())
    arrays = {name: cupy.from_dlpack(value) for name, value in maps.items()}
    cupy.cuda.Device().synchronize()
    device.decode.launch(arrays, {"output_to_image": matrices}, {"rows": rows, "counts": counts}, stream.ptr)
    stream.synchronize()
    assert_equal(read(device.decode, rows.get(), counts.get(), device.metas), expected)


def test_one_object_serves_several_streams_at_once() -> None:
    settings = spec("heads", 80, 100)
    maps = {name: value.half() for name, value in heads("noise", 8, 80, 128, 128).items()}
    first = OnGpu(settings, maps)
    expected = on_host(settings, first)
    others = [OnGpu(settings, maps) for _ in range(3)]
    for other in others:
        other.decode = first.decode
    streams = [torch.cuda.Stream() for _ in others]
    torch.cuda.synchronize()
    for _ in range(200):
        for other, stream in zip(others, streams, strict=True):
            with torch.cuda.stream(stream):
                other.poison()
                other.launch()
    torch.cuda.synchronize()
    for other in others:
        assert_equal(other.results(), expected)


def test_a_failed_launch_leaves_no_stale_tickets() -> None:
    """The scratch memory is dirty after a launch that was aborted; the next one clears it."""
    settings = spec("heads", 80, 100)
    device = OnGpu(settings, heads("noise", 2, 80, 128, 128))
    expected = on_host(settings, device)
    assert_equal(device(), expected)
    (scratch,) = device.decode._scratch.values()

    def abort() -> None:
        with scratch.prepared(torch.cuda.current_stream().cuda_stream):
            scratch.memory[:2] = 7
            raise RuntimeError("aborted")

    with pytest.raises(RuntimeError, match="aborted"):
        abort()
    for _ in range(2):
        assert_equal(device(), expected)
