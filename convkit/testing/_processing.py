"""Checks of preprocess and decode."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit.artifact import spec_from_manifest, spec_to_json
from convkit.processing import find_decode, find_preprocess
from convkit.proof import shape_cases
from convkit.results import Result
from convkit.testing._fixtures import Fixtures

if TYPE_CHECKING:
    from convkit.model import ModelSpec, SourceModel
    from convkit.processing import Prepared
    from convkit.testing._subject import Subject

__all__ = ["ProcessingChecks"]

ODD_SIZES = ((37, 53), (240, 11), (9, 310), (1, 1))
"""Heights and widths in pixels that no one trains with."""


class ProcessingChecks(Fixtures):
    """What the hooks ``convkit_preprocess`` and ``convkit_decode`` promise."""

    def test_preprocess_gives_the_declared_tensor(
        self, subject: Subject, source: SourceModel, images: Sequence[np.ndarray]
    ) -> None:
        """A failure means that an engine would be fed another tensor than the model takes.

        Return float32, C x H x W, in the size that the specification names, for images of any size.
        """
        spec = source.spec
        preprocess = find_preprocess(subject.adapter.name, spec.preprocess)
        dims = {dim.name: dim for dim in spec.dims}
        for image in (*images, *_odd_images()):
            prepared = preprocess(image)
            what = f"an image of {image.shape[0]} x {image.shape[1]}"
            assert prepared.tensor.dtype == np.float32, f"{what} gave {prepared.tensor.dtype}"
            assert np.isfinite(prepared.tensor).all(), f"{what} gave values that are not finite"
            shape, declared = prepared.tensor.shape, spec.inputs[0].shape[1:]
            assert len(shape) == len(declared), f"{what} gave the shape {shape}; the spec declares {declared}"
            for size, extent in zip(shape, declared, strict=True):
                dim = dims.get(extent) if isinstance(extent, str) else None
                good = (
                    size == extent if dim is None else size % dim.multiple_of == 0 and (dim.dynamic or size == dim.opt)
                )
                assert good, f"{what} gave the shape {shape}; the spec declares {declared}, {dim or ''}"
            _assert_json(prepared.meta, f"the meta of {what}")

    def test_preprocess_is_deterministic(
        self, subject: Subject, source: SourceModel, images: Sequence[np.ndarray]
    ) -> None:
        """A failure means that one image gives two results, or that preprocessing changes the caller's image."""
        preprocess = find_preprocess(subject.adapter.name, source.spec.preprocess)
        for image in (*images, *_odd_images()):
            original = image.copy()
            first, second = preprocess(image), preprocess(image)
            np.testing.assert_array_equal(image, original, err_msg="preprocess wrote into the image")
            np.testing.assert_array_equal(first.tensor, second.tensor, err_msg="two runs differ")
            assert first.meta == second.meta, "two runs give different metas"

    def test_decode_gives_one_result_an_image(
        self, subject: Subject, source: SourceModel, images: Sequence[np.ndarray]
    ) -> None:
        """A failure means that ``convkit run`` cannot print or draw what the model found.

        Return objects with the methods of `convkit.Result`; `Detections` and `Classification` have them.
        """
        outputs, metas = _outputs(subject, source, images)
        decode = subject.decode(source)
        assert decode is not None, f"no plugin decodes {source.spec.decode.get('kind')!r}: see the hook convkit_decode"
        results = decode(outputs, metas)
        assert len(results) == len(metas), f"{len(metas)} images gave {len(results)} results"
        for result, image in zip(results, images, strict=True):
            assert isinstance(result, Result), f"{type(result).__name__} lacks a method of convkit.Result"
            _assert_json(result.to_json(), "to_json()")
            assert result.summary().strip(), "summary() is empty"
            assert "\n" not in result.summary(), "summary() has several lines"
            original = image.copy()
            drawn = result.draw(image)
            np.testing.assert_array_equal(image, original, err_msg="draw() wrote into the image")
            assert drawn.shape == image.shape, f"draw() returned {drawn.shape} for an image of {image.shape}"
            assert drawn.dtype == np.uint8, f"draw() returned {drawn.dtype}"

    def test_decode_is_deterministic(self, subject: Subject, source: SourceModel, images: Sequence[np.ndarray]) -> None:
        """A failure means that decoding depends on more than the outputs, or writes into them.

        The same for the order: an image's result may not depend on the others in its batch.
        """
        outputs, metas = _outputs(subject, source, images)
        decode = subject.decode(source)
        assert decode is not None, f"no plugin decodes {source.spec.decode.get('kind')!r}"
        copies = {name: value.copy() for name, value in outputs.items()}
        first = [result.to_json() for result in decode(outputs, metas)]
        for name, value in outputs.items():
            np.testing.assert_array_equal(value, copies[name], err_msg=f"decode wrote into {name}")
        reverse = {name: np.ascontiguousarray(value[::-1]) for name, value in outputs.items()}
        backwards = [result.to_json() for result in decode(reverse, metas[::-1])]
        assert backwards[::-1] == first, "the batch in reverse gives other results"
        single = [
            decode({name: value[row : row + 1] for name, value in outputs.items()}, [meta])[0].to_json()
            for row, meta in enumerate(metas)
        ]
        assert single == first, "images one by one give other results than in a batch"

    def test_specification_survives_the_manifest(
        self, subject: Subject, source: SourceModel, images: Sequence[np.ndarray]
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
        for image in images:
            first, second = (_prepare(subject, spec, image).tensor for spec in (source.spec, returned))
            np.testing.assert_array_equal(first, second, err_msg="the preprocess that was read back differs")
        outputs, metas = _outputs(subject, source, images)
        decodes = [find_decode(subject.adapter.name, spec.decode) for spec in (source.spec, returned)]
        found = [[result.to_json() for result in decode(outputs, metas)] for decode in decodes if decode]
        assert len(found) == 2, f"no plugin decodes {source.spec.decode.get('kind')!r}"
        assert found[0] == found[1], "the decode that was read back differs"


def _prepare(subject: Subject, spec: ModelSpec, image: np.ndarray) -> Prepared:
    return find_preprocess(subject.adapter.name, spec.preprocess)(image)


def _outputs(
    subject: Subject, source: SourceModel, images: Sequence[np.ndarray]
) -> tuple[dict[str, np.ndarray], list[Mapping[str, Any]]]:
    """Return PyTorch's outputs for every image in one batch, and the metas."""
    import torch

    items = subject.samples(source, images).prepared[shape_cases(source.spec.dims)[0].picture]
    with torch.no_grad():
        rows = [
            source.reference(source.module, {source.spec.inputs[0].name: torch.from_numpy(item.tensor[None])})
            for item in items
        ]
    return {name: np.concatenate([row[name].numpy() for row in rows]) for name in rows[0]}, [i.meta for i in items]


def _odd_images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in ODD_SIZES]


def _assert_json(value: Any, what: str) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{what} is not JSON: {error}") from error
