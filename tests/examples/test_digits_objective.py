"""The training objective of the digits demo against literal, one-object-at-a-time definitions in float64."""

from __future__ import annotations

import math

import numpy as np
import objective
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

CLASSES, ROWS, COLUMNS = 3, 24, 32
BOXES = [
    [(10.0, 12.0, 50.0, 40.0, 0), (60.0, 20.0, 127.5, 90.25, 2), (14.0, 15.0, 47.0, 42.0, 0)],
    [(0.0, 0.0, 7.0, 5.0, 1)],
    [],
]


def radius_by_roots(width: float, height: float, overlap: float = 0.7) -> float:
    """The larger roots of the three quadratics, each times its leading coefficient (the official code's omission)."""
    around, area = width + height, width * height
    cases = [
        (1.0, -around, area * (1 - overlap) / (1 + overlap)),
        (4.0, -2 * around, (1 - overlap) * area),
        (4 * overlap, 2 * overlap * around, (overlap - 1) * area),
    ]
    return min(case[0] * max(np.roots(case).real) for case in cases)


def splat(heat: np.ndarray, column: int, row: int, radius: int) -> None:
    sigma = (2 * radius + 1) / 6
    for y in range(heat.shape[0]):
        for x in range(heat.shape[1]):
            if abs(y - row) <= radius and abs(x - column) <= radius:
                bell = math.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * sigma**2))
                heat[y, x] = max(heat[y, x], bell)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    boxes, labels = torch.zeros(len(BOXES), 4, 4), torch.full((len(BOXES), 4), -1)
    for image, objects in enumerate(BOXES):
        for number, (*box, label) in enumerate(objects):
            boxes[image, number] = torch.tensor(box)
            labels[image, number] = label
    return boxes, labels


@given(width=st.integers(1, 200), height=st.integers(1, 200))
@settings(deadline=None)
def test_the_radius_is_the_smallest_of_three_cases(width, height):
    found = objective.gaussian_radius(torch.tensor(float(width)).double(), torch.tensor(float(height)).double())
    assert found.item() == pytest.approx(radius_by_roots(width, height), rel=1e-9)


def test_heat_maps_hold_one_splat_an_object():
    boxes, labels = batch()
    found = objective.encode(boxes, labels, CLASSES, (ROWS, COLUMNS)).heat.numpy()
    expected = np.zeros((len(BOXES), CLASSES, ROWS, COLUMNS))
    for image, objects in enumerate(BOXES):
        for x1, y1, x2, y2, label in objects:
            width, height = (x2 - x1) / 4, (y2 - y1) / 4
            radius = max(0, int(radius_by_roots(math.ceil(width), math.ceil(height))))
            splat(expected[image, label], int((x1 + x2) / 8), int((y1 + y2) / 8), radius)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (found == 1.0).sum() == 4
    assert not found[2].any()


def test_size_offset_and_cell_describe_the_box():
    boxes, labels = batch()
    found = objective.encode(boxes, labels, CLASSES, (ROWS, COLUMNS))
    assert found.present.sum(1).tolist() == [3, 1, 0]
    for image, objects in enumerate(BOXES):
        for number, box in enumerate(objects):
            row, column = divmod(int(found.cell[image, number]), COLUMNS)
            centre = torch.tensor([column, row]) + found.offset[image, number]
            half = found.size[image, number] / 2
            again = torch.cat([centre - half, centre + half]) * objective.STRIDE
            assert again.tolist() == pytest.approx(box[:4], abs=1e-4)
            assert ((found.offset[image, number] >= 0) & (found.offset[image, number] < 1)).all()


def test_focal_loss_is_its_definition():
    boxes, labels = batch()
    heat = objective.encode(boxes, labels, CLASSES, (ROWS, COLUMNS)).heat
    logits = 4 * torch.randn(heat.shape, generator=torch.Generator().manual_seed(0))
    total, centres = 0.0, 0
    for logit, wanted in zip(logits.double().flatten().tolist(), heat.flatten().tolist(), strict=True):
        p = min(max(1 / (1 + math.exp(-logit)), 1e-4), 1 - 1e-4)
        if wanted == 1.0:
            total, centres = total + (1 - p) ** 2 * math.log(p), centres + 1
        else:
            total += (1 - wanted) ** 4 * p**2 * math.log(1 - p)
    assert objective.focal_loss(logits, heat).item() == pytest.approx(-total / centres, rel=1e-5)


def test_focal_loss_of_an_empty_batch_is_not_divided_by_zero():
    heat = torch.zeros(1, CLASSES, 2, 2)
    p = 1 / (1 + math.exp(3.0))
    expected = -heat.numel() * p**2 * math.log(1 - p)
    assert objective.focal_loss(torch.full_like(heat, -3.0), heat).item() == pytest.approx(expected, rel=1e-5)


def test_the_sum_weighs_the_terms_as_published():
    boxes, labels = batch()
    targets = objective.encode(boxes, labels, CLASSES, (ROWS, COLUMNS))
    rng = torch.Generator().manual_seed(1)
    heads = {"hm": CLASSES, "wh": 2, "reg": 2}
    outputs = {name: torch.randn(3, width, ROWS, COLUMNS, generator=rng) for name, width in heads.items()}
    found = objective.losses(outputs, targets)

    errors: dict[str, list[float]] = {"wh": [], "reg": []}
    for image, objects in enumerate(BOXES):
        for x1, y1, x2, y2, _ in objects:
            x, y = (x1 + x2) / 8, (y1 + y2) / 8
            row, column = int(y), int(x)
            wanted = {"wh": ((x2 - x1) / 4, (y2 - y1) / 4), "reg": (x - column, y - row)}
            for name, values in wanted.items():
                for channel, value in enumerate(values):
                    errors[name].append(abs(outputs[name][image, channel, row, column].item() - value))
    size, offset = np.mean(errors["wh"]), np.mean(errors["reg"])
    assert found.size.item() == pytest.approx(size, rel=1e-4)
    assert found.offset.item() == pytest.approx(offset, rel=1e-4)
    heat = objective.focal_loss(outputs["hm"], targets.heat).item()
    assert found.total.item() == pytest.approx(heat + 0.1 * size + 1.0 * offset, rel=1e-5)


def test_the_loss_has_gradients_at_the_centres_only_for_size_and_offset():
    boxes, labels = batch()
    targets = objective.encode(boxes, labels, CLASSES, (ROWS, COLUMNS))
    outputs = {name: torch.zeros(3, 2, ROWS, COLUMNS, requires_grad=True) for name in ("wh", "reg")}
    heat = torch.zeros(3, CLASSES, ROWS, COLUMNS, requires_grad=True)
    objective.losses({"hm": heat, **outputs}, targets).total.backward()
    cells = {(image, int(cell)) for image, row in enumerate(targets.cell) for cell in row[targets.present[image]]}
    touched = outputs["wh"].grad.abs().sum(1).flatten(1).nonzero().tolist()
    assert {tuple(place) for place in touched} == cells
    assert heat.grad.abs().min() > 0
