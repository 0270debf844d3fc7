"""The GPU side of TensorRT's sessions on a genuine GPU of any kind: memory, copies, DLPack, CUDA graphs."""

from __future__ import annotations

import numpy as np
import pytest

from convkit.backends.tensorrt._gpu import Gpu
from convkit.cuda import ArrayView

pytestmark = pytest.mark.gpu


@pytest.fixture
def gpu() -> Gpu:
    return Gpu("cuda")


def test_it_names_itself(gpu):
    assert gpu.name
    assert gpu.driver.isdigit()
    major, minor = gpu.compute_capability.split(".")
    assert int(major) >= 7
    assert int(minor) >= 0


def test_values_go_there_and_back_converted_to_the_type_of_the_array(gpu):
    stream = gpu.new_stream()
    values = np.arange(12.0).reshape(3, 4)[:, ::-1]
    for dtype in ("float32", "float16", "int64", "bool"):
        array = gpu.empty((3, 4), dtype, int(stream.ptr))
        gpu.upload(array, values, int(stream.ptr))
        np.testing.assert_array_equal(gpu.download(array, int(stream.ptr)), values.astype(dtype))
        view = ArrayView.of("array", array)
        assert (view.dtype, view.device, view.contiguous, view.address % 256) == (dtype, gpu.index, True, 0)


def test_an_array_of_another_library_is_taken_where_it_lies(gpu):
    import torch

    tensor = torch.arange(6, dtype=torch.float32, device="cuda")
    stream = gpu.new_stream()
    array = gpu.adopt(tensor, int(stream.ptr))
    assert ArrayView.of("array", array).address == tensor.data_ptr()


def test_free_memory_falls_by_what_is_allocated(gpu):
    import cupy

    stream = gpu.new_stream()
    before = gpu.free_memory(int(stream.ptr))
    memory = cupy.cuda.Memory(2**28)
    assert before - gpu.free_memory(int(stream.ptr)) >= 2**28
    del memory


def test_times_are_those_of_the_gpu(gpu):
    import cupy

    stream = gpu.new_stream()
    small, large = (gpu.empty((size,), "float32", int(stream.ptr)) for size in (2**10, 2**28))
    for array in (small, large):
        gpu.upload(array, np.zeros(array.shape), int(stream.ptr))
    fast, slow = (
        gpu.times(lambda array=array: cupy.add(array, 1, out=array), 20, int(stream.ptr)) for array in (small, large)
    )
    assert len(fast) == len(slow) == 20
    assert 0 < min(fast) < sorted(slow)[10]
    assert 0.1 < sorted(slow)[10] < 1000  # 2 GiB are moved


def test_a_captured_graph_repeats_the_work_on_the_same_memory(gpu):
    import cupy

    stream = gpu.new_stream()
    array, twice = (gpu.empty((4,), "float32", int(stream.ptr)) for _ in range(2))
    gpu.upload(array, np.ones(4), int(stream.ptr))
    cupy.multiply(array, 2, out=twice)  # the kernel is compiled outside of the capture
    replay = gpu.capture(lambda: cupy.multiply(array, 2, out=twice), int(stream.ptr))
    for value in (3.0, 5.0):
        gpu.upload(array, np.full(4, value), int(stream.ptr))
        replay()
        np.testing.assert_array_equal(gpu.download(twice, int(stream.ptr)), np.full(4, 2 * value, np.float32))


def test_after_an_error_in_a_capture_the_stream_is_usable(gpu):
    stream = gpu.new_stream()

    def body() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        gpu.capture(body, int(stream.ptr))
    array = gpu.empty((2,), "float32", int(stream.ptr))
    gpu.upload(array, np.ones(2), int(stream.ptr))
    np.testing.assert_array_equal(gpu.download(array, int(stream.ptr)), [1, 1])
