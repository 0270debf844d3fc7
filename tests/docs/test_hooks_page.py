"""docs/hooks.md describes every hook, with every argument, as convkit/hookspecs.py declares it."""

from __future__ import annotations

import inspect
import re
import types

import pytest
from support import markdown

from convkit import hookspecs
from convkit.plugins import PluginManager

PAGE = "docs/hooks.md"
HOOKS = {
    name: function
    for name, function in vars(hookspecs).items()
    if name.startswith("convkit_") and inspect.isfunction(function)
}


def arguments(name: str) -> list[str]:
    return list(inspect.signature(HOOKS[name]).parameters)


def code_of(name: str) -> str:
    """Return the Python of the hook's section."""
    return "\n".join(re.findall(r"```python\n(.*?)```", markdown.section(PAGE, name).text, flags=re.DOTALL))


def test_there_are_hooks():
    assert "convkit_adapters" in HOOKS


def test_page_has_exactly_the_hooks_that_exist():
    titles = [part.title.strip("`") for part in markdown.sections(PAGE) if part.title.strip("`").startswith("convkit_")]
    assert titles == list(HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_arguments_are_listed_in_order(hook):
    listed = re.findall(r"^\* `(\w+)`", markdown.section(PAGE, hook).text, flags=re.MULTILINE)
    assert listed == arguments(hook)


@pytest.mark.parametrize("hook", HOOKS)
def test_overview_shows_the_signature(hook):
    overview = markdown.section(PAGE, "All hooks").text
    assert f"`{hook}({', '.join(arguments(hook))})`" in overview


@pytest.mark.parametrize("hook", HOOKS)
def test_first_result_is_said_where_it_holds(hook):
    first = bool(HOOKS[hook].convkit_spec["firstresult"])
    assert ("first result" in markdown.section(PAGE, hook).text.lower()) is first


@pytest.mark.parametrize("hook", HOOKS)
def test_section_says_when_it_is_called_and_what_to_return(hook):
    text = markdown.section(PAGE, hook).text
    assert "**Called**" in text
    assert "**Return**" in text


@pytest.mark.parametrize("hook", HOOKS)
def test_example_is_a_plugin_that_registers(hook):
    example = types.ModuleType("example")
    exec(compile(code_of(hook), f"{PAGE} {hook}", "exec"), vars(example))
    manager = PluginManager()
    manager.register(example, "example")
    assert [info.hooks for info in manager.infos()] == [(hook,)]
