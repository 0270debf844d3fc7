"""Races in shared memory are found on the host in whatever order threads run; what waits as CUDA asks for is none."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convkit.cuda import Argument, Kernel, LaunchConfig
from convkit.errors import KernelError
from convkit.testing.cuda_host import run_on_host
from convkit_plugins.dcnv2.cuda import HOPPER

Run = Callable[..., np.ndarray]
ORDERS: tuple[Any, ...] = ("forward", "reverse", 1)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run the body of a kernel, which begins on line 5 of probe.cu, with 4 KiB of shared memory."""

    def run(body: str, *, threads: int = 64, blocks: int = 1, before: str = "", **options: Any) -> np.ndarray:
        source = tmp_path / "probe.cu"
        source.write_text(
            f'#include "convkit.cuh"\n{before}\nextern "C" __global__ void probe(const int* x, int* y) {{\n'
            f"extern __shared__ __align__(1024) unsigned char memory[]; int* const m = (int*)memory; "
            f"const int t = threadIdx.x; __shared__ int v[256];\n{body}\n}}"
        )
        arguments = (Argument("x", "int32"), Argument("y", "int32", output=True))
        launch = LaunchConfig((blocks, 1, 1), (threads, 1, 1), 4096)
        kernel = Kernel("probe", source, arguments, lambda: launch)
        x, y = np.arange(1024, dtype=np.int32), np.zeros(1024, np.int32)
        run_on_host(kernel.variant(), launch, (x, y), races=True, **options)
        return y

    return run


def assert_race(run: Run, body: str, first: str, second: str, **options: Any) -> None:
    """In each order, the message tells both accesses, one way around or the other."""
    for order in ORDERS:
        with pytest.raises(KernelError) as caught:
            run(body, order=order, **options)
        text = str(caught.value)
        assert re.search(rf"race at byte .*: {first}.* and {second}|race at byte .*: {second}.* and {first}", text), (
            text
        )


WRITE, READ, ATOMIC = (f"{what} at probe.cu:" for what in ("a write", "a read", "an atomic operation"))
HALVES = "__syncwarp(t % 32 < 16 ? 0xffffu : 0xffff0000u);"


@pytest.mark.parametrize(
    ("body", "first", "second"),
    [
        ("m[t] = t;\ny[t] = m[t ^ 32];", WRITE + "5", READ + "6"),
        ("m[t] = t;\n__syncwarp();\ny[t] = m[t ^ 32];", WRITE + "5", READ + "7"),
        ("m[t] = t;\ny[t] = m[t ^ 1];", WRITE + "5", READ + "6"),
        ("y[t] = m[0];\nif (t == 40) m[0] = 1;", READ + "5", WRITE + "6"),
        ("if (t % 32 == 3) m[9] = t;", WRITE + "5", WRITE + "5"),
        ("m[t] = t;\n__ballot_sync(~0u, 1);\ny[t] = m[t ^ 1];", WRITE + "5", READ + "7"),
        ("m[t] = t;\n__shfl_sync(~0u, t, 0);\ny[t] = m[t ^ 1];", WRITE + "5", READ + "7"),
        (f"m[t] = t;\n{HALVES}\ny[t] = m[t ^ 16];", WRITE + "5", READ + "7"),
        ("atomicAdd(&m[1], t);\ny[t] = m[1];", ATOMIC + "5", READ + "6"),
        ("atomicMax(&m[1], t);\nif (t == 5) m[1] = 0;", ATOMIC + "5", WRITE + "6"),
        ("((short*)m)[t / 2] = t;", WRITE + "5", WRITE + "5"),
        ("memory[t] = 1;\n((short*)m)[t / 2] = 1;", WRITE + "[56]", WRITE + "6"),
        ("v[t] = t;\ny[t] = v[63 - t];", WRITE + "5", READ + "6"),
        ("((uint4*)m)[t] = make_uint4(t, t, t, t);\ny[t] = m[4 * (t ^ 1) + 3];", WRITE + "5", READ + "6"),
        ("struct Many { int i[25]; };\n((Many*)m)[t % 32] = *(const Many*)x;", WRITE + "6", WRITE + "6"),
        ("for (int i = 0; i < 3; ++i) {\nm[t] = i;\n__syncthreads();\ny[t] = m[t ^ 1];\n}", READ + "8", WRITE + "6"),
    ],
)
def test_races_are_found(run: Run, body: str, first: str, second: str) -> None:
    assert_race(run, body, first, second)


