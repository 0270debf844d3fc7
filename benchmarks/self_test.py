"""The rates of the proof: planted faults caught and false alarms, on several artifacts.

    python benchmarks/self_test.py [digits|digits-fp16|digits-int8|minimal|heads|detections|res|ARTIFACT ...]

Converts the digits demo, the example of an adapter, and narrow CenterNets with random weights (both forms of a
deformable network, and one without deformable convolutions), tests the proof of each, and prints what was missed, what
was rejected and how near the clean variants came to a limit. Ends with exit code 1 unless everything was caught and
nothing clean rejected.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
MINIMAL = ROOT / "examples" / "convkit-adapter-minimal"
sys.path[:0] = [str(ROOT / "tests"), str(MINIMAL)]

from convkit import convert  # noqa: E402
from convkit.self_test import SelfTest, self_test  # noqa: E402

DIGITS = ROOT / "examples" / "digits"


def digits(folder: Path, **settings: object) -> Path:
    """The demo: a trained network with deformable convolutions on images of digits."""
    return convert(
        "centernet",
        weights=DIGITS / "digits_resdcn18.pth",
        shape=["height=256", "width=256"],
        names=DIGITS / "names.txt",
        inputs=DIGITS / "images",
        output=folder,
        **settings,
    ).artifact.path


def half(folder: Path) -> Path:
    """The demo in float16."""
    return digits(folder, precision="fp16")


def whole(folder: Path) -> Path:
    """The demo in int8, calibrated with scenes of the training half."""
    scenes = folder.with_name("scenes")
    command = [sys.executable, str(DIGITS / "generate.py"), "--images", str(scenes), "--split", "train"]
    subprocess.run([*command, "--count", "64", "--seed", "21"], check=True, stdout=subprocess.DEVNULL)
    return digits(folder, precision="int8", calibrate=scenes, calibration="minmax")


def minimal(folder: Path) -> Path:
    """The example of an adapter: a small classifier, whose plugin is registered as if it were installed."""
    import convkit_adapter_minimal

    from convkit.plugins import manager

    manager().register(convkit_adapter_minimal, "minimal", "convkit-adapter-minimal")
    return convert("minimal-digits", weights=MINIMAL / "digits.pt", output=folder).artifact.path


def narrow(architecture: str, form: str) -> Callable[[Path], Path]:
    """Return what converts a narrow network with random weights."""

    def make(folder: Path) -> Path:
        from support.checkpoints import make_checkpoint

        weights = make_checkpoint(folder.with_suffix(".pth"), architecture, width=0.25)
        shape = ["batch=1:1:3", "height=64", "width=96"]
        return convert("centernet", weights=weights, output=folder, form=form, shape=shape, samples=2).artifact.path

    return make


ARTIFACTS: dict[str, Callable[[Path], Path]] = {
    "digits": digits,
    "digits-fp16": half,
    "digits-int8": whole,
    "minimal": minimal,
    "heads": narrow("resdcn_18", "heads"),
    "detections": narrow("resdcn_18", "detections"),
    "res": narrow("res_18", "heads"),
}


def told(name: str, test: SelfTest) -> None:
    """Print the rates of a self-test and what stands against them."""
    print(f"{name}: {test.headline()}; {test.seconds:.0f} s")
    for outcome in test.outcomes:
        for one in outcome.planted:
            if not one.caught:
                print(f"  MISSED {outcome.part}: {outcome.kind}, {one.where}")
    for variant in test.variants:
        if variant.applies and not variant.passed:
            print(f"  FALSE ALARM {variant.group}: {variant.name}, {variant.by} {variant.note}")
    run = [variant for variant in test.variants if variant.applies]
    nearest = max(run, key=lambda variant: variant.used)
    print(f"  nearest to a limit: {nearest.name}, {nearest.used:.0%} of it")
    absent = [outcome.kind for outcome in test.outcomes if not outcome.applies]
    print(f"  not in this artifact: {', '.join(absent)}")


def main(names: list[str]) -> int:
    """Test the proofs of artifacts and print their rates."""
    good = True
    with tempfile.TemporaryDirectory() as folder:
        for name in names or ARTIFACTS:
            started = time.perf_counter()
            path = ARTIFACTS[name](Path(folder) / name) if name in ARTIFACTS else Path(name)
            print(f"{name}: converted in {time.perf_counter() - started:.0f} s")
            test = self_test(path)
            told(name, test)
            good &= test.passed
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
