"""What ``proof/samples.json`` contains, as types."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

__all__ = ["SamplesIndex"]

Name = Annotated[str, Meta(max_length=10_000)]
Size = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class AtSizes(Struct):
    """The samples at one set of sizes: what maps their results back, and the results."""

    sizes: dict[Name, Size]
    metas: list[dict[Name, Any]]
    results: list[Any]


class SamplesIndex(Struct):
    """The whole file; ``files`` are the raw inputs."""

    sources: list[Name]
    files: list[Name]
    sizes: list[AtSizes]
