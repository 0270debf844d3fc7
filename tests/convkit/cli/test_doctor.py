"""``convkit doctor``: when it examines the machine and when it reads an error, and how it ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from support.gpu import missing_gpu

from convkit.cli import execute
from convkit.doctor import Recommendation, check_recommendations, store
from convkit.doctor.tensorrt import Step, TensorRTReport

CONVKIT = [sys.executable, "-m", "convkit"]
ERROR = "Traceback (most recent call last):\n  ...\nAssertionError: Torch not compiled with CUDA enabled\n"


def run(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str, str]:
    code = execute(["doctor", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def doctor(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CONVKIT, "doctor", *words], capture_output=True, text=True, timeout=60, **options)


class TestMachine:
    def test_a_working_machine(self) -> None:
        result = doctor(stdin=subprocess.DEVNULL)
        assert result.returncode == 0, result.stdout
        assert result.stdout.splitlines()[-1].startswith("convkit works here")
        words = [line.split()[:2] for line in result.stdout.splitlines()]
        for package in ("Python", "convkit", "torch", "onnx", "onnxruntime"):
            assert ["ok", package] in words

    def test_json(self) -> None:
        document = json.loads(doctor("--json", stdin=subprocess.DEVNULL).stdout)
        assert document["works"] is True
        assert {finding["section"] for finding in document["findings"]} == {
            "core", "optional", "plugins", "engines", "GPU", "machine",
        }  # fmt: skip
        for finding in document["findings"]:
            assert finding["state"] in ("ok", "missing", "problem")
            assert finding["remedy"] or finding["state"] == "ok" or finding["section"] == "GPU"

    def test_torch_is_not_imported_for_its_version(self) -> None:
        code = "import sys; from convkit.cli import execute; execute(['doctor', '--json']); print(*sys.modules)"
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True
        )
        modules = set(result.stdout.splitlines()[-1].split())
        assert "onnxruntime" in modules
        assert not modules & {"torch", "onnx", "onnxscript", "polygraphy", "cv2"}

    def test_without_an_engine_nothing_works(self) -> None:
        result = doctor(stdin=subprocess.DEVNULL, env={**os.environ, "CONVKIT_LOAD_PLUGINS": "centernet"})
        assert result.returncode == 5
        assert "no engine runs here" in result.stdout
        assert result.stdout.splitlines()[-1].startswith("convkit does not work here")

    def test_an_optional_trouble_is_told_and_forgiven(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        from convkit import doctor as machine
        from convkit.cli import doctor as command

        finding = machine.Finding("GPU", "driver", "problem", "too old", "Update [it].")
        monkeypatch.setattr(machine, "examine", lambda: [finding])
        assert command._check(json=False) == 0
        out = capsys.readouterr().out
        assert "problem  driver  too old" in out
        assert "Update [it]." in out
        assert "convkit works here, with 1 problem" in out


class TestErrorText:
    def test_a_known_error_is_explained(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        log = tmp_path / "error.log"
        log.write_text(ERROR)
        code, out, err = run(capsys, log)
        assert (code, err) == (0, "")
        lines = out.splitlines()
        assert lines[0] == "AssertionError: Torch not compiled with CUDA enabled"
        assert lines[1].split()[0] == "cause"
        assert lines[2].split()[0] == "cure"
        assert len(lines) == 3

    def test_json(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        log = tmp_path / "error.log"
        log.write_text(ERROR)
        code, out, _ = run(capsys, log, "--json")
        document = json.loads(out)
        assert (code, document["recognised"]) == (0, True)
        (match,) = document["matches"]
        assert match["plugin"] == "known_errors"
        assert match["line"] == "AssertionError: Torch not compiled with CUDA enabled"
        assert match["cause"]
        assert match["cure"]

    def test_an_unknown_error_shows_the_telling_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        log = tmp_path / "error.log"
        log.write_text("starting\nWobbleError: the [frobnicator] is loose\nbye\n")
        code, out, _ = run(capsys, log)
        assert code == 1
        assert "WobbleError: the [frobnicator] is loose" in out
        assert "convkit doctor" in out
        assert run(capsys, log, "--json")[:2] == (1, '{\n  "recognised": false,\n  "matches": []\n}\n')

    def test_an_empty_log_is_unknown(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "empty.log").write_text("")
        assert run(capsys, tmp_path / "empty.log")[0] == 1

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
    def test_a_log_with_a_mark_in_a_language_without_latin_letters(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], encoding: str
    ) -> None:
        (tmp_path / "error.log").write_bytes(("错误" * 500 + "\n" + ERROR).encode(encoding))
        assert run(capsys, tmp_path / "error.log", "--json")[0] == 0

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
    @pytest.mark.parametrize("before", [0, 1 << 20], ids=["short", "long"])
    def test_a_log_of_powershell(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], encoding: str, before: int
    ) -> None:
        """PowerShell redirects in UTF-16; of a long log the beginning with its mark is not kept."""
        log = tmp_path / "error.log"
        log.write_bytes(("x" * before + "\r\n" + ERROR.replace("\n", "\r\n")).encode(encoding))
        (tmp_path / "plain.log").write_text(ERROR)
        expected = run(capsys, tmp_path / "plain.log", "--json")
        assert expected[0] == 0
        assert run(capsys, log, "--json") == expected

    def test_a_log_that_is_not_there(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        code, out, err = run(capsys, tmp_path / "nowhere.log")
        assert (code, out) == (2, "")
        assert "cannot be read" in err

    def test_colours_do_not_hide_an_error(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        log = tmp_path / "error.log"
        log.write_text("\x1b[31mAssertionError: Torch not \x1b[1mcompiled with CUDA\x1b[0m enabled\x1b[0m\n")
        code, out, _ = run(capsys, log)
        assert code == 0
        assert "\x1b" not in out

    def test_bytes_that_are_no_text(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        log = tmp_path / "error.log"
        log.write_bytes(b"\xfa\xfb\x00 Torch not compiled with CUDA enabled \x80")
        assert run(capsys, log)[0] == 0

    def test_of_a_huge_log_the_end_is_read(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        log = tmp_path / "error.log"
        log.write_text("No space left on device\n" + "all is well\n" * 2_000_000 + ERROR)
        code, out, _ = run(capsys, log)
        assert code == 0
        assert "Torch not compiled" in out
        assert "No space left" not in out

    def test_only_the_part_of_a_long_line_that_matters_is_shown(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        log = tmp_path / "error.log"
        log.write_text("x" * 5000 + " Torch not compiled with CUDA enabled " + "y" * 5000)
        line = run(capsys, log)[1].splitlines()[0]
        assert "Torch not compiled with CUDA enabled" in line
        assert len(line) < 400


class TestStandardInput:
    def test_a_file(self, tmp_path: Path) -> None:
        log = tmp_path / "error.log"
        log.write_text(ERROR)
        with log.open() as stream:
            result = doctor(stdin=stream)
        assert result.returncode == 0
        assert result.stdout.startswith("AssertionError: Torch not compiled")

    def test_a_pipe_is_read_on_request_only(self) -> None:
        result = doctor("-", input=ERROR)
        assert result.returncode == 0
        assert result.stdout.startswith("AssertionError: Torch not compiled")
        assert "convkit works here" in doctor(input=ERROR).stdout

    def test_a_pipe_that_is_slow(self) -> None:
        writer = subprocess.Popen(
            [sys.executable, "-c", f"import time; time.sleep(2); print({ERROR!r})"], stdout=subprocess.PIPE
        )
        result = doctor("-", stdin=writer.stdout)
        writer.wait()
        assert result.returncode == 0
        assert result.stdout.startswith("AssertionError: Torch not compiled")

    @pytest.mark.parametrize("kind", ["empty file", "closed"])
    def test_without_a_text_the_machine_is_examined(self, kind: str, tmp_path: Path) -> None:
        if kind == "empty file":
            (tmp_path / "empty").touch()
            with (tmp_path / "empty").open() as stream:
                result = doctor(stdin=stream)
        else:
            shell = " ".join([*CONVKIT, "doctor"]) + " <&-"
            result = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60)
        assert result.returncode == 0
        assert "convkit works here" in result.stdout

    def test_a_pipe_that_nobody_writes_to_does_not_hang(self) -> None:
        reader, writer = os.pipe()
        try:
            result = doctor(stdin=reader)
        finally:
            os.close(reader)
            os.close(writer)
        assert result.returncode == 0
        assert (result.stdout.splitlines()[-1], result.stderr) == ("convkit works here", "")


class TestTensorRT:
    @pytest.fixture
    def report(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        """Let the examination return these steps."""

        def give(*steps: Step, recommendations: tuple[Recommendation, ...] = ()) -> None:
            made = TensorRTReport(steps, recommendations)
            monkeypatch.setattr("convkit.doctor.tensorrt.examine_tensorrt", lambda progress: made)

        return give

    @pytest.mark.slow
    def test_this_machine_with_the_genuine_library(self, tmp_path: Path) -> None:
        """Without a GPU: all that needs none passes, the rest is skipped with its reason, and no figure is given."""
        if not missing_gpu():
            pytest.skip("this machine has a GPU")
        file = tmp_path / "reports" / "report.json"
        result = subprocess.run(
            [*CONVKIT, "doctor", "--tensorrt", "--quiet", "--output", str(file)],
            capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL,
            env={**os.environ, "CONVKIT_CACHE": str(tmp_path / "cache")},
        )  # fmt: skip
        assert result.returncode == 0, result.stdout + result.stderr
        document = json.loads(file.read_text())
        assert (document["exit_code"], document["recommendations"]) == (0, [])
        table: dict[str, list[dict[str, Any]]] = {}
        for step in document["steps"]:
            if step["section"] == "tensorrt-rtx":
                table.setdefault(step["name"], []).append(step)
        for way in ("grid-sample", "gather"):
            built = table[f"dcn={way}: built"]
            assert [step["state"] for step in built] == ["passed"] * 4
            for step in built:
                states = {name: rung["status"] for name, rung in step["details"]["ladder"].items()}
                assert states == {
                    "accepted": "passed", "understood": "passed", "built": "passed", "ran": "pending",
                }  # fmt: skip
            for stage in ("ran", "loaded again", "200 changes of shape"):
                assert {step["state"] for step in table[f"dcn={way}: {stage}"]} == {"skipped"}
        assert {step["state"] for step in table["dcn=native: built"]} == {"not offered"}
        for step in document["steps"]:
            assert step["text"]
            if step["state"] == "skipped":
                assert "GPU" in step["text"] or "not installed" in step["text"]
        assert not re.search(r"\d ms\b", result.stdout + file.read_text())
        assert str(tmp_path) not in file.read_text()
        assert not (tmp_path / "cache" / "recommendations").exists()

    @pytest.mark.parametrize(("state", "code"), [("passed", 0), ("skipped", 0), ("failed", 5), ("wrong", 4)])
    def test_exit_codes(self, state: str, code: int, report: Any, capsys: Any) -> None:
        report(Step("tensorrt", "dcn=gather: ran", state, "what was seen", "what to do"))
        found, out, _ = run(capsys, "--tensorrt")
        assert found == code
        assert "what was seen" in out
        assert "what to do" in out
        last = {0: "all steps that can be made here passed", 5: "do not work", 4: "compute something wrong"}[code]
        assert last in out.splitlines()[-1]

    def test_json_is_what_is_written(self, report: Any, capsys: Any, tmp_path: Path) -> None:
        report(Step("machine", "GPU", "skipped", "no GPU", details={"name": "é"}))
        code, out, _ = run(capsys, "--tensorrt", "--json", "-o", tmp_path / "a.json")
        assert code == 0
        assert json.loads(out) == json.loads((tmp_path / "a.json").read_text())
        assert json.loads(out)["steps"][0]["details"] == {"name": "é"}

    def test_the_recommended_flag_comes_last(self, report: Any, capsys: Any) -> None:
        made = Recommendation(
            "dcn", "tensorrt", "11.4", "Card", "13000", {"float32": "gather", "float16": "plugin"},
            {"float32": {"gather": 1.5}, "float16": {"plugin": 0.25, "gather": 1.0}},
        )  # fmt: skip
        report(Step("tensorrt", "x", "passed", "y"), recommendations=(made,))
        _, out, _ = run(capsys, "--tensorrt")
        assert out.splitlines()[-1] == (
            "tensorrt: --set dcn=gather in float32 (float32: gather 1.500 ms);"
            " --set dcn=plugin in float16 (float16: plugin 0.250 ms, gather 1.000 ms)"
        )

    def test_what_was_stored_is_among_the_findings(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
    ) -> None:
        monkeypatch.setenv("CONVKIT_CACHE", str(tmp_path))
        times = {"float32": {"gather": 1}}
        made = Recommendation("dcn", "tensorrt", "11.4", "Card", "13000", {"float32": "gather"}, times)
        store(made)
        (tmp_path / "recommendations" / "broken.json").write_text("{")
        (tmp_path / "recommendations" / "edited.json").write_text(json.dumps({**asdict(made), "milliseconds": {}}))
        (tmp_path / "recommendations" / "other.json").write_text("[1]")
        assert [finding.text for finding in check_recommendations()] == [
            "11.4 on Card: --set dcn=gather (float32: gather 1.000 ms)"
        ]

    @pytest.mark.parametrize(
        ("words", "code", "text"),
        [
            (["--tensorrt", "error.log"], 2, "Leave error.log out."),
            (["--output", "x.json"], 2, "Add --tensorrt"),
            (["--tensorrt", "--output", "."], 1, "is a folder"),
        ],
    )
    def test_words_that_do_not_fit(self, words: list[str], code: int, text: str, report: Any, capsys: Any) -> None:
        report()
        found, _, err = run(capsys, *words)
        assert found == code
        assert text in err

    def test_a_report_that_cannot_be_written(self, report: Any, capsys: Any, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        report(Step("machine", "GPU", "skipped", "no GPU"))
        code, out, err = run(capsys, "--tensorrt", "-o", tmp_path / "file" / "report.json")
        assert code == 1
        assert "Cannot write" in err
        assert "no GPU" in out
