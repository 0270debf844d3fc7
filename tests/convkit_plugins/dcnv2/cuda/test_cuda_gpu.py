"""The operators on a GPU, by each kernel, against their arithmetic in float64 on the same GPU."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.deform_host import Inputs, distance, inputs, view
from torch import Tensor

from convkit.cuda import load
from convkit_plugins.dcnv2 import DCN, deform_conv2d
from convkit_plugins.dcnv2.cuda import (
    Layer,
    Tactic,
    _cuda,
    _search,
    candidates,
    fits,
    hopper_variant,
    layout_scalars,
    pack_for_wgmma,
    problem_of,
)
from convkit_plugins.dcnv2.op import compute, dcnv2

pytestmark = pytest.mark.gpu

USUAL = Layer(64, (3, 3), (1, 1), (1, 1))
LAYERS = {
    "usual": (USUAL, 2, 64, (40, 32)),
    "unequal": (Layer(40, (5, 2), (2, 1), (1, 0), (1, 3), 2), 3, 48, (21, 18)),
    "odd filters": (Layer(37, (3, 3), (2, 2), (1, 1)), 2, 72, (33, 29)),
    "one tap": (Layer(136, (1, 1)), 1, 8, (5, 7)),
    "few pixels": (Layer(256, (3, 3), (1, 1), (1, 1)), 1, 512, (16, 16)),
    "groups": (Layer(64, (3, 3), (1, 1), (2, 2), (2, 2), 4), 2, 64, (24, 20)),
}
SERVED = [
    ("hopper", torch.float16),
    ("hopper", torch.bfloat16),
    ("tensor", torch.float16),
    ("tensor", torch.bfloat16),
    ("tensor", torch.float32),
    ("plain", torch.float16),
    ("plain", torch.bfloat16),
    ("plain", torch.float32),
]


def bound(kernel: str, dtype: torch.dtype) -> float:
    """What may be rounded: samples and the result to 16 bits, or to TF32; else sums of float32."""
    if dtype == torch.float32:
        return 1e-3 if kernel == "tensor" else 1e-5
    return 1e-3 if dtype == torch.float16 else 8e-3


def force(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a kernel serve all calls, after a search among two tactics; skip where this GPU cannot run it."""
    major, minor = torch.cuda.get_device_capability()
    capability = 10 * major + minor
    if (kernel == "hopper" and capability != 90) or (kernel == "tensor" and capability < 80):
        pytest.skip(f"{kernel} is not for compute capability {capability}")
    monkeypatch.setattr(_cuda, "kernel_for", lambda *args, **options: kernel)
    monkeypatch.setattr(_cuda, "TRIED", 2)


def given(name: str, dtype: torch.dtype, **options: Any) -> Inputs:
    layer, batch, channels, size = LAYERS[name]
    return inputs(layer, dtype, channels, size, batch=batch, device="cuda", **options)


def call(data: Inputs, relu: bool = False) -> Tensor:
    return dcnv2(data.x, data.raw, data.weight, data.bias, *data.settings, relu)


def reference(data: Inputs, *, sigmoid: bool = True, relu: bool = False) -> Tensor:
    mask = data.mask.double()
    wide = [t.double() for t in (data.x, data.weight, data.offset, data.bias)]
    result = compute(*wide, mask.sigmoid() if sigmoid else mask, *data.settings)
    return result.relu() if relu else result


@contextmanager
def poisoned() -> Iterator[None]:
    """Let PyTorch fill new memory with NaN, so that what a kernel does not write is seen."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def switched(module: Any, name: str, value: bool) -> Iterator[None]:
    """Turn a switch of PyTorch for a while. Their modules do without attributes, so that monkeypatch fails."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@pytest.mark.parametrize(("last", "raw_last"), [(True, False), (False, True)])
