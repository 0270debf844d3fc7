"""``convkit adapters``: what can be converted, and whose it is."""

from __future__ import annotations

from support.plugins import write_distribution


def test_each_adapter_is_a_line_with_its_distribution(cli):
    said = cli("adapters")
    assert (said.code, said.err) == (0, "")
    rows = {line.split()[0]: line for line in said.lines}
    assert list(rows) == sorted(rows)
    assert rows["toy"].split(maxsplit=1)[1] == "toy classifier  (convkit-toy 1.0)"
    assert "(convkit " in rows["centernet"]
    assert len({line.index(line.split(maxsplit=1)[1]) for line in said.lines}) == 1, "summaries are aligned"


def test_one_adapter_is_shown_with_its_forms_shapes_and_options(cli):
    said = cli("adapters", "toy")
    assert said.code == 0
    assert [line.strip() for line in said.lines[1:]] == [
        "forms   logits",
        "shapes  batch=1:1:4, height=32, width=32",
        "--set scale=1.0: what pixels are divided by",
    ]


def test_json_holds_everything_an_adapter_declares(cli):
    table = {item["name"]: item for item in cli("adapters", "--json").json}
    toy = table["toy"]
    assert toy["distribution"] == "convkit-toy"
    assert toy["version"] == "1.0"
    assert toy["forms"] == ["logits"]
    assert toy["dims"][1] == {"name": "height", "min": 32, "opt": 32, "max": 32, "multiple_of": 8}
    assert toy["options"] == [{"name": "scale", "default": 1.0, "help": "what pixels are divided by", "choices": []}]
    assert toy["opset"] == 20
    (alone,) = cli("adapters", "toy", "--json").json
    assert alone == toy


def test_an_unknown_adapter_is_an_error_with_a_suggestion(cli):
    said = cli("adapters", "tyo")
    assert (said.code, said.out) == (1, "")
    assert "Did you mean 'toy'" in said.err


def test_with_no_plugin_there_is_nothing_to_list(cli, monkeypatch):
    monkeypatch.setenv("CONVKIT_LOAD_PLUGINS", "")
    said = cli("adapters")
    assert (said.code, said.out) == (0, "")
    assert cli("adapters", "--json").json == []


def test_of_two_adapters_with_one_name_the_one_that_is_used_is_shown(cli, tmp_path, monkeypatch):
    """Plugins are registered in the order of their names, and the latest is asked first."""
    source = (
        "from support.toy import ToyAdapter, ToyPlugin\n"
        "from convkit import hookimpl\n"
        "class Mine(ToyAdapter):\n    summary = 'a fork of the toy'\n"
        "class Plugin:\n    @hookimpl\n    def convkit_adapters(self):\n        return [Mine()]\n"
        "plugin = Plugin()\n"
    )
    modules = {"fork_entry_point": source}
    site = write_distribution(tmp_path / "site", "fork", {"zz-fork": "fork_entry_point:plugin"}, modules, "3.0")
    monkeypatch.syspath_prepend(str(site))
    (row,) = [line for line in cli("adapters").lines if line.startswith("toy ")]
    assert row.split(maxsplit=1)[1] == "a fork of the toy  (fork 3.0)"
    said = cli("adapters")
    assert said.err.count("warning:") == 1
    assert "plugins 'zz-fork', 'toy' all offer the adapter 'toy'; that of 'zz-fork' is used" in said.err
    assert "warning: plugins 'zz-fork', 'toy' all offer" in cli("adapters", "toy").err
    assert "warning" not in cli("adapters", "centernet").err
    assert cli("adapters", "--no-plugin", "toy").err == ""
