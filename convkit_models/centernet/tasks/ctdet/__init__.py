"""Object detection as in CenterNet: outputs, specification, decode on the host and on the GPU."""

from convkit_models.centernet.tasks.ctdet._decode import CtdetDecode, are_peaks, best, find_peaks, max_pool, sigmoid
from convkit_models.centernet.tasks.ctdet._decode_pro import MODE, MOST_CELLS, ProDecode, least_logit, overlaps
from convkit_models.centernet.tasks.ctdet._device_decode import Call, CudaDecode, Tensor, Tuning, decode_variants
from convkit_models.centernet.tasks.ctdet._outputs import output_patch, reference
from convkit_models.centernet.tasks.ctdet._spec import DECODE, MULTIPLE, OUTPUT_PATCH, PREPROCESS, describe

__all__ = [
    "DECODE",
    "MODE",
    "MOST_CELLS",
    "MULTIPLE",
    "OUTPUT_PATCH",
    "PREPROCESS",
    "Call",
    "CtdetDecode",
    "CudaDecode",
    "ProDecode",
    "Tensor",
    "Tuning",
    "are_peaks",
    "best",
    "decode_variants",
    "describe",
    "find_peaks",
    "least_logit",
    "max_pool",
    "output_patch",
    "overlaps",
    "reference",
    "sigmoid",
]
