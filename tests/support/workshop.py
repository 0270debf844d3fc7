"""Running the code blocks of a document, in order, in one working directory.

The directory stands for the root of the repository: it holds links to everything there, and what
the blocks write lands beside them. Each command is a shell of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from support.markdown import ROOT, Block

SITE = ".site"
NOT_LINKED = {"build", "demo-output", "dist"}
MEASUREMENT = re.compile(r"\d+\.\d+(?:e[+-]?\d+)?%?|\d+e[+-]?\d+|(?<![\w.])0(?![\w.])", flags=re.IGNORECASE)
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # threads that wait for each other are slow on a shared machine
    "NO_COLOR": "1",
    "COLUMNS": "200",
    "PYTHONDONTWRITEBYTECODE": "1",
}
"""What commands get on top of the environment of the tests."""
ANY_NUMBER = r"(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?%?|inf)"
WORST = re.compile(r"\bmax abs\b|\brel L2\b|\b(?P<all>\d+) of (?P=all) matched; ")
"""What a table says of the worst shape: which of two figures is nearer to its limit, and in which batch, is chance."""


@dataclass(frozen=True)
class Command:
    """One command of a console block, with the output that the document shows for it."""

    text: str
    output: str


def commands(block: Block) -> list[Command]:
    r"""Split a console block at its ``$ `` prompts; a line that ends with ``\`` goes on."""
    found: list[Command] = []
    continued = False
    for line in block.text.splitlines():
        if continued:
            found[-1] = Command(f"{found[-1].text}\n{line.removeprefix('> ')}", "")
        elif line.startswith("$ "):
            found.append(Command(line.removeprefix("$ "), ""))
        else:
            assert found, f"{block.place} does not begin with a prompt"
            found[-1] = Command(found[-1].text, f"{found[-1].output}{line}\n")
        continued = found[-1].text.endswith("\\") and not found[-1].output
    return found


def matches(expected: str, actual: str) -> bool:
    """Compare an output with what the document shows.

    ``...`` stands for anything, runs of spaces and line ends count as one space, and a number with
    a point or an exponent, or a zero (a measurement), stands for any number. Of the worst shape either figure may be
    shown, and any number of results that were all matched. An empty expectation fits all.
    """
    if not expected.strip():
        return True
    parts = _alike(" ".join(expected.split())).split("...")
    pattern = r".*".join(_as_pattern(part.strip() if len(parts) > 1 else part) for part in parts)
    return re.fullmatch(pattern, _alike(" ".join(actual.split())), flags=re.DOTALL) is not None


def _alike(text: str) -> str:
    return WORST.sub(lambda found: "all matched; " if found["all"] else "error", text)


def _bare(code: str) -> str:
    """Return code without indentation and empty lines: ruff sets quoted code flush left."""
    return "".join(f"{line.strip()}\n" for line in code.splitlines() if line.strip())


def _as_pattern(text: str) -> str:
    pieces, position = [], 0
    for number in MEASUREMENT.finditer(text):
        pieces += [re.escape(text[position : number.start()]), ANY_NUMBER]
        position = number.end()
    return "".join([*pieces, re.escape(text[position:])])


class Workshop:
    """A working directory in which blocks run.

    What a document shows of a command is its stdout, its stderr, or the two one after the other: on
    a terminal, progress is a spinner that leaves nothing behind.

    ``start`` is the workshop whose files this one goes on with, ``programs`` a folder of programs to be found before
    those of the running Python (`support.warm.commands`).
    """

    def __init__(self, folder: Path, start: Workshop | None = None, programs: Path | None = None) -> None:
        self.folder = folder
        self.programs = programs or Path(sys.executable).parent
        self.printed = ""
        if start:
            shutil.copytree(start.folder, folder, symlinks=True)
            return
        folder.mkdir(parents=True)
        for entry in ROOT.iterdir():
            if not entry.name.startswith(".") and entry.name not in NOT_LINKED:
                (folder / entry.name).symlink_to(entry)

    def run(self, block: Block) -> str:
        """Run a block, or check it, as its language and directive ask; return what was done with it.

        Raises:
            AssertionError: it ends with another code, or prints something else, than the document says.
        """
        reason, file = block.told("skip"), block.told("file")
        if reason is not None:
            assert len(reason.split()) >= 2, f"{block.place} is skipped without a reason"
            return "skipped"
        if file is not None:
            target = self.folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            assert target.resolve().is_relative_to(self.folder.resolve()), f"{block.place} would change the repository"
            target.write_text(block.text, encoding="utf-8")
            return "written"
        source = block.told("quote")
        if source is not None:
            text = _bare((ROOT / source).read_text(encoding="utf-8"))
            for piece in re.split(r"^ *\.\.\.\n", block.text, flags=re.MULTILINE):
                assert _bare(piece) in text, f"{block.place} quotes what is not in {source}:\n{piece}"
            return "compared"
        distribution = block.told("install")
        if distribution is not None:
            self._install(self.folder / distribution)
            return "installed"
        if block.directive == "output":
            assert matches(block.text, self.printed), (
                f"{block.place} shows\n{block.text}\nbut the code printed\n{self.printed}"
            )
            return "compared"
        if block.language == "console":
            self._console(block)
        elif block.language == "python":
            self._expect([str(self.programs / "python"), "-c", block.text], 0, "", block)
        else:
            raise AssertionError(f"{block.place}: a {block.language or 'plain'} block needs a test directive")
        return "run"

    def _install(self, source: Path) -> None:
        """Make a distribution known to Python as an editable install does, without pip or a network."""
        project = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        name, version = project["name"], project["version"]
        metadata = self.folder / SITE / f"{name.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        points = "".join(
            f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in table.items())
            for group, table in project["entry-points"].items()
        )
        (metadata / "entry_points.txt").write_text(points)
        for module in source.glob("*/__init__.py"):
            (self.folder / SITE / module.parent.name).symlink_to(module.parent)

    def _console(self, block: Block) -> None:
        last = int(block.told("exit") or 0)
        found = commands(block)
        for number, command in enumerate(found, start=1):
            self._expect(
                ["bash", "-o", "pipefail", "-c", command.text],
                last if number == len(found) else 0,
                command.output,
                block,
            )

    def _expect(self, words: list[str], code: int, output: str, block: Block) -> None:
        environment = {
            **os.environ,
            **ENVIRONMENT,
            "PATH": os.pathsep.join([str(self.programs), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(self.folder / SITE), os.environ.get("PYTHONPATH")])),
        }
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        self.printed = done.stdout
        everything = done.stderr + done.stdout
        told = f"{block.place}\n$ {words[-1]}\n{everything}"
        assert done.returncode == code, f"exit code {done.returncode}, not {code}: {told}"
        shown = any(matches(output, text) for text in (done.stdout, done.stderr, everything))
        assert shown, f"another output than the document shows: {told}\nshown:\n{output}"
