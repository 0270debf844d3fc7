"""Launches against a driver that only notes what it is given: what a GPU would receive, checked without one."""

from __future__ import annotations

import ctypes
import struct
from types import SimpleNamespace

import numpy as np
import pytest
from support.sample_kernels import REVERSE, SCALE

from convkit.cuda import ArrayView, CompiledKernel, LaunchConfig, Launcher
from convkit.cuda import _launch as module
from convkit.errors import EnvironmentProblem, KernelArgumentError, KernelError

cupy = pytest.importorskip("cupy")
HOST = -1
"""The device that torch reports for tensors of the host, taken for a GPU here."""
LAUNCH = LaunchConfig((3, 2, 1), (64, 1, 1), 128)


class Driver:
    """Notes launches as the driver would see them, the arguments by value."""

    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8
    CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT = 9

    class CUDADriverError(RuntimeError):
        pass

    def __init__(self, formats):
        self.formats, self.launches, self.limits, self.broken = formats, [], [48 * 1024], False
        self.divisions = []

    def launchKernel(self, function, *rest):
        *numbers, parameters, extra = rest
        if self.broken or numbers[6] > self.limits[-1]:
            raise self.CUDADriverError("CUDA_ERROR_INVALID_VALUE")
        addresses = (ctypes.c_uint64 * len(self.formats)).from_address(parameters)
        values = [
            struct.unpack(code, ctypes.string_at(address, struct.calcsize(code)))[0]
            for code, address in zip(self.formats, addresses, strict=True)
        ]
        self.launches.append((function, *numbers, extra, values))

    def funcSetAttribute(self, function, attribute, value):
        if attribute == 9:
            self.divisions.append((function, value))
            return
        if value > 100_000:
            raise self.CUDADriverError("CUDA_ERROR_INVALID_VALUE")
        assert (function, attribute) == (77, 8)
        self.limits.append(value)


class Array:
    """An array of some library, in the host's memory."""

    def __init__(self, array):
        self.array = array

    @property
    def __cuda_array_interface__(self):
        return self.array.__array_interface__


@pytest.fixture
def driver(monkeypatch):
    fake = Driver("QQifq")
    monkeypatch.setattr(cupy.cuda, "driver", fake)
    runtime = SimpleNamespace(
        getDevice=lambda: 0, setDevice=lambda device: None, pointerGetAttributes=lambda _: SimpleNamespace(device=HOST)
    )
    monkeypatch.setattr(cupy.cuda, "runtime", runtime)
    function = SimpleNamespace(ptr=77)
    loaded = SimpleNamespace(load=lambda code: None, get_function=lambda name: function)
    monkeypatch.setattr("cupy.cuda.function.Module", lambda: loaded)
    return fake


def launcher_of(kernel=SCALE, **constants):
    variant = kernel.variant(**constants)
    return Launcher(variant, CompiledKernel(b"code", "cubin", "sm_90", kernel.name), HOST)


@pytest.fixture
def scale(driver):
    return launcher_of(T="float32", THREADS=64)


def test_arguments_arrive_by_value(driver, scale):
    scale(LAUNCH, 0x1234, 2**47 + 16, -5, 0.375, 2**40, stream=99)
    scale(LaunchConfig((1, 1, 1), (32, 1, 1)), 0, 16, np.int32(7), np.float64(2), np.uint8(3), stream=1)
    assert driver.launches == [
        (77, 3, 2, 1, 64, 1, 1, 128, 99, 0, [0x1234, 2**47 + 16, -5, 0.375, 2**40]),
        (77, 1, 1, 1, 32, 1, 1, 0, 1, 0, [0, 16, 7, 2.0, 3]),
    ]


def test_tensors_and_arrays_arrive_by_address(driver, scale):
    torch = pytest.importorskip("torch")
    pixels, output = torch.zeros(8, dtype=torch.uint8), torch.nn.Parameter(torch.zeros(64))
    scale(LAUNCH, pixels, output, 1, 1, 0, stream=1)
    array = np.zeros(64, np.uint8)
    scale(LAUNCH, Array(array), output, 1, 1, 0, stream=1)
    addresses = [values[:2] for *_, values in driver.launches]
    assert addresses == [[pixels.data_ptr(), output.data_ptr()], [array.ctypes.data, output.data_ptr()]]


@pytest.mark.parametrize("stream", [SimpleNamespace(cuda_stream=5), SimpleNamespace(ptr=5), 5])
def test_streams(driver, scale, stream):
    scale(LAUNCH, 0, 0, 1, 1, 0, stream=stream)
    assert driver.launches[0][8] == 5


