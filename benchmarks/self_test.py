"""The rates of the proof: planted faults caught and false alarms, on several artifacts.

    python benchmarks/self_test.py [--places N] [--jobs N]
        [digits|digits-fp16|digits-bf16|digits-bf16-64|digits-int8|minimal|heads|detections|res|ARTIFACT ...]

Converts the digits demo, the example of an adapter, and narrow CenterNets with random weights (both forms of a
deformable network, and one without deformable convolutions), tests the proof of each, and prints what was missed, what
was rejected and how near the clean variants came to a limit. With --jobs several artifacts are tested at once, each in
a process of its own with one thread. Ends with exit code 1 unless everything was caught and nothing clean rejected.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
MINIMAL = ROOT / "examples" / "convkit-adapter-minimal"
sys.path[:0] = [str(ROOT / "tests"), str(MINIMAL)]

from convkit import convert  # noqa: E402
from convkit.self_test import SelfTest, self_test  # noqa: E402

DIGITS = ROOT / "examples" / "digits"


def digits(folder: Path, size: int = 256, **settings: object) -> Path:
    """The demo: a trained network with deformable convolutions on images of digits."""
    return convert(
        "centernet",
        weights=DIGITS / "digits_resdcn18.pth",
        shape=[f"height={size}", f"width={size}"],
        names=DIGITS / "names.txt",
        inputs=DIGITS / "images",
        output=folder,
        **settings,
    ).artifact.path


def half(folder: Path) -> Path:
    """The demo in float16."""
    return digits(folder, precision="fp16")


def brain(folder: Path) -> Path:
    """The demo in bfloat16."""
    return digits(folder, precision="bf16")


def small(folder: Path) -> Path:
    """The demo in bfloat16 on images of 64 x 64, of which the deepest layers have four pixels."""
    return digits(folder, size=64, precision="bf16")


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
    "digits-bf16": brain,
    "digits-bf16-64": small,
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


def tested(name: str, places: int) -> bool:
    """Test the proof of one artifact, print its rates, and return whether they are 100 % and 0."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        path = ARTIFACTS[name](Path(folder) / name) if name in ARTIFACTS else Path(name)
        print(f"{name}: converted in {time.perf_counter() - started:.0f} s")
        spent = time.process_time()
        test = self_test(path, places=places)
        told(name, test)
        print(f"  {time.process_time() - spent:.0f} s of the processor", flush=True)
    return test.passed


def beside(names: list[str], places: int, jobs: int) -> bool:
    """Test each artifact in a process of its own, ``jobs`` at once, and return whether all passed."""
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run(name: str) -> bool:
        command = [sys.executable, __file__, name, "--places", str(places)]
        done = subprocess.run(command, env=one_thread, capture_output=True, text=True)
        print(done.stdout + done.stderr, end="", flush=True)
        return done.returncode == 0

    with ThreadPoolExecutor(jobs) as pool:
        return all(list(pool.map(run, names)))


def main() -> int:
    """Test the proofs of artifacts and print their rates."""
    parser = argparse.ArgumentParser(description="planted faults caught and false alarms")
    parser.add_argument("names", nargs="*", default=list(ARTIFACTS))
    parser.add_argument("--places", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1)
    asked = parser.parse_args()
    if asked.jobs > 1:
        return 0 if beside(asked.names, asked.places, asked.jobs) else 1
    good = [tested(name, asked.places) for name in asked.names]
    return 0 if all(good) else 1


if __name__ == "__main__":
    raise SystemExit(main())
