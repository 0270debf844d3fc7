"""Checks of the device sides of preprocess and decode, against the host, on a device made of host memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest

from convkit.errors import InputError
from convkit.model import BATCH, TensorSpec
from convkit.processing import (
    DeviceDecode,
    DevicePreprocess,
    ImageReader,
    Placement,
    Prepared,
    Preprocess,
    decode_batch,
    device_decode,
    device_preprocess,
    find_decode,
    find_preprocess,
    prepare,
)
from convkit.proof import shape_cases
from convkit.results import SLACK
from convkit.testing._fixtures import Fixtures
from convkit.testing._processing import odd_inputs, reference_outputs, what
from convkit.testing.cuda_host import HostDevice, host_device, host_problem

if TYPE_CHECKING:
    from convkit.model import ModelSpec, SourceModel
    from convkit.testing._subject import Subject

__all__ = ["DeviceChecks"]

_ALIGNMENT = 16  # of payloads, in bytes
_STEPS = (0, 63, 127, 191, 254)
"""8-bit levels whose next one shows what a level is worth in the tensor."""
_MEAN_SHARE = 0.3
"""Of the allowed difference: what it may be on average. Rounding to levels makes 0.25 of a level on average."""


class DeviceChecks(Fixtures):
    """What ``on_device()`` of a preprocess or decode promises.

    ``device_levels`` is by how many 8-bit levels of the image the tensors of both sides may differ; raw inputs that are
    no images allow for rounding only. ``gpu_only`` leaves these checks out: set it where a device side uses more of a
    GPU than kernels, memory and copies of `convkit.cuda`, and compare both sides on a GPU instead.
    """

    device_levels: ClassVar[float] = 1.0
    gpu_only: ClassVar[bool] = False

    def test_device_preprocess_gives_what_the_host_gives(
        self, subject: Subject, source: SourceModel, raws: Sequence[Any]
    ) -> None:
        """A failure means that ``convkit run --device cuda`` feeds the engine other tensors than the proof did.

        The message says what the tensors of the device side look like. Images are of several sizes and in one batch;
        the last item is there twice. Where the model's sizes vary, the largest are tried too. A letterbox of
        ``cv2.resize`` needs ``ImageWarp(..., edge="replicate")``.
        """
        spec = source.spec
        hosts = [find_preprocess(spec.preprocess)]
        if any(dim.dynamic for dim in spec.dims if dim.name != BATCH):
            hosts.append(find_preprocess(spec.preprocess, dict(shape_cases(spec.dims)[-1].item_sizes)))
        for host in hosts:
            known: list[tuple[Any, Prepared]] = []
            for number, raw in enumerate((*raws, *odd_inputs(host))):
                with suppress(InputError) if number >= len(raws) else nullcontext():
                    known.append((raw, prepare(spec, host, raw)))
            for last in (False, True):
                self._compare(spec, host, known, last)

    def test_device_decode_gives_what_the_host_gives(
        self, subject: Subject, source: SourceModel, raws: Sequence[Any]
    ) -> None:
        """A failure means that ``convkit run --device cuda`` shows other results than the proof saw.

        Both sides decode the same outputs of PyTorch, contiguous and channels-last. What differs is what the results'
        own ``compare`` cannot explain by rounding.
        """
        host = find_decode(source.spec.decode)
        if host is None:
            pytest.skip("the model has no decode")
        outputs, metas = reference_outputs(source, subject.samples(source, raws))
        expected = decode_batch(host, outputs, metas)
        for last in (False, True):
            with self._device() as gpu:
                device = device_decode(host)
                if device is None:
                    pytest.skip("the decode has no device side")
                arrays = _decoded(gpu, device, outputs, metas, last)
                found = device.read(arrays, metas)
            counts = [one.compare(one).expected for one in expected]
            assert any(counts), "the host finds nothing in any input: give the kit weights or raws that say something"
            assert len(found) == len(expected), f"read() returned {len(found)} results for {len(expected)} inputs"
            for raw, one, other in zip(raws, expected, found, strict=True):
                difference = one.compare(other)
                where = f"{what(raw)}, {'channels-last' if last else 'contiguous'} outputs"
                assert not difference.unexplained, (
                    f"{where}: {difference.matched} of {difference.expected} results are those of the host,"
                    f" {difference.unexplained} differ {difference.note}".rstrip()
                )
                for name, value in difference.figures.items():
                    limit = difference.floors.get(name, SLACK)
                    assert value <= limit, f"{where}: {name} is {value:.3g} for equal outputs; the limit is {limit}"

    def _compare(
        self, spec: ModelSpec, host: Preprocess, known: Sequence[tuple[Any, Prepared]], channels_last: bool
    ) -> None:
        """Compare both sides for inputs and what the host made of them."""
        inputs = {tensor.name: tensor for tensor in spec.inputs}
        limits = _limits(host, *known[0], self.device_levels)
        with self._device() as gpu:
            device = device_preprocess(host)
            if device is None:
                pytest.skip("the preprocess has no device side")
            size = device.record.itemsize
            assert size % 16 == 0, f"the record has {size} bytes, which is no multiple of 16"
            placements = [_placed(device, raw, prepared) for raw, prepared in known]
            for batch in _batches(inputs, placements):
                tensors = _launched(gpu, device, inputs, [placements[index] for index in batch], channels_last)
                for row, index in enumerate((*batch, batch[-1])):
                    for name, tensor in inputs.items():
                        found = tensors[name][row] if tensor.batched else tensors[name]
                        wanted = known[index][1].tensors[name]
                        _assert_near(found, wanted, limits[name], f"{what(known[index][0])}: {name!r}")

    @contextmanager
    def _device(self) -> Iterator[HostDevice]:
        """Run a device side on host memory, or skip where this machine cannot."""
        if self.gpu_only:
            pytest.skip("gpu_only: the device side runs on a GPU only")
        if problem := host_problem():
            pytest.skip(f"kernels cannot run on the CPU here: {problem}")
        try:
            with host_device() as device:
                yield device
        except ImportError as error:
            if (error.name or "").partition(".")[0] != "cupy":
                raise
            raise AssertionError(
                "the device side uses cupy, which this check cannot follow without a GPU: use upload, allocate and"
                " clear of convkit.cuda, or set gpu_only = True and compare both sides on a GPU"
            ) from error


def _placed(device: DevicePreprocess, raw: Any, prepared: Prepared) -> Placement:
    """Return the placement of a raw input after a comparison of its meta and shapes with the host's."""
    placement = device.place(raw)
    assert placement.meta == prepared.meta, f"{what(raw)}: place() gave the meta {placement.meta}, not {prepared.meta}"
    shapes = {name: tuple(shape) for name, shape in placement.shapes.items()}
    wanted = {name: value.shape for name, value in prepared.tensors.items()}
    assert shapes == wanted, f"{what(raw)}: place() gave the shapes {shapes}, not {wanted}"
    payload = placement.payload
    contiguous = isinstance(payload, np.ndarray) and payload.flags.c_contiguous
    assert contiguous, f"{what(raw)}: the payload of place() is no contiguous array"
    return placement


