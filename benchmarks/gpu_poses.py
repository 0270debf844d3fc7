"""dla_34 and multi_pose at 512x512 in float16 on a GPU, beside PyTorch: the network, and pixels to poses.

Needs PyTorch with CUDA, cupy and torchvision. For each model and batch size all contenders are made first and
measured in turns: convkit's backend torch in a CUDA graph; eager PyTorch with torchvision's deformable convolution,
as called and "on the GPU alone", where the GPU begins when the host has launched everything; and PyTorch with
convkit's layer, eager and by torch.compile, in a CUDA graph. torchvision's layer cannot be captured (gpu_timing.py).
``rel_l2`` is the distance from float32 PyTorch of the head that is farthest from it, in results that the timed call
or replay wrote anew after they were overwritten; where it is 0.1 or more no time is shown.

The pipelines begin with images of 1280x720 pixels in the host's memory and end with boxes or poses there. PyTorch's
have OpenCV's preprocess and CenterNet's decode by torch's operators; network and decode are eager, with torchvision's
layer, or by torch.compile, with convkit's layer, in one CUDA graph. ``call_us`` is the time from a call to its
results, ``gpu_us`` that of the GPU's work in a graph, convkit's with preprocess. ``same`` is the share of convkit's
20 best results of the first image whose box is among the other's: corners within 2 % of its longer side and 1 pixel,
in the mean.

Artifacts are converted in parallel where the folder lacks them, with random weights (tests/support/checkpoints.py):
of deformable layers that amplify rounding less than those of the tests, because dla_34 has many in a row; and of
poses whose joints have few candidates, as trained networks have. ``MODEL.pth`` and ``MODEL`` there may have been made
before.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_pipeline import device_microseconds
from gpu_timing import captured, in_turns, machine, rates_in_turns, wall_in_turns
from gpu_torch import Heads, decode_boxes, decode_poses, on_gpu, usual_pipeline
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.checkpoints import make_checkpoint

import convkit
from convkit.backends import Engine
from convkit.backends.torch import Torch
from convkit.processing import synthetic_scenes
from convkit_models.centernet._names import INPUT
from convkit_models.centernet._preprocess import Affine
from convkit_models.centernet.networks import build, named

BOXES = {"hm": 80, "wh": 2, "reg": 2}
POSES = {"hm": 1, "wh": 2, "reg": 2, "hps": 34, "hm_hp": 17, "hp_offset": 2}
SIDE, SAMPLES = 512, 4
OURS, EAGER, ALONE = "convkit", "eager, torchvision's layer", "the same on the GPU alone"
GRAPH, COMPILED = "eager in a CUDA graph, our layer", "torch.compile in a CUDA graph, our layer"
SWING, TARGETS = 0.05, {"hps": (0.0, 0.5), "hm_hp": (-8.0, 1.7)}
WRONG = 0.1
"""The distance from float32 from which on results are wrong, and their time says nothing."""


@dataclass(frozen=True)
class Model:
    """A network with its heads, and how torch decodes them."""

    arch: str
    heads: Mapping[str, int]
    head_conv: int
    decode: Callable[[Mapping[str, Tensor]], Tensor]


MODELS = {
    "dla_34-multi_pose": Model("dla_34", POSES, 256, decode_poses),
    "dla_34-ctdet": Model("dla_34", BOXES, 256, decode_boxes),
    "resdcn_18-multi_pose": Model("resdcn_18", POSES, 64, decode_poses),
}


def make_artifacts(folder: Path, names: Sequence[str], form: str) -> list[str]:
    """Write what the folder lacks of weights and artifacts, all conversions at the same time; return what is there."""
    for name in names:
        model = MODELS[name]
        if not (folder / f"{name}.pth").exists():
            make_checkpoint(
                folder / f"{name}.pth", model.arch, heads=model.heads, width=1.0, head_conv=model.head_conv,
                swing=SWING, targets=TARGETS,
            )  # fmt: skip
    missing = [name for name in names if not (folder / name).exists()]
    threads = str(max(1, (os.cpu_count() or 2) // max(1, len(missing))))
    running = {}
    for name in missing:
        command = [sys.executable, "-m", "convkit", "convert", "centernet", "--weights", str(folder / f"{name}.pth")]
        command += ["--output", str(folder / name), "--shape", "batch=1:8:32", "--precision", "fp16", "--form", form]
        command += ["--backend", "torch", "--samples", "2"]
        running[name] = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "OMP_NUM_THREADS": threads},
        )  # fmt: skip
    begun, failed = time.perf_counter(), set()
    for name, process in running.items():
        said, _ = process.communicate()
        if process.returncode:
            failed.add(name)
            print(f"converting {name} failed with status {process.returncode}:\n{said[-3000:]}", file=sys.stderr)
        else:
            print(f"{name} was there, converted and proved, after {time.perf_counter() - begun:.0f} s", flush=True)
    return [name for name in names if name not in failed]


def network_of(folder: Path, name: str) -> nn.Module:
    """Return the network of a checkpoint on the host, in float32."""
    model = MODELS[name]
    network = build(named(model.arch, dict(model.heads), head_conv=model.head_conv, width=1.0))
    network.load_state_dict(torch.load(folder / f"{name}.pth", weights_only=True)["state_dict"])
    return network.eval()


def attempt(contenders: dict[str, Any], name: str, make: Callable[[], Any]) -> None:
    """Add a contender, or say why it cannot be made."""
    try:
        contenders[name] = make()
    except Exception as error:  # one that fails must not take the others' figures with it
        print(f"[{name}] {type(error).__name__}: {str(error)[:300]}", file=sys.stderr)
        traceback.print_exc(limit=-3)


@dataclass(frozen=True)
class Torches:
    """PyTorch's forms of a model on the GPU: with torchvision's layer, with convkit's, and that compiled."""

    names: tuple[str, ...]
    module: Heads
    layered: Heads
    compiled: Any
    decode: Callable[[Mapping[str, Tensor]], Tensor]

    def rows(self, module: Any, images: Tensor) -> Tensor:
        """Return decoded rows of float32 images on the GPU."""
        found = module(images.half().to(memory_format=torch.channels_last))
        return self.decode(dict(zip(self.names, found, strict=True)))

    def graph_of_rows(self, batch: int) -> tuple[Callable[[Tensor], Tensor], Callable[[], None]]:
        """Return network and decode by torch.compile as one CUDA graph, from a tensor on the host; and its replay."""
        buffer = torch.zeros(batch, 3, SIDE, SIDE, device="cuda")
        kept: list[Tensor] = []

        def body() -> None:
            kept[:] = [self.rows(self.compiled, buffer)]

        graph = captured(body)

        def run(images: Tensor) -> Tensor:
            buffer.copy_(images)
            graph.replay()
            return kept[0]

        return run, graph.replay


