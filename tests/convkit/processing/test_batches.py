"""Prepared inputs into batches and outputs into results: what adapters return is checked, whatever its shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convkit import Classification, Dim, InputError, ModelSpec, Prepared, Preprocess, TensorSpec
from convkit.errors import AdapterError
from convkit.processing import NamedArrays, collate, decode_batch, item_sizes, prepare, take_items

SPEC = ModelSpec(
    variant="x",
    dims=(Dim("batch", 1, 2, 3), Dim("n", 2, 6, 12, 2), Dim.fixed("width", 4)),
    inputs=(
        TensorSpec("ids", ("batch", "n"), "int64"),
        TensorSpec("features", ("batch", "n+1", "width")),
        TensorSpec("scale", (), "float32"),
    ),
    outputs=(TensorSpec("scores", ("batch", "n")), TensorSpec("total", (2,))),
)


def tensors(n: int = 6, **changes: Any) -> dict[str, Any]:
    return {
        "ids": np.arange(n),
        "features": np.full((n + 1, 4), n, np.float32),
        "scale": np.array(2, np.float32),
        **changes,
    }


class Gives(Preprocess):
    """A preprocess of which only what it returns matters."""

    def __init__(self, given: Any) -> None:
        self.given = given

    def __call__(self, raw: Any) -> Any:
        if isinstance(self.given, Exception):
            raise self.given
        return self.given


def test_tensors_of_any_rank_and_dtype_pass():
    prepared = prepare(SPEC, Gives(Prepared(tensors(), {"m": 1})), None)
    assert prepared.meta == {"m": 1}
    assert item_sizes(SPEC, Gives(None), shapes(tensors())) == {"n": 6, "width": 4}


def shapes(arrays: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}


WRONG = {
    "no Prepared": (tensors(), "returned a dict"),
    "no mapping": (Prepared(np.zeros(3)), "returned a ndarray"),  # type: ignore[arg-type]
    "a name too few": (Prepared({"ids": np.arange(6)}), "tensors for ids; the model's inputs are ids, features, scale"),
    "a name too many": (Prepared(tensors(mask=np.ones(6))), "tensors for ids, features, scale, mask"),
    "another dtype": (Prepared(tensors(ids=np.arange(6, dtype=np.int32))), "int32 for 'ids'; the model takes int64"),
    "a list": (Prepared(tensors(ids=[1, 2])), "list for 'ids'"),
    "a batch axis": (Prepared(tensors(ids=np.arange(6)[None])), r"shape \(1, 6\) for 'ids'; one item of it is n"),
    "a scalar with an axis": (Prepared(tensors(scale=np.ones(1, np.float32))), "one item of it is a scalar"),
    "an error": (KeyError("height"), "The preprocess Gives raised KeyError: 'height'"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_a_preprocess_returns_wrongly_is_a_mistake_of_the_adapter(kind):
    given, message = WRONG[kind]
    with pytest.raises(AdapterError, match=message) as caught:
        prepare(SPEC, Gives(given), None)
    assert caught.value.hint


def test_an_input_that_the_preprocess_refuses_is_no_mistake_of_the_adapter():
    with pytest.raises(InputError, match="too dark"):
        prepare(SPEC, Gives(InputError("too dark", hint="Light.")), None)


BY_NAME = {
    "no mapping": ([1], "takes a dict of arrays"),
    "a name too few": ({"ids": np.arange(6)}, "The input has tensors for ids; the model's inputs are"),
    "another dtype": (tensors(ids=np.arange(6.0)), "The input has float64 for 'ids'; the model takes int64"),
    "a batch axis": (tensors(ids=np.arange(6)[None]), r"The input has a tensor of shape \(1, 6\)"),
}


@pytest.mark.parametrize("kind", BY_NAME)
def test_where_arrays_are_the_input_the_mistake_is_the_callers(kind):
    given, message = BY_NAME[kind]
    with pytest.raises(InputError, match=message) as caught:
        prepare(SPEC, NamedArrays(), given)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("n", "message", "hint"),
    [
        (14, "input n of 14; the model is for 2 to 12 in steps of 2", "--shape n=2:6:14"),
        (5, "input n of 5; the model is for 2 to 12 in steps of 2", "a multiple of 2"),
    ],
)
def test_a_size_outside_the_range_is_the_inputs_fault_with_the_shape_to_convert_with(n, message, hint):
    with pytest.raises(InputError, match=message) as caught:
        item_sizes(SPEC, Gives(None), shapes(tensors(n)))
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": np.zeros((6, 4), np.float32)}, r"shape \(6, 4\) for 'features'; one item of it is \(7, 4\)"),
        ({"features": np.zeros((8, 4), np.float32)}, r"shape \(8, 4\) for 'features'"),
    ],
)
def test_shapes_that_contradict_the_specification_are_found(changes, message):
    for preprocess, error in ((Gives(None), AdapterError), (NamedArrays(), InputError)):
        with pytest.raises(error, match=message) as caught:
            item_sizes(SPEC, preprocess, shapes(tensors(**changes)))
        assert caught.value.hint


def test_one_size_under_two_names_is_found():
    spec = ModelSpec("x", SPEC.dims, (TensorSpec("a", ("n",)), TensorSpec("b", ("n",))), SPEC.outputs)
    with pytest.raises(AdapterError, match="n 4 and 6"):
        item_sizes(spec, Gives(None), {"a": (4,), "b": (6,)})


def test_items_are_stacked_where_there_is_a_batch_and_taken_out_again():
    items = [Prepared(tensors(6, ids=np.arange(6) + row)) for row in range(3)]
    feed = collate(SPEC.inputs, items)
    assert {name: value.shape for name, value in feed.items()} == {"ids": (3, 6), "features": (3, 7, 4), "scale": ()}
    np.testing.assert_array_equal(feed["ids"][2], np.arange(6) + 2)
    taken = take_items(SPEC.inputs, feed, [2, 0])
    np.testing.assert_array_equal(taken["ids"][:, 0], [2, 0])
    assert taken["scale"] == 2
    one = take_items(SPEC.outputs, {"scores": np.arange(18).reshape(3, 6), "total": np.arange(2)}, 1)
    np.testing.assert_array_equal(one["scores"], np.arange(6, 12))
    np.testing.assert_array_equal(one["total"], [0, 1])


RESULT = Classification(np.array([0.25, 0.75], np.float32))
RETURNED = {
    "too few": ([RESULT], "returned 1 results for 2 inputs"),
    "too many": ([RESULT] * 3, "returned 3 results for 2 inputs"),
    "one": (RESULT, "returned a Classification instead of results for 2 inputs"),
    "no results": ([{"a": 1}, {"a": 2}], "returned a dict"),
    "nothing": (None, "returned a NoneType"),
}


@pytest.mark.parametrize("kind", RETURNED)
def test_a_decode_owes_one_result_an_input(kind):
    returned, message = RETURNED[kind]
    with pytest.raises(AdapterError, match=message) as caught:
        decode_batch(lambda outputs, metas: returned, {}, [{}, {}])  # type: ignore[arg-type]
    assert caught.value.hint


def test_an_error_in_the_decode_is_blamed_on_it():
    with pytest.raises(AdapterError, match="The decode function raised ZeroDivisionError"):
        decode_batch(lambda outputs, metas: 1 / 0, {}, [{}])  # type: ignore[arg-type,return-value]
