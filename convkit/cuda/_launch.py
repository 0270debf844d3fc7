"""Launches on the caller's arrays and stream: nothing is copied, allocated or waited for."""

from __future__ import annotations

import ctypes
import numbers
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any

from convkit.cuda._array_view import READERS, pointer_reader
from convkit.cuda._compile import Image, compile_variant, supported_capabilities
from convkit.cuda._declaration import Argument, Launch, Variant
from convkit.errors import EnvironmentProblem, KernelArgumentError, KernelError

__all__ = ["Launcher", "load"]

_FORMATS = {"int32": "i4x", "uint32": "I4x", "int64": "q", "float32": "f4x"}
_WITHOUT_ASKING = 48 * 1024
"""Dynamic shared memory, in bytes, that a kernel gets without raising its limit."""

_RESERVED = 1024
"""Shared memory, in bytes, that the driver takes for itself in each block."""

_loaded: dict[tuple[Variant, int], Launcher] = {}
_lock = threading.Lock()


def load(variant: Variant) -> Launcher:
    """Return the launcher of a variant for the current CUDA device; it is loaded once for each device.

    Load before a stream capture begins: the module is loaded here and not at the first launch.

    Raises:
        EnvironmentProblem: there is no GPU, it is too old for the kernel, or cupy or NVRTC is missing.
        KernelError: the source does not compile.
    """
    device = _current_device()
    launcher = _loaded.get((variant, device))
    if launcher is None:
        with _lock:
            launcher = _loaded.get((variant, device))
            if launcher is None:
                launcher = _loaded[variant, device] = Launcher(variant, _image(variant, device), device)
    return launcher


class Launcher:
    """A variant in the memory of one device. Calling it puts a launch into a stream; threads may share it."""

    def __init__(self, variant: Variant, image: Image, device: int) -> None:
        import cupy
        from cupy.cuda import driver
        from cupy.cuda.function import Module

        self.variant, self.image, self.device = variant, image, device
        arguments = variant.kernel.arguments
        self._readers = tuple(
            _pointer(variant, argument, device) if argument.pointer else _scalar(variant, argument)
            for argument in arguments
        )
        self._layout = struct.Struct("=" + "".join("Q" if a.pointer else _FORMATS[variant.dtype(a)] for a in arguments))
        self._local = threading.local()
        self._module = Module()
        self._module.load(image.code)
        self._function = self._module.get_function(variant.kernel.name).ptr
        self._driver, self._cupy = driver, cupy
        self._torch_stream: Callable[[int], int] | None = None
        self._shared_limit = _WITHOUT_ASKING
        self._division: tuple[int, int] | None = None
        self._make_slots()

    def geometry(self, **sizes: int) -> Launch:
        """Return the launch for these sizes. Keep it where shapes are fixed: working it out costs microseconds.

        Raises:
            KernelArgumentError: a size is missing, or no GPU can do the launch.
        """
        return self.variant.geometry(**sizes).check()

    def __call__(self, launch: Launch, *arguments: Any, stream: Any = None) -> None:
        """Launch on ``arguments`` in the declared order.

        A pointer is a cupy array, a torch tensor, an object with ``__cuda_array_interface__`` or an address. ``stream``
        is an address (``cudaStream_t``) or a cupy or torch stream; None is torch's current one if a tensor is among the
        arguments and cupy's current one otherwise. Shapes, strides and the end of the memory are the caller's business.

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
        if launch.shared > self._shared_limit:
            self._raise_shared(launch.shared)
        if launch.resident and self._division != (launch.shared, launch.resident):
            self._divide(launch.shared, launch.resident)
        try:
            self._driver.launchKernel(self._function, *launch.grid, *launch.block, launch.shared, stream, parameters, 0)
        except self._driver.CUDADriverError as error:
            raise KernelError(
                f"The launch of {self.variant.label} with grid {launch.grid}, block {launch.block} and {launch.shared} "
                f"bytes of shared memory failed: {error}.",
                hint="Does the stream belong to the same device? An earlier kernel's failure shows up here, too.",
            ) from error

    def _make_slots(self) -> tuple[Any, int]:
        """Make the memory of this thread for the arguments of a launch; the driver copies it at every launch."""
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
            if self._torch_stream is None:
                self._torch_stream = _torch_stream(torch)
            return self._torch_stream(self.device)
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

    def _raise_shared(self, shared: int) -> None:
        attribute = self._driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        try:
            self._driver.funcSetAttribute(self._function, attribute, shared)
        except self._driver.CUDADriverError as error:
            raise KernelArgumentError(
                f"{self.variant.label} needs {shared} bytes of dynamic shared memory; device {self.device} gives less.",
                hint="Take a variant with smaller tiles.",
            ) from error
        self._shared_limit = shared

    def _divide(self, shared: int, resident: int) -> None:
        """Ask for no more shared memory than so many blocks need; what is left is L1 cache. It is a wish only."""
        static = self.image.resources.shared if self.image.resources else 0
        needed = resident * (shared + static + _RESERVED)
        most = self._cupy.cuda.Device(self.device).attributes["MaxSharedMemoryPerMultiprocessor"]
        attribute = self._driver.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT
        self._driver.funcSetAttribute(self._function, attribute, min(100, -(-100 * needed // most)))
        self._division = shared, resident


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
    """Return what reads a scalar argument; arrays and tensors are refused, because reading them would wait."""
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


def _torch_stream(torch: Any) -> Callable[[int], int]:
    """Return what gives the address of torch's current stream on a device; the way of its compiler is the fast one."""
    fast: Callable[[int], int] | None = getattr(torch._C, "_cuda_getCurrentRawStream", None)
    return fast or (lambda device: torch.cuda.current_stream(device).cuda_stream)


def _address(stream: Any) -> int:
    """Return the address of a stream of cupy or torch."""
    for name in ("cuda_stream", "ptr"):
        address = getattr(stream, name, None)
        if isinstance(address, int):
            return address
    raise KernelArgumentError(
        f"{stream!r} is no stream.", hint="Give the address of a cudaStream_t, a cupy stream or a torch stream."
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


def _image(variant: Variant, device: int) -> Image:
    """Return the code for a device: its own cubin, or PTX for a device that NVRTC does not know yet."""
    import cupy

    kernel, capability = variant.kernel, int(cupy.cuda.Device(device).compute_capability)
    if not kernel.runs_on(capability):
        only = " alone" if kernel.specific else " or newer"
        raise EnvironmentProblem(
            f"{variant.label} is for compute capability {kernel.least}{only}; device {device} has {capability}."
        )
    known = [each for each in supported_capabilities() if each <= capability]
    if capability in known or not known or kernel.specific:
        return compile_variant(variant, kernel.target(capability, "cubin"), "cubin")
    return compile_variant(variant, kernel.target(known[-1], "ptx"), "ptx")
