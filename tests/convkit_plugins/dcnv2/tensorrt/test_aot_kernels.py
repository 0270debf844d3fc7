"""The kernels in TensorRT's order of arguments: launches, integers, PTX, and what they compute on the host."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.aot_layers import LAYERS, AotLayer
from support.deform_host import distance, launch_on_host
from support.every_case import covering

from convkit.cuda import check_signature, compile_variant, evaluate
from convkit.errors import EnvironmentProblem, KernelError
from convkit_plugins.dcnv2.cuda import Division, Layer, Tile, layout_scalars, plain_scalars
from convkit_plugins.dcnv2.tensorrt import (
    Launch,
    WeightOrder,
    aot_ptx,
    check_driver,
    launches,
    newest_ptx,
    ptx_target,
    views,
)

layers = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
SIZES = [(1, 2, 2), (3, 7, 5), (2, 40, 33), (8, 128, 128)]
BOUNDS = {"float32": 1e-6, "float16": 2**-11, "bfloat16": 2**-8}


def numbers(launch: Launch, sizes: dict[str, int]) -> tuple[list[int], list[int]]:
    """Grid, block and shared memory; and the integers, for sizes."""
    config = launch.config
    values = (*config.grid, *config.block, config.dynamic_smem_bytes)
    return [evaluate(value, sizes) for value in values], [evaluate(value, sizes) for value in launch.scalars]


@layers
def test_integers_are_those_of_a_launch_in_python(layer: AotLayer) -> None:
    seen = set()
    for launch in launches(layer.settings, layer.dtype):
        seen.add((launch.x_last, launch.out_last))
        for size in SIZES:
            sizes = layer.extents(*size)
            if min(sizes.values()) < 1:
                continue
            arrays = views(layer.settings, layer.dtype, sizes, x_last=launch.x_last, out_last=launch.out_last)
            if layer.order == WeightOrder.PLAIN:
                expected = plain_scalars(layer.layer, *arrays)
            else:
                expected = layout_scalars(*arrays)
            assert tuple(numbers(launch, sizes)[1]) == expected
    tensor = layer.order != WeightOrder.PLAIN
    assert (True, False) in seen or not tensor
    assert ((False, False) in seen) != tensor


@layers
def test_launches_are_those_in_python(layer: AotLayer) -> None:
    for launch in launches(layer.settings, layer.dtype):
        for size in SIZES:
            sizes = layer.extents(*size)
            if min(sizes.values()) < 1:
                continue
            given = {name: sizes.get(name, layer.layer.filters) for name in launch.variant.kernel.sizes}
            config = launch.variant.launch_config(**given).check()
            expected = [*config.grid, *config.block, config.dynamic_smem_bytes]
            assert numbers(launch, sizes)[0] == expected


def test_golden_numbers() -> None:
    layer = LAYERS["float16"]
    found = {
        (launch.out_last, launch.tactic): numbers(launch, layer.extents(2, 96, 128))
        for launch in launches(layer.settings, layer.dtype)
    }
    assert {tactic: launch for (last, tactic), (launch, _) in found.items() if not last} == {
        1: [2 * 48 * 16, 2, 1, 128, 1, 1, 35648],
        2: [2 * 24 * 16, 1, 1, 128, 1, 1, 38528],
        3: [2 * 12 * 16, 1, 1, 256, 1, 1, 44288],
    }
    plane = 96 * 128
    assert {tuple(extra) for _, extra in found.values()} == {
        (2, 96, 128, 96, 128, 18 * plane, plane, 1, 9 * plane, plane, 1)
    }


@layers
def test_what_tensorrt_can_launch(layer: AotLayer) -> None:
    """Pointers of inputs, 32-bit integers, pointer of the output; 48 KiB; tactics from 1 for each pair of formats."""
    found = launches(layer.settings, layer.dtype)
    pairs: dict[tuple[bool, bool], list[int]] = {}
    for launch in found:
        pairs.setdefault((launch.x_last, launch.out_last), []).append(launch.tactic)
        kinds = [(argument.pointer, argument.output) for argument in launch.variant.kernel.arguments]
        assert kinds == [(True, False)] * 5 + [(False, False)] * len(launch.scalars) + [(True, True)]
        config = launch.config
        assert all(isinstance(size, int) for size in (*config.block, config.dynamic_smem_bytes))
        assert np.prod(config.block) <= 1024
        assert config.dynamic_smem_bytes <= 49152
    assert all(tactics == list(range(1, len(tactics) + 1)) for tactics in pairs.values())
    assert len({launch.variant for launch in found}) >= len(next(iter(pairs.values())))


@layers
def test_ptx(layer: AotLayer) -> None:
    pytest.importorskip("cupy")
    launch = launches(layer.settings, layer.dtype)[-1]
    text = aot_ptx(launch.variant, None, None)
    assert ".target sm_80" in text
    assert text.rstrip().endswith("}")
    image = compile_variant(launch.variant, "compute_80", "ptx")
    check_signature(image, launch.variant)
    with pytest.raises(KernelError):  # the declaration for Python has its output elsewhere
        check_signature(image, python_variant(launch))


def python_variant(launch: Launch) -> Any:
    from convkit_plugins.dcnv2.cuda import PLAIN, TENSOR

    constants = dict(launch.variant.constants)
    del constants["OUTPUT_LAST"], constants["PACKED"]
    return (TENSOR if launch.variant.kernel.name == TENSOR.name else PLAIN).variant(**constants)


HOST = {name: layer for name, layer in LAYERS.items() if name != "all filters of a large layer"} | {
    "tiles of 128 columns": AotLayer(Layer(100, (2, 2), (1, 1), (1, 0)), 72, relu=True),
    "tiles of 64 columns in a few groups": AotLayer(
        Layer(70, (3, 1), (1, 1), (1, 0), (1, 1), 2), 8, "float32", WeightOrder.PLAIN
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("layer", HOST.values(), ids=HOST.keys())
def test_every_tactic_and_every_format_computes_the_definition(layer: AotLayer) -> None:
    size = (2, 6, 9)
    tensors, sizes = layer.tensors(size), layer.extents(*size)
    expected = layer.definition(tensors)
    weight = layer.packed(tensors["weight"])
    bound = BOUNDS["float16" if layer.order == WeightOrder.TENSOR_TF32 else layer.dtype]
    forms = {True: torch.channels_last, False: torch.contiguous_format}
    found = launches(layer.settings, layer.dtype)
    for launch in covering(found, lambda each: {"tactic": each.tactic, "formats": (each.x_last, each.out_last)}, 1):
        out = torch.full(expected.shape, torch.nan, dtype=tensors["x"].dtype)
        out = out.contiguous(memory_format=forms[launch.out_last])
        x = tensors["x"].contiguous(memory_format=forms[launch.x_last])
        config = replace(
            launch.config,
            grid=tuple(evaluate(value, sizes) for value in launch.config.grid),
        )
        scalars = numbers(launch, sizes)[1]
        inputs = (x, tensors["offset"], tensors["mask"], weight, tensors["bias"])
        launch_on_host(launch.variant, config, *inputs, *scalars, out)
        assert distance(out, expected) < bound, launch


def test_tactics_differ_in_their_tiles() -> None:
    """Otherwise the test above would not show that one packed tensor serves all of them."""
    columns = {
        dict(each.variant.constants)["TILE_N"] for each in launches(HOST["tiles of 128 columns"].settings, "float16")
    }
    assert {32, 128} <= columns
    layer = HOST["tiles of 64 columns in a few groups"]
    assert {dict(each.variant.constants)["FILTERS"] for each in launches(layer.settings, "float32")} == {32, 64}
    assert Division._fields[0] == "tile_n"
    assert Tile._fields[1] == "filters"


@pytest.mark.parametrize(
    ("driver", "newest"),
    [(11000, (7, 0)), (11080, (7, 8)), (12000, (8, 0)), (12050, (8, 5)), (12060, (8, 5)), (12080, (8, 7)),
     (12090, (8, 8)), (13000, (9, 0)), (13020, (9, 2))],
)  # fmt: skip
def test_the_newest_ptx_of_a_driver(driver: int, newest: tuple[int, int]) -> None:
    assert newest_ptx(driver) == newest
    check_driver(f"{newest[0]}.{newest[1]}", driver)
    with pytest.raises(EnvironmentProblem, match=rf"CUDA {driver // 1000}\.") as caught:
        check_driver(f"{newest[0]}.{newest[1] + 1}", driver)
    assert "nvidia-cuda-nvrtc==" in caught.value.hint


def test_a_driver_that_is_too_old_is_found_in_the_ptx_itself() -> None:
    pytest.importorskip("cupy")
    variant = launches(LAYERS["float32"].settings, "float32")[0].variant
    with pytest.raises(EnvironmentProblem, match=r"reads PTX 7\.4"):
        aot_ptx(variant, 80, 11040)


def test_targets() -> None:
    plain, tensor = (launches(LAYERS[name].settings, name)[0].variant for name in ("float32", "float16"))
    assert [ptx_target(plain, capability) for capability in (None, 75, 80, 86, 120)] == [
        "compute_80", "compute_75", "compute_80", "compute_80", "compute_80",
    ]  # fmt: skip
    assert [ptx_target(tensor, capability) for capability in (None, 80, 90)] == ["compute_80"] * 3
    with pytest.raises(EnvironmentProblem, match=r"this GPU has 7\.5"):
        ptx_target(tensor, 75)
