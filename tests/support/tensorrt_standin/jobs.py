"""Child process: drive plugins through the genuine bindings over the stand-in, each in a process of its own.

    python jobs.py REQUEST ANSWER

REQUEST is a JSON file with modules to import and jobs, ANSWER the file for what came of them. The modules and the
bindings are imported once, then the process forks for every job, so that no plugin sees another one's registration and
one that crashes ends nothing else.
"""

import ctypes
import importlib
import json
import os
import signal
import sys
import tempfile
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt
import tensorrt.plugin
import tensorrt_libs

SECONDS = 120
"""A job that takes longer is ended."""


class Field(ctypes.Structure):
    """An attribute as the parser hands it over; ``length`` counts items."""

    _fields_ = (
        ("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("type", ctypes.c_int32), ("length", ctypes.c_int32),
    )  # fmt: skip


def drive(job: dict[str, Any]) -> Any:
    """Register what the setup of a job registers, and return what the driver returns."""
    exec(compile(job["setup"], job["file"], "exec", dont_inherit=True), {"__name__": "plugin_under_test"})
    kept, fields = [], (Field * len(job["fields"]))()
    for field, (name, kind, values) in zip(fields, job["fields"], strict=True):
        data = np.frombuffer(values.encode(), np.uint8) if kind == "char" else np.array(values, kind)
        kept.append(data)
        field.name, field.data, field.length = name.encode(), data.ctypes.data, data.size
        field.type = int(getattr(tensorrt.PluginFieldType, kind.upper()))
    numbers: list[int] = []
    for given in job["inputs"]:
        numbers += [int(getattr(tensorrt.DataType, given["dtype"])), len(given["dims"])]
        for sizes in zip(given["dims"], given["min"], given["opt"], given["max"], strict=True):
            numbers += sizes
    inputs = array("q", numbers)
    cases = array("q", [size for case in job["cases"] for shape in case for size in shape])
    call = tensorrt_libs.NVINFER.standin_drive
    call.restype = ctypes.c_char_p
    answer = call(
        job["name"].encode(), job["namespace"].encode(), fields, len(fields),
        ctypes.c_void_p(inputs.buffer_info()[0]), len(job["inputs"]),
        ctypes.c_void_p(cases.buffer_info()[0]), len(job["cases"]),
    )  # fmt: skip
    return json.loads(answer.decode(errors="replace"))


def work(job: dict[str, Any], log: int, answer: Path) -> None:
    """Do a job in this process, with everything that is printed in a file."""
    signal.alarm(SECONDS)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        result = {"drive": drive(job), "error": None}
    except Exception as error:
        result = {"drive": None, "error": f"{type(error).__name__}: {error}"}
    sys.stderr.flush()
    answer.write_text(json.dumps(result))


def main(request: str, answer: str) -> None:
    """Do all jobs."""
    names = {int(value): name for name, value in tensorrt.DataType.__members__.items()}
    formats = {int(value): name for name, value in tensorrt.TensorFormat.__members__.items()}
    results = []
    asked = json.loads(Path(request).read_text())
    for module in asked["preload"]:
        importlib.import_module(module)
    with tempfile.TemporaryDirectory() as folder:
        for index, job in enumerate(asked["jobs"]):
            log, one = Path(folder, f"{index}.log"), Path(folder, f"{index}.json")
            handle = os.open(log, os.O_CREAT | os.O_RDWR)
            sys.stdout.flush()
            child = os.fork()
            if child == 0:
                try:
                    work(job, handle, one)
                finally:
                    os._exit(0)
            _, status = os.waitpid(child, 0)
            os.close(handle)
            how = f"by {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else "without an answer"
            done = {"drive": None, "error": f"the process ended {how}"}
            if one.exists():
                done = json.loads(one.read_text())
            results.append({**done, "log": log.read_text(errors="replace")})
    everything = {"version": tensorrt.__version__, "types": names, "formats": formats, "results": results}
    Path(answer).write_text(json.dumps(everything))


if __name__ == "__main__":
    main(*sys.argv[1:])
