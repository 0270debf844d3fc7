"""Plugins: found by entry point, left out on request, traced, checked, and reported by name when broken."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from support.plugins import write_distribution

from convkit import hookimpl, hookspecs
from convkit.errors import AdapterNotFoundError, PluginError, SettingError
from convkit.plugins import PluginManager, PluginWarning, block, hook_names, manager

BUILT_IN = {"centernet", "dcnv2", "graph", "onnxruntime", "known_errors", "tensorrt", "torch"}

ADAPTER_MODULE = """
from convkit import Adapter, Dim, hookimpl

class {name}(Adapter):
    name = "{name}"
    summary = "from a distribution of its own"
    def load(self, request): ...
    def samples(self, spec, count, seed): ...

@hookimpl
def convkit_adapters():
    return [{name}()]
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder in which distributions count as installed; modules from it are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "") or "").startswith(str(tmp_path)):
            del sys.modules[name]


def discovered(**options: Any) -> PluginManager:
    instance = PluginManager(**options)
    instance.discover()
    return instance


def names(instance: PluginManager) -> set[str]:
    return {info.name for info in instance.infos()}


def test_the_own_plugins_are_found_like_any_other():
    found = discovered()
    assert names(found) >= BUILT_IN
    assert found.broken == []
    assert {info.distribution for info in found.infos() if info.name in BUILT_IN} == {"convkit"}


def test_an_installed_distribution_is_found_with_its_name_and_version(site):
    write_distribution(
        site,
        "convkit-adapter-fresh",
        {"fresh": "fresh_plugin"},
        {"fresh_plugin": ADAPTER_MODULE.format(name="fresh")},
        "2.5",
    )
    found = discovered()
    info = next(info for info in found.infos() if info.name == "fresh")
    assert (info.distribution, info.version, info.hooks) == ("convkit-adapter-fresh", "2.5", ("convkit_adapters",))
    assert found.adapter("fresh").summary == "from a distribution of its own"
    assert "fresh" in found.adapters()


def test_infos_name_every_hook_a_plugin_implements():
    hooks = {info.name: info.hooks for info in discovered().infos()}
    assert hooks["graph"] == ("convkit_graph_rewrites",)
    assert hooks["onnxruntime"] == ("convkit_backends",)


def test_a_blocked_plugin_is_not_even_imported(site):
    write_distribution(site, "noisy", {"noisy": "noisy_plugin"}, {"noisy_plugin": "raise SystemExit('imported')"})
    found = discovered(blocked=frozenset({"noisy", "dcnv2"}))
    assert {"noisy", "dcnv2"} & names(found) == set()
    assert found.broken == []


def test_blocking_or_loading_an_unknown_plugin_is_an_error_with_a_suggestion(monkeypatch):
    with pytest.raises(SettingError, match="no plugin 'dcnv3' to leave out") as caught:
        discovered(blocked=frozenset({"dcnv3"}))
    assert "Did you mean 'dcnv2'" in caught.value.hint
    monkeypatch.setenv("CONVKIT_LOAD_PLUGINS", "graph,zzz")
    with pytest.raises(SettingError, match="no plugin 'zzz' to load") as caught:
        discovered()
    assert "convkit plugins" in caught.value.hint


@pytest.mark.parametrize(
    ("value", "expected"),
    [("", set()), ("graph", {"graph"}), (" graph , onnxruntime,", {"graph", "onnxruntime"}), (",", set())],
)
def test_the_environment_restricts_what_is_loaded(monkeypatch, value, expected):
    monkeypatch.setenv("CONVKIT_LOAD_PLUGINS", value)
    assert names(discovered()) == expected


