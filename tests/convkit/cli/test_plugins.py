"""``convkit plugins``: what is loaded, which hooks it implements, and what is broken."""

from __future__ import annotations

import pytest
from support.plugins import hook_names, write_distribution


def test_each_plugin_is_listed_with_its_hooks(cli):
    said = cli("plugins")
    assert (said.code, said.err) == (0, "")
    position = said.lines.index("toy  (convkit-toy 1.0)")
    assert said.lines[position + 1 : position + 5] == [
        "  convkit_adapters",
        "  convkit_decode",
        "  convkit_export_patches",
        "  convkit_preprocess",
    ]
    heads = [line.split()[0] for line in said.lines if not line.startswith(" ")]
    assert heads == sorted(heads)


def test_json_holds_the_same(cli):
    document = cli("plugins", "--json").json
    table = {item["name"]: item for item in document["plugins"]}
    assert table["onnxruntime"]["hooks"] == ["convkit_backends"]
    assert table["blobs"]["distribution"] == "convkit-blobs"
    assert document["broken"] == []


@pytest.mark.parametrize("hook", hook_names())
def test_one_hook_lists_only_those_that_implement_it(cli, hook):
    table = {item["name"]: item["hooks"] for item in cli("plugins", "--json").json["plugins"]}
    expected = sorted(name for name, hooks in table.items() if hook in hooks)
    assert [item["name"] for item in cli("plugins", "--hook", hook, "--json").json["plugins"]] == expected


def test_an_unknown_hook_is_a_wrong_usage_with_a_suggestion(cli):
    said = cli("plugins", "--hook", "convkit_adapter")
    assert (said.code, said.out) == (2, "")
    assert "Did you mean 'convkit_adapters'" in said.err


def test_a_broken_plugin_is_shown_with_its_reason(cli, tmp_path, monkeypatch):
    source = "from convkit import hookimpl\n@hookimpl\ndef convkit_dekode(spec): return None\n"
    modules = {"wreck_entry_point": source}
    site = write_distribution(tmp_path / "site", "wreck", {"wreck": "wreck_entry_point"}, modules)
    monkeypatch.syspath_prepend(str(site))
    said = cli("plugins")
    assert said.code == 0
    assert said.lines[-1].startswith("wreck  (wreck) BROKEN: Plugin 'wreck' implements an unknown hook")
    (broken,) = cli("plugins", "--json").json["broken"]
    assert (broken["name"], broken["distribution"]) == ("wreck", "wreck")
    assert "convkit_dekode" in broken["error"]


def test_what_an_author_forgot_is_shown_and_warned_of(cli, tmp_path, monkeypatch):
    source = (
        "from convkit import hookimpl\n"
        "@hookimpl\ndef convkit_backends(): return []\n"
        "def convkit_decode(spec): return None\n"
        "def convkit_preproces(spec): return None\n"
    )
    modules = {"hasty_entry_point": source}
    site = write_distribution(tmp_path / "site", "hasty", {"hasty": "hasty_entry_point"}, modules)
    monkeypatch.syspath_prepend(str(site))
    said = cli("plugins")
    position = said.lines.index("hasty  (hasty 1.0)")
    assert said.lines[position + 1 : position + 4] == [
        "  convkit_backends",
        "  convkit_decode NOT CALLED: it lacks @convkit.hookimpl",
        "  convkit_preproces NOT CALLED: it lacks @convkit.hookimpl",
    ]
    decode, preprocess = said.err.splitlines()
    assert decode == "warning: convkit_decode of plugin 'hasty' is never called: it lacks @convkit.hookimpl."
    assert preprocess.endswith("Did you mean 'convkit_preprocess'?")
    assert cli("adapters").err == said.err
    table = {item["name"]: item["warnings"] for item in cli("plugins", "--json").json["plugins"]}
    assert len(table.pop("hasty")) == 2
    assert set(map(len, table.values())) == {0}


def test_tracing_prints_the_calls_on_stderr(cli, monkeypatch):
    monkeypatch.setenv("CONVKIT_TRACE_PLUGINS", "1")
    said = cli("adapters")
    assert said.code == 0
    assert any(line.startswith("[hook] convkit_adapters(") for line in said.err.splitlines())
    assert "[hook]" not in said.out
