"""Conversion: from a checkpoint to a proved artifact, stage by stage."""

from convkit.conversion._convert import Conversion, convert, default_output
from convkit.conversion._export import check_graph, clean_names, export_onnx
from convkit.conversion._patching import AttributePatch, ModulePatch, Patch, PatchRecord, patched
from convkit.conversion._settings import CONFIG_FILE, Setting, Settings, read_config, resolve_settings
from convkit.conversion._stages import Builder, Images

__all__ = [
    "CONFIG_FILE",
    "AttributePatch",
    "Builder",
    "Conversion",
    "Images",
    "ModulePatch",
    "Patch",
    "PatchRecord",
    "Setting",
    "Settings",
    "check_graph",
    "clean_names",
    "convert",
    "default_output",
    "export_onnx",
    "patched",
    "read_config",
    "resolve_settings",
]
