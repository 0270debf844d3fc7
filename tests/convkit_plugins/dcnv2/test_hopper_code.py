"""The machine code of the Hopper kernel: products run on for a while, and nothing touches their registers then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.sass import HGMMA, hazards, instructions, nvdisasm

from convkit.kernels import Variant, compile_variant, flatten
from convkit_plugins.dcnv2._hopper import HOPPER, hopper_variant, hopper_variants
from convkit_plugins.dcnv2._layers import Layer
from convkit_plugins.dcnv2._tactics import Tactic

pytest.importorskip("cupy")
pytestmark = pytest.mark.skipif(nvdisasm() is None, reason="nvidia-cuda-nvdisasm is not installed")

WAIT = "if (BUFFERS == 2) finish(busy);"
SQUARE = Layer(64, (3, 3), (1, 1), (1, 1))
VARIANTS = [
    *hopper_variants(),
    hopper_variant(SQUARE, "float16", 64, Tactic(64, 4, 1, 1, 1, 9, 1, 1, 1), sigmoid=True, exact=False),
    hopper_variant(SQUARE, "float16", 128, Tactic(64, 2, 2, 1, 1, 6, 1, 2, 1), sigmoid=True),
]


def disassembled(variant: Variant, folder: Path) -> tuple[str, list]:
    image = compile_variant(variant, "sm_90a", "cubin")
    (folder / "kernel.cubin").write_bytes(image.code)
    return image.log, instructions(folder / "kernel.cubin")


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.label)
def test_nothing_touches_the_registers_of_running_products(variant: Variant, tmp_path: Path) -> None:
    log, code = disassembled(variant, tmp_path)
    products = [instruction for instruction in code if HGMMA.match(instruction.text)]
    assert len(products) in (4, 8)
    assert hazards(code) == []
    assert "serialized" not in log  # the compiler's word for products that it makes wait for each other


def test_a_kernel_that_does_not_wait_is_caught(tmp_path: Path) -> None:
    text = flatten(HOPPER.source)
    assert WAIT in text
    (tmp_path / "faulty.cu").write_text(text.replace(WAIT, ";"), encoding="utf-8")
    kernel = replace(HOPPER, source=tmp_path / "faulty.cu")
    for variant in hopper_variants()[:4]:
        log, code = disassembled(kernel.variant(**dict(variant.constants)), tmp_path)
        assert hazards(code) or "serialized" in log
