"""What ``import convkit`` offers, and that it costs next to nothing."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import convkit

HEAVY = ("torch", "onnx", "onnxruntime", "onnx_graphsurgeon", "polygraphy", "numpy", "cv2", "typer", "rich")


@pytest.mark.parametrize("name", convkit.__all__)
def test_every_public_name_is_there_and_documented(name):
    value = getattr(convkit, name)
    assert value.__doc__, f"convkit.{name} has no docstring"
    assert name in dir(convkit)


def test_the_list_of_names_is_sorted_and_complete():
    assert list(convkit.__all__) == sorted(convkit.__all__)
    assert len(set(convkit.__all__)) == len(convkit.__all__)
    for module, names in convkit._HOMES.items():
        home = importlib.import_module(module)
        assert set(names) <= set(convkit.__all__)
        assert set(names) <= set(home.__all__), module


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'convrt'"):
        _ = convkit.convrt
    with pytest.raises(ImportError):
        from convkit import convrt  # noqa: F401


def imported_by(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter holds after ``statement``."""
    code = f"{statement}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import convkit",
        "from convkit import hookimpl",
        "from convkit import Adapter, Dim, Option, Request, TensorSpec, Tolerance, exactly, ConvkitError",
        "from convkit import AttributePatch, ModulePatch, NodeRewrite, NoMatch, KnownError",
        "from convkit.plugins import manager; manager().adapters()",
    ],
)
def test_importing_the_package_and_its_declarations_loads_nothing_heavy(statement):
    assert imported_by(statement) & set(HEAVY) == set()


def test_the_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert convkit.__version__ == version("convkit")
