"""The core's known errors: each is recognised in a text that its tool really writes.

The first half provokes the errors; the second half quotes tools that no test machine has.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import io
import re
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from convkit.doctor import KnownError, search
from convkit.doctor.plugin import convkit_known_errors
from convkit.errors import CheckpointError
from convkit.weights import read_weights

ERRORS = tuple(convkit_known_errors())


def first(text: str) -> KnownError:
    """Return the error that is shown for the first line of ``text`` that any of them matches."""
    found = search(text, ERRORS)
    assert found, text
    return min(found, key=lambda entry: text.index(entry[1]))[0]


def graph(nodes: Sequence[onnx.NodeProto], weight: np.ndarray, opset: int = 20, ir: int = 10) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        list(nodes),
        "graph",
        [value("x", TensorProto.FLOAT, ["n", 3])],
        [value("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


RELU, ADD = helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Add", ["x", "w"], ["y"])
WEIGHT = np.ones(3, np.float32)


def session(model: onnx.ModelProto | bytes) -> onnxruntime.InferenceSession:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


def infer(**feed: np.ndarray) -> None:
    session(graph([ADD], WEIGHT)).run(None, feed)


def check(*nodes: onnx.NodeProto, **options: Any) -> None:
    weight = options.pop("weight", WEIGHT)
    onnx.checker.check_model(graph(nodes, weight, **options), full_check=True)


def load(content: Any, weights_only: bool = True) -> None:
    torch.load(io.BytesIO(content) if isinstance(content, bytes) else content, weights_only=weights_only)


def saved(value: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


class Wicked:
    def __reduce__(self) -> Any:
        import os

        return os.system, ("true",)


def cuda_checkpoint() -> bytes:
    """Return a checkpoint of the CPU with the place of its tensors rewritten to a GPU."""
    source, target = zipfile.ZipFile(io.BytesIO(saved(torch.zeros(2)))), io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            archive.writestr(name, source.read(name).replace(b"X\x03\x00\x00\x00cpu", b"X\x04\x00\x00\x00cuda"))
    return target.getvalue()


def legacy_tar(folder: Path) -> Path:
    for member in ("storages", "tensors", "pickle"):
        (folder / member).write_bytes(b"0")
    with tarfile.open(folder / "old.tar", "w") as archive:
        for member in ("storages", "tensors", "pickle"):
            archive.add(folder / member, arcname=member)
    return folder / "old.tar"


def lost_weights(folder: Path) -> None:
    path = folder / "model.onnx"
    onnx.save(graph([ADD], np.ones(3, np.float32)), path, save_as_external_data=True, location="w", size_threshold=0)
    (folder / "w").unlink()
    onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


class Deciding(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x


class Fixed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.ones(int(x.shape[0]) * 0 + 2, 3)


class Unknown(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft(x)


@torch.library.custom_op("remedies_test::own", mutates_args=())
def own_operator(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


@own_operator.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class Own(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return own_operator(x)


def export(module: nn.Module, *, dynamo: bool = True, **options: Any) -> None:
    torch.onnx.export(module.eval(), (torch.ones(2, 3),), io.BytesIO(), dynamo=dynamo, verbose=False, **options)


PROVOKED: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "numpy scalar in a checkpoint": ("NumPy pickled", lambda _: load(saved({"best": np.float64(1)}))),
    "options in a checkpoint": (
        "options of the training script",
        lambda _: load(saved({"opt": argparse.Namespace(a=1)})),
    ),
    "array in a checkpoint": ("NumPy arrays", lambda _: load(saved({"losses": np.arange(3.0)}))),
    "whole module as a checkpoint": ("Python objects", lambda _: load(saved(nn.Linear(1, 1)))),
    "code in a checkpoint": ("Python objects", lambda _: load(saved(Wicked()))),
    "web page as a checkpoint": ("web page", lambda _: load(b"<!DOCTYPE html><html></html>")),
    "web page without weights_only": ("web page", lambda _: load(b"<!DOCTYPE html><html></html>", weights_only=False)),
    "pointer as a checkpoint": ("Git LFS", lambda _: load(b"version https://git-lfs.github.com/spec/v1\n")),
    "half a checkpoint": (
        "cut off",
        lambda _: load(saved(torch.zeros(9999), _use_new_zipfile_serialization=False)[:9999]),
    ),
    "half a zip checkpoint": (
        "cut off",
        lambda _: torch._C.PyTorchFileReader(io.BytesIO(saved(torch.zeros(999))[:999])),
    ),
    "checkpoint of PyTorch 0.1": ("PyTorch 0.1", lambda folder: load(legacy_tar(folder))),
    "other widths": ("other widths", lambda _: nn.Linear(2, 2).load_state_dict(nn.Linear(2, 3).state_dict())),
    "DataParallel": ("DataParallel", lambda _: nn.Linear(1, 1).load_state_dict({"module.weight": torch.ones(1, 1)})),
    "other names": ("another architecture", lambda _: nn.Linear(1, 1).load_state_dict({"kernel": torch.ones(1)})),
    "operator without translation": ("no ONNX translation", lambda _: export(Own())),
    "decision by value": ("decides in Python", lambda _: export(Deciding())),
    "fixed dimension": (
        "fixed by the model's own code",
        lambda _: torch.export.export(Fixed(), (torch.ones(2, 3),), dynamic_shapes=({0: torch.export.Dim("n")},)),
    ),
    "own operator, TorchScript": ("an operator of its own", lambda _: export(Own(), dynamo=False)),
    "operator not in the opset": (
        "cannot be written in the requested opset",
        lambda _: export(Unknown(), dynamo=False, opset_version=17),
    ),
    "operator not in ONNX": ("its opset does not have", lambda _: check(helper.make_node("Foo", ["x"], ["y"]))),
    "operator not in the opset of the file": (
        "its opset does not have",
        lambda _: check(helper.make_node("GridSample", ["x", "x"], ["y"]), opset=11),
    ),
    "newer file, checker": ("newer ONNX", lambda _: check(RELU, ir=99)),
    "newer file, runtime": ("newer ONNX", lambda _: session(graph([RELU], WEIGHT, ir=99))),
    "newer opset": ("newer than this ONNX Runtime", lambda _: session(graph([RELU], WEIGHT, opset=99))),
    "private operator": ("private domain", lambda _: check(helper.make_node("Foo", ["x"], ["y"], domain="own"))),
    "private operator, runtime": (
        "private domain",
        lambda _: session(graph([helper.make_node("Foo", ["x"], ["y"], domain="own")], WEIGHT)),
    ),
    "wrong order": (
        "comes before",
        lambda _: check(helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Relu", ["x"], ["a"])),
    ),
    "two dtypes": ("two dtypes", lambda _: session(graph([ADD], WEIGHT.astype(np.float16)))),
    "weights left behind": ("file of their own", lost_weights),
    "no model": ("not an ONNX model", lambda _: onnx.load_from_string(b"<html>" * 9)),
    "no model, runtime": ("not an ONNX model", lambda _: session(b"<html>" * 9)),
    "contradiction": ("contradicts itself", lambda _: check(ADD, weight=np.ones(5, np.float32))),
    "no kernel": (
        "no kernel for this opset or dtype",
        lambda _: session(
            graph(
                [
                    helper.make_node("Cast", ["x"], ["d"], to=11),
                    helper.make_node("Erf", ["d"], ["e"]),
                    helper.make_node("Cast", ["e"], ["y"], to=1),
                ],
                WEIGHT,
            )
        ),
    ),
    "shape of an input": ("another shape", lambda _: infer(x=np.ones((1, 4), np.float32))),
    "rank of an input": ("another shape", lambda _: infer(x=np.ones(3, np.float32))),
    "dtype of an input": ("float64", lambda _: infer(x=np.ones((1, 3)))),
    "name of an input": ("other names than the graph's", lambda _: infer(image=np.ones((1, 3), np.float32))),
    "fixed reshape": (
        "fixed inside the graph",
        lambda _: session(graph([helper.make_node("Reshape", ["x", "w"], ["y"])], np.array([1, 3]))).run(
            None, {"x": np.ones((2, 3), np.float32)}
        ),
    ),
    "no memory": ("memory of the machine", lambda _: torch.empty(1 << 50)),
    "no image": ("empty image", lambda _: cv2.resize(np.zeros((0, 0, 3), np.uint8), (3, 3))),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", PROVOKED)
def test_an_error_that_a_tool_raises_is_recognised(name: str, tmp_path: Path) -> None:
    cause, provoke = PROVOKED[name]
    with pytest.raises(BaseException) as caught:
        provoke(tmp_path)
    text = f"{type(caught.value).__name__}: {caught.value}"
    assert cause in first(text).cause, text


def test_a_checkpoint_of_a_gpu_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError) as caught:
        load(cuda_checkpoint())
    assert "saved from a GPU" in first(str(caught.value)).cause


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_warning_is_recognised_too() -> None:
    with pytest.warns(torch.jit.TracerWarning, match="Python boolean") as warned:
        torch.jit.trace(Deciding(), torch.ones(2, 3))
    texts = [f"TracerWarning: {warning.message}" for warning in warned if "Python boolean" in str(warning.message)]
    assert "wrote a value" in first(texts[0]).cause


QUOTED = [
    ("EOFError: Ran out of input", "cut off"),
    (
        "RuntimeError: PytorchStreamReader failed reading zip archive: failed finding central directory",
        "cut off",
    ),
    (
        "RuntimeError: Attempting to deserialize object on a CUDA device but torch.cuda.is_available() is False.",
        "saved from a GPU",
    ),
    (
        "RuntimeError: ONNX export failed: Couldn't export Python operator MultiScaleAttention\n\nDefined at:",
        "an operator of its own",
    ),
    ("ModuleNotFoundError: No module named 'onnxscript'", "missing in this environment"),
    ("google.protobuf.message.EncodeError: Failed to serialize proto", "2 GB"),
    (
        "[libprotobuf ERROR] onnx.ModelProto exceeded maximum protobuf size of 2GB: 2416129372",
        "2 GB",
    ),
    (
        "[W:onnxruntime:Default, onnxruntime_pybind_state.cc:1139] Failed to create CUDAExecutionProvider. Require"
        " cuDNN 9.* and CUDA 13.*. Please install all dependencies as mentioned in the GPU requirements page",
        "CUDA and cuDNN libraries",
    ),
    (
        "UserWarning: Specified provider 'CUDAExecutionProvider' is not in available provider names.",
        "build for the CPU",
    ),
    ("AssertionError: Torch not compiled with CUDA enabled", "build for the CPU"),
    ("RuntimeError: CUDA error: no kernel image is available for execution on the device", "GPU's architecture"),
    ("CUDA error: the provided PTX was compiled with an unsupported toolchain.", "newer CUDA than the driver supports"),
    (
        "RuntimeError: The NVIDIA driver on your system is too old (found version 12080). Please update",
        "newer CUDA than the driver supports",
    ),
    (
        "[TRT] [W] CUDA initialization failure with error: 35. Please check your CUDA installation:",
        "No usable NVIDIA GPU",
    ),
    ("RuntimeError: Found no NVIDIA driver on your system. Please check that you have", "No usable NVIDIA GPU"),
    ("nvcc fatal   : Unsupported gpu architecture 'compute_86'", "older than the GPU"),
    (
        "The detected CUDA version (10.2) mismatches the version that was used to compile PyTorch (11.3).",
        "another CUDA toolkit",
    ),
    (
        "OSError: CUDA_HOME environment variable is not set. Please set it to your CUDA install root.",
        "no CUDA toolkit was found",
    ),
    (
        "host_config.h:138:2: error: #error -- unsupported GNU version! gcc versions later than 8 are not supported!",
        "newer than this CUDA toolkit",
    ),
    ("RuntimeError: Error compiling objects for extension", "could not build an extension"),
    ("Failed to initialize NVML: Driver/library version mismatch", "driver was updated"),
    (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total",
        "memory of the device",
    ),
    (
        "onnxruntime::BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 4294967296",
        "memory of the device",
    ),
    ("RuntimeError: CUDA error: an illegal memory access was encountered", "outside its data"),
    (
        "ImportError: libcudnn.so.9: cannot open shared object file: No such file or directory",
        "A CUDA library of the version",
    ),
    (
        "[TRT] [I] No importer registered for op: GridSample. Attempting to import as plugin.",
        "no plugin of its name is loaded",
    ),
    (
        '[8] Assertion failed: creator && "Plugin not found, are the plugin name, version, and namespace correct?"',
        "no plugin of its name is loaded",
    ),
    ("[E] [TRT] 3: getPluginCreator could not find plugin: Round version: 1", "plugin that is not registered"),
    (
        "ERROR: IPluginRegistry::getPluginCreator: Error Code 4: API Usage Error (Cannot find plugin:"
        " EfficientIdxNMS_TRT, version: 1, namespace:.)",
        "plugin that is not registered",
    ),
    (
        "ERROR: 1: [stdArchiveReader.cpp::StdArchiveReader::32] Error Code 1: Serialization (Serialization assertion"
        " magicTagRead == kMAGIC_TAG failed.Magic tag does not match)",
        "not a TensorRT engine",
    ),
    (
        "Error Code 1: Serialization (Serialization assertion plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed.)",
        "not a TensorRT engine",
    ),
    (
        "(Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed.Version tag does not match. Note:"
        " Current Version: 237, Serialized Engine Version: 239)",
        "another version of TensorRT",
    ),
    (
        "The engine plan file is not compatible with this version of TensorRT, expecting library version 10.12.0.36 got"
        " 10.13.3.9, please rebuild.",
        "another version of TensorRT",
    ),
    (
        "The engine plan file is generated on an incompatible device, expecting compute 8.9 got compute 8.6, please"
        " rebuild.",
        "another GPU architecture",
    ),
    ("TypeError: pybind11::init(): factory function returned nullptr", "TensorRT could not start"),
    (
        "AttributeError: type object 'tensorrt_bindings.tensorrt.BuilderFlag' has no attribute 'FP16'",
        "takes the precision from the graph",
    ),
    (
        "[E] IBuilder::buildSerializedNetwork: Error Code 3: API Usage Error (Parameter check failed, condition:"
        " !config.getFlag(BuilderFlag::kFP16). )",
        "takes the precision from the graph",
    ),
    (
        "AttributeError: 'tensorrt_bindings.tensorrt.ICudaEngine' object has no attribute 'num_bindings'",
        "interface of bindings",
    ),
    (
        "AttributeError: 'tensorrt.tensorrt.ICudaEngine' object has no attribute 'get_binding_shape'",
        "interface of bindings",
    ),
    (
        "[TensorRT] ERROR: Network has dynamic or shape inputs, but no optimization profile has been defined.",
        "not told their range",
    ),
    (
        "(Parameter check failed at: runtime/api/executionContext.cpp::setInputShape::2309, condition: satisfyProfile"
        " Runtime dimension does not satisfy any optimization profile.)",
        "outside the range",
    ),
    (
        "Supplied binding dimension [32,3,32,32] for bindings[0] exceed min ~ max range at index 0, maximum dimension"
        " in profile is 1, minimum dimension in profile is 1, but supplied dimension is 32.",
        "outside the range",
    ),
    (
        "[TRT] [E] 10: [optimizer.cpp::computeCosts::2011] Error Code 10: Internal Error (Could not find any"
        " implementation for node ArgMax_260.)",
        "No kernel of TensorRT",
    ),
    (
        "Error Code 6: Internal Error (Unable to load library: libnvinfer_builder_resource.so.10.0.1:"
        " libnvinfer_builder_resource.so.10.0.1: cannot open shared object file: No such file or directory)",
        "libraries of TensorRT",
    ),
    (
        "ImportError: libnvinfer.so.8: cannot open shared object file: No such file or directory",
        "libraries of TensorRT",
    ),
    (
        "Error Code 9: API Usage Error (Target GPU SM 61 is not supported by this TensorRT release.)",
        "too old, or too new",
    ),
    (
        "[W] [TRT] onnx2trt_utils.cpp:364: Your ONNX model has been generated with INT64 weights, while TensorRT does"
        " not natively support INT64. Attempting to cast down to INT32.",
        "harmless",
    ),
    ("TypeError: only 0-dimensional arrays can be converted to Python scalars", "NumPy 2.4"),
    (
        "TypeError: Descriptors cannot be created directly.\nIf this call came from a _pb2.py file, your generated code"
        " is out of date",
        "older protobuf",
    ),
    (
        "A module that was compiled using NumPy 1.x cannot be run in\nNumPy 2.4.6 as it may crash.",
        "another major version of NumPy",
    ),
    (
        "ValueError: numpy.dtype size changed, may indicate binary incompatibility. Expected 96 from C header, got 88",
        "another major version of NumPy",
    ),
    ("ImportError: libGL.so.1: cannot open shared object file: No such file or directory", "server or container lacks"),
    (
        "[ WARN:0@0.477] global loadsave.cpp:278 findDecoder imread_('a.jpg'): can't open/read file: check file"
        " path/integrity",
        "empty image",
    ),
    (
        "ImportError: /lib/x86_64-linux-gnu/libstdc++.so.6: version `GLIBCXX_3.4.32' not found (required by x.so)",
        "newer C or C++ library",
    ),
    ("    state = checkpoint['x']\nKeyError: 'state_dict'", "under another entry"),
    ("_pickle.UnpicklingError: invalid load key, '\\x0a'.", "of another kind of file"),
    ("AttributeError: module 'numpy' has no attribute 'float'.", "NumPy 1.24 removed"),
    (
        "RuntimeError: Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
        "on one device and its input on another",
    ),
    ("RuntimeError: CUDA error: invalid device function", "not built for this GPU's architecture."),
    ("RuntimeError: Ninja is required to load C++ extensions", "its build tool is missing"),
    ("x.cu:3:10: fatal error: cuda_runtime.h: No such file or directory", "the CUDA toolkit is missing"),
    ("RuntimeError: operator torchvision::nms does not exist", "built for another PyTorch"),
    ("ImportError: x.so: undefined symbol: _ZN3c1010TensorImplD0Ev", "another PyTorch or CUDA"),
    ("[1234.5] Out of memory: Killed process 4321 (python) total-vm:31457280kB", "memory of the machine"),
    ("OSError: [Errno 28] No space left on device: '/out/model.onnx'", "full"),
]


@pytest.mark.parametrize(("text", "cause"), QUOTED, ids=[text[:50] for text, _ in QUOTED])
def test_an_error_that_a_tool_writes_is_recognised(text: str, cause: str) -> None:
    assert cause in first(text).cause


BESIDE: dict[str, Any] = {
    "a scalar": np.float64(1),
    "an array": np.arange(3.0),
    "options": argparse.Namespace(lr=0.1, out=Path("x")),
    "a path": Path("x"),
    "a date": datetime.date(2020, 1, 2),
    "a dictionary with a default": collections.defaultdict(list),
    "a module": nn.Linear(1, 1),
    "code": Wicked(),
}


@pytest.mark.parametrize("kind", BESIDE)
def test_what_is_said_of_a_checkpoint_is_what_convert_does(tmp_path: Path, kind: str) -> None:
    content = saved({"model": {"a": torch.ones(1)}, "beside": BESIDE[kind]})
    with pytest.raises(Exception, match=r"(?i)unsupported") as error:
        load(content)
    (tmp_path / "w.pth").write_bytes(content)
    try:
        read_weights(tmp_path / "w.pth")
        reads = True
    except CheckpointError:
        reads = False
    cure = first(str(error.value)).cure
    assert ("`convkit convert` reads such files" in cure) == reads


def test_every_error_has_an_example() -> None:
    causes = [cause for cause, _ in PROVOKED.values()] + [cause for _, cause in QUOTED] + ["wrote a value"]
    unseen = [error.cause for error in ERRORS if not any(cause in error.cause for cause in causes)]
    assert unseen == []


def test_patterns_stay_within_a_line_and_each_is_there_once() -> None:
    for error in ERRORS:
        assert not re.search(error.pattern, "")
        assert r"\s\S" not in error.pattern
        assert error.cause.endswith(".")
        assert error.cure.endswith((".", "11."))
    assert len({error.pattern for error in ERRORS}) == len(ERRORS) >= 60
