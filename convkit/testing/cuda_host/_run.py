"""Compile a kernel for the host and run one launch of it."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from convkit.cuda import Argument, LaunchConfig, Variant, cache_folder, itemsize
from convkit.errors import EnvironmentProblem, KernelArgumentError, KernelError
from convkit.files import sha256

__all__ = ["Order", "host_problem", "run_on_host"]

Order = Literal["forward", "reverse"] | int
"""The order of blocks, and of threads between two barriers; an int is the seed of a random order."""

_INCLUDE = Path(__file__).parent / "include"
_HEADERS = ("host.h", "host_races.h", "host_functions.h", "host_guard.h")
# With DWARF 5, addr2line takes the first file of a source for the standard input. Following variables, for which nobody
# asks, takes a fifth of the time of compiling.
_FLAGS = (
    *("-std=c++17", "-g1", "-gdwarf-4", "-fno-var-tracking"),
    *("-fPIC", "-w", "-fvisibility=hidden", "-U_FORTIFY_SOURCE"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-strict-aliasing", "-fno-exceptions"),
)
_QUICK = ("-Og",)  # a kernel takes longer to compile than to run
_CORE = ("-O2", "-DCONVKIT_HOST_CORE=1")  # what runs the threads is compiled once
_CHECKS = (  # trap instructions instead of the sanitizer's library
    "-fsanitize=alignment,bounds,shift,signed-integer-overflow,integer-divide-by-zero",
    "-fsanitize-undefined-trap-on-error",
)
# Every access calls a function of host_races.h. Helpers are inlined, so that messages name the line of their caller.
_WITH_RACES = "-DCONVKIT_HOST_RACES=1"
_RACES = ("-O1", _WITH_RACES, "-fsanitize=thread", "-finline-small-functions")
_DYNAMIC_SHARED = re.compile(
    r"extern\s+__shared__\s+(?:(?:__align__|alignas)\s*\(\s*\d+\s*\)\s*)?([\w:]+(?:\s+[\w:]+)*)\s+(\w+)\s*\[\s*\]\s*;"
)
_DYNAMIC_ON_HOST = r"static \1*& \2 = reinterpret_cast<\1*&>(convkit_host::dynamic_memory);"
_MOST_SHARED = 232448  # bytes that a block of sm_90 may use; SHARED of host.h
_MESSAGE_BYTES = 4096
_LOCK = threading.Lock()  # the state of a launch is in global variables of its library


class _Span(ctypes.Structure):
    """``convkit_host::Span``: an array, and private data about its guarded copy."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_size_t),
        ("alignment", ctypes.c_size_t),
        ("output", ctypes.c_int),
        ("private", ctypes.c_void_p * 3),
    )


