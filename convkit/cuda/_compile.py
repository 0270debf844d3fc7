"""Variants to PTX or cubin with NVRTC, through the cache, and what the compiler used for them."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any, Literal

from convkit.cuda._cache import cache_key, read_entry, write_entry
from convkit.cuda._declaration import Variant
from convkit.errors import EnvironmentProblem, KernelError

__all__ = ["Image", "Kind", "Resources", "check_bound", "compile_variant", "nvrtc_version"]

Kind = Literal["ptx", "cubin"]


@dataclass(frozen=True)
class Resources:
    """What the compiler used for an entry point: registers a thread, all else in bytes.

    ``shared`` is static shared memory a block; ``stack`` and the spills are local memory a thread.
    """

    registers: int
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int


@dataclass(frozen=True)
class Image:
    """A compiled variant. ``log`` is what the compiler said, ``resources`` what it told there of a cubin."""

    code: bytes
    kind: Kind
    target: str
    entry: str
    resources: Resources | None = None
    log: str = ""

    @property
    def text(self) -> str:
        """The PTX as text."""
        return self.code.rstrip(b"\0").decode()


def compile_variant(variant: Variant, target: str, kind: Kind) -> Image:
    """Return the code of a variant for a target: ``("sm_90", "cubin")`` or ``("compute_80", "ptx")``.

    It comes from the cache where the same text was compiled before with the same options and compiler.

    Raises:
        KernelError: the source does not compile, or the target does not fit.
        EnvironmentProblem: cupy or NVRTC is missing, or NVRTC does not know the target.
    """
    match = re.fullmatch(r"(sm|compute)_(\d+)([af]?)", target)
    if not match or match.group(1) != {"cubin": "sm", "ptx": "compute"}.get(kind):
        raise KernelError(
            f"{kind} cannot be made for {target!r}.", hint='Name ("sm_90", "cubin") or ("compute_90", "ptx").'
        )
    if not variant.kernel.runs_on(int(match.group(2))):
        only = " alone" if variant.kernel.specific else " or newer"
        raise KernelError(f"{variant.label} is for compute capability {variant.kernel.least}{only}, not for {target}.")
    text, entry = variant.text(), variant.kernel.name
    options = ("-std=c++17", f"--gpu-architecture={target}", *variant.kernel.options)
    if kind == "cubin":
        options += ("--ptxas-options=-v",)
    if _nvrtc().getVersion() >= (12, 9):
        options += ("--no-cache",)  # what comes from NVRTC's own cache comes without a log
    key = cache_key(text=text, options=options, entry=entry, kind=kind, nvrtc=nvrtc_version())
    found = read_entry(key)
    if found:
        description, code = found
        log = description["log"]
    else:
        code, log = _compile(text, variant, options, kind)
        write_entry(key, {"log": log, "entry": entry, "target": target, "kind": kind}, code)
    if kind == "ptx":
        return Image(code, kind, target, entry, None, log)
    if f".text.{entry}\0".encode() not in code:
        raise KernelError(
            f"{variant.label} was compiled, but its code has no entry point {entry!r}.",
            hint=f'Declare it in {variant.kernel.source.name} as extern "C" __global__ void {entry}(...).',
        )
    return Image(code, kind, target, entry, _resources(log, entry), log)


def check_bound(image: Image, variant: Variant) -> None:
    """Hold a cubin to the bound that its kernel declares.

    Raises:
        KernelError: the compiler used more registers, static shared memory or spills.
    """
    if image.resources is None:
        log = image.log.strip() or "no log"
        raise KernelError(
            f"The resources of {image.entry} are not known; the {image.kind} came with: {log}.",
            hint="Compile it to a cubin: only then does the compiler tell what it used.",
        )
    used, bound = image.resources, variant.kernel.bound
    spills = used.spill_stores + used.spill_loads
    excesses = [
        f"{value} {what} (at most {limit})"
        for what, value, limit in (
            ("registers", used.registers, bound.registers),
            ("bytes of shared memory", used.shared, bound.shared),
            ("bytes of spills", spills, bound.spills),
        )
        if value > limit
    ]
    if excesses:
        raise KernelError(
            f"{variant.label} for {image.target} uses {', '.join(excesses)}.",
            hint="Make the kernel smaller, or raise its bound if a measurement allows it.",
        )


def nvrtc_version() -> str:
    """Return the version of NVRTC, such as ``13.0``.

    Raises:
        EnvironmentProblem: cupy or NVRTC is missing.
    """
    return ".".join(map(str, _nvrtc().getVersion()))


def supported_capabilities() -> tuple[int, ...]:
    """Return the compute capabilities that NVRTC compiles for, in ascending order.

    Raises:
        EnvironmentProblem: cupy or NVRTC is missing.
    """
    return tuple(sorted(_nvrtc().getSupportedArchs()))


def _nvrtc() -> Any:
    """Return cupy's module of NVRTC after a first call, which loads the library."""
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
    except (ImportError, OSError, RuntimeError) as error:
        raise EnvironmentProblem(
            f"CUDA kernels are compiled by NVRTC through cupy, which does not work here: {error}.",
            hint='pip install "convkit[cuda]"',
        ) from error
    return nvrtc


