"""Drive ahead-of-time plugins of full TensorRT through NVIDIA's plugin code, without TensorRT; say what is wrong.

`drive` asks a plugin everything that a build asks, in the same order: creator, outputs, type and format combinations,
tactics, launch configuration, extra arguments, kernel. The symbolic numbers are evaluated for concrete shapes, so the
result is what a direct launch of the kernel needs.
"""

from __future__ import annotations

import base64
import json
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from support import tensorrt_bindings

LAUNCH = ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "shared_mem")
RANGES = {
    "grid_x": (1, 2**31 - 1), "grid_y": (1, 65535), "grid_z": (1, 65535),
    "block_x": (1, 1024), "block_y": (1, 1024), "block_z": (1, 64), "shared_mem": (0, 49152),
}  # fmt: skip
"""What CUDA takes; of shared memory, what a kernel gets that did not ask for more."""
THREADS = 1024
INT32 = (-(2**31), 2**31 - 1)
SYMBOLIC_INT32 = (0, 2)
"""Kind and type of an extra argument."""
RAISED = re.compile(r"\[ERROR\] Exception (?:caught in|thrown from) \w+\(\):?\s*(.*)")
"""How the bindings print the exception of a plugin."""
_FIELDS: dict[int, Callable[[Any], Any]] = {
    1: lambda attribute: np.array([attribute.f], np.float32),
    2: lambda attribute: np.array([attribute.i]).astype(np.int32),
    3: lambda attribute: attribute.s.decode() + "\0",
    6: lambda attribute: np.array(attribute.floats, np.float32),
    7: lambda attribute: np.array(attribute.ints, np.int64).astype(np.int32),
}
"""How the parser makes fields of attributes, by ONNX's number of their type: integers become 32 bits wide."""


@dataclass(frozen=True)
class Input:
    """A tensor of the network: a name of ``trt.DataType`` and dimensions, -1 for those that vary.

    ``min``, ``opt`` and ``max`` are those of the optimization profile; a tensor of fixed shape has none.
    """

    dtype: str
    dims: tuple[int, ...]
    min: tuple[int, ...] = ()
    opt: tuple[int, ...] = ()
    max: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("min", "opt", "max"):
            given = getattr(self, name) or self.dims
            if -1 in given or not self.fits(given):
                raise ValueError(f"{name} of an input has to be a shape of {list(self.dims)}, not {list(given)}")
            object.__setattr__(self, name, tuple(given))

    def fits(self, shape: Sequence[int]) -> bool:
        """Return whether it can have a shape."""
        return len(shape) == len(self.dims) and all(
            size == own or own == -1 for size, own in zip(shape, self.dims, strict=True)
        )


@dataclass(frozen=True)
class Job:
    """A plugin to drive.

    ``setup`` is Python code that registers it, as the text of a module; ``fields`` are its attributes as the ONNX
    parser makes them (NumPy arrays, of int32 for integers; `str` with the NUL that the parser appends); ``cases`` are
    the shapes of all inputs to evaluate for, by default the lowest, best and highest of the profile.
    """

    setup: str
    name: str
    namespace: str
    inputs: Sequence[Input]
    fields: Mapping[str, Any] = field(default_factory=dict)
    cases: Sequence[Sequence[Sequence[int]]] = ()
    file: str = "<plugin>"

    @classmethod
    def of_node(cls, setup: str, node: Any, inputs: Sequence[Input], **others: Any) -> Job:
        """Return the drive of the plugin that TensorRT's ONNX parser takes for a node (an ``onnx.NodeProto``).

        Raises:
            ValueError: an attribute is of a type that the parser makes no field of, or the node asks for another
                version than these plugins have, or does not ask for one that is compiled ahead of time.
        """
        fields: dict[str, Any] = {}
        for attribute in node.attribute:
            convert = _FIELDS.get(attribute.type)
            if convert is None:
                raise ValueError(f"the parser makes no field of the attribute {attribute.name!r}")
            fields[attribute.name] = convert(attribute)
        version, aot = fields.pop("plugin_version", "1\0").rstrip("\0"), fields.pop("aot", np.array([0]))
        if version != "1" or aot.tolist() != [1]:
            raise ValueError(f"plugin_version is {version} and aot {aot.tolist()}: both have to be 1")
        namespace = fields.pop("plugin_namespace", node.domain).rstrip("\0")
        return cls(setup, node.op_type, namespace, inputs, fields, **others)

    def shapes(self) -> list[list[tuple[int, ...]]]:
        """Return the cases."""
        cases = self.cases or [[getattr(given, which) for given in self.inputs] for which in ("min", "opt", "max")]
        for case in cases:
            for given, shape in zip(self.inputs, case, strict=True):
                inside = all(low <= size <= high for low, size, high in zip(given.min, shape, given.max, strict=False))
                if not given.fits(shape) or not inside:
                    raise ValueError(f"{list(shape)} is no shape of {given}")
        return [[tuple(shape) for shape in case] for case in cases]

    def to_json(self) -> dict[str, Any]:
        """Return it for the child process."""
        fields: list[list[Any]] = []
        for name, value in self.fields.items():
            text = isinstance(value, str)
            fields.append([name, "char", value] if text else [name, value.dtype.name, value.ravel().tolist()])
        return {
            "setup": self.setup, "file": self.file, "name": self.name, "namespace": self.namespace, "fields": fields,
            "inputs": [asdict(given) for given in self.inputs], "cases": self.shapes(),
        }  # fmt: skip


