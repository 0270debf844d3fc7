"""Kernels as files: source, PTX and a JSON description, for programs in other languages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from convkit.cuda._compile import CompiledKernel, compile_variant, nvrtc_version
from convkit.cuda._declaration import C_TYPES, Variant
from convkit.cuda._ptx import check_signature, parse_ptx
from convkit.cuda._symbols import c_expression
from convkit.errors import EnvironmentProblem, KernelError
from convkit.files import sha256

__all__ = ["DESCRIPTION", "describe", "write_kernels"]

DESCRIPTION = "kernels.json"
FORMAT = 2
_TARGETS = ("compute_75",)


def describe(variant: Variant, targets: Sequence[str] = _TARGETS) -> dict[str, Any]:
    """Return what a program needs to launch a variant, as a JSON object.

    ``launch`` contains C expressions over the named ``sizes``, to be evaluated in signed 64-bit integers. ``ptx`` has
    one entry per target, with the resources that the compiler reports for that architecture (null where it reports
    none); it is empty where NVRTC is missing. A target that is older than the kernel becomes the oldest that the
    kernel runs on.

    Raises:
        KernelError: the kernel does not compile, or takes other arguments than it declares.
    """
    return _describe(variant, targets)[0]


def write_kernels(folder: Path, variants: Iterable[Variant], targets: Sequence[str] = _TARGETS) -> list[Path]:
    """Write each variant's self-contained ``.cu``, its PTX and one ``kernels.json``; return the files.

    Without NVRTC there is no PTX: ``compiler`` of the JSON is null, and ``note`` says why. The sources are complete.

    Raises:
        KernelError: a kernel does not compile, or takes other arguments than it declares.
    """
    folder.mkdir(parents=True, exist_ok=True)
    compiler, note = _compiler()
    document: dict[str, Any] = {"format": FORMAT, "compiler": compiler, "note": note, "kernels": []}
    written: list[Path] = []
    for variant in dict.fromkeys(variants):
        description, images = _describe(variant, targets)
        contents = {description["source"]["file"]: variant.text().encode()}
        contents |= {
            entry["file"]: image.text.encode() for entry, image in zip(description["ptx"], images, strict=True)
        }
        for name, content in contents.items():
            (folder / name).write_bytes(content)
            written.append(folder / name)
        document["kernels"].append(description)
    file = folder / DESCRIPTION
    file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return [*written, file]


def _describe(variant: Variant, targets: Sequence[str]) -> tuple[dict[str, Any], list[CompiledKernel]]:
    kernel, launch, stem = variant.kernel, variant.trace(), _stem(variant)
    images = _images(variant, targets) if _compiler()[0] else []
    several = len(images) > 1
    described = [
        {
            "target": image.target,
            "file": f"{stem}.{image.target}.ptx" if several else f"{stem}.ptx",
            "sha256": sha256(image.text.encode()),
            "ptx_version": parse_ptx(image.text)[kernel.name].version,
            "resources": asdict(cubin.resources) if cubin.resources else None,
        }
        for image, cubin in images
    ]
    description = {
        "name": variant.label,
        "entry": kernel.name,
        "constants": dict(variant.constants),
        "arguments": [
            {
                "name": argument.name,
                "dtype": variant.dtype(argument),
                "c_type": C_TYPES[variant.dtype(argument)],
                "pointer": argument.pointer,
                **({"output": argument.output, "alignment": variant.alignment(argument)} if argument.pointer else {}),
            }
            for argument in kernel.arguments
        ],
        "sizes": list(kernel.sizes),
        "launch": {
            "grid": [c_expression(value) for value in launch.grid],
            "block": [c_expression(value) for value in launch.block],
            "dynamic_smem_bytes": c_expression(launch.dynamic_smem_bytes),
            **({"min_blocks_per_sm": launch.min_blocks_per_sm} if launch.min_blocks_per_sm else {}),
        },
        "min_compute_capability": kernel.min_compute_capability,
        "arch_specific": kernel.arch_specific,
        "options": list(kernel.options),
        "source": {"file": f"{stem}.cu", "sha256": sha256(variant.text().encode())},
        "ptx": described,
    }
    return description, [image for image, _ in images]


def _images(variant: Variant, targets: Sequence[str]) -> list[tuple[CompiledKernel, CompiledKernel]]:
    """Return the PTX, compared with the declaration, and the cubin of each target."""
    kernel, found = variant.kernel, {}
    for target in targets:
        match = re.fullmatch(r"compute_(\d+)a?", target)
        if not match:
            raise KernelError(f"{target!r} is no target for PTX.", hint="Name one such as compute_75.")
        oldest = kernel.min_compute_capability
        capability = oldest if kernel.arch_specific else max(int(match.group(1)), oldest)
        cubin = compile_variant(variant, kernel.target(capability, "cubin"), "cubin")  # and the PTX with it
        ptx = compile_variant(variant, kernel.target(capability, "ptx"), "ptx")
        check_signature(ptx, variant)
        found[ptx.target] = ptx, cubin
    return list(found.values())


def _compiler() -> tuple[str | None, str]:
    """Return the compiler's name, or None with the reason why there is none."""
    try:
        return f"NVRTC {nvrtc_version()}", ""
    except EnvironmentProblem as error:
        return None, f"Without PTX, because NVRTC was missing: compile the sources with nvcc -ptx. {error.message}"


def _stem(variant: Variant) -> str:
    """Return a file name for a variant: entry point and constants, shortened where it would get long."""
    text = "-".join([variant.kernel.name, *(f"{name}_{value}" for name, value in variant.constants)])
    text = re.sub(r"[^A-Za-z0-9_.+-]", "_", text)
    return text if len(text) <= 100 else f"{text[:87]}-{sha256(variant.defines.encode())[:12]}"
