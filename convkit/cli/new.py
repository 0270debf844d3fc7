"""``convkit new``: write a distribution to start from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from convkit.cli._console import set_verbosity
from convkit.cli._options import JsonOption, QuietOption

__all__ = ["app", "write_adapter"]

TEMPLATES = "scaffold/adapter"
NAME = r"[a-z][a-z0-9]*([-_][a-z0-9]+)*"

app = typer.Typer(help="Write something to start from.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _new() -> None:
    """Write something to start from."""


@app.command("adapter")
def adapter(
    name: Annotated[str, typer.Argument(help="What `convkit convert` will call it, e.g. my-net.", metavar="NAME")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Directory to make; default ./convkit-adapter-NAME.", metavar="DIR"),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write an adapter in a distribution of its own, which passes its own conformance tests."""
    set_verbosity(quiet=quiet)
    from convkit.cli._console import emit, emit_json, stderr
    from convkit.cli._layout import aligned

    folder, files = write_adapter(name, output)
    if json:
        emit_json({"adapter": name, "path": str(folder), "files": files})
        return
    console = stderr()
    console.print("Next:")
    for line in aligned(
        (
            (f"  cd {folder}", ""),
            ('  pip install -e ".[dev]"', "convkit finds it by its entry point"),
            ("  pytest", "the conformance kit passes as it is"),
            ("  python tests/make_weights.py tiny.pt", "a small checkpoint to try it with"),
            (f"  convkit convert {name} -w tiny.pt", ""),
        )
    ):
        console.print(line, markup=False)
    emit(str(folder))


def write_adapter(name: str, output: Path | None = None) -> tuple[Path, list[str]]:
    """Write the scaffold of an adapter; return its directory and the files in it, relative to that.

    The directory appears complete or not at all.

    Raises:
        SettingError: the name is not valid, or taken.
        OutputError: the directory exists or cannot be written.
    """
    from convkit import __version__
    from convkit.artifact import check_destination, staging
    from convkit.errors import OutputError

    _check_name(name)
    words = re.split("[-_]", name)
    distribution = f"convkit-adapter-{'-'.join(words)}"
    names = {
        "name": name,
        "distribution": distribution,
        "package": distribution.replace("-", "_"),
        "class_name": "".join(word.capitalize() for word in words) + "Adapter",
        "version": __version__,
    }
    folder = output or Path(distribution)
    if folder.exists() or folder.is_symlink():
        raise OutputError(f"{folder} exists already.", hint="Give another --output; nothing is ever overwritten.")
    check_destination(folder, overwrite=False)
    with staging(folder) as draft:
        files = _fill(draft, names)
        draft.rename(folder)
    return folder, files


def _check_name(name: str) -> None:
    from convkit.errors import SettingError
    from convkit.plugins import manager

    if not re.fullmatch(NAME, name):
        better = re.sub(r"^[^a-z]+|[^a-z0-9]+$", "", re.sub(r"[^a-z0-9]+", "-", name.lower()))
        raise SettingError(
            f"{name!r} cannot be the name of an adapter.",
            hint="Use lower-case letters and digits in words joined by hyphens"
            + (f", for example {better}." if better else ", for example my-net."),
        )
    known = {*manager().adapters(), *(info.name for info in manager().infos())}
    if name in known:
        raise SettingError(
            f"There is an adapter or plugin {name!r} already.",
            hint=f"These names are taken: {', '.join(sorted(known))}.",
        )


def _fill(folder: Path, names: dict[str, str]) -> list[str]:
    """Write every template with the names in place; return the files in order."""
    from importlib.resources import as_file, files
    from string import Template

    written = []
    with as_file(files("convkit").joinpath(TEMPLATES)) as templates:
        for template in sorted(templates.rglob("*.tmpl")):
            relative = template.relative_to(templates).with_suffix("")
            parts = [names["package"] if part == "package" else part for part in relative.parts]
            path = folder.joinpath(*parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(Template(template.read_text(encoding="utf-8")).substitute(names), encoding="utf-8")
            written.append("/".join(parts))
    return written
