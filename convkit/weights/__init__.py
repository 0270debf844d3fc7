"""Reading weights: what a file is by its bytes, and what it contains, without running any of it."""

from convkit.weights._kinds import FOLDER, LEGACY, SAFETENSORS, ZIP, identify
from convkit.weights._read import read_weights
from convkit.weights._state import StateDict, find_state_dict

__all__ = ["FOLDER", "LEGACY", "SAFETENSORS", "ZIP", "StateDict", "find_state_dict", "identify", "read_weights"]
