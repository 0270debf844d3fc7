"""What the README says of the project is what the project declares."""

from __future__ import annotations

import re
import sys

import pytest
from support import markdown

import convkit
from convkit.plugins import PluginManager
from convkit_models.centernet.networks import ARCHITECTURES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((markdown.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def cells(title: str) -> list[list[str]]:
    """Return the cells of the table in a section of the README, without its head."""
    rows = [line for line in markdown.section("README.md", title).text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_every_architecture_is_named_and_no_other():
    named = [name for row in cells("What is supported") for name in re.findall(r"`(\w+)`", row[1])]
    assert named == list(ARCHITECTURES)


def test_every_output_form_is_named_and_no_other():
    manager = PluginManager()
    manager.discover()
    for row in cells("What is supported"):
        assert re.findall(r"`([\w-]+)`", row[3]) == list(manager.adapter("centernet").forms)


def test_every_extra_is_explained():
    named = {row[0].strip("`") for row in cells("Install")}
    assert named == set(PROJECT["optional-dependencies"]) - {"examples"}


def test_python_versions_are_those_of_the_project():
    supported = [entry.rpartition(":: ")[2] for entry in PROJECT["classifiers"] if ":: Python :: 3." in entry]
    assert f"Python {supported[0]} to {supported[-1]}" in markdown.section("README.md", "Install").text
    assert PROJECT["requires-python"] == f">={supported[0]}"


@pytest.mark.parametrize("document", ["README.md", "CHANGELOG.md"])
def test_version_is_the_current_one(document):
    assert convkit.__version__ in (markdown.ROOT / document).read_text(encoding="utf-8")


def test_every_document_is_listed():
    listed = {target for target in markdown.links("README.md") if target.endswith(".md")}
    assert {name for name in markdown.DOCUMENTS if name.startswith("docs/")} <= listed
