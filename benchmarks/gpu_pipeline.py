"""resdcn_18 at 512x512, 80 classes, float16, on a GPU: the network by several engines, and images to boxes.

Needs PyTorch with CUDA, cupy and torchvision; onnxruntime-gpu where it is there. The weights are random and
well-conditioned (tests/support/checkpoints.py). GPU times are medians of CUDA events around one call or one replay of
a CUDA graph; ``rel L2`` is the distance from float32 PyTorch of the heat map of what was timed. torchvision's layer
cannot be captured (gpu_timing.py): "on the GPU alone" is one call that waits in the GPU's queue until the host has
launched all of it. The pipeline begins with images of 1280x720 pixels in the host's memory and ends with boxes there;
its images per second are wall-clock time: of streams of 128 images (32 at batch 1), which are 4 batches of 32 whose
first and last have little to overlap with, and of streams of 32 batches.

``--engines`` and ``--pipeline`` choose what is measured; with no value, the table is left out. torch.compile has
to be asked for, because it takes long: minutes with ``--compile-mode max-autotune-no-cudagraphs``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_timing import (
    event_microseconds,
    graph_microseconds,
    images_per_second,
    machine,
    queued_microseconds,
    wall_in_turns,
    with_result,
)
from gpu_torch import Heads, decode_boxes, on_gpu, usual_pipeline
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.checkpoints import make_checkpoint, make_network

import convkit
from convkit.backends import Engine
from convkit.backends.torch import Torch
from convkit.processing import synthetic_scenes
from convkit_models.centernet._names import INPUT
from convkit_models.centernet._preprocess import Affine

HEADS = {"hm": 80, "wh": 2, "reg": 2}
ENGINES = ("convkit", "onnxruntime", "eager", "compile")
LAYERS = ("torchvision", "convkit")
PIPELINES = {"usual": "", "torch": "float16", "onnxruntime": "float32"}
"""Who runs the second table, and in which type; float16 is that of a typed artifact."""


def distance(found: Any, right: Tensor) -> str:
    """Return the relative L2 distance of a heat map from the right one."""
    found = torch.as_tensor(found).float().cuda()
    return f"{float((found - right).norm() / right.norm()):.1e}"


Row = tuple[str, list[str], str]


def measured(name: str, make: Callable[[Tensor], tuple[float, Any]], inputs: Sequence[Tensor], right: Tensor) -> Row:
    """Return a row of the table; ``make`` returns the time and the heat map of a batch."""
    cells, quality = [], ""
    for images in inputs:
        try:
            micro, heat = make(images)
        except Exception as error:
            text = (str(error).splitlines() or [type(error).__name__])[0]
            print(f"[{name}, batch {len(images)}] {type(error).__name__}: {text[:300]}", file=sys.stderr)
            cells.append("failed")
            continue
        cells.append(f"{micro:.0f}")
        if len(images) == len(inputs[0]):
            quality = distance(heat[: len(right)], right)
    return name, cells, quality


def torch_rows(
    network: nn.Module, inputs: Sequence[Tensor], right: Tensor, options: argparse.Namespace
) -> Iterator[Row]:
    """Yield eager and compiled PyTorch, with torchvision's layer and with ours."""
    for layer in options.layers:
        label, mode = f"{layer} DCN", options.compile_mode
        module = on_gpu(network, list(HEADS), torchvision=layer == "torchvision")
        alone = queued_microseconds if layer == "torchvision" else graph_microseconds
        how = "on the GPU alone" if layer == "torchvision" else "in a CUDA graph"

        def timed(measure: Callable[..., float], module: Any, images: Tensor) -> tuple[float, Tensor]:
            taken, heads = with_result(partial(module, images), measure)
            return taken, heads[0]

        if "eager" in options.engines:
            yield measured(f"PyTorch eager, {label}", partial(timed, event_microseconds, module), inputs, right)
            yield measured(f"PyTorch eager {how}, {label}", partial(timed, alone, module), inputs, right)
        if "compile" in options.engines:
            torch._dynamo.reset()
            compiled = torch.compile(module, mode=mode, dynamic=False)
            yield measured(f"torch.compile ({mode}) {how}, {label}", partial(timed, alone, compiled), inputs, right)


def program_row(model: Path, inputs: Sequence[Tensor], right: Tensor) -> Row:
    """Return the engine of the backend torch: the graph of the typed artifact, in a CUDA graph."""
    session: Any = Torch().open(Engine("torch", model), device="cuda")

    def run(images: Tensor) -> tuple[float, Tensor]:
        with session.settings():
            taken, heads = with_result(lambda: session.program.run({"images": images}), graph_microseconds)
        return taken, heads["hm"]

    return measured("convkit backend torch, fp16 artifact, in a CUDA graph", run, inputs, right)