def test_the_message_tells_both_places(run: Run) -> None:
    before = "CONVKIT_INLINE void put(int* to, int value) { *to = value; }"
    body = "put(m + t, 1);\n__syncwarp();\ny[t] = m[t ^ 32];"
    with pytest.raises(KernelError) as caught:
        run(body, before=before, blocks=3)
    assert str(caught.value) == (
        "probe failed on the host: threads (32, 0, 0) and (0, 0, 0) of block (0, 0, 0) race at byte 128 of the dynamic "
        "shared memory: a write at probe.cu:2 in probe.cu:5 and a read at probe.cu:7."
    )
    with pytest.raises(KernelError, match=r"race at byte 128 .* a write at probe\.cu:2 in probe\.cu:5 and a read at"):
        run(body, before=before, guard=True)


@pytest.mark.parametrize(
    "body",
    [
        "m[t] = t;\n__syncthreads();\ny[t] = m[t ^ 32];",
        "m[t] = t;\n__syncwarp();\ny[t] = m[t ^ 1];",
        f"m[t] = t;\n{HALVES}\ny[t] = m[t ^ 8];",
        "m[t] = t;\ny[t] = __syncthreads_count(1);\ny[t] += m[t ^ 33];",
        "m[t] = t;\nif (__syncthreads_or(1)) y[t] = m[t ^ 33];\n__syncthreads_and(1);\nm[t ^ 5] = 0;",
        "for (int i = 0; i < 9; ++i) {\nm[t] = i;\n__syncthreads();\ny[t] = m[t ^ 1];\n__syncthreads();\n}",
        "for (int i = 0; i < 9; ++i) m[i % 2 * 64 + t] = i, __syncthreads(), y[t] = m[i % 2 * 64 + (t ^ 1)];",
        "for (int i = 0; i < 9; ++i) {\nm[t] = i;\n__syncwarp();\ny[t] = m[t ^ 1];\n__syncwarp();\n}",
        "if (t == 0) *m = 0;\n__syncthreads();\natomicAdd(m, atomicSub(m, t));\n__syncthreads();\ny[t] = *m;",
        "((short*)m)[t] = t;\nmemory[512 + t] = t;\ny[t] = ((short*)m)[t] + memory[512 + t];",
        "y[0] += t;",  # not shared
        "if (t % 2) { m[t] = t; return; }\n__syncthreads();\ny[t] = m[t + 1];",
        "v[t] = t;\n__syncthreads();\nif (t < 32) {\nv[t] += v[t + 32];\n__syncwarp();\ny[t] = v[t ^ 1];\n}",
        "if (t < 2) m[t] = t;\n__syncwarp();\nif (t == 1) m[2] = m[0];\n__syncwarp();\nif (t == 2) y[0] = m[2] + m[0];",
    ],
)  # fmt: skip
def test_what_waits_is_no_race(run: Run, body: str) -> None:
    for order in ORDERS:
        run(body, blocks=3, order=order)


def test_most_threads(run: Run) -> None:
    body = "for (int i = 0; i < 20; ++i) {\nm[t] = i;\n__syncthreads();\ny[t] += m[1023 - t];\n__syncthreads();\n}"
    np.testing.assert_array_equal(run(body, threads=1024), 190)
    assert_race(run, body.replace("\n__syncthreads();\n}", "}"), READ + "8", WRITE + "6", threads=1024)


# --- Barriers as hopper.cuh emulates them ---

HOPPER_CUH = f'#include "{HOPPER.source.parent / "hopper.cuh"}"'
START = """
const Shared full = shared_address(memory), empty = full + 16, tiles = full + 1024;
if (t < 2) {
    init_barrier(full + 8 * t, 1);
    init_barrier(empty + 8 * t, 64);
}
__syncthreads();
"""
# A copy by thread 64 and 64 readers take turns at two tiles.
TURNS = f"""{START}
for (int i = 0; i < 9; ++i) {{
    const int slot = i % 2 * 8, at = i % 2 * 256;
    if (t < 64) {{
        wait(full + slot, i / 2 & 1);
        y[64 * i + t] = ((const int*)(memory + 1024 + at))[t ^ 33];
        arrive(empty + slot);
    }} else if (t == 64) {{
        wait(empty + slot, i / 2 & 1 ^ 1);
        copy_tile<1>(tiles + at, x + 64 * i, 256, full + slot, 1);
    }}
}}
"""


