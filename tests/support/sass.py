"""The machine code of a cubin: what comes too early for products that still run, and how roles divide registers."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

HGMMA = re.compile(r"HGMMA\.64x(\d+)x\d+\.F32\S* R(\d+), gdesc")
WAIT = re.compile(r"WARPGROUP\.DEPBAR\.LE gsb0, 0x(\d+)")
ARRIVE = "SYNCS.ARRIVE"
SET_REGISTERS = re.compile(r"USETMAXREG\.\S+ (?:UP\d, )?0x([0-9a-f]+)")
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
    def touched(self) -> set[int]:
        """All registers that it may read or write; of a wide one, those are counted for each operand."""
        product = HGMMA.match(self.text)
        if product:
            columns, first = map(int, product.groups())
            return set(range(first, first + columns // 2))
        code = re.sub(r"^@!?U?P\w+ ", "", self.text).partition(" ")[0]
        width = max((count for suffix, count in WIDTHS.items() if suffix in code), default=1)
        found = {int(number) for number in re.findall(r"\bR(\d+)\b", self.text)}
        found.update(int(number) + 1 for number in re.findall(r"\bR(\d+)\.64\b", self.text))
        return found | {n + i for n in found if n % width == 0 for i in range(width)}


def instructions(cubin: Path) -> list[Instruction]:
    """The code of the one kernel in a cubin."""
    program = nvdisasm()
    assert program is not None
    done = subprocess.run([program, "-c", cubin], capture_output=True, text=True, check=True)
    return parsed(done.stdout)


def parsed(listing: str) -> list[Instruction]:
    """The instructions in the text of the disassembler."""
    texts: list[str] = []
    labels: dict[str, int] = {}
    for line in listing.splitlines():
        if label := re.match(r"(\.L_\w+):", line):
            labels[label[1]] = len(texts)
        elif code := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?) *;$", line):
            texts.append(code[1])
    return [Instruction(text, tuple(_following(text, place, labels, len(texts)))) for place, text in enumerate(texts)]


def _following(text: str, place: int, labels: dict[str, int], count: int) -> Iterator[int]:
    """Yield the places where a path may go on."""
    jump = re.match(r"(@\S+ )?(BRA|BRX|EXIT|CALL|RET|JMP|JMX|BREAK)\b", text)
    if jump:
        assert jump[2] in ("BRA", "BRX", "EXIT"), f"{text}: nobody knows where that goes"
        if jump[2] != "EXIT":
            targets = re.findall(r"\.L_\w+", text)
            assert targets, text
            yield from (labels[target] for target in targets)
    conditional = jump is None or jump[1] is not None or re.search(r"BRA\S* !?U?P\d", text)
    if conditional and place + 1 < count:
        yield place + 1


def reached(
    code: list[Instruction], start: Iterable[int], ends: Callable[[int], bool] = lambda place: False
) -> set[int]:
    """The places that paths from ``start`` come to; a place that ``ends`` a path is one of them."""
    seen: set[int] = set()
    paths = list(start)
    while paths:
        place = paths.pop()
        if place not in seen:
            seen.add(place)
            if not ends(place):
                paths.extend(code[place].following)
    return seen


def hazards(code: list[Instruction]) -> list[str]:
    """The instructions that come too early for a product that may still run.

    Every path from a product to the wait for it is followed: a wait is for all but the latest groups of products, as
    many as it says. Until then nothing may touch its sums but products that add to all of them; and once a further
    group has started, no barrier may be told that the operands of this one are free.
    """
    found = []
    for start, instruction in enumerate(code):
        if not HGMMA.match(instruction.text):
            continue
        busy = instruction.touched
        # Places with how many groups have ended there since the product started: its own is the first.
        paths = [(place, int("gsb0" in instruction.text)) for place in code[start].following]
        seen = set()
        while paths:
            place, groups = paths.pop()
            now = code[place]
            wait = WAIT.search(now.text)
            if (place, groups) in seen or (wait and groups > int(wait[1])):
                continue
            seen.add((place, groups))
            if HGMMA.match(now.text):
                early = bool(now.touched & busy) and now.touched != busy
                groups = min(groups + ("gsb0" in now.text), 3)
            else:
                early = bool(now.touched & busy) or (groups > 1 and ARRIVE in now.text)
            if early:
                found.append(f"{instruction.text}  is still running at  {now.text}")
            paths.extend((following, groups) for following in now.following)
    return found


def stalls(code: list[Instruction]) -> list[str]:
    """The waits for all products although further ones add to the same sums: the compiler has put them there."""
    found = []
    products = {instruction for instruction in code if HGMMA.match(instruction.text)}
    for start, instruction in enumerate(code):
        wait = WAIT.search(instruction.text)
        if wait is None or int(wait[1]) > 0:
            continue
        for product in products:
            busy = product.touched
            ends = {place for place, now in enumerate(code) if now.touched & busy}
            places = reached(code, instruction.following, lambda place, ends=ends: place in ends)
            if any(code[place].text == product.text for place in places & ends):
                found.append(f"{product.text}  could have started before  {instruction.text}, {start}")
    return found


class Role(NamedTuple):
    """What a warpgroup may become: the registers that it asks for, and the most that its code names."""

    work: str
    asked: int | None
    named: int


def roles(code: list[Instruction]) -> list[Role]:
    """The roles of warpgroups, told from each other by their work.

    One starts the products, one loads samples (16 bytes from global memory at once), the others do neither. Asked is
    None if a role does not change how many registers it has.
    """
    found = []
    changes = [place for place, instruction in enumerate(code) if SET_REGISTERS.search(instruction.text)]
    for place in changes:
        places = reached(code, [place])
        match = SET_REGISTERS.search(code[place].text)
        assert match
        named = max((n for other in places for n in code[other].touched), default=-1) + 1
        found.append(Role(_work(code[other].text for other in places), int(match[1], 16), named))
    free = reached(code, [0], lambda place: place in changes)
    named = max((n for other in free for n in code[other].touched), default=-1) + 1
    for work in {_work([code[other].text]) for other in free} - {"help"}:
        found.append(Role(work, None, named))
    return found


def _work(texts: Iterable[str]) -> str:
    """Tell what code is for."""
    text = "\n".join(texts)
    return "multiply" if "HGMMA" in text else "sample" if "LDG.E.128" in text else "help"
