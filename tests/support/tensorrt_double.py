"""A stand-in of TensorRT's runtime and of a GPU, made of NumPy: nothing of NVIDIA's computes here.

Its classes have the names and arguments of the genuine ones (`signature_faults` compares them) and enforce what NVIDIA
documents: shapes within the profile, addresses of all tensors, one thread a context, nothing captured in the first run
or with a context that changed afterwards. The engine has an input ``x`` [n, m] and the outputs ``twice`` = 2x [n, m]
and ``sums`` = the sums of the rows [n].
"""

from __future__ import annotations

import ctypes
import inspect
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

ALIGNMENT = 256


class FakeArray:
    """Memory of the fake GPU, as a library of arrays would show it."""

    def __init__(self, values: np.ndarray, device: int = 0, owner: Any = None) -> None:
        self.values, self.owner = values, owner
        self.device = SimpleNamespace(id=device)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.values.shape, "typestr": self.values.dtype.str, "version": 3,
            "data": (self.values.ctypes.data, False), "strides": self.values.strides,
        }  # fmt: skip


class OnlyDLPack:
    """An array of a library that shows it by DLPack alone."""

    def __init__(self, array: FakeArray) -> None:
        self.array = array

    def __dlpack__(self) -> Any:
        return self.array


class FakeGpu:
    """Host memory in the place of a GPU's; `capture` records what contexts enqueue and does not run it."""

    index, name, compute_capability, driver = 0, "Pretend GPU", "8.6", "13000"

    @property
    def target(self) -> str:
        return "sm" + self.compute_capability.replace(".", "")

    def __init__(self) -> None:
        self.recording: list[Callable[[], None]] | None = None
        self.captures = 0

    @contextmanager
    def active(self) -> Iterator[None]:
        yield

    def new_stream(self) -> Any:
        return SimpleNamespace(ptr=91)

    def empty(self, shape: Sequence[int], dtype: str, stream: int) -> FakeArray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = np.full(size + ALIGNMENT, 0xA5, np.uint8)
        start = -memory.ctypes.data % ALIGNMENT
        return FakeArray(memory[start : start + size].view(dtype).reshape(tuple(shape)), owner=memory)

    def adopt(self, value: Any, stream: int) -> FakeArray:
        array: FakeArray = value.__dlpack__()
        return array

    def upload(self, array: FakeArray, values: np.ndarray, stream: int) -> None:
        array.values[:] = values

    def download(self, array: FakeArray, stream: int) -> np.ndarray:
        return array.values.copy()

    def capture(self, body: Callable[[], None], stream: int) -> Callable[[], None]:
        self.captures += 1
        self.recording = recorded = []
        try:
            body()
        finally:
            self.recording = None
        return lambda: [step() for step in recorded] and None

    def free_memory(self, stream: int) -> int:
        return World.now.free_bytes

    def times(self, body: Callable[[], None], count: int, stream: int) -> list[float]:
        for _ in range(count):
            body()
        return [World.now.milliseconds] * count


class FakeRuntime:
    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> FakeEngine | None:
        if b"refused" in serialized_engine:
            self.logger.log(self.logger.Severity.ERROR, "IRuntime: the plan is\n refused")
            return None
        return World.now.engine


class FakeEngine:
    num_io_tensors = 3
    device_memory_size_v2 = 4096

    def __init__(self, world: World) -> None:
        self.world = world
        self.num_optimization_profiles = len(world.profiles)

    def get_tensor_name(self, index: int) -> str:
        return ("twice", "x", "sums")[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(self.world.api.DataType, self.world.dtypes.get(name, "FLOAT"))

    def get_tensor_location(self, name: str) -> Any:
        return getattr(self.world.api.TensorLocation, self.world.locations.get(name, "DEVICE"))

    def get_tensor_mode(self, name: str) -> Any:
        return self.world.api.TensorIOMode.INPUT if name == "x" else self.world.api.TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1,) if name == "sums" else (-1, -1)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert name == "x"
        return list(self.world.profiles[profile_index])

    def create_runtime_config(self) -> Any:
        return FakeConfig() if self.world.rtx else FakePlainConfig()

    def create_execution_context(self, runtime_config: Any = None) -> FakeContext | None:
        if self.world.contexts_left == 0:
            self.world.logger.log(self.world.logger.Severity.ERROR, "out of memory")
            return None
        self.world.contexts_left -= 1
        kind = FakeContext if self.world.rtx else FakePlainContext
        context = kind(self.world, runtime_config)
        self.world.contexts.append(context)
        return context


class FakePlainConfig:
    __slots__ = ("strategy",)

    def set_execution_context_allocation_strategy(self, strategy: Any = None) -> None:
        self.strategy = strategy


class FakeConfig(FakePlainConfig):
    __slots__ = ("cache", "cuda_graph_strategy", "dynamic_shapes_kernel_specialization_strategy")

    def create_runtime_cache(self) -> FakeCache:
        return FakeCache()

    def set_runtime_cache(self, cache: Any = None) -> bool:
        self.cache = cache
        return True


class FakeCache:
    def __init__(self) -> None:
        self.content = b""

    def deserialize(self, blob: bytes) -> bool:
        self.content = blob if blob.startswith(b"kernels") else b""
        return bool(self.content)

    def serialize(self) -> bytes:
        return self.content or b"kernels compiled here"


