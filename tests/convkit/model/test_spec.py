"""The specification of a model: what it accepts, what it refuses, what follows from it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from convkit import Dim, ModelSpec, Target, TensorSpec, Tolerance
from convkit.errors import AdapterError

BATCH, HEIGHT = Dim("batch", 1, 1, 4), Dim("height", 32, 64, 64, 32)


def spec(**changes: Any) -> ModelSpec:
    """Return a sound specification with some fields replaced."""
    fields: dict[str, Any] = {
        "variant": "v",
        "dims": (BATCH, HEIGHT),
        "inputs": (TensorSpec("x", ("batch", 3, "height")), TensorSpec("size", (2,), "int64")),
        "outputs": (TensorSpec("y", ("batch", "21*height/32")),),
    }
    return ModelSpec(**fields | changes)


def test_a_sound_specification_is_accepted_and_keeps_what_it_was_given():
    made = spec()
    assert [tensor.name for tensor in (*made.inputs, *made.outputs)] == ["x", "size", "y"]
    assert made.preprocess == made.decode == made.info == made.expect == {}
    assert made.batch == BATCH
    assert spec(dims=(HEIGHT,), inputs=(TensorSpec("x", (3, "height")),), outputs=(TensorSpec("y", (1,)),)).batch == (
        Dim.fixed("batch", 1)
    )


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"inputs": ()}, "the inputs none", "at least one"),
        ({"outputs": ()}, "the outputs none", "at least one"),
        ({"inputs": (TensorSpec("x", (1,)), TensorSpec("x", (2,)))}, "the inputs x, x", "name of its own"),
        ({"outputs": (TensorSpec("y", (1,)), TensorSpec("y", (1,)))}, "the outputs y, y", "name of its own"),
        ({"inputs": (TensorSpec("x", ("batch", "heigth")),)}, "'x' names an unknown dimension 'heigth'", "'height'"),
        ({"outputs": (TensorSpec("y", ("batch", "height/4*n+1")),)}, "'y' .* unknown dimension 'n'", "batch, height"),
        ({"dims": ()}, "'x' names an unknown dimension 'batch'", "none"),
        ({"outputs": (TensorSpec("rows", ("batch", 6), compare="results"),)}, "no decode", "values"),
    ],
)
def test_what_contradicts_itself_is_refused(changes, message, hint):
    with pytest.raises(AdapterError, match=message) as caught:
        spec(**changes)
    assert hint in caught.value.hint
    assert caught.value.exit_code == 3


def test_an_output_may_be_compared_by_results_where_there_is_a_decode():
    rows = TensorSpec("rows", ("batch", 6), compare="results")
    assert spec(outputs=(rows,), decode={"kind": "boxes"}).outputs == (rows,)


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ((("batch", "height//4"),), "'height//4' is no extent", "height/8"),
        (((-1, 3),), "tensor 'x' has the extent -1", "named dimension"),
        (((None, 3),), "tensor 'x' has the extent None", "named dimension"),
        (((3.0,),), "tensor 'x' has the extent 3.0", "whole number"),
        (((True,),), "tensor 'x' has the extent True", "whole number"),
        (((1,), "float"), "tensor 'x' has the dtype 'float'", "float32"),
        (((1,), "double"), "tensor 'x' has the dtype 'double'", "float32"),
        (((1,), np.float32), "tensor 'x' has the dtype", "float32"),
        (((1,), "float32", "result"), "'x' is compared by 'result'", "Did you mean 'results'"),
        (((1,), "float32", "rows"), "'x' is compared by 'rows'", "values, results"),
    ],
)
def test_a_tensor_that_cannot_be_is_refused(arguments, message, hint):
    with pytest.raises(AdapterError, match=message) as caught:
        TensorSpec("x", *arguments)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "int32", "int64", "uint8", "uint16", "float16", "float32", "float64", "bfloat16"]
)
def test_the_names_of_dtypes_that_graphs_have_are_accepted(dtype):
    assert TensorSpec("x", (1,), dtype).dtype == dtype


@pytest.mark.parametrize(
    ("shape", "batched", "item"),
    [
        (("batch", 3, "height"), True, (3, "height")),
        (("batch",), True, ()),
        ((3, "batch"), False, (3, "batch")),
        (("batch*2", 3), False, ("batch*2", 3)),
        ((), False, ()),
    ],
)
def test_an_item_is_what_is_left_of_the_batch(shape, batched, item):
    tensor = TensorSpec("x", shape)
    assert tensor.batched == batched
    assert tensor.item_shape == item


@pytest.mark.parametrize("value", [spec(), TensorSpec("a", (1,)), Tolerance(), Target()])
def test_declarations_cannot_be_changed_behind_ones_back(value):
    field = dataclasses.fields(value)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, field, None)
