"""Training the digits demo: it learns, it writes the official format, and what is shipped finds digits never seen."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import train
from pool import ScenePool

from convkit import Detections, Dim, Request
from convkit_models import centernet

COCO = pytest.importorskip("pycocotools.coco").COCO
COCOeval = pytest.importorskip("pycocotools.cocoeval").COCOeval
DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"

CPU = torch.device("cpu")
SHIPPED = DIGITS / "digits_resdcn18.pth"


def official_names() -> set[str]:
    """The entries of an official resdcn_18 checkpoint for ctdet, written out from its layer list."""
    norms, names = {"bn1"}, {"conv1.weight"}
    for layer in range(1, 5):
        for block in range(2):
            for number in (1, 2):
                names.add(f"layer{layer}.{block}.conv{number}.weight")
                norms.add(f"layer{layer}.{block}.bn{number}")
        if layer > 1:
            names.add(f"layer{layer}.0.downsample.0.weight")
            norms.add(f"layer{layer}.0.downsample.1")
    for first in (0, 6, 12):
        names |= {f"deconv_layers.{first}.{part}" for part in ("weight", "bias")}
        names |= {f"deconv_layers.{first}.conv_offset_mask.{part}" for part in ("weight", "bias")}
        names.add(f"deconv_layers.{first + 3}.weight")
        norms |= {f"deconv_layers.{first + 1}", f"deconv_layers.{first + 4}"}
    names |= {
        f"{head}.{index}.{part}" for head in ("hm", "wh", "reg") for index in (0, 2) for part in ("weight", "bias")
    }
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return names | {f"{norm}.{part}" for norm in norms for part in parts}


def check_official(path: Path) -> dict[str, torch.Tensor]:
    document = torch.load(path, map_location="cpu", weights_only=True)
    assert set(document) == {"epoch", "state_dict"}
    assert isinstance(document["epoch"], int)
    state = document["state_dict"]
    assert len(state) == 177
    assert set(state) == official_names()
    for name, tensor in state.items():
        assert tensor.dtype == (torch.int64 if name.endswith("num_batches_tracked") else torch.float32)
        assert tensor.is_contiguous()
        assert torch.isfinite(tensor).all()
    return state


def load(path: Path) -> Any:
    """Load a checkpoint through the adapter, which infers every width from the file."""
    (adapter,) = centernet.convkit_adapters()
    dims = (Dim.fixed("batch", 1), Dim.fixed("height", 256), Dim.fixed("width", 256))
    names = tuple((DIGITS / "names.txt").read_text().split())
    return adapter.load(Request(path, "heads", dims, names))


def test_a_few_steps_bring_the_loss_down(tmp_path):
    model, history = train.train(replace(train.SMOKE, scenes=4, steps=24), CPU)
    assert len(history) == 24
    assert np.mean(history[-4:]) < 0.8 * np.mean(history[:4])
    train.save_checkpoint(model, 6, tmp_path / "few.pth")
    state = check_official(tmp_path / "few.pth")
    assert int(state["bn1.num_batches_tracked"]) == 24


def test_training_is_reproducible():
    settings = replace(train.SMOKE, scenes=4, steps=3)
    (_, one), (_, again) = train.train(settings, CPU), train.train(settings, CPU)
    assert one == again


def test_the_saved_network_is_the_trained_one(tmp_path):
    model, _ = train.train(replace(train.SMOKE, scenes=4, steps=2), CPU)
    train.save_checkpoint(model, 0, tmp_path / "two.pth")
    source = load(tmp_path / "two.pth")
    images = torch.rand(1, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.eval()(images)[-1]
        found = source.reference(source.module, {source.spec.inputs[0].name: images})
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor.contiguous(), rtol=1e-4, atol=1e-5)


def test_the_command_trains_and_saves(tmp_path, monkeypatch, capsys):
    path = tmp_path / "smoke.pth"
    monkeypatch.setattr(sys, "argv", ["train.py", "--smoke", "--output", str(path), "--device", "cpu"])
    train.main()
    check_official(path)
    assert str(path) in capsys.readouterr().out


def test_the_learning_rate_warms_up_and_drops_twice():
    settings = train.Settings(steps=1000, warmup=100, drops=(0.7, 0.9))
    rates = [train.rate_factor(settings, step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[99:700] == pytest.approx([1.0] * 601)
    assert rates[700:900] == pytest.approx([0.1] * 200)
    assert rates[900:] == pytest.approx([0.01] * 100)


def test_images_are_prepared_as_the_adapter_prepares_them():
    """The official code has its constants in three digits and in eight; training used the former."""
    preprocess = centernet.convkit_preprocess(load(SHIPPED).spec.preprocess)
    image = cv2.imread(str(DIGITS / "heldout" / "images" / "0003.jpg"))
    found = train.normalise(torch.from_numpy(image)[None])[0]
    np.testing.assert_allclose(found.numpy(), preprocess(image).tensors["images"], atol=0.003)


def test_every_scene_of_the_pool_is_seen_once_a_round():
    pool = ScenePool(torch.arange(10).view(10, 1), torch.arange(10), torch.arange(10))
    seen = torch.cat([labels for _, _, labels in pool.batches(batch=4, steps=5, seed=0)])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()


@pytest.mark.slow
def test_processes_render_the_same_pool_as_one():
    alone, shared = (ScenePool.render(130, seed=5, size=(64, 64), workers=workers, device=CPU) for workers in (0, 2))
    for one, same in zip(
        (alone.images, alone.boxes, alone.labels), (shared.images, shared.boxes, shared.labels), strict=True
    ):
        assert torch.equal(one, same)
    assert (alone.labels >= 0).sum(1).min() >= 2
    assert alone.images.float().std(dim=(1, 2, 3)).min() > 0


def test_the_shipped_checkpoint_is_official_and_has_the_layout_of_the_script():
    shipped = check_official(SHIPPED)
    fresh = train.build(train.LAYOUT).state_dict()
    assert {name: tensor.shape for name, tensor in shipped.items()} == {n: t.shape for n, t in fresh.items()}
    assert int(shipped["bn1.num_batches_tracked"]) == train.Settings().steps


@pytest.mark.slow
def test_the_shipped_checkpoint_finds_digits_it_never_saw():
    """On the first 60 held-out images; all 200 give AP 0.82 and AP50 0.96."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(DIGITS / "heldout" / "annotations.json"))
    source = load(SHIPPED)
    preprocess = centernet.convkit_preprocess(source.spec.preprocess)
    decode = centernet.convkit_decode(source.spec.decode)
    rows, chosen = [], sorted(truth.imgs)[:60]
    for image_id in chosen:
        prepared = preprocess(cv2.imread(str(DIGITS / "heldout" / "images" / truth.imgs[image_id]["file_name"])))
        with torch.no_grad():
            inputs = {source.spec.inputs[0].name: torch.from_numpy(prepared.tensors["images"])[None]}
            outputs = source.reference(source.module, inputs)
        (found,) = decode({name: value.numpy() for name, value in outputs.items()}, [prepared.meta])
        assert isinstance(found, Detections)
        for (x1, y1, x2, y2), score, label in zip(found.boxes, found.scores, found.class_ids, strict=True):
            rows.append([image_id, x1, y1, x2 - x1, y2 - y1, score, label + 1])
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(truth, truth.loadRes(np.array(rows, np.float64)), "bbox")
        judge.params.imgIds = chosen
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    assert judge.stats[0] >= 0.7
    assert judge.stats[1] >= 0.9
