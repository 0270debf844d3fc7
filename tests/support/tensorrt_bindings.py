"""The genuine Python bindings of full TensorRT, over a stand-in of its libraries (see ``tensorrt_standin``).

NVIDIA's libraries need gigabytes and a GPU; its bindings are 1.3 MB and hold all names, types and the Python code of
plugins. They are downloaded once, into ``~/.cache/convkit-tests``, and used in child processes only.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = Path(__file__).with_name("tensorrt_standin")
VERSIONS = ("10.13.3.9", "10.16.1.11", "11.4.0.106")
LIBRARIES = {
    "nvinfer": "standin.cpp",
    "nvinfer_plugin": "inert.cpp",
    "nvonnxparser": "inert.cpp",
}
"""The libraries that the bindings open, in this order, and what takes their place."""
PACKAGES = {
    "tensorrt/__init__.py": "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n",
    "tensorrt/plugin/__init__.py": "from tensorrt_bindings.plugin import *\n",
}
"""The names under which the bindings look for themselves."""
OPEN = "import ctypes\nfrom pathlib import Path\n\nHERE = Path(__file__).parent\n"


_unavailable: dict[str, str] = {}


class Unavailable(Exception):
    """The bindings or the stand-in cannot be had here; the message says why."""


def cache_folder() -> Path:
    """Return the folder in which downloads and builds of the tests stay."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convkit-tests"


@functools.cache
def search_path(version: str, registry: int | None = None) -> tuple[Path, ...]:
    """Return the folders from which Python imports ``tensorrt`` of a version, over the stand-in.

    ``registry`` is the major version whose registry the stand-in has; that of the bindings by default.

    Raises:
        Unavailable: there is no network and nothing was downloaded before, no C++ compiler, or no wheel for this
            Python.
    """
    if version in _unavailable:  # a download that failed is not tried again by every test
        raise Unavailable(_unavailable[version])
    major = int(version.partition(".")[0])
    try:
        return _bindings(version), _standin(major, registry or major)
    except Unavailable as reason:
        _unavailable[version] = str(reason)
        raise


def run(version: str, code: str, *arguments: str, registry: int | None = None, timeout: float = 300) -> str:
    """Return what a Python program prints that can import ``tensorrt`` of a version.

    ``code`` is the program's text or the path of its file, which ends in ``.py``.

    Raises:
        Unavailable: as `search_path` does.
        AssertionError: the program failed; the message is what it wrote.
    """
    paths = (*search_path(version, registry), ROOT / "tests", ROOT)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    program = [code] if code.endswith(".py") else ["-c", code]
    done = subprocess.run(
        [sys.executable, *program, *arguments], env=environment, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, f"ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@functools.cache
def public_names(version: str) -> dict[str, list[str]]:
    """Return the names of every class of the bindings, of the modules ``""`` and ``plugin``; see `names_of`."""
    code = "import json, tensorrt_bindings as api, tensorrt.plugin as plugin\n"
    code += "from support.tensorrt_names import names_of\nprint(json.dumps(names_of(api, plugin)))"
    return json.loads(run(version, code).splitlines()[-1])


def _bindings(version: str) -> Path:
    def download(folder: Path) -> None:
        if sys.platform != "linux" or platform.machine() != "x86_64":
            raise Unavailable("the stand-in of TensorRT is for Linux on x86-64")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries", "1",
                   "--timeout", "20", "--no-deps", "--only-binary", ":all:", "--dest", str(folder),
                   f"tensorrt-cu13-bindings=={version}"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        wheels = list(folder.glob("*.whl"))
        if done.returncode or not wheels:
            reason = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no wheel")
            raise Unavailable(f"the bindings of TensorRT {version} cannot be downloaded: {reason}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(folder)
        wheels[0].unlink()

    return _made_once(cache_folder() / f"tensorrt-{version}-{sys.implementation.cache_tag}", download)


def _standin(major: int, registry: int) -> Path:
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))), None)
    if compiler is None:
        raise Unavailable("there is no C++ compiler")
    sources = sorted((*SOURCES.glob("*.?pp"), Path(__file__)))
    key = hashlib.sha256(b"\0".join((compiler.encode(), *(path.read_bytes() for path in sources)))).hexdigest()[:16]

    def build(folder: Path) -> None:
        package = folder / "tensorrt_libs"
        package.mkdir()
        text = OPEN
        for name, source in LIBRARIES.items():
            soname = f"lib{name}.so.{major}"
            command = [compiler, "-std=c++17", "-O0", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC",
                       f"-DTRT_MAJOR={registry}", f"-Wl,-soname,{soname}", str(SOURCES / source), "-o",
                       str(package / soname)]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            text += f"{name.upper()} = ctypes.CDLL(str(HERE / {soname!r}), mode=ctypes.RTLD_GLOBAL)\n"
        (package / "__init__.py").write_text(text)
        for name, content in PACKAGES.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)

    return _made_once(cache_folder() / f"tensorrt-standin-{key}-{major}-{registry}", build)


def _made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return a folder that is made where it is missing; it gets its name when it is complete."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as name:
        unfinished = Path(name, "made")
        unfinished.mkdir()
        make(unfinished)
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    return folder
