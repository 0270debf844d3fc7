"""Whether every name that convkit uses exists in the genuine Python bindings of full TensorRT.

    python benchmarks/tensorrt_names.py [VERSION ...]

Downloads NVIDIA's bindings from PyPI into a cache folder once, puts a stand-in in the place of NVIDIA's libraries, and
looks the names up in a child process for each version. Needs a C++ compiler and no GPU; nothing of TensorRT is run.
Ends with exit code 1 where a name is missing that is neither used for TensorRT-RTX alone nor known to be newer.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.tensorrt_bindings import VERSIONS, public_names
from support.tensorrt_names import FULL, LATER, RTX_ONLY, USERS, missing_names


def main(versions: list[str]) -> int:
    """Print what each version lacks."""
    status = 0
    for version in versions or VERSIONS:
        known = public_names(version)
        for user in USERS:
            if FULL not in user.flavours:
                continue
            used = user.names()
            missing = missing_names(used, known)
            later = missing & LATER.get(version, set())
            unknown = sorted(missing - RTX_ONLY - later)
            print(
                f"TensorRT {version}, {user.module}: {len(used)} names, {len(missing & RTX_ONLY)} of them RTX's own,"
                f" {len(later)} newer; missing: {', '.join(unknown) or 'none'}"
            )
            status |= bool(unknown)
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
