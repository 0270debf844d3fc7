"""From tensors to a launch: which kernel serves a call, and that it gets what it needs, on CPU tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from support.deform_host import Inputs, distance, inputs, launch_on_host
from support.every_case import crossed
from torch import Tensor

from convkit.cuda import LaunchConfig, Variant
from convkit_plugins.dcnv2 import deform_conv2d
from convkit_plugins.dcnv2.cuda import (
    HOPPER,
    LAYOUT_SCALARS,
    PLAIN,
    TENSOR,
    Layer,
    _cuda,
    _outputs,
    _weights,
    candidates,
    kernel_for,
    pack_for_wgmma,
    problem_of,
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
    config: LaunchConfig
    arguments: tuple[Any, ...]


class Host:
    """Replaces the GPU: loads variants, records their launches and, where ``runs`` is true, runs them on the CPU."""

    def __init__(self, runs: bool) -> None:
        self.runs = runs
        self.calls: list[Call] = []

    def load(self, variant: Variant) -> Launcher:
        return Launcher(self, variant)


class Launcher:
    """What `load` returns, of which this much is used."""

    def __init__(self, host: Host, variant: Variant) -> None:
        self.host, self.variant = host, variant

    def launch_config(self, **sizes: int) -> LaunchConfig:
        return self.variant.launch_config(**sizes).check()

    def __call__(self, config: LaunchConfig, *arguments: Any) -> None:
        self.host.calls.append(Call(self.variant, config, arguments))
        for argument, value in zip(self.variant.kernel.arguments, arguments, strict=True):
            assert isinstance(value, Tensor if argument.pointer else int), argument.name
            assert not argument.pointer or value.data_ptr() % self.variant.alignment(argument) == 0, argument.name
        if self.host.runs:
            launch_on_host(self.variant, config, *arguments)


@pytest.fixture(autouse=True)
def _no_copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(_cuda, "_packed", _weights.PackedWeights())
    reduced = torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
    yield
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = reduced


def format_on_a_gpu(tensor: Tensor) -> torch.memory_format:
    planes = tensor.is_contiguous() or not tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.contiguous_format if planes else torch.channels_last


class Properties(NamedTuple):
    multi_processor_count: int = 16


Device = Callable[..., Host]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """Give what makes CPU tensors pass for those of a GPU of some compute capability."""

    def make(capability: tuple[int, int] = (8, 0), *, runs: bool = True) -> Host:
        monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties())
        found = Host(runs)
        monkeypatch.setattr(_cuda, "load", found.load)
        for module in (_cuda, _outputs):
            monkeypatch.setattr(module, "memory_format", format_on_a_gpu)
        return found

    return make


@pytest.fixture
def tf32() -> Iterator[None]:
    """Let PyTorch compute float32 products as TF32."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    yield
    torch.backends.cuda.matmul.fp32_precision = before


def convolve(data: Inputs, *, sigmoid: bool = True, relu: bool = False) -> Tensor:
    tensors = (data.x, data.weight, data.offset, data.bias, data.mask)
    return _cuda.convolve(*tensors, data.layer, sigmoid=sigmoid, relu=relu)


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


@crossed(name=[*LAYERS], dtype=DTYPES, last=[False, True])
def test_the_plain_kernel_computes_what_the_operator_does(
    name: str, dtype: torch.dtype, last: bool, device: Device
) -> None:
    """float16 and bfloat16 with masks as they are and a ReLU."""
    layer, channels, size = LAYERS[name]
    gpu, half = device((7, 5)), dtype != torch.float32
    data = inputs(layer, dtype, channels, size, batch=2, last=last, raw_last=last)
    out = convolve(data, sigmoid=not half, relu=half)
    assert distance(out, expected(data, sigmoid=not half, relu=half)) < BOUNDS[dtype]
    (call,) = gpu.calls
    assert call.variant.kernel is PLAIN
    assert dict(call.variant.constants)["VECTOR"] == last


@pytest.mark.usefixtures("tf32")
@crossed(name=[*LAYERS], dtype=DTYPES, last=[False, True])
def test_the_tensor_cores_compute_what_the_operator_does(
    name: str, dtype: torch.dtype, last: bool, device: Device
) -> None:
    """TF32 with a ReLU; ``last`` says whether ``x``, and with it the output, is channels-last."""
    layer, channels, size = LAYERS[name]
    gpu, single = device(), dtype == torch.float32
    data = inputs(layer, dtype, channels, size, batch=2, last=last, raw_last=last)
    out = convolve(data, sigmoid=not single, relu=single)
    bound = 2**-11 if single else BOUNDS[dtype]  # what TF32 rounds
    assert distance(out, expected(data, sigmoid=not single, relu=single)) < bound
    (call,) = gpu.calls
    assert call.variant.kernel is TENSOR
    assert dict(call.variant.constants)["OUT_PLANES"] != last


