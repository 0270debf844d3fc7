"""Artifacts of which one part was changed, hashes and seal fitting, and inputs of strangers, through the commands."""

from __future__ import annotations

import functools
import json
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import numpy as np
import onnx
from support.mutants import TEXTS, mutants, resealed
from support.trials._graphs import change
from support.trials._small import warmed

from convkit import Artifact
from convkit.cli import execute
from convkit.evaluation import validate

__all__ = ["input_cases", "part_cases"]

Cases = Iterator[tuple[str, Callable[[], object], int]]
SHAPES = ((), (0,), (6, 16), (1, 6, 16), (16, 6), (6, 16, 1), (2**31,), (2**20, 2**20), (3, 0, 5))
TYPES = ("<f4", ">f4", "<f8", "<i8", "|b1", "<U3", "|S5", "|O", "<c8", "<M8[s]", "[('a', '<f4')]", "<f2", "|V9")


def part_cases(artifact: Path, folder: Path, random: Random, count: int) -> Cases:
    """Yield cases that run, prove, inspect or report an artifact with another graph, samples, record or file names."""
    raws = folder / "raws.npz"
    np.savez(raws, vectors=np.ones((6, 16), np.float32))
    whole = folder / "whole"
    shutil.copytree(artifact, whole)
    validate(whole, backend="torch")
    (record,) = (whole / "proof" / "backends").iterdir()
    commands = (
        lambda copy: ["run", copy, str(raws)],
        lambda copy: ["run", copy, str(raws), "--backend", "torch"],
        lambda copy: ["validate", copy, "-q"],
        lambda copy: ["validate", copy, "-q", "--backend", "torch"],
        lambda copy: ["inspect", copy],
        lambda copy: ["report", copy, "--output", str(folder / "report.html")],
        lambda copy: ["bisect", copy],
    )
    warmed(*(words(str(whole)) for words in commands))
    for number in range(count):
        copy = folder / f"changed-{number % 2}"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)
        kind = random.choice(("graph", "graph", "graph bytes", "samples", "samples bytes", "record"))
        what, size = kind, 0
        if kind == "graph":
            model = onnx.load(copy / "model.onnx")
            what = "; ".join(change(model, random) for _ in range(random.choice((1, 1, 2))))
            (copy / "model.onnx").write_bytes(model.SerializeToString())
        elif kind == "samples":
            with np.load(copy / "proof" / "samples.npz") as arrays:
                content = dict(arrays)
            name = random.choice(list(content))
            what = f"{name} changed"
            entry = {f"{key}.npy": npy(value.dtype.str, value.shape, value.tobytes()) for key, value in content.items()}
            entry[f"{name}.npy"] = odd_array(random)
            write_zip(copy / "proof" / "samples.npz", entry, random)
        elif kind == "record":
            file = copy / record.relative_to(whole)
            if random.random() < 0.2:
                file.write_bytes(random.choice(TEXTS))
            else:
                what, changed = next(mutants(json.loads(file.read_text()), random, 1))
                file.write_text(json.dumps(changed))
        else:
            file = copy / ("model.onnx" if kind == "graph bytes" else "proof/samples.npz")
            data = bytearray(file.read_bytes())
            for _ in range(random.choice((1, 5, 50))):
                data[random.randrange(len(data))] = random.randrange(256)
            file.write_bytes(data[: random.choice((len(data), random.randrange(len(data))))])
        resealed(copy)
        words = random.choice(commands)(str(copy))
        yield f"{' '.join([words[0], *words[2:]])}: {kind}: {what}", functools.partial(execute, words), size


def input_cases(artifact: Path, folder: Path, random: Random, count: int) -> Cases:
    """Yield cases that run an array file or a JSON file of a stranger."""
    assert Artifact.open(artifact)
    for number in range(count):
        file = folder / f"input.{'json' if number % 3 == 0 else 'npz'}"
        if file.suffix == ".json":
            document = {"vectors": [[0.5] * 16] * 6}
            _, changed = next(mutants(document, random, 1))
            data = random.choice(TEXTS) if random.random() < 0.2 else json.dumps(changed).encode()
            file.write_bytes(data)
        else:
            name = random.choice(("vectors.npy", "vectors", "../vectors.npy", "\x1b[2J.npy", "x" * 3000))
            entries = {name: odd_array(random)}
            if random.random() < 0.5:
                entries["vectors.npy"] = odd_array(random)
            write_zip(file, entries, random)
        words = ["run", str(artifact), str(file), *random.choice(([], ["--json"], ["--skip-bad"]))]
        yield f"{file.suffix} {number}", functools.partial(execute, words), file.stat().st_size


def npy(dtype: str, shape: tuple[int, ...], data: bytes) -> bytes:
    """Return a ``.npy`` file, whether or not its data fit."""
    kind = dtype if dtype.startswith("[") else repr(dtype)
    head = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape!r}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data


def odd_array(random: Random) -> bytes:
    """Return a ``.npy`` file of any type and shape, with as many bytes as it needs, more or fewer."""
    if random.random() < 0.3:
        values = np.random.default_rng(random.randrange(99)).normal(size=(6, 16)).astype(np.float32)
        values[0, 0] = random.choice((np.nan, np.inf, -np.inf, 1e38, 0))
        return npy("<f4", (6, 16), values.tobytes())
    return npy(random.choice(TYPES), random.choice(SHAPES), bytes(random.choice((0, 4, 384, 768, 5000))))


def write_zip(file: Path, entries: dict[str, bytes], random: Random) -> None:
    """Write a zip file in one of the ways of compression."""
    way = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(file, "w", way) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
