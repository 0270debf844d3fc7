"""The adapter does all that convkit asks of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from convkit.testing import AdapterConformance


class TestMinimalDigits(AdapterConformance):
    """Both output forms, with the checkpoint that is shipped."""

    adapter = "minimal-digits"

    @pytest.fixture(scope="class")
    @classmethod
    def weights(cls) -> Path:
        """Return the trained checkpoint."""
        return Path(__file__).parents[1] / "digits.pt"
