"""The child process: it does a list of tasks with the bindings, and reports each on its own line.

The folder that it is given has ``job.json``. Everything it writes goes there; what a library prints, and every
message of TensorRT, goes into ``log.txt``. The parent keeps standard input open: when it ends, so does the child,
and the folder goes.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convkit.backends.tensorrt._registrations import Registrations

__all__ = ["main"]

Emit = Callable[[dict[str, Any]], None]
ROOM = "Make room on the disk, or set TMPDIR to a folder on another one."


def main(folder: Path) -> None:
    """Do the tasks of ``folder/job.json``."""
    ended = threading.Event()
    threading.Thread(target=_end_with_the_parent, args=(folder, ended), daemon=True).start()
    done = False
    try:
        _work(folder)
        done = True
    finally:
        if not done and ended.is_set():  # the other thread is removing what this one wanted to use
            _vanish(folder)


def _work(folder: Path) -> None:
    report = os.fdopen(os.dup(1), "w", encoding="utf-8")
    log = (folder / "log.txt").open("w", encoding="utf-8", errors="replace")
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)

    def emit(value: dict[str, Any]) -> None:
        try:
            report.write(json.dumps(value) + "\n")
            report.flush()
        except BrokenPipeError:
            _vanish(folder)

    def write_log(severity: str, message: str) -> None:
        if severity != "VERBOSE":
            log.write(f"[{severity}] {message}\n")
            log.flush()

    from convkit.errors import ConvkitError, EnvironmentProblem

    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    try:
        from convkit.backends.tensorrt._bindings import load_bindings
        from convkit.backends.tensorrt._flavour import find_flavour
        from convkit.backends.tensorrt._registrations import Registrations

        links = folder / "libraries"
        links.mkdir()
        bindings = load_bindings(find_flavour(job["flavour"]), links)
        bindings.sinks.append(write_log)
        plugins = Registrations(bindings)
        for index, task in enumerate(job["tasks"]):
            emit({"event": "start", "task": index})
            result: dict[str, Any] = {"errors": [], "problem": None, "read": False, "targets": {}, "built": False}
            try:
                plugins.add(task["plugins"])
                _do(bindings, task, folder / str(index), emit, result, plugins)
            except ConvkitError as error:
                result.update(problem=_pack(error), built=False)
            except OSError as error:
                place = f"{error.strerror or error}: {error.filename or folder}"
                result["problem"] = _pack(EnvironmentProblem(f"The results cannot be written: {place}.", hint=ROOM))
            emit({"event": "result", "task": index, "version": bindings.version, **result})
    except ConvkitError as error:
        emit({"event": "problem", **_pack(error)})
    report.flush()
    os._exit(0)  # no destructors: some of the library's crash


def _pack(error: Any) -> dict[str, str]:
    return {"kind": type(error).__name__, "message": error.message, "hint": error.hint}


def _do(
    bindings: Any, task: dict[str, Any], folder: Path, emit: Emit, result: dict[str, Any], plugins: Registrations
) -> None:
    from convkit.backends.tensorrt._bindings import ParsedModel

    folder.mkdir()
    model = Path(task["model"])
    reason = _refusal_of_the_standard(model)
    if reason:
        result["errors"] = [{"node": -1, "name": "", "operator": "", "code": "ONNX_CHECKER", "message": reason}]
        return
    emit({"event": "progress", "step": "parse", "done": 0, "total": 0})
    parsed = ParsedModel(bindings, model)
    plugins.check()
    result["errors"] = parsed.errors
    if parsed.errors:
        return
    if task["read"]:
        with (folder / "weights.bin").open("wb") as stream:
            table = parsed.read(stream)
        plugins.check()
        (folder / "network.json").write_text(json.dumps(table), encoding="utf-8")
        result["read"] = True
    if task["build"] is not None:
        _build(parsed, task["build"], folder, emit, result)
        plugins.check()


def _refusal_of_the_standard(model: Path) -> str:
    """Return why this is no valid ONNX model, or an empty string."""
    import onnx

    from convkit._onnx_errors import onnx_errors

    try:
        onnx.checker.check_model(str(model))
    except onnx_errors() as error:
        return " ".join(str(error).split())[:400] or type(error).__name__
    return ""


def _build(parsed: Any, build: dict[str, Any], folder: Path, emit: Emit, result: dict[str, Any]) -> None:
    """Build for all targets at once; if that fails, find out for which of them it does."""
    from convkit.backends.tensorrt._options import BuildSettings

    settings = BuildSettings(**build["settings"])
    timing_cache = None if build["timing_cache"] is None else Path(build["timing_cache"])

    def attempt(targets: list[str]) -> Any:
        def step(phase: str, done: int, total: int) -> bool:
            if phase:
                emit({"event": "progress", "step": f"build for {', '.join(targets)}", "done": done, "total": total})
            return True

        return parsed.build(targets, build["ranges"], build["values"], step, settings, timing_cache)

    targets: list[str] = build["targets"]
    outcome = attempt(targets)
    if outcome.plan is not None:
        (folder / "model.plan").write_bytes(outcome.plan)
        result["built"] = True
        result["targets"] = dict.fromkeys(targets, "")
        return
    for target in targets:
        single = attempt([target]) if len(targets) > 1 else outcome
        reason = " ".join(single.problems[:3]) or "no reason given"
        result["targets"][target] = "" if single.plan is not None else reason


def _end_with_the_parent(folder: Path, ended: threading.Event) -> None:
    """Wait for the end of the parent, seen as the end of standard input; then end as well."""
    while os.read(0, 1):
        pass
    ended.set()
    _vanish(folder)


def _vanish(folder: Path) -> None:
    """Remove the folder and end the process."""
    for _ in range(100):  # the other thread may be writing into it
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            break
    os._exit(1)
