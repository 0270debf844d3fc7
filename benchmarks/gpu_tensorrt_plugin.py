"""The kernels of ``dcn=plugin`` on a GPU without TensorRT: launched with the numbers that TensorRT would evaluate.

    python benchmarks/gpu_tensorrt_plugin.py FOLDER [--json FILE] [--layer TEXT]

FOLDER is written by ``tensorrt_plugin_launches.py``: launch configurations, integers and PTX that NVIDIA's plugin code
got from the plugin. The driver compiles the PTX, and ``cuLaunchKernel`` gets the arguments in TensorRT's order: inputs,
integers, output. Every tactic, format and shape is compared with float64; memory around the output must stay as it
was. Times are means of launches that follow each other on a stream, in microseconds. Needs PyTorch with CUDA, cupy and
NumPy. Ends with exit code 1 where a result is wrong.

No number of this table is one of an engine: how TensorRT chooses, orders and copies around a plugin is not in it.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import gzip
import json
import platform
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cupy
import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
try:
    import pluggy  # noqa: F401
except ImportError:  # nothing here asks plugins; convkit only marks its hooks
    stand_in: Any = types.ModuleType("pluggy")
    stand_in.HookspecMarker = stand_in.HookimplMarker = lambda _project: (
        lambda function=None, **_: function or (lambda other: other)
    )
    sys.modules["pluggy"] = stand_in

from convkit_plugins.dcnv2.op import compute  # noqa: E402
from convkit_plugins.dcnv2.tensorrt import AotSettings, WeightOrder, pack  # noqa: E402

BOUNDS = {"float32": 2e-6, "TF32": 2**-11, "float16": 2**-11, "bfloat16": 2**-8}
"""Relative L2 distance from float64 that counts as right: about the unit roundoff of the type."""
MARGIN = 4096
"""Elements before and behind the output that must not change."""
LAUNCHES = 20
RESULTS = ROOT / "benchmarks" / "results" / "gpu_tensorrt_plugin.json"


def tensors_of(settings: AotSettings, sizes: Mapping[str, int], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return inputs with the weights as they are; results are of the order of one, a tenth of the taps is special."""
    generator = torch.Generator("cuda").manual_seed(0)
    layer = settings.layer
    taps, plane, batch = layer.groups * layer.taps, (sizes["out_height"], sizes["out_width"]), sizes["batch"]

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device="cuda")

    offset = normal(batch, 2 * taps, *plane) * 2
    special = torch.tensor([-1e4, -1.0, -0.5, 0.0, 1.0, 1e4, float("inf"), float("nan")], device="cuda")
    chosen = torch.rand(offset.shape, generator=generator, device="cuda") < 0.1
    offset[chosen] = special[torch.randint(8, (int(chosen.sum()),), generator=generator, device="cuda")]
    found = {
        "x": normal(batch, settings.channels, sizes["height"], sizes["width"]),
        "offset": offset,
        "mask": normal(batch, taps, *plane),
        "weight": normal(layer.filters, settings.channels, *layer.kernel) / (settings.channels * layer.taps) ** 0.5,
        "bias": normal(layer.filters),
    }
    return {name: value.to(dtype) for name, value in found.items()}


def exact(settings: AotSettings, given: Mapping[str, Tensor]) -> Tensor:
    """Return the result in float64, an image at a time."""
    layer = settings.layer
    wide = {name: value.double() for name, value in given.items()}
    parts = [
        compute(
            wide["x"][i : i + 1], wide["weight"], wide["offset"][i : i + 1], wide["bias"], wide["mask"][i : i + 1],
            layer.stride, layer.padding, layer.dilation, layer.groups, settings.sigmoid, settings.relu,
        )
        for i in range(len(wide["x"]))
    ]  # fmt: skip
    return torch.cat(parts)


def packed_on_gpu(weight: Tensor, settings: AotSettings) -> Tensor:
    """Return the weights as the graph for TensorRT contains them."""
    host = weight.cpu()
    bits = host.view(torch.int16) if host.element_size() == 2 else host
    packed = torch.from_numpy(pack(bits.numpy(), settings))
    return (packed.view(weight.dtype) if host.element_size() == 2 else packed).cuda()


def launcher(
    function: Any, launch: Sequence[int], inputs: Sequence[Tensor], extra: Sequence[int], out: Tensor
) -> Callable[[], None]:
    """Return a call of cuLaunchKernel: pointers of inputs, 32-bit integers, pointer of the output."""
    values = (
        *(ctypes.c_uint64(tensor.data_ptr()) for tensor in inputs),
        *(ctypes.c_int32(value) for value in extra),
        ctypes.c_uint64(out.data_ptr()),
    )
    pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
    stream = torch.cuda.current_stream().cuda_stream

    def call() -> None:
        assert len(values) == len(inputs) + len(extra) + 1  # they live as long as their addresses are used
        cupy.cuda.driver.launchKernel(function.ptr, *launch, stream, ctypes.addressof(pointers), 0)

    return call


