"""The machine code of a cubin, and what it does to registers that the tensor cores still use."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

HGMMA = re.compile(r"HGMMA\.64x(\d+)x\d+\.F32\S* R(\d+), R(\d+), gdesc")
WIDTHS = {".64": 2, ".128": 4, ".WIDE": 2}


def nvdisasm() -> Path | None:
    """NVIDIA's disassembler, from its package; None where that is not installed."""
    try:
        files = importlib.metadata.files("nvidia-cuda-nvdisasm") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if file.name == "nvdisasm"]
    return found[0] if found else None


class Instruction(NamedTuple):
    """One instruction: its text, and the places of the instructions that may follow it."""

    text: str
    following: tuple[int, ...]

    @property
    def written(self) -> set[int]:
        """The registers that it writes, as far as the tensor cores' operands are concerned."""
        match = re.match(r"(?:@!?U?P\w+ +)?([A-Z0-9_.]+) +(?:!?U?P\w+, )*R(\d+)", self.text)
        if not match or match[1].startswith(("ST", "RED", "BAR", "SYNCS", "HGMMA", "R2UR", "ISETP", "FSETP")):
            return set()
        count = max((width for suffix, width in WIDTHS.items() if suffix in match[1]), default=1)
        return set(range(int(match[2]), int(match[2]) + count))

    @property
    def named(self) -> set[int]:
        """All registers whose names stand in it."""
        return {int(number) for number in re.findall(r"\bR(\d+)\b", self.text)}


def instructions(cubin: Path) -> list[Instruction]:
    """The code of the one kernel in a cubin."""
    program = nvdisasm()
    assert program is not None
    done = subprocess.run([program, "-c", cubin], capture_output=True, text=True, check=True)
    texts: list[str] = []
    labels: dict[str, int] = {}
    for line in done.stdout.splitlines():
        if label := re.match(r"(\.L_\w+):", line):
            labels[label[1]] = len(texts)
        elif code := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?) ;", line):
            texts.append(code[1])
    result = []
    for place, text in enumerate(texts):
        target = re.search(r"\b(?:BRA|CALL)\S* .*`\((\.L_\w+)\)", text)
        always = (target is not None and not text.startswith("@")) or text.startswith("EXIT")
        following = [] if always or place + 1 == len(texts) else [place + 1]
        result.append(Instruction(text, (*following, *([labels[target[1]]] if target else []))))
    return result


def hazards(code: list[Instruction]) -> list[str]:
    """The instructions that touch sums, or overwrite operands, of products that nobody has waited for yet.

    Every path from a product to the next wait is followed. Further products may use the same sums.
    """
    found = []
    for instruction in code:
        product = HGMMA.match(instruction.text)
        if not product:
            continue
        columns, sums, operand = map(int, product.groups())
        busy, held = set(range(sums, sums + columns // 2)), set(range(operand, operand + 4))
        paths, seen = list(instruction.following), set()
        while paths:
            place = paths.pop()
            if place in seen or "WARPGROUP.DEPBAR" in code[place].text:
                continue
            seen.add(place)
            now = code[place]
            if not HGMMA.match(now.text) and (now.named & busy or now.written & held):
                found.append(f"{instruction.text}  is still running at  {now.text}")
            paths.extend(now.following)
    return found
