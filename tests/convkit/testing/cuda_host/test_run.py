"""The host shim: what a GPU guarantees to a kernel holds, and what it forbids is an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from convkit.cuda import Argument, Kernel, LaunchConfig, Variant
from convkit.errors import EnvironmentProblem, KernelArgumentError, KernelError
from convkit.testing.cuda_host import run_on_host

Build = Callable[..., Variant]
INT = Argument("n", "int32", pointer=False)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Make a variant of a kernel ``probe`` from its parameters and its body."""

    def make(parameters: str, body: str, *arguments: Argument, before: str = "", **constants: Any) -> Variant:
        source = tmp_path / "probe.cu"
        source.write_text(
            f'#include "convkit.cuh"\n{before}\nextern "C" __global__ void probe({parameters}) {{\n{body}\n}}'
        )
        kernel = Kernel(
            "probe", source, arguments, lambda: LaunchConfig((1, 1, 1), (1, 1, 1)), constants=tuple(constants)
        )
        return kernel.variant(**constants)

    return make


def one_block(threads: int, shared: int = 0) -> LaunchConfig:
    return LaunchConfig((1, 1, 1), (threads, 1, 1), shared)


SUM = """
    extern __shared__ __align__(16) unsigned char memory[];
    __shared__ float part[256];
    float* const of_warps = reinterpret_cast<float*>(memory);
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    float value = i < n ? x[i] : 0.f;
    part[threadIdx.x] = value;
    __syncthreads();
    for (int step = 128; step > 0; step /= 2) {
        if (threadIdx.x < step) part[threadIdx.x] += part[threadIdx.x + step];
        __syncthreads();
    }
    for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
    __syncthreads();
    if (threadIdx.x > 0) return;
    value = 0.f;
    for (int i = 0; i < 8; ++i) value += of_warps[i];
    y[2 * blockIdx.x] = part[0];
    y[2 * blockIdx.x + 1] = value;
"""


@pytest.mark.parametrize("guard", [False, "end", "start"])
@pytest.mark.parametrize("order", ["forward", "reverse", 1, 2])
def test_sums_through_shared_memory_and_shuffles(build: Build, order: Any, guard: Any) -> None:
    variant = build(
        "const float* x, float* y, int n", SUM, Argument("x", "float32"), Argument("y", "float32", output=True), INT
    )
    x = np.random.default_rng(0).integers(-99, 99, 1000).astype(np.float32)
    y = np.full((4, 2), np.nan, np.float32)
    run_on_host(variant, LaunchConfig((4, 1, 1), (256, 1, 1), 32), (x, y, 1000), order=order, guard=guard)
    expected = np.pad(x, (0, 24)).reshape(4, 256).sum(1)
    np.testing.assert_array_equal(y, np.stack((expected, expected), 1))


def test_every_block_and_thread_runs_once(build: Build) -> None:
    variant = build(
        "int* y",
        "const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;\n"
        "const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;\n"
        "y[block * blockDim.x * blockDim.y * blockDim.z + thread] += block * 1000 + thread;",
        Argument("y", "int32", output=True),
    )
    for order in ("forward", "reverse", 5):
        y = np.zeros((24, 105), np.int32)
        run_on_host(variant, LaunchConfig((2, 3, 4), (7, 5, 3)), (y,), order=order)
        np.testing.assert_array_equal(y, np.arange(24)[:, None] * 1000 + np.arange(105))


@pytest.mark.parametrize("width", [32, 8])
def test_shuffles_move_values_as_documented(build: Build, width: int) -> None:
    variant = build(
        "int* y",
        "const int t = threadIdx.x, v = 100 + t;\n"
        "y[t] = __shfl_sync(~0u, v, 5, WIDTH);\n"
        "y[32 + t] = __shfl_up_sync(~0u, v, 3, WIDTH);\n"
        "y[64 + t] = __shfl_down_sync(~0u, v, 3, WIDTH);\n"
        "y[96 + t] = __shfl_xor_sync(~0u, v, 6, WIDTH);\n"
        "y[128 + t] = int(__shfl_sync(~0u, (long long)v << 40, t + 1) >> 40);",
        Argument("y", "int32", output=True),
        WIDTH=width,
    )
    y = np.zeros((5, 32), np.int32)
    run_on_host(variant, one_block(32), (y,))
    segments = (np.arange(32) + 100).reshape(-1, width)
    up = np.concatenate((segments[:, :3], segments[:, :-3]), 1)
    down = np.concatenate((segments[:, 3:], segments[:, -3:]), 1)
    expected = [np.repeat(segments[:, 5], width), up.ravel(), down.ravel(), (np.arange(32) ^ 6) + 100]
    np.testing.assert_array_equal(y[:4], expected)
    np.testing.assert_array_equal(y[4], np.roll(np.arange(32), -1) + 100)


