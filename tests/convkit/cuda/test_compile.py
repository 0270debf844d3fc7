"""Compiling with NVRTC: code, resources and messages; and the cache in front of it."""

from __future__ import annotations

import struct
import sys

import pytest
from support.sample_kernels import CONVERT, REVERSE, SCALE

from convkit.cuda import Kernel, LaunchConfig, ResourceLimit, check_limit, compile_variant
from convkit.cuda import _compile as module
from convkit.errors import EnvironmentProblem, KernelError

pytest.importorskip("cupy")

VARIANT = SCALE.variant(T="float16", THREADS=64)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def written(tmp_path, text, **changes):
    """Return the variant of a kernel with this source and no arguments."""
    (tmp_path / "own.cu").write_text(text, encoding="utf-8")
    return Kernel("own", tmp_path / "own.cu", (), lambda: LaunchConfig((1, 1, 1), (32, 1, 1)), **changes).variant()


def test_ptx_is_text_for_the_target(own_cache):
    image = compile_variant(VARIANT, "compute_80", "ptx")
    assert ".target sm_80" in image.text
    assert (image.kind, image.target, image.entry, image.resources) == ("ptx", "compute_80", "test_scale", None)


def test_cubin_is_an_elf_file_with_its_resources(own_cache):
    image = compile_variant(VARIANT, "sm_90", "cubin")
    assert image.code[:4] == b"\x7fELF"
    assert image.resources.static_smem_bytes == 64 * 4 * 4
    assert 8 <= image.resources.registers <= 40
    resources = image.resources
    assert (resources.stack_bytes, resources.spill_store_bytes, resources.spill_load_bytes) == (0, 0, 0)


def test_the_cache_saves_the_compiler(own_cache, monkeypatch):
    first = compile_variant(VARIANT, "sm_90", "cubin")
    monkeypatch.setattr(module, "_compile", lambda *_: pytest.fail("compiled again"))
    assert compile_variant(VARIANT, "sm_90", "cubin") == first


def test_a_cubin_brings_the_ptx_that_a_compile_of_its_own_gives(own_cache, tmp_path, monkeypatch):
    variant = written(tmp_path, 'extern "C" __global__ void own() { int unused; }\n')
    alone = compile_variant(variant, "compute_90", "ptx")
    assert "warning" in alone.log
    monkeypatch.setenv("CONVKIT_CACHE", str(tmp_path / "another"))
    assert "ptxas" in compile_variant(variant, "sm_90", "cubin").log
    monkeypatch.setattr(module, "_compile", lambda *_: pytest.fail("compiled again"))
    assert compile_variant(variant, "compute_90", "ptx") == alone


@pytest.mark.parametrize("change", ["text", "constants", "options", "target", "kind", "nvrtc"])
def test_whatever_matters_is_compiled_again(own_cache, tmp_path, monkeypatch, change):
    calls = []
    monkeypatch.setattr(module, "_compile", lambda *_: (calls.append(1), (b".text.own\0", ""))[1])
    text = 'extern "C" __global__ void own() {}\n'
    compile_variant(written(tmp_path, text, constants=()), "compute_80", "ptx")
    changed, target = written(tmp_path, text), "compute_80"
    if change == "text":
        changed = written(tmp_path, text + "\n")
    elif change == "constants":
        changed = Kernel("own", changed.kernel.source, (), changed.kernel.launch_config, constants=("A",)).variant(A=1)
    elif change == "options":
        changed = written(tmp_path, text, options=("-lineinfo",))
    elif change == "target":
        target = "compute_86"
    elif change == "nvrtc":
        monkeypatch.setattr(module, "nvrtc_version", lambda: "99.0")
    if change == "kind":
        compile_variant(changed, "sm_80", "cubin")
    else:
        compile_variant(changed, target, "ptx")
    assert len(calls) == 2


def test_a_corrupt_entry_is_compiled_again(own_cache):
    first = compile_variant(VARIANT, "compute_80", "ptx")
    (entry,) = own_cache.glob("*.ptx")
    entry.write_bytes(entry.read_bytes()[:-5])
    assert compile_variant(VARIANT, "compute_80", "ptx") == first
    assert entry.read_bytes() == first.code