@pytest.mark.parametrize(("kernel", "dtype"), SERVED, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_agrees_with_float64_bit_for_bit_each_time(
    name: str, kernel: str, dtype: torch.dtype, last: bool, raw_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offsets that are no numbers or infinite are among all; ``last`` with a ReLU."""
    force(kernel, monkeypatch)
    data = given(name, dtype, last=last, raw_last=raw_last)
    with poisoned():
        results = [call(data, relu=last) for _ in range(3)]
    assert distance(results[0], reference(data, relu=last)) < bound(kernel, dtype)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert results[0].is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@pytest.mark.parametrize(("kernel", "dtype"), SERVED, ids=str)
def test_the_other_operator_takes_masks_as_they_are(
    kernel: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(kernel, monkeypatch)
    data = given("unequal", dtype)
    result = deform_conv2d(data.x, data.weight, data.offset, data.bias, data.mask, *data.settings)
    assert distance(result, reference(data, sigmoid=False)) < bound(kernel, dtype)
    without = deform_conv2d(data.x, data.weight, data.offset, None, None, *data.settings)
    ones = torch.cat((data.offset, torch.ones_like(data.mask)), 1)
    plain = replace(data, raw=ones, bias=torch.zeros_like(data.bias))
    assert distance(without, reference(plain, sigmoid=False)) < bound(kernel, dtype)


@pytest.mark.parametrize("kernel", ["hopper", "tensor"])
def test_float16_is_blended_in_float32_on_request(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    force(kernel, monkeypatch)
    data = given("usual", torch.float16)
    quick = call(data)
    with switched(torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", False):
        exact = call(data)
    assert not torch.equal(exact, quick)
    expected = reference(data)
    assert distance(exact, expected) < distance(quick, expected)


@pytest.mark.slow
@pytest.mark.parametrize("blend_fp32", [False, True])
@pytest.mark.parametrize(
    ("channels", "filters", "batch", "size"),
    [(512, 256, 1, 16), (512, 256, 8, 16), (256, 128, 1, 32), (128, 64, 8, 64), (64, 64, 2, 128), (256, 256, 8, 32)],
)
def test_every_proposed_tactic_of_hopper_computes_the_same(
    channels: int, filters: int, batch: int, size: int, blend_fp32: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clusters, and sums in slices: what a host cannot run."""
    force("hopper", monkeypatch)
    layer = Layer(filters, (3, 3), (1, 1), (1, 1))
    check_tactics(
        layer,
        channels,
        batch,
        size,
        blend_fp32,
        candidates(problem_of(layer, channels, batch * size**2, blend_fp32=blend_fp32), 8),
    )


OTHERS = [
    Tactic(32, 1, 1, 2, 1, 4, 2, 1, 1),  # two blocks share weights
    Tactic(32, 2, 3, 4, 1, 3, 4, 2, 1),
    Tactic(64, 1, 2, 2, 2, 3, 4, 4, 1),
    Tactic(128, 1, 3, 4, 2, 2, 3, 2, 1),
    Tactic(64, 2, 2, 1, 2, 9, 4, 2, 1),  # slices of two patches
    Tactic(32, 1, 2, 2, 2, 9, 3, 1, 2),  # weights that stay, shared
    Tactic(64, 1, 4, 2, 1, 18, 5, 2, 1),
    Tactic(32, 4, 2, 1, 1, 2, 2, 4, 1),
    Tactic(64, 4, 3, 1, 1, 2, 3, 1, 1),
    Tactic(256, 1, 3, 1, 1, 2, 3, 2, 1),  # half of the columns for nothing
    Tactic(64, 1, 6, 1, 1, 6, 7, 2, 1),
    Tactic(64, 1, 2, 1, 1, 2, 3, 2, 2),
]


@pytest.mark.slow
@pytest.mark.parametrize("blend_fp32", [False, True])
@pytest.mark.parametrize(("batch", "size"), [(1, 9), (3, 40), (8, 64)])
def test_other_tactics_of_hopper_compute_the_same(
    batch: int, size: int, blend_fp32: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that no measured layer may want: with a block for a patch or many turns, whole sets of patches or not."""
    force("hopper", monkeypatch)
    layer = Layer(128, (3, 3), (1, 1), (1, 1))
    problem = problem_of(layer, 128, batch * size**2, blend_fp32=blend_fp32)
    check_tactics(layer, 128, batch, size, blend_fp32, [tactic for tactic in OTHERS if fits(tactic, problem)])


def check_tactics(
    layer: Layer, channels: int, batch: int, size: int, blend_fp32: bool, tactics: Sequence[Tactic]
) -> None:
    """Run a layer with each tactic and compare the results with the reference."""
    assert tactics
    data = inputs(layer, torch.float16, channels, (size, size), batch=batch, device="cuda")
    expected, properties = reference(data), torch.cuda.get_device_properties("cuda")
    variants = [
        hopper_variant(layer, "float16", channels, tactic, sigmoid=True, blend_fp32=blend_fp32) for tactic in tactics
    ]
    _cuda._compile_together(variants)
    for tactic, variant in zip(tactics, variants, strict=True):
        launcher = load(variant)
        out = torch.full_like(expected, torch.nan, dtype=torch.float16).contiguous(memory_format=torch.channels_last)
        scalars = layout_scalars(*map(view, (data.x, data.offset, data.mask, out)))
        config = launcher.launch_config(
            batch=batch, out_height=size, out_width=size, multiprocessors=properties.multi_processor_count
        )
        weight = pack_for_wgmma(data.weight, tactic.tile_n)
        launcher(config, data.x, data.offset, data.mask, weight, data.bias, out, *scalars)
        assert distance(out, expected) < 1e-3, tactic


def apart(tensor: Tensor) -> Tensor:
    """The same values with gaps in all directions."""
    wide = torch.full([2 * size for size in tensor.shape], torch.nan, dtype=tensor.dtype, device=tensor.device)
    view = wide[tuple(slice(None, None, 2) for _ in tensor.shape)]
    view.copy_(tensor)
    return view


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_search_compares_with_the_plain_kernel(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All tactics agree with it; one whose weights are packed wrongly is left out, although it comes first."""
    force("hopper", monkeypatch)
    monkeypatch.setattr(_cuda, "TRIED", 4)
    monkeypatch.setattr(_search, "_known", {})
    monkeypatch.setenv("CONVKIT_CACHE", str(tmp_path))
    data = given("usual", dtype)
    call(data)
    (file,) = (tmp_path / "tactics").iterdir()
    measured = json.loads(file.read_text())["measured"]
    assert len(measured) == 4
    file.unlink()
    monkeypatch.setattr(_search, "_known", {})
    packs: list[int] = []

    def wrong_at_first(weight: Tensor, columns: int) -> Tensor:
        packs.append(columns)
        packed = pack_for_wgmma(weight, columns)
        return packed.flip(0) if columns == packs[0] else packed

    candidates_ = [Tactic(128, 1, 3, 1, 1, 4, 5, 1, 1), Tactic(64, 1, 3, 1, 1, 4, 5, 1, 1)]
    monkeypatch.setattr(_cuda, "candidates", lambda problem, count: candidates_)
    monkeypatch.setattr(_cuda, "_packed", type(_cuda._packed)())
    monkeypatch.setattr(_cuda, "pack_for_wgmma", wrong_at_first)
    assert distance(call(data), reference(data)) < bound("hopper", dtype)
    (file,) = (tmp_path / "tactics").iterdir()
    assert json.loads(file.read_text())["tactic"] == candidates_[1]._asdict()


@pytest.mark.parametrize(("kernel", "dtype"), SERVED, ids=str)
def test_arguments_may_lie_anyhow(kernel: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    force(kernel, monkeypatch)
    data = given("usual", dtype)
    other = Inputs(data.layer, *map(apart, (data.x, data.raw, data.weight, data.bias)))
    assert distance(call(other), reference(data)) < bound(kernel, dtype)
    one = replace(data, x=data.x[:1].contiguous().as_strided((1, 64, 40, 32), (7, 1, 2048, 64)), raw=data.raw[:1])
    assert distance(call(one), reference(one)) < bound(kernel, dtype)
    shifted = torch.empty(data.x.numel() + 1, dtype=dtype, device="cuda")[1:].view(2, 40, 32, 64).permute(0, 3, 1, 2)
    shifted.copy_(data.x)
    assert distance(call(replace(data, x=shifted)), reference(data)) < bound(kernel, dtype)


@pytest.mark.parametrize(("kernel", "dtype"), SERVED, ids=str)
def test_a_captured_graph_computes_for_new_inputs_and_weights(
    kernel: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a change of the weight, a call outside of the graph tells it to the graph."""
    force(kernel, monkeypatch)
    data, other = given("usual", dtype), given("usual", dtype, seed=1)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call(data)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call(data)
    graph.replay()
    first = result.clone()
    assert torch.equal(first, call(data))
    data.x.copy_(other.x)
    data.raw.copy_(other.raw)
    graph.replay()
    assert distance(result, reference(data)) < bound(kernel, dtype)
    data.weight.copy_(other.weight)
    eager = call(data)
    graph.replay()
    assert torch.equal(result, eager)
    assert distance(result, reference(data)) < bound(kernel, dtype)


@pytest.mark.parametrize(("kernel", "dtype"), SERVED, ids=str)
def test_nothing_is_waited_for(kernel: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    force(kernel, monkeypatch)
    data = given("usual", dtype)
    expected = call(data)
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = call(data)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(result, expected)


def test_a_call_belongs_to_the_current_stream() -> None:
    data, other = given("usual", torch.float16), given("usual", torch.float16, seed=1)
    expected = call(other)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        data.x.copy_(other.x)
        data.raw.copy_(other.raw)
        result = dcnv2(data.x, data.raw, other.weight, other.bias, *data.settings)
    stream.synchronize()
    assert torch.equal(result, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
def test_another_device_than_the_current_one() -> None:
    data = given("usual", torch.float16)
    moved = Inputs(data.layer, *(t.to("cuda:1") for t in (data.x, data.raw, data.weight, data.bias)))
    result = call(moved)
    assert result.device == torch.device("cuda:1")
    assert distance(result, reference(data)) < 1e-3
    assert torch.cuda.current_device() == 0


def module(dtype: torch.dtype = torch.float32) -> DCN:
    torch.manual_seed(0)
    layer = DCN(64, 48, 3, 1, 1)
    torch.nn.init.normal_(layer.conv_offset_mask.weight, std=0.05)
    torch.nn.init.normal_(layer.bias)
    return layer.to("cuda", dtype, memory_format=torch.channels_last)


def image(dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 64, 24, 20, generator=generator).to("cuda", dtype)
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_compiles_without_graph_breaks(dtype: torch.dtype) -> None:
    layer, x = module(dtype), image(dtype)

    def run(x: Tensor) -> Tensor:
        return layer(x).relu() + 1

    with torch.no_grad():
        expected = run(x)
        result = torch.compile(run, fullgraph=True)(x)
    assert result.stride() == expected.stride()
    assert distance(result, expected) < bound("plain", dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_computes_in_its_dtype(dtype: torch.dtype) -> None:
    layer, x = module(), image().requires_grad_()
    with torch.autocast("cuda", dtype):
        result = layer(x)
        raw = layer.conv_offset_mask(x)
    assert result.dtype == raw.dtype == dtype
    data = Inputs(Layer(48, (3, 3), (1, 1), (1, 1)), x.to(dtype), raw, layer.weight.to(dtype), layer.bias.to(dtype))
    assert distance(result.detach(), reference(data).detach()) < bound("tensor", dtype)
    result.float().square().mean().backward()
    for tensor in (x, *layer.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.dtype == torch.float32
        assert tensor.grad.isfinite().all()
        assert tensor.grad.any()


@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float32, 1e-3), (torch.float16, 2e-2), (torch.bfloat16, 0.1)], ids=str
)
def test_gradients_are_those_of_float64(dtype: torch.dtype, most: float) -> None:
    """Of the layer behind its offsets, whose rounding would move samples from one pixel to the next."""
    data = given("groups", dtype, strange=())
    leaves = [t.detach().requires_grad_() for t in (data.x, data.raw, data.weight, data.bias)]
    wide = [t.detach().double().requires_grad_() for t in leaves]
    outer = torch.randn(2, 64, 24, 20, generator=torch.Generator().manual_seed(2)).to("cuda", dtype)
    gradients = torch.autograd.grad(dcnv2(*leaves, *data.settings), leaves, outer)
    expected = torch.autograd.grad(dcnv2(*wide, *data.settings), wide, outer.double())
    for name, gradient, wanted in zip(("x", "raw", "weight", "bias"), gradients, expected, strict=True):
        assert gradient.dtype == dtype
        assert distance(gradient, wanted) < most, name


def test_a_training_step_changes_what_is_computed() -> None:
    """The packed weights follow the optimizer; a layer on the CPU does the same step."""
    layer, x = module(), image()
    other, y = copy.deepcopy(layer).double().cpu(), x.double().cpu()
    before = layer(x)
    for each, given_ in ((layer, x), (other, y)):
        optimizer = torch.optim.SGD(each.parameters(), lr=1.0)
        each(given_).square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in each.parameters())
        optimizer.step()
    after = layer(x)
    assert distance(before.detach(), after.detach()) > 5e-2
    assert distance(after.detach(), other(y).detach()) < 1e-2
    assert after.square().mean() < before.square().mean()


def no_launch(*args: Any) -> Any:
    raise AssertionError("a kernel was loaded")


def test_what_does_not_fit_is_refused_before_a_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cuda, "load", no_launch)
    data = given("usual", torch.float16)
    for change in (
        {"raw": data.raw[:, :26]},
        {"raw": data.raw[:, :24]},
        {"raw": data.raw[:, :, 1:]},
        {"raw": data.raw[:1]},
        {"weight": data.weight[:, 1:]},
        {"bias": data.bias[1:]},
        {"x": data.x[0]},
        {"x": data.x.float()},
        {"bias": data.bias.bfloat16()},
    ):
        with pytest.raises(ValueError, match="needs"):
            call(replace(data, **change))


def test_float64_and_no_images_need_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cuda, "load", no_launch)
    data = given("unequal", torch.float64)
    result = call(data)
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result, reference(data), rtol=0, atol=1e-12)
    others = (data.x, data.weight, data.offset, data.bias, data.mask)
    on_cpu = deform_conv2d(*(t.cpu() for t in others), *data.settings)
    torch.testing.assert_close(deform_conv2d(*others, *data.settings).cpu(), on_cpu, rtol=0, atol=1e-12)
    half = given("usual", torch.float16)
    assert call(replace(half, x=half.x[:0], raw=half.raw[:0])).shape == (0, 64, 40, 32)


def test_a_search_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    force("hopper", monkeypatch)
    monkeypatch.setattr(_cuda, "TRIED", 4)
    monkeypatch.setattr(_search, "_known", {})
    monkeypatch.setenv("CONVKIT_CACHE", str(tmp_path))
    data = given("usual", torch.float16)
    first = call(data)
    (file,) = (tmp_path / "tactics").iterdir()
    times = [entry["microseconds"] for entry in json.loads(file.read_text())["measured"]]
    assert 1 <= len(times) <= 4
    assert all(1 < microseconds < 10_000 for microseconds in times)
    written = file.stat().st_mtime_ns
    monkeypatch.setattr(_search, "_known", {})
    assert torch.equal(call(data), first)
    assert file.stat().st_mtime_ns == written


def test_the_kernel_of_this_gpu_serves_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is forced here."""
    names: list[str] = []

    def spy(variant: Any) -> Any:
        names.append(variant.kernel.name)
        return load(variant)

    monkeypatch.setattr(_cuda, "load", spy)
    major, minor = torch.cuda.get_device_capability()
    half = "plain" if major < 8 else "hopper" if (major, minor) == (9, 0) else "tensor"
    with torch.no_grad():
        module(torch.float16)(image(torch.float16))  # a search for a tactic compares with the plain kernel
        assert {name.rpartition("_")[2] for name in names} <= {half, "plain"}
        names.clear()
        module(torch.float16)(image(torch.float16))
        assert {name.rpartition("_")[2] for name in names} == {half}
        names.clear()
        module()(image())
        assert {name.rpartition("_")[2] for name in names} == {"plain"}