def network_times(torches: Torches, session: Any, images: Tensor, exact: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return microseconds and distance of each contender for a batch."""
    results: dict[str, dict[str, Tensor]] = {}
    half = images.half().to(memory_format=torch.channels_last)

    def ours() -> None:
        results[OURS] = session.program.run({INPUT: half})

    def theirs(name: str, module: Any) -> None:
        results[name] = dict(zip(torches.names, module(half), strict=True))

    def our_replay() -> Callable[[], None]:
        with session.settings():
            return captured(ours).replay

    contenders: dict[str, Callable[[], object]] = {}
    attempt(contenders, OURS, our_replay)
    attempt(contenders, EAGER, lambda: partial(theirs, EAGER, torches.module))
    attempt(contenders, ALONE, lambda: partial(theirs, ALONE, torches.module))
    attempt(contenders, GRAPH, lambda: captured(partial(theirs, GRAPH, torches.layered)).replay)
    if torches.compiled is not None:
        attempt(contenders, COMPILED, lambda: captured(partial(theirs, COMPILED, torches.compiled)).replay)
    times = in_turns(contenders, queued={ALONE})
    found = {}
    for name, call in contenders.items():
        for value in results[name].values():
            value.fill_(torch.nan)  # what a replay does not write anew must not look right
        call()
        distance = farthest(results[name], exact)
        found[name] = {"us": times[name] if distance < WRONG else None, "rel_l2": distance}
    return found


def farthest(found: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> float:
    """Return the relative L2 distance of the head that is farthest from the exact one; NaN where one holds a NaN."""
    distances = torch.stack(
        [(found[name][: len(right)].float() - right).norm() / right.norm() for name, right in exact.items()]
    )
    return float(distances.max())  # unlike Python's max it keeps a NaN


def pipeline_times(torches: Torches, predictor: Any, preprocess: Affine, batch: int) -> dict[str, Any]:
    """Return images per second, microseconds from a call to its results, and on the GPU, of each contender."""
    frames = synthetic_scenes(8, seed=3, height=720, width=1280) * 16
    few, many = frames[:batch], frames[: 32 * min(batch, 4)]

    def ours(images: Sequence[np.ndarray]) -> list[Any]:
        return list(predictor.stream(images, batch=batch))

    rates: dict[str, Callable[[], int]] = {OURS: lambda: len(ours(many))}
    calls: dict[str, Callable[[], Any]] = {OURS: lambda: ours(few)}
    for _ in range(6):
        ours(few)
    usual: dict[str, Any] = {}
    attempt(usual, EAGER, lambda: usual_pipeline(preprocess, lambda x: torches.rows(torches.module, x.cuda())))
    replays: dict[str, Callable[[], object]] = {}
    if torches.compiled is not None:

        def graphed() -> Any:
            run, replays[COMPILED] = torches.graph_of_rows(batch)
            return usual_pipeline(preprocess, run)

        attempt(usual, COMPILED, graphed)
    for name, run in usual.items():
        rates[name] = lambda run=run: len(run(few))  # type: ignore[misc]
        calls[name] = partial(run, few)
    done, waits = rates_in_turns(rates, 0.4), wall_in_turns(calls, 10)
    on_device = {OURS: device_microseconds(predictor, batch), **in_turns(replays)}
    found = {name: {"images_per_s": done[name], "call_us": waits[name], "gpu_us": on_device.get(name)} for name in done}
    for name, run in usual.items():
        found[name]["same"] = agreement(ours(few)[0], run(few)[0])
    return found


def agreement(ours: Any, rows: np.ndarray, count: int = 20) -> float:
    """Return the share of our best results whose box is that of one of the rows, to 2 % of its size in the mean."""
    boxes = np.asarray(ours.boxes[:count], np.float64)
    apart = np.abs(boxes[:, None] - rows[None, :, :4]).mean(axis=2).min(axis=1)
    return float((apart <= 0.02 * np.abs(boxes[:, 2:] - boxes[:, :2]).max(axis=1) + 1).mean())


def measure(folder: Path, name: str, options: argparse.Namespace, records: list[dict[str, Any]]) -> None:
    """Measure a model in all batch sizes; print each table as soon as it is known."""
    model, network = MODELS[name], network_of(folder, name)
    artifact = convkit.Artifact.open(folder / name)
    preprocess = Affine(artifact.manifest["model"]["preprocess"])
    prepared = np.stack([preprocess(image).tensors[INPUT] for image in synthetic_scenes(SAMPLES, seed=1)])
    samples = torch.from_numpy(prepared).cuda()
    heads = tuple(model.heads)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        found = Heads(network, heads, torchvision=False).cuda()(samples[:1])
    exact = dict(zip(heads, found, strict=True))
    module, layered = (on_gpu(network, heads, torchvision=theirs) for theirs in (True, False))
    torch._dynamo.reset()
    compiled = torch.compile(layered, dynamic=False) if options.compile else None
    torches = Torches(heads, module, layered, compiled, model.decode)
    session: Any = Torch().open(Engine("torch", artifact.model), device="cuda")
    with ExitStack() as stack:
        # an artifact that was made before may have come without its samples
        given: dict[str, Any] = {"backend": "torch", "device": "cuda", "verify": False, "unproved": True}
        predictor = stack.enter_context(convkit.load(artifact.path, **given)) if options.pipeline else None
        for batch in options.batches:
            images = samples.repeat(-(-batch // SAMPLES), 1, 1, 1)[:batch]
            networks = network_times(torches, session, images, exact)
            report(f"{name}, batch {batch}", networks, ("us", "rel_l2"))
            pipelines = pipeline_times(torches, predictor, preprocess, batch) if predictor else {}
            if pipelines:
                report(f"images of 1280x720, batch {batch}", pipelines, ("images_per_s", "call_us", "gpu_us", "same"))
            records.append({"model": name, "batch": batch, "network": networks, "pipeline": pipelines})
            gc.collect()
            torch.cuda.empty_cache()


def report(title: str, found: Mapping[str, Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print a table: a row for each contender."""
    print(f"| {title} | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, values in found.items():
        print(f"| {name} | {' | '.join(shown(values.get(column)) for column in columns)} |")
    print(flush=True)


def shown(value: float | None) -> str:
    """Return a number as a cell shows it."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 10 else f"{value:.2f}" if value >= 0.05 else f"{value:.1e}"


def main() -> int:
    """Print the tables; return 1 where a conversion failed, whose model is then left out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32], help="none: convert only")
    parser.add_argument("--artifacts", type=Path, help="folder of weights and artifacts, which are kept there")
    parser.add_argument("--form", default="heads", choices=("heads", "detections"), help="of artifacts that are made")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave torch.compile out")
    parser.add_argument("--no-pipeline", dest="pipeline", action="store_false", help="measure networks only")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = options.artifacts or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        models = make_artifacts(folder, options.models, options.form)
        head, records = machine(), []  # type: ignore[var-annotated]
        print(head, end="\n\n", flush=True)
        torch.backends.cudnn.benchmark = True
        with torch.inference_mode():
            for model in models if options.batches else ():
                measure(folder, model, options, records)
                if options.json:
                    options.json.write_text(json.dumps({"machine": head, "results": records}, indent=2) + "\n")
    return int(models != options.models)


if __name__ == "__main__":
    sys.exit(main())
