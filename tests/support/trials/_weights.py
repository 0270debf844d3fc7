"""Weights whose zip records, pickle instructions or bytes were changed, and some that try to run something."""

from __future__ import annotations

import functools
import io
import json
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import torch
from support.mutants import mutants

from convkit.weights import find_state_dict, read_weights

_PAYLOADS = ("posix system", "os system", "builtins exec", "builtins eval", "subprocess Popen", "torch.hub load")


def weights_cases(folder: Path, random: Random, count: int) -> Iterator[tuple[str, Callable[[], object], int]]:
    """Yield cases that read a changed file; one that runs a payload makes the file ``folder/executed``."""
    state = {"epoch": 3, "state_dict": {"a.weight": torch.ones(4, 3), "a.bias": torch.zeros(4), "n": torch.tensor(1)}}
    stored, legacy = io.BytesIO(), io.BytesIO()
    torch.save(state, stored)
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    file, mark = folder / "weights.pth", folder / "executed"
    for number in range(count):
        kind = random.choice(("records", "pickle", "pickle", "payload", "bytes", "legacy", "safetensors"))
        if kind == "records":
            data = _records(stored.getvalue(), random)
        elif kind == "pickle":
            data = _with_pickle(stored.getvalue(), lambda text: _instructions(text, random))
        elif kind == "payload":
            data = _with_pickle(stored.getvalue(), lambda text: _payload(text, mark, random))
        elif kind == "safetensors":
            data = _safetensors(random)
        else:
            data = _bytes(stored.getvalue() if kind == "bytes" else legacy.getvalue(), random)
        file.write_bytes(data)
        yield f"{kind} {number}", functools.partial(_read, file, mark), len(data)


def _read(file: Path, mark: Path) -> None:
    try:
        find_state_dict(read_weights(file), str(file))
    finally:
        if mark.exists():
            raise AssertionError("a payload was executed")


def _bytes(data: bytes, random: Random) -> bytes:
    content = bytearray(data)
    for _ in range(random.choice((1, 4, 50))):
        content[random.randrange(len(content))] = random.randrange(256)
    return bytes(content[: random.choice((len(content), len(content), random.randrange(len(content))))])


def _records(data: bytes, random: Random) -> bytes:
    source, made = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(made, "w") as target:
        for info in source.infolist():
            content, name = source.read(info), info.filename
            change = random.choice(("", "", "gone", "renamed", "deflated", "short", "long", "other"))
            if change == "gone":
                continue
            name = random.choice(("../x", "/x", "archive/data.pkl", "x" * 3000)) if change == "renamed" else name
            content = {"short": content[: len(content) // 2], "long": content * 3, "other": bytes(100)}.get(
                change, content
            )
            target.writestr(name, content, zipfile.ZIP_DEFLATED if change == "deflated" else zipfile.ZIP_STORED)
    return made.getvalue()


def _with_pickle(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Return a file of `torch.save` with another pickle; its records are aligned as `torch.save` aligns them."""
    source, made = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as target:
        for info in source.infolist():
            content = source.read(info)
            target.writestr(info.filename, change(content) if info.filename.endswith("data.pkl") else content)
    return made.getvalue()


def _pieces(text: bytes) -> list[bytes]:
    """Return a pickle as its instructions."""
    places = [place for _, _, place in pickletools.genops(text) if place is not None]
    return [text[start:end] for start, end in zip(places, [*places[1:], len(text)], strict=True)]


def _instructions(text: bytes, random: Random) -> bytes:
    pieces = _pieces(text)
    for _ in range(random.choice((1, 1, 3))):
        place, other = random.randrange(len(pieces)), random.randrange(len(pieces))
        change = random.choice(("gone", "doubled", "swapped", "many", "number"))
        if change == "gone":
            del pieces[place]
        elif change == "doubled":
            pieces.insert(place, pieces[other])
        elif change == "swapped":
            pieces[place], pieces[other] = pieces[other], pieces[place]
        elif change == "many":
            pieces[place:place] = [random.choice((b"(", b"]", b"}", b"N", b"0", b"2"))] * random.choice((3, 100_000))
        else:
            pieces.insert(place, b"J" + struct.pack("<i", random.choice((-1, 0, 2**31 - 1))))
    return b"".join(pieces)


def _payload(text: bytes, mark: Path, random: Random) -> bytes:
    """Return a pickle that also calls something, at a place where a value may be."""
    pieces = _pieces(text)
    module, name = random.choice(_PAYLOADS).split(" ")
    call = f"open({str(mark)!r}, 'w')" if name in ("exec", "eval") else f"touch {mark}"
    payload = f"c{module}\n{name}\n(V{call}\ntR".encode() + b"0"
    pieces.insert(random.randrange(1, len(pieces)), payload)
    return b"".join(pieces)


def _safetensors(random: Random) -> bytes:
    header = {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}, "__metadata__": {"format": "pt"}}
    _, changed = next(mutants(header, random, 1))
    text = json.dumps(changed).encode()
    return struct.pack("<Q", random.choice((len(text), len(text), len(text) + 1, 2**40))) + text + bytes(16)
