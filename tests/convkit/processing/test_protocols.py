"""The contracts of preprocess and decode: what a subclass owes, and what it gets."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from support.pair import Tokens
from support.toy import Resize, Softmax

from convkit import Decode, Prepared, Preprocess
from convkit.processing import ImageReader

SPEC = {"kind": "toy", "height": 8, "width": 12, "scale": 1.0, "classes": ["a", "b"]}


def test_a_preprocess_reads_images_unless_it_says_otherwise_and_stays_on_the_host():
    assert isinstance(Resize(SPEC).reader, ImageReader)
    assert Tokens({"n": 4}).reader.suffixes == {".npz"}
    assert Resize(SPEC).on_device() is None
    assert Softmax(SPEC).on_device() is None


@pytest.mark.parametrize("kind", [Preprocess, Decode])
def test_a_class_without_a_call_is_none(kind):
    with pytest.raises(TypeError, match="__call__"):
        type("Empty", (kind,), {})()


def test_a_prepared_input_cannot_be_changed_and_needs_no_meta():
    prepared = Resize(SPEC)(np.zeros((4, 4, 3), np.uint8))
    assert prepared.tensors["images"].shape == (3, 8, 12)
    assert prepared.meta == {}
    with pytest.raises(dataclasses.FrozenInstanceError):
        Prepared({}).tensors = {}
