"""Launches on a GPU: every kind of argument and stream, captured or not, and each error before the launch."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from support.sample_kernels import CONVERT, REVERSE, SCALE

from convkit.cuda import Kernel, LaunchConfig, Launcher, compile_variant, load
from convkit.errors import KernelArgumentError

pytestmark = pytest.mark.gpu
COUNT = 1003
FACTOR = 0.375


@pytest.fixture(scope="module")
def cupy():
    return pytest.importorskip("cupy")


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(3).integers(0, 256, COUNT, dtype=np.uint8)


@pytest.fixture(scope="module")
def expected(pixels):
    return pixels.astype(np.float32) * np.float32(FACTOR)


def launcher_of(dtype="float16"):
    launcher = load(SCALE.variant(T=dtype, THREADS=64))
    return launcher, launcher.launch_config(count=COUNT)


class Foreign:
    """An array of some other library."""

    def __init__(self, array):
        self.array = array

    @property
    def __cuda_array_interface__(self):
        return self.array.__cuda_array_interface__


class TestArguments:
    @pytest.mark.parametrize("dtype", ["float16", "float32"])
    def test_cupy_arrays(self, cupy, pixels, expected, dtype):
        launcher, launch = launcher_of(dtype)
        output = cupy.full(COUNT, np.nan, dtype)
        launcher(launch, cupy.asarray(pixels), output, COUNT, FACTOR, 0)
        np.testing.assert_array_equal(output.get(), expected.astype(dtype))

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
    def test_torch_tensors(self, torch, pixels, expected, dtype):
        launcher, launch = launcher_of(dtype)
        output = torch.full((COUNT,), torch.nan, dtype=getattr(torch, dtype), device="cuda")
        launcher(launch, torch.from_numpy(pixels).cuda(), output, COUNT, FACTOR, 0)
        wanted = torch.from_numpy(expected).to(output.dtype)
        assert torch.equal(output.cpu(), wanted)

    def test_parameters_of_a_module(self, torch, pixels, expected):
        launcher, launch = launcher_of("float32")
        output = torch.nn.Parameter(torch.full((COUNT,), torch.nan, device="cuda"))
        launcher(launch, torch.from_numpy(pixels).cuda(), output, COUNT, FACTOR, 0)
        assert torch.equal(output.detach().cpu(), torch.from_numpy(expected))

    def test_addresses(self, cupy, pixels, expected):
        launcher, launch = launcher_of()
        source, output = cupy.asarray(pixels), cupy.full(COUNT, np.nan, "float16")
        launcher(launch, source.data.ptr, output.data.ptr, COUNT, FACTOR, 0, stream=0)
        np.testing.assert_array_equal(output.get(), expected.astype("float16"))

    def test_arrays_of_another_library(self, cupy, pixels, expected):
        launcher, launch = launcher_of()
        source, output = Foreign(cupy.asarray(pixels)), cupy.full(COUNT, np.nan, "float16")
        launcher(launch, source, output, COUNT, FACTOR, 0)
        np.testing.assert_array_equal(output.get(), expected.astype("float16"))

    def test_bfloat16_as_uint16(self, cupy, torch, pixels, expected):
        launcher, launch = launcher_of("bfloat16")
        output = cupy.full(COUNT, 0x7FFF, "uint16")
        launcher(launch, cupy.asarray(pixels), output, COUNT, FACTOR, 0)
        wanted = torch.from_numpy(expected).bfloat16().view(torch.uint16).numpy()
        np.testing.assert_array_equal(output.get(), wanted)

    def test_numbers_of_numpy_and_large_offsets(self, cupy, pixels, expected):
        launcher, launch = launcher_of("float32")
        source, output = cupy.asarray(pixels), cupy.full(COUNT, np.nan, "float32")
        far = 2**40
        launcher(launch, source.data.ptr - far, output, np.int32(COUNT), np.float32(FACTOR), np.int64(far), stream=0)
        np.testing.assert_array_equal(output.get(), expected)

    def test_views_are_written_in_place(self, torch, pixels, expected):
        launcher, launch = launcher_of("float32")
        whole = torch.full((COUNT + 8,), torch.nan, device="cuda")
        launcher(launch, torch.from_numpy(pixels).cuda(), whole[4 : COUNT + 4], COUNT, FACTOR, 0)
        assert torch.equal(whole[4:-4].cpu(), torch.from_numpy(expected))
        assert whole[:4].isnan().all()
        assert whole[-4:].isnan().all()

    def test_nothing_is_allocated(self, cupy, torch, pixels):
        launcher, launch = launcher_of("float32")
        source, output = cupy.asarray(pixels), cupy.zeros(COUNT, "float32")
        tensors = torch.from_numpy(pixels).cuda(), torch.zeros(COUNT, device="cuda")
        pool = cupy.get_default_memory_pool()
        before = pool.used_bytes(), pool.total_bytes(), torch.cuda.memory_stats()["allocation.all.allocated"]
        for _ in range(5):
            launcher(launch, source, output, COUNT, FACTOR, 0)
            launcher(launch, *tensors, COUNT, FACTOR, 0)
        after = pool.used_bytes(), pool.total_bytes(), torch.cuda.memory_stats()["allocation.all.allocated"]
        assert after == before


class TestStreams:
    def test_torch_current_stream(self, torch, pixels, expected):
        launcher, launch = launcher_of("float32")
        source, output = torch.from_numpy(pixels).cuda(), torch.full((COUNT,), torch.nan, device="cuda")
        torch.cuda.synchronize()
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            torch.cuda._sleep(200_000_000)
            launcher(launch, source, output, COUNT, FACTOR, 0)
        assert output.isnan().all(), "the launch did not wait for its stream, or made the caller wait"
        side.synchronize()
        assert torch.equal(output.cpu(), torch.from_numpy(expected))

    @pytest.mark.parametrize("kind", ["torch", "cupy", "address", "current"])
    def test_given_stream(self, cupy, torch, pixels, expected, kind):
        launcher, launch = launcher_of("float32")
        source, output = cupy.asarray(pixels), cupy.full(COUNT, np.nan, "float32")
        torch.cuda.synchronize()
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            torch.cuda._sleep(200_000_000)
        own = cupy.cuda.ExternalStream(side.cuda_stream)
        if kind == "current":
            with own:
                launcher(launch, source, output, COUNT, FACTOR, 0)
        else:
            stream = {"torch": side, "cupy": own, "address": side.cuda_stream}[kind]
            launcher(launch, source, output, COUNT, FACTOR, 0, stream=stream)
        assert not side.query(), "the launch waited"
        side.synchronize()
        np.testing.assert_array_equal(output.get(), expected)

    def test_captured_in_a_torch_graph(self, torch, pixels, expected):
        launcher, launch = launcher_of("float32")
        source, output = torch.zeros(COUNT, dtype=torch.uint8, device="cuda"), torch.zeros(COUNT, device="cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            launcher(launch, source, output, COUNT, FACTOR, 0)
        source.copy_(torch.from_numpy(pixels))
        output.fill_(torch.nan)
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(output.cpu(), torch.from_numpy(expected))

    def test_first_launch_inside_of_a_capture(self, cupy, torch, pixels, expected):
        known, launch = launcher_of("float32")
        fresh = Launcher(known.variant, known.compiled, known.device)
        source, output = torch.from_numpy(pixels).cuda(), torch.zeros(COUNT, device="cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            fresh(launch, source, output, COUNT, FACTOR, 0)
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(output.cpu(), torch.from_numpy(expected))

    def test_captured_by_cupy(self, cupy, pixels, expected):
        launcher, launch = launcher_of("float32")
        source, output = cupy.zeros(COUNT, "uint8"), cupy.zeros(COUNT, "float32")
        cupy.cuda.get_current_stream().synchronize()
        side = cupy.cuda.Stream(non_blocking=True)
        with side:
            side.begin_capture()
            launcher(launch, source, output, COUNT, FACTOR, 0)
            graph = side.end_capture()
            source.set(pixels)
            output.fill(np.nan)
            graph.launch()
            side.synchronize()
        np.testing.assert_array_equal(output.get(), expected)

    def test_threads_share_a_launcher(self, cupy, pixels):
        launcher, launch = launcher_of("float32")
        source = cupy.asarray(pixels)
        cupy.cuda.get_current_stream().synchronize()
        results: dict[int, list[bool]] = {}

        def work(number):
            output = cupy.zeros(COUNT, "float32")
            rounds = []
            for repeat in range(50):
                factor = float(number * 50 + repeat)
                launcher(launch, source, output, COUNT, factor, 0)
                rounds.append(bool(cupy.array_equal(output, source.astype("float32") * np.float32(factor))))
            results[number] = rounds

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {number: all(rounds) for number, rounds in results.items()} == dict.fromkeys(range(4), True)


class TestSharedMemory:
    @pytest.mark.parametrize("count", [1000, 12 * 1024, 20 * 1024])
    def test_dynamic(self, cupy, count):
        launcher = load(REVERSE.variant())
        if cupy.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"] < 4 * count:
            pytest.skip("this GPU has less shared memory")
        source, output = cupy.arange(count, dtype="float32"), cupy.full(count, np.nan, "float32")
        launcher(launcher.launch_config(count=count), source, output, count)
        np.testing.assert_array_equal(output.get(), source.get()[::-1])

    def test_too_much(self, cupy):
        launcher = load(REVERSE.variant())
        array = cupy.zeros(1 << 20, "float32")
        with pytest.raises(KernelArgumentError, match="4194304 bytes of dynamic shared memory"):
            launcher(launcher.launch_config(count=1 << 20), array, array, 1 << 20)


@pytest.mark.parametrize("target", ["own", "compute_75"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_conversions(cupy, torch, dtype, target):
    variant = CONVERT.variant(T=dtype)
    launcher = load(variant)
    if target != "own":
        launcher = Launcher(variant, compile_variant(variant, target, "ptx"), launcher.device)
    generator = np.random.default_rng(5)
    high = np.arange(65536, dtype=np.uint32) << 16
    bits = np.concatenate([high, high | 0x8000, high | 0x7FFF, high | 0x8001, generator.integers(0, 2**32, 2**20)])
    halves = np.sort(np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32))
    ties = (halves[1:] + halves[:-1]) / 2
    near = np.concatenate([halves, ties, np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(np.inf))])
    values = np.concatenate([bits.astype(np.uint32).view(np.float32), near, -near])
    count = len(values)
    outputs = [cupy.zeros(count, kind) for kind in ("uint16", "float32")]
    pairs, unpacked = cupy.zeros((count + 1) // 2, "uint32"), cupy.zeros(count, "float32")
    launcher(launcher.launch_config(count=count), cupy.asarray(values), *outputs, pairs, unpacked, count)

    reference = torch.from_numpy(values).to(getattr(torch, dtype))
    wanted = reference.view(torch.int16).numpy().view(np.uint16).copy()
    wanted[np.isnan(values)] = 0x7FFF
    np.testing.assert_array_equal(outputs[0].get(), wanted)
    np.testing.assert_array_equal(pairs.get().view(np.uint16)[:count], wanted)
    back = torch.from_numpy(wanted.view(np.int16)).view(reference.dtype).float().numpy()
    np.testing.assert_array_equal(outputs[1].get(), back)
    np.testing.assert_array_equal(unpacked.get(), back)


class TestErrors:
    @pytest.fixture
    def arrays(self, cupy, pixels):
        return [cupy.asarray(pixels), cupy.zeros(COUNT + 8, "float16"), COUNT, FACTOR, 0]

    def refused(self, arrays, text, **options):
        launcher, launch = launcher_of()
        arrays[1][:] = 7
        with pytest.raises(KernelArgumentError, match=text):
            launcher(launch, *arrays, **options)
        assert (arrays[1] == 7).all()

    def test_number_of_arguments(self, arrays):
        launcher, launch = launcher_of()
        with pytest.raises(KernelArgumentError, match=r"takes 5 arguments, 4 were given(.|\n)*pixels, output, count"):
            launcher(launch, *arrays[:4])

    def test_dtype_of_cupy(self, cupy, arrays):
        arrays[0] = arrays[0].view("int8")
        self.refused(arrays, "'pixels' has dtype int8, not uint8")

    def test_dtype_of_torch(self, torch, arrays):
        arrays[0] = torch.zeros(COUNT, dtype=torch.int8, device="cuda")
        self.refused(arrays, "'pixels' has dtype int8, not uint8")

    def test_dtype_of_another_library(self, arrays):
        arrays[0] = Foreign(arrays[0].view("int8"))
        self.refused(arrays, "'pixels' has dtype int8, not uint8")

    def test_tensor_on_the_host(self, torch, arrays):
        arrays[0] = torch.zeros(COUNT, dtype=torch.uint8)
        self.refused(arrays, "'pixels' is in host memory, not on device 0")

    def test_array_on_the_host(self, arrays, pixels):
        arrays[0] = pixels
        self.refused(arrays, "'pixels' is a ndarray: no cupy array")

    def test_alignment(self, cupy, arrays):
        launcher, launch = launcher_of()
        with pytest.raises(
            KernelArgumentError, match=r"'output' is at address 0x[0-9a-f]+, which is not a multiple of 16"
        ):
            launcher(launch, arrays[0], arrays[1][4:], COUNT, FACTOR, 0)

    @pytest.mark.parametrize("value", [2**31, -(2**31) - 1])
    def test_range(self, arrays, value):
        arrays[2] = value
        self.refused(arrays, f"'count' is {value}, outside of int32")

    def test_negative_address(self, arrays):
        arrays[0] = -8
        self.refused(arrays, "'pixels' is -8, outside of uint64")

    def test_range_of_a_float(self, arrays):
        arrays[3] = 1e39
        self.refused(arrays, r"'factor' is 1e\+39, outside of float32")

    @pytest.mark.parametrize("value", [1.0, "1", True, None, np.zeros(1, int)])
    def test_scalar_of_another_type(self, arrays, value):
        arrays[2] = value
        self.refused(arrays, "'count' is a .*; it must be a number for int32")

    def test_tensor_as_scalar(self, torch, arrays):
        arrays[2] = torch.tensor(COUNT, device="cuda")
        self.refused(arrays, "'count' is a Tensor; it must be a number for int32")

    def test_no_pointer(self, arrays):
        arrays[0] = None
        self.refused(arrays, "'pixels' is a NoneType")

    def test_no_stream(self, arrays):
        self.refused(arrays, "'side' is not a stream", stream="side")


def test_load_is_cached(cupy):
    variant = SCALE.variant(T="float16", THREADS=64)
    assert load(variant) is load(SCALE.variant(THREADS=64, T="float16"))
    assert load(variant) is not load(SCALE.variant(T="float16", THREADS=128))


def test_kernels_without_arguments_launch(cupy, tmp_path):
    source = tmp_path / "empty.cu"
    source.write_text('extern "C" __global__ void test_empty() {}\n', encoding="utf-8")
    kernel = Kernel("test_empty", source, (), lambda: LaunchConfig((1, 1, 1), (32, 1, 1)))
    launcher = load(kernel.variant())
    launcher(launcher.launch_config())
    cupy.cuda.get_current_stream().synchronize()


def test_resources_are_the_drivers(cupy):
    launcher = load(SCALE.variant(T="float16", THREADS=64))
    attributes = cupy.cuda.driver
    registers = attributes.funcGetAttribute(attributes.CU_FUNC_ATTRIBUTE_NUM_REGS, launcher._function)
    shared = attributes.funcGetAttribute(attributes.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, launcher._function)
    assert (launcher.compiled.resources.registers, launcher.compiled.resources.static_smem_bytes) == (registers, shared)
