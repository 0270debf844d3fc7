"""The demo: convert a trained checkpoint, prove it, run it on images, draw, and measure its AP.

Every step is a command that you can type yourself; this script only types them for you.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

HERE = Path(__file__).resolve().parent
CHECKPOINT = HERE / "digits_resdcn18.pth"


def step(title: str, *words: str | Path) -> None:
    """Print a convkit command and run it; stop the demo if it fails."""
    command = [str(word) for word in words]
    print(f"\n== {title}\n$ convkit {shlex.join(command)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "convkit", *command], check=False).returncode
    if code:
        sys.exit(code)


def contact_sheet(folder: Path, target: Path, width: int = 1280, columns: int = 3) -> None:
    """Write the drawings of a folder side by side, in rows of the same width."""
    images = [cv2.imread(str(file)) for file in sorted(folder.glob("*.*"))]
    rows = []
    for start in range(0, len(images), columns):
        group = images[start : start + columns]
        height = round(width / sum(image.shape[1] / image.shape[0] for image in group))
        row = np.hstack([cv2.resize(im, (round(im.shape[1] * height / im.shape[0]), height)) for im in group])
        rows.append(cv2.resize(row, (width, height)))
    cv2.imwrite(str(target), np.vstack(rows))


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="where the results go")
    output = parser.parse_args().output
    artifact, drawings = output / "digits", output / "drawings"
    step(
        "Convert the checkpoint and prove the result",
        *("convert", "centernet", "--weights", CHECKPOINT, "--shape", "height=256", "--shape", "width=256"),
        *("--names", HERE / "names.txt", "--inputs", HERE / "images", "--output", artifact, "--overwrite"),
    )
    step("Prove the artifact again, from its own files alone", "validate", artifact)
    step("Run it on images and draw what it finds", "run", artifact, HERE / "images", "--draw", drawings)
    step(
        "Measure it on images and digits that training never saw",
        *("evaluate", artifact, "--coco", HERE / "heldout" / "annotations.json"),
        *("--images", HERE / "heldout" / "images", "--weights", CHECKPOINT),
    )
    contact_sheet(drawings, output / "digits-found.png")
    print(f"\nThe drawings are in {drawings}/, all on one sheet in {output / 'digits-found.png'}.")


if __name__ == "__main__":
    main()
