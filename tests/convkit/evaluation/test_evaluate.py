"""AP of an artifact: the figures of pycocotools, the mapping of classes, and memory that does not grow."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.blobs import BlobAdapter, blob_weights, write_coco
from support.mutants import resealed

from convkit import load
from convkit.artifact import weights_record
from convkit.errors import AdapterError, ConversionError, EnvironmentProblem, ImageError, SettingError
from convkit.evaluation import (
    METRICS,
    CocoFiles,
    EvaluationOptions,
    EvaluationReport,
    evaluate_artifact,
    evaluate_artifacts,
)
from convkit.evaluation._annotations import Annotations, read_annotations
from convkit.evaluation._categories import category_ids
from convkit.evaluation._coco_schema import MOST_BYTES
from convkit.evaluation._image_files import find_images

COCO = pytest.importorskip("pycocotools.coco").COCO
COCOeval = pytest.importorskip("pycocotools.cocoeval").COCOeval
IDS = {"green": 3, "red": 7}
"""Category ids in another order than the classes of the network."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write twelve images whose annotated boxes are off by up to four pixels, so that AP is neither 0 nor 1."""
    folder = tmp_path_factory.mktemp("coco")
    write_coco(folder, 12, categories=IDS, jitter=4)
    return folder


def by_hand(artifact: Path, folder: Path, ids: list[int] | None = None) -> list[float]:
    """Write the results file that COCO asks for and let pycocotools judge it."""
    document = json.loads((folder / "annotations.json").read_text())
    results = []
    with load(artifact) as predictor:
        for image in document["images"]:
            found = predictor(folder / "images" / image["file_name"])
            for (x1, y1, x2, y2), score, class_id in zip(
                found.boxes.tolist(), found.scores.tolist(), found.class_ids.tolist(), strict=True
            ):
                category = {0: 7, 1: 3}[class_id]
                box = [x1, y1, x2 - x1, y2 - y1]
                results.append({"image_id": image["id"], "category_id": category, "bbox": box, "score": score})
    (folder / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "annotations.json"))
        judge = COCOeval(truth, truth.loadRes(str(folder / "results.json")), "bbox")
        if ids:
            judge.params.imgIds = ids
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats.tolist()


def test_all_twelve_figures_equal_a_hand_made_evaluation(blobs, blob_artifact, dataset):
    report = evaluate_artifact(blob_artifact.path, dataset / "annotations.json", dataset / "images")
    figures = report.figures["onnxruntime"]
    assert list(figures) == list(METRICS)
    np.testing.assert_allclose(list(figures.values()), by_hand(blob_artifact.path, dataset), rtol=0, atol=1e-12)
    assert 0.1 < figures["AP"] < 0.9
    assert report.images == 12
    assert report.annotations == len(json.loads((dataset / "annotations.json").read_text())["annotations"])


def test_perfect_boxes_have_an_ap_of_one_and_swapped_classes_one_of_zero(blobs, blob_artifact, tmp_path):
    for categories, expected in ((IDS, 1.0), ({"red": 3, "green": 7}, 1.0)):
        folder = tmp_path / str(categories["red"])
        write_coco(folder, 6, categories=categories)
        figures = evaluate_artifact(blob_artifact, folder / "annotations.json", folder / "images").figures
        assert figures["onnxruntime"]["AP"] == pytest.approx(expected)
    document = json.loads((folder / "annotations.json").read_text())
    for entry in document["categories"]:
        entry["name"] = {"red": "green", "green": "red"}[entry["name"]]
    (folder / "annotations.json").write_text(json.dumps(document))
    figures = evaluate_artifact(blob_artifact, folder / "annotations.json", folder / "images").figures
    assert figures["onnxruntime"]["AP"] == 0