def _compile(text: str, variant: Variant, options: tuple[str, ...], kind: Kind) -> tuple[bytes, str]:
    nvrtc = _nvrtc()
    program = nvrtc.createProgram(text, variant.kernel.source.name, (), ())
    try:
        try:
            nvrtc.compileProgram(program, options)
        except nvrtc.NVRTCError as error:
            log = _clean(nvrtc.getProgramLog(program))
            raise _failure(variant, options, log or str(error)) from error
        code = _whole(nvrtc.getCUBIN(program)) if kind == "cubin" else nvrtc.getPTX(program)
        return bytes(code), _clean(nvrtc.getProgramLog(program))
    finally:
        nvrtc.destroyProgram(program)


def _failure(variant: Variant, options: tuple[str, ...], log: str) -> Exception:
    """Return the error for a compiler's log: its first error with what is known about it."""
    lines = [line for line in log.splitlines() if line.strip()]
    first = next((line for line in lines if re.search(r"\berror\b|\bfatal\b", line, re.IGNORECASE)), lines[0])
    if "gpu-architecture" in first:
        capabilities = ", ".join(map(str, supported_capabilities()))
        return EnvironmentProblem(
            f"NVRTC {nvrtc_version()} does not compile for {options[1].partition('=')[2]}.",
            hint=f"It knows the compute capabilities {capabilities}; install a newer one.",
        )
    count = sum(bool(re.search(r"\berror\b", line, re.IGNORECASE)) for line in lines)
    return KernelError(
        f"{variant.label} does not compile with {' '.join(options)}: {first.strip()}",
        hint=f"The compiler said:\n{log.strip()}" if count > 1 or len(lines) > 1 else "",
    )


def _whole(cubin: bytes) -> bytes:
    """Return a cubin up to the end of its tables: cupy takes its last byte for the end of a string and drops it."""
    programs, sections = struct.unpack_from("<QQ", cubin, 32)
    size, count, section_size, section_count = struct.unpack_from("<HHHH", cubin, 54)
    return cubin.ljust(max(programs + size * count, sections + section_size * section_count), b"\0")


def _resources(log: str, entry: str) -> Resources | None:
    """Read the lines of ``ptxas -v`` about one entry point; None where there are none."""
    start = f"Compiling entry function '{re.escape(entry)}'"
    part = re.search(rf"{start}.*?(?=Compiling entry function|\Z)", log, re.DOTALL)
    own = re.search(
        rf"Function properties for {re.escape(entry)}\n"
        r".*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads",
        part.group(0) if part else "",
    )
    used = re.search(r"Used (\d+) registers(.*)", part.group(0) if part else "")
    if not own or not used:
        return None
    shared = re.search(r"(\d+) bytes smem", used.group(2))
    stack, stores, loads = map(int, own.groups())
    return Resources(int(used.group(1)), int(shared.group(1)) if shared else 0, stack, stores, loads)


def _clean(log: str) -> str:
    """Return a log without what differs from run to run."""
    return re.sub(r".*Compile time = .*\n?", "", log.rstrip("\0"))
