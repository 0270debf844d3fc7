"""The decoding kernels, run on the host, against the host's own decoding: equal to the bit, in every order."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.decoding import DTYPES, SMALL, OnHost, assert_equal, described, heads, metas_for, packed
from support.every_case import covering, crossed
from torch.nn import functional as F

from convkit import Detections, DeviceDecode
from convkit.cuda import ArrayView
from convkit.errors import KernelArgumentError, KernelError
from convkit.testing.cuda_host import run_on_host
from convkit_models.centernet.tasks import _device_decode as module
from convkit_models.centernet.tasks._device_layout import dividers
from convkit_models.centernet.tasks.ctdet import CtdetDecode, CudaDecode, Tuning, plan_decode, sigmoid
from convkit_models.centernet.tasks.ctdet._decode_kernels import TUNINGS

pytestmark = pytest.mark.filterwarnings("error")


def spec(form: str = "heads", classes: int = 3, topk: int = 20, sizes_per_class: bool = False) -> dict[str, Any]:
    names = [f"thing {index}" for index in range(classes)]
    return {"form": form, "stride": 4, "topk": topk, "sizes_per_class": sizes_per_class, "classes": names}


def check(
    settings: Mapping[str, Any], outputs: Mapping[str, torch.Tensor], tuning: Tuning = SMALL, **options: Any
) -> list[Detections]:
    """Decode with both, compare, and return what was found."""
    batch = len(next(iter(outputs.values())))
    metas = metas_for(batch, *next(iter(outputs.values())).shape[2:]) if "hm" in outputs else metas_for(batch)
    expected = CtdetDecode(settings)({name: value.float().numpy() for name, value in outputs.items()}, metas)
    found = OnHost(settings, outputs, tuning)(metas, **options)
    assert_equal(found, expected)
    assert found[0].classes == tuple(settings["classes"])
    return found


@pytest.mark.parametrize(
    ("form", "layout", "dtype", "classes"),
    covering(
        list(product(["heads", "tensorrt-pro"], ["planes", "cells"], DTYPES, [1, 3, 8])),
        lambda case: dict(zip(("form", "layout", "dtype", "classes"), case, strict=True)),
    ),
)
def test_forms_layouts_and_dtypes(form: str, layout: str, dtype: str, classes: int) -> None:
    maps = {name: value.to(DTYPES[dtype]) for name, value in heads(2, classes).items()}
    if layout == "cells":
        maps = {name: value.to(memory_format=torch.channels_last) for name, value in maps.items()}
    check(spec(form, classes), maps if form == "heads" else packed(maps), guard=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_detections(dtype: str) -> None:
    rng = np.random.default_rng(3)
    rows = rng.uniform(-20, 300, (3, 45, 6)).astype(np.float32)
    rows[..., 4] = rng.choice([0, 0.25, 0.5, np.nan, -1], (3, 45))
    rows[..., 5] = rng.integers(0, 3, (3, 45))
    found = check(spec("detections", topk=45), {"detections": torch.from_numpy(rows).to(DTYPES[dtype])}, guard=True)
    assert 0 < len(found[0]) < 45


@crossed(
    form=["heads", "tensorrt-pro"],
    kind=["flat", "steps", "ramp", "descending", "low", "infinite", "nan", "some nan", "zeros"],
    topk=[1, 20, 700],
)
def test_awkward_maps(form: str, kind: str, topk: int) -> None:
    """Ties, plateaus, no peaks, all cells peaks; more of them than lists hold, so that bounds must be raised."""
    maps = heads(1, 4, 32, 48)
    hm, rng = maps["hm"], np.random.default_rng(1)
    if kind == "flat":
        hm[:] = 0.25
    elif kind == "steps":
        hm[:] = hm.round()
    elif kind == "ramp":
        hm[:] = torch.arange(hm.numel()).reshape(hm.shape) / 1000
    elif kind == "descending":
        hm[:] = -torch.arange(hm.numel()).reshape(hm.shape) / 1000
    elif kind == "low":
        hm[:] = -200
        hm[0, 1, 3:9, 5] = torch.tensor([-90.0, -95, -103, -104, -87, -200])
    elif kind == "infinite":
        hm[:] = torch.from_numpy(rng.choice([-np.inf, np.inf, 0], hm.shape).astype(np.float32))
    elif kind == "nan":
        hm[:] = torch.nan
    elif kind == "some nan":
        hm[torch.from_numpy(rng.random(hm.shape) < 0.05)] = torch.nan
        hm[0, 2, :3] = -torch.nan
        hm[0, 3, 4] = torch.inf
    else:
        hm[:] = torch.from_numpy(rng.choice([-0.0, 0.0], hm.shape).astype(np.float32))
    metas = metas_for(1, 32, 48)
    settings = spec(form, 4, topk)
    outputs = maps if form == "heads" else packed(maps)
    expected = CtdetDecode(settings)({name: value.numpy() for name, value in outputs.items()}, metas)
    for tuning in (SMALL, Tuning(threads=32, unroll=1, groups=1)):
        assert_equal(OnHost(settings, outputs, tuning)(metas), expected)


@pytest.mark.parametrize(
    ("layout", "kind"),
    covering(
        list(product(["planes", "cells", "tensorrt-pro"], ["noise", "smooth", "crowded", "flat", "nan"])),
        lambda case: {"layout": case[0], "kind": case[1]},
        together=1,
    ),
)
def test_full_size_with_the_tunings_that_a_gpu_gets(layout: str, kind: str) -> None:
    maps = heads(1, 80, 128, 128, seed=4)
    hm = maps["hm"]
    if kind == "smooth":
        hm[:] = F.avg_pool2d(F.avg_pool2d(hm, 5, 1, 2), 5, 1, 2) * 12
    elif kind == "crowded":
        hm[:, 7, ::2, ::2] += 8
    elif kind == "flat":
        hm[:] = -2.19
    elif kind == "nan":
        hm[hm > 4] = torch.nan
        hm[hm < -6] = -torch.inf
    maps = {name: value.half() for name, value in maps.items()}
    if layout == "cells":
        maps = {name: value.to(memory_format=torch.channels_last) for name, value in maps.items()}
    settings, metas = spec("tensorrt-pro" if layout == "tensorrt-pro" else "heads", 80, 100), metas_for(1, 128, 128)
    outputs = packed(maps) if layout == "tensorrt-pro" else maps
    expected = CtdetDecode(settings)({name: value.float().numpy() for name, value in outputs.items()}, metas)
    assert len(expected[0]) == 100
    for tuning in TUNINGS:
        assert_equal(OnHost(settings, outputs, tuning)(metas, order=1), expected)


def test_the_tuning_depends_on_how_much_there_is_to_scan() -> None:
    few, many = TUNINGS
    for dtype, batch, tuning in (("float16", 1, few), ("float32", 1, few), ("float16", 4, many), ("float32", 32, many)):
        maps = {
            name: ArrayView((batch, channels, 128, 128), (channels * 128 * 128, 128 * 128, 128, 1), dtype)
            for name, channels in (("hm", 80), ("wh", 2))
        }
        assert plan_decode(spec(classes=80, topk=100), maps, None) == plan_decode(
            spec(classes=80, topk=100), maps, tuning
        )


@pytest.mark.parametrize("form", ["heads", "tensorrt-pro"])
def test_threads_that_scan_several_tiles(form: str) -> None:
    maps = heads(2, 5, 40, 36)
    outputs = maps if form == "heads" else packed(maps)
    settings, metas = spec(form, 5, 6), metas_for(2, 40, 36)
    expected = CtdetDecode(settings)({name: value.numpy() for name, value in outputs.items()}, metas)
    for rounds in (2, 3, 64):
        launch = OnHost(settings, outputs, Tuning(threads=32, unroll=2, groups=2, rounds=rounds))
        assert dict(launch.variant.constants)["ROUNDS"] == rounds
        assert_equal(launch(metas, guard=True), expected)


@pytest.mark.parametrize("outlier", [6e4, torch.inf, -6e4])
def test_one_value_far_from_the_others(outlier: float) -> None:
    """Bins of equal width are too wide then."""
    maps = heads(1, 8, 64, 64, seed=6)
    maps["hm"][0, 3, 20:40, 10:] = outlier
    check(spec(classes=8, topk=60), maps, Tuning(threads=128, unroll=1, groups=4))


def test_division_by_multiplication() -> None:
    rng = np.random.default_rng(0)
    divisors = [1, 2, 3, 5, 7, 80, 128, 16384, 2**31 - 1, *rng.integers(1, 2 ** rng.integers(1, 31, 200))]
    for divisor in map(int, divisors):
        multiples = [int(rng.integers(0, 2**31)) // divisor * divisor for _ in range(20)]
        magic, shift = dividers((1, 1, divisor), 1)[2:4]
        assert magic < 2**32
        for number in [0, *multiples, 2**31 // divisor * divisor]:
            for near in (number - 1, number, number + 1):
                assert not 0 <= near < 2**31 or near * magic >> shift == near // divisor


@pytest.mark.parametrize("kind", ["flat", "checks"])
def test_more_tiles_than_the_list_in_shared_memory_holds(kind: str) -> None:
    maps = heads(1, 5, 33, 47)
    maps["hm"][:] = 0.25
    if kind == "checks":
        maps["hm"][..., ::2, ::2] = 0.5
    launch = OnHost(spec(classes=5, topk=700), maps, Tuning(threads=32, unroll=1, groups=1))
    assert launch.call.steps[0].config.grid[0] * 32 > 2 * 2048
    metas = metas_for(1, 33, 47)
    expected = CtdetDecode(spec(classes=5, topk=700))({name: value.numpy() for name, value in maps.items()}, metas)
    for order in ("forward", "reverse"):
        assert_equal(launch(metas, order=order, guard=True), expected)


@pytest.mark.parametrize("form", ["heads", "tensorrt-pro"])
def test_the_order_of_threads_and_blocks_does_not_matter(form: str) -> None:
    maps = heads(2, 4, 32, 48, seed=5)
    maps["hm"] = maps["hm"].round()
    outputs = maps if form == "heads" else packed(maps)
    settings, metas = spec(form, 4, 60), metas_for(2, 32, 48)
    launch = OnHost(settings, outputs)
    assert launch.call.steps[0].config.grid[0] > 3
    first = launch(metas)
    for order in ("reverse", 1, 2):
        assert_equal(launch(metas, order=order), first)
    assert not launch.scratch["scratch"][:2].any()


@pytest.mark.parametrize("topk", [60, 700])
def test_has_no_races(topk: int) -> None:
    maps = heads(2, 4, 32, 48, seed=5)
    maps["hm"] = maps["hm"].round()
    check(spec(classes=4, topk=topk), maps, races=True)


def test_sizes_per_class_and_no_offsets() -> None:
    for dtype in DTYPES.values():
        maps = {name: value.to(dtype) for name, value in heads(2, sizes=6).items()}
        del maps["reg"]
        check(spec(sizes_per_class=True), maps, guard=True)


@pytest.mark.parametrize(("height", "width", "classes"), [(1, 1, 1), (1, 9, 2), (7, 1, 3), (5, 7, 1), (9, 11, 5)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_odd_sizes(height: int, width: int, classes: int, layout: torch.memory_format) -> None:
    maps = {name: value.to(memory_format=layout) for name, value in heads(2, classes, height, width).items()}
    check(spec(classes=classes, topk=30), maps, guard=True)
    check(spec(classes=classes, topk=30), maps, guard="start")


def test_channels_with_gaps() -> None:
    """Engines pad channels-last maps to a multiple of 8 channels; what is in the padding does not matter."""
    maps = heads(2, 3)
    for name, value in maps.items():
        padded = torch.full((2, 12, 16, 8), 1e9)
        padded[..., : value.shape[1]] = value.permute(0, 2, 3, 1)
        maps[name] = padded.permute(0, 3, 1, 2)[:, : value.shape[1]]
    check(spec(), maps)


def test_more_detections_than_threads_and_a_long_sort() -> None:
    maps = heads(1, 8, 64, 64, seed=2)
    found = check(spec(classes=8, topk=1000), maps, Tuning(threads=128, unroll=2, groups=1))
    assert len(found[0]) == 1000
    found = check(spec(classes=8, topk=2048), maps, Tuning(threads=128, unroll=2, groups=1))
    assert len(found[0]) == 2048


def test_as_many_detections_as_keys_fit_with_ties_among_the_last() -> None:
    """The bound must be exact then: one key more than there is room for would push another one out."""
    maps = heads(1, 8, 64, 64)
    maps["hm"][:] = -9
    maps["hm"][0, :2, ::2, ::2] = 1 + torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(0))
    maps["hm"][0, 4:] = 0.25
    settings, metas = spec(classes=8, topk=2048), metas_for(1, 64, 64)
    maps["hm"][0, 1, 10:] = -9
    expected = CtdetDecode(settings)({name: value.numpy() for name, value in maps.items()}, metas)
    launch = OnHost(settings, maps, Tuning(threads=64, unroll=2, groups=1))
    for order in ("forward", "reverse"):
        assert_equal(launch(metas, order=order), expected)


LAYOUTS = (torch.contiguous_format, torch.channels_last)
BUILDS = [
    *((dtype, layout, SMALL) for dtype in DTYPES for layout in LAYOUTS),  # the tests above have compiled most of them
    *((dtype, layout, Tuning(32, 4, 8)) for dtype, layout in zip(("float16", "float32"), LAYOUTS, strict=True)),
]
values = st.one_of(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), st.floats(-9, 9, width=16))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_map(data: st.DataObject) -> None:
    classes, height, width = (data.draw(st.integers(1, most)) for most in (5, 9, 9))
    grid = data.draw(st.lists(values, min_size=classes * height * width, max_size=classes * height * width))
    maps = heads(1, classes, height, width)
    maps["hm"] = torch.tensor(grid).reshape(1, classes, height, width)
    dtype, layout, tuning = data.draw(st.sampled_from(BUILDS))
    maps = {name: value.to(DTYPES[dtype]).to(memory_format=layout) for name, value in maps.items()}
    topk = data.draw(st.integers(1, 60))
    check(spec(classes=classes, topk=topk), maps, tuning, guard=True)


def test_scores_are_rounded_correctly() -> None:
    logits = np.concatenate([np.random.default_rng(0).uniform(-110, 30, 200_000), [-np.inf, np.inf, 0]]).astype(
        np.float32
    )
    exact = 1 / (1 + np.exp(-logits.astype(np.longdouble)))
    np.testing.assert_array_equal(sigmoid(logits), exact.astype(np.float32))


class Array:
    """An array of the host that says it is one of a GPU."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.device = array, SimpleNamespace(id=0)

    @property
    def __cuda_array_interface__(self) -> Any:
        return self.array.__array_interface__


