"""Evidence: what an artifact needs to be proved again without its checkpoint."""

from __future__ import annotations

import json

import numpy as np
import pytest

from convkit import Prepared, TensorSpec
from convkit.artifact import SAMPLES
from convkit.errors import IntegrityError
from convkit.proof import Case, Samples, load_evidence, save_evidence

TENSOR = TensorSpec("images", ("batch", 1, "height", 4))
SMALL, LARGE = (("height", 2),), (("height", 6),)
RNG = np.random.default_rng(0)


@pytest.fixture
def samples() -> Samples:
    def prepared(height: int, number: int) -> Prepared:
        return Prepared(RNG.standard_normal((1, height, 4)).astype(np.float32), {"scale": [1.5, number], "size": None})

    return Samples(TENSOR, {SMALL: [prepared(2, i) for i in range(3)], LARGE: [prepared(6, i) for i in range(2)]})


def exact(feed):
    (x,) = feed.values()
    return {"sum": x.astype(np.float64).sum((1, 2, 3)) / 3, "top": x.argmax(-1), "same": x}


def test_samples_and_references_come_back_as_they_were(tmp_path, samples):
    save_evidence(tmp_path, samples, exact, ["a.jpg", "b.jpg"])
    loaded, reference = load_evidence(tmp_path, TENSOR)
    assert list(loaded.prepared) == [SMALL, LARGE]
    for picture, items in samples.prepared.items():
        for item, again in zip(items, loaded.prepared[picture], strict=True):
            np.testing.assert_array_equal(again.tensor, item.tensor)
            assert again.meta == item.meta
        case = Case("c", (("batch", 4), *picture))
        feed = loaded.feed(case)
        outputs, expected = reference(feed), exact(samples.feed(case))
        assert {name: value.dtype.name for name, value in outputs.items()} == {
            "sum": "float32",
            "top": "int64",
            "same": "float32",
        }
        np.testing.assert_array_equal(outputs["sum"], expected["sum"].astype(np.float32))
        np.testing.assert_array_equal(outputs["top"], expected["top"])


def test_the_stored_reference_follows_the_samples_not_their_order(tmp_path, samples):
    save_evidence(tmp_path, samples, exact, [])
    loaded, reference = load_evidence(tmp_path, TENSOR)
    feed = loaded.feed(Case("c", (("batch", 3), *SMALL)))["images"]
    np.testing.assert_array_equal(reference({"images": feed[::-1]})["same"], feed[::-1])


def test_a_sample_that_is_not_stored_cannot_be_judged(tmp_path, samples):
    save_evidence(tmp_path, samples, exact, [])
    _, reference = load_evidence(tmp_path, TENSOR)
    with pytest.raises(IntegrityError, match="no such sample"):
        reference({"images": np.zeros((1, 1, 2, 4), np.float32)})


def test_the_index_names_the_sources_and_nothing_is_pickled(tmp_path, samples):
    save_evidence(tmp_path, samples, exact, ["a.jpg", "b.jpg"])
    index = json.loads((tmp_path / "proof" / "samples.json").read_text())
    assert index["sources"] == ["a.jpg", "b.jpg"]
    assert [entry["sizes"] for entry in index["pictures"]] == [{"height": 2}, {"height": 6}]
    with np.load(tmp_path / SAMPLES, allow_pickle=False) as arrays:
        assert all(arrays[name].dtype != object for name in arrays.files)


def test_pickled_evidence_is_refused(tmp_path, samples):
    """A samples file that asks to execute something is not obeyed."""
    save_evidence(tmp_path, samples, exact, [])
    with np.load(tmp_path / SAMPLES) as arrays:
        content = dict(arrays)
    content["0/input"] = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / SAMPLES, **content)
    with pytest.raises(ValueError, match="allow_pickle"):
        load_evidence(tmp_path, TENSOR)