def test_votes_count_the_lanes_that_take_part(build: Build) -> None:
    variant = build(
        "unsigned* y",
        "const int t = threadIdx.x;\n"
        "if (t >= 40) return;\n"  # the second warp has eight lanes left
        "y[t] = __ballot_sync(~0u, t % 3 == 0);\n"
        "y[40 + t] = __any_sync(~0u, t == 33) * 2 + __all_sync(~0u, t >= 32);\n"
        "if (t % 2) y[80 + t] = __ballot_sync(0xaaaaaaaau, t > 8); else y[80 + t] = __ballot_sync(0x55555555u, 1);\n"
        "y[120 + t] = __syncthreads_count(t < 7) * 4 + __syncthreads_or(t == 39) * 2;\n"
        "y[120 + t] += __syncthreads_and(t < 39) + __syncthreads_count(t > 30) * 100;",
        Argument("y", "uint32", output=True),
    )
    y = np.zeros((4, 40), np.uint32)
    run_on_host(variant, one_block(64), (y,), order=3)
    first, second = sum(1 << t for t in range(0, 32, 3)), sum(1 << t - 32 for t in range(32, 40) if t % 3 == 0)
    np.testing.assert_array_equal(y[0], [first] * 32 + [second] * 8)
    np.testing.assert_array_equal(y[1], [0] * 32 + [3] * 8)
    odd, even = sum(1 << t for t in range(9, 32, 2)), 0x55555555
    np.testing.assert_array_equal(y[2], [even, odd] * 16 + [0x55, 0xAA] * 4)
    np.testing.assert_array_equal(y[3], [900 + 7 * 4 + 2] * 40)
    full = y.copy()
    y[:] = 0
    run_on_host(variant, one_block(40), (y,))
    np.testing.assert_array_equal(y, full)


def test_atomics(build: Build) -> None:
    variant = build(
        "const int* x, int* counts, unsigned long long* best, float* total, int n",
        "__shared__ int local[10];\n"
        "for (int i = threadIdx.x; i < 10; i += blockDim.x) local[i] = 0;\n"
        "__syncthreads();\n"
        "const int i = blockIdx.x * blockDim.x + threadIdx.x;\n"
        "if (i < n) {\n"
        "    atomicAdd(&local[x[i] % 10], 1);\n"
        "    atomicMax(best, (unsigned long long)x[i] << 32 | unsigned(i));\n"
        "    atomicAdd(total, x[i]);\n"
        "    atomicMin(&counts[10], x[i]);\n"
        "    if (atomicCAS(&counts[11], 0, i + 1) == 0) atomicExch(&counts[12], i + 1);\n"
        "}\n"
        "__syncthreads();\n"
        "if (threadIdx.x < 10) atomicAdd(&counts[threadIdx.x], local[threadIdx.x]);",
        Argument("x", "int32"),
        Argument("counts", "int32", output=True),
        Argument("best", "uint64", output=True),
        Argument("total", "float32", output=True),
        INT,
    )
    x = np.random.default_rng(1).permutation(500).astype(np.int32) + 7
    counts, best, total = np.zeros(13, np.int32), np.zeros(1, np.uint64), np.zeros(1, np.float32)
    counts[10] = 10**6
    run_on_host(variant, LaunchConfig((8, 1, 1), (64, 1, 1)), (x, counts, best, total, 500), order=4)
    np.testing.assert_array_equal(counts[:10], np.bincount(x % 10))
    assert counts[10] == x.min()
    assert 0 < counts[11] == counts[12]
    assert best[0] == (int(x.max()) << 32) + x.argmax()
    assert total[0] == x.sum()


