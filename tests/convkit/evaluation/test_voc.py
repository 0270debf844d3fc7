"""Pascal VOC: its figures against loops written from their definition, and its folders."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.blobs import write_coco

from convkit.errors import ImageError, SettingError
from convkit.evaluation import VOC_METRICS, EvaluationReport, VocFolder, evaluate_artifacts
from convkit.evaluation._voc_figures import voc_figures

OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><part><bndbox><xmin>1</xmin></bndbox></part>
<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write the rectangles of a COCO set as a folder of VOC, in splits of 6 and 2 images; one object is difficult."""
    coco = json.loads(write_coco(tmp_path / "coco", 8, categories={"green": 1, "red": 2}).read_text())
    names = {entry["id"]: entry["name"] for entry in coco["categories"]}
    root = tmp_path / "VOC2007"
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    stems = []
    for image in coco["images"]:
        stem = Path(image["file_name"]).stem
        stems.append(stem)
        pixels = cv2.imread(str(tmp_path / "coco" / "images" / image["file_name"]))
        cv2.imwrite(str(root / "JPEGImages" / f"{stem}.png"), pixels)
        objects = []
        for entry in coco["annotations"]:
            if entry["image_id"] == image["id"]:
                x, y, width, height = map(round, entry["bbox"])
                corners = {"x1": x + 1, "y1": y + 1, "x2": x + width, "y2": y + height}
                objects.append(
                    OBJECT.format(name=names[entry["category_id"]], difficult=int(entry["id"] == 2), **corners)
                )
        size = f"<size><width>{image['width']}</width><height>{image['height']}</height><depth>3</depth></size>"
        text = f"<annotation><filename>{stem}.png</filename>{size}{''.join(objects)}</annotation>"
        (root / "Annotations" / f"{stem}.xml").write_text(text)
    (root / "ImageSets" / "Main" / "test.txt").write_text("".join(f"{stem}\n" for stem in stems[:6]))
    (root / "ImageSets" / "Main" / "val.txt").write_text("".join(f"{stem} 1\n" for stem in stems[6:]))
    return root


def by_loops(truth: list[tuple[int, list[float], bool]], found: list[tuple[int, list[float], float]]) -> list[float]:
    """Return AP, AP at 11 points and recall of a class from (image, box, difficult) and (image, box, score)."""
    total = sum(not difficult for _, _, difficult in truth)
    taken: set[int] = set()
    hits, points = [], []
    for image, box, _ in sorted(found, key=lambda each: -each[2]):
        best, number = -1.0, -1
        for index, (where, other, _) in enumerate(truth):
            if where != image:
                continue
            width = min(box[2], other[2]) - max(box[0], other[0]) + 1
            height = min(box[3], other[3]) - max(box[1], other[1]) + 1
            if width <= 0 or height <= 0:
                continue
            area = sum((each[2] - each[0] + 1) * (each[3] - each[1] + 1) for each in (box, other))
            if (overlap := width * height / (area - width * height)) > best:
                best, number = overlap, index
        if best >= 0.5 and truth[number][2]:
            hits.append(None)
        else:
            hits.append(best >= 0.5 and number not in taken)
            if best >= 0.5:
                taken.add(number)
        right = sum(hit is True for hit in hits)
        points.append((right / total, right / max(sum(hit is not None for hit in hits), 1e-12)))
    area = last = 0.0
    for index, (recall, _) in enumerate(points):
        area += (recall - last) * max(precision for _, precision in points[index:])
        last = recall
    eleven = sum(max((p for r, p in points if r >= step / 10), default=0.0) for step in range(11)) / 11
    return [area, eleven, last]


