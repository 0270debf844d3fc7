"""Running an artifact: the predictor, the device pipeline."""

from convkit.runtime._augmented import AugmentedPredictor
from convkit.runtime._buffers import Borrowed, Device, Item
from convkit.runtime._cuda import Cuda
from convkit.runtime._device_pipeline import DevicePipeline
from convkit.runtime._device_predictor import DevicePredictor
from convkit.runtime._finite import FiniteCheck
from convkit.runtime._finite_on_device import NOT_FINITE, FiniteOnDevice
from convkit.runtime._load import load, predictor_of
from convkit.runtime._predictor import Predictor

__all__ = [
    "NOT_FINITE",
    "AugmentedPredictor",
    "Borrowed",
    "Cuda",
    "Device",
    "DevicePipeline",
    "DevicePredictor",
    "FiniteCheck",
    "FiniteOnDevice",
    "Item",
    "Predictor",
    "load",
    "predictor_of",
]
