"""The results of an evaluation by engine and image, in memory or in a file from which it goes on."""

from __future__ import annotations

import errno
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from convkit.errors import OutputError, SettingError, unwritten
from convkit.evaluation._scheme import Scheme

__all__ = ["Store"]

_APPLICATION = 0x636B6576
"""Marks the file as one of these."""
_VERSION = 1
_EVERY = 1.0
"""Seconds after which what was added is written: so much is lost at most."""
_TABLES = (
    "CREATE TABLE engines(engine TEXT PRIMARY KEY, scheme TEXT NOT NULL)",
    "CREATE TABLE results(engine TEXT, image INTEGER, file TEXT, rows BLOB, PRIMARY KEY(engine, image)) WITHOUT ROWID",
)


class Store:
    """Results by engine and image id; a second one of the same takes the place of the first.

    ``file`` is an SQLite database, so that whatever ends the process, the file has the results up to a second before.
    An engine is a text that stands for all on which its results depend, and so is the ``stamp`` of an image's file.

    Raises:
        SettingError: the file is something else.
        OutputError: it cannot be opened or written, or another process writes it.
        EnvironmentProblem: the disk is full.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        if file is not None and file.exists() and not _is_database(file):
            raise _stranger(file)
        with self._guarded():
            self._base = sqlite3.connect(str(file) if file else ":memory:", isolation_level=None)
            self._base.execute("PRAGMA trusted_schema = OFF")
            self._open()
        self._written = time.monotonic()
        self._schemes: dict[str, Scheme] = {}

    def _open(self) -> None:
        ((application,),) = self._base.execute("PRAGMA application_id")
        ((version,),) = self._base.execute("PRAGMA user_version")
        ((tables,),) = self._base.execute("SELECT count(*) FROM sqlite_master")
        if (application, version) != (_APPLICATION, _VERSION):
            if tables:
                assert self.file is not None
                raise _stranger(self.file)
            self._base.execute("BEGIN IMMEDIATE")
            for statement in _TABLES:
                self._base.execute(statement)
            self._base.execute(f"PRAGMA application_id = {_APPLICATION}")
            self._base.execute(f"PRAGMA user_version = {_VERSION}")
            self._base.execute("COMMIT")

    def has(self, engine: str, image: int, stamp: str) -> bool:
        """Return whether there is a result of this engine for this image, made of the same file."""
        with self._guarded():
            found = self._base.execute("SELECT file FROM results WHERE engine = ? AND image = ?", (engine, image))
            return bool(found.fetchone() == (stamp,))

    def scheme(self, engine: str) -> Scheme | None:
        """Return how the rows of an engine are laid out; None where it has none yet."""
        if engine not in self._schemes:
            with self._guarded():
                found = self._base.execute("SELECT scheme FROM engines WHERE engine = ?", (engine,)).fetchone()
                if found:
                    self._schemes[engine] = Scheme.from_json(json.loads(found[0]))
        return self._schemes.get(engine)

    def put(self, engine: str, image: int, stamp: str, scheme: Scheme, rows: np.ndarray) -> None:
        """Add the rows of an image's result, or replace them."""
        data = np.ascontiguousarray(rows, "<f8").tobytes()
        with self._guarded():
            if not self._base.in_transaction:
                self._base.execute("BEGIN")
            if self.scheme(engine) is None:
                document = json.dumps(scheme.to_json())
                self._base.execute("INSERT OR REPLACE INTO engines VALUES (?, ?)", (engine, document))
                self._schemes[engine] = scheme
            self._base.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?)", (engine, image, stamp, data))
        if time.monotonic() - self._written > _EVERY:
            self.write()

    def rows(self, engine: str, image: int) -> np.ndarray:
        """Return the rows of an image's result, float64 [N, columns].

        Raises:
            SettingError: the file does not contain them as they were written.
        """
        with self._guarded():
            query = "SELECT rows FROM results WHERE engine = ? AND image = ?"
            (data,) = self._base.execute(query, (engine, image)).fetchone()
            scheme = self.scheme(engine) or Scheme()
            return np.frombuffer(data, "<f8").reshape(-1, scheme.columns)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write what was added when the block ends, however it does."""
        try:
            yield
        finally:
            self.write()

    def write(self) -> None:
        """Write what was added since."""
        with self._guarded():
            if self._base.in_transaction:
                self._base.execute("COMMIT")
        self._written = time.monotonic()

    def close(self) -> None:
        """Write what was added, and close the file."""
        try:
            self.write()
        finally:
            self._base.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "is full" in str(error):
                raise unwritten(
                    str(self.file), OSError(errno.ENOSPC, str(error)), "Give another --resume file."
                ) from error
            hint = "Check its folder, its permissions, the disk."
            if "is locked" in str(error):
                hint = "Another evaluation writes it: wait for its end, or give another --resume file."
            raise OutputError(f"{self.file} cannot be read or written: {error}.", hint=hint) from error
        except (sqlite3.DatabaseError, ValueError, TypeError, LookupError) as error:
            assert self.file is not None
            raise _stranger(self.file) from error


def _is_database(file: Path) -> bool:
    """Return whether a file is empty or begins as an SQLite database does."""
    try:
        with file.open("rb") as stream:
            return stream.read(16) in (b"", b"SQLite format 3\0")
    except OSError as error:
        raise OutputError(f"{file} cannot be read: {error.strerror}.", hint="Give another file.") from error


def _stranger(file: Path) -> SettingError:
    return SettingError(
        f"{file} is not a file from which an evaluation can go on, or it is damaged.",
        hint="Give another --resume file; one that does not exist yet is made.",
    )
