"""PTX texts read, and held against declarations."""

from __future__ import annotations

import dataclasses

import pytest
from support.sample_kernels import SCALE

from convkit.cuda import Argument, CompiledKernel, check_signature, compile_variant, parse_ptx
from convkit.errors import KernelError

pytest.importorskip("cupy")

TEXT = """//
// .entry comment(.param .u64 none)
.version 8.7
.target sm_90a
.address_size 64

	// .globl	first
.visible .entry first(
	.param .u64 .ptr .global .align 16 first_param_0,
	.param .u32 first_param_1,
	.param .f32 first_param_2,
	.param .align 8 .b8 first_param_3[24],
	.param .u64 first_param_4
)
.maxntid 256
{
	ret;
}
.entry second()
{
	ret;
}
.visible .entry third
{
	ret;
}
"""


def test_entry_points():
    entries = parse_ptx(TEXT)
    assert {name: entry.parameters for name, entry in entries.items()} == {
        "first": ("u64", "u32", "f32", "b8[24]", "u64"),
        "second": (),
        "third": (),
    }
    assert (entries["first"].target, entries["first"].version) == ("sm_90a", "8.7")


@pytest.mark.parametrize("text", ["", "int main() {}", ".version 8.7\n"])
def test_no_ptx(text):
    with pytest.raises(KernelError, match="is not PTX"):
        parse_ptx(text)


def changed(**changes):
    return dataclasses.replace(SCALE, **changes).variant(T="float16", THREADS=64)


def swapped(index, argument):
    arguments = list(SCALE.arguments)
    arguments[index] = argument
    return changed(arguments=tuple(arguments))


@pytest.fixture(scope="module")
def image():
    return compile_variant(SCALE.variant(T="float16", THREADS=64), "compute_75", "ptx")


class TestSignature:
    def test_fits(self, image):
        check_signature(image, SCALE.variant(T="float16", THREADS=64))

    @pytest.mark.parametrize(
        ("variant", "text"),
        [
            (changed(name="test_other"), "no entry point of that name, only test_scale"),
            (changed(arguments=SCALE.arguments[:4]), "takes 5 arguments in the source and 4 in the declaration"),
            (swapped(2, Argument("count", "int64", pointer=False)), "'count' is declared as int64; the PTX takes u32"),
            (
                swapped(2, Argument("count", "float32", pointer=False)),
                "'count' is declared as float32; the PTX takes u32",
            ),
            (
                swapped(3, Argument("factor", "int32", pointer=False)),
                "'factor' is declared as int32; the PTX takes f32",
            ),
            (swapped(2, Argument("count", "int32")), "'count' is declared as a pointer to int32; the PTX takes u32"),
            (
                swapped(1, Argument("output", "int32", pointer=False)),
                "'output' is declared as int32; the PTX takes u64",
            ),
        ],
    )
    def test_differs(self, image, variant, text):
        with pytest.raises(KernelError, match=text):
            check_signature(image, variant)

    def test_another_target(self, image):
        other = CompiledKernel(image.code, "ptx", "compute_80", image.entry)
        with pytest.raises(KernelError, match="compiled for compute_80, but the PTX is for sm_75"):
            check_signature(other, SCALE.variant(T="float16", THREADS=64))