@pytest.fixture
def first_tactic(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Replace the search by its first tactic and record its arguments, the named ones as a dict at the end."""
    searches: list[tuple[Any, ...]] = []

    def best(*arguments: Any, **options: Any) -> Any:
        searches.append((*arguments, options))
        return arguments[2][0]

    monkeypatch.setattr(_cuda, "best_tactic", best)
    return searches


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_the_hopper_kernel_gets_its_arguments_in_order(
    dtype: torch.dtype, last: bool, first_tactic: list[tuple[Any, ...]], device: Device
) -> None:
    gpu = device((9, 0), runs=False)
    data = inputs(SQUARE, dtype, 64, (7, 9), batch=2, last=last, raw_last=last)
    out = convolve(data, relu=True)
    (call,) = gpu.calls
    (tactic,) = candidates(first_tactic[0][0], 1)
    found = dict(zip((argument.name for argument in HOPPER.arguments), call.arguments, strict=True))
    for name, tensor in {"offset": data.offset, "mask": data.mask, "bias": data.bias, "out": out}.items():
        assert found[name].data_ptr() == tensor.data_ptr(), name
    assert torch.equal(found["x"], data.x)
    assert found["mask"].data_ptr() == data.raw.data_ptr() + 18 * data.raw.stride(1) * 2
    assert torch.equal(found["weight"], pack_for_wgmma(data.weight, tactic.tile_n))
    strides = (7 * 9 * 27, 1, 27) if last else (7 * 9 * 27, 7 * 9, 1)
    assert tuple(found[name] for name in LAYOUT_SCALARS) == (2, 7, 9, 7, 9, *strides, *strides)
    constants = dict(call.variant.constants)
    assert constants["T"] == str(dtype).removeprefix("torch.")
    assert (constants["BF16"], constants["SIGMOID"], constants["RELU"]) == (dtype == torch.bfloat16, True, True)
    assert constants["OUT_PLANES"] != last
    assert [constants[name] for name in ("C", "N", "KH", "KW", "G")] == [64, 24, 3, 3, 1]
    assert call.config == call.variant.launch_config(batch=2, out_height=7, out_width=9, multiprocessors=16)


def test_the_hopper_kernel_computes_what_the_operator_does(
    first_tactic: list[tuple[Any, ...]], device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tactic without a cluster, which the CPU cannot run; and the search compares with the plain kernel."""
    gpu = device((9, 0))
    problem = problem_of(SQUARE, 16, 126, blend_fp32=False)
    (one, *_) = [tactic for tactic in candidates(problem, 100) if tactic.cluster_m * tactic.cluster_k == 1]
    monkeypatch.setattr(_cuda, "candidates", lambda problem, count: [one])
    data = inputs(SQUARE, torch.float16, 16, (7, 9), batch=2, raw_last=False)
    out = convolve(data)
    assert distance(out, expected(data)) < 2**-11
    assert [call.variant.kernel for call in gpu.calls] == [HOPPER]
    reference = first_tactic[0][-1]["reference"]()
    assert gpu.calls[-1].variant.kernel is PLAIN
    assert reference.data_ptr() != out.data_ptr()
    assert distance(reference, expected(data)) < 2**-11


def test_a_search_does_not_compare_where_the_kernels_differ(
    first_tactic: list[tuple[Any, ...]], device: Device
) -> None:
    device((9, 0), runs=False)
    data = inputs(SQUARE, torch.float16, 64, (7, 9))
    data.x[0, 3, 2, 1] = torch.inf
    convolve(data)
    assert first_tactic[0][-1]["reference"]() is None


def test_the_search_gets_all_that_the_choice_depends_on(
    first_tactic: list[tuple[Any, ...]], device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device((9, 0), runs=False)
    compiled: list[Variant] = []
    monkeypatch.setattr(_cuda, "compile_variant", lambda variant, target, kind: compiled.append(variant))

    def search(dtype: torch.dtype = torch.float16, relu: bool = False, last: bool = True, **layer: Any) -> Any:
        convolve(inputs(Layer(24, (3, 3), **layer), dtype, 64, (7, 9), last=last), relu=relu)
        return first_tactic[-1][:2]

    different = [search(), search(torch.bfloat16), search(relu=True), search(last=False), search(stride=(2, 1))]
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    different.append(search())
    assert len(set(different)) == len(different)
    problem, _, tactics, _, options = first_tactic[-1]
    assert problem.blend_fp32
    assert 1 < len(tactics) <= _cuda.TRIED
    options["compile_all"]()
    assert len(set(compiled)) == len(tactics)


@pytest.mark.usefixtures("tf32", "first_tactic")
@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
@pytest.mark.parametrize(
    ("dtype", "allowed", "blend_fp32"),
    [
        (torch.float16, True, False),
        (torch.float16, False, True),
        (torch.bfloat16, True, True),
        (torch.float32, True, True),
    ],
    ids=str,
)
def test_samples_are_blended_in_float16_where_pytorch_may(
    capability: tuple[int, int], dtype: torch.dtype, allowed: bool, blend_fp32: bool, device: Device
) -> None:
    gpu = device(capability, runs=False)
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = allowed
    convolve(inputs(SQUARE, dtype, 64, (7, 9)))
    assert dict(gpu.calls[0].variant.constants)["BLEND_FLOAT"] == blend_fp32


def test_weights_are_packed_once_and_again_when_they_change(device: Device) -> None:
    gpu = device()
    data = inputs(SQUARE, torch.float16, 16, (7, 9))
    outs = [convolve(data), convolve(data)]
    data.weight.mul_(2)
    outs.append(convolve(data))
    weights = [call.arguments[3] for call in gpu.calls]
    assert weights[0] is weights[1]
    assert torch.equal(outs[0], outs[1])
    assert distance(outs[2], expected(data)) < 2**-11


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("last", [False, True])
def test_the_output_has_the_format_of_the_input(dtype: torch.dtype, last: bool, device: Device) -> None:
    gpu = device()
    data = inputs(SQUARE, dtype, 16, (7, 9), batch=2, last=last)
    out = convolve(data)
    assert distance(out, expected(data)) < BOUNDS[dtype]
    assert [call.variant.kernel for call in gpu.calls] == [PLAIN if dtype == torch.float32 else TENSOR]
    assert out.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def apart(tensor: Tensor) -> Tensor:
    """The same values with gaps in all directions."""
    sizes = [2 * size for size in tensor.shape]
    wide = torch.full(sizes, torch.nan, dtype=tensor.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in sizes)]
    view.copy_(tensor)
    return view


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_arguments_may_lie_anyhow(dtype: torch.dtype, device: Device) -> None:
    device()
    data = inputs(SQUARE, dtype, 16, (7, 9), batch=2)
    tensors = [apart(t) for t in (data.x, data.weight, data.offset, data.bias, data.mask)]
    assert not any(t.is_contiguous() for t in tensors)
    result = _cuda.convolve(*tensors, SQUARE, sigmoid=True)
    assert distance(result, expected(data)) < BOUNDS[dtype]


def test_an_image_of_its_own_stride_that_is_not_aligned(device: Device) -> None:
    """As ``torch.from_numpy(image).permute(2, 0, 1)[None]`` has it, two bytes behind a multiple of 16."""
    gpu = device()
    data = inputs(SQUARE, torch.float16, 16, (7, 9))
    flat = torch.empty(7 * 9 * 16 + 9, dtype=torch.float16)
    start = next(i for i in range(9) if (flat.data_ptr() + 2 * i) % 16 == 2)
    image = flat[start : start + 7 * 9 * 16].view(7, 9, 16).permute(2, 0, 1)[None]
    image.copy_(data.x)
    assert image.stride(0) == 16
    result = _cuda.convolve(image, data.weight, data.offset, data.bias, data.mask, SQUARE, sigmoid=True)
    assert distance(result, expected(data)) < 2**-11
    assert gpu.calls[0].variant.kernel is TENSOR


def test_a_column_of_offsets_with_a_stride_of_its_own(device: Device) -> None:
    """A single column may have any stride between its pixels, of which there is but one."""
    device()
    layer = Layer(8, (1, 3))
    data = inputs(layer, torch.float16, 16, (7, 3))
    raw = data.raw.contiguous()
    raw = raw.as_strided(raw.shape, (*raw.stride()[:3], 5))
    result = _cuda.convolve(data.x, data.weight, raw[:, :6], data.bias, raw[:, 6:], layer, sigmoid=True)
    assert distance(result, expected(data)) < 2**-11


def test_expanded_offsets(device: Device) -> None:
    """One displacement for all pixels, read from one place."""
    device()
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
