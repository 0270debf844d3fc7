"""Settings: a flag goes over the configuration file, that over the adapter, that over the built-in value."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from convkit import Adapter, Dim, ModelSpec, Option, Request, SourceModel
from convkit.conversion import ConvertSettings, read_config, resolve_settings
from convkit.errors import AdapterError, CheckpointError, SettingError


class Sample(Adapter):
    name = "sample"
    summary = "an adapter with every kind of option"
    forms = ("heads", "boxes")
    dims = (Dim("batch", 1, 1, 8), Dim.fixed("height", 64, multiple_of=32))
    opset = 21
    options = (
        Option("k", 100, "how many"),
        Option("scale", 1.0, "pixel scale"),
        Option("mode", "fix", "resize mode", choices=("fix", "keep")),
        Option("mean", (0.1, 0.2, 0.3), "mean of the channels"),
    )

    def load(self, request: Request) -> SourceModel:
        raise NotImplementedError

    def samples(self, spec: ModelSpec, count: int, seed: int) -> list[Any]:
        raise NotImplementedError


class FromCheckpoint(Sample):
    """An adapter whose height and mean follow from the checkpoint."""

    found: Mapping[str, Any] = {"height": Dim.fixed("height", 96, multiple_of=32), "mean": (0.5, 0.5, 0.5)}

    def defaults(self, weights: Path, options: Mapping[str, Any]) -> Mapping[str, Any]:
        if weights.suffix != ".pth":
            raise CheckpointError(f"{weights} is none.")
        assert options["k"] in (100, 7)
        return self.found


def own(options: Any) -> dict[str, Any]:
    """Leave out the options of plugins."""
    names = {option.name for option in Sample.options}
    return {name: value for name, value in options.items() if name in names}


def resolve(flags: dict[str, Any] | None = None, config: dict[str, Any] | None = None) -> ConvertSettings:
    return resolve_settings(Sample(), flags or {}, config or {}, "convkit.toml")


def origin(settings: ConvertSettings, name: str) -> str:
    return settings.origins[name]


def test_what_follows_from_the_checkpoint_goes_over_the_adapter_and_under_all_else():
    adapter, weights = FromCheckpoint(), Path("w.pth")
    settings = resolve_settings(adapter, {"set": {"k": "7"}}, {}, "", weights)
    assert [str(dim) for dim in settings.dims] == ["batch=1:1:8", "height=96"]
    assert (settings.options["mean"], origin(settings, "set.mean")) == ((0.5, 0.5, 0.5), "checkpoint")
    table = {"shape": ["height=32"], "set": {"mean": [0.3, 0.3, 0.3]}}
    settings = resolve_settings(adapter, {}, table, "convkit.toml", weights)
    assert [str(dim) for dim in settings.dims] == ["batch=1:1:8", "height=32"]
    assert (settings.options["mean"], origin(settings, "set.mean")) == ((0.3, 0.3, 0.3), "convkit.toml")
    assert resolve_settings(adapter, {}, {}, "", Path("w.txt")) == resolve_settings(adapter, {}, {}, "")


@pytest.mark.parametrize(
    "found", [{"height": 96}, {"k": Dim("batch", 1, 1, 8)}, {"width": Dim("width", 1, 1, 8)}, {"deep": 1}]
)
def test_what_cannot_follow_from_a_checkpoint_is_the_adapters_fault(monkeypatch, found):
    monkeypatch.setattr(FromCheckpoint, "found", found)
    with pytest.raises(AdapterError, match=f"returned '{next(iter(found))}'"):
        resolve_settings(FromCheckpoint(), {}, {}, "", Path("w.pth"))


def test_without_any_word_everything_comes_from_adapter_or_built_in():
    settings = resolve()
    assert settings.form == "heads"
    assert settings.opset == 21
    assert settings.samples == 8
    assert settings.dims == Sample.dims
    assert own(settings.options) == {"k": 100, "scale": 1.0, "mode": "fix", "mean": (0.1, 0.2, 0.3)}
    assert set(settings.origins.values()) == {"adapter", "built-in"}
    assert {name for name, origin in settings.origins.items() if origin == "adapter"} == {
        "form", "opset", "shape", "set.k", "set.scale", "set.mode", "set.mean", "set.dcn", "set.workspace",
        "set.optimization-level", "set.hardware-compatibility", "set.version-compatible", "set.timing-cache",
    }  # fmt: skip


LAYERS = [
    ("opset", 19, 20, 22, 21, "adapter"),
    ("samples", 3, 4, 5, 8, "built-in"),
    ("form", "boxes", "heads", "boxes", "heads", "adapter"),
    ("seed", 7, 8, 9, 0, "built-in"),
    ("shape", ("batch=2",), ("batch=3",), ("batch=4",), (), "adapter"),
]


@pytest.mark.parametrize(("name", "flag", "own", "general", "fallback", "source"), LAYERS)
def test_each_layer_goes_over_the_one_below(name, flag, own, general, fallback, source):
    table = {"sample": {name: own}, name: general}
    assert getattr(resolve({name: flag}, table), name) == flag
    assert origin(resolve({name: flag}, table), name) == "flag"
    assert getattr(resolve({}, table), name) == own
    assert origin(resolve({}, table), name) == "convkit.toml"
    assert getattr(resolve({}, {name: general}), name) == general
    assert getattr(resolve({name: None}), name) == fallback
    assert origin(resolve({name: None}), name) == source


def test_zero_is_a_value_and_not_an_absent_one():
    settings = resolve({"seed": 0}, {"seed": 5})
    assert (settings.seed, origin(settings, "seed")) == (0, "flag")


def test_options_of_the_adapter_come_from_flags_as_text_and_from_toml_as_values():
    config = {"set": {"k": 10, "scale": 2}, "sample": {"set": {"scale": 4.0, "mean": [1, 2, 3]}}}
    settings = resolve({"set": ["mode=keep", " k = 7 "]}, config)
    assert own(settings.options) == {"k": 7, "scale": 4.0, "mode": "keep", "mean": (1.0, 2.0, 3.0)}
    assert [origin(settings, f"set.{name}") for name in own(settings.options)] == [
        "flag",
        "convkit.toml",
        "flag",
        "convkit.toml",
    ]
    assert resolve({"set": ["mean=0.5,0.25,1"]}).options["mean"] == (0.5, 0.25, 1.0)
    assert resolve({"set": {"k": 3}}).options["k"] == 3


def test_another_adapters_table_is_left_alone():
    assert resolve({}, {"other": {"form": "nonsense", "anything": 1}}).form == "heads"


REFUSED = [
    ({"form": "box"}, {}, "no output form 'box'", "Did you mean 'boxes'"),
    ({"opset": 12}, {}, "opset cannot be 12", "19"),
    ({"opset": 99}, {}, "opset cannot be 99", "23"),
    ({"to": "coreml"}, {}, "coreml", "ONNX"),
    ({"precision": "int4"}, {}, "int4", "fp32, fp16, bf16"),
    ({"precision": "fp8"}, {}, "fp8", "calibrated"),
    ({"precision": "fp8"}, {}, "fp8", "calibrated"),
    ({"keep_fp32": "kept.txt"}, {}, "keep_fp32", "--precision fp16"),
    ({"samples": 0}, {}, "0", "1 to 64"),
    ({"samples": 65}, {}, "65", "1 to 64"),
    ({"shape": ["heigth=64"]}, {}, "heigth", "Did you mean 'height'"),
    ({"shape": ["height=65"]}, {}, "65", "64 and 96"),
    ({"set": ["k"]}, {}, "'k' has no value", "NAME=VALUE"),
    ({"set": ["kk=1"]}, {}, "no option 'kk'", "k, scale, mode, mean"),
    ({"set": ["k=many"]}, {}, "'k' cannot be 'many'", "how many"),
    ({"set": ["k=1.5"]}, {}, "'k' cannot be '1.5'", "Default: 100"),
    ({"set": ["mode=kep"]}, {}, "'mode' cannot be 'kep'", "Did you mean 'keep'"),
    ({"set": ["mean=1,2"]}, {}, "3 numbers", "mean of the channels"),
    ({}, {"opzet": 20}, "unknown setting 'opzet'", "Did you mean 'opset'"),
    ({}, {"sample": {"opzet": 20}}, "unknown setting 'opzet'", "Did you mean 'opset'"),
    ({}, {"set": {"k": 2.7}}, "'k' cannot be 2.7", "how many"),
    ({}, {"set": {"k": True}}, "'k' cannot be True", "how many"),
    ({}, {"set": {"scale": "nan"}}, "'scale' cannot be 'nan'", "pixel scale"),
    ({}, {"samples": "8"}, "samples cannot be '8'", "whole number"),
    ({}, {"opset": True}, "opset cannot be True", "whole number"),
    ({}, {"seed": 1.5}, "seed cannot be 1.5", "whole number"),
    ({}, {"seed": -1}, "seed cannot be -1", "0"),
    ({}, {"shape": 3}, "shape cannot be 3", "NAME=N"),
    ({}, {"shape": [64]}, "shape cannot be [64]", "NAME=N"),
    ({}, {"form": 3}, "form cannot be 3", "text"),
    ({}, {"names": 3}, "names cannot be 3", "path"),
    ({}, {"device": ["cpu"]}, "device cannot be ['cpu']", "text"),
    ({}, {"set": "k=3"}, "set is 'k=3'", "[convert.set]"),
    ({"keep_exported": 1}, {}, "keep_exported cannot be 1", "true or false"),
    ({"inputs": 3}, {}, "inputs cannot be 3", "path"),
    ({"inptus": "x"}, {}, "This call has an unknown setting 'inptus'", "Did you mean 'inputs'"),
    ({}, {"dims": ["batch=1"]}, "unknown setting 'dims'", ""),
    ({}, {"sample": 3}, "'sample' is not a table", "[convert.sample]"),
]


@pytest.mark.parametrize(("flags", "config", "message", "hint"), REFUSED, ids=[row[2] for row in REFUSED])
def test_what_cannot_be_obeyed_is_refused_with_a_remedy(flags, config, message, hint):
    with pytest.raises(SettingError) as caught:
        resolve(flags, config)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


def test_the_record_of_the_settings_names_files_without_their_folders():
    settings = resolve({"inputs": "/home/someone/images", "names": Path("/etc/names.txt")})
    assert settings.inputs == Path("/home/someone/images")
    record = {item["name"]: item for item in settings.to_json()}
    assert record["inputs"] == {"name": "inputs", "value": "images", "origin": "flag"}
    assert record["names"]["value"] == "names.txt"
    assert record["set.mode"] == {"name": "set.mode", "value": "fix", "origin": "adapter"}


def test_convkit_toml_of_the_working_directory_is_read_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_config() == ({}, "")
    Path("convkit.toml").write_text("[convert]\nopset = 22\n[convert.sample]\nform = 'boxes'\n")
    table, name = read_config()
    assert (table, name) == ({"opset": 22, "sample": {"form": "boxes"}}, "convkit.toml")
    settings = resolve_settings(Sample(), {}, table, name)
    assert (settings.opset, settings.form) == (22, "boxes")


def test_a_named_file_goes_over_convkit_toml_and_gives_its_name_as_origin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("convkit.toml").write_text("[convert]\nopset = 22\n")
    Path("mine.toml").write_text("[convert]\nopset = 19\n")
    table, name = read_config(Path("mine.toml"))
    assert origin(resolve_settings(Sample(), {}, table, name), "opset") == "mine.toml"
    assert table == {"opset": 19}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no configuration file"),
        (b"[convert", "not valid TOML"),
        (b"\xff", "not valid TOML"),
        (b"convert = 3", "'convert' is not a table"),
    ],
)
def test_a_broken_configuration_file_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "broken.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingError, match=message) as caught:
        read_config(path)
    assert "broken.toml" in caught.value.message
