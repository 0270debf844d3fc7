"""Images to the input tensor on a GPU: the warp kernel, torch's grid_sample, OpenCV plus upload, and the byte floor.

Needs PyTorch with CUDA, cupy and OpenCV. One call is CenterNet's preprocess of a batch of equal images into float16
planes. GPU times are medians of CUDA-graph replays that go through input sets larger than the L2 cache together. The
floor is the time to move the output and those sectors of 32 bytes of the images that hold a sampled pixel, at the
bandwidth of a large copy in the same run. torch's float16 route has float16 coordinates, too, whose steps are up to
half a pixel of 1920. OpenCV's time is the host's preprocess on all its threads with the upload of the finished float32
tensor; beside it stands ours with the upload of the whole images.

With ``--letterbox`` the preprocess is that of the YOLO family instead: cv2.resize and a grey border, RGB from 0 to 1.
The kernel replicates the edge of the image (EDGE=1); torch's route is interpolate and pad. The last column then counts
values that differ by more than one 8-bit level, which is the rounding of cv2.resize; if there are any, the script
ends with 1.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import cupy
import cv2
import numpy as np
import torch

from convkit import Placement, Prepared
from convkit.processing.image_warp import ImageWarp, SourceImage
from convkit_models.centernet._preprocess import INPUT, Affine

SPEC = {
    "resize": "fix_res",
    "pad": 31,
    "mean": (0.40789654, 0.44719302, 0.47026115),
    "std": (0.28863828, 0.27408164, 0.27809835),
}
GREY = (114, 114, 114)
SIZES = ((1080, 1920), (720, 1280), (480, 640))
SMALL_SIZES = ((240, 320), (97, 61))
"""Images that only a letterbox enlarges."""
BATCHES = (1, 8, 32)
SETS_BYTES = 400 << 20
THREADS = len(os.sched_getaffinity(0))


def graph_microseconds(calls: Sequence[Callable[[], object]], repeats: int = 15) -> float:
    """Return the median time of one call: all are captured in one graph, which is replayed."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls:
            call()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for call in calls:
                call()
        times = []
        for _ in range(repeats + 3):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record(stream)
            graph.replay()
            end.record(stream)
            end.synchronize()
            times.append(start.elapsed_time(end) * 1e3 / len(calls))
    return statistics.median(times[3:])


def host_microseconds(call: Callable[[], object], repeats: int) -> float:
    """Return the median wall-clock time of a call, waiting for the GPU."""
    times = []
    for _ in range(repeats + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e6)
    return statistics.median(times[2:])


