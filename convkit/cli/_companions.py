"""What belongs to each input of `run`, such as the calibration of its camera: files of a folder, fields of a list."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convkit.errors import InputError
    from convkit.processing import Frame, Reader

__all__ = ["Companions"]


class Companions:
    """Joins each frame with what belongs to it.

    ``texts`` are ``NAME=PATH`` with a folder, in which the file of an input has its name but for the suffix, or a file
    for all inputs. ``listed`` are the fields of a list by input; those with names that the reader knows count, unless
    there is a text of the name.

    Raises:
        SettingError: a text is another, or the reader knows no such name.
        InputError: there is no such folder or file.
    """

    def __init__(self, texts: list[str], listed: Mapping[str, Mapping[str, Any]], reader: Reader) -> None:
        from convkit.errors import InputError, SettingError

        self._reader, self._listed = reader, listed
        self._paths: dict[str, Path] = {}
        for text in texts:
            name, _, path = text.partition("=")
            if name not in reader.companions or not path:
                known = " or ".join(f"{name}=DIR" for name in reader.companions)
                raise SettingError(
                    f"--with {text} is nothing that belongs to an input of this model.",
                    hint=f"Give {known}." if known else "Leave it out.",
                )
            self._paths[name] = Path(path)
            if not self._paths[name].exists():
                raise InputError(f"There is no {path}.", hint="Check --with.")

    def join(self, frames: Iterator[Frame], bad: Callable[[Path, InputError], None] | None) -> Iterator[Frame]:
        """Yield the frames, joined; ``bad`` is called with those that lack something, as in `Reader.frames`."""
        for frame in frames:
            source = re.sub(r"#\d+$", "", frame.source)
            with self._reader.bad_file(Path(frame.source), bad):
                fields = self._listed.get(source, {})
                found = {name: fields[name] for name in self._reader.companions if name in fields}
                found |= {name: _file(path, source) for name, path in self._paths.items()}
                yield replace(frame, raw=self._joined(frame, found)) if found else frame

    def _joined(self, frame: Frame, found: Mapping[str, Any]) -> Any:
        from convkit.errors import InputError

        try:
            return self._reader.join(frame.raw, found)
        except InputError as error:
            raise InputError(f"{frame.source}: {error.message}", hint=error.hint) from error


def _file(path: Path, source: str) -> Path:
    from convkit.errors import InputError, listing

    if not path.is_dir():
        return path
    found = sorted(path.glob(f"{glob.escape(Path(source).stem)}.*"))
    if len(found) != 1:
        what = f"several files for it: {listing(file.name for file in found)}" if found else "no file for it"
        raise InputError(f"{source}: {path} has {what}.", hint="It is named like the input, but for the suffix.")
    return found[0]
