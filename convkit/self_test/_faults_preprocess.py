"""Faults before the engine: a raw input becomes other tensors than those that were proved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from convkit.processing import Prepared, Preprocess
from convkit.self_test._fault import Fault, Site
from convkit.self_test._subject import Subject

if TYPE_CHECKING:
    from convkit.self_test._judge import Judge

__all__ = ["PREPROCESS_FAULTS"]

Tensors = Mapping[str, np.ndarray]
Sites = Callable[["Judge", np.random.Generator], Iterator[Site]]


class _Spoilt(Preprocess):
    """A preprocess with a fault before it, around it or behind it."""

    def __init__(
        self,
        inner: Preprocess,
        raw: Callable[[Any], Any] = lambda raw: raw,
        after: Callable[[Prepared], Prepared] = lambda prepared: prepared,
        around: Callable[[], Any] | None = None,
    ) -> None:
        self.reader = inner.reader  # type: ignore[misc]
        self._inner, self._raw, self._after, self._around = inner, raw, after, around

    def __call__(self, raw: Any) -> Prepared:
        """Return what a preprocess with the fault makes of a raw input."""
        if self._around is None:
            return self._after(self._inner(self._raw(raw)))
        with self._around():
            return self._after(self._inner(self._raw(raw)))


def _site(where: str, **spoilt: Any) -> Site:
    return Site(where, lambda: Subject(preprocess=lambda inner: _Spoilt(inner, **spoilt)))


def _is_image(raw: Any) -> bool:
    return isinstance(raw, np.ndarray) and raw.dtype == np.uint8 and raw.ndim == 3 and raw.shape[2] == 3


def _of_images(change: Callable[[np.ndarray], np.ndarray]) -> Sites:
    """Return the site of a change of the raw images."""

    def sites(judge: Judge, rng: np.random.Generator) -> Iterator[Site]:
        del rng
        if judge.spec.preprocess and judge.golden.raws and all(_is_image(raw) for raw in judge.golden.raws):
            yield _site("raw images", raw=lambda raw: np.ascontiguousarray(change(raw)))

    return sites


def _of_tensors(
    change: Callable[[np.ndarray], np.ndarray], applies: Callable[[np.ndarray], bool] = lambda value: True
) -> Sites:
    """Return a site for each input tensor that ``applies``: what the preprocess returns is changed."""

    def sites(judge: Judge, rng: np.random.Generator) -> Iterator[Site]:
        del rng
        if not judge.spec.preprocess:
            return
        first = next(iter(judge.golden.samples.prepared.values()))[0]
        for name, value in first.tensors.items():
            if applies(value):

                def after(prepared: Prepared, name: str = name) -> Prepared:
                    value = prepared.tensors[name]
                    changed = np.ascontiguousarray(change(value)).astype(value.dtype)
                    return Prepared({**prepared.tensors, name: changed}, prepared.meta)

                yield _site(f"input {name}", after=after)

    return sites


def _is_float(value: np.ndarray) -> bool:
    return np.issubdtype(value.dtype, np.floating)


def _is_planes(value: np.ndarray) -> bool:
    return _is_float(value) and value.ndim == 3 and value.shape[0] in (2, 3, 4)


def _is_square(value: np.ndarray) -> bool:
    return value.ndim >= 2 and value.shape[-1] == value.shape[-2] > 1


def _is_ids(value: np.ndarray) -> bool:
    return np.issubdtype(value.dtype, np.integer) and value.size > 1


def _moved(image: np.ndarray) -> np.ndarray:
    matrix = np.array([[1, 0, 0.5], [0, 1, 0.5]], np.float32)
    return np.asarray(cv2.warpAffine(image, matrix, image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE))


def _stretched(image: np.ndarray) -> np.ndarray:
    side = max(image.shape[:2])
    return np.asarray(cv2.resize(image, (side, side)))


def _compressed(image: np.ndarray) -> np.ndarray:
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))


@contextmanager
def _opencv(**changed: Any) -> Iterator[None]:
    """Let OpenCV's geometric functions be called with other settings."""
    originals = {name: getattr(cv2, name) for name in ("warpAffine", "resize", "warpPerspective", "copyMakeBorder")}

    def replaced(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **settings: Any) -> Any:
            if "interpolation" in changed and name != "copyMakeBorder":
                key = "interpolation" if name == "resize" else "flags"
                settings[key] = changed["interpolation"] | (settings.get(key, 0) & ~cv2.INTER_MAX)
            if "border" in changed and name != "resize":
                settings["value" if name == "copyMakeBorder" else "borderValue"] = changed["border"]
            return originals[name](*arguments, **settings)

        return call

    try:
        for name in originals:
            setattr(cv2, name, replaced(name))
        yield
    finally:
        for name, original in originals.items():
            setattr(cv2, name, original)


def _with_opencv(**changed: Any) -> Sites:
    def sites(judge: Judge, rng: np.random.Generator) -> Iterator[Site]:
        del rng
        if judge.spec.preprocess:
            yield _site("OpenCV's warps and resizes", around=lambda: _opencv(**changed))

    return sites