def test_every_half_becomes_the_float_that_numpy_reads(build: Build) -> None:
    variant = build(
        "const half_t* x, float* y, half_t* z",
        "const int i = blockIdx.x * blockDim.x + threadIdx.x;\ny[i] = to_float(x[i]); z[i] = from_float<half_t>(y[i]);",
        Argument("x", "float16"),
        Argument("y", "float32", output=True),
        Argument("z", "float16", output=True),
    )
    x = np.arange(65536, dtype=np.uint16).view(np.float16)
    y, z = np.empty(65536, np.float32), np.empty(65536, np.float16)
    run_on_host(variant, LaunchConfig((64, 1, 1), (1024, 1, 1)), (x, y, z))
    np.testing.assert_array_equal(y, x.astype(np.float32))
    number = ~np.isnan(x)
    np.testing.assert_array_equal(z.view(np.uint16)[number], x.view(np.uint16)[number])
    assert (z.view(np.uint16)[~number] == 0x7FFF).all()


def test_floats_are_rounded_to_the_nearest_half_and_bfloat16(build: Build) -> None:
    variant = build(
        "const float* x, half_t* y, bfloat16_t* z, int n",
        "const int i = blockIdx.x * blockDim.x + threadIdx.x;\n"
        "if (i < n) { y[i] = from_float<half_t>(x[i]); z[i] = from_float<bfloat16_t>(x[i]); }",
        Argument("x", "float32"),
        Argument("y", "float16", output=True),
        Argument("z", "bfloat16", output=True),
        INT,
    )
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middles = (halves[1:] + halves[:-1]) / 2
    edges = np.array([65519.996, 65520, 1e9, 3.4e38, np.inf, 1e-8, 2**-25, 1e-40, 3.39e38], np.float32)
    generator = np.random.default_rng(2)
    some = generator.integers(0, 0x7F800000, 50000, np.uint32).view(np.float32)
    x = np.concatenate((middles, np.nextafter(middles, 0), np.nextafter(middles, np.inf), edges, some)).astype(
        np.float32
    )
    x = np.concatenate((x, -x))
    y, z = np.empty(x.size, np.float16), np.empty(x.size, np.uint16)
    run_on_host(variant, LaunchConfig((-(-x.size // 1024), 1, 1), (1024, 1, 1)), (x, y, z, x.size))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(y.view(np.uint16), x.astype(np.float16).view(np.uint16))
    np.testing.assert_array_equal(z, torch.from_numpy(x).bfloat16().view(torch.uint16).numpy())


def test_arithmetic_is_what_is_written(build: Build) -> None:
    variant = build(
        "const float* x, float* y, int* z",
        "y[0] = x[0] * x[0] - x[1]; y[1] = fmaf(x[0], x[0], -x[1]); y[2] = __fmaf_rn(x[0], x[0], -x[1]);\n"
        "z[0] = __clz(1 << 20); z[1] = __ffs(48); z[2] = __popc(0xf0f0); z[3] = int(__brev(6u) >> 29);\n"
        "z[4] = __float_as_int(1.f); z[5] = __float2int_rd(-1.5f); z[6] = __float2int_rn(1e20f);\n"
        "z[7] = __float2int_rz(__int_as_float(0x7fc00000)); z[8] = min(-3, 4) + max(3u, 4u); z[9] = __clz(0);",
        Argument("x", "float32"),
        Argument("y", "float32", output=True),
        Argument("z", "int32", output=True),
    )
    value = np.float32(1 + 2**-12)
    x, y, z = np.array([value, value * value], np.float32), np.zeros(3, np.float32), np.zeros(10, np.int32)
    run_on_host(variant, one_block(1), (x, y, z))
    assert y[0] == 0
    assert y[1] == y[2] == 2**-24
    assert z.tolist() == [11, 5, 8, 3, 0x3F800000, -2, 2**31 - 1, 0, 1, 32]


def test_threads_that_returned_count_as_arrived(build: Build) -> None:
    variant = build(
        "int* y",
        "__shared__ int value;\nif (threadIdx.x >= 40) return;\nif (threadIdx.x == 39) value = 7;\n__syncthreads();\n"
        "y[threadIdx.x] = value;",
        Argument("y", "int32", output=True),
    )
    for order in ("forward", "reverse", 8):
        y = np.zeros(40, np.int32)
        run_on_host(variant, one_block(64), (y,), order=order)
        assert (y == 7).all()


@pytest.mark.parametrize(
    ("threads", "body", "message"),
    [
        (
            32,
            "if (t < 16) __syncthreads();\nelse\n__syncthreads();",
            r"different barriers, probe\.cu:4 and probe\.cu:6",
        ),
        (64, "if (t == 40) return;\nif (t < 32) __syncthreads();\n__syncthreads();", r"different .*:5 and .*:6"),
        (64, "if (t % 32 < 8) __syncwarp();\n__syncthreads();", "never arrive: 16 at __syncwarp.*; 48 at a block barr"),
        (32, "if (t < 4) __shfl_sync(~0u, 1, 0);\nelse\n__shfl_sync(~0u, 1, 0);", r"4 at a shuffle, .*:4 .*; 28 at a "),
        (
            32,
            "if (t / 4 == 1) __ballot_sync(t == 7 ? 0x1f0u : 0xf0u, 1);",
            "3 at a vote.* 1 at a vote.* 28 have returned",
        ),
        (32, "if (t == 3) __syncwarp(0xf0u);", "lane 3 uses __syncwarp whose mask 0x000000f0 leaves it out"),
    ],
)
@pytest.mark.parametrize("order", ["forward", "reverse", 2])
def test_divergence_is_an_error(build: Build, threads: int, body: str, message: str, order: Any) -> None:
    variant = build("int* y", f"const int t = threadIdx.x; {body}", Argument("y", "int32", output=True))
    y = np.zeros(1, np.int32)
    for guard in (False, True):
        with pytest.raises(KernelError, match=message):
            run_on_host(variant, one_block(threads), (y,), order=order, guard=guard)
    clean = build("int* y", "__syncthreads();\ny[0] = blockDim.x;", Argument("y", "int32", output=True))
    run_on_host(clean, one_block(threads), (y,))
    assert y[0] == threads


WATCH = """
inline bool reached(const void* at, unsigned wanted) { return *(const unsigned*)at >= wanted; }
#define WAIT_FOR(at, wanted) convkit_host::wait_until(reached, &(at), wanted, {__FILE__, __LINE__})
"""
ORDERS = ["forward", "reverse", 1, 2, 3, 4]


@pytest.mark.parametrize("order", ORDERS)
def test_threads_wait_for_a_place_in_memory(build: Build, order: Any) -> None:
    """Each for the one before it, from the last to the first, within a warp and beyond."""
    body = """
        __shared__ unsigned count;
        const unsigned t = threadIdx.x, before = blockDim.x - 1 - t;
        if (t == 0) count = 0;
        __syncthreads();
        WAIT_FOR(count, before);
        y[blockIdx.x * blockDim.x + t] = count++;
    """
    variant = build("unsigned* y", body, Argument("y", "uint32", output=True), before=WATCH)
    for guard in (False, True):
        y = np.zeros((3, 100), np.uint32)
        run_on_host(variant, LaunchConfig((3, 1, 1), (100, 1, 1)), (y,), order=order, guard=guard)
        np.testing.assert_array_equal(y, [np.arange(100)[::-1]] * 3)


EXCHANGE = """
    __shared__ unsigned full[2], empty[2];
    __shared__ int tile[2][64];
    const int t = threadIdx.x % 64;
    if (threadIdx.x < 2) full[threadIdx.x] = empty[threadIdx.x] = 0;
    __syncthreads();
    for (int i = 0; i < n; ++i) {
        const int slot = i % 2;
        if (threadIdx.x < 64) {
            {}
            tile[slot][t] = 100 * i + t;
            ++full[slot];
        } else {
            WAIT_FOR(full[slot], (i / 2 + 1) * 64);
            y[64 * i + t] = tile[slot][t ^ 33];
            ++empty[slot];
        }
    }
"""
AFTER_THE_READERS = "WAIT_FOR(empty[slot], i / 2 * 64);"


@pytest.mark.parametrize("order", ORDERS)
def test_warps_hand_on_tiles_in_many_phases(build: Build, order: Any) -> None:
    body = EXCHANGE.replace("{}", AFTER_THE_READERS)
    variant = build("int* y, int n", body, Argument("y", "int32", output=True), INT, before=WATCH)
    y = np.zeros((9, 64), np.int32)
    run_on_host(variant, one_block(128), (y, 9), order=order)
    np.testing.assert_array_equal(y, 100 * np.arange(9)[:, None] + (np.arange(64) ^ 33))


def test_a_wait_that_is_missing_shows_in_the_order(build: Build) -> None:
    variant = build("int* y, int n", EXCHANGE.replace("{}", ""), Argument("y", "int32", output=True), INT, before=WATCH)
    found = []
    for order in ORDERS:
        y = np.zeros((9, 64), np.int32)
        run_on_host(variant, one_block(128), (y, 9), order=order)
        found.append(np.array_equal(y, 100 * np.arange(9)[:, None] + (np.arange(64) ^ 33)))
    assert False in found


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("WAIT_FOR(flag, 1);", r"64 at a memory location, \S*probe\.cu:\d+\.$"),
        ("if (t < 40) WAIT_FOR(flag, t + 1);", r"40 at a memory location, .*:\d+; 24 have returned\.$"),
        (
            "if (t < 16) WAIT_FOR(flag, 1);\nelse if (t == 20) WAIT_FOR(flag, 2);",
            r"16 at a memory location, .*:\d+; 1 at a memory location, .*:\d+; 47 have returned",
        ),
        (
            "if (t == 0) WAIT_FOR(flag, 1);\n__syncthreads();\nflag = 1;",
            "1 at a memory location.*; 63 at a block barrier",
        ),
        (
            "if (t == 0) WAIT_FOR(flag, 1);\n__syncwarp();\nif (t == 1) flag = 1;",
            r"1 at a memory location, [^(]*; 31 at __syncwarp, .* \(mask 0xffffffff\); 32 have returned",
        ),
    ],
)
@pytest.mark.parametrize("order", ORDERS[:4])
def test_waiting_for_what_never_comes_is_an_error(build: Build, body: str, message: str, order: Any) -> None:
    start = "__shared__ unsigned flag;\nconst unsigned t = threadIdx.x;\nflag = 0;\n__syncthreads();\n"
    output = Argument("y", "uint32", output=True)
    variant, y = build("unsigned* y", start + body, output, before=WATCH), np.zeros(1, np.uint32)
    for guard in (False, True):
        with pytest.raises(KernelError, match=rf"block \(0, 0, 0\) wait for threads that never arrive: {message}"):
            run_on_host(variant, one_block(64), (y,), order=order, guard=guard)
    clean = build(
        "unsigned* y", start + "if (t == 9) flag = 3;\nWAIT_FOR(flag, 3);\ny[0] = flag;", output, before=WATCH
    )
    run_on_host(clean, one_block(64), (y,), order=order)
    assert y[0] == 3


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("y[0] = x[n];", r"read at byte 40 of 'x', which has 40 in block \(0, 0, 0\), thread \(0, 0, 0\), probe\.cu:4"),
        ("y[0] = x[n + 1000000];", "read at byte 4000040 of 'x'"),
        ("y[0] = x[-5000];", "read at byte -20000 of 'x'"),
        ("const_cast<float*>(x)[1] = 0.f;", "write at byte 4 of 'x'"),
        ("y[1] = 1.f;", "write at byte 4 of 'y', which has 4"),
        ("y[-1] = 1.f;", "write at byte -4 of 'y'"),
        ("y[0] = *reinterpret_cast<const float*>(reinterpret_cast<const char*>(x) + 1);", "undefined behaviour"),
        ("float local[4] = {}; y[0] = local[n];", "undefined behaviour"),
        ("extern __shared__ float memory[];\ny[0] = memory[n];", "read at byte 40 of the dynamic shared memory"),
        ("while (n == 10) n += n - 10;", "no end after 1 seconds"),
        ("y[0] = *reinterpret_cast<const float*>(16ll * n);", "read at address 0xa0, where nothing is"),
    ],
)  # fmt: skip
def test_guard_finds_what_would_corrupt_memory(build: Build, body: str, message: str) -> None:
    variant = build(
        "const float* x, float* y, volatile int n",
        body,
        Argument("x", "float32"),
        Argument("y", "float32", output=True),
        INT,
    )
    x, y = np.ones(10, np.float32), np.ones(1, np.float32)
    with pytest.raises(KernelError, match=message):
        run_on_host(variant, one_block(1, 16), (x, y, 10), guard=True, timeout=1)


