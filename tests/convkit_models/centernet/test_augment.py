"""Test-time augmentation: the views against the original's steps, and whole artifacts with them."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pytest

from convkit import Prepared, load
from convkit.errors import ImageError, InputError, NotFiniteError, SettingError
from convkit.processing import find_decode, find_preprocess, synthetic_scenes
from convkit_models.centernet._augment import Augmentation, AugmentedAffine
from convkit_models.centernet._preprocess import Affine

MEAN, STD = (0.40789654, 0.44719302, 0.47026115), (0.28863828, 0.27408164, 0.27809835)
SCALES = (0.5, 1.0, 1.5)


def spec(resize: str, size: int | None = 64) -> dict[str, Any]:
    return {"resize": resize, "height": size, "width": size, "pad": 31, "mean": MEAN, "std": STD}


def official(image: np.ndarray, scale: float, resize: str) -> tuple[np.ndarray, list[float], float]:
    """Return tensor, centre and side for one scale, step by step: resize, place, warp, normalise."""
    rows, columns = image.shape[:2]
    high, wide = int(rows * scale), int(columns * scale)
    resized = cv2.resize(image, (wide, high))
    if resize == "fix_res":
        size, centre, side = (64, 64), [wide / 2.0, high / 2.0], float(max(rows, columns))
    else:
        size = ((wide | 31) + 1, (high | 31) + 1)
        centre, side = [float(wide // 2), float(high // 2)], float(size[0])
    ratio = size[0] / side
    matrix = np.array([[ratio, 0, size[0] / 2 - ratio * centre[0]], [0, ratio, size[1] / 2 - ratio * centre[1]]])
    warped = cv2.warpAffine(resized, matrix, size, flags=cv2.INTER_LINEAR)
    tensor = ((warped / 255.0 - np.float32(MEAN)) / np.float32(STD)).astype(np.float32)
    return tensor.transpose(2, 0, 1), centre, side


@pytest.mark.parametrize("resize", ["fix_res", "keep_res"])
def test_views_are_those_of_the_original(resize: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (52, 76, 3), np.uint8)
    host = Affine(spec(resize, 64 if resize == "fix_res" else None))
    prepared = host.augmented({"flip": "yes", "scales": "0.5,1,1.5"})(image)
    views = [prepared, *prepared.views]
    assert len(views) == 6
    for index, scale in enumerate(SCALES):
        tensor, centre, side = official(image, scale, resize)
        for flipped in (False, True):
            view = views[2 * index + flipped]
            wanted = tensor[:, :, ::-1] if flipped else tensor
            near = np.abs(view.tensors["images"] - wanted) * np.float32(STD)[:, None, None] * 255
            assert view.tensors["images"].shape == wanted.shape
            assert near.max() <= 1.01  # one step of a pixel where the corners of the map were rounded
            assert (near > 0.01).mean() < 0.05
            assert view.meta["center"] == centre
            assert (view.meta["scale"], view.meta["flipped"], view.meta["test_scale"]) == (side, flipped, scale)
    plain = host(image)
    np.testing.assert_array_equal(views[2].tensors["images"], plain.tensors["images"])
    assert {**views[2].meta, **plain.meta} == views[2].meta


def test_an_image_without_pixels_at_a_scale_is_refused() -> None:
    with pytest.raises(ImageError, match=r"At the scale 0\.1 .* has none"):
        Affine(spec("fix_res")).augmented({"scales": "1,0.1"})(np.zeros((8, 40, 3), np.uint8))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flp": "yes"}, "no augmentation 'flp'"),
        ({"flip": "maybe"}, "flip cannot be 'maybe'"),
        ({"flip": "no"}, "change nothing"),
        ({"scales": "1"}, "change nothing"),
        ({"scales": "1,x"}, "scales cannot be"),
        ({"scales": "0,1"}, "scales cannot be"),
        ({"scales": "nan"}, "scales cannot be"),
        ({"scales": "1,9"}, "scales cannot be"),
        ({"scales": "1,1.0"}, "twice"),
        ({"flip": "yes", "suppression": "hard"}, "suppression cannot be"),
    ],
)
def test_settings_that_cannot_be_obeyed_are_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        Augmentation.of(settings)
    assert caught.value.hint


def test_settings_are_texts_or_values() -> None:
    assert Augmentation.of({"flip": True, "scales": [0.5, 1]}) == Augmentation.of({"flip": "yes", "scales": "0.5,1"})
    assert Augmentation.of({"flip": "yes", "scales": "0.5,1"}).views == 4


def test_boxes_in_space_have_none() -> None:
    assert Affine({**spec("fix_res"), "side": "width"}).augmented({"flip": "yes"}) is None


def test_an_artifact_runs_image_and_mirror_as_one_batch(narrow_artifact) -> None:
    images = synthetic_scenes(3, seed=5)
    with load(narrow_artifact.path, augment={"flip": "yes"}) as predictor:
        batches = []
        run = predictor.session.run
        predictor.session.run = lambda feed: batches.append(len(feed["images"])) or run(feed)  # type: ignore[method-assign]
        found = predictor(images)
        assert batches == [2, 2, 2]
        assert "joined" in predictor.coverage.note
        spec = predictor.spec
        preprocess, decode = find_preprocess(spec.preprocess), find_decode(spec.decode)
        join = decode.joining({"flip": "yes"})
        for image, result in zip(images, found, strict=True):
            plain = preprocess(image)
            tensor = plain.tensors["images"]
            outputs = run({"images": np.stack([tensor, tensor[:, :, ::-1]])})
            views = [{name: value[index] for name, value in outputs.items()} for index in range(2)]
            expected = join(views, [{**plain.meta, "test_scale": 1.0}] * 2)
            np.testing.assert_array_equal(result.boxes, expected.boxes)
            np.testing.assert_array_equal(result.scores, expected.scores)
            alone = decode({name: value[:1] for name, value in outputs.items()}, [plain.meta])[0]
            assert not np.array_equal(result.scores, alone.scores)
        with pytest.raises(SettingError, match="several views"):
            predictor.outputs(images[0])


def test_the_proved_sizes_hold_for_every_view(narrow_artifact, monkeypatch) -> None:
    image = synthetic_scenes(1, seed=5)[0]
    with load(narrow_artifact.path, augment={"scales": (1, 0.5)}) as predictor:
        prepare = AugmentedAffine.__call__

        def larger(self: AugmentedAffine, raw: np.ndarray) -> Any:
            prepared = prepare(self, raw)
            view = Prepared({"images": np.zeros((3, 160, 160), np.float32)}, prepared.views[0].meta)
            return Prepared(prepared.tensors, prepared.meta, (view,))

        monkeypatch.setattr(AugmentedAffine, "__call__", larger)
        with pytest.raises(InputError, match="needs an input height of 160"):
            predictor.prepare(image)


def test_no_number_in_a_view_names_the_input(narrow_artifact) -> None:
    images = synthetic_scenes(2, seed=5)
    with load(narrow_artifact.path, augment={"flip": "yes"}) as predictor:
        run, count = predictor.session.run, iter(range(9))

        def broken(feed: Any) -> Any:
            outputs = run(feed)
            if next(count) == 1:
                outputs["wh"][1, 0, 0, 0] = math.nan
            return outputs

        predictor.session.run = broken  # type: ignore[method-assign]
        with pytest.raises(NotFiniteError, match="input 2"):
            predictor(images)


def test_another_model_has_none(blobs, blob_artifact) -> None:
    with pytest.raises(SettingError, match="no test-time augmentation"):
        load(blob_artifact.path, augment={"flip": "yes"})
