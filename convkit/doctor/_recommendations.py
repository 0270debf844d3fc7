"""Ways of engines that were found best on a GPU of this machine, stored beside the compiled kernels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from convkit._documents import read_document
from convkit.doctor._finding import Finding
from convkit.files import sha256, write_atomic

__all__ = ["Recommendation", "check_recommendations", "store", "stored_recommendations"]


@dataclass(frozen=True)
class Recommendation:
    """The best way of an option by element type, and the latency in milliseconds of every way that is right.

    It holds for a flavour, its version, a GPU and a CUDA driver.
    """

    option: str
    flavour: str
    version: str
    gpu: str
    driver: str
    best: Mapping[str, str]
    milliseconds: Mapping[str, Mapping[str, float]]

    @property
    def text(self) -> str:
        """The flags to give, with the latencies that they rest on."""
        flags = dict.fromkeys(self.best.values())
        parts = []
        for way in flags:
            dtypes = [dtype for dtype, best in self.best.items() if best == way]
            times = "; ".join(
                f"{dtype}: " + ", ".join(f"{name} {value:.3f} ms" for name, value in self.milliseconds[dtype].items())
                for dtype in dtypes
            )
            where = "" if len(flags) == 1 else f" in {' and '.join(dtypes)}"
            parts.append(f"--set {self.option}={way}{where} ({times})")
        return "; ".join(parts)


def store(made: Recommendation) -> Path:
    """Write a recommendation, in the place of one for the same option, flavour, version, GPU and driver.

    Raises:
        OSError: the folder of compiled kernels cannot be written.
    """
    key = sha256("\n".join((made.option, made.flavour, made.version, made.gpu, made.driver)))[:16]
    file = _folder() / f"{key}.json"
    write_atomic(file, json.dumps(asdict(made), indent=2) + "\n")
    return file


def stored_recommendations() -> list[Recommendation]:
    """Return what was stored on this machine, whatever its GPU and versions are now; unreadable files are left out."""
    found = []
    for file in sorted(_folder().glob("*.json")):
        with suppress(OSError, ValueError, TypeError):
            found.append(Recommendation(**read_document(file, dict)))
    return found


def check_recommendations() -> Iterator[Finding]:
    """Yield a finding for each stored recommendation."""
    for made in stored_recommendations():
        with suppress(KeyError, TypeError, ValueError, AttributeError):  # a file that somebody edited
            yield Finding("engines", made.flavour, "ok", f"{made.version} on {made.gpu}: {made.text}")


def _folder() -> Path:
    from convkit.cuda import cache_folder

    return cache_folder() / "recommendations"