def rename(path: Path, *names: str) -> None:
    """Give the categories of an annotations file other names, in the order of the file."""
    document = json.loads(path.read_text())
    for entry, name in zip(document["categories"], names, strict=True):
        entry["name"] = name
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("names", [("rouge", "vert"), ("object", "object")])
def test_categories_of_other_names_are_taken_in_the_order_of_their_ids_with_a_note(
    blobs, blob_artifact, tmp_path, names
):
    path = write_coco(tmp_path, 6, categories={"red": 7, "green": 11})
    rename(path, *names)
    report = evaluate_artifact(blob_artifact, path, tmp_path / "images")
    assert report.figures["onnxruntime"]["AP"] == pytest.approx(1.0)
    assert "order of their ids" in report.notes[0]
    assert report.to_json()["notes"] == list(report.notes)


def test_names_may_differ_in_case_and_spaces(blobs, blob_artifact, tmp_path):
    """In the order of their ids the classes would be swapped."""
    path = write_coco(tmp_path, 6, categories=IDS)
    assert [entry["name"] for entry in json.loads(path.read_text())["categories"]] == ["green", "red"]
    rename(path, "GREEN ", "Red")
    report = evaluate_artifact(blob_artifact, path, tmp_path / "images")
    assert report.figures["onnxruntime"]["AP"] == pytest.approx(1.0)
    assert report.notes == ()


@pytest.mark.parametrize(
    ("own", "names"),
    [
        (("traffic light", "hot dog"), ("traffic_light", "Hot-Dog")),
        (("traffic_light", "hotdog"), ("Traffic Light", "hot dog")),
        (("caf\u00e9", "b"), ("cafe\u0301", "B ")),
    ],
)
def test_names_may_differ_in_spelling(own, names):
    categories = [{"id": 3, "name": names[1]}, {"id": 7, "name": names[0]}]
    truth = SimpleNamespace(dataset={"categories": categories, "annotations": []})
    assert category_ids(Annotations(truth, {}, {}, ()), own) == ([7, 3], [])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("red", "red"), "categories 3, 7 .* name of the class 'red'"),
        (("Red", "RED"), "categories 3, 7 .* name of the class 'red'"),
        (("red", "vert"), "no category of the class 'green'"),
    ],
)
def test_names_that_fit_in_part_or_twice_are_refused(blobs, blob_artifact, tmp_path, names, message):
    path = write_coco(tmp_path, 1, categories=IDS)
    rename(path, *names)
    with pytest.raises(SettingError, match=message) as caught:
        evaluate_artifact(blob_artifact, path, tmp_path / "images")
    assert caught.value.hint


def test_another_number_of_categories_is_refused(blobs, blob_artifact, tmp_path):
    path = write_coco(tmp_path, 1, categories={**IDS, "blue": 9})
    path.write_text(path.read_text().replace('"red"', '"rouge"'))
    with pytest.raises(SettingError, match="2 classes, the annotations have 3 categories") as caught:
        evaluate_artifact(blob_artifact, path, tmp_path / "images")
    assert "--names" in caught.value.hint


def test_the_checkpoint_in_pytorch_has_the_same_ap(blobs, blob_artifact, blob_weights_file, dataset):
    report = evaluate_artifact(
        blob_artifact,
        dataset / "annotations.json",
        dataset / "images",
        EvaluationOptions(weights=blob_weights_file),
    )
    assert set(report.figures) == {"onnxruntime", "pytorch"}
    assert report.figures["pytorch"]["AP"] == pytest.approx(report.figures["onnxruntime"]["AP"], abs=1e-3)
    assert report.agrees


def test_an_artifact_named_as_the_checkpoint_is_judged_beside_it(blobs, blob_artifact, blob_weights_file, tmp_path):
    path = write_coco(tmp_path, 1, categories=IDS)
    artifact = shutil.copytree(blob_artifact.path, tmp_path / "pytorch")
    options = EvaluationOptions(weights=blob_weights_file)
    report = evaluate_artifacts([artifact, blob_artifact], CocoFiles(path, tmp_path / "images"), options)
    assert list(report.figures) == ["pytorch (2)", blob_artifact.path.name, "pytorch"]


