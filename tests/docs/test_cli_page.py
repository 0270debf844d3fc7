"""docs/cli.md describes every command of the application, with every option, and no others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from support import markdown

from convkit import cli, errors

PAGE = "docs/cli.md"


def application() -> Any:
    return typer.main.get_command(cli.application())


def leaves(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield ``("convkit new adapter", command)`` for every command that does something."""
    if not getattr(command, "commands", None):
        yield " ".join(words), command
    for name, child in getattr(command, "commands", {}).items():
        yield from leaves(child, (*words, name))


ROOT_COMMAND = application()
COMMANDS = dict(leaves(ROOT_COMMAND, ("convkit",)))


def flags(command: Any) -> set[str]:
    """Return every spelling of every option."""
    return {
        text
        for parameter in command.params
        if parameter.param_type_name == "option"
        for text in (*parameter.opts, *parameter.secondary_opts)
    } - {"--help", "-h"}


def test_there_are_commands():
    assert {"convkit convert", "convkit validate", "convkit new adapter"} <= set(COMMANDS)


def test_page_has_exactly_the_commands_that_exist():
    titles = [part.title.strip("`") for part in markdown.sections(PAGE) if part.title.startswith("`convkit")]
    assert sorted(titles) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_its_section(name):
    text = markdown.section(PAGE, name).text
    missing = {flag for flag in flags(COMMANDS[name]) if not re.search(rf"(?<![\w-]){flag}(?![\w-])", text)}
    assert not missing


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_is_in_its_usage_line(name):
    text = markdown.section(PAGE, name).text
    usage = next(line for line in text.splitlines() if line.startswith(name))
    for parameter in COMMANDS[name].params:
        if parameter.param_type_name == "argument":
            assert (parameter.metavar or parameter.name.upper()) in usage


@pytest.mark.parametrize("name", COMMANDS)
def test_no_option_is_invented(name):
    described = re.findall(r"^\| `(-[^`]*)`", markdown.section(PAGE, name).text, flags=re.MULTILINE)
    spelled = {word for cell in described for word in re.findall(r"(?<![\w-])--?[a-z][\w-]*", cell)}
    assert spelled <= flags(COMMANDS[name])


def test_options_before_any_command():
    text = markdown.section(PAGE, "Options of every command").text
    assert all(flag in text for flag in flags(ROOT_COMMAND))


def test_exit_codes_are_those_of_the_errors():
    rows = re.findall(r"^\| (\d+) \| .*? \| (.*?) \|$", markdown.section(PAGE, "Exit codes").text, flags=re.MULTILINE)
    table = {name: int(code) for code, names in rows for name in re.findall(r"`(\w+)`", names)}
    base = errors.ConvkitError
    classes = [
        kind for name in errors.__all__ if isinstance(kind := vars(errors)[name], type) and issubclass(kind, base)
    ]
    assert table == {kind.__name__: kind.exit_code for kind in classes if kind is not base}
