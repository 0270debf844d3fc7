"""The machine code of the Hopper kernel: nothing interferes with running products, and the registers of the roles."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
from support.dcn_variants import hopper_variants
from support.every_case import EVERY_CASE
from support.sass import HGMMA, Instruction, Role, hazards, instructions, nvdisasm, parsed, roles, stalls

from convkit.cuda import CompiledKernel, Variant, check_limit, compile_variant, flatten
from convkit_plugins.dcnv2.cuda import HOPPER, Layer, Tactic, hopper_variant

needs_compiler = pytest.mark.skipif(nvdisasm() is None, reason="nvidia-cuda-nvdisasm is not installed")
SQUARE = Layer(64, (3, 3), (1, 1), (1, 1))


def variant_of(tactic: Tactic, filters: int = 64, *, blend_fp32: bool = False) -> Variant:
    layer = replace(SQUARE, filters=filters)
    return hopper_variant(layer, "float16", 128, tactic, sigmoid=True, blend_fp32=blend_fp32)


# The first eight are four kinds of layers, with samples blended in float16 and in float32: by turns one of the two.
SHIPPED = hopper_variants()
VARIANTS = [
    *(SHIPPED if EVERY_CASE else [SHIPPED[place] for place in (0, 3, 4, 7, *range(8, len(SHIPPED)))]),
    variant_of(Tactic(64, 4, 2, 1, 1, 2, 2, 1, 1)),  # sums of four patches
    variant_of(Tactic(256, 1, 3, 1, 1, 2, 3, 1, 1), 256),  # products of 128 columns
    variant_of(Tactic(64, 1, 6, 1, 1, 18, 6, 2, 1)),  # 64 registers for all
    variant_of(Tactic(64, 1, 2, 1, 1, 2, 3, 2, 2)),  # two blocks
    variant_of(Tactic(128, 2, 3, 2, 2, 4, 5, 2, 1), 128, blend_fp32=True),  # a cluster
]


@lru_cache
def shipped(variant: Variant) -> tuple[CompiledKernel, list[Instruction]]:
    """What two tests need of a variant: it is compiled and disassembled once."""
    with tempfile.TemporaryDirectory() as folder:
        return disassembled(variant, Path(folder))


def disassembled(variant: Variant, folder: Path) -> tuple[CompiledKernel, list[Instruction]]:
    pytest.importorskip("cupy")
    image = compile_variant(variant, "sm_90a", "cubin")
    (folder / "kernel.cubin").write_bytes(image.code)
    return image, instructions(folder / "kernel.cubin")


def disagreements(variant: Variant, image: CompiledKernel, code: list[Instruction]) -> list[str]:
    """Where the registers of the roles are not the declared ones, too many together, or too few for the code of one."""
    constants = {name: value for name, value in variant.constants if isinstance(value, int)}
    members = {"multiply": 1, "help": 1, "sample": constants["PRODUCERS"]}
    names = {"multiply": "CONSUMER", "help": "HELPER", "sample": "PRODUCER"}
    declared = {work: constants[f"{name}_REGISTERS"] for work, name in names.items()}
    assert image.resources is not None
    launched = image.resources.registers
    found: dict[str, Role] = {role.work: role for role in roles(code)}
    have = {work: launched if work not in found else found[work].asked or launched for work in members}
    wrong = [
        f"{work} has {have[work]} registers, not {count}" for work, count in declared.items() if have[work] != count
    ]
    wrong += [f"{role.work} names {role.named}" for role in found.values() if role.named > have[role.work]]
    if sum(have[work] * count for work, count in members.items()) > launched * sum(members.values()):
        wrong.append(f"{have} are more than all have at the launch, {launched}")
    return wrong


@needs_compiler
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.label)
def test_nothing_comes_too_early_for_running_products(variant: Variant) -> None:
    image, code = shipped(variant)
    products = [instruction for instruction in code if HGMMA.match(instruction.text)]
    assert products
    assert len(products) % 4 == 0, "64 channels are four steps of the sum"
    assert hazards(code) == []
    assert stalls(code) == []
    assert "serialized" not in image.log  # the compiler's word for products that it makes wait for each other
    check_limit(image, variant)


@needs_compiler
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.label)
def test_roles_divide_the_registers(variant: Variant) -> None:
    """A role that asks for registers which no other gives back would wait for ever."""
    image, code = shipped(variant)
    assert disagreements(variant, image, code) == []
    assert "ignored" not in image.log, "the compiler's word for a change of registers that it leaves out"
    assert image.resources is not None
    assert any(role.asked for role in roles(code)) or image.resources.registers == 64, "as many as a helper needs"


@needs_compiler
@pytest.mark.parametrize(
    ("right", "wrong"),
    [("wgmma_wait<0>();", ";"), ("wgmma_wait<1>();", ";"), ("wgmma_wait<1>();", "wgmma_wait<2>();")],
)
def test_a_kernel_that_does_not_wait_is_caught(right: str, wrong: str, tmp_path: Path) -> None:
    text = flatten(HOPPER.source)
    assert text.count(right) == 1
    (tmp_path / "faulty.cu").write_text(text.replace(right, wrong), encoding="utf-8")
    kernel = replace(HOPPER, source=tmp_path / "faulty.cu")
    for variant in (*hopper_variants()[: 3 if EVERY_CASE else 1], VARIANTS[-1]):
        image, code = disassembled(kernel.variant(**dict(variant.constants)), tmp_path)
        assert hazards(code) or stalls(code) or "serialized" in image.log


@needs_compiler
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("set_registers<PRODUCER_REGISTERS, LAUNCH_REGISTERS>", "set_registers<240, LAUNCH_REGISTERS>"),
        ("__launch_bounds__(THREADS, BLOCKS_PER_SM)", "__maxnreg__(104)"),
    ],
)
def test_roles_that_want_more_registers_than_there_are_are_caught(right: str, wrong: str, tmp_path: Path) -> None:
    text = flatten(HOPPER.source)
    assert text.count(right) == 1
    (tmp_path / "faulty.cu").write_text(text.replace(right, wrong), encoding="utf-8")
    constants = dict(variant_of(Tactic(64, 1, 2, 1, 1, 2, 3, 2, 1)).constants)
    faulty = replace(HOPPER, source=tmp_path / "faulty.cu").variant(**constants)
    assert disagreements(faulty, *disassembled(faulty, tmp_path))


def listing(*lines: str) -> list[Instruction]:
    """Code as the disassembler writes it; labels end in a colon."""
    return parsed("\n".join(line if line.endswith(":") else f"        /*0010*/          {line} ;" for line in lines))


FIRST, SECOND = "HGMMA.64x32x16.F32 R24, gdesc[UR4], R24", "HGMMA.64x32x16.F32 R40, gdesc[UR4], R40"
WAIT = "WARPGROUP.DEPBAR.LE gsb0, 0x{}"
BRANCHES = 'BRX R8 -0x10    (*"BRANCH_TARGETS .L_x_1,.L_x_2,.L_x_3"*)'
GIVE_BACK = "@!P0 SYNCS.ARRIVE.TRANS64.A1T0 RZ, [UR5], RZ"


@pytest.mark.parametrize(
    ("lines", "early"),
    [
        ((f"{FIRST}, gsb0", WAIT.format(0), "FADD R24, R24, R1"), None),
        ((f"{FIRST}, gsb0", "FADD R23, R40, R1", WAIT.format(0), "FADD R24, R24, R1"), None),
        ((f"{FIRST}, gsb0", "FADD R23, R39, R1", WAIT.format(0)), "FADD R23, R39, R1"),
        ((f"{FIRST}, gsb0", "STS.128 [R1], R36", WAIT.format(0)), "STS.128 [R1], R36"),
        ((f"{FIRST}, gsb0", "LDG.E.64.CONSTANT R38, desc[UR4][R2.64]"), "LDG.E.64.CONSTANT R38, desc[UR4][R2.64]"),
        ((f"{FIRST}, gsb0", "LDG.E R2, desc[UR4][R22.64]", "FADD R24, RZ, R1"), "FADD R24, RZ, R1"),
        ((FIRST, WAIT.format(0), "FADD R1, R24, R1"), "FADD R1, R24, R1"),  # its group has not ended
        ((f"{FIRST}, gsb0", WAIT.format(1), "FADD R1, R24, R1"), "FADD R1, R24, R1"),
        ((f"{FIRST}, gsb0", f"{SECOND}, gsb0", WAIT.format(1), "FADD R1, R24, R1", WAIT.format(0)), None),
        ((f"{FIRST}, gsb0", f"{SECOND}, gsb0", WAIT.format(1), "FADD R1, R55, R1"), "FADD R1, R55, R1"),
        ((FIRST, "HGMMA.64x64x16.F32 R24, gdesc[UR4], R24, gsb0"), "HGMMA.64x64x16.F32 R24, gdesc[UR4], R24, gsb0"),
        ((f"{FIRST}, gsb0", "@P0 BRA `(.L_x_1)", WAIT.format(0), ".L_x_1:", "MOV R39, R1"), "MOV R39, R1"),
        ((f"{FIRST}, gsb0", "BRA.U UP0, `(.L_x_1)", "MOV R39, R1", ".L_x_1:", "EXIT"), "MOV R39, R1"),
        ((f"{FIRST}, gsb0", "BRA `(.L_x_1)", "MOV R39, R1", ".L_x_1:", "EXIT"), None),
        ((f"{FIRST}, gsb0", "EXIT", "MOV R39, R1"), None),
        (
            (f"{FIRST}, gsb0", BRANCHES, "MOV R24, R1", ".L_x_1:", "EXIT", ".L_x_2:", "MOV R39, R1", ".L_x_3:", "EXIT"),
            "MOV R39, R1",
        ),
        ((".L_x_1:", "MOV R24, R1", f"{FIRST}, gsb0", "BRA `(.L_x_1)"), "MOV R24, R1"),
        ((".L_x_1:", f"{FIRST}, gsb0", WAIT.format(1), GIVE_BACK, "@P0 BRA `(.L_x_1)"), None),
        ((".L_x_1:", f"{FIRST}, gsb0", GIVE_BACK, "@P0 BRA `(.L_x_1)"), GIVE_BACK),
        ((".L_x_1:", f"{FIRST}, gsb0", WAIT.format(2), GIVE_BACK, "@P0 BRA `(.L_x_1)"), GIVE_BACK),
    ],
)
def test_hazards_on_every_path(lines: tuple[str, ...], early: str | None) -> None:
    found = {hazard.partition("  is still running at  ")[2] for hazard in hazards(listing(*lines))}
    assert found == ({early} if early else set())


@pytest.mark.parametrize(
    ("lines", "count"),
    [
        ((".L_x_1:", f"{FIRST}, gsb0", WAIT.format(1), "@P0 BRA `(.L_x_1)", WAIT.format(0)), 0),
        ((".L_x_1:", f"{FIRST}, gsb0", WAIT.format(0), "@P0 BRA `(.L_x_1)"), 1),
        ((".L_x_1:", "CS2R R24, SRZ", f"{FIRST}, gsb0", WAIT.format(0), "@P0 BRA `(.L_x_1)"), 0),
        ((f"{FIRST}, gsb0", WAIT.format(0), "FADD R1, R24, R1", f"{SECOND}, gsb0"), 1),
    ],
)
def test_waits_that_nobody_asked_for(lines: tuple[str, ...], count: int) -> None:
    assert len(stalls(listing(*lines))) == count


def test_jumps_to_unknown_places_are_refused() -> None:
    with pytest.raises(AssertionError, match="nobody knows"):
        listing("CALL.REL.NOINC `(.L_x_1)", ".L_x_1:", "RET.REL.NODEC R4")


def test_roles_are_told_from_each_other() -> None:
    code = listing(
        *("MOV R3, R70", BRANCHES),
        *(".L_x_1:", "USETMAXREG.DEALLOC.CTAPOOL 0x38", "MOV R1, R9", "EXIT"),
        *(".L_x_2:", "USETMAXREG.TRY_ALLOC.CTAPOOL UP0, 0x68", "LDG.E.128.CONSTANT R88, desc[UR4][R2.64]", "EXIT"),
        *(".L_x_3:", f"{FIRST}, gsb0", "EXIT"),
    )
    expected = {Role("help", 56, 10), Role("sample", 104, 92), Role("multiply", None, 71)}
    assert set(roles(code)) == expected
