"""The examination: what is found of packages, plugins, engines, drivers and the machine, and what is made of it."""

from __future__ import annotations

import email.message
import importlib.metadata
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.plugins import registered

from convkit import Backend, hookimpl
from convkit.doctor import (
    Finding,
    check_engines,
    check_gpu,
    check_machine,
    check_packages,
    check_plugins,
    examine,
    works,
)
from convkit.plugins import BrokenPlugin, manager


def by_name(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, str]], None]:
    """Change the versions that some distributions seem to have; "" is not installed."""
    real = importlib.metadata.version

    def change(table: Mapping[str, str]) -> None:
        def version(name: str) -> str:
            if table.get(name) == "":
                raise importlib.metadata.PackageNotFoundError(name)
            return table.get(name) or real(name)

        monkeypatch.setattr(importlib.metadata, "version", version)

    return change


@pytest.fixture
def requirements(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Finding]]:
    """Return what is found of convkit if its metadata have these requirements."""

    def check(*lines: str, extras: Iterable[str] = ()) -> list[Finding]:
        metadata = email.message.Message()
        metadata["Version"] = "1.0"
        for line in lines:
            metadata["Requires-Dist"] = line
        for extra in extras:
            metadata["Provides-Extra"] = extra
        monkeypatch.setattr(importlib.metadata, "metadata", lambda name: metadata)
        return [finding for finding in check_packages() if finding.name not in ("Python", "system", "convkit")]

    return check


def test_this_machine_works() -> None:
    findings = examine()
    assert works(findings)
    table = by_name(findings)
    assert table["numpy"].text == importlib.metadata.version("numpy")
    assert table["torch"].text.startswith(importlib.metadata.version("torch"))
    assert "known_errors" in table["loaded"].text
    assert table["onnxruntime"].state == "ok"


def test_only_core_problems_count() -> None:
    fine = Finding("core", "a", "ok", "", core=True)
    optional = Finding("GPU", "b", "problem", "")
    absent = Finding("optional", "c", "missing", "")
    assert works([fine, optional, absent])
    assert not works([fine, Finding("core", "d", "problem", "", core=True)])


class TestPackages:
    def test_one_that_is_missing(self, versions: Any) -> None:
        versions({"polygraphy": ""})
        finding = by_name(check_packages())["polygraphy"]
        assert (finding.state, finding.core) == ("problem", True)
        assert finding.remedy.startswith('pip install "polygraphy>=')

    @pytest.mark.parametrize(
        ("version", "state"), [("2.8.1", "problem"), ("2.9.0", "ok"), ("2.9.0a1+cu130", "ok"), ("2.13.0+cpu", "ok")]
    )
    def test_one_that_is_too_old(self, version: str, state: str, versions: Any) -> None:
        versions({"torch": version})
        assert by_name(check_packages())["torch"].state == state

    @pytest.mark.parametrize(
        ("version", "wanted", "state"),
        [
            ("1.9", ">=1.10", "problem"),
            ("1.10", ">=1.9", "ok"),
            ("13.0.88", ">=13.0,<14", "ok"),
            ("14.0", ">=13.0,<14", "problem"),
            ("2.0.1rc1", ">=2.0.1", "ok"),
            ("no version", ">=1", "problem"),
        ],
    )
    def test_versions_are_compared_as_installers_do(
        self, version: str, wanted: str, state: str, versions: Any, requirements: Any
    ) -> None:
        versions({"some-package": version})
        (finding,) = requirements(f"some-package{wanted}")
        assert finding.state == state
        assert (f"{version} does not fit" in finding.text) is (state == "problem")

    def test_one_that_does_the_same(self, versions: Any) -> None:
        versions({"onnxruntime": "", "onnxruntime-gpu": "1.30.0"})
        table = by_name(check_packages())
        assert "onnxruntime" not in table
        assert (table["onnxruntime-gpu"].state, table["onnxruntime-gpu"].text) == ("ok", "1.30.0")

    def test_two_that_overwrite_each_other(self, versions: Any) -> None:
        versions({"onnxruntime": "1.30.0", "onnxruntime-gpu": "1.30.0"})
        assert by_name(check_packages())["onnxruntime"].text.startswith("installed together with")

    def test_an_extra_is_optional(self, versions: Any) -> None:
        versions({"matplotlib": ""})
        finding = by_name(check_packages())["matplotlib"]
        assert (finding.state, finding.remedy, finding.core) == ("missing", 'pip install "convkit[report]"', False)

    def test_a_source_folder_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def metadata(name: str) -> str:
            raise importlib.metadata.PackageNotFoundError(name)

        monkeypatch.setattr(importlib.metadata, "metadata", metadata)
        finding = by_name(check_packages())["convkit"]
        assert finding.core
        assert finding.state == "problem"

    @pytest.mark.parametrize(
        ("line", "section"),
        [
            ("absent>=1.26", "core"),
            ("absent>=13.6; (sys_platform == 'nowhere') and extra == 'cuda'", None),
            (f"absent>=13.6; (sys_platform == '{sys.platform}') and extra == 'cuda'", "optional"),
            (f'absent; sys_platform == "{sys.platform}"', "core"),
            ("absent>=2; python_version < '3.3'", None),
            ("absent>=2; python_version < '3.99' and platform_system != 'nowhere'", "core"),
            ("absent[all]>=0.15,<1 ; extra == 'a-b'", "optional"),
            ("absent; extra == 'dev'", None),
        ],
    )
    def test_the_markers_of_requirements_count(self, line: str, section: str | None, requirements: Any) -> None:
        findings = requirements(line, extras=("a-b", "cuda", "dev"))
        assert [finding.section for finding in findings] == ([section] if section else [])

    def test_what_the_core_requires_is_not_listed_for_an_extra_too(self, requirements: Any) -> None:
        (finding,) = requirements("absent; extra == 'cuda'", "absent>=2", extras=("cuda",))
        assert finding.core