def _batches(inputs: Mapping[str, TensorSpec], placements: Sequence[Placement]) -> list[list[int]]:
    """Return which items go together: those of equal shapes, or each alone where an input has no batch axis."""
    groups: dict[Any, list[int]] = {}
    single = not all(tensor.batched for tensor in inputs.values())
    for index, placement in enumerate(placements):
        key = index if single else tuple(sorted((name, tuple(shape)) for name, shape in placement.shapes.items()))
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def _launched(
    gpu: HostDevice,
    device: DevicePreprocess,
    inputs: Mapping[str, TensorSpec],
    placements: Sequence[Placement],
    channels_last: bool,
) -> dict[str, np.ndarray]:
    """Return the input tensors that a launch fills for these items and the last one once more."""
    payloads, offsets = bytearray(), []
    for placement in placements:
        offsets.append(len(payloads))
        payloads += b"" if placement.payload is None else placement.payload.tobytes()
        payloads += bytes(-len(payloads) % _ALIGNMENT)
    pairs = list(zip(placements, offsets, strict=True))
    records = np.array([device.row(*pair) for pair in (*pairs, pairs[-1])], device.record)
    tensors = {}
    for name, shape in placements[0].shapes.items():
        full = (len(records), *shape) if inputs[name].batched else tuple(shape)
        tensors[name] = gpu.allocate(full, inputs[name].dtype, channels_last=channels_last and len(full) == 4)
    rows = gpu.upload(records.view(np.uint8).reshape(len(records), -1))
    device.launch(rows, gpu.upload(np.frombuffer(bytes(payloads), np.uint8)), tensors, gpu.stream)
    return {name: tensor.values for name, tensor in tensors.items()}


