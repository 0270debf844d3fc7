"""Probes of engines: who brings them, and which ways of an option they are tried in."""

from __future__ import annotations

from typing import Any

import pytest
from support.plugins import registered

from convkit import EngineProbe, Option, hookimpl
from convkit.backends import engine_probes, ways_of
from convkit.errors import PluginError


class Brings:
    def __init__(self, *options: Option) -> None:
        self.options = options

    @hookimpl
    def convkit_options(self) -> list[Option]:
        return list(self.options)

    @hookimpl
    def convkit_engine_probes(self) -> list[EngineProbe]:
        return [PROBE]


def no_model(dtype: str) -> Any:
    raise AssertionError("it is not needed here")


PROBE = EngineProbe("mine", "route", no_model, no_model)  # type: ignore[arg-type]


def test_those_of_all_plugins_are_found():
    before = {probe.name for probe in engine_probes()}
    with registered(Brings()):
        assert {probe.name for probe in engine_probes()} == before | {"mine"}


def test_the_ways_are_the_choices_without_the_default():
    with registered(Brings(Option("route", "auto", "which", ("long", "auto", "short")))):
        assert ways_of(PROBE) == ("long", "short")


@pytest.mark.parametrize("options", [(), (Option("route", 1, "any number"),), (Option("other", "a", "", ("a", "b")),)])
def test_an_option_without_choices_is_a_fault_of_the_plugin(options: tuple[Option, ...]):
    with registered(Brings(*options)), pytest.raises(PluginError, match=r"'mine' is about the option 'route'"):
        ways_of(PROBE)