class TestPlugins:
    @pytest.mark.parametrize(("distribution", "core"), [("somebody-else", False), ("convkit", True)])
    def test_a_broken_one_is_named_with_its_reason(
        self, distribution: str, core: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken = BrokenPlugin("wobbly", distribution, "ImportError: no spring")
        monkeypatch.setattr(manager(), "broken", [broken])
        finding = by_name(check_plugins())["wobbly"]
        assert (finding.state, finding.core) == ("problem", core)
        assert "ImportError: no spring" in finding.text
        assert f"pip install --upgrade {distribution}" in finding.remedy
        assert ("--no-plugin wobbly" in finding.remedy) is not core

    def test_those_of_others_are_named_with_their_distribution(self) -> None:
        with registered(object(), "guest", version="3.1"):
            assert "guest (convkit-guest 3.1)" in by_name(check_plugins())["loaded"].text

    def test_a_hook_without_its_mark_is_a_problem_of_its_plugin(self) -> None:
        class Forgetful:
            def convkit_adapters(self) -> list[Any]:
                return []

        with registered(Forgetful(), "forgetful"):
            finding = by_name(check_plugins())["forgetful"]
        assert (finding.state, finding.core) == ("problem", False)
        assert "it lacks @convkit.hookimpl" in finding.text
        assert "forgetful" not in by_name(check_plugins())


class Engine(Backend):
    name = "engine"
    summary = "an engine for the test"

    def __init__(self, problem: str | Exception = "", described: Mapping[str, str] | Exception | None = None) -> None:
        self.trouble, self.described = problem, described or {}

    def problem(self, device: str = "cpu") -> str:
        if isinstance(self.trouble, Exception):
            raise self.trouble
        return self.trouble

    def describe(self) -> dict[str, str]:
        if isinstance(self.described, Exception):
            raise self.described
        return dict(self.described)

    def open(self, model: Path, *, device: str = "cpu") -> Any:
        raise NotImplementedError

    @hookimpl
    def convkit_backends(self) -> list[Backend]:
        return [self]


class TestEngines:
    @pytest.mark.parametrize(
        ("engine", "state", "text"),
        [
            (Engine(described={"version": "1.2", "devices": "two"}), "ok", "1.2; devices two"),
            (Engine(), "ok", "an engine for the test"),
            (Engine(problem="no library"), "missing", "no library"),
            (Engine(problem=OSError("libx.so: not found\nmore")), "problem", "OSError: libx.so: not found"),
            (Engine(described=RuntimeError("no device")), "problem", "RuntimeError: no device"),
        ],
    )
    def test_each_is_asked_and_may_fail(self, engine: Engine, state: str, text: str) -> None:
        with registered(engine, "engine"):
            findings = by_name(check_engines())
        assert (findings["engine"].state, findings["engine"].text) == (state, text)
        assert findings["onnxruntime"].state == "ok"

    def test_a_hook_that_raises_is_reported(self) -> None:
        class Wild:
            @hookimpl
            def convkit_backends(self) -> list[Backend]:
                raise ImportError("no engine")

        with registered(Wild(), "wild"):
            (finding,) = check_engines()
        assert (finding.state, finding.core) == ("problem", True)
        assert "'wild'" in finding.text
        assert "no engine" in finding.text


class TestGpu:
    def tool(self, folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
        path = folder / "nvidia-smi"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def test_without_the_tool_there_is_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        assert by_name(check_gpu())["NVIDIA GPU"].state == "missing"

    def test_the_cards_are_listed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tool(
            tmp_path, monkeypatch, 'echo "NVIDIA H200, 143771 MiB, 580.95.05"; echo "Tesla T4, 15360 MiB, 580.95.05"'
        )
        finding = by_name(check_gpu())["NVIDIA GPU"]
        assert finding.state == "ok"
        assert finding.text == "NVIDIA H200, 143771 MiB, driver 580.95.05; Tesla T4, 15360 MiB, driver 580.95.05"

    def test_a_driver_that_does_not_answer(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        text = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
        self.tool(tmp_path, monkeypatch, f'echo "{text}"; exit 9')
        finding = by_name(check_gpu())["NVIDIA GPU"]
        assert (finding.state, finding.text) == ("problem", text)

    def test_the_tool_gets_no_input_and_a_hanging_one_is_given_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.tool(tmp_path, monkeypatch, "read line || echo no input; exec sleep 60")
        real = subprocess.run
        monkeypatch.setattr(subprocess, "run", lambda command, **how: real(command, **{**how, "timeout": 0.5}))
        finding = by_name(check_gpu())["NVIDIA GPU"]
        assert (finding.state, finding.text) == ("problem", "nvidia-smi did not answer within 10 s")
        self.tool(tmp_path, monkeypatch, "read line || echo no input; exit 9")
        assert by_name(check_gpu())["NVIDIA GPU"].text == "no input"

    def test_a_tool_that_cannot_be_started(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tool(tmp_path, monkeypatch, "exit 0")
        (tmp_path / "nvidia-smi").write_bytes(b"\x7fELF nonsense")
        assert by_name(check_gpu())["NVIDIA GPU"].state == "problem"

    @pytest.mark.parametrize(
        ("result", "number", "expected"), [(0, 13000, "up to CUDA 13.0"), (0, 12080, "up to CUDA 12.8"), (34, 0, None)]
    )
    def test_the_driver_tells_its_cuda_version(
        self, result: int, number: int, expected: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import ctypes

        class Library:
            def __init__(self, name: str) -> None:
                assert "cuda" in name

            def cuDriverGetVersion(self, pointer: Any) -> int:
                pointer._obj.value = number
                return result

        monkeypatch.setattr(ctypes, "CDLL", Library)
        finding = by_name(check_gpu())["CUDA driver"]
        assert (finding.state, finding.text) == (
            ("ok", expected) if expected else ("problem", "the library loads but does not answer")
        )

    def test_no_driver_is_no_problem(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import ctypes

        def absent(name: str) -> None:
            raise OSError(f"{name}: cannot open shared object file")

        monkeypatch.setattr(ctypes, "CDLL", absent)
        assert by_name(check_gpu())["CUDA driver"].state == "missing"


class TestTensorRT:
    def package(self, folder: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
        (folder / "tensorrt").mkdir()
        (folder / "tensorrt" / "__init__.py").write_text(source)
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setenv("PYTHONPATH", str(folder))

    def test_one_that_loads(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.package(tmp_path, monkeypatch, "__version__ = '11.4.0.106'")
        finding = by_name(check_gpu())["TensorRT"]
        assert (finding.state, finding.text) == ("ok", "11.4.0.106")

    def test_one_whose_library_does_not_load(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        message = "libnvinfer.so.11: cannot open shared object file: No such file or directory"
        self.package(tmp_path, monkeypatch, f"raise ImportError({message!r})")
        finding = by_name(check_gpu())["TensorRT"]
        assert (finding.state, finding.core) == ("problem", False)
        assert finding.text == f"installed but does not load: ImportError: {message}"

    def test_one_that_takes_the_process_down(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.package(tmp_path, monkeypatch, "import os; os.abort()")
        finding = by_name(check_gpu())["TensorRT"]
        assert finding.state == "problem"

    @pytest.mark.parametrize(("numpy", "problem"), [("2.3.5", False), ("2.4.0", True)])
    def test_the_numpy_that_an_old_one_cannot_live_with(
        self, numpy: str, problem: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, versions: Any
    ) -> None:
        self.package(tmp_path, monkeypatch, "__version__ = '10.16.1.11'")
        versions({"numpy": numpy})
        assert ("numpy" in by_name(check_gpu())) is problem

    def test_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        finding = by_name(check_gpu())["TensorRT"]
        assert finding.state == "missing"


class TestMachine:
    @pytest.mark.parametrize(("free", "state"), [(4 * 10**9, "ok"), (10**9, "problem")])
    def test_memory(self, free: int, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
        table = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 8 * 10**9, "SC_AVPHYS_PAGES": free}
        monkeypatch.setattr(os, "sysconf", table.__getitem__)
        monkeypatch.setattr(Path, "is_file", lambda path: False)
        finding = by_name(check_machine())["memory"]
        assert (finding.state, finding.text) == (state, f"8.0 GB, {free / 1e9:.1f} GB of it free")

    def test_a_container_may_have_less_memory_than_its_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = Path.read_text
        limit = Path("/sys/fs/cgroup/memory.max")
        monkeypatch.setattr(Path, "is_file", lambda path: path == limit)
        monkeypatch.setattr(Path, "read_text", lambda path, **how: "500000000" if path == limit else real(path, **how))
        assert by_name(check_machine())["memory"].text == "0.5 GB, 0.5 GB of it free"

    def test_a_system_that_does_not_say_how_much_memory_it_has(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "sysconf")
        assert "memory" not in by_name(check_machine())

    def test_the_memory_of_this_machine(self) -> None:
        total, free = (float(text.split()[0]) for text in by_name(check_machine())["memory"].text.split(", "))
        assert 0.1 < free <= total

    @pytest.mark.parametrize(("free", "state"), [(10**8, "problem"), (10**11, "ok")])
    def test_disk(self, free: int, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = type(shutil.disk_usage("."))(2 * 10**11, 0, free)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        assert by_name(check_machine())["this folder"].state == state

    def test_a_folder_that_cannot_be_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        assert "not writable" in by_name(check_machine())["this folder"].text

    def test_the_cache_of_kernels(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CONVKIT_CACHE", str(tmp_path / "a" / "b"))
        finding = by_name(check_machine())["kernel cache"]
        assert (finding.state, finding.text) == ("ok", str(tmp_path / "a" / "b"))
        (tmp_path / "a").write_text("", encoding="utf-8")
        finding = by_name(check_machine())["kernel cache"]
        assert (finding.state, finding.core) == ("problem", False)
        assert "CONVKIT_CACHE" in finding.remedy


def test_importing_it_is_light() -> None:
    code = "import sys, convkit.doctor, convkit.doctor.plugin; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(result.stdout.split()) & {"torch", "onnx", "onnxruntime", "numpy", "rich", "cv2"}
