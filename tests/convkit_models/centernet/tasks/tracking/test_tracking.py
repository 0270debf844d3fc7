"""Networks of CenterTrack and FairMOT: their maps, and nothing that is decoded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import make_checkpoint, make_network_of

from convkit import Request, SourceModel, load
from convkit.conversion import convert
from convkit.errors import SettingError
from convkit.model import apply_overrides
from convkit_models.centernet import convkit_adapters
from convkit_models.centernet.networks import named

TRACK = {"hm": 2, "wh": 2, "reg": 2, "tracking": 2, "ltrb_amodal": 4}
SHAPES = ("batch=1:1:2", "height=32", "width=64")
BEFORE = ("pre_images", "pre_hm")


@pytest.fixture(scope="module")
def centertrack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    layout = replace(named("dlav0_34", TRACK, head_conv=8, width=0.1), before=BEFORE)  # type: ignore[call-arg]
    path = tmp_path_factory.mktemp("w") / "track.pth"
    torch.save({"epoch": 70, "state_dict": make_network_of(layout).state_dict()}, path)
    return path


def read(path: Path, **options: Any) -> SourceModel:
    (adapter,) = convkit_adapters()
    return adapter.load(Request(path, "heads", apply_overrides(adapter.dims, SHAPES), options=options))


def test_centertrack_has_three_inputs_and_says_what_is_not_decoded(centertrack: Path) -> None:
    model = read(centertrack)
    spec = model.spec
    assert [(tensor.name, tensor.shape[1]) for tensor in spec.inputs] == [
        ("images", 3),
        ("pre_images", 3),
        ("pre_hm", 1),
    ]
    assert [(tensor.name, tensor.shape[1]) for tensor in spec.outputs] == list(TRACK.items())
    assert (spec.variant, spec.preprocess, spec.decode) == ("dlav0_34-track", {}, {})
    (note,) = spec.info["notes"]
    assert "hm, wh, reg, tracking, ltrb_amodal are returned as they are: nothing decodes them or tracks" in note
    assert "arrays images, pre_images, pre_hm, normalised" in note
    with pytest.raises(SettingError, match="tracking has no decoding 'fixed'"):
        read(centertrack, decode="fixed")
    unused = {"resize", "mean", "std", "topk", "confidence", "nms", "calibration", "aggregate"}
    assert set(model.unused) == unused


def test_what_was_before_is_added_behind_the_first_layer(centertrack: Path) -> None:
    """In float64, with sums that are made here in place of the trunk's."""
    module: Any = read(centertrack).module.double()
    rng = torch.Generator().manual_seed(3)
    images, previous = (torch.randn(2, 3, 32, 64, generator=rng, dtype=torch.float64) for _ in range(2))
    heat = torch.rand(2, 1, 32, 64, generator=rng, dtype=torch.float64)
    trunk = module.base
    with torch.no_grad():
        found = module(images, previous, heat)[-1]
        total = trunk.base_layer(images) + trunk.pre_img_layer(previous) + trunk.pre_hm_layer(heat)
        trunk.base_layer, trunk.before = torch.nn.Identity(), ()
        expected = module(total)[-1]
    assert list(found) == list(TRACK)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_centertrack_is_converted_and_run(centertrack: Path, tmp_path: Path) -> None:
    done = convert("centernet", weights=centertrack, output=tmp_path / "a", shape=SHAPES, samples=2)
    assert done.verdict.passed
    (adapter,) = convkit_adapters()
    raws = adapter.samples(read(centertrack).spec, 3, 9)
    model = read(centertrack)
    with load(tmp_path / "a") as predictor:
        assert not predictor.decodes
        found = predictor.outputs(raws, batch=2)
    for raw, outputs in zip(raws, found, strict=True):
        with torch.no_grad():
            expected = model.module(*(torch.from_numpy(raw[name])[None] for name in ("images", *BEFORE)))[-1]
        for name, value in outputs.items():
            np.testing.assert_allclose(value, expected[name][0].numpy(), rtol=1e-3, atol=1e-3)


def test_samples_are_what_training_gives(centertrack: Path) -> None:
    (adapter,) = convkit_adapters()
    first, second = adapter.samples(read(centertrack).spec, 2, 0)
    assert {name: value.shape for name, value in first.items()} == {
        "images": (3, 32, 64),
        "pre_images": (3, 32, 64),
        "pre_hm": (1, 32, 64),
    }
    assert (first["images"] != second["images"]).any()
    np.testing.assert_array_equal(first["images"][:, :, :-6], first["pre_images"][:, :, 6:])
    assert (first["pre_hm"].min() >= 0, first["pre_hm"].max()) == (True, 1)


@pytest.mark.parametrize("more", [{"id": 16}, {}])
def test_fairmot_has_images_and_its_embedding(tmp_path: Path, more: dict[str, int]) -> None:
    """Without the embedding, four sides of a box are its mark: a width and height of each class would be two."""
    heads = {"hm": 1, "wh": 4, "reg": 2, **more}
    spec = read(make_checkpoint(tmp_path / "mot.pth", "resdcn_18", width=0.05, heads=heads)).spec
    assert [(tensor.name, tensor.shape[1]) for tensor in spec.outputs] == list(heads.items())
    assert [tensor.name for tensor in spec.inputs] == ["images"]
    assert (spec.preprocess["kind"], spec.decode, spec.info["task"]) == ("centernet.affine", {}, "tracking")
    assert "nothing decodes them" in spec.info["notes"][0]
