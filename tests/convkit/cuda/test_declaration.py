"""Declarations: what contradicts itself is refused when it is written, and variants are values."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.sample_kernels import REVERSE, SCALE

from convkit.cuda import Argument, Kernel, LaunchConfig, cdiv, itemsize
from convkit.errors import KernelArgumentError, KernelError


def kernel(**changes):
    given = {
        "name": "test_kernel",
        "source": Path("kernel.cu"),
        "arguments": (Argument("x", "T"), Argument("n", "int32", pointer=False)),
        "launch_config": lambda n: LaunchConfig((cdiv(n, 32), 1, 1), (32, 1, 1)),
        "sizes": ("n",),
        "constants": ("T",),
    }
    return Kernel(**{**given, **changes})


class TestKernels:
    @pytest.mark.parametrize(
        ("changes", "text"),
        [
            ({"name": "a-b"}, "'a-b' is not a name"),
            ({"sizes": ("n", "for")}, "'for' is not a name"),
            ({"sizes": ("n", "n")}, "the size or constant 'n' twice"),
            ({"constants": ("T", "n")}, "the size or constant 'n' twice"),
            ({"arguments": (Argument("x", "T"), Argument("x", "T"))}, "the argument 'x' twice"),
            ({"arguments": (Argument("x", "U"),)}, "the dtype 'U' of 'x' is neither"),
            ({"launch_config": lambda m, n: LaunchConfig((m, n, 1), (1, 1, 1))}, "launch_config takes m, neither"),
        ],
    )
    def test_contradictions(self, changes, text):
        with pytest.raises(KernelError, match=text):
            kernel(**changes)

    @pytest.mark.parametrize(
        ("given", "text"),
        [
            ({"dtype": "uint8", "alignment": 3}, "alignment 3 is not a power of two"),
            ({"dtype": "int32", "pointer": False, "output": True}, "is a scalar"),
            ({"dtype": "int32", "pointer": False, "alignment": 4}, "is a scalar"),
            ({"dtype": "float16", "pointer": False}, "a scalar cannot be 'float16'"),
        ],
    )
    def test_arguments(self, given, text):
        with pytest.raises(KernelError, match=text):
            Argument("x", **given)

    def test_targets(self):
        assert SCALE.target(90, "cubin") == "sm_90"
        assert SCALE.runs_on(75)
        assert SCALE.runs_on(120)
        hopper = kernel(min_compute_capability=90, arch_specific=True)
        assert hopper.target(90, "ptx") == "compute_90a"
        assert [hopper.runs_on(capability) for capability in (89, 90, 100)] == [False, True, False]


class TestVariants:
    def test_constants_become_defines(self):
        many = kernel(constants=("T", "A", "B", "C", "D", "E", "F", "G"))
        variant = many.variant(G=2**40, F=-0.5, E=1e-05, D=-3, C=7, B=False, A=True, T="bfloat16")
        assert variant.defines.splitlines() == [
            "#define T bfloat16_t",
            "#define A true",
            "#define B false",
            "#define C 7",
            "#define D (-3)",
            "#define E 1e-05f",
            "#define F (-0.5f)",
            "#define G 1099511627776LL",
        ]

    @pytest.mark.parametrize(
        ("constants", "text"),
        [
            ({}, "lacks T, THREADS"),
            ({"T": "float16", "THREADS": 64, "U": 1}, "has no U"),
            ({"T": "float16", "U": 1}, "lacks THREADS and has no U"),
            ({"T": "float17", "THREADS": 64}, "T cannot be 'float17'"),
            ({"T": "float16", "THREADS": None}, "THREADS cannot be None"),
            ({"T": "float16", "THREADS": float("inf")}, "THREADS cannot be inf"),
            ({"T": "float16", "THREADS": 1e39}, r"THREADS cannot be 1e\+39"),
            ({"T": "float16", "THREADS": 2**63}, "THREADS cannot be 9223372036854775808"),
            ({"T": 3, "THREADS": 64}, "T is the dtype of 'output'"),
        ],
    )
    def test_wrong_constants(self, constants, text):
        with pytest.raises(KernelError, match=text):
            SCALE.variant(**constants)

    def test_variants_are_values(self):
        one, same = SCALE.variant(T="float16", THREADS=64), SCALE.variant(THREADS=64, T="float16")
        assert one == same
        assert hash(one) == hash(same)
        assert one.label == "test_scale[T=float16, THREADS=64]"
        others = [SCALE.variant(T="float16", THREADS=True), SCALE.variant(T="float32", THREADS=64), REVERSE.variant()]
        assert len({one, same, *others}) == 4
        assert one != "test_scale"

    @pytest.mark.parametrize("pair", [(1, True), (1, 1.0), (0, False)])
    def test_equal_numbers_of_other_types_are_other_constants(self, pair):
        first, second = (SCALE.variant(T="float16", THREADS=value) for value in pair)
        assert first != second

    def test_dtypes_and_alignment(self):
        variant = SCALE.variant(T="bfloat16", THREADS=64)
        pixels, output, *_ = SCALE.arguments
        assert [variant.dtype(argument) for argument in (pixels, output)] == ["uint8", "bfloat16"]
        assert [variant.alignment(argument) for argument in (pixels, output)] == [1, 16]
        natural = kernel().variant(T="float32")
        assert natural.alignment(natural.kernel.arguments[0]) == 4

    @pytest.mark.parametrize(
        ("dtype", "size"), [("bool", 1), ("uint8", 1), ("bfloat16", 2), ("float16", 2), ("int32", 4), ("float64", 8)]
    )
    def test_itemsize(self, dtype, size):
        assert itemsize(dtype) == size


class TestGeometry:
    def test_sizes_and_constants(self):
        assert SCALE.variant(T="float16", THREADS=32).launch_config(count=129) == LaunchConfig((2, 1, 1), (32, 1, 1), 0)

    @pytest.mark.parametrize(
        ("sizes", "text"),
        [
            ({}, "depends on count; given: nothing"),
            ({"count": 1, "size": 2}, "depends on count; given: count, size"),
            ({"count": -1}, "count of test_scale is -1"),
            ({"count": 1.0}, "count of test_scale is 1.0"),
            ({"count": True}, "count of test_scale is True"),
        ],
    )
    def test_wrong_sizes(self, sizes, text):
        with pytest.raises(KernelArgumentError, match=text):
            SCALE.variant(T="float16", THREADS=64).launch_config(**sizes)

    def test_a_branch_on_a_size_cannot_be_traced(self):
        branching = kernel(launch_config=lambda n: LaunchConfig((n if n > 3 else 1, 1, 1), (32, 1, 1)))
        assert branching.variant(T="uint8").launch_config(n=9).grid == (9, 1, 1)
        with pytest.raises(KernelError, match=r"cannot be traced. The value of n is not known"):
            branching.variant(T="uint8").trace()

    @pytest.mark.parametrize(
        ("launch", "text"),
        [
            (LaunchConfig((0, 1, 1), (1, 1, 1)), "grid .* is empty or above"),
            (LaunchConfig((1, 65536, 1), (1, 1, 1)), "grid .* is empty or above"),
            (LaunchConfig((2**31, 1, 1), (1, 1, 1)), "grid .* is empty or above"),
            (LaunchConfig((1, 1, 1), (1, 1, 65)), "block .* is empty or above"),
            (LaunchConfig((1, 1, 1), (32, 64, 1)), "more than 1024 threads"),
            (LaunchConfig((1, 1, 1), (32, 1)), "must be three ints"),
            (LaunchConfig((1.0, 1, 1), (32, 1, 1)), "must be three ints"),
            (LaunchConfig((1, 1, 1), (32, 1, 1), -1), "shared memory must be a number of bytes"),
        ],
    )
    def test_impossible_launches(self, launch, text):
        with pytest.raises(KernelArgumentError, match=text):
            launch.check()

    def test_possible_launches(self):
        launch = LaunchConfig((2**31 - 1, 65535, 65535), (1024, 1, 1), 232448)
        assert launch.check() is launch
