"""A device made of host memory in the place of the GPU."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from support.sample_kernels import SCALE

from convkit.cuda import ArrayView, allocate, clear, load, upload
from convkit.errors import EnvironmentProblem, KernelArgumentError, KernelError
from convkit.testing.cuda_host import host_device

SCALED = SCALE.variant(T="float32", THREADS=32)


def scale(pixels: object, output: object, count: int = 100) -> None:
    launcher = load(SCALED)
    launcher(launcher.launch_config(count=count), pixels, output, count, 2.0, 0, stream=None)


def test_kernels_run_on_its_arrays_as_on_a_gpu() -> None:
    pixels = np.arange(100, dtype=np.uint8)
    with host_device() as gpu:
        source, target = upload(pixels), allocate((100,), "float32")
        scale(source, target)
        np.testing.assert_array_equal(target.values, 2.0 * pixels)
        view, other = ArrayView.of("output", target), gpu.allocate((100,), "float32")
        scale(ArrayView.of("pixels", source).address, ArrayView.of("output", other))
        np.testing.assert_array_equal(other.values, target.values)
        assert view.shape == (100,)
        assert view.dtype == "float32"
        assert view.address % 256 == 0


def test_memory_is_nan_until_it_is_written() -> None:
    with host_device() as gpu:
        array = allocate((3, 5), "float32")
        assert np.isnan(array.values).all()
        assert clear(array, gpu.stream, 4)
        assert np.isnan(array.values).sum() == 11
        clear(array, gpu.stream)
        assert not array.values.any()


def test_channels_last_arrays_look_as_engines_make_them() -> None:
    values = np.random.default_rng(0).random((2, 3, 4, 5), np.float32)
    with host_device() as gpu:
        array = gpu.upload(values, channels_last=True)
        view = ArrayView.of("images", array)
        np.testing.assert_array_equal(array.values, values)
    assert view.shape == values.shape
    assert view.channels_last
    assert not view.contiguous


def test_a_kernel_that_leaves_an_array_is_an_error() -> None:
    with host_device(), pytest.raises(KernelError, match=r"(?s)failed on the host"):
        scale(upload(np.zeros(100, np.uint8)), allocate((90,), "float32"))


def test_two_arguments_in_the_same_memory_are_one_memory() -> None:
    with host_device():
        memory = upload(np.arange(64, dtype=np.float32))
        launcher = load(SCALE.variant(T="float32", THREADS=16))
        view = ArrayView.of("memory", memory)
        bytes_of = ArrayView((256,), (1,), "uint8", view.address, view.device)
        launcher(launcher.launch_config(count=64), bytes_of, view, 64, 1.0, 0)
        assert memory.values[63] != 63, "the first bytes, as numbers, took the place of the floats"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda a, b: (a, b, 100, 2.0), "takes 5 arguments, 4 were given"),
        (lambda a, b: (b, a, 100, 2.0, 0), "'pixels' has dtype float32, not uint8"),
        (lambda a, b: (4096, b, 100, 2.0, 0), "'pixels' is at 0x1000, which is not on the device"),
        (lambda a, b: (a, ArrayView.of("b", b).address + 2, 100, 2.0, 0), "not a multiple of"),
        (lambda a, b: (np.zeros(100, np.uint8), b, 100, 2.0, 0), "'pixels' is a ndarray"),
        (lambda a, b: (a, b, "many", 2.0, 0), "'count'"),
    ],
)
def test_arguments_that_a_gpu_would_refuse(arguments: object, message: str) -> None:
    with host_device():
        given = arguments(upload(np.zeros(100, np.uint8)), allocate((100,), "float32"))  # type: ignore[operator]
        launcher = load(SCALED)
        with pytest.raises(KernelArgumentError, match=message):
            launcher(launcher.launch_config(count=100), *given)


def test_cupy_is_out_of_reach_until_the_end_and_so_is_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = pytest.importorskip("cupy")
    with host_device():
        with pytest.raises(ImportError, match="cupy"):
            import cupy as _  # noqa: F401
        with pytest.raises(ImportError, match="cupy"):
            from cupy.cuda import runtime  # noqa: F401
        loaded = load(SCALED)
    assert sys.modules["cupy"] is cupy
    broken = {"getDevice": lambda: (_ for _ in ()).throw(RuntimeError("no driver"))}
    monkeypatch.setattr(cupy.cuda, "runtime", type("Runtime", (), broken))
    with pytest.raises(EnvironmentProblem):
        load(SCALED)
    assert loaded.variant == SCALED
