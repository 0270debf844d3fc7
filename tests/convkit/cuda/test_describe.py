"""Kernels as files: whole, consistent, and enough for a C++ program to work out the launch."""

from __future__ import annotations

import ctypes
import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from support.sample_kernels import REVERSE, SCALE, sample_variants

from convkit.cuda import (
    Kernel,
    LaunchConfig,
    cdiv,
    check_signature,
    compile_variant,
    describe,
    maximum,
    minimum,
    parse_ptx,
    write_kernels,
)
from convkit.errors import KernelError

pytest.importorskip("cupy")

HALF = SCALE.variant(T="float16", THREADS=64)


def test_description():
    described = describe(HALF, ("compute_75", "compute_90"))
    assert described["entry"] == "test_scale"
    assert described["constants"] == {"T": "float16", "THREADS": 64}
    assert described["arguments"][1] == {
        "name": "output", "dtype": "float16", "c_type": "half_t", "pointer": True, "output": True, "alignment": 16,
    }  # fmt: skip
    assert described["arguments"][3] == {"name": "factor", "dtype": "float32", "c_type": "float", "pointer": False}
    assert described["launch"] == {
        "grid": ["((count + 256 - 1) / 256)", "1", "1"],
        "block": ["64", "1", "1"],
        "dynamic_smem_bytes": "0",
    }
    assert [image["target"] for image in described["ptx"]] == ["compute_75", "compute_90"]
    cubin = compile_variant(HALF, "sm_90", "cubin")
    assert described["ptx"][1]["resources"]["registers"] == cubin.resources.registers
    assert json.loads(json.dumps(described)) == described


def test_blocks_per_multiprocessor_are_described_where_they_are_declared():
    kernel = replace(
        SCALE, launch_config=lambda count: LaunchConfig((count, 1, 1), (32, 1, 1), 1024, min_blocks_per_sm=3)
    )
    described = describe(kernel.variant(T="float16", THREADS=64), ("compute_75",))
    assert described["launch"] == {
        "grid": ["count", "1", "1"],
        "block": ["32", "1", "1"],
        "dynamic_smem_bytes": "1024",
        "min_blocks_per_sm": 3,
    }


