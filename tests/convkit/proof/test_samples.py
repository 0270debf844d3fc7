"""The inputs of a proof: one tensor an image and size, by the adapter's own preprocess."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from support.plugins import registered

from convkit import Dim, ModelSpec, Prepared, TensorSpec, hookimpl
from convkit.errors import ConversionError
from convkit.processing import find_decode, find_preprocess, synthetic_scenes
from convkit.proof import Case, Samples, shape_cases

SPEC = ModelSpec(
    "toy_1",
    (Dim("batch", 1, 1, 5), Dim("height", 16, 32, 48), Dim.fixed("width", 32)),
    (TensorSpec("images", ("batch", 3, "height", "width")),),
    (),
    {"kind": "toy.resize", "height": 32, "width": 32, "scale": 1.0},
    {"kind": "toy.softmax", "classes": []},
)
CASES = shape_cases(SPEC.dims)
PICTURES = [case.picture for case in CASES]


@pytest.fixture
def samples(toy) -> Samples:
    return Samples.prepare("toy", SPEC, synthetic_scenes(2, seed=1), PICTURES)


def test_every_image_is_preprocessed_at_every_size(samples):
    images = synthetic_scenes(2, seed=1)
    for case in CASES:
        tensor = samples.feed(case)["images"]
        height = case.table["height"]
        assert tensor.shape == (case.batch, 3, height, 32)
        for row in range(case.batch):
            expected = cv2.resize(images[row % 2], (32, height)).astype(np.float32) / np.float32(255)
            np.testing.assert_array_equal(tensor[row], expected.transpose(2, 0, 1))


def test_a_batch_larger_than_the_number_of_images_repeats_them_in_turn(samples):
    case = next(case for case in CASES if case.batch == 5)
    tensor = samples.feed(case)["images"]
    assert len(samples.items(case)) == 5
    np.testing.assert_array_equal(tensor[0], tensor[2])
    assert (tensor[0] != tensor[1]).any()


def test_the_first_samples_are_a_set_of_their_own(samples):
    one = samples.first(1)
    assert all(len(items) == 1 for items in one.prepared.values())
    assert all(len(items) == 2 for items in samples.prepared.values())
    np.testing.assert_array_equal(one.feed(CASES[0])["images"][0], samples.feed(CASES[0])["images"][0])


KEEP = {"kind": "keep", "height": 0}


class Keeping:
    """Preprocess to the size the image has, whatever is asked; the tensor holds 0, 1, 2 …"""

    @hookimpl
    def convkit_preprocess(self, spec: Any) -> Any:
        if spec["kind"] != "keep":
            return None
        return lambda image: Prepared(
            np.arange(image.size, dtype=np.float32).reshape(image.shape[2], *image.shape[:2]), {"seen": spec["height"]}
        )


def keeping(height: int, width: int) -> Samples:
    spec = ModelSpec(
        "v", (), (TensorSpec("x", ("batch", 3, "height", "width")),), (), {"kind": "keep", "height": 0}, {}
    )
    with registered(Keeping(), "keeping"):
        return Samples.prepare("a", spec, [np.zeros((4, 6, 3), np.uint8)], [(("height", height), ("width", width))])


@pytest.mark.parametrize("size", [(4, 6), (3, 5), (6, 9), (2, 8)])
def test_a_tensor_of_a_size_of_its_own_is_cropped_or_padded_at_the_edge(size):
    tensor = keeping(*size).feed(Case("c", (("height", size[0]), ("width", size[1]))))["x"][0]
    plane = np.arange(4 * 6 * 3, dtype=np.float32).reshape(3, 4, 6)
    rows, columns = np.minimum(np.arange(size[0]), 3), np.minimum(np.arange(size[1]), 5)
    np.testing.assert_array_equal(tensor, plane[:, rows][:, :, columns])
    assert tensor.flags.c_contiguous


def test_the_size_of_the_case_goes_into_the_specification_where_it_has_such_a_name():
    (items,) = keeping(8, 8).prepared.values()
    assert items[0].meta == {"seen": 8}


def test_a_preprocess_with_other_channels_than_the_model_is_refused():
    spec = ModelSpec(
        "v", (), (TensorSpec("x", ("batch", 1, "height", "width")),), (), {"kind": "keep", "height": 0}, {}
    )
    with (
        registered(Keeping(), "keeping"),
        pytest.raises(ConversionError, match=r"\(3, 4, 6\); the model takes \(1, 8, 8\)"),
    ):
        Samples.prepare("a", spec, [np.zeros((4, 6, 3), np.uint8)], [(("height", 8), ("width", 8))])


def test_a_model_of_two_inputs_is_refused():
    two = ModelSpec("v", (), (TensorSpec("x", (1,)), TensorSpec("y", (1,))), (), {}, {})
    with pytest.raises(ConversionError, match="2 inputs"):
        Samples.prepare("a", two, [], [])


def test_a_specification_that_nobody_knows_has_no_preprocess_and_no_decode():
    with pytest.raises(ConversionError, match=r"'toy\.resize'"):
        find_preprocess("toy", SPEC.preprocess)
    assert find_decode("toy", SPEC.decode) is None


def test_preprocess_and_decode_come_from_whose_kind_it_is(toy):
    assert type(find_preprocess("toy", SPEC.preprocess)).__name__ == "Resize"
    assert type(find_decode("toy", SPEC.decode)).__name__ == "Softmax"
