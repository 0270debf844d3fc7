"""Whether every name that convkit's sessions use exists in the genuine Python bindings of full TensorRT.

    python benchmarks/tensorrt_names.py [VERSION ...]

Downloads NVIDIA's bindings from PyPI into a temporary folder, puts empty shared libraries in the place of NVIDIA's, and
looks the names up in a child process for each version. Needs gcc and no GPU; nothing of TensorRT is run. Ends with exit
code 1 where a name is missing that is not used for TensorRT-RTX alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.tensorrt_names import RTX_ONLY, missing_names

ROOT = Path(__file__).parents[1]

VERSIONS = ("10.13.3.9", "10.16.1.11", "11.4.0.106")
LIBRARIES = {
    "nvinfer": ("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
                "getPluginRegistry", "getBuilderPluginRegistry"),
    "nvinfer_plugin": ("initLibNvInferPlugins",),
    "nvonnxparser": ("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion"),
}  # fmt: skip


def install(version: str, folder: Path) -> None:
    """Put the genuine bindings of a version into a folder, above libraries whose functions return 0."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder),
         f"tensorrt-cu13-bindings=={version}"], check=True,
    )  # fmt: skip
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    package = folder / "tensorrt_libs"
    package.mkdir()
    major, opened = version.partition(".")[0], []
    for name, functions in LIBRARIES.items():
        source, soname = folder / f"{name}.c", f"lib{name}.so.{major}"
        source.write_text("".join(f"void *{function}(void) {{ return 0; }}\n" for function in functions))
        subprocess.run(
            ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{soname}", str(source), "-o", str(package / soname)], check=True
        )
        opened.append(f"ctypes.CDLL(os.path.join(os.path.dirname(__file__), {soname!r}), mode=ctypes.RTLD_GLOBAL)\n")
    (package / "__init__.py").write_text("import ctypes, os\n" + "".join(opened))


def main(versions: list[str]) -> int:
    """Print what each version lacks."""
    status = 0
    for version in versions or VERSIONS:
        with tempfile.TemporaryDirectory() as name:
            install(version, Path(name))
            code = "import json, sys, tensorrt_bindings as api; from support.tensorrt_names import missing_names;"
            code += "print(json.dumps([api.__version__, sorted(missing_names(api))]))"
            paths = os.pathsep.join((name, str(ROOT / "tests"), str(ROOT)))
            done = subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "PYTHONPATH": paths},
                check=True,
                stdout=subprocess.PIPE,
            )
        found, missing = json.loads(done.stdout)
        unknown = sorted(set(missing) - RTX_ONLY)
        print(f"TensorRT {found}: {len(missing)} names missing, {len(unknown)} of them not RTX's own {unknown}")
        status |= bool(unknown)
    return status


if __name__ == "__main__":
    assert callable(missing_names)
    raise SystemExit(main(sys.argv[1:]))
