"""Sessions on a stand-in of the runtime whose names and arguments are those of NVIDIA's; no engine is run here."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.device_pipeline import NumpyDevice
from support.tensorrt_double import FakeArray, OnlyDLPack, World, signature_faults
from support.tensorrt_names import RUNTIME

from convkit.backends.tensorrt import FLAVOURS, _bindings, _runtime
from convkit.backends.tensorrt._registrations import Registrations
from convkit.backends.tensorrt._runtime import RuntimeEngine
from convkit.backends.tensorrt._session import KEPT, TensorRTOnDevice, TensorRTSession
from convkit.errors import ConversionError, EnvironmentProblem, KernelArgumentError
from convkit.model import Dim, ModelSpec, TensorSpec
from convkit.processing import find_preprocess
from convkit.runtime import DevicePipeline

API = pytest.importorskip(FLAVOURS["tensorrt-rtx"].module)
STREAM = NumpyDevice.stream


def make_world(monkeypatch: pytest.MonkeyPatch, flavour: str) -> World:
    sinks: list[Any] = []
    logger = _bindings._make_logger(API, sinks)
    world = World(API, logger, rtx=flavour == "tensorrt-rtx")
    bindings = _bindings.Bindings(FLAVOURS[flavour], world.api, logger, sinks)
    monkeypatch.setitem(_runtime._loaded, flavour, Registrations(bindings))
    return world


@pytest.fixture(params=["tensorrt-rtx", "tensorrt"])
def flavour(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def world(flavour: str, monkeypatch: pytest.MonkeyPatch) -> World:
    return make_world(monkeypatch, flavour)


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch) -> World:
    return make_world(monkeypatch, "tensorrt-rtx")


def open_session(world: World, cache: Path | None = None) -> TensorRTSession:
    name = "tensorrt-rtx" if world.rtx else "tensorrt"
    return TensorRTSession(RuntimeEngine(FLAVOURS[name], b"plan", cache), world.gpu, "cuda")  # type: ignore[arg-type]


def on_device(world: World) -> TensorRTOnDevice:
    found = open_session(world).on_device(STREAM)
    assert isinstance(found, TensorRTOnDevice)
    return found


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def check(outputs: Any, x: np.ndarray) -> None:
    np.testing.assert_array_equal(outputs["twice"], 2 * x)
    np.testing.assert_array_equal(outputs["sums"], x.sum(1))


def test_the_stand_in_has_the_arguments_of_the_genuine_classes():
    assert signature_faults(API, RUNTIME.names()) == set()


def test_a_wrong_argument_would_be_found(monkeypatch):
    from support import tensorrt_double

    monkeypatch.setattr(tensorrt_double.FakeContext, "execute_async_v3", lambda self, stream, events: True)
    monkeypatch.setattr(tensorrt_double.FakeEngine, "get_tensor_name", lambda self, name: "")
    assert signature_faults(API, RUNTIME.names()) == {
        "IExecutionContext.execute_async_v3", "ICudaEngine.get_tensor_name",
    }  # fmt: skip


def test_host_arrays_in_and_out_in_varying_shapes(world):
    session = open_session(world)
    for shape in [(1, 1), (4, 8), (2, 3), (4, 8)]:
        x = values(*shape)
        check(session.run({"x": x}), x)
    assert len(world.contexts) == 1
    session.close()


def test_host_arrays_of_another_type_are_converted(world):
    check(open_session(world).run({"x": np.ones((2, 3))}), np.ones((2, 3), np.float32))


def test_the_stream_is_the_callers_and_the_outputs_stay_on_the_device(world):
    device = on_device(world)
    buffer = device.buffer("x", (2, 3))
    x = values(2, 3)
    device.fill(buffer, x)
    outputs = device.run({"x": buffer})
    assert isinstance(outputs["twice"], FakeArray)
    assert world.contexts[0].streams == [STREAM]
    check(device.fetch(outputs), x)


def test_outputs_of_a_shape_are_made_once_and_shapes_set_where_they_change(world):
    device = on_device(world)
    buffers = [device.buffer("x", (2, 3)), device.buffer("x", (1, 8))]
    first = device.run({"x": buffers[0]})
    assert device.run({"x": buffers[0]})["twice"] is first["twice"]
    assert world.contexts[0].shapes_set == 1
    device.run({"x": buffers[1]})
    assert device.run({"x": buffers[0]})["twice"] is first["twice"]
    assert world.contexts[0].shapes_set == 3


def test_no_more_than_so_many_outputs_are_kept(world):
    world.profiles = [((1, 1), (1, 1), (KEPT + 2, 8))]
    device = on_device(world)
    first = device.run({"x": device.buffer("x", (1, 1))})
    for count in range(2, KEPT + 2):
        device.run({"x": device.buffer("x", (count, 1))})
    assert device.run({"x": device.buffer("x", (1, 1))})["twice"] is not first["twice"]


def test_the_narrowest_profile_that_contains_the_shape_is_chosen(world):
    world.profiles = [((1, 1), (8, 8), (16, 16)), ((1, 1), (1, 4), (1, 8)), ((2, 1), (4, 4), (8, 8))]
    device = on_device(world)
    for shape, profile in [((1, 8), 1), ((2, 8), 2), ((9, 9), 0), ((1, 9), 0)]:
        x = values(*shape)
        buffer = device.buffer("x", shape)
        device.fill(buffer, x)
        check(device.fetch(device.run({"x": buffer})), x)
        assert profile in {context.active_optimization_profile for context in world.contexts if context.shape == shape}
    assert sorted(context.active_optimization_profile for context in world.contexts) == [0, 1, 2]
    assert len({context.scratch for context in world.contexts}) == 1, "one piece of scratch memory serves a stream"


@pytest.mark.parametrize("shape", [(5, 8), (4, 9), (2,), (1, 1, 1)])
def test_a_shape_outside_of_all_profiles_is_refused(world, shape):
    with pytest.raises(ConversionError, match="not built for the shapes x") as caught:
        open_session(world).run({"x": values(*shape)})
    assert "[1, 1] to [4, 8]" in caught.value.hint
    assert not world.contexts


def test_inputs_go_by_name(world):
    device = on_device(world)
    with pytest.raises(ConversionError, match="no input 'y'") as caught:
        device.buffer("y", (1, 1))
    assert "x" in caught.value.hint
    with pytest.raises(ConversionError, match="lacks its input x"):
        device.run({})


def test_what_the_engine_could_not_read_is_refused(world):
    device = on_device(world)
    whole = world.gpu.empty((4, 8), "float32", STREAM).values
    cases = {
        "float64": FakeArray(whole.astype(np.float64)),
        "on GPU 1": FakeArray(whole, device=1),
        "strides": FakeArray(whole[:, ::2]),
        "multiple of 256": FakeArray(whole[1:]),
        "host memory|is a ndarray": whole,
    }
    for message, array in cases.items():
        with pytest.raises(KernelArgumentError, match=message):
            device.run({"x": array})
    assert not world.contexts


def test_arrays_that_speak_dlpack_alone_are_taken(world):
    device = on_device(world)
    buffer = device.buffer("x", (2, 3))
    x = values(2, 3)
    device.fill(buffer, x)
    check(device.fetch(device.run({"x": OnlyDLPack(buffer)})), x)


def test_a_captured_graph_replays_on_contexts_of_its_own(world):
    device = on_device(world)
    buffer, other = device.buffer("x", (2, 3)), device.buffer("x", (4, 8))
    kept: dict[str, Any] = {}
    replay = device.capture(lambda: kept.update(device.run({"x": buffer})))
    assert replay is not None
    for seed in range(3):
        x = values(2, 3) + seed
        device.fill(buffer, x)
        replay()
        check(device.fetch(kept), x)
        device.run({"x": other})  # another context: the stand-in refuses that of the graph
    assert len(world.contexts) == 2


def test_an_engine_that_cannot_be_captured_runs_on(world):
    world.capturable = False
    device = on_device(world)
    buffer = device.buffer("x", (2, 3))
    assert device.capture(lambda: device.run({"x": buffer}) and None) is None
    x = values(2, 3)
    device.fill(buffer, x)
    check(device.fetch(device.run({"x": buffer})), x)
    made = len(world.contexts)
    assert device.capture(lambda: device.run({"x": buffer}) and None) is None
    assert len(world.contexts) == made, "it is tried once"
    if world.rtx:
        assert world.gpu.captures == 0, "the library says so before"
        assert world.contexts[-1].config.cuda_graph_strategy == API.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE


def test_an_error_in_the_body_of_a_capture_is_the_callers(world):
    device = on_device(world)

    def body() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        device.capture(body)
    assert open_session(world).run({"x": values(1, 1)})


def test_kernels_are_compiled_before_they_run_and_graphs_are_convkits(rtx):
    open_session(rtx).run({"x": values(1, 1)})
    config = rtx.contexts[0].config
    assert config.dynamic_shapes_kernel_specialization_strategy == API.DynamicShapesKernelSpecializationStrategy.EAGER
    assert config.cuda_graph_strategy == API.CudaGraphStrategy.DISABLED
    assert config.strategy == API.ExecutionContextAllocationStrategy.USER_MANAGED


def test_compiled_kernels_are_kept_for_the_next_session(rtx, tmp_path):
    cache = tmp_path / "folder" / "kernels.cache"
    session = open_session(rtx, cache)
    session.run({"x": values(1, 1)})
    session.close()
    assert cache.read_bytes() == b"kernels compiled here"
    cache.write_bytes(b"kernels of another run")
    session = open_session(rtx, cache)
    session.run({"x": values(1, 1)})
    assert rtx.contexts[-1].config.cache.content == b"kernels of another run"
    before = cache.stat().st_mtime_ns
    session.close()
    assert cache.stat().st_mtime_ns == before, "nothing new, nothing written"


@pytest.mark.parametrize("content", [b"", b"damaged"])
def test_a_damaged_cache_is_replaced(rtx, tmp_path, content):
    cache = tmp_path / "kernels.cache"
    cache.write_bytes(content)
    session = open_session(rtx, cache)
    session.run({"x": values(1, 1)})
    session.close()
    assert cache.read_bytes() == b"kernels compiled here"


def test_a_cache_folder_that_cannot_be_made_is_no_error(rtx, tmp_path):
    (tmp_path / "file").write_text("")
    session = open_session(rtx, tmp_path / "file" / "kernels.cache")
    check(session.run({"x": np.ones((1, 1), np.float32)}), np.ones((1, 1), np.float32))
    session.close()


def test_what_the_library_logs_is_in_the_error(world):
    name = "tensorrt-rtx" if world.rtx else "tensorrt"
    with pytest.raises(EnvironmentProblem, match="does not load the engine") as caught:
        RuntimeEngine(FLAVOURS[name], b"refused")
    assert "IRuntime: the plan is refused" in caught.value.hint
    session = open_session(world)
    world.failing = True
    with pytest.raises(EnvironmentProblem, match="does not run the engine") as caught:
        session.run({"x": values(1, 1)})
    assert "Cask (no kernel)" in caught.value.hint
    assert "the plan is refused" not in caught.value.hint, "only what was logged meanwhile"
    world.failing = False
    assert not _runtime._loaded[name].bindings.sinks, "nobody listens any more"
    assert session.run({"x": values(1, 1)}), "the session goes on"


def test_no_memory_for_a_context_is_an_error_with_a_remedy(world):
    world.contexts_left = 0
    with pytest.raises(EnvironmentProblem, match="makes no execution context") as caught:
        open_session(world).run({"x": values(1, 1)})
    assert "smaller batch" in caught.value.hint
    assert "out of memory" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda world: world.dtypes.update(x="BF16"), "input 'x' of the engine is BF16"),
        (lambda world: world.dtypes.update(sums="FP8"), "output 'sums' of the engine is FP8"),
        (lambda world: world.locations.update(x="HOST"), "read or written by the host"),
        (lambda world: world.data_dependent.add("twice"), "depends on the values"),
        (lambda world: world.unspecified.append("other"), "more than the shapes of its inputs: other"),
    ],
)
def test_engines_that_cannot_be_served_are_refused(world, change, message):
    change(world)
    with pytest.raises(ConversionError, match=message) as caught:
        open_session(world).run({"x": values(1, 1)})
    assert caught.value.hint


def test_threads_take_turns_at_a_session_and_each_has_contexts_of_its_own_on_a_device(world):
    meeting = threading.Barrier(2, timeout=20)
    session = open_session(world)
    problems: list[BaseException] = []

    def work(seed: int, *, device: bool) -> None:
        try:
            side = session.on_device(seed) if device else None
            for step in range(20):
                x = values(1 + step % 4, 1 + (seed + step) % 8)
                if side is None:
                    check(session.run({"x": x}), x)
                    continue
                buffer = side.buffer("x", x.shape)
                side.fill(buffer, x)
                check(side.fetch(side.run({"x": buffer})), x)
        except BaseException as error:
            problems.append(error)
            meeting.abort()

    def run_two(*, device: bool) -> None:
        threads = [threading.Thread(target=work, args=(seed,), kwargs={"device": device}) for seed in (3, 4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    world.pause = lambda: time.sleep(0.002)
    run_two(device=False)
    assert not problems
    assert len(world.contexts) == 1
    world.pause = lambda: meeting.wait() and None  # each waits for the other to be in an execution, too
    run_two(device=True)
    assert not problems
    assert len(world.contexts) == 3
    assert len({context.scratch for context in world.contexts}) == 3


def test_a_session_serves_the_device_pipeline(world):
    spec = ModelSpec(
        variant="rows",
        dims=(Dim("batch", 1, 1, 4), Dim("width", 1, 4, 8)),
        inputs=(TensorSpec("x", ("batch", "width")),),
        outputs=(TensorSpec("twice", ("batch", "width")), TensorSpec("sums", ("batch",))),
        preprocess={},
        decode={},
    )
    device: Any = NumpyDevice()
    pipeline = DevicePipeline(device, on_device(world), spec, find_preprocess({}), None, batch_min=2)
    for number in range(6):
        for count, width in [(1, 3), (4, 8)]:
            x = values(count, width) + number
            items = [pipeline.item({"x": row}) for row in x]
            check(pipeline.outputs(items), x)
    assert world.gpu.captures == 2, "each shape always came to the same of the two slots"
    pipeline.close()
