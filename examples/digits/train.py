"""Train a narrow CenterNet to find handwritten digits, with the loss and the schedule of the official code.

    python examples/digits/train.py --output digits_resdcn18.pth
    python examples/digits/train.py --output smoke.pth --smoke

The network is the ``resdcn_18`` layout with narrower layers. The file that is written is an official checkpoint:
``{"epoch": ..., "state_dict": ...}`` with the official names, in float32.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from objective import STRIDE, encode, losses
from pool import ScenePool
from sources import NAMES
from torch import Tensor, nn

from convkit_models.centernet.networks import BLOCKS, Head, ResNetLayout, Stage, Step, build

__all__ = ["LAYOUT", "MEAN", "SMOKE", "STD", "Settings", "normalise", "rate_factor", "save_checkpoint", "train"]

LAYOUT = ResNetLayout(
    family="resdcn",
    depth=18,
    stem=32,
    stages=tuple(
        Stage(inner=((width,),) * blocks, out=width)
        for width, blocks in zip((32, 64, 96, 128), BLOCKS[18], strict=True)
    ),
    steps=(Step(64, 64), Step(48, 48), Step(32, 32)),
    heads=(Head("hm", len(NAMES), 32), Head("wh", 2, 32), Head("reg", 2, 32)),
)
"""``resdcn_18`` with about a tenth of its parameters."""


@dataclass(frozen=True)
class Settings:
    """How to train. The defaults are those of the checkpoint that is shipped."""

    steps: int = 13000
    batch: int = 128
    scenes: int = 60000
    size: int = 256
    learning_rate: float = 1e-3
    warmup: int = 300
    drops: tuple[float, ...] = (0.7, 0.9)
    """After which share of the steps the learning rate falls to a tenth."""
    seed: int = 1
    workers: int = os.cpu_count() or 1
    """Processes that render scenes; 0 renders in this one."""
    log_every: int = 200


MEAN = (0.408, 0.447, 0.470)
"""COCO's mean of B, G, R, of pixels from 0 to 1, in the three digits of the official demo.

The official data sets have it in eight; no input differs by more than 0.003 for that.
"""
STD = (0.289, 0.274, 0.278)

SMOKE = Settings(steps=10, batch=4, scenes=16, size=96, warmup=2, workers=0, log_every=1)
"""A few steps that any processor does in seconds."""


def train(settings: Settings, device: torch.device) -> tuple[nn.Module, list[float]]:
    """Train from random weights; return the network and its mean loss over each stretch of ``log_every`` steps."""
    torch.manual_seed(settings.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    model = build(LAYOUT).to(device).train()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
    optimizer = torch.optim.Adam(model.parameters(), settings.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(settings, step))
    size = (settings.size, settings.size)
    pool = ScenePool.render(settings.scenes, seed=settings.seed, size=size, workers=settings.workers, device=device)

    history: list[float] = []
    running = torch.zeros(4, device=device)
    begun = time.perf_counter()
    for step, (images, boxes, labels) in enumerate(pool.batches(settings.batch, settings.steps, settings.seed), 1):
        targets = encode(boxes, labels, len(NAMES), (size[0] // STRIDE, size[1] // STRIDE))
        terms = losses(model(normalise(images))[-1], targets)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(terms.total)
        optimizer.step()
        schedule.step()
        running += torch.stack(terms).detach()
        if step % settings.log_every == 0:
            heat, extent, offset, total = (running / settings.log_every).tolist()
            running.zero_()
            history.append(total)
            print(
                f"step {step:6d}  loss {total:.4f}  heat {heat:.4f}  size {extent:.4f}  offset {offset:.4f}  "
                f"{time.perf_counter() - begun:.0f} s",
                flush=True,
            )
    return model, history


def normalise(images: Tensor) -> Tensor:
    """Turn uint8 ``[B, H, W, 3]`` in BGR into the network's input, float32 ``[B, 3, H, W]``."""
    mean = torch.tensor(MEAN, device=images.device)
    std = torch.tensor(STD, device=images.device)
    return ((images / 255.0 - mean) / std).permute(0, 3, 1, 2)


def rate_factor(settings: Settings, step: int) -> float:
    """Return the learning rate of a step as a share of the full one."""
    dropped = sum(step >= share * settings.steps for share in settings.drops)
    return float(min(1.0, (step + 1) / settings.warmup) * 0.1**dropped)


def save_checkpoint(model: nn.Module, epoch: int, path: Path) -> None:
    """Write ``{"epoch", "state_dict"}`` as the official code does, tensors on the CPU, in float32 and contiguous."""
    state = {
        name: tensor.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
        for name, tensor in model.state_dict().items()
    }
    torch.save({"epoch": epoch, "state_dict": state}, path)


def main() -> None:
    """Parse the command line, train and save."""
    default = Settings()
    parser = argparse.ArgumentParser(description="Train the digits demo.")
    parser.add_argument("--output", type=Path, required=True, help="the checkpoint to write")
    parser.add_argument("--smoke", action="store_true", help="a few small steps, to see that everything runs")
    parser.add_argument("--steps", type=int, default=default.steps)
    parser.add_argument("--batch", type=int, default=default.batch)
    parser.add_argument("--scenes", type=int, default=default.scenes, help="how many scenes to render for training")
    parser.add_argument("--learning-rate", type=float, default=default.learning_rate)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--workers", type=int, default=default.workers, help="processes that render the scenes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    chosen = {name: value for name, value in vars(options).items() if name in Settings.__dataclass_fields__}
    settings = SMOKE if options.smoke else replace(default, **chosen)

    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    print(f"torch {torch.__version__} on {name}: {settings}", flush=True)
    model, _ = train(settings, device)
    save_checkpoint(model, settings.steps * settings.batch // settings.scenes, options.output)
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
