"""Launch kernels on the caller's arrays and stream, without copies, allocations or synchronisation."""

from __future__ import annotations

import ctypes
import numbers
import struct
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from convkit.cuda._array_view import READERS, pointer_reader
from convkit.cuda._compile import CompiledKernel, compile_variant, supported_capabilities
from convkit.cuda._declaration import Argument, LaunchConfig, Variant
from convkit.cuda._memory import ACTIVE
from convkit.errors import EnvironmentProblem, KernelArgumentError, KernelError

__all__ = ["Launcher", "current_stream", "load"]

_FORMATS = {"int32": "i4x", "uint32": "I4x", "int64": "q", "float32": "f4x"}
_DEFAULT_DYNAMIC_LIMIT = 48 * 1024
"""Dynamic shared memory in bytes that a kernel may use unless its limit is raised."""

_RESERVED = 1024
"""Shared memory in bytes that the driver reserves in each block."""

_loaded: dict[tuple[Variant, int], Launcher] = {}
_lock = threading.Lock()


def load(variant: Variant) -> Launcher:
    """Return the launcher of a variant for the current CUDA device; it is loaded once for each device.

    Load before a stream capture begins, because loading a module cannot be captured.

    Raises:
        EnvironmentProblem: there is no GPU, it is too old for the kernel, or cupy or NVRTC is missing.
        KernelError: the source does not compile.
    """
    if ACTIVE:
        return ACTIVE[-1].load(variant)  # type: ignore[no-any-return]
    device = _current_device()
    launcher = _loaded.get((variant, device))
    if launcher is None:
        with _lock:
            launcher = _loaded.get((variant, device))
            if launcher is None:
                launcher = _loaded[variant, device] = Launcher(variant, _compiled(variant, device), device)
    return launcher


