"""Rooms use each other's public names only; import-linter holds the direction (`make lint`)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.heavy import HEAVY

ROOT = Path(__file__).parents[1]
PACKAGES = ("convkit", "convkit_models", "convkit_plugins")
SHARED = {"convkit._text", "convkit._onnxruntime", "convkit._float64"}
"""Modules below all rooms, which are private to the project and not to one of them."""


def room_of(module: str) -> str:
    """Return the package that a private module belongs to: all parts before the first private one."""
    parts = module.split(".")
    private = next((index for index, part in enumerate(parts) if part.startswith("_")), len(parts))
    return ".".join(parts[:private])


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and full name of every module or name that a file imports from the project."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name


def trespasses(path: Path, own: str) -> list[str]:
    """Return the imports of a file that reach into a private module of another room than ``own``.

    An ``__init__`` may also gather names from the rooms below its own, and a test may test them.
    """
    found = []
    for line, name in imported(path):
        if name.split(".")[0] not in PACKAGES or any(name.startswith(module) for module in SHARED):
            continue
        room = room_of(name)
        below = path.name.startswith(("__init__", "test_")) and room.startswith(own + ".")
        if (
            room != name
            and not below
            and not (own + ".").startswith(room + ".")
            and not name.rsplit(".", 1)[-1].startswith("__")
        ):
            found.append(f"{path.relative_to(ROOT)}:{line}: {name}")
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_no_room_imports_private_names_of_another(package: str) -> None:
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        own = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found += trespasses(path, room_of(own.removesuffix(".__init__")))
    assert not found, "\n".join(found)


def test_tests_of_a_room_use_the_public_names_of_others() -> None:
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        own = ".".join(path.relative_to(ROOT / "tests").parent.parts)
        found += trespasses(path, own)
    assert not found, "\n".join(found)


def test_examples_need_no_private_name() -> None:
    found = [
        line for folder in ("examples",) for path in (ROOT / folder).rglob("*.py") for line in trespasses(path, "")
    ]
    assert not found, "\n".join(found)


def test_every_room_lists_its_names_in_order() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("__init__.py"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                    names = ast.literal_eval(node.value)
                    assert len(set(names)) == len(names), f"{path}: a name is listed twice"


def test_the_files_that_start_first_exist() -> None:
    assert len(set(HEAVY)) == len(HEAVY)
    assert [name for name in HEAVY if not (ROOT / "tests" / name).is_file()] == []


def test_a_trespass_is_found(tmp_path: Path) -> None:
    file = ROOT / "tests" / "convkit" / "probe.py"
    source = "from convkit.proof._rule import judge\nfrom convkit.proof import Verdict\nimport convkit.model\n"
    probe = tmp_path / "probe.py"
    probe.write_text(source)
    names = [name for _, name in imported(probe)]
    assert names == ["convkit.proof._rule.judge", "convkit.proof.Verdict", "convkit.model"]
    assert room_of(names[0]) == "convkit.proof"
    assert file.parent.is_dir()
