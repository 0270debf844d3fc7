"""Documents that somebody else may have written: changes of a JSON document that a reader may trip over."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 10**30, 1.5, "", "x", "a\x1b[2J\x07", "../" * 20 + "etc/passwd", "/etc/passwd",
    "y" * 200_000,
    [], {}, [None], [[[]]], {"": None}, {"kind": 1}, [{"name": 1}],
)  # fmt: skip
"""Values of every JSON type, and of every type the wrong size."""

TEXTS: tuple[bytes, ...] = (
    b"", b"null", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5_000, b"NaN", b'{"a": 1e400}',
    b'{"z": "\\ud800"}', b'{"a": 1} {"b": 2}',
)  # fmt: skip
"""Texts in place of a whole document."""

Way = tuple[str | int, ...]


def places(document: Any, way: Way = ()) -> Iterator[Way]:
    """Yield the way to every value of a document, as keys and indices; of long lists only their first two."""
    yield way
    if isinstance(document, dict):
        for key, value in document.items():
            yield from places(value, (*way, key))
    elif isinstance(document, list):
        for index, value in enumerate(document[:2]):
            yield from places(value, (*way, index))


def mutants(document: Any, random: Random, count: int) -> Iterator[tuple[str, Any]]:
    """Yield ``count`` changes of a document, each with what it is: a value gone, replaced, doubled or renamed."""
    ways = [way for way in places(document) if way]
    for _ in range(count):
        changed, way = copy.deepcopy(document), random.choice(ways)
        parent = changed
        for step in way[:-1]:
            parent = parent[step]
        kind = random.choice(("gone", "other", "other", "other", "more"))
        if kind == "gone":
            del parent[way[-1]]
        elif kind == "other":
            parent[way[-1]] = copy.deepcopy(random.choice(ODD))
        elif isinstance(parent, list):
            parent.extend([copy.deepcopy(parent[way[-1]])] * random.choice((1, 1000)))
        else:
            parent[random.choice(("", "x", "../x", "\x00", "name", "y" * 1000))] = parent[way[-1]]
        yield f"{kind} {'.'.join(map(str, way))}", changed


def resealed(folder: Path, edit: Callable[[dict[str, Any]], Any] = lambda document: None) -> None:
    """Make hashes and seal of an artifact fit what is there, as somebody does who means harm."""
    file = folder / "manifest.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    for name in document["files"]:
        data = (folder / name).read_bytes()
        document["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    document = edit(document) or document
    file.write_text(json.dumps(sealed(document)), encoding="utf-8")


def sealed(document: Any) -> Any:
    """Return a document with the seal that fits it; anything but an object as it is."""
    if not isinstance(document, dict):
        return document
    body = {key: value for key, value in document.items() if key != "seal"}
    text = json.dumps(body, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return {**body, "seal": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()}
