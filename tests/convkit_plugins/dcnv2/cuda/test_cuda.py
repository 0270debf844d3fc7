"""From tensors to a launch: which kernel serves a call, and that it gets what it needs, on CPU tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from support.deform_host import Inputs, distance, inputs, launch_on_host
from torch import Tensor

from convkit.cuda import Launch, Variant
from convkit_plugins.dcnv2 import deform_conv2d
from convkit_plugins.dcnv2.cuda import (
    HOPPER,
    LAYOUT_SCALARS,
    PLAIN,
    TENSOR,
    Layer,
    PackedWeights,
    _cuda,
    _outputs,
    candidates,
    kernel_for,
    pack_for_wgmma,
)
from convkit_plugins.dcnv2.op import split_offset_mask

SQUARE = Layer(24, (3, 3), (1, 1), (1, 1))
BOUNDS = {torch.float32: 1e-5, torch.float16: 2**-11, torch.bfloat16: 2**-8}
"""A sum in float32, or one rounding to the type."""


@pytest.mark.parametrize(
    ("dtype", "channels", "capability", "tf32", "kernel"),
    [
        ("float16", 64, 90, False, "hopper"),
        ("bfloat16", 64, 90, True, "hopper"),
        ("float16", 64, 89, False, "tensor"),
        ("float16", 64, 80, False, "tensor"),
        ("bfloat16", 64, 100, False, "tensor"),  # wgmma is gone again
        ("float16", 64, 120, False, "tensor"),
        ("float16", 64, 75, True, "plain"),
        ("bfloat16", 64, 75, True, "plain"),
        ("float32", 64, 90, False, "plain"),
        ("float32", 64, 90, True, "tensor"),
        ("float32", 64, 80, True, "tensor"),
        ("float32", 64, 75, True, "plain"),
        ("float16", 60, 90, False, "plain"),
        ("float32", 60, 90, True, "tensor"),
        ("float32", 62, 90, True, "plain"),
    ],
)
def test_kernel_of_a_call(dtype: str, channels: int, capability: int, tf32: bool, kernel: str) -> None:
    assert kernel_for(SQUARE, dtype, (1, channels, 9, 9), capability, tf32=tf32) == kernel


@pytest.mark.parametrize(
    ("layer", "shape", "on_90", "on_80"),
    [
        (SQUARE, (1, 64, 1, 9), "plain", "plain"),
        (Layer(24, (3, 3), groups=4), (1, 48, 9, 9), "plain", "plain"),
        (Layer(24, (3, 3), groups=8), (1, 64, 9, 9), "hopper", "tensor"),
        (Layer(24, (5, 5), groups=5), (1, 80, 9, 9), "tensor", "tensor"),  # 125 taps are too many for two tables
        (Layer(24, (7, 7), groups=3), (1, 48, 9, 9), "plain", "plain"),  # 147 taps are too many for 48 KiB
    ],
)
def test_kernel_of_a_layer(layer: Layer, shape: tuple[int, ...], on_90: str, on_80: str) -> None:
    assert [kernel_for(layer, "float16", shape, capability, tf32=False) for capability in (90, 80)] == [on_90, on_80]


class Call(NamedTuple):
    """One launch."""

    variant: Variant
    launch: Launch
    arguments: tuple[Any, ...]


class Host:
    """Takes the place of the GPU: loads variants, and runs or only notes their launches."""

    def __init__(self, runs: bool) -> None:
        self.runs = runs
        self.calls: list[Call] = []

    def load(self, variant: Variant) -> Launcher:
        return Launcher(self, variant)


class Launcher:
    """What `load` returns, of which this much is used."""

    def __init__(self, host: Host, variant: Variant) -> None:
        self.host, self.variant = host, variant

    def geometry(self, **sizes: int) -> Launch:
        return self.variant.geometry(**sizes).check()

    def __call__(self, launch: Launch, *arguments: Any) -> None:
        self.host.calls.append(Call(self.variant, launch, arguments))
        for argument, value in zip(self.variant.kernel.arguments, arguments, strict=True):
            assert isinstance(value, Tensor if argument.pointer else int), argument.name
            assert not argument.pointer or value.data_ptr() % self.variant.alignment(argument) == 0, argument.name
        if self.host.runs:
            launch_on_host(self.variant, launch, *arguments)


@pytest.fixture(autouse=True)
def _no_copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(_cuda, "_packed", PackedWeights())
    reduced = torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
    yield
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = reduced


def format_on_a_gpu(tensor: Tensor) -> torch.memory_format:
    planes = tensor.is_contiguous() or not tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.contiguous_format if planes else torch.channels_last


def host(monkeypatch: pytest.MonkeyPatch, *, runs: bool = True) -> Host:
    found = Host(runs)
    monkeypatch.setattr(_cuda, "load", found.load)
    for module in (_cuda, _outputs):
        monkeypatch.setattr(module, "memory_format", format_on_a_gpu)
    return found


def output_for(data: Inputs, planes: bool) -> Tensor:
    out = torch.full((data.x.shape[0], data.layer.filters, *data.raw.shape[2:]), torch.nan, dtype=data.x.dtype)
    return out.contiguous(memory_format=torch.contiguous_format if planes else torch.channels_last)


def expected(data: Inputs, *, sigmoid: bool = True, relu: bool = False) -> Tensor:
    """By the CPU's operator in float64, of which other tests say that it is right."""
    wide = [t.double() for t in (data.x, data.weight, data.offset, data.bias)]
    mask = split_offset_mask(data.raw.double())[1] if sigmoid else data.mask.double()
    result = deform_conv2d(*wide, mask, *data.settings)
    return result.relu() if relu else result


