"""Conversion: from a checkpoint to a proved artifact, stage by stage, and engines of it."""

from convkit.conversion._calibration import (
    MIN_CALIBRATION,
    CalibrationFiles,
    CalibrationInputs,
    CalibrationSamples,
    CalibrationSet,
    InputRange,
    quantize_with,
)
from convkit.conversion._convert import (
    STAGES,
    Conversion,
    ConversionPlan,
    convert,
    default_output,
    plan_conversion,
    run_plan,
)
from convkit.conversion._engines import BuiltEngine, build_engine
from convkit.conversion._export import check_graph, clean_names, export_onnx
from convkit.conversion._inputs import RawInputs, adapter_inputs, own_inputs
from convkit.conversion._options import option_pairs, resolve_options
from convkit.conversion._preflight import Checked, check_source, preflight
from convkit.conversion._settings import (
    CONFIG_FILE,
    OPSETS,
    ConvertSettings,
    read_config,
    resolve_settings,
)

__all__ = [
    "CONFIG_FILE",
    "MIN_CALIBRATION",
    "OPSETS",
    "STAGES",
    "BuiltEngine",
    "CalibrationFiles",
    "CalibrationInputs",
    "CalibrationSamples",
    "CalibrationSet",
    "Checked",
    "Conversion",
    "ConversionPlan",
    "ConvertSettings",
    "InputRange",
    "RawInputs",
    "adapter_inputs",
    "build_engine",
    "check_graph",
    "check_source",
    "clean_names",
    "convert",
    "default_output",
    "export_onnx",
    "option_pairs",
    "own_inputs",
    "plan_conversion",
    "preflight",
    "quantize_with",
    "read_config",
    "resolve_options",
    "resolve_settings",
    "run_plan",
]