@pytest.mark.parametrize("order", [*ORDERS, 2])
def test_mbarriers_hand_on_tiles(run: Run, order: Any) -> None:
    y = run(TURNS, threads=96, blocks=2, before=HOPPER_CUH, order=order)
    np.testing.assert_array_equal(y[: 9 * 64].reshape(9, 64), np.arange(9 * 64).reshape(9, 64)[:, np.arange(64) ^ 33])


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("wait(full + slot, i / 2 & 1);", ""),
        ("wait(full + slot, i / 2 & 1);", "wait(full + slot, 0);"),
        ("wait(full + slot, i / 2 & 1);", "wait(full + (slot ^ 8), i / 2 & 1);"),
        ("wait(empty + slot, i / 2 & 1 ^ 1);", ""),
        ("wait(empty + slot, i / 2 & 1 ^ 1);", "wait(empty + slot, i / 2 & 1);"),
        ("init_barrier(empty + 8 * t, 64);", "init_barrier(empty + 8 * t, 32);"),
        ("arrive(empty + slot);", "arrive(empty + slot), y[0] = ((const int*)(memory + 1024 + at))[t];"),
        ("arrive(empty + slot);", "arrive(empty + slot), memory[1024 + at] = 1;"),
        ("__syncthreads();", ""),
        ("full + slot, 1);", "full + slot, 1), memory[1024 + at] = 1;"),
    ],
)
def test_mbarriers_used_wrongly_are_races_or_deadlocks(run: Run, right: str, wrong: str) -> None:
    assert TURNS.count(right) == 1
    for order in ORDERS:
        with pytest.raises(KernelError, match=r"race at byte|never arrive"):
            run(TURNS.replace(right, wrong), threads=96, before=HOPPER_CUH, order=order)


@pytest.mark.parametrize("between", ["", "__syncthreads();", "arrive(empty);", "__syncwarp();"])
def test_a_copy_ends_for_those_that_wait_for_it(run: Run, between: str) -> None:
    """Not for those that a block barrier keeps together with the thread that began it, nor for this one itself."""
    body = START + f"if (t == 0) copy_tile<1>(tiles, x, 256, full, 1);\n{between}\nif (t == 0) y[0] = memory[1024];"
    assert_race(run, body, "a copy at .* in probe.cu:12", READ + "14", before=HOPPER_CUH)
    waiting = body.replace("if (t == 0) y", "wait(full, 0);\nif (t == 0) y")
    run(waiting, before=HOPPER_CUH)
    run(waiting.replace("wait(full, 0)", "if (t == 9) wait(full, 0);\n__syncthreads()"), before=HOPPER_CUH)


RELAY = f"""{START}
if (t < 32) {{
    m[256 + t] = t;
    __syncwarp();
    if (t == 0) arrive(full);
}} else if (t < 64) {{
    wait(full, 0);
    m[288 + t] = m[256 + t - 32];
    arrive(empty);
}} else if (t == 64) {{
    arrive(full + 8);
}}
"""


def test_one_lane_arrives_for_its_warp(run: Run) -> None:
    run(RELAY, threads=128, before=HOPPER_CUH)
    without = RELAY.replace("__syncwarp();", "")
    assert_race(run, without, WRITE + "14", READ + "19", threads=128, before=HOPPER_CUH)


def test_who_waits_learns_what_others_had_waited_for(run: Run) -> None:
    body = RELAY.replace("64);", "32);") + "if (t == 100) wait({}, 0), y[0] = m[256 + 7] + m[320 + 7];"
    run(body.replace("{}", "empty"), threads=128, before=HOPPER_CUH)
    for strange in ("full", "full + 8"):  # who arrived there knows nothing of the second to write, or of anybody
        assert_race(run, body.replace("{}", strange), WRITE + "1[49]", READ + "24", threads=128, before=HOPPER_CUH)


PRODUCT = f"""{START.replace("64);", "1);")}
if (t < 128) {{
    y[t] = memory[1024 + t];
    meet_warpgroup();
    if (t == 0) arrive(empty);
}} else if (t == 128) {{
    wait(empty, 0);
    copy_tile<1>(tiles, x, 128, full, 1);
}}
"""


@pytest.mark.parametrize("fault", ["meet_warpgroup();", "wait(empty, 0);"])
def test_products_end_for_all_threads_of_a_warpgroup(run: Run, fault: str) -> None:
    run(PRODUCT, threads=256, before=HOPPER_CUH)
    assert_race(run, PRODUCT.replace(fault, ""), READ + "14", "a copy", threads=256, before=HOPPER_CUH)


def test_products_do_not_tell_what_one_of_their_threads_has_waited_for(run: Run) -> None:
    body = START + "if (t == 128) copy_tile<1>(tiles, x, 128, full, 1);\nif (t < 128) {\n{}\nmeet_warpgroup();\n"
    body += "y[t] = memory[1024 + t];\n}"
    run(body.replace("{}", "wait(full, 0);"), threads=256, before=HOPPER_CUH)
    body = body.replace("{}", "if (t == 9) wait(full, 0);")
    assert_race(run, body, "a copy at .* in probe.cu:12", READ + "16", threads=256, before=HOPPER_CUH)