def _specified(judge: Judge, rng: np.random.Generator) -> Iterator[Site]:
    """The mean and the standard deviation that the specification names, backwards or exchanged."""
    del rng
    spec = judge.spec.preprocess
    for mean, std in (("mean", "std"), ("means", "stds")):
        if mean not in spec or std not in spec:
            continue
        changes = {"exchanged": {mean: spec[std], std: spec[mean]}}
        if isinstance(spec[mean], list | tuple):
            changes["backwards"] = {mean: list(spec[mean])[::-1], std: list(spec[std])[::-1]}
        for what, change in changes.items():
            yield Site(f"{mean} and {std} {what}", lambda change=change: Subject(specified=change))  # type: ignore[misc]


def _meta_off(judge: Judge, rng: np.random.Generator) -> Iterator[Site]:
    """Numbers that map results back to the raw input, each off by a twentieth."""
    del rng
    if not judge.spec.preprocess:
        return
    first = next(iter(judge.golden.samples.prepared.values()))[0]
    for key, value in first.meta.items():
        numbers = value if isinstance(value, list) else [value]
        if numbers and all(isinstance(number, float) for number in numbers):

            def after(prepared: Prepared, key: str = key) -> Prepared:
                old = prepared.meta[key]
                new = [1.05 * number for number in old] if isinstance(old, list) else 1.05 * old
                return Prepared(prepared.tensors, {**prepared.meta, key: new})

            yield _site(f"meta {key}", after=after)


def _one_buffer(judge: Judge, rng: np.random.Generator) -> Iterator[Site]:
    """A preprocess that returns the same array each time, so that a batch contains one input many times."""
    del rng
    if not judge.spec.preprocess or len(judge.golden.raws) < 2:
        return

    def plant() -> Subject:
        buffers: dict[tuple[object, ...], np.ndarray] = {}

        def after(prepared: Prepared) -> Prepared:
            tensors = {}
            for name, value in prepared.tensors.items():
                buffer = buffers.setdefault((name, value.shape), np.empty_like(value))
                buffer[...] = value
                tensors[name] = buffer
            return Prepared(tensors, prepared.meta)

        return Subject(preprocess=lambda inner: _Spoilt(inner, after=after))

    yield Site("all inputs", plant)


def _fault(kind: str, cause: str, sites: Sites) -> Fault:
    return Fault(kind, "preprocess", cause, sites)


PREPROCESS_FAULTS: tuple[Fault, ...] = (
    _fault("RGB for BGR", "images were read by another library", _of_images(lambda image: image[..., ::-1])),
    _fault("mean off", "a mean from other data", _of_tensors(lambda value: value + 0.05 * value.std(), _is_float)),
    _fault("std off", "a standard deviation from other data", _of_tensors(lambda value: value * 1.05, _is_float)),
    _fault("not divided by 255", "pixels on another scale", _of_tensors(lambda value: value * 255, _is_float)),
    _fault("divided by 255 twice", "pixels on another scale", _of_tensors(lambda value: value / 255, _is_float)),
    _fault("divided by 256", "a shift for a division", _of_tensors(lambda value: value * (255 / 256), _is_float)),
    _fault("image compressed again", "written as JPEG on its way", _of_images(_compressed)),
    _fault("mean and std mixed up", "in the order of another colour space, or exchanged", _specified),
    _fault("half-pixel shift of the image", "another convention of where pixels lie", _of_images(_moved)),
    _fault(
        "input shifted by one pixel",
        "an index that counts from 1",
        _of_tensors(lambda value: np.roll(value, 1, -1), lambda value: value.ndim >= 2 and value.shape[-1] > 1),
    ),
    _fault("image mirrored", "augmentation of the training left on", _of_images(lambda image: image[:, ::-1])),
    _fault("image upside down", "the EXIF orientation ignored", _of_images(lambda image: image[::-1, ::-1])),
    _fault("input transposed", "width and height exchanged", _of_tensors(lambda v: v.swapaxes(-1, -2), _is_square)),
    _fault("wrong interpolation", "nearest for linear", _with_opencv(interpolation=cv2.INTER_NEAREST)),
    _fault("border of another colour", "grey for black", _with_opencv(border=(114, 114, 114))),
    _fault("stretched instead of letterboxed", "the aspect ratio is not kept", _of_images(_stretched)),
    _fault(
        "channels-last memory read as planes",
        "a layout that nobody converted",
        _of_tensors(lambda value: value.transpose(1, 2, 0).reshape(value.shape), _is_planes),
    ),
    _fault(
        "ids counted from 1",
        "the vocabulary of another tokenizer",
        _of_tensors(lambda v: np.maximum(v - 1, 0), _is_ids),
    ),
    _fault("frame of the results off", "the inverse of the letterbox is wrong", _meta_off),
    _fault("one buffer for all inputs", "the array is used again before the engine read it", _one_buffer),
)
"""Kinds of fault between the raw input and the tensors."""
