"""Compile variants to PTX or cubin with NVRTC, through a disk cache, and read what resources they use."""

from __future__ import annotations

import contextlib
import re
import struct
from dataclasses import dataclass
from typing import Any, Literal

from convkit.cuda._cache import cache_key, read_entry, write_entry
from convkit.cuda._declaration import Variant
from convkit.errors import EnvironmentProblem, KernelError

__all__ = ["CompiledKernel", "Kind", "Resources", "check_limit", "compile_variant", "nvrtc_version"]

Kind = Literal["ptx", "cubin"]


@dataclass(frozen=True)
class Resources:
    """Resources that the compiler reports for an entry point.

    ``registers``, ``stack_bytes`` and the spills are per thread, ``static_smem_bytes`` (shared memory) is per block.
    """

    registers: int
    static_smem_bytes: int
    stack_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int


@dataclass(frozen=True)
class CompiledKernel:
    """A compiled variant. ``log`` is the compiler's log; ``resources`` are parsed from it (cubin only)."""

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


def compile_variant(variant: Variant, target: str, kind: Kind) -> CompiledKernel:
    """Return the code of a variant for a target: ``("sm_90", "cubin")`` or ``("compute_80", "ptx")``.

    A text that was compiled before with the same options and compiler comes from the cache.

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
        raise KernelError(f"{variant.label} is for {variant.kernel.capabilities}, not for {target}.")
    text, entry = variant.text(), variant.kernel.name
    options = _options(variant, target, kind)
    key = cache_key(text=text, options=options, entry=entry, kind=kind, nvrtc=nvrtc_version())
    found = read_entry(key, kind)
    if found:
        description, code = found
        log = description["log"]
    else:
        code, log = _compile(text, variant, options, kind)
        write_entry(key, kind, _entry(variant, target, log), code)
    if kind == "ptx":
        return CompiledKernel(code, kind, target, entry, None, log)
    if f".text.{entry}\0".encode() not in code:
        raise KernelError(
            f"{variant.label} was compiled, but its code has no entry point {entry!r}.",
            hint=f'Declare it in {variant.kernel.source.name} as extern "C" __global__ void {entry}(...).',
        )
    return CompiledKernel(code, kind, target, entry, _resources(log, entry), log)


def check_limit(image: CompiledKernel, variant: Variant) -> None:
    """Compare the resources of a cubin with the limit that its kernel declares.

    Raises:
        KernelError: the compiler used more registers, static shared memory or spills.
    """
    if image.resources is None:
        log = image.log.strip() or "no log"
        raise KernelError(
            f"The resources of {image.entry} are not known; the {image.kind} came with: {log}.",
            hint="Compile it to a cubin: only then does the compiler report its resources.",
        )
    used, limit = image.resources, variant.kernel.limit
    spills = used.spill_store_bytes + used.spill_load_bytes
    excesses = [
        f"{value} {what} (at most {most})"
        for what, value, most in (
            ("registers", used.registers, limit.registers),
            ("bytes of shared memory", used.static_smem_bytes, limit.static_smem_bytes),
            ("bytes of spills", spills, limit.spill_bytes),
        )
        if value > most
    ]
    if excesses:
        raise KernelError(
            f"{variant.label} for {image.target} uses {', '.join(excesses)}.",
            hint="Make the kernel smaller, or raise its limit if a measurement allows it.",
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
        log = _clean(nvrtc.getProgramLog(program))
        if kind == "cubin":
            with contextlib.suppress(nvrtc.NVRTCError):  # a version that gives none compiles it when it is asked for
                _keep_ptx(text, variant, options, bytes(nvrtc.getPTX(program)), log)
        code = _whole(nvrtc.getCUBIN(program)) if kind == "cubin" else nvrtc.getPTX(program)
        return bytes(code), log
    finally:
        nvrtc.destroyProgram(program)


def _options(variant: Variant, target: str, kind: Kind) -> tuple[str, ...]:
    options = ("-std=c++17", f"--gpu-architecture={target}", *variant.kernel.options)
    if kind == "cubin":
        options += ("--ptxas-options=-v",)
    if _nvrtc().getVersion() >= (12, 9):
        options += ("--no-cache",)  # NVRTC's own cache returns no log
    return options


def _entry(variant: Variant, target: str, log: str) -> dict[str, str]:
    return {"log": log, "entry": variant.kernel.name, "target": target, "kernel": variant.label}


def _keep_ptx(text: str, variant: Variant, options: tuple[str, ...], code: bytes, log: str) -> None:
    """Put the PTX that a cubin was made of into the cache: compiled for itself it is the same, and takes as long.

    ``log`` says first what the compiler says of the source, then what ptxas says.
    """
    if not code.strip(b"\0"):
        return
    target = options[1].partition("=")[2].replace("sm_", "compute_")
    key = cache_key(
        text=text,
        options=_options(variant, target, "ptx"),
        entry=variant.kernel.name,
        kind="ptx",
        nvrtc=nvrtc_version(),
    )
    write_entry(key, "ptx", _entry(variant, target, log.partition("ptxas ")[0]), code)


def _failure(variant: Variant, options: tuple[str, ...], log: str) -> Exception:
    """Return the error for a compiler's log, which states the first error in it."""
    lines = [line for line in log.splitlines() if line.strip()]
    first = next((line for line in lines if re.search(r"\berror\b|\bfatal\b", line, re.IGNORECASE)), lines[0])
    if "gpu-architecture" in first:
        capabilities = ", ".join(map(str, supported_capabilities()))
        return EnvironmentProblem(
            f"NVRTC {nvrtc_version()} does not compile for {options[1].partition('=')[2]}.",
            hint=f"It supports the compute capabilities {capabilities}; install a newer one.",
        )
    count = sum(bool(re.search(r"\berror\b", line, re.IGNORECASE)) for line in lines)
    return KernelError(
        f"{variant.label} does not compile with {' '.join(options)}: {first.strip()}",
        hint=f"The compiler's log:\n{log.strip()}" if count > 1 or len(lines) > 1 else "",
    )


def _whole(cubin: bytes) -> bytes:
    """Return a cubin padded to the end of its ELF tables: cupy drops its last byte as if it ended a string."""
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
    """Return a log without the compile time, which differs from run to run."""
    return re.sub(r".*Compile time = .*\n?", "", log.rstrip("\0"))
