"""Preprocess and decode: the protocols, the look-up among plugins, batches, readers of raw inputs, images."""

from convkit.processing._array_files import COMPRESSED_FROM, read_arrays
from convkit.processing._batches import (
    checked_results,
    collate,
    decode_batch,
    fitted_inputs,
    item_sizes,
    prepare,
    take_items,
    widened,
)
from convkit.processing._image_reader import ImageReader
from convkit.processing._images import as_bgr, read_image, to_image
from convkit.processing._normalisation import check_normalisation
from convkit.processing._protocols import (
    ArraySpec,
    Decode,
    DeviceDecode,
    DevicePreprocess,
    Join,
    Placement,
    PlacesOnDevice,
    Prepared,
    Preprocess,
)
from convkit.processing._readers import ArrayReader, Frame, JsonReader, Reader
from convkit.processing._registry import NamedArrays, device_decode, device_preprocess, find_decode, find_preprocess
from convkit.processing._scenes import synthetic_scenes

__all__ = [
    "COMPRESSED_FROM",
    "ArrayReader",
    "ArraySpec",
    "Decode",
    "DeviceDecode",
    "DevicePreprocess",
    "Frame",
    "ImageReader",
    "Join",
    "JsonReader",
    "NamedArrays",
    "Placement",
    "PlacesOnDevice",
    "Prepared",
    "Preprocess",
    "Reader",
    "as_bgr",
    "check_normalisation",
    "checked_results",
    "collate",
    "decode_batch",
    "device_decode",
    "device_preprocess",
    "find_decode",
    "find_preprocess",
    "fitted_inputs",
    "item_sizes",
    "prepare",
    "read_arrays",
    "read_image",
    "synthetic_scenes",
    "take_items",
    "to_image",
    "widened",
]
