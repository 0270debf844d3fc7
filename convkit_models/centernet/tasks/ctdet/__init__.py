"""Object detection as in CenterNet: outputs, specification, decode on the host and on the GPU."""

from convkit_models.centernet.tasks.ctdet._decode import CtdetDecode, are_peaks, best, find_peaks, max_pool, sigmoid
from convkit_models.centernet.tasks.ctdet._decode_pro import MODE, MOST_CELLS, ProDecode, least_logit, overlaps
from convkit_models.centernet.tasks.ctdet._device_decode import CudaDecode, DecodeLaunch, Tuning
from convkit_models.centernet.tasks.ctdet._outputs import output_patch, reference
from convkit_models.centernet.tasks.ctdet._spec import DECODE, MULTIPLE, OUTPUT_PATCH, PREPROCESS, describe

__all__ = [
    "DECODE",
    "MODE",
    "MOST_CELLS",
    "MULTIPLE",
    "OUTPUT_PATCH",
    "PREPROCESS",
    "CtdetDecode",
    "CudaDecode",
    "DecodeLaunch",
    "ProDecode",
    "Tuning",
    "are_peaks",
    "best",
    "describe",
    "find_peaks",
    "least_logit",
    "max_pool",
    "output_patch",
    "overlaps",
    "reference",
    "sigmoid",
]
