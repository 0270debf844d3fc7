"""Reading weights files: what they are by their bytes, and what they hold, without running any of it."""

from convkit.weights._kinds import LEGACY, ZIP, identify
from convkit.weights._read import read_weights

__all__ = ["LEGACY", "ZIP", "identify", "read_weights"]