def test_another_checkpoint_than_the_converted_one_is_refused(blobs, blob_artifact, toy_weights_file, dataset):
    with pytest.raises(SettingError, match=r"not the checkpoint .* \(blobs\.pth\)"):
        evaluate_artifact(
            blob_artifact,
            dataset / "annotations.json",
            dataset / "images",
            EvaluationOptions(weights=toy_weights_file),
        )


def test_an_adapter_that_cannot_load_is_blamed(blobs, blob_artifact, blob_weights_file, dataset, monkeypatch):
    monkeypatch.setattr(BlobAdapter, "load", lambda self, request: request.options["new"])
    options = EvaluationOptions(weights=blob_weights_file)
    with pytest.raises(AdapterError, match=r"load\(\) of adapter 'blobs' raised KeyError"):
        evaluate_artifact(blob_artifact, dataset / "annotations.json", dataset / "images", options)


def test_checkpoint_and_artifact_have_the_same_augmentation(blobs, blob_artifact, blob_weights_file, tmp_path):
    """Of pure colours about half are not found in the second view, the others with perfect boxes."""
    path = write_coco(tmp_path, 8, categories=IDS)
    options = EvaluationOptions(weights=blob_weights_file, augment={"darker": "0.4665"}, batch=2)
    report = evaluate_artifact(blob_artifact, path, tmp_path / "images", options)
    assert report.figures["pytorch"]["AP"] == pytest.approx(report.figures["onnxruntime"]["AP"], abs=1e-3)
    assert 0.2 < report.figures["pytorch"]["AP"] < 0.8
    assert any("joined" in note for note in report.notes)