def drive(version: str, job: Job) -> dict[str, Any]:
    """Return what a plugin answers in one version of the bindings; see `drive_all`."""
    return drive_all(version, [job])[0]


def drive_all(
    version: str, jobs: Sequence[Job], *, preload: Sequence[str] = (), registry: int | None = None
) -> list[dict[str, Any]]:
    """Return what plugins answer, one after the other, each in a process of its own.

    ``preload`` are modules that are imported once, before the processes part; ``registry`` is as in
    `tensorrt_bindings.search_path`.

    Each answer fits JSON: ``problems`` (empty if nothing is wrong), ``log`` (what was printed), and as far as the drive
    came ``version``, ``fields`` (names and types that the creator names), ``core`` (name, version, namespace),
    ``timing_cache_id``, ``metadata``, ``outputs`` (dtype, alias, dims, and shapes by case), ``combinations`` (types,
    formats, matches) and ``variants``, one for each tactic of each combination of the network's types: types, formats,
    tactic, launch (names of `LAUNCH`) and extra as expressions; launches and extras, their values by case; kernel;
    code_base64; ptx (version, target, parameters). In expressions ``i0.d2`` is dimension 2 of input 0.

    Raises:
        tensorrt_bindings.Unavailable: the bindings or the stand-in cannot be had here.
    """
    with tempfile.TemporaryDirectory() as name:
        request, answer = Path(name, "request.json"), Path(name, "answer.json")
        request.write_text(json.dumps({"preload": list(preload), "jobs": [job.to_json() for job in jobs]}))
        script = tensorrt_bindings.SOURCES / "jobs.py"
        tensorrt_bindings.run(version, str(script), str(request), str(answer), registry=registry)
        found = json.loads(answer.read_text())
    return [_Answer(job, found, result).table() for job, result in zip(jobs, found["results"], strict=True)]