class _Request(ctypes.Structure):
    """``convkit_host::Request``: one launch."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("order", ctypes.c_int),
        ("seed", ctypes.c_ulonglong),
        ("values", ctypes.POINTER(ctypes.c_void_p)),
        ("spans", ctypes.POINTER(_Span)),
        ("count", ctypes.c_int),
        ("guard", ctypes.c_int),
        ("timeout", ctypes.c_uint),
        ("message", ctypes.c_char_p),
        ("capacity", ctypes.c_size_t),
    )


def host_problem() -> str:
    """Return why kernels cannot run on this host, an empty text where they can."""
    try:
        _compiler(None)
    except EnvironmentProblem as error:
        return f"{error.message} {error.hint}".strip()
    return ""


def run_on_host(
    variant: Variant,
    launch: LaunchConfig,
    args: Sequence[np.ndarray[Any, Any] | int | float | None],
    *,
    compiler: str | None = None,
    guard: bool | Literal["end", "start"] = False,
    order: Order = "forward",
    races: bool = False,
    timeout: int = 120,
) -> None:
    """Run one launch of a kernel on the host; outputs are written in place.

    Shared memory is filled with 0xff bytes before each block, which is NaN in every floating-point type. A barrier that
    a thread of a block never reaches, and lanes of a warp that wait at different operations, are errors.

    Args:
        variant: the kernel; its source must compile where CONVKIT_DEVICE is 0.
        launch: grid, block and dynamic shared memory.
        args: one per declared argument: for pointers C-contiguous arrays of the declared dtype (bfloat16 as uint16), or
            None for a null pointer; for scalars numbers.
        compiler: the C++ compiler; by default ``$CXX``, g++ or clang++.
        guard: run in a child process on copies next to inaccessible memory, inputs read-only: an access outside of an
            array is an error instead of a crash. With True and "end" the inaccessible memory is directly behind each
            array, with "start" directly before it. Misaligned accesses, indices beyond arrays of known size, signed
            overflow, and undefined shifts and divisions are errors, too.
        order: the order of blocks, and of threads between barriers. With a seed, some warps also run ahead of others
            as far as barriers allow. Results that depend on the order show a race.
        races: report races in shared memory, in any order of execution: two threads access the same byte, not both
            reading or both atomic, and neither a block barrier, ``__syncwarp`` nor an mbarrier orders them. Shuffles
            and votes do not order memory. The first race ends the launch. Add ``guard`` where a value that is read too
            early may be used as an index. ``include/host_races.h`` lists what is not detected.
        timeout: seconds after which a guarded run is an error; 0 for never.

    Raises:
        EnvironmentProblem: this is no Linux, or there is no C++ compiler.
        KernelArgumentError: the launch or an argument does not fit the declaration.
        KernelError: the source does not compile, its signature is not the declared one, or the run failed a check.
    """
    launch.check()
    shared = launch.dynamic_smem_bytes
    if shared > _MOST_SHARED:
        raise KernelArgumentError(f"No GPU has {shared} bytes of shared memory for a block.")
    arguments = variant.kernel.arguments
    if len(args) != len(arguments):
        raise KernelArgumentError(f"{variant.label} takes {len(arguments)} arguments; {len(args)} are given.")
    pairs = list(zip(arguments, args, strict=True))
    boxes = [_box(variant, argument, value) for argument, value in pairs]
    library = _library(variant.text(), variant.kernel.name, _compiler(compiler), bool(guard), races)
    _check_signature(variant, library)

    request = _Request(tuple(launch.grid), tuple(launch.block), shared)
    request.order = {"forward": 0, "reverse": 1}.get(str(order), 2)
    request.seed = order if isinstance(order, int) else 0
    request.values = (ctypes.c_void_p * len(boxes))(*(ctypes.addressof(box) for box in boxes))
    request.spans = (_Span * len(boxes))(*(_span(variant, argument, value) for argument, value in pairs))
    request.count = len(boxes)
    request.guard = 2 if guard == "start" else int(bool(guard))
    request.timeout = timeout
    message = ctypes.create_string_buffer(_MESSAGE_BYTES)
    request.message = ctypes.cast(message, ctypes.c_char_p)
    request.capacity = _MESSAGE_BYTES
    with _LOCK:
        library.convkit_host_run(ctypes.byref(request))
    if message.value:
        text = re.sub(r"\[pc (\w+)\]", lambda match: _line(library._name, match[1]), message.value.decode())
        raise KernelError(f"{variant.label} failed on the host: {text}.")


def _box(variant: Variant, argument: Argument, value: Any) -> Any:
    """Return the value of an argument as a ctypes object."""
    dtype = variant.dtype(argument)
    where = f"Argument {argument.name!r} of {variant.label}"
    if not argument.pointer:
        kind = {"int32": ctypes.c_int32, "uint32": ctypes.c_uint32, "int64": ctypes.c_int64, "float32": ctypes.c_float}
        if dtype == "float32":
            if not isinstance(value, (int, float, np.integer, np.floating)):
                raise KernelArgumentError(f"{where} is a number; got {type(value).__name__}.")
            return ctypes.c_float(float(value))
        if not isinstance(value, (int, np.integer)):
            raise KernelArgumentError(f"{where} is an {dtype}; got {type(value).__name__}.")
        info = np.iinfo(dtype)
        if not info.min <= value <= info.max:
            raise KernelArgumentError(f"{where} is an {dtype}, which cannot hold {value}.")
        return kind[dtype](int(value))
    if value is None:
        return ctypes.c_void_p(None)
    expected = np.dtype("uint16" if dtype == "bfloat16" else dtype)
    if not isinstance(value, np.ndarray) or value.dtype != expected:
        got = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise KernelArgumentError(f"{where} is an array of {expected}; got {got}.")
    if not value.flags.c_contiguous:
        raise KernelArgumentError(f"{where} is not C-contiguous.", hint="Use numpy.ascontiguousarray.")
    if argument.output and not value.flags.writeable:
        raise KernelArgumentError(f"{where} is an output; the array is read-only.")
    return ctypes.c_void_p(value.ctypes.data)


def _span(variant: Variant, argument: Argument, value: Any) -> _Span:
    if not isinstance(value, np.ndarray):
        return _Span()
    alignment = variant.alignment(argument)
    return _Span(argument.name.encode(), value.ctypes.data, value.nbytes, alignment, argument.output)


def _compiler(given: str | None) -> str:
    """Return the path of the C++ compiler."""
    if sys.platform != "linux":
        raise EnvironmentProblem("Kernels run on the host on Linux only.")
    names = [name for name in (given or os.environ.get("CXX"),) if name] or ["g++", "clang++"]
    for name in names:
        path = shutil.which(name)
        if path:
            return path
    raise EnvironmentProblem(
        f"There is no C++ compiler: {' or '.join(names)} was not found.",
        hint="Install one (on Debian and Ubuntu: apt install g++), or name one with CXX.",
    )


@lru_cache(maxsize=64)
def _library(text: str, entry: str, compiler: str, checked: bool, races: bool) -> ctypes.CDLL:
    """Return the library of a flat source, from the cache or compiled."""
    headers = _joined((name, (_INCLUDE / name).read_text(encoding="utf-8")) for name in _HEADERS)
    source = _joined(
        [("constants", _DYNAMIC_SHARED.sub(_DYNAMIC_ON_HOST, text)), ("entry", f"CONVKIT_HOST_ENTRY({entry})\n")]
    )
    flags = (*_FLAGS, *(_CHECKS if checked else ()), *(_RACES if races else _QUICK))
    core = (*_FLAGS, *_CORE, *((_WITH_RACES,) if races else ()))
    folder = cache_folder() / "host"
    path = folder / f"{sha256(json.dumps([_version(compiler), flags, core, headers, source]))}.so"
    if not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                include = ("-include", str(_precompiled(headers, compiler, flags, folder, Path(scratch))))
                built = Path(scratch) / "kernel.so"
                common = _core(headers, compiler, core, folder, Path(scratch))
                _compile(entry, source, compiler, (*flags, *include), common, built)
                built.replace(path)
        except OSError as error:
            raise EnvironmentProblem(
                f"The kernel cannot be built in {folder}: {error}.", hint="CONVKIT_CACHE names another folder."
            ) from error
    library = ctypes.CDLL(str(path))
    library.convkit_host_run.restype = None
    return library


def _joined(parts: Iterable[tuple[str, str]]) -> str:
    return "".join(f'#line 1 "{name}"\n{part}\n' for name, part in parts)


def _precompiled(headers: str, compiler: str, flags: Sequence[str], folder: Path, scratch: Path) -> Path:
    """Return a file of the headers, with what the compiler makes of them beside it.

    g++ takes that instead, where it fits; other compilers read the file.
    """
    file = folder / f"{sha256(json.dumps([_version(compiler), flags, headers]))}.h"
    if not file.exists():
        (scratch / "headers.h").write_text(headers, encoding="utf-8")
        command = [compiler, *flags, "-x", "c++-header", str(scratch / "headers.h"), "-o", str(scratch / "headers.gch")]
        if not subprocess.run(command, capture_output=True, check=False).returncode:
            (scratch / "headers.gch").replace(f"{file}.gch")
        (scratch / "headers.h").replace(file)
    return file


def _core(headers: str, compiler: str, flags: Sequence[str], folder: Path, scratch: Path) -> Path:
    """Return the object of what the headers contain for all kernels."""
    path = folder / f"{sha256(json.dumps([_version(compiler), flags, headers]))}.o"
    if not path.exists():
        _object("host.h", headers, compiler, flags, scratch / "core.o")
        (scratch / "core.o").replace(path)
    return path


def _compile(entry: str, source: str, compiler: str, flags: Sequence[str], core: Path, output: Path) -> None:
    """Compile a text into a shared library."""
    made = Path(f"{output}.o")
    _object(entry, source, compiler, flags, made)
    # Without the flags, which would link the sanitizers' libraries.
    command = [compiler, "-shared", str(made), str(core), "-o", str(output), "-ldl", "-lm"]
    _check(entry, subprocess.run(command, capture_output=True, text=True, check=False))


def _object(name: str, source: str, compiler: str, flags: Sequence[str], output: Path) -> None:
    command = [compiler, *flags, "-c", "-x", "c++", "-", "-o", str(output)]
    _check(name, subprocess.run(command, input=source, capture_output=True, text=True, check=False))


def _check(name: str, done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        raise KernelError(
            f"{name} does not compile on the host.\n" + "\n".join(lines[:8]),
            hint="Put code for the GPU only into #if CONVKIT_DEVICE; host_functions.h defines the rest.",
        )


def _check_signature(variant: Variant, library: ctypes.CDLL) -> None:
    """Compare kinds and sizes of the parameters in the source with the declaration."""
    arguments = variant.kernel.arguments
    found = (ctypes.c_int * 256)()
    count = library.convkit_host_describe(found)
    if count != len(arguments):
        name = variant.kernel.source.name
        raise KernelError(f"{variant.kernel.name} has {count} parameters in {name}; {len(arguments)} are declared.")
    for argument, code in zip(arguments, found, strict=False):
        dtype = variant.dtype(argument)
        kind = "p" if argument.pointer else dtype[0]
        size = itemsize(dtype)
        if chr(code >> 8) != kind or (code & 0xFF not in (size, 0 if argument.pointer else size)):
            raise KernelError(
                f"Argument {argument.name!r} of {variant.label} is declared as "
                f"{'a pointer to ' if argument.pointer else ''}{dtype}; the source takes another type there."
            )


@lru_cache(maxsize=8)
def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout + compiler


def _line(library: str, counter: str) -> str:
    """Return ``file:line`` of an instruction and of the functions that inline it, where addr2line finds them."""
    if not shutil.which("addr2line"):
        return f"at {counter} of {library}"
    command = ["addr2line", "-i", "-e", library, counter]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    places = [line.split(" ")[0].rsplit("/", 1)[-1] for line in done.stdout.splitlines()]
    known = [place for place in dict.fromkeys(places) if not place.startswith(("host.h", "host_", "entry", "?"))]
    return " in ".join(known) or f"at {counter} of {library}"
