"""Checks of preprocess and decode."""

from __future__ import annotations

import copy
import json
import reprlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from convkit.artifact import spec_from_manifest, spec_to_json
from convkit.errors import InputError
from convkit.model import BATCH
from convkit.processing import (
    Decode,
    ImageReader,
    Preprocess,
    collate,
    decode_batch,
    find_decode,
    find_preprocess,
    item_sizes,
    prepare,
    take_items,
)
from convkit.proof import Samples, TorchCompute, shape_cases
from convkit.testing._fixtures import Fixtures

if TYPE_CHECKING:
    from convkit.model import SourceModel
    from convkit.testing._subject import Subject

__all__ = ["ProcessingChecks", "odd_inputs", "reference_outputs", "what"]

ODD_SIZES = ((37, 53), (240, 11), (9, 310), (1, 1))
"""Heights and widths in pixels that no one trains with."""


class ProcessingChecks(Fixtures):
    """What the hooks ``convkit_preprocess`` and ``convkit_decode`` promise."""

    def test_preprocess_gives_the_declared_tensors(
        self, subject: Subject, source: SourceModel, raws: Sequence[Any]
    ) -> None:
        """A failure means that an engine would be fed other tensors than the model takes.

        Return every input under its name, in its dtype, without the batch axis, in the size that the specification
        names; for images of any size. Only a model whose sizes vary may refuse an image, as too small or too large.
        """
        spec = source.spec
        preprocess = find_preprocess(spec.preprocess)
        varies = any(dim.dynamic for dim in spec.dims if dim.name != BATCH)
        for number, raw in enumerate((*raws, *odd_inputs(preprocess))):
            prepared = prepare(spec, preprocess, raw)
            for name, tensor in prepared.tensors.items():
                finite = not np.issubdtype(tensor.dtype, np.floating) or np.isfinite(tensor).all()
                assert finite, f"{what(raw)} gave values for {name!r} that are not finite"
            with nullcontext() if number < len(raws) or not varies else suppress(InputError):
                item_sizes(spec, preprocess, {name: tensor.shape for name, tensor in prepared.tensors.items()})
            _assert_json(prepared.meta, f"the meta of {what(raw)}")

    def test_preprocess_is_deterministic(self, subject: Subject, source: SourceModel, raws: Sequence[Any]) -> None:
        """A failure means that one input gives two results, or that preprocessing changes the caller's input."""
        preprocess = find_preprocess(source.spec.preprocess)
        for raw in (*raws, *odd_inputs(preprocess)):
            original = copy.deepcopy(raw)
            first, second = preprocess(raw), preprocess(raw)
            np.testing.assert_equal(raw, original, err_msg="preprocess wrote into its input")
            np.testing.assert_equal(dict(second.tensors), dict(first.tensors), err_msg="two runs differ")
            assert first.meta == second.meta, "two runs give different metas"

    def test_inputs_survive_a_file(
        self, subject: Subject, source: SourceModel, raws: Sequence[Any], tmp_path: Path
    ) -> None:
        """A failure means that the artifact's golden samples are not the inputs of its proof.

        Give the preprocess a ``reader`` whose ``write`` and ``read`` return what they got.
        """
        reader = find_preprocess(source.spec.preprocess).reader
        for index, raw in enumerate(raws):
            file = reader.write(raw, tmp_path / f"input_{index}")
            np.testing.assert_equal(reader.read(file), raw, err_msg=f"{file.name} reads back as another input")

    def test_decode_gives_one_result_an_input(self, subject: Subject, source: SourceModel, raws: Sequence[Any]) -> None:
        """A failure means that ``convkit run`` cannot print or draw what the model found.

        Return objects of a class from `convkit.Result`, such as `Detections` and `Classification`.
        """
        decode = _decode(subject, source)
        outputs, metas = reference_outputs(source, subject.samples(source, raws))
        for result, raw in zip(decode_batch(decode, outputs, metas), raws, strict=True):
            _assert_json(result.to_json(), "to_json()")
            assert result.summary().strip(), "summary() is empty"
            assert "\n" not in result.summary(), "summary() has several lines"
            same = result.compare(result)
            assert not same.unexplained, f"a result differs from itself: {same.note}"
            original = copy.deepcopy(raw)
            drawn = result.draw(raw)
            np.testing.assert_equal(raw, original, err_msg="draw() wrote into the input")
            if drawn is not None:
                assert drawn.dtype == np.uint8, f"draw() returned {drawn.dtype}"
                assert drawn.ndim == 3, f"draw() returned the shape {drawn.shape}"

    def test_decode_is_deterministic(self, subject: Subject, source: SourceModel, raws: Sequence[Any]) -> None:
        """A failure means that decoding depends on more than the outputs, or writes into them.

        The result of one input may not depend on the others in its batch, either.
        """
        decode, spec = _decode(subject, source), source.spec
        outputs, metas = reference_outputs(source, subject.samples(source, raws))
        copies = {name: value.copy() for name, value in outputs.items()}
        first = [result.to_json() for result in decode(outputs, metas)]
        for name, value in outputs.items():
            np.testing.assert_array_equal(value, copies[name], err_msg=f"decode wrote into {name}")
        backwards = decode(take_items(spec.outputs, outputs, slice(None, None, -1)), metas[::-1])
        assert [result.to_json() for result in backwards][::-1] == first, "the batch in reverse gives other results"
        single = [
            decode(take_items(spec.outputs, outputs, slice(row, row + 1)), [meta])[0].to_json()
            for row, meta in enumerate(metas)
        ]
        assert single == first, "inputs one by one give other results than in a batch"

    def test_specification_survives_the_manifest(
        self, subject: Subject, source: SourceModel, raws: Sequence[Any]
    ) -> None:
        """A failure means that a loaded artifact works otherwise than the conversion did.

        Let preprocess and decode read everything from their specification, as JSON gives it back
        (lists for tuples, strings for keys).
        """
        text = json.dumps({"model": spec_to_json(source.spec)})
        returned = spec_from_manifest(json.loads(text))
        assert json.dumps({"model": spec_to_json(returned)}) == text, "the specification reads back as another one"
        for name in ("variant", "dims", "inputs", "outputs", "classes"):
            assert getattr(returned, name) == getattr(source.spec, name), f"{name} reads back as another one"
        preprocesses = [find_preprocess(spec.preprocess) for spec in (source.spec, returned)]
        for raw in raws:
            first, second = (dict(preprocess(raw).tensors) for preprocess in preprocesses)
            np.testing.assert_equal(second, first, err_msg="the preprocess that was read back differs")
        outputs, metas = reference_outputs(source, subject.samples(source, raws))
        decodes = [find_decode(spec.decode) for spec in (source.spec, returned)]
        found = [[result.to_json() for result in decode(outputs, metas)] for decode in decodes if decode]
        assert not found or found[0] == found[1], "the decode that was read back differs"


def _decode(subject: Subject, source: SourceModel) -> Decode:
    """Return the decode of the model; a check of it does not concern a model without one."""
    decode = subject.decode(source)
    if decode is None:
        pytest.skip("the model has no decode")
    return decode


def reference_outputs(source: SourceModel, samples: Samples) -> tuple[dict[str, np.ndarray], list[Mapping[str, Any]]]:
    """Return PyTorch's outputs for every input in one batch, and the metas."""
    items = samples.prepared[shape_cases(source.spec.dims)[0].item_sizes]
    compute = TorchCompute(source, source.module, "float32")
    return compute(collate(source.spec.inputs, items)), [item.meta for item in items]


def odd_inputs(preprocess: Preprocess) -> list[Any]:
    """Return images of sizes that nobody trains with, for a preprocess that takes images."""
    if not isinstance(preprocess.reader, ImageReader):
        return []
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in ODD_SIZES]


def what(raw: Any) -> str:
    """Return what to call a raw input in a message."""
    return f"an input of shape {raw.shape}" if isinstance(raw, np.ndarray) else f"the input {reprlib.repr(raw)}"


def _assert_json(value: Any, what: str) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{what} is not JSON: {error}") from error
