"""Eight processes at once on one output, one artifact, one cache: what they leave and return is what one leaves."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from support.crash import make_artifact
from support.sample_kernels import REVERSE
from support.trials._small import convert_small, small_weights

from convkit import Artifact, load
from convkit.cuda import compile_variant
from convkit.evaluation import validate

__all__ = ["together_cases"]

PROCESSES = 8


def together_cases(
    artifact: Path, folder: Path, count: int, *, conversions: bool = True
) -> Iterator[tuple[str, Callable[[], object], int]]:
    """Yield ``count`` cases of each kind; ``conversions`` leaves out or takes in whole conversions, which take long."""
    kinds: dict[str, Callable[[Path], object]] = {
        "output": _output,
        "artifact": functools.partial(_artifact, artifact),
        "cache": _cache,
    }
    if conversions:
        kinds["conversion"] = functools.partial(_conversion, artifact)
    for number in range(count):
        for name, work in kinds.items():
            yield f"eight processes, one {name}, {number}", functools.partial(work, folder / f"{name}-{number}"), 0


def _all(work: Callable[[int], object], watch: Callable[[], object] = lambda: None) -> None:
    """Call ``work`` with its number in eight processes and ``watch`` meanwhile; all have to come to their end."""
    children = set()
    for number in range(PROCESSES):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                work(number)
                code = 0
            except BaseException as error:
                os.write(2, f"process {number}: {type(error).__name__}: {error}\n".encode())
            finally:
                os._exit(code)
        children.add(child)
    failed = 0
    while children:
        watch()
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            children.remove(child)
            failed += status != 0
    assert not failed, f"{failed} failed"


def _output(folder: Path) -> None:
    """Write one output, which is whole at every moment."""
    folder.mkdir()
    path = folder / "out"
    make_artifact(path, "first")

    def write(number: int) -> None:
        for turn in range(5):
            make_artifact(path, f"{number}.{turn}", overwrite=True)

    def watch() -> None:
        Artifact.open(path)
        assert path.joinpath("model.onnx").read_text(), "absent or half"

    _all(write, watch)
    Artifact.open(path).verify()
    assert [entry.name for entry in folder.iterdir()] == ["out"]
    shutil.rmtree(folder)


def _artifact(artifact: Path, folder: Path) -> None:
    """Run one artifact while others prove it on another backend and write that into it."""
    folder.mkdir()
    copy = folder / "artifact"
    shutil.copytree(artifact, copy)
    raws = [{"vectors": np.random.default_rng(seed).normal(size=(6, 16)).astype(np.float32)} for seed in range(4)]

    def run(number: int) -> None:
        if number % 4 == 3:
            assert validate(copy, backend="torch").passed
        for _ in range(3):
            with load(copy) as predictor:
                outputs = [value["embedding"] for value in predictor.stream_outputs(raws, batch=1 + number % 2)]
        np.save(folder / f"{number}.npy", np.stack(outputs))

    run(8)  # alone
    _all(run)
    for number in range(PROCESSES):
        difference = np.abs(np.load(folder / f"{number}.npy") - np.load(folder / "8.npy")).max()
        assert difference <= (1e-6 if number % 2 else 0), f"{number} differs by {difference}"
    Artifact.open(copy).verify()
    (record,) = Artifact.open(copy).records()
    assert (record.backend, record.problem) == ("torch", "")
    assert [file.name for file in (copy / "proof" / "backends").iterdir()] == ["torch-cpu.json"]
    shutil.rmtree(folder)


def _cache(folder: Path) -> None:
    """Compile kernels into one cache; every process gets the code that one alone gets."""
    variant = REVERSE.variant()
    targets = [variant.kernel.target(capability, "ptx") for capability in (80, 90)]

    def compiled(cache: str) -> list[bytes]:
        os.environ["CONVKIT_CACHE"] = str(folder / cache)
        return [compile_variant(variant, target, "ptx").code for target in targets]

    alone = compiled("alone")

    def work(number: int) -> None:
        for _ in range(3):
            assert compiled("shared") == alone, f"process {number} got another code"

    _all(work)
    entries = [sorted(file.name for file in (folder / name).iterdir()) for name in ("alone", "shared")]
    assert entries[0] == entries[1], f"left behind: {entries}"
    shutil.rmtree(folder)


def _conversion(artifact: Path, folder: Path) -> None:
    """Convert into one output; what is there in the end is, file by file, what one conversion makes."""
    folder.mkdir()
    weights, path = small_weights(folder), folder / "out"

    def work(number: int) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            convert_small(weights, path, overwrite=True)

    _all(work)
    made, alone = Artifact.open(path), Artifact.open(artifact)
    made.verify()
    for name in ("model.onnx", "proof/samples.npz", "proof/samples.json"):
        assert made.manifest["files"][name] == alone.manifest["files"][name], f"{name} differs"
    assert sorted(entry.name for entry in folder.iterdir()) == ["out", weights.name]
    shutil.rmtree(folder)