def _decoded(
    gpu: HostDevice,
    device: DeviceDecode,
    outputs: Mapping[str, np.ndarray],
    metas: Sequence[Mapping[str, Any]],
    channels_last: bool,
) -> dict[str, np.ndarray]:
    """Return what a launch writes for these outputs."""
    inputs = {}
    for spec in device.inputs:
        values = np.stack([device.values(meta)[spec.name] for meta in metas]).astype(spec.dtype)
        assert values.shape[1:] == spec.shape, f"values() gave {spec.name!r} the shape {values.shape[1:]}"
        inputs[spec.name] = gpu.upload(values)
    results = {spec.name: gpu.allocate((len(metas), *spec.shape), spec.dtype) for spec in device.results}
    arrays = {
        name: gpu.upload(value, channels_last=channels_last and value.ndim == 4) for name, value in outputs.items()
    }
    device.launch(arrays, inputs, results, gpu.stream)
    return {name: result.values.copy() for name, result in results.items()}


def _limits(host: Preprocess, raw: Any, prepared: Prepared, levels: float) -> dict[str, float]:
    """Return how much each tensor may differ: so many 8-bit levels of an image, and rounding."""
    worth = dict.fromkeys(prepared.tensors, 0.0)
    if isinstance(host.reader, ImageReader) and isinstance(raw, np.ndarray) and raw.dtype == np.uint8:
        for step in _STEPS:
            dark, light = (host(np.full_like(raw, level)).tensors for level in (step, step + 1))
            for name, value in dark.items():
                worth[name] = max(worth[name], float(np.abs(_exact(light[name]) - _exact(value)).max()))
    return {
        name: 0.0
        if not np.issubdtype(value.dtype, np.floating)
        else 1.01 * levels * worth[name] + 8 * float(np.finfo(value.dtype).eps) * float(np.abs(_exact(value)).max())
        for name, value in prepared.tensors.items()
    }


def _assert_near(found: np.ndarray, expected: np.ndarray, limit: float, where: str) -> None:
    """Compare a tensor of the device side with the host's."""
    error = np.abs(_exact(found) - _exact(expected))
    mean = float(error.mean())
    if error.max() <= limit and mean <= max(_MEAN_SHARE * limit, 1e-30):  # NaN is not
        return
    place = tuple(int(index) for index in np.unravel_index(int(np.nan_to_num(error, nan=np.inf).argmax()), error.shape))
    raise AssertionError(
        f"{where} differs from the host's by {error.max():.4g}, at {place}, and by {mean:.4g} on average;"
        f" the limits are {limit:.4g} and {_MEAN_SHARE * limit:.4g}{_likely(found, expected, mean)}"
    )


def _likely(found: np.ndarray, expected: np.ndarray, mean: float) -> str:
    """Return what the tensor looks like instead, where a usual mistake explains most of the difference."""
    usual = {}
    if expected.ndim == 3:
        usual["the order of the channels is reversed"] = expected[::-1]
        for axis, kind in ((1, "row"), (2, "column")):
            for step in (-1, 1):
                usual[f"the image is {'before' if step < 0 else 'behind'} its place by a {kind}"] = np.roll(
                    expected, step, axis
                )
        if expected.shape[1] == expected.shape[2]:
            usual["rows and columns are exchanged"] = expected.transpose(0, 2, 1)
    errors = {text: float(np.abs(_exact(found) - _exact(value)).mean()) for text, value in usual.items()}
    best = min(errors, key=errors.__getitem__, default="")
    return f"; it looks as if {best}" if best and errors[best] < mean / 2 else ""


def _exact(values: np.ndarray) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(values, np.float64)
