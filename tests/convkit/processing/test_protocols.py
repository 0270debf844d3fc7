"""The two ends of a predictor are plain callables: no base class is needed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from support.toy import Resize, Softmax

from convkit import Decode, Prepared, Preprocess


def test_any_callable_of_the_right_shape_is_a_preprocess_and_a_decode():
    spec = {"kind": "toy", "height": 8, "width": 12, "scale": 1.0, "classes": ["a", "b"]}
    assert isinstance(Resize(spec), Preprocess)
    assert isinstance(Softmax(spec), Decode)
    assert not isinstance(3, Preprocess)
    prepared = Resize(spec)(np.zeros((4, 4, 3), np.uint8))
    assert prepared.tensor.shape == (3, 8, 12)
    assert prepared.meta == {}


def test_a_prepared_image_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Prepared(np.zeros(1)).tensor = np.ones(1)
