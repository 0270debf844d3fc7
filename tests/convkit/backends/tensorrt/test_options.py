"""What a build may be told: limits, targets, and what only one of the flavours can do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from support.tensorrt_double import FakeGpu

from convkit.backends import BuildRequest
from convkit.backends.tensorrt import FLAVOURS, _bindings, parse_targets
from convkit.backends.tensorrt import _gpu as gpu_module
from convkit.backends.tensorrt._backend import TensorRT
from convkit.backends.tensorrt._options import HARDWARE, OPTIONS, BuildSettings, read_settings
from convkit.errors import ConversionError, EnvironmentProblem, SettingError

RTX, FULL = FLAVOURS["tensorrt-rtx"], FLAVOURS["tensorrt"]


@pytest.fixture
def api() -> Any:
    """The names of TensorRT-RTX, whose library parses and builds here."""
    return pytest.importorskip(RTX.module)


@pytest.fixture
def relu(tmp_path: Path) -> Path:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def pretend(monkeypatch: pytest.MonkeyPatch, capability: str | None) -> None:
    """Put a GPU of a compute capability into this machine, or none."""

    class Pretend(FakeGpu):
        compute_capability = capability or ""

        def __init__(self, device: str) -> None:
            if capability is None:
                raise EnvironmentProblem("There is no GPU.", hint="Plug one in.")
            super().__init__()

    monkeypatch.setattr(gpu_module, "Gpu", Pretend)


@pytest.mark.parametrize(
    ("flavour", "options", "says"),
    [
        (RTX, {"workspace": -1}, "workspace cannot be -1"),
        (RTX, {"optimization-level": 6}, "optimization-level cannot be 6"),
        (FULL, {"optimization-level": -2}, "optimization-level cannot be -2"),
        (RTX, {"hardware-compatibility": "ampere-plus"}, "no setting hardware-compatibility"),
        (RTX, {"version-compatible": True}, "no setting version-compatible"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(flavour, options, says):
    with pytest.raises(SettingError, match=says) as caught:
        read_settings(options, flavour)
    assert caught.value.hint


def test_what_is_left_out_has_its_default():
    defaults = {option.name: option.default for option in OPTIONS}
    assert read_settings({}, FULL) == read_settings(defaults, FULL) == BuildSettings()
    assert read_settings({"dcn": "gather"}, RTX) == BuildSettings(timing_cache=False)
    chosen = read_settings({"workspace": 64, "optimization-level": 0, "hardware-compatibility": "ampere-plus"}, FULL)
    assert chosen == BuildSettings(64, 0, "ampere-plus")


def test_the_local_gpu_is_the_default_target_where_the_flavour_makes_engines_for_it():
    assert parse_targets(RTX, [], local="sm89") == ("sm89",)
    assert parse_targets(RTX, [], local="sm90") == RTX.default_targets
    assert parse_targets(RTX, []) == RTX.default_targets
    assert parse_targets(FULL, [], local="sm90") == ("sm90",)
    assert parse_targets(FULL, ["9.0"], local="sm90") == ("sm90",)
    with pytest.raises(ConversionError, match="builds for the GPU of this machine, sm90"):
        parse_targets(FULL, ["sm86"], local="sm90")


def test_tensorrt_builds_only_where_a_gpu_is(relu, tmp_path, monkeypatch):
    pretend(monkeypatch, None)
    with pytest.raises(EnvironmentProblem, match="times its kernels on the GPU") as caught:
        TensorRT(FULL).build(relu, tmp_path, BuildRequest())
    assert "TensorRT-RTX (tensorrt-rtx) needs no GPU" in caught.value.hint
    assert TensorRT(FULL).targets() == ()
    pretend(monkeypatch, "9.0")
    assert TensorRT(FULL).targets() == ("sm90",)
    with pytest.raises(EnvironmentProblem, match="not installed"):
        TensorRT(FULL).build(relu, tmp_path, BuildRequest())


@pytest.mark.usefixtures("api")
def test_an_engine_tells_the_settings_of_its_build(relu, tmp_path):
    options = {"workspace": 64, "optimization-level": 2}
    engine = TensorRT(RTX).build(relu, tmp_path, BuildRequest(("sm86",), options=options))
    assert engine.ladder["built"].status == "passed"
    assert engine.details["settings"] == BuildSettings(64, 2, timing_cache=False).to_json()
    assert engine.details["plugins"] == []


def parsed_by(flavour: Any, api: Any, model: Path) -> _bindings.ParsedModel:
    """Return a model in the hands of the genuine parser, which configures builds as it does for ``flavour``."""
    sinks: list[Any] = []
    bindings = _bindings.Bindings(flavour, api, _bindings._make_logger(api, sinks), sinks)
    return _bindings.ParsedModel(bindings, model)


def test_every_hardware_compatibility_is_one_of_the_library(api):
    names = {name.upper().replace("-", "_") for name in HARDWARE}
    assert names == set(api.HardwareCompatibilityLevel.__members__), "TensorRT-RTX keeps none: it is set, not read back"


def test_the_library_gets_what_is_set(relu, api):
    parsed = parsed_by(FULL, api, relu)
    config = parsed._config((), BuildSettings(64, 2, "ampere-plus", version_compatible=True))
    assert config.get_memory_pool_limit(api.MemoryPoolType.WORKSPACE) == 64 * 2**20
    assert config.builder_optimization_level == 2
    assert config.get_flag(api.BuilderFlag.VERSION_COMPATIBLE)
    assert config.get_flag(api.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
    plain = parsed._config((), BuildSettings())
    assert not plain.get_flag(api.BuilderFlag.VERSION_COMPATIBLE)
    assert plain.get_memory_pool_limit(api.MemoryPoolType.WORKSPACE) > 2**30, "the library's own limit"
    assert config.flags & ~plain.flags == 1 << int(api.BuilderFlag.VERSION_COMPATIBLE) | 1 << int(
        api.BuilderFlag.EXCLUDE_LEAN_RUNTIME
    ), "and no other flag: precision is that of the graph"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorRT-RTX keeps no times itself
def test_the_times_of_kernels_are_kept_in_a_file_and_a_damaged_one_is_replaced(relu, api, tmp_path):
    file = tmp_path / "kernels.times"
    parsed = parsed_by(FULL, api, relu)
    steps: list[str] = []

    def build() -> _bindings.BuildResult:
        return parsed.build((), {}, {}, lambda phase, done, total: not steps.append(phase), BuildSettings(), file)

    assert build().plan
    assert file.stat().st_size
    file.write_bytes(b"no cache")
    assert build().plan
    assert file.read_bytes() != b"no cache"
    assert steps
