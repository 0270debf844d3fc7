"""Python processes that start warm: what is slow to import is imported once, and each process is a fork of that.

A document runs sixty commands, and each would import PyTorch. `commands` makes a folder of programs to stand first in
PATH: ``convkit``, ``python`` and ``pytest`` have their arguments, directory, environment and streams, and a process
to themselves, as the genuine ones do.

Run as ``python warm.py SOCKET`` it is the process from which the others are forked. It ends with its stdin.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import runpy
import selectors
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["commands"]

_SLOW = (
    "torch", "onnx", "onnxruntime", "onnxscript", "onnx_graphsurgeon", "polygraphy.backend.onnxrt", "cv2", "cupy",
    "pycocotools.cocoeval", "pluggy", "typer", "pydantic.fields", "pydantic.types", "rich.table", "rich.progress",
    "jinja2", "msgspec.json", "sqlite3", "packaging.requirements",
)  # fmt: skip
_LOST = 70
"""The exit status of a command whose process could not be made."""

# What the programs in the folder do: it imports little, for it runs as often as they do.
_PROGRAM = """#!{python} -IS
import os, signal, socket, sys, json
signal.signal(signal.SIGINT, signal.SIG_IGN)
link = socket.socket(socket.AF_UNIX)
link.connect({path!r})
word = json.dumps([{name!r}, sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(link, [len(word).to_bytes(8, "little")], [0, 1, 2])
link.sendall(word)
status = link.recv(16)
os._exit(int(status) if status else {lost})
"""


@contextlib.contextmanager
def commands(environment: Mapping[str, str]) -> Iterator[Path]:
    """Start the process that others are forked from; give the folder of programs.

    ``environment`` holds what modules read at their import.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = str(folder / "socket")
        for program in ("convkit", "python", "pytest"):
            file = folder / program
            file.write_text(_PROGRAM.format(python=sys.executable, path=path, name=program, lost=_LOST))
            file.chmod(0o755)
        server = subprocess.Popen(
            [sys.executable, "-P" if sys.version_info >= (3, 11) else "-B", __file__, path],
            env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert server.stdout is not None
        assert server.stdin is not None
        try:
            assert server.stdout.readline() == "ready\n", "the process that others are forked from did not start"
            yield folder
        finally:
            server.stdin.close()
            server.wait()
            server.stdout.close()


def _serve(path: str) -> None:
    """Fork a process for each connection until stdin ends."""
    sys.path[:] = [entry for entry in sys.path if Path(entry) != Path(__file__).parent]
    for name in _SLOW:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    _export_once()
    torch: Any = sys.modules["torch"]
    torch.manual_seed(0)  # what is random in a document, and in its text needs no seed, is the same in each run
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    print("ready", flush=True)
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        while True:
            ended = any(key.fd == 0 for key, _ in selector.select())
            with contextlib.suppress(ChildProcessError):  # there is none
                while os.waitpid(-1, 0 if ended else os.WNOHANG) != (0, 0):
                    pass
            if ended:
                return
            link, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                os._exit(_attend(link))
            link.close()


def _export_once() -> None:
    """Let PyTorch's exporter import what it does at its first export, and keep what it makes anew for each."""
    import torch

    spec = importlib.util.spec_from_file_location("convkit_tests_exporter", Path(__file__).with_name("exporter.py"))
    assert spec is not None
    assert spec.loader is not None
    exporter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(exporter)
    exporter.quick_exports()
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.zeros(2, 3, 8, 8),), dynamo=True, opset_version=20, verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4)},),
        )  # fmt: skip


def _attend(link: socket.socket) -> int:
    """Run what a program asks for in a process of its own, and tell the program how it ended."""
    size, streams, _, _ = socket.recv_fds(link, 8, 3)
    left, word = int.from_bytes(size, "little"), b""
    while len(word) < left:
        part = link.recv(left - len(word))
        if not part:
            return 1
        word += part
    program, arguments, folder, environment = json.loads(word)
    child = os.fork()
    if child == 0:
        link.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os._exit(_run(program, arguments, folder, environment))
    for stream in streams:  # a reader of a pipe waits until nobody can write to it
        os.close(stream)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    link.sendall(str(status if status >= 0 else 128 - status).encode())
    return 0


def _run(program: str, arguments: list[str], folder: str, environment: dict[str, str]) -> int:
    """Do in this process what the program would do in a new one; return its exit status."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [
        str(Path(entry).resolve()) for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry
    ]
    importlib.invalidate_caches()
    status: object = 0
    try:
        if program == "python":
            _python(arguments)
        else:
            sys.argv = [program, *arguments]
            module = importlib.import_module("convkit.cli" if program == "convkit" else program)
            status = (module.main if program == "convkit" else module.console_main)()
    except SystemExit as ending:
        status = ending.code
    except BaseException:
        traceback.print_exc()
        status = 1
    if not isinstance(status, int) and status is not None:
        print(status, file=sys.stderr)
        status = 1
    end: Any = threading
    end._shutdown()
    last: Any = atexit
    last._run_exitfuncs()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    return int(status or 0) & 0xFF


def _python(arguments: list[str]) -> None:
    """Run ``-c CODE``, ``-m MODULE`` or ``FILE`` with what follows."""
    first, *others = arguments
    if first == "-c":
        code, *others = others
        sys.argv = ["-c", *others]
        sys.path.insert(0, "")
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), main.__dict__)
    elif first == "-m":
        sys.argv = others
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(others[0], run_name="__main__", alter_sys=True)
    elif not first.startswith("-"):
        sys.argv = arguments
        sys.path.insert(0, str(Path(first).resolve().parent))
        runpy.run_path(first, run_name="__main__")
    else:
        raise SystemExit(f"this Python knows -c, -m and files, not {shlex.join(arguments)}")


if __name__ == "__main__":
    _serve(sys.argv[1])
