"""TensorRT's runtime in this process: an engine from its plan, and the contexts that run it.

Unlike the builder, which works in child processes, the runtime is used where the memory is: here.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from convkit.backends.tensorrt._bindings import load_bindings
from convkit.backends.tensorrt._flavour import Flavour
from convkit.backends.tensorrt._registrations import Registrations
from convkit.errors import ConversionError, EnvironmentProblem
from convkit.files import write_atomic

__all__ = ["Context", "EngineTensor", "NotRun", "RuntimeEngine"]

Shape = tuple[int, ...]
LOG_LINES = 5
"""Messages of the library that an error quotes at most."""
NO_DRIVER = "CUDA initialization failure"
DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "INT64": "int64", "BOOL": "bool",
    "UINT8": "uint8",
}  # fmt: skip
"""NumPy's names of the types that inputs and outputs may have."""
_loaded: dict[str, Registrations] = {}
_lock = threading.Lock()


class NotRun(EnvironmentProblem):
    """The library did not do what it was asked to; the hint quotes its last messages."""


def _plugins(flavour: Flavour, functions: Sequence[str]) -> Registrations:
    """Return the bindings in this process, loaded once (a process has one logger), with these plugins registered."""
    with _lock:
        if flavour.name not in _loaded:
            folder = tempfile.mkdtemp(prefix="convkit-tensorrt-")
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            _loaded[flavour.name] = Registrations(load_bindings(flavour, Path(folder)))
        _loaded[flavour.name].add(functions)
        return _loaded[flavour.name]


@dataclass(frozen=True)
class EngineTensor:
    """An input or output of an engine; -1 stands for a size that varies."""

    name: str
    is_input: bool
    dtype: str
    shape: Shape


class RuntimeEngine:
    """An engine on the current GPU; contexts of it may run at the same time, each in one thread at a time.

    ``cache`` is a file for the kernels that TensorRT-RTX compiles on this GPU; `save_cache` writes it. ``plugins`` are
    the functions that register the plugins whose code the plan does not contain.

    Raises:
        NotRun: the library refuses the plan.
        EnvironmentProblem: the library does not load.
        PluginError: a plugin fails.
        ConversionError: an input or output is of a type or in a place that no caller can serve.
    """

    def __init__(self, flavour: Flavour, plan: bytes, cache: Path | None = None, plugins: Sequence[str] = ()) -> None:
        self.flavour = flavour
        self._plugins = _plugins(flavour, plugins)
        self._source = self._plugins.bindings
        self._api = self._source.api
        self._runtime, self._engine = self.call("does not load the engine", flavour.remedy, lambda: self._load(plan))
        engine = self._engine
        self.tensors = tuple(self._tensor(engine.get_tensor_name(index)) for index in range(engine.num_io_tensors))
        self.profiles = tuple(self._profile(index) for index in range(engine.num_optimization_profiles))
        self._cache_file, self._cached = cache, b""
        self._cache = self._read_cache() if self.compiles else None

    @property
    def compiles(self) -> bool:
        """Whether kernels are compiled on this GPU, as TensorRT-RTX does."""
        return hasattr(self._api, "IRuntimeCache")

    @property
    def scratch(self) -> int:
        """The bytes of device memory that a context needs while it runs; contexts on one stream may share them."""
        return int(self._engine.device_memory_size_v2)

    def context(self, profile: int, scratch: int, stream: int, *, own_graphs: bool = False) -> Context:
        """Return a context for a profile, with ``scratch`` the address of its memory.

        ``own_graphs`` lets TensorRT-RTX capture CUDA graphs by itself.
        """

        def make() -> Any:
            context = self._engine.create_execution_context(self._config(own_graphs=own_graphs))
            if context is None:
                return None
            context.set_device_memory(scratch, self.scratch)
            if context.active_optimization_profile == profile:
                return context
            return context if context.set_optimization_profile_async(profile, stream) else None

        hint = "The GPU may be out of memory: use a smaller batch."
        return Context(self, self.call("makes no execution context", hint, make))

    def save_cache(self) -> None:
        """Write the compiled kernels where there are new ones; a folder that cannot be written is no error."""
        if self._cache is None or self._cache_file is None:
            return
        cache = self._cache
        found = cache.serialize()
        content = b"" if found is None else bytes(found)
        if content and content != self._cached:
            with suppress(OSError):
                write_atomic(self._cache_file, content)
                self._cached = content

    def call(self, what: str, hint: str, action: Callable[[], Any]) -> Any:
        """Return what an action of the library returns.

        Raises:
            NotRun: it returned None or False, or raised; the error quotes what the library logged meanwhile.
        PluginError: a plugin failed in it.
        """
        lines: list[str] = []

        def listen(severity: str, message: str) -> None:
            if severity in ("WARNING", "ERROR", "INTERNAL_ERROR"):
                lines.append(" ".join(message.split()))

        self._source.sinks.append(listen)
        cause: Exception | None = None
        try:
            result = action()
        except (RuntimeError, TypeError) as error:
            result, cause = None, error
            lines.append(" ".join(str(error).split()))
        finally:
            self._source.sinks.remove(listen)
        self._plugins.check()
        if result is None or result is False or any(NO_DRIVER in line for line in lines):
            log = "".join(f"\n    {line}" for line in lines[-LOG_LINES:])
            raise NotRun(
                f"{self.flavour.title} {what}.", hint=f"{hint}{' Its last messages:' if log else ''}{log}"
            ) from cause
        return result

    def _load(self, plan: bytes) -> Any:
        # Full TensorRT without a driver makes a runtime of nothing, which ends the process as soon as it is used.
        runtime = self.call("cannot start", "It needs a driver.", lambda: self._api.Runtime(self._source.logger))
        engine = runtime.deserialize_cuda_engine(plan)
        return None if engine is None else (runtime, engine)

    def _config(self, *, own_graphs: bool) -> Any:
        api, config = self._api, self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(api.ExecutionContextAllocationStrategy.USER_MANAGED)
        if self.compiles:
            graphs = api.CudaGraphStrategy
            config.cuda_graph_strategy = graphs.WHOLE_GRAPH_CAPTURE if own_graphs else graphs.DISABLED
            # LAZY changes kernels between two runs of a shape: what was proved, or captured, is not what runs then.
            kernels = api.DynamicShapesKernelSpecializationStrategy
            config.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER
            config.set_runtime_cache(self._cache)
        return config

    def _read_cache(self) -> Any:
        """Return a cache with what the file contains, if that is of this GPU, driver and version."""
        config = self._engine.create_runtime_config()
        cache = config.create_runtime_cache()
        if self._cache_file is not None:
            with suppress(OSError):
                content = self._cache_file.read_bytes()
                if content and cache.deserialize(content):
                    self._cached = content
        return cache

    def _tensor(self, name: str) -> EngineTensor:
        api, engine = self._api, self._engine
        kind = engine.get_tensor_dtype(name).name
        is_input = engine.get_tensor_mode(name) == api.TensorIOMode.INPUT
        what = f"The {'input' if is_input else 'output'} {name!r} of the engine"
        if engine.get_tensor_location(name) != api.TensorLocation.DEVICE:
            raise ConversionError(
                f"{what} is read or written by the host: it determines a shape.",
                hint="Export the model with sizes as dimensions of its tensors, not as inputs or outputs.",
            )
        if kind not in DTYPES:
            raise ConversionError(
                f"{what} is {kind}, which no array of NumPy can be.",
                hint="Convert with inputs and outputs in float32 or float16.",
            )
        return EngineTensor(name, is_input, DTYPES[kind], tuple(engine.get_tensor_shape(name)))

    def _profile(self, index: int) -> dict[str, tuple[Shape, ...]]:
        """Return the lowest, best and highest shape of each input in a profile."""
        names = [tensor.name for tensor in self.tensors if tensor.is_input]
        return {
            name: tuple(tuple(shape) for shape in self._engine.get_tensor_profile_shape(name, index)) for name in names
        }