class FakePlainContext:
    def __init__(self, world: World, config: Any) -> None:
        self.world, self.config = world, config
        self.active_optimization_profile = 0
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}
        self.scratch = (0, 0)
        self.shapes_set = self.runs = 0
        self.streams: list[int] = []
        self.busy = threading.Lock()

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.active_optimization_profile = profile_index
        self.shape = ()
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        self.scratch = memory, size

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "x"
        low, _, high = self.world.profiles[self.active_optimization_profile]
        self.shapes_set += 1
        self.world.free_bytes -= self.world.leak
        if not all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True)):
            return False
        self.shape = tuple(shape)
        return True

    def infer_shapes(self) -> list[str]:
        return self.world.unspecified if self.shape else ["x"]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert self.shape
        found = self.shape[:1] if name == "sums" else self.shape
        return (-1, *found[1:]) if name in self.world.data_dependent else found

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert memory % ALIGNMENT == 0
        self.addresses[name] = memory
        return memory != 0

    def execute_async_v3(self, stream_handle: int) -> bool:
        if self.world.failing:
            self.world.logger.log(self.world.logger.Severity.ERROR, "enqueueV3: Error Code 1: Cask (no kernel)")
            return False
        assert self.shape, "no shape was set"
        assert self.addresses.keys() == {"x", "twice", "sums"}
        assert self.scratch[0]
        assert self.scratch[1] >= FakeEngine.device_memory_size_v2
        self.streams.append(stream_handle)
        state = self.shape, dict(self.addresses)
        recording = self.world.gpu.recording
        if recording is None:
            self.runs += 1
            self._compute()
            return True
        if not self.runs or not self.world.capturable:
            self.world.logger.log(self.world.logger.Severity.ERROR, "operation not permitted when stream is capturing")
            return False

        def replay() -> None:
            assert state == (self.shape, self.addresses), "the context of a captured graph was used otherwise"
            self._compute()

        recording.append(replay)
        return True

    def _compute(self) -> None:
        assert self.busy.acquire(blocking=False), "two threads use one context"
        try:
            x = self._array("x", self.shape)
            self.world.pause()
            with np.errstate(invalid="ignore"):
                self._array("twice", self.shape)[:] = self.world.factor * x
            self._array("sums", self.shape[:1])[:] = x.sum(1)
        finally:
            self.busy.release()

    def _array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        memory = (ctypes.c_float * int(np.prod(shape))).from_address(self.addresses[name])
        return np.frombuffer(memory, np.float32).reshape(shape)


class FakeContext(FakePlainContext):
    def is_stream_capturable(self, stream: int) -> bool:
        return self.world.capturable


class World:
    """What the stand-in has and does; ``api`` is the module that convkit sees."""

    now: World

    def __init__(self, genuine: Any, logger: Any, *, rtx: bool = True) -> None:
        World.now = self
        self.rtx, self.logger, self.gpu = rtx, logger, FakeGpu()
        self.profiles = [((1, 1), (2, 4), (4, 8))]
        self.dtypes: dict[str, str] = {}
        self.locations: dict[str, str] = {}
        self.unspecified: list[str] = []
        self.data_dependent: set[str] = set()
        self.capturable, self.failing, self.contexts_left = True, False, 99
        self.factor: float = 2
        self.free_bytes, self.leak, self.milliseconds = 2**33, 0, 0.25
        self.pause: Callable[[], None] = lambda: None
        self.contexts: list[Any] = []
        names = ["DataType", "TensorLocation", "TensorIOMode", "ExecutionContextAllocationStrategy"]
        if rtx:
            names += ["CudaGraphStrategy", "DynamicShapesKernelSpecializationStrategy", "IRuntimeCache"]
        self.api = SimpleNamespace(Runtime=FakeRuntime, **{name: getattr(genuine, name) for name in names})

    @property
    def engine(self) -> FakeEngine:
        return FakeEngine(self)


PAIRS = {
    "Runtime": FakeRuntime, "ICudaEngine": FakeEngine, "IExecutionContext": FakeContext, "IRuntimeConfig": FakeConfig,
    "IRuntimeCache": FakeCache,
}  # fmt: skip


def signature_faults(api: Any, used: set[str]) -> set[str]:
    """Return what convkit uses and the stand-in lacks, or has with other arguments than the genuine class."""
    faults = set()
    for name in used:
        owner, _, attribute = name.rpartition(".")
        if owner not in PAIRS:
            continue
        genuine = inspect.getattr_static(getattr(api, owner), attribute, None)
        mine = getattr(PAIRS[owner], attribute, None)
        if isinstance(genuine, property):
            # set by __init__ where it is no attribute of the class
            if callable(mine):
                faults.add(name)
        elif mine is None or [*inspect.signature(mine).parameters][1:] not in _arguments(genuine, attribute):
            faults.add(name)
    return faults


def _arguments(method: Any, name: str) -> list[list[str]]:
    """Return the names of the arguments of each overload, from the text that the bindings give."""
    found = re.findall(rf"^(?:\d+\. )?{name}\(self: [^,()]+((?:, \w+: .*?)?)\) -> ", method.__doc__, flags=re.MULTILINE)
    return [re.findall(r", (\w+): ", arguments) for arguments in found]