BROKEN = {
    "syntax": ("def broken(:", "SyntaxError"),
    "imports": ("import a_module_that_is_nowhere", "a_module_that_is_nowhere"),
    "raises": ("raise RuntimeError('two\\nlines')", "RuntimeError: two"),
    "exits": ("import sys; sys.exit('no licence')", "SystemExit: no licence"),
    "typo": (
        "from convkit import hookimpl\n@hookimpl\ndef convkit_adaptors(): return []",
        "unknown hook: convkit_adaptors",
    ),
    "argument": (
        "from convkit import hookimpl\n@hookimpl\ndef convkit_decode(adaptor): return None",
        "adaptor",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_named_and_the_others_work_on(site, name):
    source, reason = BROKEN[name]
    write_distribution(site, f"broken-{name}", {name: f"broken_{name}"}, {f"broken_{name}": source})
    write_distribution(
        site, "healthy", {"healthy": "healthy_plugin"}, {"healthy_plugin": ADAPTER_MODULE.format(name="fit")}
    )
    found = discovered()
    (broken,) = found.broken
    assert (broken.name, broken.distribution) == (name, f"broken-{name}")
    assert reason in broken.reason
    assert "\n" not in broken.reason
    assert ("Did you mean 'convkit_adapters'?" in broken.reason) is (name == "typo")
    assert names(found) >= {*BUILT_IN, "healthy"}
    assert name not in names(found)
    assert "fit" in found.adapters()


def test_an_entry_point_without_its_module_is_broken_and_named_when_an_adapter_is_missed(site):
    write_distribution(site, "hollow", {"hollow": "hollow_plugin"}, {})
    found = discovered()
    assert [broken.name for broken in found.broken] == ["hollow"]
    with pytest.raises(AdapterNotFoundError, match="no adapter 'nope'") as caught:
        found.adapter("nope")
    assert "failed to load: hollow" in caught.value.hint


def test_registering_an_unknown_hook_is_refused_with_a_suggestion_and_leaves_nothing():
    class Typo:
        @hookimpl
        def convkit_graph_rewrite(self) -> list[Any]:
            return []

    fresh = PluginManager()
    with pytest.raises(PluginError, match="'mine' implements an unknown hook: convkit_graph_rewrite") as caught:
        fresh.register(Typo(), "mine")
    assert "Did you mean 'convkit_graph_rewrites'" in caught.value.hint
    assert fresh.infos() == []
    fresh.register(Offering("a"), "mine")
    assert list(fresh.adapters()) == ["a"], "the name is free again"


class Offering:
    """Offer adapters and translations under given names."""

    def __init__(self, *names: str, raises: Exception | None = None) -> None:
        self.offers, self.raises = names, raises

    @hookimpl
    def convkit_adapters(self) -> list[Any]:
        if self.raises:
            raise self.raises
        return [type("Offered", (), {"name": name, "owner": self})() for name in self.offers]

    @hookimpl
    def convkit_onnx_translations(self) -> dict[str, str]:
        return {name: name.upper() for name in self.offers}


def test_gathering_keeps_who_gave_what_in_call_order():
    fresh = PluginManager()
    fresh.register(Offering("a", "b"), "first")
    fresh.register(Offering(), "silent")
    fresh.register(Offering("c"), "last")
    given = fresh.gather("convkit_adapters")
    assert {name: [item.name for item in items] for name, items in given.items()} == {
        "last": ["c"],
        "silent": [],
        "first": ["a", "b"],
    }
    assert list(given) == ["last", "silent", "first"]  # pluggy calls the latest registration first
    assert fresh.gather("convkit_onnx_translations", target=None)["first"] == [("a", "A"), ("b", "B")]


def test_of_two_adapters_with_one_name_the_first_called_wins():
    fresh = PluginManager()
    fresh.register(Offering("same", "own"), "early")
    late = Offering("same")
    fresh.register(late, "late")
    assert list(fresh.adapters()) == ["own", "same"]
    with pytest.warns(PluginWarning, match="'late', 'early' all offer the adapter 'same'; that of 'late' is used"):
        assert fresh.adapter("same").owner is late
    assert (fresh.owner("same").name, fresh.owner("own").name) == ("late", "early")
    with pytest.raises(AdapterNotFoundError):
        fresh.owner("none")
    assert [text.count("--no-plugin early") for text in fresh.clashes()] == [1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fresh.adapter("own")


def test_a_hook_that_raises_is_reported_with_the_name_of_its_plugin():
    fresh = PluginManager()
    fresh.register(Offering("fine"), "healthy")
    fresh.register(Offering(raises=ZeroDivisionError("oops")), "rotten")
    with pytest.raises(PluginError, match="'rotten' failed in convkit_adapters: ZeroDivisionError: oops") as caught:
        fresh.gather("convkit_adapters")
    assert "--no-plugin rotten" in caught.value.hint
    assert "CONVKIT_DEBUG=1" in caught.value.hint
    fresh.register(Offering(raises=PluginError("told already")), "honest")
    with pytest.raises(PluginError, match="told already"):
        fresh.gather("convkit_adapters")


def test_an_unknown_adapter_is_an_error_with_suggestion_and_list():
    fresh = PluginManager()
    with pytest.raises(AdapterNotFoundError) as caught:
        fresh.adapter("toy")
    assert "Installed: none" in caught.value.hint
    fresh.register(Offering("centernet", "retina"), "some")
    with pytest.raises(AdapterNotFoundError) as caught:
        fresh.adapter("centrenet")
    assert "Did you mean 'centernet'? Installed: centernet, retina." in caught.value.hint
    assert caught.value.exit_code == 1


def test_of_a_refused_plugin_the_mistake_is_named_and_not_another_function():
    class Greedy:
        @hookimpl
        def convkit_decode(self, adaptor: str) -> None: ...

        def convkit_helper(self) -> None: ...

    with pytest.raises(PluginError, match="does not fit a hook"):
        PluginManager().register(Greedy(), "greedy")


def test_a_hook_with_an_argument_that_does_not_exist_is_refused_and_leaves_nothing():
    class Greedy(Offering):
        @hookimpl
        def convkit_decode(self, adaptor: str) -> None:
            return None

    fresh = PluginManager()
    with pytest.raises(PluginError, match=r"'greedy' does not fit a hook: .*convkit_decode.*'adaptor'"):
        fresh.register(Greedy("stowaway"), "greedy")
    assert fresh.infos() == []
    assert fresh.adapters() == {}, "its other hooks are gone too"


class Answering:
    """Answer ``convkit_decode``, a hook of which the first result counts."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked = answer, 0

    @hookimpl
    def convkit_decode(self, spec: Any) -> Any:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer and f"{self.answer} decodes {spec['kind']}"


def test_of_a_hook_with_one_result_the_first_answer_counts_and_nobody_is_asked_after_it():
    fresh = PluginManager()
    assert fresh.first("convkit_decode", adapter="", spec={"kind": "rows"}) is None
    last, mine, silent = Answering("last"), Answering("mine"), Answering(None)
    for name, plugin in {"last": last, "mine": mine, "silent": silent}.items():
        fresh.register(plugin, name)
    assert fresh.first("convkit_decode", adapter="", spec={"kind": "rows"}) == "mine decodes rows"
    assert (silent.asked, mine.asked, last.asked) == (1, 1, 0)


def test_what_a_hook_with_one_result_raises_is_reported_with_the_name_of_its_plugin():
    fresh = PluginManager()
    fresh.register(Answering(KeyError("kind")), "rotten")
    with pytest.raises(PluginError, match="'rotten' failed in convkit_decode: KeyError: 'kind'") as caught:
        fresh.first("convkit_decode", spec={})
    assert isinstance(caught.value.__cause__, KeyError)
    fresh.register(Answering(PluginError("told already")), "honest")
    with pytest.raises(PluginError, match="told already"):
        fresh.first("convkit_decode", spec={})


@pytest.mark.parametrize("answer", [7, "iterator"])
def test_an_answer_that_is_no_collection_or_breaks_while_it_is_read_is_a_fault_of_its_plugin(answer):
    class Odd:
        @hookimpl
        def convkit_adapters(self) -> Any:
            return answer if answer == 7 else (1 // 0 for _ in "x")

    fresh = PluginManager()
    fresh.register(Odd(), "odd")
    with pytest.raises(PluginError, match=r"'odd' failed in convkit_adapters: (TypeError|ZeroDivisionError)"):
        fresh.adapters()


def test_functions_named_like_hooks_without_the_mark_are_reported():
    class Forgetful:
        convkit_note = "no function"

        @hookimpl
        def convkit_adapters(self) -> list[Any]:
            return []

        @hookimpl(specname="convkit_backends")
        def convkit_engines(self) -> list[Any]:
            return []

        def convkit_decode(self, spec: Any) -> None: ...

        def convkit_preproces(self, spec: Any) -> None: ...

    fresh = PluginManager()
    fresh.register(Forgetful(), "forgetful")
    (info,) = fresh.infos()
    assert info.hooks == ("convkit_adapters", "convkit_backends")
    assert info.unmarked == ("convkit_decode", "convkit_preproces")
    decode, preprocess = info.warnings()
    assert decode == "convkit_decode of plugin 'forgetful' is never called: it lacks @convkit.hookimpl."
    assert "convkit_preproces of plugin 'forgetful'" in preprocess
    assert preprocess.endswith("Did you mean 'convkit_preprocess'?")


def test_no_plugin_of_convkit_itself_has_an_unmarked_hook():
    assert [info.unmarked for info in discovered().infos() if info.distribution == "convkit"] == [()] * len(BUILT_IN)


def test_a_plugin_that_wraps_a_hook_is_refused_and_leaves_nothing():
    class Wrapping:
        @hookimpl(wrapper=True)
        def convkit_decode(self, spec: Any) -> Any:
            return (yield)

    fresh = PluginManager()
    with pytest.raises(PluginError, match="'wrapping' wraps a hook"):
        fresh.register(Wrapping(), "wrapping")
    assert fresh.infos() == []
    assert fresh.first("convkit_decode", spec={}) is None


def test_hook_names_are_those_of_the_specification():
    assert {"convkit_adapters", "convkit_known_errors"} <= set(hook_names())
    assert all(callable(getattr(hookspecs, name)) for name in hook_names())


def test_unregistering_takes_every_trace_away():
    fresh = PluginManager()
    fresh.register(Offering("a"), "gone", "dist", "1")
    fresh.unregister("gone")
    assert fresh.infos() == []
    assert fresh.adapters() == {}
    fresh.register(Offering("a"), "gone", "dist", "2")
    assert fresh.infos()[0].version == "2"


@pytest.mark.parametrize(("value", "traced"), [("1", True), ("0", False), ("", False)])
def test_tracing_prints_every_call_with_arguments_plugins_and_result(monkeypatch, capsys, value, traced):
    monkeypatch.setenv("CONVKIT_TRACE_PLUGINS", value)
    fresh = PluginManager()
    fresh.register(Offering("x"), "tracee")
    fresh.gather("convkit_onnx_translations", target="a target " + "x" * 200)
    captured = capsys.readouterr()
    assert captured.out == ""
    if not traced:
        assert captured.err == ""
        return
    called, result = captured.err.splitlines()
    assert called.startswith("[hook] convkit_onnx_translations(target='a target xxx")
    assert called.endswith("...) -> tracee")
    assert result == "[hook] convkit_onnx_translations = [('x', 'X')]"


def test_tracing_shows_a_hook_that_raises_too(monkeypatch, capsys):
    monkeypatch.setenv("CONVKIT_TRACE_PLUGINS", "1")
    fresh = PluginManager()
    fresh.register(Offering(raises=ZeroDivisionError("oops")), "rotten")
    with pytest.raises(PluginError):
        fresh.gather("convkit_adapters")
    assert "[hook] convkit_adapters = ZeroDivisionError('oops')" in capsys.readouterr().err


def test_the_manager_of_the_process_is_made_once_and_again_after_blocking():
    try:
        first = manager()
        assert manager() is first
        block(["dcnv2"])
        assert "dcnv2" not in names(manager())
        assert manager() is not first
    finally:
        block([])
    assert "dcnv2" in names(manager())


def test_an_installed_plugin_serves_the_command_line_of_a_fresh_process(tmp_path):
    write_distribution(tmp_path, "far", {"far": "far_plugin"}, {"far_plugin": ADAPTER_MODULE.format(name="faraway")})
    code = "from convkit.cli import main; main(['adapters'])"
    for extra, shown in ({}, True), ({"CONVKIT_LOAD_PLUGINS": "graph"}, False):
        environment = {"PYTHONPATH": str(tmp_path), "PATH": "", **extra}
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        assert ("faraway" in run.stdout) is shown
        assert run.stderr == ""


def test_the_plugin_of_an_object_is_known_as_long_as_the_object_is():
    class Thing:
        name = "thing"

    class Offering:
        @hookimpl
        def convkit_adapters(self) -> Any:
            return [Thing()]

        @hookimpl
        def convkit_decode(self) -> Any:
            return Thing()

    plugins = PluginManager()
    plugins.register(Offering(), "offering")
    ((adapter,),) = plugins.gather("convkit_adapters").values()
    decode = plugins.first("convkit_decode", spec={})
    assert plugins.origin(adapter) == plugins.origin(decode) == "offering"
    assert plugins.origin(Thing()) == ""
    assert plugins.origin(None) == ""
    del adapter, decode
    gc.collect()
    assert not plugins._origins


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ([int], "Plugin 'odd' returned the class int from convkit_options", r"\[int\(\)\]"),
        (["a", 1], "Plugin 'odd' returned a str from convkit_options", "a list of convkit.int objects"),
    ],
)
def test_things_of_another_kind_are_refused_by_the_name_of_their_plugin(given, message, hint):
    class Odd:
        @hookimpl
        def convkit_options(self) -> Any:
            return given

    plugins = PluginManager()
    plugins.register(Odd(), "odd")
    with pytest.raises(PluginError, match=message) as caught:
        plugins.gather("convkit_options", of=int)
    assert re.search(hint, caught.value.hint)
    assert plugins.gather("convkit_options") == {"odd": given}


def test_a_hook_that_ends_the_process_is_reported_too():
    class Ending:
        @hookimpl
        def convkit_options(self) -> Any:
            raise SystemExit(3)

    plugins = PluginManager()
    plugins.register(Ending(), "ending")
    with pytest.raises(PluginError, match="'ending' failed in convkit_options: SystemExit: 3"):
        plugins.gather("convkit_options")
