"""What full TensorRT would launch for ``dcn=plugin``: numbers and PTX as files, for a GPU without TensorRT.

    python benchmarks/tensorrt_plugin_launches.py FOLDER [--version 11.4.0.106]

Drives the plugin ``convkit::DCNv2`` through NVIDIA's own plugin code over a stand-in of its registry, for layers of
networks and odd ones, and writes ``launches.json`` and the PTX (compressed, each text once) into FOLDER.
``gpu_tensorrt_plugin.py`` launches them. Needs a C++ compiler, NVRTC and no GPU; the bindings are downloaded once.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import gzip
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.aot_layers import LAYERS, PRELOAD, SQUARE, AotLayer
from support.tensorrt_bindings import VERSIONS
from support.tensorrt_drive import drive_all

from convkit_plugins.dcnv2.cuda import Layer
from convkit_plugins.dcnv2.tensorrt import WeightOrder

TENSOR, PLAIN, TF32 = WeightOrder.TENSOR_16, WeightOrder.PLAIN, WeightOrder.TENSOR_TF32


def _deep(filters: int) -> Layer:
    return Layer(filters, (3, 3), (1, 1), (1, 1))


NETWORK = {
    f"{channels}->{filters} {dtype}{' TF32' if order == TF32 else ''}": AotLayer(
        _deep(filters), channels, dtype, order, True, True,
        ((1, side, side), (2, side + 3, side + 5), (8, side + 8, side + 8)),
    )
    for channels, filters, side in ((64, 64, 128), (128, 64, 64), (256, 128, 32), (512, 256, 16))
    for dtype, order in (("float16", TENSOR), ("bfloat16", TENSOR), ("float32", PLAIN), ("float32", TF32))
}  # fmt: skip
FIXED = {"fixed batch and size": AotLayer(SQUARE, 64, sizes=((4, 96, 160),))}


def main() -> int:
    """Write the folder."""
    parser = argparse.ArgumentParser(description="What full TensorRT would launch, as files.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--version", choices=VERSIONS, default=VERSIONS[-1])
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    layers = {**LAYERS, **NETWORK, **FIXED}
    answers = drive_all(arguments.version, [layer.job() for layer in layers.values()], preload=PRELOAD)
    cases, texts = [], set()
    for (name, layer), answer in zip(layers.items(), answers, strict=True):
        if answer["problems"]:
            print(f"{name}: {'; '.join(answer['problems'])}", file=sys.stderr)
            return 1
        variants: list[dict[str, Any]] = []
        for entry in answer["variants"]:
            code = base64.b64decode(entry["code_base64"])
            file = f"{hashlib.sha256(code).hexdigest()[:16]}.ptx.gz"
            texts.add(file)
            (folder / file).write_bytes(gzip.compress(code, mtime=0))
            kept = ("formats", "tactic", "kernel", "launches", "extras")
            variants.append({**{key: entry[key] for key in kept}, "ptx": file})
        cases.append(
            {
                "name": name, "dtype": layer.dtype, "settings": layer.settings.to_fields(),
                "sizes": [layer.extents(*size) for size in layer.sizes], "variants": variants,
            }
        )  # fmt: skip
    document = {
        "date": str(datetime.date.today()), "tensorrt_bindings": answers[0]["version"],
        "command": f"python benchmarks/tensorrt_plugin_launches.py FOLDER --version {arguments.version}",
        "cases": cases,
    }  # fmt: skip
    (folder / "launches.json").write_text(json.dumps(document) + "\n", encoding="utf-8")
    count = sum(len(variant["launches"]) for case in cases for variant in case["variants"])
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(f"{len(cases)} layers, {count} launches of {len(texts)} kernels: {size:.1f} MB in {folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
