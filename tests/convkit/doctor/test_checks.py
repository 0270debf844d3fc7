"""The examination: what is found of packages, plugins, engines, drivers and the machine, and what is made of it."""

from __future__ import annotations

import importlib.metadata
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.plugins import registered

from convkit import Backend, Remedy, hookimpl
from convkit.doctor import Finding, examine, recognise, works
from convkit.doctor import _checks as module
from convkit.doctor import _probes as probes
from convkit.errors import PluginError
from convkit.plugins import BrokenPlugin, manager


def by_name(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, str]], None]:
    """Change the versions that some distributions seem to have; "" is not installed."""
    real = module.package_version

    def change(table: Mapping[str, str]) -> None:
        monkeypatch.setattr(module, "package_version", lambda name: table[name] if name in table else real(name))

    return change


def test_this_machine_works() -> None:
    findings = examine()
    assert works(findings)
    table = by_name(findings)
    assert table["numpy"].text == importlib.metadata.version("numpy")
    assert table["torch"].text.startswith(importlib.metadata.version("torch"))
    assert "remedies" in table["loaded"].text
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
        finding = by_name(module._packages())["polygraphy"]
        assert (finding.state, finding.core) == ("problem", True)
        assert finding.remedy.startswith('pip install "polygraphy>=')

    @pytest.mark.parametrize(
        ("version", "state"), [("2.8.1", "problem"), ("2.9.0", "ok"), ("2.9.0a1+cu130", "ok"), ("2.13.0+cpu", "ok")]
    )
    def test_one_that_is_too_old(self, version: str, state: str, versions: Any) -> None:
        versions({"torch": version})
        assert by_name(module._packages())["torch"].state == state

    def test_versions_are_compared_by_their_numbers(self) -> None:
        ordered = ["1.9", "1.10", "1.10.1", "2", "2.0.1rc1"]
        numbers = [module._numbers(version) for version in ordered]
        assert numbers == sorted(set(numbers))
        assert module._numbers("2.9") == module._numbers("2.9.0+cpu")

    def test_one_that_does_the_same(self, versions: Any) -> None:
        versions({"onnxruntime": "", "onnxruntime-gpu": "1.30.0"})
        table = by_name(module._packages())
        assert "onnxruntime" not in table
        assert (table["onnxruntime-gpu"].state, table["onnxruntime-gpu"].text) == ("ok", "1.30.0")

    def test_two_that_overwrite_each_other(self, versions: Any) -> None:
        versions({"onnxruntime": "1.30.0", "onnxruntime-gpu": "1.30.0"})
        assert by_name(module._packages())["onnxruntime"].text.startswith("installed together with")

    def test_an_extra_is_optional(self, versions: Any) -> None:
        versions({"matplotlib": ""})
        finding = by_name(module._packages())["matplotlib"]
        assert (finding.state, finding.remedy, finding.core) == ("missing", 'pip install "convkit[report]"', False)

    def test_a_source_folder_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def version(name: str) -> str:
            raise importlib.metadata.PackageNotFoundError(name)

        monkeypatch.setattr(importlib.metadata, "version", version)
        (finding,) = module._packages()
        assert finding.core
        assert finding.state == "problem"

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("numpy>=1.26", ("numpy", "1.26", "", True)),
            (
                "cupy-cuda13x>=13.6; (sys_platform == 'nowhere') and extra == 'cuda'",
                ("cupy-cuda13x", "13.6", "cuda", False),
            ),
            (f'a.b_c; sys_platform == "{sys.platform}"', ("a.b_c", "", "", True)),
            ("tomli>=2; python_version < '3.3'", ("tomli", "2", "", False)),
            ("tomli>=2; python_version < '3.99'", ("tomli", "2", "", True)),
            ("typer[all]>=0.15,<1 ; extra == 'a-b'", ("typer", "0.15", "a-b", True)),
        ],
    )
    def test_requirements_are_read(self, line: str, expected: tuple[Any, ...]) -> None:
        entry = module._Requirement.parse(line)
        assert (entry.name, entry.minimum, entry.extra, entry.applies) == expected

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", "CUDA 13.0 build"),
            ("cuda: Optional[str] = None\nhip: Optional[str] = None\n", "CPU build"),
            ("cuda = None\nhip = '6.4.1'\n", "ROCm 6.4.1 build"),
            (None, "build unknown"),
        ],
    )
    def test_what_torch_was_built_for(
        self, text: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        package = tmp_path / "torch"
        package.mkdir()
        (package / "__init__.py").touch()
        if text is not None:
            (package / "version.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        assert probes.torch_build() == expected

    def test_the_build_of_the_installed_torch(self) -> None:
        import torch

        expected = f"CUDA {torch.version.cuda} build" if torch.version.cuda else "CPU build"
        assert probes.torch_build() == expected


class TestPlugins:
    @pytest.mark.parametrize(("distribution", "core"), [("somebody-else", False), ("convkit", True)])
    def test_a_broken_one_is_named_with_its_reason(
        self, distribution: str, core: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken = BrokenPlugin("wobbly", distribution, "ImportError: no spring")
        monkeypatch.setattr(manager(), "broken", [broken])
        finding = by_name(module._plugins())["wobbly"]
        assert (finding.state, finding.core) == ("problem", core)
        assert "ImportError: no spring" in finding.text
        assert f"pip install --upgrade {distribution}" in finding.remedy
        assert ("--no-plugin wobbly" in finding.remedy) is not core

    def test_those_of_others_are_named_with_their_distribution(self) -> None:
        with registered(object(), "guest", version="3.1"):
            assert "guest (convkit-guest 3.1)" in by_name(module._plugins())["loaded"].text


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
            findings = by_name(module._backends())
        assert (findings["engine"].state, findings["engine"].text) == (state, text)
        assert findings["onnxruntime"].state == "ok"

    def test_a_hook_that_raises_is_reported(self) -> None:
        class Wild:
            @hookimpl
            def convkit_backends(self) -> list[Backend]:
                raise ImportError("no engine")

        with registered(Wild(), "wild"):
            (finding,) = module._backends()
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
        assert module._nvidia_smi().state == "missing"

    def test_the_cards_are_listed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tool(
            tmp_path, monkeypatch, 'echo "NVIDIA H200, 143771 MiB, 580.95.05"; echo "Tesla T4, 15360 MiB, 580.95.05"'
        )
        finding = module._nvidia_smi()
        assert finding.state == "ok"
        assert finding.text == "NVIDIA H200, 143771 MiB, driver 580.95.05; Tesla T4, 15360 MiB, driver 580.95.05"

    def test_a_driver_that_does_not_answer(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        text = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
        self.tool(tmp_path, monkeypatch, f'echo "{text}"; exit 9')
        finding = module._nvidia_smi()
        assert (finding.state, finding.text) == ("problem", text)

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
        finding = by_name(module._gpu())["CUDA driver"]
        assert (finding.state, finding.text) == (
            ("ok", expected) if expected else ("problem", "the library loads but does not answer")
        )

    def test_no_driver_is_no_problem(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import ctypes

        def absent(name: str) -> None:
            raise OSError(f"{name}: cannot open shared object file")

        monkeypatch.setattr(ctypes, "CDLL", absent)
        assert by_name(module._gpu())["CUDA driver"].state == "missing"


class TestTensorRT:
    def package(self, folder: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
        (folder / "tensorrt").mkdir()
        (folder / "tensorrt" / "__init__.py").write_text(source)
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setenv("PYTHONPATH", str(folder))

    def test_one_that_loads(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.package(tmp_path, monkeypatch, "__version__ = '11.4.0.106'")
        assert [(f.state, f.text) for f in module._tensorrt()] == [("ok", "11.4.0.106")]

    def test_one_whose_library_does_not_load(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        message = "libnvinfer.so.11: cannot open shared object file: No such file or directory"
        self.package(tmp_path, monkeypatch, f"raise ImportError({message!r})")
        (finding,) = module._tensorrt()
        assert (finding.state, finding.core) == ("problem", False)
        assert finding.text == f"installed but does not load: ImportError: {message}"

    def test_one_that_takes_the_process_down(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.package(tmp_path, monkeypatch, "import os; os.abort()")
        (finding,) = module._tensorrt()
        assert finding.state == "problem"

    @pytest.mark.parametrize(("numpy", "findings"), [("2.3.5", 1), ("2.4.0", 2)])
    def test_the_numpy_that_an_old_one_cannot_live_with(
        self, numpy: str, findings: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, versions: Any
    ) -> None:
        self.package(tmp_path, monkeypatch, "__version__ = '10.16.1.11'")
        versions({"numpy": numpy})
        assert len(list(module._tensorrt())) == findings

    def test_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
        (finding,) = module._tensorrt()
        assert finding.state == "missing"


class TestMachine:
    @pytest.mark.parametrize(
        ("memory", "state"), [((8 * 10**9, 4 * 10**9), "ok"), ((8 * 10**9, 10**9), "problem"), (None, None)]
    )
    def test_memory(self, memory: Any, state: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "memory", lambda: memory)
        table = by_name(module._machine())
        assert (table["memory"].state if "memory" in table else None) == state

    def test_the_memory_of_this_machine(self) -> None:
        known = probes.memory()
        assert known is not None
        total, free = known
        assert 10**8 < free <= total

    @pytest.mark.parametrize(("free", "state"), [(10**8, "problem"), (10**11, "ok")])
    def test_disk(self, free: int, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = type(shutil.disk_usage("."))(2 * 10**11, 0, free)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        assert by_name(module._machine())["this folder"].state == state

    def test_a_folder_that_cannot_be_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module.os, "access", lambda path, mode: False)
        assert "not writable" in by_name(module._machine())["this folder"].text

    def test_the_cache_of_kernels(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CONVKIT_CACHE", str(tmp_path / "a" / "b"))
        finding = by_name(module._machine())["kernel cache"]
        assert (finding.state, finding.text) == ("ok", str(tmp_path / "a" / "b"))
        (tmp_path / "a").write_text("", encoding="utf-8")
        finding = by_name(module._machine())["kernel cache"]
        assert (finding.state, finding.core) == ("problem", False)
        assert "CONVKIT_CACHE" in finding.remedy


class TestPrograms:
    def test_one_that_hangs_is_given_up(self) -> None:
        code, text = probes.run_program([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.5)
        assert code != 0
        assert "did not answer" in text

    def test_one_that_is_not_there(self) -> None:
        assert probes.run_program(["/nowhere/tool"], timeout=5)[0] != 0

    def test_one_gets_no_input(self) -> None:
        code = "import sys; print(repr(sys.stdin.read()))"
        assert probes.run_program([sys.executable, "-c", code], timeout=20) == (0, "''\n")


class Explaining:
    def __init__(self, *remedies: Remedy) -> None:
        self.remedies = remedies

    @hookimpl
    def convkit_remedies(self) -> Iterable[Remedy]:
        return self.remedies


class TestRecognition:
    def test_a_plugin_knows_better_than_the_core(self) -> None:
        text = "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB"
        assert [known.plugin for known in recognise(text)] == ["remedies"]
        special = Remedy("out of memory", "the frobnicator is greedy", "feed it less")
        with registered(Explaining(special), "special"):
            (known,) = recognise(text)
        assert (known.plugin, known.remedy) == ("special", special)

    def test_errors_come_in_their_order_in_the_text(self) -> None:
        text = "a: No space left on device\nb\nc: Torch not compiled with CUDA enabled\n"
        swapped = "\n".join(reversed(text.splitlines()))
        assert [known.line[0] for known in recognise(text)] == ["a", "c"]
        assert [known.line[0] for known in recognise(swapped)] == ["c", "a"]

    def test_nothing_is_known_of_an_ordinary_text(self) -> None:
        assert recognise("all is well\n3 detections\n") == []

    def test_a_pattern_that_is_none_is_told_with_its_plugin(self) -> None:
        with registered(Explaining(Remedy("(", "", "")), "sloppy"), pytest.raises(PluginError, match="'sloppy'"):
            recognise("text")


def test_importing_it_is_light() -> None:
    code = "import sys, convkit.doctor, convkit.doctor.known_errors; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(result.stdout.split()) & {"torch", "onnx", "onnxruntime", "numpy", "rich", "cv2"}
