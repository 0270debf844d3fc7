"""The adapter's declarations and its default images."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from convkit import Adapter, Dim, ModelSpec, Request, SourceModel, Target, TensorSpec, Tolerance
from convkit.processing import synthetic_scenes


class Minimal(Adapter):
    name = "minimal"
    summary = "the least an adapter can say"

    def load(self, request: Request) -> SourceModel:
        raise NotImplementedError


def spec() -> ModelSpec:
    return ModelSpec("v", (Dim("batch", 1, 1, 2),), (TensorSpec("images", ("batch", 3, 8, 8)),), (), {}, {})


def test_an_adapter_that_says_little_has_one_form_and_a_batch_of_one_to_eight():
    assert Minimal().forms == ("default",)
    assert Minimal().dims == (Dim("batch", 1, 1, 8),)
    assert Minimal().options == ()


def test_an_adapter_must_be_able_to_load():
    class Incomplete(Adapter):
        name = "incomplete"

    with pytest.raises(TypeError, match="load"):
        Incomplete()


def test_the_default_images_are_the_synthetic_scenes_of_the_seed():
    images = Minimal().representative_images(spec(), 2, seed=3)
    for image, scene in zip(images, synthetic_scenes(2, seed=3), strict=True):
        np.testing.assert_array_equal(image, scene)


@pytest.mark.parametrize("value", [spec(), TensorSpec("a", (1,)), Tolerance(), Target()])
def test_declarations_cannot_be_changed_behind_ones_back(value):
    field = dataclasses.fields(value)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, field, None)
