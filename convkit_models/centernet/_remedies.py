"""What people who take CenterNet to ONNX by hand run into, with cause and cure."""

from __future__ import annotations

from convkit import Remedy

__all__ = ["REMEDIES"]

_CONVERT = "Convert from the checkpoint alone: `convkit convert centernet --weights FILE`"

REMEDIES = (
    Remedy(
        pattern=r"size mismatch for (hm|wh|reg|layer\d|deconv_layers)\b",
        cause="The network was built for another architecture, class count or head width than the checkpoint has.",
        cure=f"{_CONVERT} reads all of them from the file.",
    ),
    Remedy(
        pattern=r"Skip loading parameter \S+|No param (hm|wh|reg|layer\d|deconv_layers)\S*",
        cause="CenterNet's loader left these weights at random values and went on: the results are worthless.",
        cure=f"The --arch or the heads do not fit the file. {_CONVERT} infers both, and refuses what does not fit.",
    ),
    Remedy(
        pattern=r"shape '\[-1, 164, 16384\]' is invalid for input of size",
        cause="The tutorial's export writes 80 classes and 512 x 512 pixels into the graph as numbers.",
        cure=f"{_CONVERT} --form tutorial derives them, for example with --shape height=384 --shape width=384.",
    ),
    Remedy(
        pattern=r"unexpected keyword argument '(enable_onnx_checker|_retain_param_name|use_external_data_format)'",
        cause="The export script was written for PyTorch 1.x; the argument no longer exists.",
        cure=f"{_CONVERT} needs no script.",
    ),
)
