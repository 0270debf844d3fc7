"""Train the digit classifier on scikit-learn's digits: half a minute on one CPU core.

    python train.py                  # writes digits.pt and convkit_adapter_minimal/samples.png

The last 450 of the 1797 scans, in the order of the file, are never trained on; the accuracy on them is printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from convkit_adapter_minimal.network import DigitNet
from sklearn.datasets import load_digits
from torch import nn

HERE = Path(__file__).parent
HELD_OUT = 450
SAMPLES = 40
"""Held-out digits that the package carries as representative images, in ten columns."""


def split() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the images [N, 1, 8, 8] in 0..1 and labels to train on, then those held out."""
    digits = load_digits()
    images = torch.from_numpy(digits.images.astype(np.float32))[:, None] / 16
    labels = torch.from_numpy(digits.target)
    return images[:-HELD_OUT], labels[:-HELD_OUT], images[-HELD_OUT:], labels[-HELD_OUT:]


def jitter(images: torch.Tensor) -> torch.Tensor:
    """Return the images slightly turned, scaled, sheared and moved, each in its own way."""
    count = len(images)
    angle, shear = torch.randn(count) * 0.12, torch.randn(count) * 0.1
    scale = 1 + torch.randn(count, 2) * 0.08
    rows = torch.stack(
        [
            torch.stack([angle.cos() * scale[:, 0], shear - angle.sin(), torch.randn(count) * 0.1], 1),
            torch.stack([angle.sin(), angle.cos() * scale[:, 1], torch.randn(count) * 0.1], 1),
        ],
        1,
    )
    grid = nn.functional.affine_grid(rows, list(images.shape), align_corners=False)
    moved = nn.functional.grid_sample(images, grid, align_corners=False)
    return (moved * (1 + torch.randn(count, 1, 1, 1) * 0.1)).clamp(0, 1)


def train(widths: tuple[int, ...], epochs: int, seed: int) -> DigitNet:
    """Train with Adam and a cosine schedule; return the network in eval mode."""
    torch.manual_seed(seed)
    images, labels, _, _ = split()
    net = DigitNet(widths, classes=10)
    optimizer = torch.optim.AdamW(net.parameters(), 5e-3, weight_decay=1e-2)
    batches = len(images) // 64
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    for _ in range(epochs):
        for rows in torch.randperm(len(images))[: batches * 64].view(batches, 64):
            loss = nn.functional.cross_entropy(net(jitter(images[rows]))["logits"], labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def accuracy(net: DigitNet) -> float:
    """Return the share of held-out digits that the network names rightly."""
    _, _, images, labels = split()
    with torch.no_grad():
        return float((net(images)["logits"].argmax(1) == labels).float().mean())


def write_samples(path: Path) -> None:
    """Write held-out digits as one PNG sheet of 8x8 tiles."""
    _, _, images, _ = split()
    tiles = (images[:: HELD_OUT // SAMPLES][:SAMPLES, 0] * 255).round().byte().numpy()
    sheet = np.concatenate([np.concatenate(row, axis=1) for row in tiles.reshape(-1, 10, *tiles.shape[1:])])
    cv2.imwrite(str(path), sheet)


def main() -> None:
    """Train, report and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=HERE / "digits.pt")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    widths = (16, 32, 48)
    net = train(widths, options.epochs, options.seed)
    torch.save({"arch": {"widths": list(widths), "classes": 10}, "weights": net.state_dict()}, options.output)
    write_samples(HERE / "convkit_adapter_minimal" / "samples.png")
    print(f"{options.output}: {accuracy(net):.2%} of the {HELD_OUT} held-out digits are right")


if __name__ == "__main__":
    main()
