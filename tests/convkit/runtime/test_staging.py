"""Arrays copied one behind the other into staging memory, by this thread and by others."""

from __future__ import annotations

import numpy as np
import pytest

from convkit.runtime import _staging


@pytest.mark.parametrize("torch", [False, True])
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("kind", ["plain", "read-only", "apart"])
def test_arrays_lie_one_behind_the_other(monkeypatch: pytest.MonkeyPatch, torch: bool, large: bool, kind: str) -> None:
    """Each starts at a multiple of 16; memory before and behind them is left alone."""
    monkeypatch.setattr(_staging, "has_torch", lambda: torch)
    monkeypatch.setattr(_staging, "_PART_BYTES", 1 << 8)
    if large:
        monkeypatch.setattr(_staging, "_LARGE_BYTES", 1)
    rng = np.random.default_rng(0)
    packer = _staging.Packer()
    for _ in range(20):
        arrays = []
        for _ in range(rng.integers(1, 6)):
            shape = rng.integers(1, 40, rng.integers(1, 4))
            array = rng.integers(0, 256, shape).astype(rng.choice(["uint8", "int32", "float64"]))
            array = array[::2] if kind == "apart" else array
            array.setflags(write=kind != "read-only")
            arrays.append(array)
        start = 16 * int(rng.integers(0, 5))
        sizes = [-(-array.nbytes // 16) * 16 for array in arrays]
        memory = np.full(start + sum(sizes) + 64, 0xA5, np.uint8)
        done = packer.copy(memory, start, arrays)
        done()
        done()
        assert (memory[:start] == 0xA5).all()
        assert (memory[start + sum(sizes) :] == 0xA5).all()
        for array, size in zip(arrays, sizes, strict=True):
            assert memory[start : start + array.nbytes].tobytes() == array.tobytes()
            start += size
    packer.copy(memory, 0, [])()
    packer.close()
