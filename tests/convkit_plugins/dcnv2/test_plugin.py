"""The entry point: light, complete and known to the plugin system; and the errors it knows."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points

import pluggy
import pytest

import convkit_plugins.dcnv2 as plugin
from convkit import Target, TensorRTPlugin, hookspecs
from convkit.doctor import search
from convkit.errors import SettingError


def test_the_entry_point_imports_nothing_heavy() -> None:
    code = (
        "import sys, convkit_plugins.dcnv2\n"
        "print([m for m in ('torch', 'onnx', 'onnxscript', 'onnx_graphsurgeon', 'numpy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_it_is_installed_as_an_entry_point() -> None:
    (entry,) = entry_points(group="convkit", name="dcnv2")
    assert entry.load() is plugin


def test_every_hook_is_known() -> None:
    manager = pluggy.PluginManager("convkit")
    manager.add_hookspecs(hookspecs)
    manager.register(plugin)
    manager.check_pending()
    target = Target()
    (rewrites,) = manager.hook.convkit_graph_rewrites(adapter="any", target=target)
    assert [rewrite.name for rewrite in rewrites] == ["dcnv2.fold-batchnorm"]
    (patches,) = manager.hook.convkit_export_patches(adapter="any", model=None, target=target)
    assert all(patch.expect.accepts(0) for patch in patches)
    (table,) = manager.hook.convkit_onnx_translations(target=target)
    assert [str(operator) for operator in table] == ["convkit.deform_conv2d.default"]
    assert manager.hook.convkit_tensorrt_plugins(target=target)


def test_tensorrt_plugins_and_their_functions() -> None:
    shipped, inside = plugin.convkit_tensorrt_plugins(Target("tensorrt"))
    assert isinstance(shipped, TensorRTPlugin)
    assert (shipped.op_type, shipped.plugin, shipped.source) == ("DeformConv", "ModulatedDeformConv2d", "shipped")
    assert (inside.op_type, inside.plugin, inside.source, inside.to_run) == ("DCNv2", "DCNv2", "convkit", False)
    (own,) = plugin.convkit_tensorrt_plugins(Target("tensorrt-rtx"))
    assert (own.op_type, own.plugin, own.source, own.to_run) == ("DeformConv", "DeformConv", "convkit", True)
    for place in (own.register, own.reference, inside.register, inside.reference):
        module, _, name = place.partition(":")
        assert callable(getattr(import_module(module), name))


@pytest.mark.parametrize(
    ("format", "choice", "expected"),
    [
        ("onnx", "auto", None),
        ("onnx", "creator", None),
        ("onnx", "plugin", None),
        ("onnx", "native", None),
        ("tensorrt-rtx", "auto", "dcnv2.decompose-grid-sample"),
        ("tensorrt-rtx", "gather", "dcnv2.decompose-gather"),
        ("tensorrt-rtx", "creator", "dcnv2.complete-inputs"),
        ("tensorrt", "auto", "dcnv2.decompose-gather"),
        ("tensorrt", "grid-sample", "dcnv2.decompose-grid-sample"),
        ("tensorrt", "plugin", "dcnv2.tensorrt-plugin"),
        ("tensorrt", "native", "dcnv2.native"),
        ("another", "auto", None),
        ("another", "gather", "dcnv2.decompose-gather"),
        ("another", "native", None),
    ],
)
def test_the_option_chooses_the_rewrite(format: str, choice: str, expected: str | None) -> None:
    rewrites = plugin.convkit_graph_rewrites(Target(format, options={"dcn": choice}))
    names = [rewrite.name for rewrite in rewrites]
    assert names == ["dcnv2.fold-batchnorm", *([expected] if expected else [])]


@pytest.mark.parametrize(
    ("format", "choice", "owner", "instead"),
    [
        ("tensorrt", "creator", "tensorrt-rtx has", "dcn=grid-sample, dcn=gather, dcn=plugin or dcn=native"),
        ("tensorrt-rtx", "plugin", "tensorrt has", "dcn=grid-sample, dcn=gather or dcn=creator"),
        ("tensorrt-rtx", "native", "tensorrt has", "dcn=grid-sample, dcn=gather or dcn=creator"),
        ("another", "plugin", "tensorrt has", "dcn=grid-sample, dcn=gather or dcn=native"),
    ],
)
def test_a_choice_that_the_flavour_lacks_is_refused(format: str, choice: str, owner: str, instead: str) -> None:
    with pytest.raises(SettingError, match=f"{format} has no way dcn={choice} .*; {owner}") as caught:
        plugin.convkit_graph_rewrites(Target(format, options={"dcn": choice}))
    assert instead in caught.value.hint


def test_public_names_are_loaded_on_demand() -> None:
    from convkit_plugins.dcnv2 import op

    assert plugin.DCN is op.DCN
    assert plugin.deform_conv2d is op.deform_conv2d
    with pytest.raises(AttributeError, match="no attribute 'DCNv3'"):
        _ = plugin.DCNv3


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        ("RuntimeError: ONNX export failed: Couldn't export Python operator _DCNv2", "autograd function"),
        ("RuntimeError: ONNX export failed: Couldn't export Python operator DeformConvFunction", "autograd function"),
        ("ERROR: ModelImporter.cpp:134\n[8] No importer registered for op: DCNv2\ninput: 536", "private node"),
        ("No importer registered for op: DCNv2_2. Attempting to import as plugin.", "private node"),
        ("[TRT] No importer registered for op: Plugin. Attempting to import as plugin.", "private node"),
        ("No Op registered for DCNv2 with domain_version of 9", "private node"),
        ("ImportError: torch.utils.ffi is deprecated. Please use cpp extensions instead.", "PyTorch has removed"),
        ("src/cpu/dcn_v2_im2col_cpu.cpp:9:10: fatal error: TH/TH.h: No such file or directory", "PyTorch has removed"),
        ("DCNv2/src/vision.h: fatal error: THC/THC.h: No such file or directory", "PyTorch has removed"),
        ('dcn_v2_cuda.cu(107): error: identifier "THCState_getCurrentStream" is undefined', "PyTorch has removed"),
        ('dcn_v2_cuda.cu(126): error: identifier "THCudaBlas_SgemmBatched" is undefined', "PyTorch has removed"),
        ("error: ‘THFloatBlas_gemv’ was not declared in this scope", "PyTorch has removed"),
        ('dcn_v2_cuda.cu(107): error: identifier "AT_CHECK" is undefined', "PyTorch has removed"),
        ("dcn_v2_cuda.cu:6:10: fatal error: THC/THCAtomics.cuh: No such file or directory", "PyTorch has removed"),
        ("dcn_v2_cuda.cu:9: error: 'THCState_getCurrentStream' was not declared in this scope", "PyTorch has removed"),
        (
            'no suitable conversion function from "const at::DeprecatedTypeProperties" to "at::ScalarType" exists',
            "PyTorch has removed",
        ),
        ("NotImplementedError: Cuda is not availabel", "built only on a machine with a GPU"),
        ("RuntimeError: Backward is not reentrant, i.e., running backward", "gradient check"),
        ("vision.cpp:12: error: 'AT_ERROR' was not declared in this scope", "PyTorch has removed"),
        ("error in modulated_deformable_im2col_cuda: invalid device function", "another GPU architecture"),
        (
            "error in deformable_col2im_coord_cuda: no kernel image is available",
            "another GPU architecture",
        ),
        (
            "ImportError: _ext.cpython-37m-x86_64-linux-gnu.so: undefined symbol: _ZN2at5ErrorC1E",
            "another version of PyTorch",
        ),
        (
            "ImportError: deform_conv_cuda.cpython-38-x86_64-linux-gnu.so: undefined symbol: THPVariableClass",
            "another version of PyTorch",
        ),
        ("ModuleNotFoundError: No module named 'models.networks.DCNv2._ext'", "extension is missing"),
        ("ModuleNotFoundError: No module named '_ext'", "extension is missing"),
        ("ImportError: cannot import name 'dcn_v2' from 'DCNv2'", "extension is missing"),
        ("RuntimeError: Not implement on cpu", "on a GPU only"),
        ("RuntimeError: Not compiled with GPU support", "on a GPU only"),
        (
            '  File "networks/DCNv2/dcn_v2_func.py", line 25, in forward\n'
            "    raise NotImplementedError\nNotImplementedError",
            "on a GPU only",
        ),
        (
            "RuntimeError: Exporting the operator deform_conv2d to ONNX opset version 13 is not supported.",
            "torchvision",
        ),
        ("RuntimeError: Exporting the operator deform_conv2d to  opset version 11 is not supported.", "torchvision"),
        (
            "Exporting the operator 'torchvision::deform_conv2d' to ONNX opset version 17 is not supported",
            "torchvision",
        ),
        ("No ONNX function found for <OpOverload(op='torchvision.deform_conv2d', overload='default')>.", "torchvision"),
        ("onnx.onnx_cpp2py_export: No Op registered for DeformConv with domain_version of 18", "from opset 19 on"),
        ("NOT_IMPLEMENTED : Could not find an implementation for DeformConv(19) node with name 'dcn'", "1.25"),
        ("[E] In node 0: No importer registered for op: DeformConv", "older than 10.1"),
        ("getPluginCreator could not find plugin ModulatedDeformConv2d version 1", "plugins are not registered"),
    ],
)
def test_a_known_error_is_found_once(log: str, cause: str) -> None:
    found = search(f"Traceback (most recent call last):\n{log}\nend of the log", plugin.convkit_known_errors())
    assert len(found) == 1
    assert cause in found[0][0].cause
    assert found[0][0].cure


@pytest.mark.parametrize(
    "log",
    [
        "ModuleNotFoundError: No module named 'mmcv._ext'",
        "No importer registered for op: PluginV2Layer",
        "NotImplementedError: Could not run 'aten::empty_strided' with arguments from the 'CUDA' backend",
        "Couldn't export Python operator SwishImplementation",
    ],
)
def test_other_errors_are_not_mistaken_for_ours(log: str) -> None:
    assert not search(log, plugin.convkit_known_errors())
