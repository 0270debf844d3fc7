"""Preprocess and decode: the protocols, the look-up among plugins, reading images."""

from convkit.processing._images import Frame, as_bgr, find_images, frame_name, frames, input_files, read_image
from convkit.processing._protocols import Decode, DeviceDecode, DevicePreprocess, Placement, Prepared, Preprocess
from convkit.processing._registry import find_decode, find_preprocess
from convkit.processing._scenes import synthetic_scenes

__all__ = [
    "Decode",
    "DeviceDecode",
    "DevicePreprocess",
    "Frame",
    "Placement",
    "Prepared",
    "Preprocess",
    "as_bgr",
    "find_decode",
    "find_images",
    "find_preprocess",
    "frame_name",
    "frames",
    "input_files",
    "read_image",
    "synthetic_scenes",
]