@pytest.mark.parametrize("seed", range(4))
def test_figures_against_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    annotations, rows = [], []
    for image in range(1, 9):
        for _ in range(rng.integers(1, 5)):
            box = [*rng.uniform(0, 60, 2), *rng.uniform(5, 40, 2)]
            category, difficult = int(rng.integers(1, 3)), bool(rng.random() < 0.2)
            annotations.append({"image_id": image, "category_id": category, "bbox": box, "difficult": difficult})
            for _ in range(rng.integers(0, 4)):
                x, y, width, height = np.array(box) + rng.normal(0, 4, 4)
                rows.append(
                    [image, x, y, x + width, y + height, rng.random(), category if rng.random() < 0.8 else 3 - category]
                )
    table = np.array(rows)
    figures, classes = voc_figures(annotations, table, range(1, 9), {1: "a", 2: "b", 3: "never"})
    for category, name in ((1, "a"), (2, "b")):
        truth = [
            (entry["image_id"], [*entry["bbox"][:2], *np.add(entry["bbox"][:2], entry["bbox"][2:])], entry["difficult"])
            for entry in annotations
            if entry["category_id"] == category
        ]
        found = [(int(row[0]), list(row[1:5]), row[5]) for row in rows if row[6] == category]
        np.testing.assert_allclose(list(classes[name].values()), by_loops(truth, found), atol=1e-12)
        assert 0 < classes[name]["AP"] < 1
    assert classes["never"] == dict.fromkeys(VOC_METRICS, -1.0)
    assert figures["AP"] == pytest.approx((classes["a"]["AP"] + classes["b"]["AP"]) / 2)


def evaluate(artifact, folder: Path, split: str | None = "test") -> EvaluationReport:
    return evaluate_artifacts([artifact.path], VocFolder(folder, split))


def test_splits_and_classes(blobs, blob_artifact, folder):
    report = evaluate(blob_artifact, folder)
    figures = report.figures["onnxruntime"]
    assert list(figures) == list(VOC_METRICS)
    assert figures["recall"] == figures["AP"] == 1
    assert set(report.classes["onnxruntime"]) == {"green", "red"}
    counts = [evaluate(blob_artifact, folder, split) for split in ("val", None)]
    assert (report.images, counts[0].images, counts[1].images) == (6, 2, 8)
    assert report.annotations + counts[0].annotations == counts[1].annotations


def test_boxes_count_pixels_from_one_and_contain_the_last_ones(blobs, blob_artifact, folder):
    """A box of a single pixel is found by that pixel."""
    for file in (folder / "Annotations").iterdir():
        file.write_text(file.read_text().partition("<object>")[0] + "</annotation>")
    only = folder / "Annotations" / "00000.xml"
    box = OBJECT.format(name="red", difficult=0, x1=7, y1=9, x2=7, y2=9)
    only.write_text(only.read_text().replace("</annotation>", f"{box}</annotation>"))
    (entry,) = VocFolder(folder).read(("red", "green")).truth.dataset["annotations"]
    assert entry["bbox"] == [6, 8, 0, 0]
    table = np.array([[1.0, 6, 8, 6, 8, 0.9, entry["category_id"]]])
    figures, _ = voc_figures([entry], table, [1], {entry["category_id"]: "red"})
    assert figures == dict.fromkeys(VOC_METRICS, 1.0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda root: (root / "Annotations").rename(root / "annotations"), SettingError, "has no folder Annotations"),
        (lambda root: (root / "ImageSets/Main/test.txt").unlink(), SettingError, r"test\.txt cannot be read"),
        (lambda root: (root / "ImageSets/Main/test.txt").write_text("1\n1\n"), SettingError, "an image twice"),
        (lambda root: (root / "ImageSets/Main/test.txt").write_text("\n"), SettingError, "no images"),
        (lambda root: (root / "Annotations/00001.xml").unlink(), SettingError, r"00001\.xml cannot be read"),
        (lambda root: (root / "Annotations/00001.xml").write_text("<annotation>"), SettingError, "cannot be read"),
        (
            lambda root: (root / "Annotations/00001.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'),
            SettingError,
            "declares a document type",
        ),
        (lambda root: edit(root, "<xmin>", "<xmin>x"), SettingError, "an object has the name"),
        (lambda root: edit(root, "<name>", "<name>not "), SettingError, "none of these is a class"),
        (lambda root: edit(root, "<width>96", "<width>60"), SettingError, "the annotations say 60 x 64"),
        (lambda root: (root / "JPEGImages/00003.png").unlink(), ImageError, r"00003\.png is missing"),
    ],
)
def test_folders_that_cannot_be_judged_are_refused(blobs, blob_artifact, folder, change, error, message):
    change(folder)
    with pytest.raises(error, match=message) as caught:
        evaluate(blob_artifact, folder)
    assert caught.value.hint


def edit(root: Path, old: str, new: str) -> None:
    for file in (root / "Annotations").iterdir():
        file.write_text(file.read_text().replace(old, new))