def in_memory(view: ArrayView) -> np.ndarray:
    """Return the array that a view describes."""
    dtype = np.dtype(view.dtype)
    size = (view.extent() + 1) * dtype.itemsize
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(view.address)).view(dtype)


class Launchers:
    """Stands for the launchers of a GPU: runs kernels on the host, and can abort a launch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loaded: list[Any] = []
        self.streams: list[int] = []
        self.cleared: list[tuple[int, int]] = []
        self.scratch: list[np.ndarray] = []
        self.abort = self.capturing = False
        monkeypatch.setattr(module, "load", self.load)
        monkeypatch.setattr(module, "allocate", self.allocate)
        monkeypatch.setattr(module, "clear", self.clear)

    def load(self, variant: Any) -> Any:
        self.loaded.append(variant)

        def launcher(launch: Any, *arguments: Any, stream: int) -> None:
            self.streams.append(stream)
            if self.abort:
                self.scratch[-1][:] = 3  # as if some blocks had counted themselves and the rest had never run
                raise KernelError("an illegal memory access was encountered")
            if self.capturing:
                return
            plain = [
                in_memory(value) if isinstance(value, ArrayView) else getattr(value, "array", value)
                for value in arguments
            ]
            run_on_host(variant, launch, plain)

        return launcher

    def allocate(self, shape: tuple[int], dtype: str) -> Array:
        self.scratch.append(np.full(shape, 5, dtype))
        return Array(self.scratch[-1])

    def clear(self, memory: Array, stream: int, count: int) -> bool:
        self.cleared.append((count, stream))
        if not self.capturing:
            memory.array[:count] = 0
        return not self.capturing


class Buffers:
    """The arrays of a launch, and what it decoded."""

    def __init__(self, decode: CudaDecode, metas: Any) -> None:
        self.decode, self.metas = decode, metas
        self.matrices = np.stack([decode.values(meta)["output_to_image"] for meta in metas])
        self.rows = np.full((len(metas), *decode.results[0].shape), np.nan, np.float32)
        self.counts = np.zeros(len(metas), np.int32)

    def launch(self, outputs: Mapping[str, np.ndarray], stream: int = 77, **changed: np.ndarray) -> None:
        inputs = {"output_to_image": Array(changed.get("output_to_image", self.matrices))}
        results = {name: Array(changed.get(name, getattr(self, name))) for name in ("rows", "counts")}
        self.decode.launch({name: Array(value) for name, value in outputs.items()}, inputs, results, stream)

    def check(self, outputs: Mapping[str, np.ndarray]) -> None:
        found = self.decode.read({"rows": self.rows, "counts": self.counts}, self.metas)
        assert_equal(found, CtdetDecode(self.decode._spec)(outputs, self.metas))  # type: ignore[arg-type]


def arrays(batch: int = 1, form: str = "heads", seed: int = 0) -> dict[str, np.ndarray]:
    maps = heads(batch, seed=seed)
    return {name: value.numpy() for name, value in (packed(maps) if form == "tensorrt-pro" else maps).items()}


class TestLaunch:
    """`CudaDecode.launch` with launchers that run the kernel on the host."""

    @pytest.fixture
    def launchers(self, monkeypatch: pytest.MonkeyPatch) -> Launchers:
        return Launchers(monkeypatch)

    @pytest.mark.parametrize("form", ["heads", "tensorrt-pro"])
    def test_gives_what_the_host_gives(self, launchers: Launchers, form: str) -> None:
        decode = CudaDecode(spec(form), SMALL)
        for seed, batch in ((0, 2), (1, 2), (2, 3)):
            outputs = arrays(batch, form, seed)
            buffers = Buffers(decode, metas_for(batch))
            buffers.launch(outputs)
            buffers.check(outputs)
        assert len(launchers.loaded) == 2
        assert launchers.cleared == [(2, 77), (3, 77)], "once for each batch and size"

    def test_its_results_are_declared(self, launchers: Launchers) -> None:
        decode: Any = CudaDecode(spec(topk=7))
        assert isinstance(decode, DeviceDecode)
        assert [(each.name, each.shape, each.dtype) for each in (*decode.inputs, *decode.results)] == [
            ("output_to_image", (8,), "float64"),
            ("rows", (7, 6), "float32"),
            ("counts", (), "int32"),
        ]

    @pytest.mark.parametrize("mode", [{}, {"mode": "tensorrt-pro", "confidence": 0.3, "nms": 0.5}])
    def test_after_an_aborted_launch_the_tickets_are_cleared(self, launchers: Launchers, mode: dict[str, Any]) -> None:
        settings = {**spec(), **mode}
        decode, outputs = CudaDecode(settings, SMALL), arrays()
        expected = Buffers(decode, metas_for(1))
        expected.launch(outputs)
        launchers.abort = True
        with pytest.raises(KernelError):
            Buffers(decode, metas_for(1)).launch(outputs)
        launchers.abort = False
        for _ in range(2):
            buffers = Buffers(decode, metas_for(1))
            buffers.launch(outputs)
            np.testing.assert_array_equal(buffers.rows, expected.rows)
            np.testing.assert_array_equal(buffers.counts, expected.counts)
        assert len(launchers.cleared) == 2
        assert len(launchers.scratch) == 1, "graphs that were captured before still use the memory"

    def test_streams_do_not_share_scratch_memory(self, launchers: Launchers) -> None:
        decode, outputs = CudaDecode(spec(), SMALL), arrays()
        for stream in (1, 2, 1, 2):
            buffers = Buffers(decode, metas_for(1))
            buffers.launch(outputs, stream)
            buffers.check(outputs)
        assert launchers.streams == [1, 2, 1, 2]
        assert launchers.cleared == [(1, 1), (1, 2)]
        assert len(launchers.scratch) == 2
        assert len(launchers.loaded) == 1

    def test_clearing_that_is_only_captured_is_done_again(self, launchers: Launchers) -> None:
        decode, outputs = CudaDecode(spec(), SMALL), arrays()
        launchers.capturing = True
        Buffers(decode, metas_for(1)).launch(outputs)
        launchers.capturing = False
        buffers = Buffers(decode, metas_for(1))
        buffers.launch(outputs)
        buffers.check(outputs)

    def test_refuses_wrong_buffers_before_the_launch(self, launchers: Launchers) -> None:
        outputs = arrays()
        buffers = Buffers(CudaDecode(spec(), SMALL), metas_for(1))
        wrong: list[tuple[dict[str, np.ndarray], str]] = [
            ({"output_to_image": np.zeros((1, 6))}, r"'output_to_image' has the shape \[1, 6\]"),
            ({"rows": np.zeros((1, 19, 6), np.float32)}, "'rows' has the shape"),
            ({"rows": np.zeros((1, 6, 20), np.float32).transpose(0, 2, 1)}, "'rows' .* strides"),
            ({"counts": np.zeros((1, 1), np.int32)}, "'counts' has the shape"),
        ]
        for changed, message in wrong:
            with pytest.raises(KernelArgumentError, match=message):
                buffers.launch(outputs, **changed)
        assert launchers.streams == []


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"hm": None}, "'hm' is missing"),
            ({"hm": ArrayView((1, 2, 12, 16), (384, 192, 16, 1), "float32")}, r"expected \[1, 3, 12, 16\]"),
            ({"wh": ArrayView((1, 6, 12, 16), (1152, 192, 16, 1), "float32")}, r"expected \[1, 2, 12, 16\]"),
            ({"reg": ArrayView((1, 2, 12, 17), (408, 204, 17, 1), "float32")}, r"expected \[1, 2, 12, 16\]"),
            ({"hm": ArrayView((1, 3, 12, 16), (576, 192, 16, 1), "float64")}, "is float64"),
            ({"wh": ArrayView((1, 2, 12, 16), (384, 192, 16, 1), "float16")}, "is float16 on device 0"),
            ({"wh": ArrayView((1, 2, 12, 16), (384, 192, 16, 1), "float32", 0, 1)}, "on device 1"),
            ({"hm": ArrayView((1, 3, 12, 16), (576, 192, 32, 2), "float32")}, "strides"),
            ({"hm": ArrayView((1, 3, 12, 16), (576, 192, 1, 12), "float32")}, "strides"),
            ({"hm": ArrayView((1, 3, 12, 16), (576, 200, 16, 1), "float32")}, "strides"),
            ({"hm": ArrayView((3, 12, 16), (192, 16, 1), "float32")}, "needs 4 axes"),
            ({"hm": ArrayView((0, 3, 12, 16), (576, 192, 16, 1), "float32")}, "none empty"),
            ({"hm": ArrayView((70000, 3, 12, 16), (576, 192, 16, 1), "float32")}, "too large"),
            ({"hm": ArrayView((1, 3, 2**15, 2**15), (3 * 2**30, 2**30, 2**15, 1), "float32")}, "too large"),
        ],
    )
    def test_heads(self, change: Mapping[str, ArrayView | None], message: str) -> None:
        outputs = {name: value for name, value in {**described(heads()), **change}.items() if value is not None}
        with pytest.raises(KernelArgumentError, match=message):
            plan_decode(spec(), outputs, SMALL)

    def test_rows(self) -> None:
        with pytest.raises(KernelArgumentError, match=r"expected \[1, 20, 6\]"):
            plan_decode(spec("detections"), {"detections": ArrayView((1, 9, 6), (54, 6, 1), "float32")}, SMALL)
        with pytest.raises(KernelArgumentError, match=r"expected \[1, 192, 10\]"):
            plan_decode(spec("tensorrt-pro"), {"output": ArrayView((1, 192, 7), (1344, 7, 1), "float32")}, SMALL)
        with pytest.raises(KernelArgumentError, match="strides"):
            plan_decode(spec("tensorrt-pro"), {"output": ArrayView((1, 192, 10), (1920, 1, 192), "float32")}, SMALL)

    def test_too_many_detections(self) -> None:
        with pytest.raises(KernelArgumentError, match="at most 2048"):
            CtdetDecode(spec(topk=2049)).on_device()

    def test_arrays_that_are_on_no_gpu(self) -> None:
        decode = CtdetDecode(spec()).on_device()
        for value, message in ((torch.zeros(1, 3, 12, 16), "in host memory"), (np.zeros((1, 3, 12)), "is a ndarray")):
            with pytest.raises(KernelArgumentError, match=message):
                decode.launch({"hm": value}, {}, {}, 0)