def half_model(source: Path, target: Path) -> Path:
    """Write a graph of convolutions with every float32 constant, input and output in float16."""
    import onnx
    from onnx import TensorProto, numpy_helper

    model = onnx.load(str(source))
    for item in model.graph.initializer:
        if item.data_type == TensorProto.FLOAT:
            item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item).astype(np.float16), item.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    del model.graph.value_info[:]
    onnx.save(model, str(target))
    return target


def onnxruntime_rows(model: Path, inputs: Sequence[Tensor], right: Tensor) -> Iterator[Row]:
    """Yield ONNX Runtime's CUDA provider with I/O binding, plain and with its own CUDA graph."""
    try:
        from convkit._onnxruntime import onnxruntime
    except ImportError:
        yield "ONNX Runtime CUDA", ["not available"] * len(inputs), ""
        return
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        yield "ONNX Runtime CUDA", ["not available"] * len(inputs), ""
        return
    for title, settings in (
        ("", {}),
        (", with its CUDA graph", {"enable_cuda_graph": "1"}),
        (", with its CUDA graph and NHWC", {"enable_cuda_graph": "1", "prefer_nhwc": "1"}),
    ):

        def run(images: Tensor, settings: dict[str, str] = settings) -> tuple[float, Tensor]:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            # Not on PyTorch's stream: see convkit/backends/onnxruntime.py. A run waits until it is done.
            provider = ("CUDAExecutionProvider", settings)
            session = onnxruntime.InferenceSession(str(model), options, providers=[provider])
            if session.get_providers()[0] != "CUDAExecutionProvider":
                raise RuntimeError("the CUDA provider did not load")
            images = images.contiguous()
            side = images.shape[2] // 4
            outputs = {n: torch.empty(len(images), c, side, side, device="cuda").half() for n, c in HEADS.items()}
            binding = session.io_binding()
            binding.bind_input("images", "cuda", 0, np.float16, tuple(images.shape), images.data_ptr())
            for name, value in outputs.items():
                binding.bind_output(name, "cuda", 0, np.float16, tuple(value.shape), value.data_ptr())
            return event_microseconds(lambda: session.run_with_iobinding(binding)), outputs["hm"]

        yield measured(f"ONNX Runtime {onnxruntime.__version__} CUDA{title}", run, inputs, right)


def pipeline_rows(
    network: nn.Module,
    artifact: convkit.Artifact,
    typed: convkit.Artifact,
    batches: Sequence[int],
    pipelines: Sequence[str],
) -> Iterator[Sequence[str]]:
    """Yield the rows of the second table."""
    frames = synthetic_scenes(8, seed=3, height=720, width=1280) * 16
    if "usual" in pipelines:
        module = on_gpu(network, list(HEADS), torchvision=True)
        preprocess = Affine(artifact.manifest["model"]["preprocess"])

        def eager(images: Tensor) -> Tensor:
            found = module(images.cuda().half().to(memory_format=torch.channels_last))
            return decode_boxes(dict(zip(HEADS, found, strict=True)))

        usual = usual_pipeline(preprocess, eager)
        rates = [images_per_second(partial(_count, usual, frames[:batch])) for batch in batches]
        yield "usual: OpenCV, PyTorch eager, torch decode; images/s", *(f"{rate:.0f}" for rate in rates)
    for backend in (name for name in PIPELINES if name in pipelines and name != "usual"):
        name = f"convkit, {backend} ({PIPELINES[backend]})"
        try:
            # an artifact that was made before may have come without its samples
            path = (typed if PIPELINES[backend] == "float16" else artifact).path
            predictor: Any = convkit.load(path, backend=backend, device="cuda", verify=False, unproved=True)
            with predictor:
                columns: list[tuple[float, ...]] = [our_pipeline(predictor, frames, batch) for batch in batches]
                there = [torch.from_numpy(frame).cuda() for frame in frames]
                for place, batch in enumerate(batches):
                    few, many, _, wall = our_pipeline(predictor, there, batch)
                    columns[place] += few, many, wall
        except Exception as error:
            text = (str(error).splitlines() or [""])[0]
            print(f"[pipeline, {backend}] {type(error).__name__}: {text[:300]}", file=sys.stderr)
            yield name, *["not available"] * len(batches)
            continue
        for title, values in zip(
            (
                "images/s",
                "images/s of 32 batches",
                "preprocess, engine and decode on the GPU, us a batch",
                "from call to boxes, us a batch",
                "images on the GPU; images/s",
                "images on the GPU; images/s of 32 batches",
                "images on the GPU; from call to boxes, us a batch",
            ),
            zip(*columns, strict=True),
            strict=True,
        ):
            yield f"{name}; {title}", *(f"{value:.0f}" for value in values)


