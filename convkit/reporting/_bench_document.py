"""What a report reads of the document that ``convkit bench --json`` writes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from convkit._documents import read_document
from convkit.errors import SettingError

__all__ = ["bench_of", "read_bench"]

Text = Annotated[str, Meta(max_length=10_000)]
Positive = Annotated[float, Meta(gt=0)]


class Latency(Struct):
    """Milliseconds for a batch."""

    p50: Positive
    p90: Positive


class Result(Struct):
    """An engine at a batch."""

    seal: Text
    backend: Text
    device: Text
    scope: Text
    batch: Annotated[int, Meta(ge=1)]
    latency_ms: Latency
    items_per_second: Positive
    unproved: Text


class Gpu(Struct):
    """A GPU."""

    name: Text = ""


class Machine(Struct):
    """The machine."""

    cpu: Text


class Protocol(Struct):
    """The conditions."""

    started: Text
    machine: Machine
    threads: int
    order: Text
    gpu: list[Gpu]


class Document(Struct):
    """``convkit bench --json``."""

    results: list[Result]
    protocol: Protocol


def read_bench(file: Path) -> dict[str, Any]:
    """Return the document of a benchmark.

    Raises:
        SettingError: the file cannot be read, or is no such document.
    """
    try:
        document: dict[str, Any] = read_document(file, Document)
    except (OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise SettingError(
            f"{file} is not what `convkit bench --json` writes: {text}", hint="Make it anew: convkit bench … --json"
        ) from error
    return document


def bench_of(document: dict[str, Any], seal: str, label: str) -> dict[str, Any]:
    """Return what the document of a benchmark has of the artifact with this seal.

    Raises:
        SettingError: it has nothing.
    """
    results = [entry for entry in document["results"] if entry["seal"] == seal]
    if not results:
        raise SettingError(
            f"The benchmark has no result of {label}.",
            hint=f"Measure it: convkit bench {shlex.quote(label)} --json > bench.json",
        )
    return {"results": results, "protocol": document["protocol"]}