def test_the_frameworks_current_stream(driver, scale, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=100 + device))
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", None, raising=False)  # builds with CUDA have it
    monkeypatch.setattr(cupy.cuda, "get_current_stream", lambda: SimpleNamespace(ptr=200))
    scale(LAUNCH, torch.zeros(8, dtype=torch.uint8), 0, 1, 1, 0)
    scale(LAUNCH, 0, 0, 1, 1, 0)
    assert [launch[8] for launch in driver.launches] == [100 + HOST, 200]


def test_memory_beside_the_resident_blocks_is_left_to_the_cache(driver, scale, monkeypatch):
    device = SimpleNamespace(attributes={"MaxSharedMemoryPerMultiprocessor": 100 * 1024})
    monkeypatch.setattr(cupy.cuda, "Device", lambda number: device)
    for shared, blocks in ((100, 0), (9 * 1024, 2), (9 * 1024, 2), (9 * 1024, 3), (40 * 1024, 9), (100, 0)):
        scale(LaunchConfig((1, 1, 1), (32, 1, 1), shared, blocks), 0, 0, 1, 1, 0, stream=1)
    # Each block takes 1 KiB more than it asks for: 20, 30 and, at most, all of 100 KiB.
    assert driver.divisions == [(77, 20), (77, 30), (77, 100)]
    assert len(driver.launches) == 6


def test_shared_memory_beyond_the_default_is_asked_for_once(driver):
    driver.formats = "QQi"
    launcher = launcher_of(REVERSE)
    for shared in (48 * 1024, 48 * 1024 + 4, 100, 48 * 1024 + 4, 90_000, 60_000):
        launcher(LaunchConfig((1, 1, 1), (32, 1, 1), shared), 0, 0, 1, stream=0)
    assert len(driver.launches) == 6
    assert driver.limits == [48 * 1024, 48 * 1024 + 4, 90_000]
    with pytest.raises(KernelArgumentError, match=r"test_reverse needs 100004 bytes of dynamic shared memory"):
        launcher(LaunchConfig((1, 1, 1), (32, 1, 1), 100_004), 0, 0, 1, stream=0)
    assert len(driver.launches) == 6


def test_the_launch_configuration_is_checked(scale):
    assert scale.launch_config(count=1000) == LaunchConfig((4, 1, 1), (64, 1, 1))
    with pytest.raises(KernelArgumentError, match="is empty"):
        scale.launch_config(count=0)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({0: -1}, "'pixels' is -1, outside of uint64"),
        ({0: 2**64}, "'pixels' is 18446744073709551616, outside of uint64"),
        ({0: None}, "'pixels' is a NoneType: no cupy array"),
        ({0: True}, "'pixels' is a bool: no cupy array"),
        ({0: np.zeros(3, np.uint8)}, "'pixels' is a ndarray: no cupy array"),
        ({0: Array(np.zeros(64, np.int8))}, "'pixels' has dtype int8, not uint8"),
        ({1: 24}, "'output' is at address 0x18, which is not a multiple of 16"),
        ({2: 2**31}, "'count' is 2147483648, outside of int32"),
        ({2: -(2**31) - 1}, "'count' is -2147483649, outside of int32"),
        ({2: 1.0}, "'count' is a float; it must be a number for int32"),
        ({2: True}, "'count' is a bool"),
        ({2: np.zeros(1, int)}, "'count' is a ndarray"),
        ({3: "1"}, "'factor' is a str"),
        ({3: 1e39}, r"'factor' is 1e\+39, outside of float32"),
        ({3: 10**400}, "'factor' is 10+, outside of float32"),
        ({4: 2**63}, "'offset' is 9223372036854775808, outside of int64"),
    ],
)
def test_wrong_arguments_are_refused_before_the_launch(driver, scale, changes, text):
    arguments = [0, 16, 1, 1.0, 0]
    for index, value in changes.items():
        arguments[index] = value
    with pytest.raises(KernelArgumentError, match=text) as caught:
        scale(LAUNCH, *arguments, stream=0)
    assert isinstance(caught.value, ValueError)
    assert driver.launches == []


def test_wrong_tensors_are_refused(driver, scale):
    torch = pytest.importorskip("torch")
    for wrong in (torch.zeros(8), torch.zeros(8, dtype=torch.int8)):
        with pytest.raises(KernelArgumentError, match=r"'pixels' has dtype \w+, not uint8"):
            scale(LAUNCH, wrong, 0, 1, 1, 0, stream=0)
    with pytest.raises(KernelArgumentError, match="'count' is a Tensor"):
        scale(LAUNCH, 0, 0, torch.tensor(3), 1, 0, stream=0)
    assert driver.launches == []