def test_of_weights_in_a_folder_every_file_counts(blobs, blob_artifact, dataset, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for name, value in blob_weights().items():
        torch.save({name: value}, folder / f"{name}.pth")
    copy = tmp_path / "copy"
    shutil.copytree(blob_artifact.path, copy)
    resealed(copy, lambda document: document.update(weights=weights_record(folder)))

    def evaluate(weights: Path) -> EvaluationReport:
        return evaluate_artifact(
            copy, dataset / "annotations.json", dataset / "images", EvaluationOptions(weights=weights, limit=4)
        )

    (folder / ".DS_Store").touch()
    report = evaluate(folder.rename(tmp_path / "elsewhere"))
    assert report.agrees
    assert "pytorch" in report.figures
    entries = json.loads((dataset / "annotations.json").read_text())
    first = sorted(entry["id"] for entry in entries["images"])[:4]
    assert report.annotations == sum(entry["image_id"] in first for entry in entries["annotations"])
    folder = tmp_path / "elsewhere"
    bias = (folder / "tone.bias.pth").read_bytes()
    for name, content, difference in (
        ("more.pth", b"", r"it has besides more\.pth"),
        ("tone.bias.pth", b"other", r"it has another tone\.bias\.pth"),
        ("tone.bias.pth", None, r"it lacks tone\.bias\.pth"),
    ):
        (folder / name).unlink(missing_ok=True) if content is None else (folder / name).write_bytes(content)
        with pytest.raises(SettingError, match=rf"not the checkpoint .* \(shards\): {difference}") as caught:
            evaluate(folder)
        assert caught.value.hint
        (folder / "more.pth").unlink(missing_ok=True)
        (folder / "tone.bias.pth").write_bytes(bias)
    for weights, difference in ((folder / "tone.bias.pth", "that was a folder"), (folder / "no", "it does not exist")):
        with pytest.raises(SettingError, match=difference):
            evaluate(weights)


def test_engines_agree_to_a_thousandth():
    def report(first: float, second: float, **checkpoint: float) -> EvaluationReport:
        values = {"a": first, "b": second, **checkpoint}
        return EvaluationReport({name: {"AP": value} for name, value in values.items()}, 1, 1, 0.1)

    assert report(0.5, 0.5009).agrees
    assert not report(0.5, 0.5011).agrees
    assert report(0.5, 0.4, pytorch=0.5).agrees, "the checkpoint is that of the first"
    assert not report(0.5, 0.5, pytorch=0.6).agrees
    assert report(0.5, 0.49, pytorch=0.1).drop == pytest.approx(0.01), "the checkpoint is no artifact"
    document = json.loads(json.dumps(report(0.5, 0.6).to_json()))
    assert document["agrees"] is False
    assert document["figures"]["b"] == {"AP": 0.6}


def test_a_limit_evaluates_the_first_images_by_id(blobs, blob_artifact, dataset):
    report = evaluate_artifact(
        blob_artifact, dataset / "annotations.json", dataset / "images", EvaluationOptions(limit=4)
    )
    assert report.images == 4
    expected = by_hand(blob_artifact.path, dataset, [100, 101, 102, 103])
    np.testing.assert_allclose(list(report.figures["onnxruntime"].values()), expected, rtol=0, atol=1e-12)


def test_a_detector_that_finds_nothing_has_an_ap_of_zero(blobs, blob_artifact, tmp_path):
    import cv2

    path = write_coco(tmp_path, 2, categories=IDS)
    for image in (tmp_path / "images").iterdir():
        cv2.imwrite(str(image), np.zeros((64, 96, 3), np.uint8))
    figures = evaluate_artifact(blob_artifact, path, tmp_path / "images").figures["onnxruntime"]
    assert set(figures) == set(METRICS)
    assert figures["AP"] == 0


@pytest.mark.parametrize("lack", [dict.pop, lambda annotation, key: annotation.update({key: None})])
def test_annotations_may_lack_area_and_crowd_flags(blobs, blob_artifact, tmp_path, lack):
    path = write_coco(tmp_path, 3, categories=IDS)
    document = json.loads(path.read_text())
    for annotation in document["annotations"]:
        lack(annotation, "area")
        lack(annotation, "iscrowd")
    path.write_text(json.dumps(document))
    figures = evaluate_artifact(blob_artifact, path, tmp_path / "images").figures
    assert figures["onnxruntime"]["AP"] == pytest.approx(1.0)


def without(key: str, *path: str | int):
    def edit(document):
        for step in path:
            document = document[step]
        del document[key]

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        lambda document: document["annotations"][0].update(bbox=[1, 2, -3, 4]),
        lambda document: document["annotations"][0].update(bbox=[1, 2, True, 4]),
        lambda document: document["annotations"][0].update(area=-1),
        lambda document: document["annotations"][0].update(bbox=None),
        lambda document: document["categories"][0].update(name=None),
        without("images"),
        without("annotations"),
        without("categories"),
        without("file_name", "images", 0),
        without("id", "images", 0),
        without("bbox", "annotations", 0),
        without("image_id", "annotations", 0),
        without("category_id", "annotations", 0),
        without("id", "annotations", 0),
        without("name", "categories", 0),
        without("id", "categories", 0),
        lambda document: document["images"].clear(),
        lambda document: document["categories"].clear(),
        lambda document: document["annotations"][0].update(bbox=[1, 2]),
        lambda document: document["annotations"][0].update(bbox=[1, 2, "3", 4]),
        lambda document: document["annotations"][0].update(bbox=[1, 2, float("nan"), 4]),
        lambda document: document["annotations"][0].update(bbox={"x": 1}),
        lambda document: document["annotations"][0].update(area="x"),
        lambda document: document["annotations"][0].update(area=float("inf")),
        lambda document: document["annotations"][0].update(iscrowd="x"),
        lambda document: document["annotations"][0].update(iscrowd=2),
        lambda document: document.update(images={"a": 1}),
    ],
)
def test_a_file_that_lacks_something_is_refused_before_any_image_is_run(blobs, blob_artifact, tmp_path, edit):
    path = write_coco(tmp_path, 1, categories=IDS)
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    with pytest.raises(SettingError, match="not a COCO annotation file") as caught:
        evaluate_artifact(blob_artifact, path, tmp_path / "images")
    assert caught.value.exit_code == 2


def set_id(kind: str, index: int, value: object, key: str = "id"):
    return lambda document: document[kind][index].update({key: value})


