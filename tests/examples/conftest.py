"""Makes the scripts of ``examples/digits`` importable, as they are for one another when a script there is run."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "digits"))