def test_tensors_of_another_device_are_refused(driver):
    torch = pytest.importorskip("torch")
    variant = SCALE.variant(T="float32", THREADS=64)
    launcher = Launcher(variant, CompiledKernel(b"code", "cubin", "sm_90", "test_scale"), 0)
    with pytest.raises(KernelArgumentError, match="'pixels' is in host memory, not on device 0"):
        launcher(LAUNCH, torch.zeros(8, dtype=torch.uint8), 0, 1, 1, 0, stream=0)


def test_arrays_of_another_device_are_refused(driver, scale, monkeypatch):
    monkeypatch.setattr(cupy.cuda.runtime, "pointerGetAttributes", lambda _: SimpleNamespace(device=3))
    with pytest.raises(KernelArgumentError, match="'pixels' is on device 3, not in host memory"):
        scale(LAUNCH, Array(np.zeros(64, np.uint8)), 0, 1, 1, 0, stream=0)


def test_cupy_arrays_are_read_by_dtype_device_and_address(driver, scale, monkeypatch):
    class CupyArray:
        def __init__(self, dtype, device):
            self.dtype, self.data = np.dtype(dtype), SimpleNamespace(device_id=device, ptr=64)

    monkeypatch.setattr(cupy, "ndarray", CupyArray)
    scale(LAUNCH, CupyArray("uint8", HOST), 0, 1, 1, 0, stream=0)
    assert driver.launches[0][-1][0] == 64
    with pytest.raises(KernelArgumentError, match="'pixels' has dtype int8, not uint8"):
        scale(LAUNCH, CupyArray("int8", HOST), 0, 1, 1, 0, stream=0)
    with pytest.raises(KernelArgumentError, match="'pixels' is on device 1, not in host memory"):
        scale(LAUNCH, CupyArray("uint8", 1), 0, 1, 1, 0, stream=0)


def test_views_arrive_by_address(driver, scale):
    view = ArrayView((4,), (1,), "uint8", 48, HOST)
    scale(LAUNCH, view, 0, 1, 1, 0, stream=0)
    assert driver.launches[0][-1][0] == 48
    with pytest.raises(KernelArgumentError, match="'output' has dtype uint8, not float32"):
        scale(LAUNCH, 0, view, 1, 1, 0, stream=0)


def test_bfloat16_arrays_may_be_uint16(driver):
    launcher = launcher_of(T="bfloat16", THREADS=64)
    memory = np.zeros(32, np.uint16)
    view = memory[(-memory.ctypes.data // 2) % 8 :]
    launcher(LAUNCH, 0, Array(view), 1, 1, 0, stream=0)
    assert driver.launches[0][-1][1] == view.ctypes.data
    with pytest.raises(KernelArgumentError, match="'output' has dtype int16, not bfloat16"):
        launcher(LAUNCH, 0, Array(view.view(np.int16)), 1, 1, 0, stream=0)


def test_number_of_arguments(scale):
    with pytest.raises(KernelArgumentError, match=r"takes 5 arguments, 2 were given.\nThey are pixels, output, count,"):
        scale(LAUNCH, 0, 0, stream=0)


def test_no_stream(scale):
    with pytest.raises(KernelArgumentError, match="is not a stream"):
        scale(LAUNCH, 0, 0, 1, 1, 0, stream="main")


def test_a_refusal_of_the_driver(driver, scale):
    driver.broken = True
    with pytest.raises(KernelError, match=r"launch of test_scale\[.*\] with grid \(3, 2, 1\), .* failed: CUDA_ERROR"):
        scale(LAUNCH, 0, 0, 1, 1, 0, stream=0)


class TestChoiceOfCode:
    @pytest.fixture
    def device(self, monkeypatch):
        def make(capability):
            monkeypatch.setattr(cupy.cuda, "Device", lambda _: SimpleNamespace(compute_capability=str(capability)))

        monkeypatch.setattr(module, "supported_capabilities", lambda: (75, 80, 90))
        monkeypatch.setattr(module, "compile_variant", lambda variant, target, kind: (target, kind))
        return make

    @pytest.mark.parametrize(
        ("capability", "chosen"),
        [(80, ("sm_80", "cubin")), (90, ("sm_90", "cubin")), (86, ("compute_80", "ptx")), (130, ("compute_90", "ptx"))],
    )
    def test_by_capability(self, device, capability, chosen):
        device(capability)
        assert module._compiled(SCALE.variant(T="float32", THREADS=64), 0) == chosen

    def test_too_old(self, device):
        device(70)
        with pytest.raises(EnvironmentProblem, match="is for compute capability 75 or newer; device 0 has 70"):
            module._compiled(SCALE.variant(T="float32", THREADS=64), 0)
