"""Environments of their own for tests that install distributions as a user would."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

OFFLINE = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet")

_SESSION = """
import contextlib, io, json, runpy, sys

def script(file, *rest):
    sys.argv = [file, *rest]
    runpy.run_path(file, run_name="__main__")

def convkit(*words):
    from convkit.cli import execute
    return execute(list(words))

def pytest(*words):
    import pytest
    return int(pytest.main(list(words)))

programs = {"convkit": convkit, "python": script, "pytest": pytest}
for program, *words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = programs[program](*words) or 0
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


def fresh_venv(folder: Path) -> Path:
    """Make a virtual environment in which everything of the running one is visible; return its Python.

    What is installed there stays there; pip is that of the running environment. ``site.addsitedir`` reads the .pth
    files of the running environment as well, so that packages installed as editable are seen too.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    own = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
    parents = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    lines = [f"import site; site.addsitedir({path!r})\n" for path in parents]
    (Path(own) / "parent.pth").write_text("".join(lines))
    return python


def install(python: Path, source: Path, *, target: Path | None = None) -> None:
    """Install a source tree with pip, without any network; its build backend must be in the running environment."""
    where = ("--target", str(target)) if target else ()
    run(python, "-m", "pip", "install", *OFFLINE, *where, str(source))


def run(
    python: Path | str,
    *arguments: str,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    code: int = 0,
) -> subprocess.CompletedProcess[str]:
    """Run Python and return what it wrote; fail with its output when it exits with another code."""
    done = subprocess.run(
        [str(python), *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, f"{arguments} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done


def session(
    python: Path | str, folder: Path, commands: Sequence[Sequence[str]], environment: Mapping[str, str] | None = None
) -> list[str]:
    """Run commands of ``convkit``, ``python FILE`` and ``pytest`` one after the other in one process.

    Return what each wrote to stdout; fail with its output when one exits with another code than 0.
    """
    words, given = [str(python), "-c", _SESSION], json.dumps(commands)
    done = subprocess.run(words, cwd=folder, env=environment, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = []
    for command, line in zip(commands, done.stdout.splitlines(), strict=True):
        code, out, err = json.loads(line)
        assert code == 0, f"{command} exited with {code}:\n{out}\n{err}"
        printed.append(out)
    return printed
