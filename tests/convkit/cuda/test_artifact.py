"""The kernels of preprocess and decode go into the artifact, sealed like every file."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from support.plugins import registered
from support.sample_kernels import REVERSE, SCALE
from support.toy import ToyPlugin

from convkit import Placement, Preprocess, convert, hookimpl, validate
from convkit.errors import IntegrityError

pytest.importorskip("cupy")


class Side:
    """A device side that is never launched here."""

    record = np.dtype([("offset", "u8"), ("size", "u8")])

    def __init__(self, host):
        self.host = host

    def place(self, raw):
        prepared = self.host(raw)
        shapes = {name: value.shape for name, value in prepared.tensors.items()}
        return Placement(shapes, prepared.meta, np.ascontiguousarray(raw))

    def row(self, placement, offset):
        return offset, placement.payload.nbytes

    def launch(self, records, payloads, tensors, stream):
        raise AssertionError("there is no GPU")

    def kernels(self):
        half = SCALE.variant(T="float16", THREADS=64)
        return [half, REVERSE.variant(), half]


class DevicePlugin(ToyPlugin):
    """The toy adapter with a preprocess that has a device side of two kernels."""

    @hookimpl
    def convkit_preprocess(self, spec):
        host = super().convkit_preprocess(spec)
        if host is None:
            return None

        class Both(Preprocess):
            def __call__(self, raw):
                return host(raw)

            def on_device(self):
                return Side(host)

        return Both()


@pytest.fixture
def device():
    with registered(DevicePlugin()):
        yield


def test_kernels_are_written_and_sealed(device, toy_weights_file, tmp_path):
    artifact = convert("toy", weights=toy_weights_file, output=tmp_path / "toy").artifact
    names = {name for name in artifact.manifest["files"] if name.startswith("kernels/")}
    assert names == {
        "kernels/kernels.json",
        "kernels/test_reverse.cu",
        "kernels/test_reverse.ptx",
        "kernels/test_scale-T_float16-THREADS_64.cu",
        "kernels/test_scale-T_float16-THREADS_64.ptx",
    }
    assert ".target sm_75" in (tmp_path / "toy" / "kernels" / "test_reverse.ptx").read_text(encoding="utf-8")
    assert validate(artifact.path).passed
    (tmp_path / "toy" / "kernels" / "test_reverse.ptx").write_text("", encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"test_reverse\.ptx is not the file"):
        artifact.verify()


def test_without_nvrtc_there_is_no_ptx(device, toy_weights_file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy.cuda", None)
    artifact = convert("toy", weights=toy_weights_file, output=tmp_path / "toy").artifact
    names = {name for name in artifact.manifest["files"] if name.startswith("kernels/")}
    assert {name.rpartition(".")[2] for name in names} == {"cu", "json"}
    document = json.loads((artifact.path / "kernels" / "kernels.json").read_text(encoding="utf-8"))
    assert document["compiler"] is None
    assert "NVRTC was missing" in document["note"]


def test_without_a_device_side_there_are_none(toy_artifact):
    assert not (toy_artifact.path / "kernels").exists()
