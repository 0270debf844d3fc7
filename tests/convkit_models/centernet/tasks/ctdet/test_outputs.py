from __future__ import annotations

from typing import Any

import pytest
import torch
from support.checkpoints import make_network
from torch import Tensor, nn

from convkit.model import patched
from convkit_models.centernet.tasks.ctdet import output_patch, reference

FORMS = ("heads", "tensorrt-pro", "detections")


class Canned(nn.Module):
    """A network whose outputs are given."""

    def __init__(self, **heads: Tensor) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        return [self.heads]


def spec(form: str, topk: int = 20, sizes_per_class: bool = False) -> dict[str, Any]:
    return {"form": form, "topk": topk, "stride": 4, "sizes_per_class": sizes_per_class}


def canned(batch: int = 2, classes: int = 3, height: int = 6, width: int = 9, *, seed: int = 0) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {
        "hm": 3 * torch.randn(batch, classes, height, width, generator=rng) - 3,
        "wh": 9 * torch.rand(batch, 2, height, width, generator=rng),
        "reg": torch.rand(batch, 2, height, width, generator=rng),
    }


def official(module: nn.Module, settings: dict[str, Any]) -> tuple[Tensor, ...]:
    return tuple(reference(settings)(module, {"images": torch.zeros(1)}).values())


def exported(module: nn.Module, settings: dict[str, Any]) -> tuple[Tensor, ...]:
    with patched(module, [output_patch(settings)]) as records:
        result: tuple[Tensor, ...] = module(torch.zeros(1))
    assert [record.fired for record in records] == [1]
    return result


def assert_equal(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], *, scores: bool = False) -> None:
    """Compare to the last bit; ``scores`` allows what torch's sigmoid varies by with the place in memory."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=2.5e-7 if scores else 0, atol=0)


def variants() -> dict[str, dict[str, Any]]:
    plain = canned()
    per_class = {**plain, "wh": 9 * torch.rand(2, 6, 6, 9, generator=torch.Generator().manual_seed(1))}
    return {
        "plain": {"heads": plain},
        "one class": {"heads": canned(classes=1)},
        "one row": {"heads": canned(height=1, width=30)},
        "no offset": {"heads": {name: value for name, value in plain.items() if name != "reg"}},
        "sizes per class": {"heads": per_class, "sizes_per_class": True},
        "sizes per class, no offset": {
            "heads": {name: value for name, value in per_class.items() if name != "reg"},
            "sizes_per_class": True,
        },
        "every cell asked for": {"heads": plain, "topk": 54},
        "double": {"heads": {name: value.double() for name, value in plain.items()}},
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("variant", variants())
def test_the_graph_computes_what_the_official_code_does(form: str, variant: str) -> None:
    settings = variants()[variant]
    module = Canned(**settings.pop("heads"))
    options = spec(form, **settings)
    found, expected = exported(module, options), official(module, options)
    if form == "detections":
        found, expected = without_padding(found), without_padding(expected)
    assert_equal(found, expected, scores=form == "detections")


def without_padding(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Blank the rows of score 0, of which there are as many as peaks are missing and whose place means nothing."""
    (rows,) = outputs
    return (torch.where(rows[..., 4:5] > 0, rows, torch.zeros(())),)


@pytest.mark.parametrize("form", FORMS)
def test_a_whole_network(form: str) -> None:
    network = make_network("resdcn_18", width=0.05)
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    options = spec(form)
    with torch.no_grad():
        expected = tuple(reference(options)(network, {"images": images}).values())
        with patched(network, [output_patch(options)]):
            found = network(images)
    assert isinstance(found, tuple)
    assert_equal(found, expected, scores=form == "detections")


def test_heads_come_in_a_fixed_order() -> None:
    heads = canned()
    module = Canned(reg=heads["reg"], wh=heads["wh"], hm=heads["hm"])
    assert list(reference(spec("heads"))(module, {"images": torch.zeros(1)})) == ["hm", "wh", "reg"]


def test_packed_columns() -> None:
    """Column by column and cell by cell: reg x, reg y, w, h, logits, logits pooled over the neighbours."""
    heads = canned(batch=1, classes=2, height=3, width=4)
    (rows,) = official(Canned(**heads), spec("tensorrt-pro"))
    assert rows.shape == (1, 12, 8)
    for y in range(3):
        for x in range(4):
            row = rows[0, y * 4 + x]
            assert row[:2].tolist() == heads["reg"][0, :, y, x].tolist()
            assert row[2:4].tolist() == heads["wh"][0, :, y, x].tolist()
            for label in range(2):
                plane = heads["hm"][0, label]
                around = plane[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
                assert row[4 + label] == plane[y, x]
                assert row[6 + label] == around.max()


def test_packed_form_without_offsets_has_the_middle_of_the_cell() -> None:
    heads = canned()
    del heads["reg"]
    (rows,) = official(Canned(**heads), spec("tensorrt-pro"))
    assert (rows[..., :2] == 0.5).all()


def test_detections_by_hand() -> None:
    hm = torch.full((1, 2, 4, 5), -5.0)
    hm[0, 1, 2, 3], hm[0, 0, 0, 0], hm[0, 0, 0, 1] = 2.0, 1.0, 0.5
    wh, reg = torch.zeros(1, 2, 4, 5), torch.zeros(1, 2, 4, 5)
    wh[0, :, 2, 3], reg[0, :, 2, 3] = torch.tensor([3.0, 1.0]), torch.tensor([0.25, 0.75])
    for run in (official, exported):
        (rows,) = run(Canned(hm=hm, wh=wh, reg=reg), spec("detections", topk=2))
        assert rows.shape == (1, 2, 6)
        torch.testing.assert_close(rows[0, 0], torch.tensor([7.0, 9.0, 19.0, 13.0, 0.8807971, 1.0]))
        torch.testing.assert_close(rows[0, 1], torch.tensor([0.0, 0.0, 0.0, 0.0, 0.7310586, 0.0]))


def test_missing_peaks_leave_rows_of_score_zero() -> None:
    hm = torch.arange(20.0).reshape(1, 1, 4, 5) - 30
    for run in (official, exported):
        (rows,) = run(Canned(hm=hm, wh=torch.ones(1, 2, 4, 5)), spec("detections", topk=4))
        assert (rows[0, :, 4] > 0).tolist() == [True, False, False, False]


def test_saturated_neighbours_differ_as_documented() -> None:
    """Both scores round to 1: the official code keeps both cells, the graph only the higher."""
    hm = torch.full((1, 1, 4, 5), -5.0)
    hm[0, 0, 1, 1], hm[0, 0, 1, 2] = 20.0, 21.0
    module = Canned(hm=hm, wh=torch.ones(1, 2, 4, 5))
    counts = [int((run(module, spec("detections", topk=4))[0][..., 4] > 0.9).sum()) for run in (official, exported)]
    assert counts == [2, 1]


def test_the_patch_comes_off() -> None:
    module = Canned(**canned())
    exported(module, spec("tensorrt-pro"))
    assert isinstance(module(torch.zeros(1)), list)
    assert "forward" not in vars(module)
