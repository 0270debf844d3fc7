"""The inputs of a proof: one set of tensors a raw input and size, by the adapter's own preprocess."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from support.plugins import registered

from convkit import Dim, ModelSpec, Prepared, Preprocess, TensorSpec, hookimpl
from convkit.errors import ConversionError, ConvkitError, InputError
from convkit.processing import synthetic_scenes
from convkit.proof import Case, Samples, shape_cases

SPEC = ModelSpec(
    "toy_1",
    (Dim("batch", 1, 1, 5), Dim("height", 16, 32, 48), Dim.fixed("width", 32)),
    (TensorSpec("images", ("batch", 3, "height", "width")),),
    (TensorSpec("logits", ("batch", 4)),),
    {"kind": "toy.resize", "height": 32, "width": 32, "scale": 1.0},
    {"kind": "toy.softmax", "classes": []},
)
CASES = shape_cases(SPEC.dims)
SIZES = [case.item_sizes for case in CASES]


@pytest.fixture
def samples(toy) -> Samples:
    return Samples.prepare(SPEC, synthetic_scenes(2, seed=1), SIZES)


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


class Keeping:
    """A preprocess that keeps the size of the array, whatever is asked."""

    @hookimpl
    def convkit_preprocess(self, spec: Any) -> Preprocess | None:
        if spec["kind"] != "keep":
            return None

        class Keep(Preprocess):
            def __call__(self, raw: np.ndarray) -> Prepared:
                return Prepared({"x": raw}, {"seen": spec["height"]})

        return Keep()


def keeping(height: int, raw: np.ndarray) -> Samples:
    dims = (Dim("batch", 1, 1, 2), Dim("height", 2, 4, 8), Dim.fixed("width", 6))
    spec = ModelSpec(
        "v",
        dims,
        (TensorSpec("x", ("batch", 3, "height", "width")),),
        (TensorSpec("y", ("batch",)),),
        {"kind": "keep", "height": 0},
    )
    with registered(Keeping(), "keeping"):
        return Samples.prepare(spec, [raw], [(("height", height), ("width", 6))])


def test_the_size_of_the_case_goes_into_the_specification_where_it_has_such_a_name():
    (items,) = keeping(4, np.zeros((3, 4, 6), np.float32)).prepared.values()
    assert items[0].meta == {"seen": 4}


@pytest.mark.parametrize(
    ("shape", "message", "hint"),
    [
        ((3, 5, 6), "height 5 where 4 was asked for", "Name height in ModelSpec.preprocess"),
        ((3, 9, 6), r"of shape \(3, 9, 6\) where height 4, width 6", "Name height, width in ModelSpec.preprocess"),
        ((3, 4, 7), r"of shape \(3, 4, 7\) where height 4, width 6", "One item of 'x' is 3 x height x width"),
        ((1, 4, 6), r"\(1, 4, 6\) for 'x'; one item of it is \(3, 4, 6\)", "declares it as 3 x height x width"),
        ((4, 6), r"\(4, 6\) for 'x'; one item of it is 3 x height x width", "without the batch axis"),
        ((1, 3, 4, 6), "one item of it is 3 x height x width", "without the batch axis"),
    ],
)
def test_a_preprocess_that_returns_another_size_than_was_asked_for_is_refused(shape, message, hint):
    with pytest.raises(ConvkitError, match=message) as caught:
        keeping(4, np.zeros(shape, np.float32))
    assert hint in caught.value.hint


PAIR = ModelSpec(
    "v",
    (Dim("batch", 1, 1, 3), Dim("n", 2, 4, 8)),
    (TensorSpec("ids", ("batch", "n"), "int64"), TensorSpec("table", (2, 3)), TensorSpec("x", ("batch", "n+1"))),
    (TensorSpec("y", ("batch",)),),
)


def pair(number: int, n: int = 4) -> dict[str, np.ndarray]:
    return {
        "ids": np.full(n, number),
        "table": np.ones((2, 3), np.float32),
        "x": np.full(n + 1, number, np.float32),
    }


def test_without_a_preprocess_raw_inputs_are_the_input_arrays_of_any_number_and_dtype():
    samples = Samples.prepare(PAIR, [pair(0), pair(1)], [(("n", 4),)])
    feed = samples.feed(Case("c", (("batch", 3), ("n", 4))))
    assert {name: (value.shape, value.dtype.name) for name, value in feed.items()} == {
        "ids": ((3, 4), "int64"),
        "table": ((2, 3), "float32"),
        "x": ((3, 5), "float32"),
    }
    assert feed["ids"][:, 0].tolist() == feed["x"][:, 0].tolist() == [0, 1, 0]


def test_inputs_that_disagree_on_a_dimension_are_refused():
    with pytest.raises(InputError, match=r"\(6,\) for 'x'; one item of it is \(5,\)"):
        Samples.prepare(PAIR, [{**pair(0), "x": np.zeros(6, np.float32)}], [(("n", 4),)])


def test_a_specification_that_nobody_knows_is_an_error():
    with pytest.raises(ConversionError, match=r"'toy\.resize'"):
        Samples.prepare(SPEC, [], SIZES)