class Context:
    """One execution of an engine at a time: shapes in, shapes out, enqueue."""

    def __init__(self, engine: RuntimeEngine, context: Any) -> None:
        self._owner, self._context = engine, context
        self._shapes: Mapping[str, Shape] = {}

    def reshape(self, shapes: Mapping[str, Shape]) -> None:
        """Set the shapes of all inputs, where they are others than before."""
        if shapes == self._shapes:
            return
        self._shapes = {}
        for name, shape in shapes.items():
            self._owner.call(
                f"does not take {name!r} in the shape {list(shape)}",
                "Build an engine whose range of shapes contains it.",
                partial(self._context.set_input_shape, name, tuple(shape)),
            )
        missing = self._owner.call("cannot infer shapes", "", self._context.infer_shapes)
        if missing:
            raise ConversionError(
                f"The engine needs more than the shapes of its inputs: {', '.join(missing)}.",
                hint="Export the model with sizes as dimensions of its tensors.",
            )
        self._shapes = dict(shapes)

    def output_shape(self, name: str) -> Shape:
        """Return the shape of an output for the shapes of the inputs.

        Raises:
            ConversionError: it depends on the values of the inputs.
        """
        shape = tuple(self._context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise ConversionError(
                f"The shape of the output {name!r}, {list(shape)}, depends on the values of the inputs.",
                hint="Use an output form of fixed shape, such as the best K results with their number.",
            )
        return shape

    def enqueue(self, addresses: Mapping[str, int], stream: int) -> None:
        """Enqueue one execution on a stream, with the addresses of all inputs and outputs."""
        hint = "`convkit doctor` shows GPU, driver and versions."

        def run() -> bool:
            set_all = [self._context.set_tensor_address(name, address) for name, address in addresses.items()]
            return all(set_all) and bool(self._context.execute_async_v3(stream))

        self._owner.call("does not run the engine", hint, run)

    def capturable(self, stream: int) -> bool:
        """Return whether the execution can be captured on a stream, as far as the library says beforehand."""
        return not self._owner.compiles or bool(self._context.is_stream_capturable(stream))
