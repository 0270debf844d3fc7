"""load(): images in, results out, whatever their number, kind and size."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support.blobs import BlobNet, Components, Resize, blob_weights, draw_blobs
from support.toy import ToyNet, toy_weights

from convkit import Artifact, Classification, Detections, load
from convkit.artifact import MODEL, publish, staging
from convkit.errors import (
    AdapterError,
    ArtifactError,
    ConversionError,
    EnvironmentProblem,
    ImageError,
    InputError,
    IntegrityError,
    SettingError,
    ValidationError,
)
from convkit.processing import find_decode, synthetic_scenes
from convkit.runtime import Predictor


@pytest.fixture
def predictor(blobs, blob_artifact) -> Iterator[Predictor]:
    with load(blob_artifact) as loaded:
        yield loaded


def republish(artifact: Artifact, target: Path, **changes: object) -> Path:
    """Publish a copy of an artifact with another manifest, properly sealed."""
    with staging(target) as folder:
        shutil.copytree(artifact.path, folder, dirs_exist_ok=True)
        (folder / "manifest.json").unlink()
        manifest = {key: value for key, value in artifact.manifest.items() if key not in ("files", "seal")}
        publish(folder, target, {**manifest, **changes}, overwrite=False)
    return target


def test_a_predictor_finds_what_is_in_the_picture(predictor):
    image, boxes, classes = draw_blobs(11)
    found = predictor(image)
    assert isinstance(found, Detections)
    order = np.lexsort(found.boxes.T)
    expected = np.lexsort(boxes.T)
    np.testing.assert_array_equal(found.boxes[order], boxes[expected])
    np.testing.assert_array_equal(found.class_ids[order], classes[expected])
    assert found.scores.min() > 0.5
    assert [found.class_name(index) for index in (0, 1)] == ["red", "green"]


def test_probabilities_are_those_of_pytorch(toy, toy_artifact):
    net = ToyNet(4).eval()
    net.load_state_dict(toy_weights())
    images = synthetic_scenes(3, seed=9)
    with load(toy_artifact) as predictor:
        results = predictor(images)
    for image, result in zip(images, results, strict=True):
        assert isinstance(result, Classification)
        tensor = cv2.resize(image, (32, 32)).astype(np.float32).transpose(2, 0, 1) / 255
        with torch.no_grad():
            expected = net(torch.from_numpy(tensor)[None])["logits"].softmax(1)[0].numpy()
        np.testing.assert_allclose(result.probabilities, expected, rtol=1e-4)


def test_one_image_gives_a_result_and_a_list_gives_a_list(predictor, tmp_path):
    image = draw_blobs(1)[0]
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), image)
    single = predictor(image)
    assert isinstance(single, Detections)
    listed = predictor([image, str(path), path])
    assert [type(item) for item in listed] == [Detections] * 3
    stacked = predictor(np.stack([image, image]))
    assert len(stacked) == 2
    assert predictor([]) == []


def test_grey_deep_and_transparent_images_are_converted(predictor):
    image = draw_blobs(2)[0]
    expected = predictor(image).boxes
    deep = image.astype(np.uint16) * 257
    transparent = np.dstack([image, np.zeros(image.shape[:2], np.uint8)])
    for variant in (deep, transparent):
        np.testing.assert_array_equal(predictor(variant).boxes, expected)
    assert len(predictor(image[..., 0])) == 0, "grey is neither red nor green"


IN_MEMORY = {
    "a path": lambda image, file: file,
    "a path as text": lambda image, file: str(file),
    "the bytes of a file": lambda image, file: file.read_bytes(),
    "a PIL image": lambda image, file: pytest.importorskip("PIL.Image").open(file),
    "a torch tensor": lambda image, file: torch.from_numpy(image),
    "a NumPy array of another library, by DLPack": lambda image, file: Foreign(image),
}


class Foreign:
    """Pixels in an object of which only the exchange protocol is known."""

    def __init__(self, image: np.ndarray) -> None:
        self.__dlpack__ = image.__dlpack__
        self.__dlpack_device__ = image.__dlpack_device__


@pytest.mark.parametrize("kind", IN_MEMORY)
def test_every_kind_of_image_gives_what_the_array_gives(predictor, tmp_path, kind):
    image = draw_blobs(6)[0]
    cv2.imwrite(str(tmp_path / "a.png"), image)
    given = IN_MEMORY[kind](image, tmp_path / "a.png")
    expected = predictor(image)
    assert len(expected) > 0
    for found in (predictor(given), *predictor([given, given]), *predictor.stream([given])):
        assert found.to_json() == expected.to_json()


REFUSED = {
    "None": (None, "None is no image"),
    "a list with None": ([None], "None is no image"),
    "a number": (3, "int is no image"),
    "a NumPy number": (np.uint8(3), "no pixels|no image"),
    "no pixels": (np.zeros((0, 5, 3), np.uint8), "no pixels"),
    "a scalar": (np.zeros((), np.uint8), "no pixels"),
    "a float array": (np.zeros((4, 4, 3), np.float32), "float32 values"),
    "a tensor with its channels first": (torch.zeros(3, 64, 96, dtype=torch.uint8), "has its channels first"),
    "bytes": ([b"bytes"], "the given bytes is not an image"),
    "an iterator": (iter([np.zeros((4, 4, 3), np.uint8)]), "list_iterator is no image"),
    "a path of nothing": ("nowhere.png", r"There is no image nowhere\.png"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_image_is_refused_by_name_with_a_remedy(predictor, kind):
    value, message = REFUSED[kind]
    with pytest.raises(ImageError, match=message) as caught:
        predictor(value)
    assert caught.value.hint


def test_cv2_imread_of_a_missing_file_is_explained(predictor):
    with pytest.raises(ImageError, match="None is no image") as caught:
        predictor(cv2.imread("nowhere.png"))
    assert "cv2.imread returns None" in caught.value.hint


def test_a_file_of_an_unfit_size_is_named(predictor, tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "tall.png"), np.zeros((160, 96, 3), np.uint8))
    prepares(monkeypatch, height=160, width=96)
    with pytest.raises(InputError, match=r"tall\.png: This needs an input height of 160; .* 48 to 96"):
        predictor([tmp_path / "tall.png"])


def prepares(monkeypatch: pytest.MonkeyPatch, *, height: int, width: int) -> None:
    """Let the preprocess of the rectangle detector resize to another size than its specification names."""
    resize = Resize.__call__
    monkeypatch.setattr(
        Resize, "__call__", lambda self, image: resize(Resize({"height": height, "width": width}), image)
    )


def test_boxes_come_back_in_pixels_of_the_original_image(predictor):
    image, boxes, _ = draw_blobs(4)
    large = cv2.resize(image, None, fx=3, fy=2, interpolation=cv2.INTER_NEAREST)
    found = predictor(large).boxes
    np.testing.assert_allclose(found[np.lexsort(found.T)], (boxes * [3, 2, 3, 2])[np.lexsort(boxes.T)])


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_streaming_in_batches_changes_no_result_and_never_runs_more_than_the_artifact_allows(predictor, batch):
    images = [draw_blobs(seed)[0] for seed in range(7)]
    sizes: list[int] = []
    run = predictor.session.run

    def counting(feed):
        sizes.append(len(feed["images"]))
        return run(feed)

    predictor.session.run = counting
    found = list(predictor.stream(images, batch=batch))
    assert max(sizes) == min(batch, 3)
    assert sum(sizes) == 7
    for image, result in zip(images, found, strict=True):
        np.testing.assert_array_equal(result.boxes, predictor(image).boxes)


def test_a_stream_takes_images_as_it_goes(predictor):
    taken = []

    def source() -> Iterator[np.ndarray]:
        for seed in range(5):
            taken.append(seed)
            yield draw_blobs(seed)[0]

    stream = predictor.stream(source(), batch=2)
    next(stream)
    assert taken == [0, 1]


def test_prepared_images_of_several_sizes_run_in_groups_and_keep_their_order(predictor):
    sizes = [(64, 96), (64, 96), (48, 64), (64, 96)]
    images = [draw_blobs(seed, *size)[0] for seed, size in enumerate(sizes)]
    prepared = [Resize({"height": h, "width": w})(image) for image, (h, w) in zip(images, sizes, strict=True)]
    decode = find_decode(predictor.spec.decode)
    for item, result in zip(prepared, predictor.run(prepared), strict=True):
        maps = pytorch_maps(item.tensors["images"])
        expected = decode({"maps": maps[None]}, [item.meta])[0]
        np.testing.assert_array_equal(result.boxes, expected.boxes)


def pytorch_maps(tensor: np.ndarray) -> np.ndarray:
    """Return what the rectangle detector itself computes for one prepared image."""
    net = BlobNet().eval()
    net.load_state_dict(blob_weights())
    with torch.no_grad():
        return net(torch.from_numpy(tensor)[None])["maps"][0].numpy()


def test_outputs_are_those_of_pytorch_without_the_batch_axis(predictor):
    images = [draw_blobs(seed)[0] for seed in range(4)]
    single = predictor.outputs(images[0])
    several = predictor.outputs(images, batch=3)
    assert list(single) == ["maps"]
    for image, found in zip(images, several, strict=True):
        tensor = predictor.prepare(image).tensors["images"]
        np.testing.assert_allclose(found["maps"], pytorch_maps(tensor), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(single["maps"], several[0]["maps"])
    assert predictor.outputs([]) == []


def test_a_stream_of_outputs_takes_inputs_as_it_goes(predictor):
    taken = []

    def source() -> Iterator[np.ndarray]:
        for seed in range(5):
            taken.append(seed)
            yield draw_blobs(seed)[0]

    stream = predictor.stream_outputs(source(), batch=2)
    next(stream)
    assert taken == [0, 1]
    assert len(list(stream)) == 4


def test_threads_that_share_a_predictor_get_what_one_gets(predictor):
    """Two at a time in the engine would be seen: each run counts who is in it."""
    images = [draw_blobs(seed, *((64, 96) if seed % 2 else (48, 64)))[0] for seed in range(24)]
    expected = [result.to_json() for result in predictor(images)]
    inside, most = [], []
    run = predictor.session.run

    def counting(feed):
        inside.append(1)
        most.append(len(inside))
        try:
            time.sleep(0.001)
            return run(feed)
        finally:
            inside.pop()

    predictor.session.run = counting
    with ThreadPoolExecutor(8) as pool:
        one_by_one = list(pool.map(predictor, images))
        streams = list(pool.map(lambda batch: list(predictor.stream(images, batch=batch)), [1, 2, 3, 3]))
    assert [result.to_json() for result in one_by_one] == expected
    for stream in streams:
        assert [result.to_json() for result in stream] == expected
    assert max(most) == 1


def test_a_decode_that_loses_inputs_is_found_in_every_batch(predictor, monkeypatch):
    decode = Components.__call__
    monkeypatch.setattr(Components, "__call__", lambda self, outputs, metas: decode(self, outputs, metas)[:1])
    images = [draw_blobs(seed)[0] for seed in range(3)]
    assert len(list(predictor.stream(images, batch=1))) == 3
    with pytest.raises(AdapterError, match="1 results for 3 inputs"):
        list(predictor.stream(images, batch=3))


@pytest.mark.parametrize("size", [(160, 96), (32, 96), (64, 160), (56, 96)])
def test_an_input_size_outside_the_proved_range_is_refused_with_the_shape_to_convert_with(predictor, size, monkeypatch):
    prepares(monkeypatch, height=size[0], width=size[1])
    name, value = ("height", size[0]) if size[0] != 64 else ("width", size[1])
    with pytest.raises(InputError, match=f"input {name} of {value}") as caught:
        predictor(draw_blobs(0)[0])
    assert (f"--shape {name}=" if value % 16 == 0 else "a multiple of 16") in caught.value.hint


def test_a_smallest_batch_of_more_than_one_is_filled_up(blobs, blob_artifact, tmp_path):
    """Engines may be built for batches of at least two; the copies that fill them give no results."""
    model = json.loads(json.dumps(blob_artifact.manifest["model"]))
    model["dims"][0].update(min=2, opt=2)
    target = republish(blob_artifact, tmp_path / "two", model=model)
    with load(target) as predictor:
        run = predictor.session.run
        sizes: list[int] = []

        def counting(feed):
            sizes.append(len(feed["images"]))
            return run(feed)

        predictor.session.run = counting
        found = predictor([draw_blobs(seed)[0] for seed in range(3)])
    assert len(found) == 3
    assert min(sizes) >= 2
    for seed, result in enumerate(found):
        assert len(result) == len(draw_blobs(seed)[1])


def test_the_predictor_tells_what_it_is(predictor):
    assert repr(predictor).startswith("Predictor(blobs")
    assert (predictor.batch_min, predictor.batch_max) == (1, 3)


def test_what_is_no_artifact_or_was_changed_is_not_loaded(blobs, blob_artifact, tmp_path):
    with pytest.raises(ArtifactError):
        load(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(blob_artifact.path, copy)
    (copy / "report.html").write_text("changed")
    with pytest.raises(IntegrityError, match=r"report\.html"):
        load(copy)
    load(copy, verify=False).close()
    (copy / MODEL).write_bytes(b"junk")
    with pytest.raises(IntegrityError, match=MODEL):
        load(copy)


def test_a_rejected_artifact_is_not_loaded(blobs, blob_artifact, tmp_path):
    verdict = {"passed": False, "headline": "NOT proved: 1 of 9 checks failed"}
    rejected = republish(blob_artifact, tmp_path / "out.rejected", verdict=verdict)
    with pytest.raises(ValidationError, match="NOT proved: 1 of 9") as caught:
        load(rejected)
    assert "convkit validate" in caught.value.hint


def test_without_the_plugin_of_its_adapter_an_artifact_says_what_to_install(blob_artifact):
    with pytest.raises(ConversionError, match=r"'blobs\.resize'") as caught:
        load(blob_artifact)
    assert "plugin" in caught.value.hint


def test_an_unknown_backend_or_device_is_refused(blobs, blob_artifact):
    with pytest.raises(SettingError, match="'onnx'"):
        load(blob_artifact, backend="onnx")
    with pytest.raises(EnvironmentProblem, match="'cuda:0'"):
        load(blob_artifact, device="cuda:0")