class _Answer:
    """Turns what the driver returned into a table with names, and finds what is wrong in it."""

    def __init__(self, job: Job, everything: dict[str, Any], result: dict[str, Any]) -> None:
        self.types, self.formats = everything["types"], everything["formats"]
        self.job, self.result = job, result
        self.cases = [", ".join("x".join(map(str, shape)) for shape in case) for case in job.shapes()]
        self.found = {"version": everything["version"], "log": result["log"], "problems": []}

    def problem(self, text: str) -> None:
        if text not in self.found["problems"]:
            self.found["problems"].append(text)

    def table(self) -> dict[str, Any]:
        raw = self.result["drive"]
        if self.result["error"]:
            self.problem(self.result["error"])
        if raw is None:
            return self.found
        if raw["failed"]:
            self.problem(": ".join((f"{raw['failed']} failed", *RAISED.findall(self.result["log"])[-1:])))
        elif reasons := RAISED.findall(self.result["log"]):
            self.problem(f"an exception was swallowed: {reasons[-1]}")
        for name in ("core", "timing_cache_id", "metadata"):
            if name in raw:
                self.found[name] = raw[name]
        if "core" in raw and raw["core"] != [self.job.name, "1", self.job.namespace]:
            self.problem(f"the plugin says that it is {raw['core']}")
        if "fields" in raw:
            self.found["fields"] = raw["fields"]
            named, given = {name for name, _ in raw["fields"]}, set(self.job.fields)
            for name in sorted(given - named):
                self.problem(f"the creator names no attribute {name!r}")
            for name in sorted(named - given):
                self.problem(f"the node has no attribute {name!r}")
        if "outputs" in raw:
            self.found["outputs"] = list(map(self.output, range(len(raw["outputs"])), raw["outputs"]))
        if "combinations" in raw:
            self.combinations(raw["combinations"])
        if "variants" in raw:
            complete = [entry for entry in raw["variants"] if "code" in entry]
            self.found["variants"] = [self.variant(entry) for entry in complete]
            if not complete and not raw["failed"]:
                self.problem("no combination has the types of the network")
        return self.found

    def output(self, index: int, raw: dict[str, Any]) -> dict[str, Any]:
        where = f"output {index}"
        dims = [self.expression(f"{where} dimension {axis}", expr) for axis, expr in enumerate(raw["dims"])]
        shapes = [[dim["values"][case] for dim in dims] for case in range(len(self.cases))]
        for case, shape in enumerate(shapes):
            if any(size is not None and size < 1 for size in shape):
                self.problem(f"{where} is {shape} for {self.cases[case]}")
        if not -1 <= raw["alias"] < len(self.job.inputs):
            self.problem(f"{where} is an alias of input {raw['alias']}")
        return {
            "dtype": self.types.get(str(raw["type"]), raw["type"]), "alias": raw["alias"],
            "dims": [dim["text"] for dim in dims], "shapes": shapes,
        }  # fmt: skip

    def expression(self, where: str, raw: dict[str, Any] | None) -> dict[str, Any]:
        """Return text and values of an expression; values are None where it has none."""
        if raw is None:
            self.problem(f"{where} is no symbolic integer")
            return {"text": None, "values": [None] * len(self.cases)}
        for value, case in zip(raw["values"], self.cases, strict=True):
            if isinstance(value, str):
                self.problem(f"{where}, {raw['text']}: {value} for {case}")
        return {"text": raw["text"], "values": [None if isinstance(value, str) else value for value in raw["values"]]}

    def symbol(self, where: str, raw: dict[str, Any] | None, limits: tuple[int, int]) -> dict[str, Any]:
        """Return an expression that is passed as a 32-bit integer, within limits."""
        if raw is not None and (raw["kind"], raw["type"]) != SYMBOLIC_INT32:
            self.problem(f"{where} is no 32-bit integer")
        found = self.expression(where, raw and raw["expr"])
        for value, case in zip(found["values"], self.cases, strict=True):
            if value is not None and not limits[0] <= value <= limits[1]:
                self.problem(f"{where} is {value} for {case}, not in {limits[0]} .. {limits[1]}")
        return found

    def combinations(self, raw: list[dict[str, Any]]) -> None:
        self.found["combinations"] = [
            {
                "types": [self.types.get(str(value), value) for value in entry["types"]],
                "formats": [self.formats.get(str(value), value) for value in entry["formats"]],
                "matches": entry["matches"],
            }
            for entry in raw
        ]

    def variant(self, raw: dict[str, Any]) -> dict[str, Any]:
        combination = self.found["combinations"][raw["combination"]]
        where = f"tactic {raw['tactic']}, {'/'.join(dict.fromkeys(map(str, combination['types'])))}"
        if raw["custom"] and raw["tactic"] < 1:
            self.problem(f"{where}: a custom tactic has to be positive")
        launch = [
            self.symbol(f"{where}: {name}", entry, RANGES[name])
            for name, entry in zip(LAUNCH, raw["launch"], strict=True)
        ]
        extra = [
            self.symbol(f"{where}: extra argument {index}", entry, INT32) for index, entry in enumerate(raw["extra"])
        ]
        launches = [[expr["values"][case] for expr in launch] for case in range(len(self.cases))]
        extras = [[expr["values"][case] for expr in extra] for case in range(len(self.cases))]
        code = bytes.fromhex(raw["code"])
        found = {
            "types": combination["types"], "formats": combination["formats"], "tactic": raw["tactic"],
            "launch": [expr["text"] for expr in launch], "extra": [expr["text"] for expr in extra],
            "launches": launches, "extras": extras,
            "kernel": raw["kernel"], "code_base64": base64.b64encode(code).decode(),
        }  # fmt: skip
        pointers = len(self.job.inputs), len(self.found["outputs"])
        found["ptx"] = kernel = read_ptx(code, raw["kernel"] or "")
        for text in _misfits(kernel, pointers, len(extra), launches):
            self.problem(f"{where}: {text}")
        return found


