"""One line of the report, and how programs are asked for it."""

from __future__ import annotations

import importlib.metadata
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Finding", "package_version", "run_program"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    ``state`` is ``ok``, ``missing`` (something optional) or ``problem``; ``remedy`` says what to do about the latter
    two. Without what is ``core`` nothing can be converted.
    """

    section: str
    name: str
    state: str
    text: str
    remedy: str = ""
    core: bool = False


def package_version(distribution: str) -> str:
    """Return the version of an installed distribution, or an empty string."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def run_program(command: list[str], timeout: float) -> tuple[int, list[str]]:
    """Run a program without input; return its exit code, and the lines of both its streams that are not blank.

    A program that does not end within ``timeout`` seconds, or cannot be started, gives -1 and the reason.
    """
    try:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=timeout, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return -1, [f"{Path(command[0]).name} did not answer within {timeout:.0f} s"]
    except OSError as error:
        return -1, [str(error)]
    lines = result.stdout.decode(errors="replace").splitlines()
    return result.returncode, [line.strip() for line in lines if line.strip()]