LAYERS = {
    "usual": (SQUARE, 16, (7, 9)),
    "groups": (Layer(7, (2, 3), (2, 1), (0, 2), (1, 2), 2), 32, (7, 9)),
    "one tap": (Layer(33, (1, 1)), 8, (3, 17)),
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
BY_NAME = {"dtype": str, "last": lambda last: "last" if last else "planes"}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_the_plain_kernel_computes_what_the_operator_does(
    name: str, dtype: torch.dtype, last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float16 and bfloat16, of which the mask comes as it is, have a ReLU."""
    layer, channels, size = LAYERS[name]
    gpu, half = host(monkeypatch), dtype != torch.float32
    data = inputs(layer, dtype, channels, size, batch=2, last=last, raw_last=last)
    out = output_for(data, planes=not last)
    _cuda._plainly(data.x, data.weight, data.offset, data.bias, data.mask, out, layer, not half, half)
    assert distance(out, expected(data, sigmoid=not half, relu=half)) < BOUNDS[dtype]
    (call,) = gpu.calls
    assert call.variant.kernel is PLAIN
    assert dict(call.variant.constants)["VECTOR"] == last


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_the_tensor_cores_compute_what_the_operator_does(
    name: str, dtype: torch.dtype, last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TF32 with a ReLU; ``last`` says how the raw tensor lies, and the output."""
    layer, channels, size = LAYERS[name]
    gpu, single = host(monkeypatch), dtype == torch.float32
    data = inputs(layer, dtype, channels, size, batch=2, raw_last=last)
    out = output_for(data, planes=not last)
    _cuda._on_tensor_cores(
        data.x, data.weight, data.offset, data.bias, data.mask, out, layer, not single, single, 16
    )  # fmt: skip
    bound = 2**-11 if single else BOUNDS[dtype]  # what TF32 rounds
    assert distance(out, expected(data, sigmoid=not single, relu=single)) < bound
    (call,) = gpu.calls
    assert call.variant.kernel is TENSOR
    assert dict(call.variant.constants)["OUT_PLANES"] != last


def on_hopper(data: Inputs, out: Tensor, *, sigmoid: bool = True, relu: bool = False) -> None:
    arguments = (data.x, data.weight, data.offset, data.bias, data.mask, out, data.layer, sigmoid, relu, 132)
    _cuda._on_hopper(*arguments)


@pytest.fixture
def first_tactic(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Without a search; what it would have been given is noted."""
    searches: list[tuple[Any, ...]] = []

    def best(*arguments: Any) -> Any:
        searches.append(arguments)
        return arguments[2][0]

    monkeypatch.setattr(_cuda, "best_tactic", best)
    return searches


@pytest.mark.parametrize("raw_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_the_hopper_kernel_gets_its_arguments_in_order(
    dtype: torch.dtype, raw_last: bool, first_tactic: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = host(monkeypatch, runs=False)
    data = inputs(SQUARE, dtype, 64, (7, 9), batch=2, raw_last=raw_last)
    out = output_for(data, planes=raw_last)
    on_hopper(data, out, relu=True)
    (call,) = gpu.calls
    (tactic,) = candidates(first_tactic[0][0], 1)
    found = dict(zip((argument.name for argument in HOPPER.arguments), call.arguments, strict=True))
    for name, tensor in {"x": data.x, "offset": data.offset, "mask": data.mask, "bias": data.bias, "out": out}.items():
        assert found[name].data_ptr() == tensor.data_ptr(), name
    assert found["mask"].data_ptr() == data.raw.data_ptr() + 18 * data.raw.stride(1) * 2
    assert torch.equal(found["weight"], pack_for_wgmma(data.weight, tactic.tile_n))
    strides = (7 * 9 * 27, 1, 27) if raw_last else (7 * 9 * 27, 7 * 9, 1)
    assert tuple(found[name] for name in LAYOUT_SCALARS) == (2, 7, 9, 7, 9, *strides, *strides)
    constants = dict(call.variant.constants)
    assert constants["T"] == str(dtype).removeprefix("torch.")
    assert (constants["BF16"], constants["SIGMOID"], constants["RELU"]) == (dtype == torch.bfloat16, True, True)
    assert constants["OUT_PLANES"] == raw_last
    assert [constants[name] for name in ("C", "N", "KH", "KW", "G")] == [64, 24, 3, 3, 1]
    assert call.launch == call.variant.geometry(batch=2, out_height=7, out_width=9, multiprocessors=132)


def test_the_hopper_kernel_computes_what_the_operator_does(
    first_tactic: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tactic without clusters, which the host has not."""
    gpu = host(monkeypatch)
    only = candidates(_cuda._hopper.problem_of(SQUARE, 16, 126, False), 100)
    (one, *_) = [tactic for tactic in only if tactic.cm * tactic.ck == 1]
    monkeypatch.setattr(_cuda, "candidates", lambda problem, count: [one])
    data = inputs(SQUARE, torch.float16, 16, (7, 9), batch=2, raw_last=False)
    out = output_for(data, planes=False)
    on_hopper(data, out)
    assert distance(out, expected(data)) < 2**-11
    assert [call.variant.kernel for call in gpu.calls] == [HOPPER]


def test_the_search_is_told_all_that_the_choice_depends_on(
    first_tactic: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    host(monkeypatch, runs=False)
    compiled: list[Variant] = []
    monkeypatch.setattr(_cuda, "compile_variant", lambda variant, target, kind: compiled.append(variant))

    def search(dtype: torch.dtype = torch.float16, relu: bool = False, planes: bool = False, **layer: Any) -> Any:
        data = inputs(Layer(24, (3, 3), **layer), dtype, 64, (7, 9))
        on_hopper(data, output_for(data, planes), relu=relu)
        return first_tactic[-1][:2]

    different = [search(), search(torch.bfloat16), search(relu=True), search(planes=True), search(stride=(2, 1))]
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    different.append(search())
    assert len(set(different)) == len(different)
    problem, _, tactics, _, compile_all = first_tactic[-1]
    assert problem.exact
    assert 1 < len(tactics) <= _cuda.TRIED
    compile_all()
    assert len(set(compiled)) == len(tactics)


@pytest.mark.parametrize("kernel", ["tensor", "hopper"])
@pytest.mark.parametrize(
    ("dtype", "allowed", "exact"),
    [
        (torch.float16, True, False),
        (torch.float16, False, True),
        (torch.bfloat16, True, True),
        (torch.float32, True, True),
    ],
    ids=str,
)
def test_samples_are_blended_in_float16_where_pytorch_may(
    kernel: str, dtype: torch.dtype, allowed: bool, exact: bool,
    first_tactic: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if kernel == "hopper" and dtype == torch.float32:
        return
    gpu = host(monkeypatch, runs=False)
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = allowed
    data = inputs(SQUARE, dtype, 64, (7, 9))
    run = _cuda._on_hopper if kernel == "hopper" else _cuda._on_tensor_cores
    out = output_for(data, planes=False)
    run(data.x, data.weight, data.offset, data.bias, data.mask, out, SQUARE, True, False, 132)
    assert dict(gpu.calls[0].variant.constants)["BLEND_FLOAT"] == exact


def test_weights_are_packed_once_and_again_when_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = host(monkeypatch)
    data = inputs(SQUARE, torch.float16, 16, (7, 9))
    outs = [output_for(data, planes=False) for _ in range(3)]
    for i, out in enumerate(outs):
        if i == 2:
            data.weight.mul_(2)
        _cuda._on_tensor_cores(
            data.x, data.weight, data.offset, data.bias, data.mask, out, SQUARE, True, False, 132
        )  # fmt: skip
    weights = [call.arguments[3] for call in gpu.calls]
    assert weights[0] is weights[1]
    assert torch.equal(outs[0], outs[1])
    assert distance(outs[2], expected(data)) < 2**-11


class Properties(NamedTuple):
    multi_processor_count: int = 16


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Host:
    """CPU tensors pass for those of a GPU of compute capability 8.0."""
    import contextlib

    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties())
    return host(monkeypatch)


def convolve(data: Inputs, **options: Any) -> Tensor:
    return _cuda.convolve(data.x, data.weight, data.offset, data.bias, data.mask, data.layer, sigmoid=True, **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("last", [False, True])
def test_a_whole_call(dtype: torch.dtype, last: bool, device: Host) -> None:
    data = inputs(SQUARE, dtype, 16, (7, 9), batch=2, last=last)
    assert distance(convolve(data), expected(data)) < BOUNDS[dtype]
    assert [call.variant.kernel for call in device.calls] == [PLAIN if dtype == torch.float32 else TENSOR]
    (out,) = (value for value in device.calls[0].arguments[5:6])
    assert out.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def apart(tensor: Tensor) -> Tensor:
    """The same values with gaps in all directions."""
    sizes = [2 * size for size in tensor.shape]
    wide = torch.full(sizes, torch.nan, dtype=tensor.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in sizes)]
    view.copy_(tensor)
    return view


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_arguments_may_lie_anyhow(dtype: torch.dtype, device: Host) -> None:
    data = inputs(SQUARE, dtype, 16, (7, 9), batch=2)
    tensors = [apart(t) for t in (data.x, data.weight, data.offset, data.bias, data.mask)]
    assert not any(t.is_contiguous() for t in tensors)
    result = _cuda.convolve(*tensors, SQUARE, sigmoid=True)
    assert distance(result, expected(data)) < BOUNDS[dtype]


def test_an_image_of_its_own_stride_that_is_not_aligned(device: Host) -> None:
    """As ``torch.from_numpy(image).permute(2, 0, 1)[None]`` has it, two bytes behind a multiple of 16."""
    data = inputs(SQUARE, torch.float16, 16, (7, 9))
    flat = torch.empty(7 * 9 * 16 + 9, dtype=torch.float16)
    start = next(i for i in range(9) if (flat.data_ptr() + 2 * i) % 16 == 2)
    image = flat[start : start + 7 * 9 * 16].view(7, 9, 16).permute(2, 0, 1)[None]
    image.copy_(data.x)
    assert image.stride(0) == 16
    result = _cuda.convolve(image, data.weight, data.offset, data.bias, data.mask, SQUARE, sigmoid=True)
    assert distance(result, expected(data)) < 2**-11
    assert device.calls[0].variant.kernel is TENSOR


def test_a_column_of_offsets_with_a_stride_of_its_own(device: Host) -> None:
    """A single column may have any stride between its pixels, of which there is but one."""
    layer = Layer(8, (1, 3))
    data = inputs(layer, torch.float16, 16, (7, 3))
    raw = data.raw.contiguous()
    raw = raw.as_strided(raw.shape, (*raw.stride()[:3], 5))
    result = _cuda.convolve(data.x, data.weight, raw[:, :6], data.bias, raw[:, 6:], layer, sigmoid=True)
    assert distance(result, expected(data)) < 2**-11


def test_expanded_offsets(device: Host) -> None:
    """One displacement for all pixels, read from one place."""
    data = inputs(SQUARE, torch.float16, 16, (7, 9), strange=())
    raw = data.raw[:, :, :1, :1].expand_as(data.raw)
    same = Inputs(SQUARE, data.x, raw, data.weight, data.bias)
    assert distance(convolve(same), expected(same)) < 2**-11


@pytest.mark.parametrize(("precision", "legacy", "expected_"), [("tf32", False, True), ("ieee", True, False)])
def test_tf32_follows_the_switch_of_pytorch(precision: str, legacy: bool, expected_: bool) -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        torch.backends.cuda.matmul.fp32_precision = precision
        assert _cuda._tf32() == expected_
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