def test_without_a_cache_it_compiles_all_the_same(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("CONVKIT_CACHE", str(tmp_path / "file"))
    assert ".entry test_scale" in compile_variant(VARIANT, "compute_80", "ptx").text


def test_spills_and_limits(own_cache, tmp_path):
    body = "\n".join(f"float v{i} = p[{i} * 32];" for i in range(60))
    sums = "\n".join(f"p[{i}] = v{i} * v{(i * 7) % 60};" for i in range(60))
    text = f'extern "C" __global__ void own(volatile float *p) {{\n{body}\n{sums}\n}}\n'
    variant = written(tmp_path, text, options=("-maxrregcount=32",), limit=ResourceLimit(registers=20))
    image = compile_variant(variant, "sm_80", "cubin")
    assert image.resources.spill_store_bytes > 0
    with pytest.raises(KernelError, match=r"own for sm_80 uses 32 registers \(at most 20\), \d+ bytes of spills \(at"):
        check_limit(image, variant)
    check_limit(image, written(tmp_path, text, limit=ResourceLimit(registers=32, spill_bytes=10_000)))


def test_shared_memory_has_a_limit(own_cache):
    tight = Kernel(
        "test_scale",
        SCALE.source,
        SCALE.arguments,
        SCALE.launch_config,
        SCALE.sizes,
        SCALE.constants,
        limit=ResourceLimit(static_smem_bytes=1023),
    )
    with pytest.raises(KernelError, match=r"1024 bytes of shared memory \(at most 1023\)"):
        check_limit(compile_variant(VARIANT, "sm_80", "cubin"), tight.variant(T="float16", THREADS=64))


def test_only_a_cubin_has_a_limit(own_cache):
    with pytest.raises(KernelError, match="test_scale are not known; the ptx came with: no log"):
        check_limit(compile_variant(VARIANT, "compute_80", "ptx"), VARIANT)


def test_resources_are_those_of_the_entry_point(own_cache, tmp_path):
    text = """extern "C" __global__ void first() { __shared__ volatile char a[4096]; a[threadIdx.x] = 1; }
extern "C" __global__ void own() { __shared__ volatile char a[128]; a[threadIdx.x] = 1; }
extern "C" __global__ void zlast() { __shared__ volatile char a[2048]; a[threadIdx.x] = 1; }
"""
    assert compile_variant(written(tmp_path, text), "sm_80", "cubin").resources.static_smem_bytes == 128


def test_a_silent_compiler_hinders_no_launch_but_every_check(own_cache, monkeypatch):
    real = module._compile
    monkeypatch.setattr(module, "_compile", lambda *arguments: (real(*arguments)[0], ""))
    image = compile_variant(VARIANT, "sm_90", "cubin")
    assert image.resources is None
    with pytest.raises(KernelError, match="not known; the cubin came with: no log"):
        check_limit(image, VARIANT)


class TestErrors:
    def test_first_error_with_its_file_and_line(self, own_cache, tmp_path):
        (tmp_path / "part.cuh").write_text("\n__device__ int wrong = missing;\n", encoding="utf-8")
        text = '#include "convkit.cuh"\n#include "part.cuh"\nextern "C" __global__ void own() {}\n'
        with pytest.raises(
            KernelError, match=r"own does not compile with .*compute_80.*: part.cuh\(2\): error: .*missing"
        ) as caught:
            compile_variant(written(tmp_path, text), "compute_80", "ptx")
        assert caught.value.exit_code == 3
        assert "__device__ int wrong = missing;" in caught.value.hint

    def test_nothing_is_kept_of_a_failure(self, own_cache, tmp_path):
        with pytest.raises(KernelError):
            compile_variant(written(tmp_path, "int"), "compute_80", "ptx")
        assert not own_cache.exists()

    def test_unknown_entry_point(self, own_cache, tmp_path):
        with pytest.raises(KernelError, match="has no entry point 'own'"):
            compile_variant(written(tmp_path, 'extern "C" __global__ void other() {}\n'), "sm_80", "cubin")

    @pytest.mark.parametrize(
        ("target", "kind"), [("sm_80", "ptx"), ("compute_80", "cubin"), ("sm80", "cubin"), ("sm_80", "elf")]
    )
    def test_target_and_kind_must_fit(self, target, kind):
        with pytest.raises(KernelError, match="cannot be made"):
            compile_variant(VARIANT, target, kind)

    def test_older_than_the_kernel(self, tmp_path):
        variant = written(tmp_path, "", min_compute_capability=80)
        with pytest.raises(KernelError, match="compute capability 80 or newer, not for compute_75"):
            compile_variant(variant, "compute_75", "ptx")

    def test_specific_kernels_have_one_target(self, own_cache, tmp_path):
        text = 'extern "C" __global__ void own() {}\n'
        variant = written(tmp_path, text, min_compute_capability=90, arch_specific=True)
        assert ".target sm_90a" in compile_variant(variant, variant.kernel.target(90, "ptx"), "ptx").text
        with pytest.raises(KernelError, match="compute capability 90 only, not for compute_100"):
            compile_variant(variant, "compute_100", "ptx")

    def test_unknown_architecture(self, own_cache):
        with pytest.raises(EnvironmentProblem, match=r"does not compile for sm_99\.\n.* 75, 80, .* 90, 100"):
            compile_variant(VARIANT, "sm_99", "cubin")

    def test_without_cupy(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "cupy.cuda", None)
        with pytest.raises(EnvironmentProblem, match=r'through cupy, .*\npip install "convkit\[cuda\]"'):
            compile_variant(REVERSE.variant(), "compute_80", "ptx")

    def test_without_nvrtc(self, monkeypatch):
        nvrtc = pytest.importorskip("cupy").cuda.nvrtc

        def missing():
            raise RuntimeError("libnvrtc.so.13 not found")

        monkeypatch.setattr(nvrtc, "getVersion", missing)
        with pytest.raises(EnvironmentProblem, match=r"libnvrtc.so.13 not found"):
            compile_variant(CONVERT.variant(T="float16"), "compute_80", "ptx")


def test_a_cubin_is_a_whole_elf_file():
    code = compile_variant(SCALE.variant(T="float32", THREADS=64), "sm_90", "cubin").code
    (sections,) = struct.unpack_from("<Q", code, 40)
    size, count = struct.unpack_from("<HH", code, 58)
    (programs,) = struct.unpack_from("<Q", code, 32)
    program_size, program_count = struct.unpack_from("<HH", code, 54)
    assert len(code) == max(sections + size * count, programs + program_size * program_count)