def our_pipeline(predictor: Any, frames: Sequence[Any], batch: int) -> tuple[float, float, float, float]:
    """Return images per second of a short and a long stream, and microseconds on the GPU and from call to boxes."""

    def once() -> list[Any]:
        return list(predictor.stream(frames[:batch], batch=batch))

    for _ in range(6):
        once()
    run = partial(_count, partial(predictor.stream, batch=batch))
    few, many = (
        images_per_second(partial(run, list(islice(cycle(frames), count))))
        for count in (32 * min(batch, 4), 32 * batch)
    )
    wall = wall_in_turns({"": once})[""]
    return few, many, device_microseconds(predictor, batch), wall


def device_microseconds(predictor: Any, batch: int) -> float:
    """Return the time of preprocess, engine and decode on the GPU for a batch that was run before."""
    slots = [slot for slots in predictor.pipeline._free for slot in slots]
    plan = next(plan for slot in slots for plan in slot.plans.values() if plan.batch == batch)
    stream = torch.cuda.ExternalStream(predictor.pipeline.device.stream)
    with torch.cuda.stream(stream), predictor.pipeline.device.active():
        return event_microseconds(partial(predictor.pipeline._run, plan))


def _count(run: Callable[[Sequence[np.ndarray]], Any], frames: Sequence[np.ndarray]) -> int:
    return len(list(run(frames)))


def build(folder: Path, precision: str) -> convkit.Artifact:
    """Return a fresh artifact of the network."""
    weights = make_checkpoint(folder / "net.pth", "resdcn_18", heads=HEADS, width=1.0, head_conv=64)
    return convkit.convert(
        "centernet", weights=weights, output=folder / precision, shape=["batch=1:8:32"], precision=precision,
        backend="torch",
    ).artifact  # fmt: skip


def network_rows(
    network: nn.Module, artifact: convkit.Artifact, typed: convkit.Artifact, folder: Path, options: argparse.Namespace
) -> Iterator[Row]:
    """Yield the rows of the first table."""
    preprocess = Affine(artifact.manifest["model"]["preprocess"])
    prepared = torch.from_numpy(np.stack([preprocess(image).tensors[INPUT] for image in synthetic_scenes(4, seed=1)]))
    inputs = [
        prepared.repeat(-(-batch // 4), 1, 1, 1)[:batch].cuda().half().to(memory_format=torch.channels_last)
        for batch in options.batches
    ]
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        right = Heads(network, list(HEADS), torchvision=False).cuda()(prepared[: min(4, options.batches[0])].cuda())[0]
    if "convkit" in options.engines:
        yield program_row(typed.model, inputs, right)
    if "onnxruntime" in options.engines:
        yield from onnxruntime_rows(half_model(artifact.model, folder / "half.onnx"), inputs, right)
    if "eager" in options.engines or "compile" in options.engines:
        yield from torch_rows(network, inputs, right, options)


def main() -> None:
    """Print both tables, each row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--artifact", type=Path, help="a float32 artifact of this network, made before")
    parser.add_argument("--typed", type=Path, help="one of --precision fp16, made before")
    parser.add_argument("--engines", nargs="*", choices=ENGINES, default=ENGINES[:3], help="of the first table")
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=LAYERS, help="DCN in eager and compile")
    parser.add_argument("--pipeline", nargs="*", choices=PIPELINES, default=list(PIPELINES), help="of the second table")
    parser.add_argument("--compile-mode", default="default", help="of torch.compile")
    options = parser.parse_args()
    print(machine(), end="\n\n", flush=True)
    network = make_network("resdcn_18", HEADS, width=1.0, head_conv=64)
    torch.backends.cudnn.benchmark = True
    header = " | ".join(f"b{batch}" for batch in options.batches)
    columns = "---|" * len(options.batches)
    with tempfile.TemporaryDirectory() as name:
        given = {"fp32": options.artifact, "fp16": options.typed}
        artifact, typed = (
            convkit.Artifact.open(path) if path else build(Path(name), precision) for precision, path in given.items()
        )
        if options.engines:
            print(f"| network only, us a batch | {header} | rel L2 |\n|---|{columns}---|", flush=True)
            with torch.inference_mode():
                for title, cells, quality in network_rows(network, artifact, typed, Path(name), options):
                    print(f"| {title} | {' | '.join(cells)} | {quality} |", flush=True)
            print()
        if options.pipeline:
            print(f"| images of 1280x720 | {header} |\n|---|{columns}", flush=True)
            with torch.inference_mode():
                for row in pipeline_rows(network, artifact, typed, options.batches, options.pipeline):
                    print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
