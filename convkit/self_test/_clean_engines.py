"""Clean variants of the engine: ONNX Runtime with other settings, PyTorch in other layouts, more exact arithmetic."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit.backends import Session
from convkit.errors import ConvkitError
from convkit.self_test._clean import NotApplicableError, Variant
from convkit.self_test._subject import Subject

if TYPE_CHECKING:
    from convkit.self_test._judge import Judge

__all__ = ["ENGINE_VARIANTS"]

GROUP = "engines"
Configure = Callable[[Any, Any], None]
"""Sets the session options that it gets; the first argument is the module ``onnxruntime``."""


class _OnnxRuntime(Session):
    """ONNX Runtime on the CPU with settings of its own; ``bound`` passes arrays by I/O binding."""

    def __init__(self, path: Path, configure: Configure, *, bound: bool = False) -> None:
        from convkit._onnxruntime import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        configure(onnxruntime, options)
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]
        self._bound = bound

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return every output by name."""
        if not self._bound:
            return dict(zip(self._names, self._session.run(self._names, dict(inputs)), strict=True))
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(value))
        for name in self._names:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        return dict(zip(self._names, binding.copy_outputs_to_cpu(), strict=True))


def _onnxruntime(name: str, configure: Configure = lambda module, options: None, *, bound: bool = False) -> Variant:
    def make(judge: Judge) -> Subject:
        from convkit._onnxruntime import ONNXRUNTIME_ERRORS

        _check_fit(judge)
        try:
            return Subject(session=_OnnxRuntime(judge.artifact.model, configure, bound=bound))
        except ONNXRUNTIME_ERRORS as error:
            raise NotApplicableError(f"ONNX Runtime: {str(error).splitlines()[0]}") from error

    return Variant(f"ONNX Runtime, {name}", GROUP, make)


def _check_fit(judge: Judge) -> None:
    if not judge.onnxruntime_fits:
        raise NotApplicableError("ONNX Runtime misses the limits itself, so it proves nothing of this artifact")


def _threads(count: int) -> Configure:
    def configure(module: Any, options: Any) -> None:
        options.intra_op_num_threads = count

    return configure


def _level(name: str) -> Configure:
    def configure(module: Any, options: Any) -> None:
        options.graph_optimization_level = getattr(module.GraphOptimizationLevel, name)

    return configure


def _parallel(module: Any, options: Any) -> None:
    options.execution_mode = module.ExecutionMode.ORT_PARALLEL
    options.inter_op_num_threads = 2


def _by_priority(module: Any, options: Any) -> None:
    options.execution_order = module.ExecutionOrder.PRIORITY_BASED


def _flag(name: str, value: Any) -> Configure:
    return lambda module, options: setattr(options, name, value)


def _entry(key: str, value: str) -> Configure:
    return lambda module, options: options.add_session_config_entry(key, value)


def _rewritten(level: str) -> Variant:
    """Return the variant of a graph that ONNX Runtime's optimiser wrote, run without it."""

    def make(judge: Judge) -> Subject:
        from convkit._onnxruntime import ONNXRUNTIME_ERRORS, onnxruntime

        _check_fit(judge)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "optimised.onnx"

            def write(module: Any, options: Any) -> None:
                _level(level)(module, options)
                options.optimized_model_filepath = str(path)

            try:
                _OnnxRuntime(judge.artifact.model, write)
                return Subject(session=_OnnxRuntime(path, _level("ORT_DISABLE_ALL")))
            except ONNXRUNTIME_ERRORS as error:
                raise NotApplicableError(f"ONNX Runtime {onnxruntime.__version__}: {error}".splitlines()[0]) from error

    return Variant(
        f"ONNX Runtime, graph written by its optimiser ({level.removeprefix('ORT_ENABLE_').lower()})", GROUP, make
    )


def _torch(
    name: str,
    precision: str | None = None,
    *,
    channels_last: bool | None = None,
    settings: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Variant:
    def make(judge: Judge) -> Subject:
        if not importlib.util.find_spec("torch"):
            raise NotApplicableError("PyTorch is not installed")
        if precision and judge.in_16_bits:
            raise NotApplicableError("the graph rounds to 16 bits, which is what was proved")
        from convkit.backends.torch import session_in

        try:
            session = session_in(judge.artifact.model, precision, channels_last=channels_last)
            session.run(judge.golden.samples.feed(judge.cases[0]))
        except ConvkitError as error:
            raise NotApplicableError(f"{error.message}") from error
        return Subject(session=session, settings=settings)

    return Variant(f"PyTorch, {name}", GROUP, make)


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _without_onednn() -> Iterator[None]:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a GPU that nobody asked for
        with torch.backends.mkldnn.flags(enabled=False):
            yield


ENGINE_VARIANTS: tuple[Variant, ...] = (
    _onnxruntime("1 thread", _threads(1)),
    _onnxruntime("2 threads", _threads(2)),
    _onnxruntime("3 threads", _threads(3)),
    _onnxruntime("no optimisation", _level("ORT_DISABLE_ALL")),
    _onnxruntime("basic optimisation", _level("ORT_ENABLE_BASIC")),
    _onnxruntime("extended optimisation", _level("ORT_ENABLE_EXTENDED")),
    _onnxruntime("all optimisations", _level("ORT_ENABLE_ALL")),
    _onnxruntime("branches in parallel", _parallel),
    _onnxruntime("nodes by priority", _by_priority),
    _onnxruntime("without its memory arena", _flag("enable_cpu_mem_arena", False)),
    _onnxruntime("without memory patterns", _flag("enable_mem_pattern", False)),
    _onnxruntime("without memory reuse", _flag("enable_mem_reuse", False)),
    _onnxruntime("weights not packed", _entry("session.disable_prepacking", "1")),
    _onnxruntime("denormals as zero", _entry("session.set_denormal_as_zero", "1")),
    _onnxruntime("deterministic", _flag("use_deterministic_compute", True)),
    _onnxruntime("I/O binding", bound=True),
    _rewritten("ORT_ENABLE_BASIC"),
    _rewritten("ORT_ENABLE_EXTENDED"),
    _torch("planes"),
    _torch("channels last", channels_last=True),
    _torch("1 thread", settings=lambda: _torch_threads(1)),
    _torch("2 threads", settings=lambda: _torch_threads(2)),
    _torch("without oneDNN", settings=_without_onednn),
    _torch("float64, then rounded", "float64"),
)
"""Other ways to run the graph of an artifact."""
