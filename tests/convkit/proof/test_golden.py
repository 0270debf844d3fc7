"""Golden samples: what an artifact needs to be proved again without its checkpoint, and the replay of both ends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from convkit import Decode, Dim, ModelSpec, Prepared, Result, TensorSpec
from convkit.artifact import SAMPLES, spec_from_manifest
from convkit.errors import IntegrityError
from convkit.processing import find_decode, synthetic_scenes
from convkit.proof import Case, Check, GoldenSamples, Samples

SPEC = ModelSpec(
    "v",
    (Dim("batch", 1, 1, 4), Dim("n", 2, 4, 8)),
    (TensorSpec("x", ("batch", "n", 4)), TensorSpec("ids", ("batch", "n+1"), "int64"), TensorSpec("scale", ())),
    (TensorSpec("sum", ("batch",)), TensorSpec("top", ("batch", "n"), "int64"), TensorSpec("norm", ())),
)
SHORT, LONG = (("n", 2),), (("n", 6),)
RNG = np.random.default_rng(0)
INDEX = "proof/samples.json"


def raw(n: int) -> dict[str, np.ndarray]:
    return {
        "x": RNG.standard_normal((n, 4)).astype(np.float32),
        "ids": RNG.integers(0, 9, n + 1),
        "scale": np.float32(3),
    }


def exact(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    x, ids, scale = feed["x"].astype(np.float64), feed["ids"], feed["scale"].astype(np.float64)
    return {"sum": (x.sum((1, 2)) + ids.sum(1)) / scale, "top": x.argmax(-1), "norm": scale / 7}


@pytest.fixture
def samples() -> Samples:
    def prepared(n: int, number: int) -> Prepared:
        return Prepared({name: np.asarray(value) for name, value in raw(n).items()}, {"number": number, "size": None})

    return Samples(SPEC, {SHORT: [prepared(2, i) for i in range(3)], LONG: [prepared(6, i) for i in range(2)]})


@pytest.fixture
def raws() -> list[dict[str, np.ndarray]]:
    return [raw(5), raw(3)]


@dataclass
class Sum(Result):
    value: float
    number: int

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value, "number": self.number, "pair": (1, 2)}

    def summary(self) -> str:
        return f"{self.value}"


class Sums(Decode):
    def __call__(self, outputs: Mapping[str, np.ndarray], metas: Sequence[Mapping[str, Any]]) -> list[Sum]:
        return [Sum(float(value), meta["number"]) for value, meta in zip(outputs["sum"], metas, strict=True)]


def test_samples_references_raw_inputs_and_results_come_back_as_they_were(tmp_path, samples, raws):
    golden = GoldenSamples.record(samples, raws, ["a.npz", "b.npz"], exact, Sums())
    golden.save(tmp_path)
    loaded = GoldenSamples.load(tmp_path, SPEC)
    assert list(loaded.samples.prepared) == [SHORT, LONG]
    assert list(loaded.sources) == ["a.npz", "b.npz"]
    for given, again in zip(raws, loaded.raws, strict=True):
        np.testing.assert_equal(again, given)
    reference = loaded.reference()
    for sizes, items in samples.prepared.items():
        for item, again in zip(items, loaded.samples.prepared[sizes], strict=True):
            np.testing.assert_equal(dict(again.tensors), dict(item.tensors))
            assert {name: value.dtype for name, value in again.tensors.items()} == {
                name: value.dtype for name, value in item.tensors.items()
            }
            assert again.meta == item.meta
        case = Case("c", (("batch", 4), *sizes))
        feed = loaded.samples.feed(case)
        outputs, expected = reference(feed), exact(samples.feed(case))
        assert {name: value.dtype.name for name, value in outputs.items()} == {
            "sum": "float32",
            "top": "int64",
            "norm": "float32",
        }
        for name, value in expected.items():
            np.testing.assert_array_equal(outputs[name], value.astype(outputs[name].dtype), err_msg=name)
        found = [result["value"] for result in loaded.results[sizes]]
        assert found == expected["sum"][: len(items)].astype(np.float32).tolist()
        assert [result["number"] for result in loaded.results[sizes]] == list(range(len(items)))


def test_a_model_without_decode_has_no_results(tmp_path, samples, raws):
    GoldenSamples.record(samples, raws, [], exact, None).save(tmp_path)
    loaded = GoldenSamples.load(tmp_path, SPEC)
    assert not any(loaded.results.values())


def test_the_stored_reference_follows_the_samples_not_their_order(tmp_path, samples, raws):
    GoldenSamples.record(samples, raws, [], exact, None).save(tmp_path)
    loaded = GoldenSamples.load(tmp_path, SPEC)
    feed = loaded.samples.feed(Case("c", (("batch", 3), *SHORT)))
    backwards = {name: value[::-1] if value.ndim else value for name, value in feed.items()}
    np.testing.assert_array_equal(loaded.reference()(backwards)["top"], exact(feed)["top"][::-1])


def test_sizes_without_a_sample_are_refused(samples):
    (sizes, _), *_ = samples.prepared.items()
    case = Case("max", sizes)
    samples.items(case)
    for prepared in ({}, {sizes: []}):
        with pytest.raises(IntegrityError, match="There is no sample of"):
            Samples(samples.spec, prepared).feed(case)


@pytest.mark.parametrize("change", ["x", "ids", "scale"])
def test_a_sample_that_is_not_stored_cannot_be_judged(tmp_path, samples, raws, change):
    GoldenSamples.record(samples, raws, [], exact, None).save(tmp_path)
    loaded = GoldenSamples.load(tmp_path, SPEC)
    feed = loaded.samples.feed(Case("c", (("batch", 1), *SHORT)))
    loaded.reference()(feed)
    with pytest.raises(IntegrityError, match="no such sample"):
        loaded.reference()({**feed, change: feed[change] + 1})


def test_the_index_names_the_sources_and_nothing_is_pickled(tmp_path, samples, raws):
    GoldenSamples.record(samples, raws, ["a.jpg", "größe.jpg"], exact, Sums()).save(tmp_path)
    index = json.loads((tmp_path / INDEX).read_text(encoding="utf-8"))
    assert index["sources"] == ["a.jpg", "größe.jpg"]
    assert [entry["sizes"] for entry in index["sizes"]] == [{"n": 2}, {"n": 6}]
    assert all((tmp_path / file).is_file() for file in index["files"])
    with np.load(tmp_path / SAMPLES, allow_pickle=False) as arrays:
        assert all(arrays[name].dtype != object for name in arrays.files)


def pickled(folder: Path) -> None:
    with np.load(folder / SAMPLES) as arrays:
        content = dict(arrays)
    content["0/0/x"] = np.array([{"a": 1}], dtype=object)
    np.savez(folder / SAMPLES, **content)


def without_an_array(folder: Path) -> None:
    with np.load(folder / SAMPLES) as arrays:
        content = dict(arrays)
    del content["0/0/ids"]
    np.savez(folder / SAMPLES, **content)


@pytest.mark.parametrize(
    "damage",
    [
        pickled,
        without_an_array,
        lambda folder: (folder / SAMPLES).write_bytes((folder / SAMPLES).read_bytes()[:100]),
        lambda folder: (folder / SAMPLES).unlink(),
        lambda folder: (folder / INDEX).write_text("{"),
        lambda folder: (folder / INDEX).write_text("[]"),
        lambda folder: (folder / "proof" / "input_0.npz").unlink(),
    ],
    ids=["pickled", "an array less", "cut short", "missing", "no JSON", "other JSON", "no raw input"],
)
def test_damaged_golden_samples_are_refused_and_nothing_in_them_is_executed(tmp_path, samples, raws, damage):
    GoldenSamples.record(samples, raws, [], exact, None).save(tmp_path)
    damage(tmp_path)
    with pytest.raises(IntegrityError, match="cannot be read") as caught:
        GoldenSamples.load(tmp_path, SPEC)
    assert caught.value.hint


@pytest.fixture
def folder(toy_artifact, tmp_path) -> Path:
    return Path(shutil.copytree(toy_artifact.path, tmp_path / "copy"))


def replayed(folder: Path, artifact: Any) -> dict[str, Check]:
    spec = spec_from_manifest(artifact.manifest)
    checks = GoldenSamples.load(folder, spec).replay(find_decode(spec.decode))
    assert len({check.kind for check in checks}) == len(checks), "the toy has one input and one size"
    return {check.kind: check for check in checks}


def test_what_was_stored_is_reproduced_bit_for_bit(toy, toy_artifact, folder):
    found = replayed(folder, toy_artifact)
    assert set(found) == {"preprocess", "decode"}
    assert found["preprocess"].passed
    assert found["preprocess"].output == "images"
    assert found["preprocess"].figures == {"rel_l2": 0.0, "drift": 0.0}
    assert found["decode"].passed


def test_the_stored_images_are_the_ones_that_were_prepared(toy_artifact):
    for number, scene in enumerate(synthetic_scenes(2, seed=0)):
        np.testing.assert_array_equal(cv2.imread(str(toy_artifact.path / "proof" / f"input_{number}.png")), scene)


def test_samples_without_their_raw_inputs_are_refused(toy, toy_artifact, folder):
    golden = GoldenSamples.load(folder, spec_from_manifest(toy_artifact.manifest))
    for raws in ([], [*golden.raws, golden.raws[0]]):
        golden.raws = raws
        with pytest.raises(IntegrityError, match=f"There are {len(raws)} raw inputs"):
            golden.replay(None)


def test_another_image_does_not_give_the_stored_input(toy, toy_artifact, folder):
    cv2.imwrite(str(folder / "proof" / "input_1.png"), synthetic_scenes(1, seed=5)[0])
    found = replayed(folder, toy_artifact)
    assert not found["preprocess"].passed
    assert found["preprocess"].figures["rel_l2"] > 0.1
    assert found["decode"].passed


@pytest.mark.parametrize(
    ("change", "passed"),
    [
        (lambda image, rng: image, True),
        (lambda image, rng: image + rng.integers(-1, 2, image.shape), True),
        (lambda image, rng: image + 1, False),
        (lambda image, rng: np.rint(image * 255 / 256), False),
        (lambda image, rng: image + rng.integers(-8, 9, image.shape), False),
    ],
    ids=["nothing", "rounding", "one level up", "divided by 256", "noise"],
)
def test_rounding_up_and_down_passes_and_a_drift_or_noise_does_not(toy, toy_artifact, folder, change, passed):
    path = folder / "proof" / "input_0.png"
    image = change(cv2.imread(str(path)).astype(np.int64), np.random.default_rng(0))
    cv2.imwrite(str(path), np.clip(image, 0, 255).astype(np.uint8))
    assert replayed(folder, toy_artifact)["preprocess"].passed is passed


def test_other_results_than_the_stored_ones_are_located(toy, toy_artifact, folder):
    document = json.loads((folder / INDEX).read_text())
    document["sizes"][0]["results"][1]["classes"][0]["probability"] += 0.01
    (folder / INDEX).write_text(json.dumps(document))
    found = replayed(folder, toy_artifact)
    assert found["preprocess"].passed
    assert not found["decode"].passed
    assert found["decode"].note.startswith("results[1].classes[0].probability")


def test_another_meta_than_the_stored_one_is_located(blobs, blob_artifact, tmp_path):
    folder = Path(shutil.copytree(blob_artifact.path, tmp_path / "copy"))
    spec = spec_from_manifest(blob_artifact.manifest)
    document = json.loads((folder / INDEX).read_text())
    document["sizes"][1]["metas"][0]["scale"][1] += 0.5
    (folder / INDEX).write_text(json.dumps(document))
    checks = GoldenSamples.load(folder, spec).replay(find_decode(spec.decode))
    (failure,) = [check for check in checks if check.kind == "preprocess" and not check.passed]
    assert failure.note.startswith("meta[0].scale[1]")
    sizes = document["sizes"][1]["sizes"]
    assert failure.case == f"height {sizes['height']}, width {sizes['width']}"