def test_guard_before_the_arrays(build: Build) -> None:
    variant = build(
        "const char* x, char* y", "y[0] = x[-1];", Argument("x", "int8"), Argument("y", "int8", output=True)
    )
    arrays = np.ones(3, np.int8), np.ones(3, np.int8)
    run_on_host(variant, one_block(1), arrays, guard="end")
    assert arrays[1].tolist() == [-1, 1, 1]  # what nobody wrote holds 0xff
    with pytest.raises(KernelError, match="read at byte -1 of 'x', which has 3"):
        run_on_host(variant, one_block(1), arrays, guard="start")


def test_shared_memory_is_poisoned_before_each_block(build: Build) -> None:
    variant = build(
        "float* y",
        "extern __shared__ float memory[];\n__shared__ float fixed[8];\n"
        "y[2 * blockIdx.x] = memory[0];\ny[2 * blockIdx.x + 1] = fixed[3];\nmemory[0] = fixed[3] = 1.f;",
        Argument("y", "float32", output=True),
    )
    y = np.zeros(6, np.float32)
    run_on_host(variant, LaunchConfig((3, 1, 1), (1, 1, 1), 4), (y,))
    assert np.isnan(y).all()


def test_a_race_shows_in_the_order(build: Build) -> None:
    body = "__shared__ int value[64];\nvalue[threadIdx.x] = threadIdx.x;\n{}\ny[threadIdx.x] = value[threadIdx.x ^ 1];"
    results = {}
    for barrier in ("", "__syncthreads();"):
        variant = build("int* y", body.format(barrier), Argument("y", "int32", output=True))
        for order in ("forward", "reverse", 1):
            y = np.zeros(64, np.int32)
            run_on_host(variant, one_block(64), (y,), order=order)
            results[barrier, order] = y.tolist()
    assert len({tuple(results["", order]) for order in ("forward", "reverse", 1)}) == 3
    right = [t ^ 1 for t in range(64)]
    assert all(results["__syncthreads();", order] == right for order in ("forward", "reverse", 1))