def test_files(tmp_path):
    files = write_kernels(tmp_path / "kernels", [*sample_variants(), HALF])
    assert {file.name for file in files} == {file.name for file in (tmp_path / "kernels").iterdir()}
    document = json.loads((tmp_path / "kernels" / "kernels.json").read_text(encoding="utf-8"))
    assert document["compiler"].startswith("NVRTC ")
    assert document["note"] == ""
    assert len(document["kernels"]) == len(sample_variants())
    for described in document["kernels"]:
        for entry in (described["source"], *described["ptx"]):
            data = (tmp_path / "kernels" / entry["file"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == entry["sha256"]
        ptx = (tmp_path / "kernels" / described["ptx"][0]["file"]).read_text(encoding="utf-8")
        found = parse_ptx(ptx)[described["entry"]]
        assert found.target == "sm_75"
        assert len(found.parameters) == len(described["arguments"])


def test_sources_compile_alone(tmp_path):
    write_kernels(tmp_path, [REVERSE.variant()])
    alone = Kernel("test_reverse", tmp_path / "test_reverse.cu", REVERSE.arguments, REVERSE.launch_config, ("count",))
    for header in (tmp_path / "test_reverse.cu").read_text(encoding="utf-8").splitlines():
        assert not header.startswith("#include")
    check_signature(compile_variant(alone.variant(), "compute_75", "ptx"), alone.variant())


def test_two_targets_are_two_files(tmp_path):
    write_kernels(tmp_path, [REVERSE.variant()], ("compute_75", "compute_90"))
    assert sorted(path.name for path in tmp_path.glob("*.ptx")) == [
        "test_reverse.compute_75.ptx",
        "test_reverse.compute_90.ptx",
    ]


def test_long_names_are_shortened_and_stay_apart(tmp_path):
    names = tuple(f"A_LONG_NAME_OF_A_CONSTANT_{index}" for index in range(6))
    kernel = Kernel("test_reverse", REVERSE.source, REVERSE.arguments, REVERSE.launch_config, ("count",), names)
    variants = [kernel.variant(**dict.fromkeys(names[:-1], 1), **{names[-1]: last}) for last in (1, 2)]
    write_kernels(tmp_path, variants)
    sources = sorted(path.name for path in tmp_path.glob("*.cu"))
    assert len(sources) == 2
    assert max(map(len, sources)) <= 103


def test_targets_older_than_the_kernel(tmp_path):
    def images(**changes):
        kernel = Kernel("test_reverse", REVERSE.source, REVERSE.arguments, REVERSE.launch_config, ("count",), **changes)
        return [
            image["target"] for image in describe(kernel.variant(), ("compute_75", "compute_80", "compute_100"))["ptx"]
        ]

    assert images(min_compute_capability=80) == ["compute_80", "compute_100"]
    assert images(min_compute_capability=90, arch_specific=True) == ["compute_90a"]


def test_what_breaks_its_declaration_is_not_written(tmp_path):
    parts = REVERSE.name, REVERSE.source
    with pytest.raises(KernelError, match="takes 3 arguments in the source and 2"):
        write_kernels(tmp_path, [Kernel(*parts, REVERSE.arguments[:2], REVERSE.launch_config, ("count",)).variant()])
    with pytest.raises(KernelError, match="'sm_75' is no target for PTX"):
        write_kernels(tmp_path, [REVERSE.variant()], ("sm_75",))


def test_without_nvrtc_the_sources_are_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy.cuda", None)
    files = write_kernels(tmp_path, [HALF])
    assert [file.name for file in files] == ["test_scale-T_float16-THREADS_64.cu", "kernels.json"]
    document = json.loads(files[1].read_text(encoding="utf-8"))
    assert document["compiler"] is None
    assert "NVRTC was missing" in document["note"]
    assert document["kernels"][0]["ptx"] == []
    assert document["kernels"][0]["launch"]["block"] == ["64", "1", "1"]
    assert files[0].read_text(encoding="utf-8") == HALF.text()


def rule(batch, height, width, TILE):
    """A launch configuration with every operation that it may use."""
    rows = cdiv(height + 2 * 3 - (TILE - 1), 2)
    return LaunchConfig(
        (cdiv(width, TILE) * maximum(1, rows // 4), minimum(height * width // 7, 65535), batch),
        (minimum(32 * cdiv(width, 32), 256), 1, 1),
        (TILE + 3) * TILE * 4 + minimum(width, 100) * 8,
    )


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_launch_configurations_in_cpp_are_those_in_python(tmp_path):
    """A program that knows kernels.json only evaluates the launch of random sizes as Python does."""
    kernel = Kernel(
        "test_reverse", REVERSE.source, REVERSE.arguments, rule, ("batch", "height", "width"), ("TILE",)
    )  # fmt: skip
    variants = [kernel.variant(TILE=tile) for tile in (8, 32)] + [HALF, REVERSE.variant()]
    write_kernels(tmp_path, variants)
    document = json.loads((tmp_path / "kernels.json").read_text(encoding="utf-8"))
    functions = []
    for index, described in enumerate(document["kernels"]):
        launch = described["launch"]
        values = [*launch["grid"], *launch["block"], launch["dynamic_smem_bytes"]]
        names = "".join(f"const long long {name} = sizes[{k}];\n" for k, name in enumerate(described["sizes"]))
        body = "".join(f"launch[{k}] = {expression};\n" for k, expression in enumerate(values))
        functions.append(
            f'extern "C" void launch_{index}(const long long *sizes, long long *launch) {{\n{names}{body}}}\n'
        )
    (tmp_path / "launch.cpp").write_text("".join(functions), encoding="utf-8")
    subprocess.run(
        ["g++", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", "launch.so", "launch.cpp"],
        cwd=tmp_path,
        check=True,
    )
    library = ctypes.CDLL(str(tmp_path / "launch.so"))
    generator = np.random.default_rng(11)
    for index, variant in enumerate(variants):
        for _ in range(200):
            sizes = {name: int(generator.integers(40, 10 ** generator.integers(2, 7))) for name in variant.kernel.sizes}
            given, found = (ctypes.c_longlong * 3)(*sizes.values()), (ctypes.c_longlong * 7)()
            getattr(library, f"launch_{index}")(given, found)
            launch = variant.launch_config(**sizes)
            assert [*found] == [*launch.grid, *launch.block, launch.dynamic_smem_bytes], (variant.label, sizes)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_sources_compile_with_nvcc(tmp_path):
    for variant in sample_variants():
        write_kernels(tmp_path, [variant])
    for source in tmp_path.glob("*.cu"):
        command = ["nvcc", "-ptx", "-std=c++17", "-arch=sm_75", "-o", source.with_suffix(".mine.ptx"), source]
        subprocess.run(command, check=True)
        name = source.stem.partition("-")[0]
        assert name in parse_ptx(source.with_suffix(".mine.ptx").read_text(encoding="utf-8"))