def as_text(document):
    for image in document["images"]:
        image["id"] = str(image["id"])
    for annotation in document["annotations"]:
        annotation["image_id"] = str(annotation["image_id"])


def other_numbers(document):
    for image in document["images"]:
        image["id"] += 1000


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_id("annotations", 0, 0), "an annotation has the id 0"),
        (set_id("annotations", 1, 1), "two entries of annotations have the id 1"),
        (set_id("images", 1, 100), "two entries of images have the id 100"),
        (set_id("categories", 1, 3), "two entries of categories have the id 3"),
        (as_text, "the id of an entry of images is '100', not a whole number"),
        (set_id("annotations", 0, "100", "image_id"), "the image_id of an annotation is '100'"),
        (set_id("annotations", 0, "3", "category_id"), "the category_id of an annotation is '3'"),
        (set_id("annotations", 0, "1"), "the id of an entry of annotations is '1'"),
        (set_id("annotations", 0, 1.5), r"is 1\.5"),
        (set_id("images", 0, True), "is True"),
        (set_id("images", 0, None), "is None"),
        (set_id("images", 0, 1e300), r"is 1e\+300"),
        (set_id("images", 0, 2**53 + 1), "is 9007199254740993"),
        (set_id("images", 0, 10**4000), r"is 10+\.\.\.0+, not"),
        (set_id("categories", 0, "x" * 9999), r"is 'x+\.\.\.x+', not"),
        (set_id("annotations", 0, 5, "category_id"), "annotation 1 has the category_id 5, which no category has"),
        (other_numbers, "no annotation has the image_id of a listed image"),
    ],
)
def test_ids_that_would_falsify_the_figures_are_refused(blobs, blob_artifact, tmp_path, edit, message):
    path = write_coco(tmp_path, 2, categories=IDS)
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    with pytest.raises(SettingError, match=message) as caught:
        evaluate_artifact(blob_artifact, path, tmp_path / "images")
    assert caught.value.message.startswith(str(path))
    assert len(caught.value.message) < len(str(path)) + 150
    assert caught.value.hint


@pytest.mark.parametrize("ids", [[0, 1], [-7, 2**53]])
def test_other_ids_of_images_change_no_figure(blobs, blob_artifact, tmp_path, ids):
    path = write_coco(tmp_path, 2, categories=IDS)
    content = path.read_text()
    for old, new in zip((100, 101), ids, strict=True):
        content = content.replace(f'id": {old},', f'id": {new},')
    path.write_text(content)
    figures = evaluate_artifact(blob_artifact, path, tmp_path / "images").figures
    assert figures["onnxruntime"]["AP"] == pytest.approx(1.0)


def edited(folder: Path, edit) -> Path:
    path = write_coco(folder, 3, categories=IDS)
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    return path


def same_file(document):
    document["images"][1]["file_name"] = document["images"][0]["file_name"]


def relative(document):
    for entry in document["annotations"]:
        x, y, w, h = entry["bbox"]
        entry["bbox"] = [x / 96, y / 64, w / 96, h / 64]


def corners(document):
    for entry in document["annotations"]:
        x, y, w, h = entry["bbox"]
        entry["bbox"] = [x, y, x + w, y + h]


def scaled(document):
    for image in document["images"]:
        image.update(height=640, width=960)


def turned(document):
    for image in document["images"]:
        image.update(height=96, width=64)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (same_file, r"1 file names belong to several images: 00000\.png"),
        (relative, "every bbox is within 0 to 1"),
        (corners, "all make sense as two corners"),
        (scaled, r"00000\.png is 96 x 64 pixels; the annotations say 960 x 640"),
        (turned, "turned by its EXIF orientation"),
        (lambda document: document["annotations"].clear(), "no annotations of the listed images"),
    ],
)
def test_boxes_that_mean_something_else_are_refused(blobs, blob_artifact, tmp_path, edit, message):
    path = edited(tmp_path, edit)
    with pytest.raises(SettingError, match=message) as caught:
        evaluate_artifact(blob_artifact, path, tmp_path / "images")
    assert caught.value.hint