def copy_bandwidth() -> float:
    """Return the bytes per microsecond, read and written, of a copy of 1 GiB."""
    source = torch.zeros(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / graph_microseconds([lambda: target.copy_(source)] * 2)


def touched_bytes(table: np.ndarray, height: int, width: int) -> int:
    """Return the bytes of the 32-byte sectors that hold a neighbour inside the image of any output pixel."""
    total = 0
    x, y = np.arange(width), np.arange(height)[:, None]
    for record in table:
        (a, b, c), (d, e, f) = record["matrix"].astype(np.float64)
        left, top = np.floor(a * x + b * y + c).astype(int), np.floor(d * x + e * y + f).astype(int)
        sectors = []
        for row, column in ((top + i, left + j) for i in (0, 1) for j in (0, 1)):
            inside = (row >= 0) & (row < record["height"]) & (column >= 0) & (column < record["width"])
            first = record["offset"] + row[inside] * int(record["pitch"]) + column[inside] * 3
            sectors += [first // 32, (first + 2) // 32]
        total += 32 * np.unique(np.concatenate(sectors)).size
    return total


class Letterbox:
    """The preprocess of the YOLO family on the host, by OpenCV, and its device side, by the warp kernel."""

    def __init__(self, side: int) -> None:
        self.side = side
        levels = np.tile(np.arange(256, dtype=np.float32) / np.float32(255), (3, 1))
        self.warp = ImageWarp(levels, border=GREY, swap=True, rounding="up", edge="replicate")
        self.record = self.warp.record

    def rectangle(self, rows: int, columns: int) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom of the image in the tensor."""
        scale = self.side / max(rows, columns)
        width, height = round(columns * scale), round(rows * scale)
        left, top = (self.side - width) // 2, (self.side - height) // 2
        return left, top, left + width, top + height

    def __call__(self, image: np.ndarray) -> Prepared:
        """Return the tensor as the host makes it."""
        left, top, right, bottom = self.rectangle(*image.shape[:2])
        small = cv2.resize(image, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
        sides = (top, self.side - bottom, left, self.side - right)
        levels = cv2.copyMakeBorder(small, *sides, cv2.BORDER_CONSTANT, value=GREY)[..., ::-1].transpose(2, 0, 1)
        return Prepared({INPUT: levels.astype(np.float32) / np.float32(255)})

    def place(self, image: np.ndarray) -> Placement:
        """Return the placement of an image."""
        rows, columns = image.shape[:2]
        left, top, right, bottom = self.rectangle(rows, columns)
        across, down = columns / (right - left), rows / (bottom - top)
        matrix = [[across, 0, (0.5 - left) * across - 0.5], [0, down, (0.5 - top) * down - 0.5]]
        source = self.warp.image(rows, columns, matrix, rectangle=(left, top, right, bottom))
        return Placement({INPUT: (3, self.side, self.side)}, {}, image, source)

    def row(self, placement: Placement, offset: int) -> tuple[Any, ...]:
        """Return the record of an image."""
        return self.warp.row(placement.detail, offset)

    def launch(self, records: Any, payloads: Any, tensors: Any, stream: int) -> None:
        """Fill the tensor."""
        self.warp.launch(records, payloads, tensors[INPUT], stream)


class Case:
    """A batch of random images of one size, several times over, and the routes to the tensor."""

    def __init__(self, batch: int, rows: int, columns: int, side: int, letterbox: bool) -> None:
        self.batch, self.side = batch, side
        self.host: Any = Letterbox(side) if letterbox else Affine({**SPEC, "height": side, "width": side})
        self.device = self.host if letterbox else self.host.on_device()
        self.rectangle = self.host.rectangle(rows, columns) if letterbox else None
        self.images = np.random.default_rng(0).integers(0, 256, (batch, rows, columns, 3), dtype=np.uint8)
        offsets = [index * rows * columns * 3 for index in range(batch)]
        placements = [self.device.place(image) for image in self.images]
        rows_of = zip(placements, offsets, strict=True)
        self.records = np.array([self.device.row(*each) for each in rows_of], self.device.record)
        sources = self.records["image"] if letterbox else self.records
        self.bytes = touched_bytes(sources, side, side) + batch * 3 * side * side * 2
        sets = max(2, -(-SETS_BYTES // (self.images.nbytes + batch * 3 * side * side * 2)))
        self.table = torch.from_numpy(self.records.view(np.uint8).reshape(batch, -1)).cuda()
        self.pixels = [torch.from_numpy(self.images).cuda() for _ in range(sets)]
        shape = (batch, 3, side, side)
        self.outputs = [torch.full(shape, float("nan"), dtype=torch.float16, device="cuda") for _ in range(sets)]
        self.grid = self._grid(placements[0].detail, rows, columns)
        self.mean, self.std = (torch.tensor(SPEC[key], device="cuda").view(1, 3, 1, 1) for key in ("mean", "std"))

    def _grid(self, image: SourceImage, rows: int, columns: int) -> torch.Tensor:
        """Return the sampling points in torch's units (align_corners), once for all calls."""
        y, x = torch.meshgrid(*(torch.arange(self.side, dtype=torch.float64),) * 2, indexing="ij")
        points = [line[0] * x + line[1] * y + line[2] for line in image.matrix.tolist()]
        scaled = [2 * point / (size - 1) - 1 for point, size in zip(points, (columns, rows), strict=True)]
        return torch.stack(scaled, -1).float().cuda().expand(self.batch, -1, -1, -1)

    def ours(self, index: int) -> None:
        """Launch the kernel on one of the sets."""
        stream = torch.cuda.current_stream().cuda_stream
        self.device.launch(self.table, self.pixels[index].view(-1), {INPUT: self.outputs[index]}, stream)

    def torch_route(self, index: int, dtype: torch.dtype) -> torch.Tensor:
        """Do it with torch's operators."""
        image = self.pixels[index].permute(0, 3, 1, 2).to(dtype)
        if self.rectangle:
            left, top, right, bottom = self.rectangle
            small = torch.nn.functional.interpolate(image, (bottom - top, right - left), mode="bilinear")
            sides = (left, self.side - right, top, self.side - bottom)
            return (torch.nn.functional.pad(small, sides, value=GREY[0]).flip(1) / 255).half()
        sampled = torch.nn.functional.grid_sample(image, self.grid.to(dtype), align_corners=True)
        return ((sampled / 255 - self.mean) / self.std).half()

    def opencv_route(self, pool: ThreadPoolExecutor, pinned: torch.Tensor, target: torch.Tensor) -> None:
        """Do it on the host, several images at a time, upload float32 and let the GPU round it."""

        def prepare(index: int) -> None:
            pinned.numpy()[index] = self.host(self.images[index]).tensors[INPUT]

        list(pool.map(prepare, range(self.batch)))
        target.copy_(pinned.cuda(non_blocking=True))

    def upload_and_warp(self, pinned: torch.Tensor) -> None:
        """Upload the images and launch the kernel."""
        self.pixels[0].copy_(pinned, non_blocking=True)
        self.ours(0)

    def measure(self) -> list[float]:
        """Return the number of wrong values and the times of ours, both of torch's, OpenCV's and ours with upload."""
        sets = range(len(self.pixels))
        found: list[float] = [self.wrong(), graph_microseconds([partial(self.ours, index) for index in sets])]
        for dtype in (torch.float32, torch.float16):
            found.append(graph_microseconds([partial(self.torch_route, index, dtype) for index in sets][:4]))
        images, target = torch.from_numpy(self.images).pin_memory(), torch.empty_like(self.outputs[0])
        staged = torch.empty(target.shape).pin_memory()
        with ThreadPoolExecutor(THREADS) as pool:
            cv2.setNumThreads(THREADS if self.batch == 1 else 1)  # within the image, or across the batch
            found.append(host_microseconds(partial(self.opencv_route, pool, staged, target), 5))
        found.append(host_microseconds(partial(self.upload_and_warp, images), 20))
        return found

    def wrong(self) -> int:
        """Return how many values of the kernel's output differ from the host's; of a letterbox by over one level."""
        self.ours(0)
        expected = np.stack([self.host(image).tensors[INPUT] for image in self.images[:2]]).astype(np.float16)
        found = self.outputs[0][:2].cpu().numpy()
        if not self.rectangle:
            return int((found != expected).sum())
        return int((np.rint(np.abs(found.astype(np.float32) - expected) * 255) > 1).sum())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=512, help="height and width of the tensor")
    parser.add_argument("--letterbox", action="store_true", help="the YOLO family's preprocess: resize and grey border")
    options = parser.parse_args()
    bandwidth = copy_bandwidth()
    print(f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}, {torch.cuda.get_device_name()}", end=", ")
    print(
        f"torch {torch.__version__}, cupy {cupy.__version__}, OpenCV {cv2.__version__} ({cv2.getNumThreads()} threads)"
    )
    print(f"Command: python {' '.join(sys.argv)}. Copy bandwidth {bandwidth / 1e6:.2f} TB/s. Microseconds:\n")
    print("| image | batch | MB touched | floor | ours | ratio | torch float32 | torch float16 |", end="")
    unlike = "over one level from" if options.letterbox else "unlike"
    print(f" OpenCV + upload | upload + ours | values {unlike} OpenCV's |")
    print("|---|" + "---:|" * 10)
    total = 0
    for rows, columns in (*SIZES, *SMALL_SIZES) if options.letterbox else SIZES:
        for batch in BATCHES:
            case = Case(batch, rows, columns, options.side, options.letterbox)
            wrong, ours, *others = case.measure()
            total += wrong
            floor = case.bytes / bandwidth
            cells = [f"{case.bytes / 1e6:.1f}", f"{floor:.1f}", f"{ours:.1f}", f"{ours / floor:.2f}"]
            cells += [f"{value:.0f}" for value in others]
            print(f"| {columns}x{rows} | {batch} | {' | '.join(cells)} | {wrong:.0f} |", flush=True)
    sys.exit(int(options.letterbox and total > 0))


if __name__ == "__main__":
    main()