def microseconds(call: Callable[[], None]) -> float:
    """Return the mean time of launches that follow each other."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for _ in range(3):
        call()
    start.record()
    for _ in range(LAUNCHES):
        call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e3 / LAUNCHES


def run_variant(
    folder: Path, variant: Mapping[str, Any], index: int, inputs: Mapping[str, Tensor], expected: Tensor
) -> dict[str, Any]:
    """Return error and time of one kernel at one size, and whether memory around the output stayed as it was."""
    forms = [form != "LINEAR" for form in (variant["formats"][0], variant["formats"][5])]
    last = [torch.channels_last if form else torch.contiguous_format for form in forms]
    dtype = inputs["x"].dtype
    memory = torch.full((expected.numel() + 2 * MARGIN,), 768.0, dtype=dtype, device="cuda")
    flat = memory[MARGIN:-MARGIN]
    flat.fill_(float("nan"))
    count, filters, height, width = expected.shape
    shape = (count, height, width, filters) if forms[1] else (count, filters, height, width)
    out = flat.view(shape).permute(0, 3, 1, 2) if forms[1] else flat.view(shape)
    x = inputs["x"].contiguous(memory_format=last[0])
    ordered = [x, *(inputs[name] for name in ("offset", "mask", "packed", "bias"))]
    module = cupy.cuda.function.Module()
    module.load(gzip.decompress((folder / variant["ptx"]).read_bytes()) + b"\0")
    function = module.get_function(variant["kernel"])
    call = launcher(function, variant["launches"][index], ordered, variant["extras"][index], out)
    call()
    torch.cuda.synchronize()
    error = float((out.double() - expected).norm() / expected.norm())
    around = torch.cat((memory[:MARGIN], memory[-MARGIN:]))
    intact = bool((around == 768.0).all())
    return {"error": error, "intact": intact, "microseconds": round(microseconds(call), 2)}


def machine(document: Mapping[str, Any]) -> dict[str, str]:
    """Return what the numbers depend on."""
    return {
        "date": str(datetime.date.today()), "gpu": torch.cuda.get_device_name(),
        "driver": str(cupy.cuda.runtime.driverGetVersion()), "torch": torch.__version__, "cupy": cupy.__version__,
        "python": platform.python_version(), "tensorrt_bindings": document["tensorrt_bindings"],
        "command": "python benchmarks/gpu_tensorrt_plugin.py FOLDER", "launches": document["command"],
    }  # fmt: skip


def main() -> int:
    """Launch everything, print the table and write the results."""
    parser = argparse.ArgumentParser(description="Launch what TensorRT would launch for dcn=plugin.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path, default=RESULTS, help=f"results (default: {RESULTS.relative_to(ROOT)})")
    parser.add_argument("--layer", default="", help="only layers whose name contains this")
    options = parser.parse_args()
    document = json.loads((options.folder / "launches.json").read_text(encoding="utf-8"))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    found = machine(document)
    print(", ".join(f"{name} {value}" for name, value in found.items()), end="\n\n")
    print("| layer | batch, size | x, output | errors by tactic | most allowed | microseconds by tactic | right |")
    print("|---|---|---|---|---|---|---|")
    rows, wrong = [], 0
    for case in document["cases"]:
        if options.layer not in case["name"]:
            continue
        settings = AotSettings.from_fields(case["settings"])
        kind = "TF32" if settings.order == WeightOrder.TENSOR_TF32 else case["dtype"]
        for index, sizes in enumerate(case["sizes"]):
            given = tensors_of(settings, sizes, getattr(torch, case["dtype"]))
            expected = exact(settings, given)
            inputs = {**given, "packed": packed_on_gpu(given["weight"], settings)}
            results: dict[tuple[str, str], list[dict[str, Any]]] = {}
            for variant in case["variants"]:
                result = run_variant(options.folder, variant, index, inputs, expected)
                result["right"] = result["error"] < BOUNDS[kind] and result["intact"]
                wrong += not result["right"]
                pair = (variant["formats"][0], variant["formats"][5])
                results.setdefault(pair, []).append(result)
                rows.append({"layer": case["name"], "type": kind, "sizes": sizes, "x": pair[0], "output": pair[1],
                             "tactic": variant["tactic"], **result})  # fmt: skip
            for (x, out), group in results.items():
                errors = ", ".join(f"{result['error']:.1e}" for result in group)
                times = ", ".join(f"{result['microseconds']:.1f}" for result in group)
                right = "yes" if all(result["right"] for result in group) else "NO"
                shape = f"{sizes['batch']}, {sizes['height']}x{sizes['width']}"
                print(f"| {case['name']} | {shape} | {x}, {out} | {errors} | {BOUNDS[kind]:.1e} | {times} | {right} |",
                      flush=True)  # fmt: skip
    print(f"\n{len(rows)} launches, {wrong} wrong")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({**found, "bounds": BOUNDS, "wrong": wrong, "rows": rows}, indent=1) + "\n")
    return 1 if wrong or not rows else 0


if __name__ == "__main__":
    raise SystemExit(main())
