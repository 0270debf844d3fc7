"""Images through engines: read and prepared ahead in threads, run batch by batch, what came of it kept."""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from convkit.errors import NotFiniteError
from convkit.evaluation._engines import Engine
from convkit.evaluation._image_files import check_size
from convkit.evaluation._scheme import Scheme
from convkit.evaluation._store import Store
from convkit.progress import Progress

__all__ = ["Image", "Read", "in_order", "run_images", "stamp_of"]

A = TypeVar("A")
B = TypeVar("B")
Read = Callable[[Path], Any]
MOST_READERS = 4


@dataclass(frozen=True)
class Image:
    """An image of a data set: its id, its file, and the (height, width) that the annotations declare, if any."""

    id: int
    file: Path
    size: tuple[int, int] | None = None


@dataclass
class _Loaded:
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
        SettingError: an image has another size than declared, or ``check`` raises it.
        NotFiniteError: an engine returned NaN or infinity for an image, which is named.
    """

    def wanted() -> Iterator[_Loaded]:
        for image in images:  # in the thread to which the store belongs
            stamp = stamp_of(image.file)
            missing = [name for name, engine in engines.items() if not store.has(engine.key, image.id, stamp)]
            yield _Loaded(image, stamp, dict.fromkeys(missing))

    def load(wanted: _Loaded) -> _Loaded:
        if wanted.items:
            check_size(wanted.image.file, wanted.image.size)
            raw = read(wanted.image.file)
            wanted.items.update({name: engines[name].prepare(raw) for name in wanted.items})
        return wanted

    spent, kept, number = 0.0, 0, 0
    checked: set[str] = set()
    for name, engine in engines.items():
        if scheme := store.scheme(engine.key):
            check(name, scheme)
            checked.add(name)
    try:
        for group in _groups(in_order(load, wanted(), batch), batch):
            progress("running images", number, len(images))
            number += len(group)
            for name, engine in engines.items():
                todo = [loaded for loaded in group if name in loaded.items]
                kept += len(group) - len(todo)
                if not todo:
                    continue
                started = time.perf_counter()
                results = _run(engine, [loaded.items[name] for loaded in todo], [loaded.image for loaded in todo])
                spent += time.perf_counter() - started
                scheme = store.scheme(engine.key) or Scheme.of(results[0])
                if name not in checked:
                    check(name, scheme)
                    checked.add(name)
                for loaded, result in zip(todo, results, strict=True):
                    store.put(engine.key, loaded.image.id, loaded.stamp, scheme, scheme.rows(result))
    finally:
        store.write()
    return spent, kept


def _run(engine: Engine, items: Sequence[Any], images: Sequence[Image]) -> Sequence[Any]:
    try:
        return engine.run(items)
    except NotFiniteError as error:
        raise error.of(str(images[error.row].file)) from None


def stamp_of(file: Path) -> str:
    """Return a text that changes when the content of a file does: its name, size and time, as far as there is one."""
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
