"""Images through engines: read and prepared ahead in threads, run batch by batch, what came of it kept."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from convkit.errors import InputError, NotFiniteError
from convkit.evaluation._engines import Engine
from convkit.evaluation._image_files import check_size
from convkit.evaluation._scheme import Scheme
from convkit.evaluation._store import Store
from convkit.files import sha256
from convkit.processing import Reader
from convkit.progress import Progress
from convkit.results import Result

__all__ = [
    "Image",
    "Loaded",
    "Read",
    "check_known",
    "in_order",
    "prepared",
    "reading",
    "results_of",
    "run_images",
    "wanted",
]

A = TypeVar("A")
B = TypeVar("B")
Read = Callable[["Image"], Any]
MOST_READERS = 4


@dataclass(frozen=True)
class Image:
    """An image of a data set: its id, its file, and the (height, width) that the annotations declare, if any.

    ``fields`` are what the annotations say of it besides, such as of its camera, by name.
    """

    id: int
    file: Path
    size: tuple[int, int] | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stamp(self) -> str:
        """A text that changes when the content of the file does, or the fields."""
        fields = f" {sha256(json.dumps(self.fields, sort_keys=True))}" if self.fields else ""
        return f"{_stamp_of(self.file)}{fields}"


@dataclass
class Loaded:
    """An image that is ready: what each engine that has no result of it makes one of, by the engine's name."""

    image: Image
    stamp: str
    items: dict[str, Any]


def run_images(
    engines: Mapping[str, Engine],
    images: Sequence[Image],
    store: Store,
    read: Read,
    *,
    batch: int,
    progress: Progress,
    check: Callable[[str, Scheme], None],
) -> tuple[float, int]:
    """Put into ``store`` the results of every engine for every image; return the seconds in engines, and results kept.

    Results that are there are not made again. ``check`` is called once an engine with the layout of its rows. At an
    error, what was made before is kept.

    Raises:
        ImageError: an image cannot be read.
        InputError: a field of an image is not what it should be.
        SettingError: an image has another size than declared, or ``check`` raises it.
        NotFiniteError: an engine returned NaN or infinity for an image, which is named.
    """

    def load(loaded: Loaded) -> Loaded:
        return prepared(loaded, engines, read)

    spent, kept, number = 0.0, 0, 0
    checked = check_known(engines, store, check)
    missing = (wanted(image, engines, store) for image in images)  # in the thread to which the store belongs
    with store.writing():
        for group in _groups(in_order(load, missing, batch), batch):
            progress("running images", number, len(images))
            number += len(group)
            for name, engine in engines.items():
                started = time.perf_counter()
                found = results_of(name, engine, group)
                spent += time.perf_counter() - started if found else 0.0
                kept += len(group) - len(found)
                for loaded, result in found:
                    scheme = store.scheme(engine.key) or Scheme.of(result)
                    if name not in checked:
                        check(name, scheme)
                        checked.add(name)
                    store.put(engine.key, loaded.image.id, loaded.stamp, scheme, scheme.rows(result))
    return spent, kept


def check_known(engines: Mapping[str, Engine], store: Store, check: Callable[[str, Scheme], None]) -> set[str]:
    """Call ``check`` for the engines of which there are results, and return their names."""
    known = {name: scheme for name, engine in engines.items() if (scheme := store.scheme(engine.key))}
    for name, scheme in known.items():
        check(name, scheme)
    return set(known)


def wanted(image: Image, engines: Mapping[str, Engine], store: Store) -> Loaded:
    """Return an image with the names of the engines that have no result of it, for `prepared`."""
    stamp = image.stamp
    missing = [name for name, engine in engines.items() if not store.has(engine.key, image.id, stamp)]
    return Loaded(image, stamp, dict.fromkeys(missing))


def prepared(loaded: Loaded, engines: Mapping[str, Engine], read: Read) -> Loaded:
    """Return the image with what each engine in ``items`` makes a result of; any thread may do so.

    Raises:
        ImageError: it cannot be read.
        InputError: a field is not what it should be.
        SettingError: it has another size than declared.
    """
    if loaded.items:
        check_size(loaded.image.file, loaded.image.size)
        raw = read(loaded.image)
        loaded.items.update({name: engines[name].prepare(raw) for name in loaded.items})
    return loaded


def results_of(name: str, engine: Engine, group: Sequence[Loaded]) -> list[tuple[Loaded, Result]]:
    """Return the images of a group that were prepared for an engine, each with its result.

    Raises:
        NotFiniteError: the engine returned NaN or infinity for an image, which is named.
    """
    todo = [loaded for loaded in group if name in loaded.items]
    if not todo:
        return []
    try:
        results = engine.run([loaded.items[name] for loaded in todo])
    except NotFiniteError as error:
        raise error.of(str(todo[error.row].image.file)) from None
    return list(zip(todo, results, strict=True))


def reading(reader: Reader) -> Read:
    """Return what reads images, each together with the fields that belong to it."""

    def read(image: Image) -> Any:
        raw = reader.accept(image.file)
        try:
            return reader.join(raw, image.fields) if image.fields else raw
        except InputError as error:
            raise InputError(f"{image.file}: {error.message}", hint=error.hint) from error

    return read


def _stamp_of(file: Path) -> str:
    """Return name, size and time of a file, as far as there is one."""
    try:
        facts = file.stat()
    except OSError:
        return file.name
    return f"{file.name} {facts.st_size} {facts.st_mtime_ns}"


def in_order(function: Callable[[A], B], values: Iterable[A], ahead: int = 1) -> Iterator[B]:
    """Yield ``function`` of each value, in order; threads work some values ahead, at least ``ahead``."""
    workers = min(MOST_READERS, max(1, os.cpu_count() or 1))
    pending: deque[Future[B]] = deque()
    source = iter(values)
    with ThreadPoolExecutor(workers, thread_name_prefix="convkit-images") as pool:
        try:
            pending.extend(pool.submit(function, value) for value in itertools.islice(source, workers + ahead))
            while pending:
                found = pending.popleft().result()
                pending.extend(pool.submit(function, value) for value in itertools.islice(source, 1))
                yield found
        finally:
            for future in pending:
                future.cancel()


def _groups(values: Iterable[B], size: int) -> Iterator[list[B]]:
    source = iter(values)
    while group := list(itertools.islice(source, size)):
        yield group