class Launcher:
    """A variant loaded on one device. Calling it enqueues a launch on a stream; threads may share it."""

    def __init__(self, variant: Variant, compiled: CompiledKernel, device: int) -> None:
        import cupy
        from cupy.cuda import driver
        from cupy.cuda.function import Module

        self.variant, self.compiled, self.device = variant, compiled, device
        arguments = variant.kernel.arguments
        self._readers = tuple(
            _pointer(variant, argument, device) if argument.pointer else _scalar(variant, argument)
            for argument in arguments
        )
        self._layout = struct.Struct("=" + "".join("Q" if a.pointer else _FORMATS[variant.dtype(a)] for a in arguments))
        self._local = threading.local()
        self._module = Module()
        self._module.load(compiled.code)
        self._function = self._module.get_function(variant.kernel.name).ptr
        self._driver, self._cupy = driver, cupy
        self._dynamic_limit = _DEFAULT_DYNAMIC_LIMIT
        self._carveout: tuple[int, int] | None = None
        self._make_slots()

    def launch_config(self, **sizes: int) -> LaunchConfig:
        """Return the launch configuration for these sizes. Keep it where shapes are fixed: it costs microseconds.

        Raises:
            KernelArgumentError: a size is missing, or no GPU can do the launch.
        """
        return self.variant.launch_config(**sizes).check()

    def __call__(self, launch: LaunchConfig, *arguments: Any, stream: Any = None) -> None:
        """Launch on ``arguments`` in the declared order.

        A pointer is a cupy array, a torch tensor, an object with ``__cuda_array_interface__``, an `ArrayView` or an
        address. ``stream`` is an address (``cudaStream_t``) or a cupy or torch stream; None is torch's current stream
        if a tensor is among the arguments and cupy's otherwise. The caller checks shapes, strides and sizes.

        Raises:
            KernelArgumentError: an argument has the wrong type, dtype, device or alignment, or does not fit its type.
            KernelError: the driver refuses the launch.
        """
        try:
            buffer, parameters = self._local.slots
        except AttributeError:
            buffer, parameters = self._make_slots()
        if len(arguments) != len(self._readers):
            raise self._wrong_number(len(arguments))
        values = [read(value) for read, value in zip(self._readers, arguments)]  # noqa: B905 - equally long
        try:
            self._layout.pack_into(buffer, 0, *values)
        except (struct.error, OverflowError):
            raise self._out_of_range(values) from None
        if type(stream) is not int:
            stream = self._current_stream(arguments) if stream is None else _address(stream)
        shared = launch.dynamic_smem_bytes
        if shared > self._dynamic_limit:
            self._raise_dynamic_limit(shared)
        if launch.min_blocks_per_sm and self._carveout != (shared, launch.min_blocks_per_sm):
            self._set_carveout(shared, launch.min_blocks_per_sm)
        try:
            self._driver.launchKernel(self._function, *launch.grid, *launch.block, shared, stream, parameters, 0)
        except self._driver.CUDADriverError as error:
            raise KernelError(
                f"The launch of {self.variant.label} with grid {launch.grid}, block {launch.block} and {shared} "
                f"bytes of shared memory failed: {error}.",
                hint="Does the stream belong to the same device? An earlier kernel's failure may be reported here.",
            ) from error

    def _make_slots(self) -> tuple[Any, int]:
        """Return this thread's buffer for the arguments and the address of pointers into it; the driver copies both."""
        from cupy.cuda import runtime

        runtime.setDevice(runtime.getDevice())  # binds the device's context to this thread
        count = len(self._readers)
        buffer = ctypes.create_string_buffer(8 * max(count, 1))
        start = ctypes.addressof(buffer)
        pointers = (ctypes.c_void_p * max(count, 1))(*(start + 8 * index for index in range(count)))
        self._local.slots = buffer, ctypes.addressof(pointers)
        self._local.keep = pointers
        return self._local.slots[0], self._local.slots[1]

    def _current_stream(self, arguments: tuple[Any, ...]) -> int:
        """Return the address of torch's current stream if a tensor is among the arguments, else of cupy's."""
        torch = sys.modules.get("torch")
        if torch is not None and any(isinstance(value, torch.Tensor) for value in arguments):
            return _torch_stream(torch)(self.device)
        return self._cupy.cuda.get_current_stream().ptr  # type: ignore[no-any-return]

    def _wrong_number(self, count: int) -> KernelArgumentError:
        arguments = self.variant.kernel.arguments
        return KernelArgumentError(
            f"{self.variant.label} takes {len(arguments)} arguments, {count} were given.",
            hint=f"They are {', '.join(argument.name for argument in arguments)}.",
        )

    def _out_of_range(self, values: list[Any]) -> KernelArgumentError:
        for argument, value in zip(self.variant.kernel.arguments, values, strict=True):
            dtype = "uint64" if argument.pointer else self.variant.dtype(argument)
            try:
                struct.pack("=" + {"uint64": "Q", **_FORMATS}[dtype], value)
            except (struct.error, OverflowError):
                return KernelArgumentError(f"{self.variant.label}: {argument.name!r} is {value}, outside of {dtype}.")
        raise AssertionError("every value fits")

    def _raise_dynamic_limit(self, shared: int) -> None:
        attribute = self._driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        try:
            self._driver.funcSetAttribute(self._function, attribute, shared)
        except self._driver.CUDADriverError as error:
            raise KernelArgumentError(
                f"{self.variant.label} needs {shared} bytes of dynamic shared memory; device {self.device} has less.",
                hint="Use a variant with smaller tiles.",
            ) from error
        self._dynamic_limit = shared

    def _set_carveout(self, shared: int, blocks: int) -> None:
        """Request as much shared memory as so many blocks need; the rest is L1 cache. The driver may ignore it."""
        resources = self.compiled.resources
        static = resources.static_smem_bytes if resources else 0
        needed = blocks * (shared + static + _RESERVED)
        most = self._cupy.cuda.Device(self.device).attributes["MaxSharedMemoryPerMultiprocessor"]
        attribute = self._driver.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT
        self._driver.funcSetAttribute(self._function, attribute, min(100, -(-100 * needed // most)))
        self._carveout = shared, blocks


def _pointer(variant: Variant, argument: Argument, device: int) -> Callable[[Any], int]:
    """Return the function that checks a pointer argument and returns its address."""
    label, name, dtype = variant.label, argument.name, variant.dtype(argument)
    mask = variant.alignment(argument) - 1
    names = (dtype, "uint16") if dtype == "bfloat16" else (dtype,)  # NumPy and cupy lack bfloat16

    def read(value: Any) -> int:
        kind = type(value)
        if kind is int:
            address: int = value
        else:
            address, found, place = (READERS.get(kind) or pointer_reader(kind, name))(value)
            if found not in names:
                raise error(f"has dtype {found}, not {dtype}")
            if place != device and address:
                raise error(f"is {_place(place)}, not {_place(device)}")
        if address & mask:
            raise error(f"is at address {address:#x}, which is not a multiple of {mask + 1}")
        return address

    def error(what: str) -> KernelArgumentError:
        return KernelArgumentError(f"{label}: {name!r} {what}.")

    return read


def _place(device: int) -> str:
    return f"on device {device}" if device >= 0 else "in host memory"


def _scalar(variant: Variant, argument: Argument) -> Callable[[Any], Any]:
    """Return the function that checks a scalar argument; it refuses arrays, because reading them would synchronise."""
    real = argument.dtype == "float32"
    exact: tuple[type, ...] = (float, int) if real else (int,)
    general: Any = numbers.Real if real else numbers.Integral
    convert: Callable[[Any], Any] = float if real else int

    def read(value: Any) -> Any:
        kind = type(value)
        if kind in exact:
            return value
        if issubclass(kind, general) and kind is not bool:
            return convert(value)
        raise KernelArgumentError(
            f"{variant.label}: {argument.name!r} is a {type(value).__name__}; it must be a number for {argument.dtype}."
        )

    return read


def current_stream(array: Any) -> int | None:
    """Return the address of the stream that torch or cupy uses in this thread for an array of theirs, else None.

    Work on the array that was enqueued in the usual way is in that stream.
    """
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    if torch is not None and isinstance(array, torch.Tensor):
        return _torch_stream(torch)(array.device.index)
    if cupy is not None and isinstance(array, cupy.ndarray):
        with array.device:
            return int(cupy.cuda.get_current_stream().ptr)
    return None


@lru_cache(maxsize=1)
def _torch_stream(torch: Any) -> Callable[[int], int]:
    """Return the function that returns torch's current stream on a device; the private one is several times faster."""
    fast: Callable[[int], int] | None = getattr(torch._C, "_cuda_getCurrentRawStream", None)
    return fast or (lambda device: torch.cuda.current_stream(device).cuda_stream)


def _address(stream: Any) -> int:
    """Return the address of a stream of cupy or torch."""
    for name in ("cuda_stream", "ptr"):
        address = getattr(stream, name, None)
        if isinstance(address, int):
            return address
    raise KernelArgumentError(
        f"{stream!r} is not a stream.", hint="Give the address of a cudaStream_t, a cupy stream or a torch stream."
    )


def _current_device() -> int:
    try:
        from cupy.cuda import runtime

        return int(runtime.getDevice())
    except (ImportError, OSError, RuntimeError) as error:
        raise EnvironmentProblem(
            f"CUDA kernels cannot run here: {error}.",
            hint='They need an NVIDIA GPU with its driver, and pip install "convkit[cuda]".',
        ) from error


def _compiled(variant: Variant, device: int) -> CompiledKernel:
    """Return the code for a device: its own cubin, or PTX for a device that is newer than NVRTC."""
    import cupy

    kernel, capability = variant.kernel, int(cupy.cuda.Device(device).compute_capability)
    if not kernel.runs_on(capability):
        raise EnvironmentProblem(f"{variant.label} is for {kernel.capabilities}; device {device} has {capability}.")
    known = [each for each in supported_capabilities() if each <= capability]
    if capability in known or not known or kernel.arch_specific:
        return compile_variant(variant, kernel.target(capability, "cubin"), "cubin")
    return compile_variant(variant, kernel.target(known[-1], "ptx"), "ptx")