def another(document, **change):
    document["annotations"].append({**document["annotations"][0], "id": 999, **change})


@pytest.mark.parametrize(
    ("edit", "ap", "note"),
    [
        (lambda document: another(document, bbox=[5, 5, 0, 9]), 1.0, "left out 1 annotations whose box has no area"),
        (lambda document: another(document, image_id=4), 1.0, "left out 1 annotations of images that are not listed"),
        (lambda document: document["annotations"][0].update(area=0), 1.0, "took the area of the box for 1"),
        (another, None, "1 annotations repeat another one"),
        (
            lambda document: (
                document["categories"].append({"id": 9, "name": "blue"}),
                another(document, category_id=9),
            ),
            2 / 3,
            "no class for the categories blue",
        ),
    ],
)
def test_what_is_repaired_or_left_out_is_said(blobs, blob_artifact, tmp_path, edit, ap, note):
    report = evaluate_artifact(blob_artifact, edited(tmp_path, edit), tmp_path / "images")
    assert any(note in said for said in report.notes)
    assert ap is None or report.figures["onnxruntime"]["AP"] == pytest.approx(ap)


def nested(folder: Path) -> None:
    (folder / "images" / "deep").mkdir()
    for path in list((folder / "images").glob("*.png")):
        path.rename(folder / "images" / "deep" / path.name.upper())


def test_files_are_found_under_the_names_of_another_system(blobs, blob_artifact, tmp_path):
    def rename_files(document):
        for image in document["images"]:
            image["file_name"] = "C:\\data\\deep\\" + image["file_name"]

    path = edited(tmp_path, rename_files)
    nested(tmp_path)
    figures = evaluate_artifact(blob_artifact, path, tmp_path / "images").figures
    assert figures["onnxruntime"]["AP"] == pytest.approx(1.0)


def test_images_of_one_name_in_several_folders_are_told_apart_or_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").write_bytes(b"x")
    found = find_images(tmp_path, {1: "data\\a\\1.png".removeprefix("data\\"), 2: "B/1.PNG"})
    assert found == {1: tmp_path / "a" / "1.png", 2: tmp_path / "b" / "1.png"}
    with pytest.raises(ImageError, match="several could be meant"):
        find_images(tmp_path, {1: "1.png"})
    (tmp_path / "b" / "1.png").unlink()
    with pytest.raises(ImageError, match="are the same file"):
        find_images(tmp_path, {1: "a/1.png", 2: "c/1.png"})
    with pytest.raises(ImageError, match=r"2\.png is missing, and 1 others too"):
        find_images(tmp_path, {1: "a/1.png", 2: "2.png", 3: "3.png"})


def test_missing_images_are_found_before_any_is_run(blobs, blob_artifact, tmp_path):
    path = edited(tmp_path, lambda document: document["images"][2].update(file_name="gone.png"))
    steps = []
    with pytest.raises(ImageError, match=r"gone\.png is missing"):
        evaluate_artifact(
            blob_artifact, path, tmp_path / "images", progress=lambda step, done=0, total=0: steps.append(step)
        )
    assert "running images" not in steps


def test_annotations_of_images_that_are_not_listed_are_left_out(blobs, blob_artifact, tmp_path):
    path = write_coco(tmp_path, 3, categories=IDS)
    document = json.loads(path.read_text())
    del document["images"][2]
    path.write_text(json.dumps(document))
    figures = evaluate_artifact(blob_artifact, path, tmp_path / "images").figures
    assert figures["onnxruntime"]["AP"] == pytest.approx(1.0)


def test_annotations_beyond_the_limit_are_refused_unread(tmp_path):
    path = tmp_path / "a.json"
    path.touch()
    os.truncate(path, MOST_BYTES + 1)
    with pytest.raises(SettingError, match=r"more than 1,073,741,824 bytes") as caught:
        read_annotations(path)
    assert caught.value.hint


