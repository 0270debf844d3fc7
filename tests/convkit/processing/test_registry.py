"""Which plugin preprocesses and decodes: the first that knows the specification, and no stranger."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from support.plugins import registered
from support.toy import Resize, Softmax

from convkit import InputError, hookimpl
from convkit.errors import ConversionError, KernelArgumentError, PluginError
from convkit.processing import device_decode, device_preprocess, find_decode, find_preprocess

PREPROCESS = {"kind": "toy.resize", "height": 16, "width": 24, "scale": 1.0}
DECODE = {"kind": "toy.softmax", "classes": ["a"]}


def test_the_plugin_that_knows_the_kind_is_found(toy):
    assert isinstance(find_preprocess(PREPROCESS), Resize)
    assert isinstance(find_decode(DECODE), Softmax)


def test_sizes_replace_those_that_the_specification_names_and_no_others(toy):
    found = find_preprocess(PREPROCESS, {"height": 40, "depth": 3})
    assert found(np.zeros((9, 9, 3), np.uint8)).tensors["images"].shape == (3, 40, 24)
    assert PREPROCESS["height"] == 16


@pytest.mark.parametrize("find", [find_preprocess, find_decode])
def test_a_kind_that_nobody_knows_is_named(toy, find):
    with pytest.raises(ConversionError, match=r"'toy\.typo'") as caught:
        find({"kind": "toy.typo"})
    assert "plugin" in caught.value.hint


class Stranger:
    @hookimpl
    def convkit_preprocess(self):
        return lambda raw: raw

    @hookimpl
    def convkit_decode(self):
        return lambda outputs, metas: []


@pytest.mark.parametrize(("find", "kind"), [(find_preprocess, "Preprocess"), (find_decode, "Decode")])
def test_what_derives_from_nothing_is_refused(find, kind):
    with registered(Stranger(), "stranger"), pytest.raises(PluginError, match=f"convkit.{kind}") as caught:
        find({"kind": "stranger.thing"})
    assert f"Derive the class from convkit.{kind}" in caught.value.hint


def test_an_empty_specification_takes_arrays_by_name_and_decodes_nothing():
    assert find_decode({}) is None
    arrays = {"a": np.arange(3), "b": [1.0, 2.0]}
    preprocess = find_preprocess({})
    prepared = preprocess(arrays)
    np.testing.assert_array_equal(prepared.tensors["a"], arrays["a"])
    np.testing.assert_array_equal(prepared.tensors["b"], [1.0, 2.0])
    assert preprocess.reader.suffixes == {".npz"}
    for value in (np.zeros(3), [np.zeros(3)], None):
        with pytest.raises(InputError, match="takes a dict of arrays") as caught:
            preprocess(value)
        assert ".npz" in caught.value.hint


def test_a_device_side_that_does_not_fit_the_settings_counts_as_none(toy):
    def refuse(self):
        raise KernelArgumentError("too many classes", hint="Use fewer.")

    assert device_preprocess(find_preprocess(PREPROCESS)) is None
    assert device_decode(None) is None
    assert device_preprocess(type("P", (Resize,), {"on_device": refuse})(PREPROCESS)) is None
    assert device_decode(type("D", (Softmax,), {"on_device": refuse})(DECODE)) is None
    marker = SimpleNamespace(inputs=(), results=(), values=print, launch=print, read=print, kernels=print)
    assert device_decode(type("D", (Softmax,), {"on_device": lambda self: marker})(DECODE)) is marker