def read_ptx(code: bytes, kernel: str) -> dict[str, Any]:
    """Return what PTX says of a kernel: version, target, types of its parameters, static shared memory, most threads.

    ``parameters`` is None where there is no such kernel; without a ``version`` it is no PTX.
    """
    text = code.decode(errors="replace")
    head = re.search(r"^\s*\.version\s+(\d+\.\d+)\s+\.target\s+(\w+)", text, flags=re.MULTILINE)
    entry = (
        re.search(rf"\.entry\s+{re.escape(kernel)}\s*(?:\(([^)]*)\)|(?![\w$]))([^{{(]*)\{{", text) if kernel else None
    )
    threads = re.search(r"\.(?:max|req)ntid\s+([\d, ]+)", entry.group(2)) if entry else None
    return {
        "version": head and head.group(1), "target": head and head.group(2),
        "parameters": re.findall(r"\.param\s+\.(\w+)", entry.group(1) or "") if entry else None,
        "static_shared": _static_shared(text, entry.end()) if entry else 0,
        "threads": math.prod(map(int, threads.group(1).split(","))) if threads else None,
    }  # fmt: skip


def _static_shared(text: str, start: int) -> int:
    """Return the bytes of shared memory that the function with the body from ``start`` on declares or names."""
    end, depth = start, 1
    while depth and end < len(text):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        end += 1
    size = 0
    for found in re.finditer(r"\.shared\s+(?:\.align\s+\d+\s+)?\.[a-z](\d+)\s+([\w$]+)\[(\d+)\]", text):
        named = re.search(rf"(?<![\w$]){re.escape(found.group(2))}(?![\w$])", text[start:end])
        outside = text.count("{", 0, found.start()) == text.count("}", 0, found.start())
        if start <= found.start() < end or (outside and named):
            size += int(found.group(1)) // 8 * int(found.group(3))
    return size


def _misfits(
    kernel: dict[str, Any], pointers: tuple[int, int], extra: int, launches: Sequence[Sequence[int | None]]
) -> Iterator[str]:
    """Yield why a kernel cannot be launched as TensorRT does: pointers of inputs, 32-bit integers, then of outputs."""
    if kernel["version"] is None:
        yield "the code is no PTX"
        return
    if kernel["parameters"] is None:
        yield "the code has no kernel of that name"
        return
    widths = [int(re.sub(r"\D", "", kind)) for kind in kernel["parameters"]]
    wanted = [64] * pointers[0] + [32] * extra + [64] * pointers[1]
    if widths != wanted:
        yield f"the kernel has parameters of {widths} bits, and is passed {wanted}"
    for _, _, _, x, y, z, shared in launches:
        if None not in (x, y, z):
            if x * y * z > THREADS:
                yield f"a block has {x * y * z} threads"
            if kernel["threads"] is not None and x * y * z > kernel["threads"]:
                yield f"a block has {x * y * z} threads, and the kernel takes {kernel['threads']}"
        if shared is not None and shared + kernel["static_shared"] > RANGES["shared_mem"][1]:
            yield f"a block needs {shared + kernel['static_shared']} bytes of shared memory"