def test_masks_and_other_fields_are_no_matter(tmp_path):
    path = write_coco(tmp_path, 2, categories=IDS)
    document = json.loads(path.read_text())
    plain = read_annotations(path).truth.dataset
    for annotation in document["annotations"]:
        annotation.update(segmentation=[[1.0, 2.0, 3.0, 4.0]] * 9, keypoints={"x": [None]})
    path.write_text(json.dumps({**document, "info": {"year": "x"}, "licenses": 3}))
    assert read_annotations(path).truth.dataset == plain


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("", "not a COCO"),
        ("[1, 2]", "not a COCO"),
        ("{", "not a COCO"),
        ("3", "not a COCO"),
        ("[" * 100_000, "not a COCO"),
    ],
)
def test_a_file_that_is_no_annotations_is_refused(blobs, blob_artifact, tmp_path, content, message):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingError, match=message):
        evaluate_artifact(blob_artifact, path, tmp_path)


def test_an_image_that_is_missing_or_broken_is_named(blobs, blob_artifact, tmp_path):
    path = write_coco(tmp_path, 2, categories=IDS)
    (tmp_path / "images" / "00001.png").write_bytes(b"junk")
    with pytest.raises(ImageError, match=r"00001\.png"):
        evaluate_artifact(blob_artifact, path, tmp_path / "images")
    (tmp_path / "images" / "00001.png").unlink()
    with pytest.raises(ImageError, match=r"00001\.png is missing") as caught:
        evaluate_artifact(blob_artifact, path, tmp_path / "images")
    assert "--images" in caught.value.hint
    path.write_text(path.read_text().replace("00001.png", "a" * 5000))
    with pytest.raises(ImageError, match="aaa is missing"):
        evaluate_artifact(blob_artifact, path, tmp_path / "images")


def test_an_artifact_that_detects_no_boxes_cannot_be_evaluated(toy, toy_artifact, dataset):
    path = dataset / "four.json"
    document = json.loads((dataset / "annotations.json").read_text())
    document["categories"] += [{"id": 20, "name": "c"}, {"id": 21, "name": "d"}]
    path.write_text(json.dumps(document))
    with pytest.raises(ConversionError, match="does not detect boxes"):
        evaluate_artifact(toy_artifact, path, dataset / "images")


def test_without_pycocotools_the_error_says_what_to_install(blobs, blob_artifact, dataset, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(EnvironmentProblem, match="needs pycocotools") as caught:
        evaluate_artifact(blob_artifact, dataset / "annotations.json", dataset / "images")
    assert "convkit[evaluate]" in caught.value.hint
    assert caught.value.exit_code == 5


def test_evaluating_says_nothing_on_stdout_and_reports_its_progress(blobs, blob_artifact, dataset, capfd):
    steps = []
    evaluate_artifact(
        blob_artifact,
        dataset / "annotations.json",
        dataset / "images",
        progress=lambda step, done=0, total=0: steps.append((step, done, total)),
    )
    assert capfd.readouterr().out == ""
    assert steps[-2] == ("running images", 11, 12)


MEASURE = """
import resource, sys, tracemalloc
from pathlib import Path
from support.blobs import BlobPlugin
from support.plugins import registered
from convkit.evaluation import evaluate_artifact

taken = {}

def progress(step, done=0, total=0):
    if step == "running images" and done in (20, total - 1):
        taken[done] = (tracemalloc.get_traced_memory()[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)

with registered(BlobPlugin(), "blobs"):
    tracemalloc.start()
    evaluate_artifact(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), progress=progress)
(held, peak), (held_later, peak_later) = taken.values()
print(held_later - held, peak_later - peak)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(blob_artifact, tmp_path):
    """Holding the other 60 images would take 66 MB, as tensors of the network's size 4.4 MB."""
    path = write_coco(tmp_path / "coco", 81, categories=IDS, size=(480, 768))
    arguments = [sys.executable, "-c", MEASURE, str(blob_artifact.path), str(path), str(path.parent / "images")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment)
    held, peak = map(int, run.stdout.split())
    assert held < 500_000
    assert peak < 10_000_000