def test_a_race_between_warps_that_shuffle_shows_with_a_seed(build: Build) -> None:
    """Shuffles keep the threads of a warp together, and say nothing about other warps."""
    body = """
        __shared__ int value[4];
        const int warp = threadIdx.x / 32;
        int sum = 0;
        for (int i = 0; i < 99; ++i) sum += __shfl_xor_sync(0xffffffffu, 1, 1);
        value[warp] = sum + warp;
        for (int i = 0; i < 99; ++i) sum += __shfl_xor_sync(0xffffffffu, 1, 1);
        {}
        y[threadIdx.x] = value[warp ^ 1];
    """
    right = [99 + (t // 32 ^ 1) for t in range(128)]
    seeds = range(6)
    for barrier, races in (("__syncthreads();", False), ("", True)):
        variant = build("int* y", body.replace("{}", barrier), Argument("y", "int32", output=True))
        found = set()
        for seed in seeds:
            y = np.zeros(128, np.int32)
            run_on_host(variant, one_block(128), (y,), order=seed)
            found.add(y.tolist() == right)
        assert (False in found) == races, barrier


def test_variants_share_no_memory(build: Build) -> None:
    """A C++ compiler gives statics of templates one address in the whole process unless it is told not to."""
    before = "template <typename V> __device__ V* tile() { __shared__ V data[SIZE]; return data; }"
    for size in (4096, 4):
        body = "int* data = tile<int>();\ny[0] = data[0];\nfor (int i = 0; i < SIZE; ++i) data[i] = i;"
        variant = build("int* y", body, Argument("y", "int32", output=True), before=before, SIZE=size)
        y = np.zeros(1, np.int32)
        run_on_host(variant, one_block(1), (y,))
        assert y[0] == -1  # what nobody wrote, and not what the variant before left


def test_a_source_that_changed_is_compiled_again(build: Build) -> None:
    variant = build("int* y", "y[0] = 1;", Argument("y", "int32", output=True))
    y = np.zeros(1, np.int32)
    for value in (1, 2):
        variant.kernel.source.write_text(f'extern "C" __global__ void probe(int* y) {{ y[0] = {value}; }}')
        run_on_host(variant, one_block(1), (y,))
        assert y[0] == value


def test_null_pointers_and_bfloat16(build: Build) -> None:
    variant = build(
        "const T* x, const T* bias, T* y",
        "y[0] = from_float<T>(to_float(x[0]) + (bias ? to_float(bias[0]) : 0.5f));",
        Argument("x", "T"),
        Argument("bias", "T"),
        Argument("y", "T", output=True),
        T="bfloat16",
    )
    x, y = np.array([0x3F80], np.uint16), np.zeros(1, np.uint16)
    run_on_host(variant, one_block(1), (x, None, y), guard=True)
    assert y[0] == 0x3FC0  # 1.5


def test_arguments_are_checked(build: Build) -> None:
    variant = build(
        "const float* x, float* y, int n, float f",
        "y[0] = x[0];",
        Argument("x", "float32"),
        Argument("y", "float32", output=True),
        INT,
        Argument("f", "float32", pointer=False),
    )
    x, y = np.ones((2, 3), np.float32), np.zeros(1, np.float32)
    fixed = y.copy()
    fixed.flags.writeable = False
    for args, message in (
        ((x, y, 1), "takes 4 arguments; 3"),
        ((x.astype(np.float64), y, 1, 1.0), "'x' .* array of float32; got float64"),
        ((x.T, y, 1, 1.0), "'x' .* not C-contiguous"),
        ((5, y, 1, 1.0), "'x' .* got int"),
        ((x, fixed, 1, 1.0), "'y' .* read-only"),
        ((x, y, 2**31, 1.0), "'n' .* cannot hold 2147483648"),
        ((x, y, 1.5, 1.0), "'n' .* got float"),
        ((x, y, 1, "1"), "'f' .* got str"),
    ):
        with pytest.raises(KernelArgumentError, match=message):
            run_on_host(variant, one_block(1), args)
    with pytest.raises(KernelArgumentError, match="1025"):
        run_on_host(variant, one_block(1025), (x, y, 1, 1.0))
    with pytest.raises(KernelArgumentError, match="shared memory"):
        run_on_host(variant, one_block(1, 232449), (x, y, 1, 1.0))
    run_on_host(variant, one_block(1), (x, y, np.int32(1), np.float32(1)))
    assert y[0] == 1


def test_sources_that_do_not_fit_are_refused(build: Build) -> None:
    output = Argument("y", "float32", output=True)
    y = np.zeros(1, np.float32)
    with pytest.raises(KernelError, match=r"(?s)does not compile.*probe\.cu:4.*nothing"):
        run_on_host(build("float* y", "y[0] = nothing;", output), one_block(1), (y,))
    with pytest.raises(KernelError, match=r"has 2 parameters in probe\.cu; 1 are declared"):
        run_on_host(build("float* y, int n", "", output), one_block(1), (y,))
    for parameters, argument, value in (
        ("double* y", output, y),
        ("float y", output, y),
        ("unsigned n", INT, 1),
        ("long long n", INT, 1),
        ("int* n", INT, 1),
    ):
        with pytest.raises(KernelError, match=f"Argument '{argument.name}' .* is declared as"):
            run_on_host(build(parameters, "", argument), one_block(1), (value,))


def test_compiler_is_named_when_missing(build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    variant = build("float* y", "", Argument("y", "float32", output=True))
    y = np.zeros(1, np.float32)
    with pytest.raises(EnvironmentProblem, match="no-such-compiler"):
        run_on_host(variant, one_block(1), (y,), compiler="no-such-compiler")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match=r"g\+\+ or clang\+\+ was not found"):
        run_on_host(variant, one_block(1), (y,))
