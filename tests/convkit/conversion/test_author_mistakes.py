"""What an author reads of a mistake in an adapter: one error with plugin, object and stage, as early as it can."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.mistakes import (
    Back,
    Foreign,
    Invalid,
    Mine,
    Place,
    Thrice,
    boom,
    deciding,
    half,
    loaded_with,
    on_device,
    part_with,
    reference_with,
    shuffled,
    spec_with,
    tensor_with,
    training,
)
from support.plugins import registered
from support.toy import ToyAdapter

from convkit import Classification, Dim, Prepared, TensorSpec, convert, exactly
from convkit.cli import execute
from convkit.conversion import STAGES, _preflight
from convkit.errors import ConvkitError, SettingError

READ, CHECK, MEASURE, EXPORT, REWRITE, PROVE, _ = STAGES
STEPS = {READ: "checking the adapter", CHECK: "running PyTorch", MEASURE: "exporting", EXPORT: "rewriting"}
"""What must not have begun when a mistake of a stage is told."""
IMAGES, LOGITS = TensorSpec("images", ("batch", 3, "height", "width")), TensorSpec("logits", ("batch", 4))


@dataclass(frozen=True)
class Mistake:
    """One mistake, and what has to be said of it: where, in which words, and by whose code."""

    make: Callable[[], Any]
    stage: str
    message: str
    hint: str = ""
    debug: bool = False


def bug(make: Callable[[], Any], stage: str, message: str) -> Mistake:
    """Return a mistake that raises."""
    return Mistake(make, stage, message, debug=True)


def mine(**changes: Any) -> Callable[[], Mine]:
    return partial(Mine, **changes)


MISTAKES: dict[str, Mistake] = {
    # load
    "load raises": bug(mine(loaded=boom), READ, "Plugin 'mine': load() of adapter 'toy' raised RuntimeError: boom"),
    "load exits": bug(mine(loaded=lambda source: exit(3)), READ, "load() of adapter 'toy' raised SystemExit: 3"),
    "load returns a module": Mistake(
        mine(loaded=lambda source: source.module), READ, "load() of adapter 'toy' returned a ToyNet", "SourceModel("
    ),
    "load returns nothing": Mistake(mine(loaded=lambda source: None), READ, "returned a NoneType", "SourceModel("),
    "the module is a state dict": Mistake(
        lambda: loaded_with(module={"a": torch.zeros(1)}), READ, "returned a dict as module", "SourceModel("
    ),
    "the reference is a result": Mistake(lambda: loaded_with(reference=3), READ, "a int as reference", "function"),
    "training mode": Mistake(
        mine(loaded=training), READ, "a module in training mode: stem, stem.0, stem.1, stem.2", "module.eval()"
    ),
    "half precision": Mistake(
        mine(loaded=half), READ, "not in float32 on the CPU: stem.0.weight (float16 on cpu)", "module.float()"
    ),
    "an array in the preprocess": Mistake(
        lambda: part_with("preprocess", mean=np.zeros(3)), READ, "ModelSpec.preprocess['mean'] is a numpy.ndarray",
        ".tolist()",
    ),
    "a number of NumPy in the decode": Mistake(
        lambda: part_with("decode", levels=[{"stride": np.float32(8)}]), READ,
        "ModelSpec.decode['levels'][0]['stride'] is a numpy.float32", ".item()",
    ),
    "a path in info": Mistake(
        lambda: spec_with(info={"from": Path("a")}), READ, "ModelSpec.info['from'] is a pathlib.PosixPath", "str(...)"
    ),
    "a key that is no text": Mistake(
        lambda: part_with("decode", names={0: "a"}), READ, "ModelSpec.decode['names'] has the key 0", "str(...)"
    ),
    "a dimension misspelt in an input": Mistake(
        lambda: spec_with(inputs=(TensorSpec("images", ("batch", 3, "hight", "width")),)), READ,
        "Plugin 'mine': The shape of 'images' names an unknown dimension 'hight'", "Did you mean 'height'?",
    ),
    "a dimension misspelt in an output": Mistake(
        lambda: spec_with(outputs=(TensorSpec("logits", ("bach", 4)),)), READ, "an unknown dimension 'bach'",
        "Did you mean 'batch'?",
    ),
    "a dtype misspelt": Mistake(
        mine(loaded=lambda source: TensorSpec("logits", ("batch", 4), "flaot32")), READ, "the dtype 'flaot32'",
        "Did you mean 'float32'?",
    ),
    # preflight: specification
    "the request's sizes are not heeded": Mistake(
        lambda: spec_with(dims=(Dim("batch", 1, 4, 16), *ToyAdapter.dims[1:])), CHECK,
        "adapter 'toy' returned the dimension batch=1:4:16 where batch=1:1:4 was asked for", "request.dims",
    ),
    "a dimension is left out": Mistake(
        lambda: spec_with(dims=ToyAdapter.dims[:2], inputs=(TensorSpec("images", ("batch", 3, "height", 32)),)), CHECK,
        "returned the dimensions batch, height where batch, height, width were asked for", "request.dims",
    ),
    "a preprocess misspelt": Mistake(
        lambda: part_with("preprocess", kind="toy.rezise"), CHECK, "No plugin preprocesses inputs for 'toy.rezise'"
    ),
    "a decode misspelt": Mistake(
        lambda: part_with("decode", kind="toy.sotfmax"), CHECK, "No plugin decodes outputs for 'toy.sotfmax'"
    ),
    "a decode without a kind": Mistake(
        lambda: spec_with(decode={"classes": ["a"]}), CHECK, "ModelSpec.decode has no kind, but classes", '"kind"'
    ),
    "a standard deviation of zero": Mistake(
        lambda: part_with("preprocess", mean=[0.4] * 3, std=[0.2, 0.0, 0.2]), CHECK, "a std of 0.2, 0, 0.2", "it is 1"
    ),
    "mean and deviation on two scales": Mistake(
        lambda: part_with("preprocess", mean=[123.7, 116.3, 103.5], std=[0.229, 0.224, 0.225]), CHECK,
        "mean is 123.7, 116.3, 103.5, for pixels of 0 to 255; this is for 0 to 1", "same scale",
    ),
    "expect with an unknown name": Mistake(
        lambda: spec_with(expect={"mine.tupel": exactly(2)}), CHECK, "expects 'mine.tupel' to fire exactly 2",
        "Did you mean 'mine.tuple'?",
    ),
    # preflight: processing
    "samples raises": bug(mine(samples=boom), CHECK, "Plugin 'mine': samples() of adapter 'toy' raised RuntimeError"),
    "samples returns none": Mistake(
        mine(samples=lambda values: []), CHECK, "Plugin 'mine': samples() of adapter 'toy' returned no samples"
    ),
    "the preprocess hook raises": bug(mine(preprocess=boom), CHECK, "Plugin 'mine' failed in convkit_preprocess"),
    "the preprocess hook returns a function": Mistake(
        mine(preprocess=lambda preprocess: lambda image: image), CHECK, "convkit_preprocess returned a function",
        "convkit.Preprocess",
    ),
    "the preprocess raises": bug(
        mine(prepared=boom), CHECK, "Plugin 'mine': the preprocess Changed raised RuntimeError: boom"
    ),
    "the preprocess returns an array": Mistake(
        mine(prepared=lambda image, prepared: prepared.tensors["images"]), CHECK,
        "Plugin 'mine': the preprocess Changed returned a ndarray", "Prepared({input name: array",
    ),
    "the preprocess returns float64": Mistake(
        lambda: tensor_with(lambda tensor: tensor.astype(np.float64)), CHECK,
        "Plugin 'mine': the preprocess Changed returned float64 for 'images'; the model takes float32", "astype",
    ),
    "the preprocess returns H x W x C": Mistake(
        lambda: tensor_with(lambda tensor: np.ascontiguousarray(tensor.transpose(1, 2, 0))), CHECK,
        "Plugin 'mine': the preprocess Changed returned", "3 x height x width",
    ),
    "the preprocess returns a batch": Mistake(
        lambda: tensor_with(lambda tensor: tensor[None]), CHECK, "a tensor of shape (1, 3, 32, 32) for 'images'",
        "without the batch axis",
    ),
    "the preprocess returns another size": Mistake(
        lambda: tensor_with(lambda tensor: tensor[:, :24, :24].copy()), CHECK,
        "Plugin 'mine': the preprocess Changed returned 'images' of shape (3, 24, 24) where height 32, width 32",
        "ModelSpec.preprocess",
    ),
    "the preprocess returns NaN": Mistake(
        lambda: tensor_with(lambda tensor: tensor * np.float32("nan")), CHECK,
        "Plugin 'mine': the preprocess Changed returned 3072 values for 'images' that are NaN or infinite", "zero",
    ),
    "the preprocess draws lots": Mistake(
        lambda: tensor_with(lambda tensor: tensor + np.random.default_rng().random(1, np.float32)), CHECK,
        "Plugin 'mine': the preprocess Changed returned two different results for one input", "deterministic",
    ),
    "a number of NumPy in meta": Mistake(
        mine(prepared=lambda image, prepared: Prepared(prepared.tensors, {"scale": np.float32(2)})), CHECK,
        "meta['scale'] is a numpy.float32", ".item()",
    ),
    # preflight: reference
    "the reference raises": bug(
        lambda: loaded_with(reference=boom), CHECK,
        "Plugin 'mine': the adapter's reference in float32 raised RuntimeError: boom",
    ),
    "the reference returns a tensor": Mistake(
        lambda: reference_with(lambda module, inputs, outputs: outputs["logits"]), CHECK,
        "Plugin 'mine': the adapter's reference returned a Tensor; its outputs are logits", "mapping",
    ),
    "the reference misses an output": Mistake(
        lambda: spec_with(outputs=(LOGITS, TensorSpec("boxes", ("batch", 4)))), CHECK,
        "Plugin 'mine': the adapter's reference lacks boxes", "ModelSpec.outputs",
    ),
    "the reference returns one more": Mistake(
        lambda: reference_with(lambda module, inputs, outputs: {**outputs, "extra": outputs["logits"]}), CHECK,
        "returned extra, which ModelSpec.outputs does not declare", "ModelSpec.outputs",
    ),
    "the reference disagrees in shape": Mistake(
        lambda: spec_with(outputs=(TensorSpec("logits", ("batch", 7)),)), CHECK,
        "returned 'logits' as float32 [2, 4]; ModelSpec.outputs declares float32 [2, 7] (batch x 7)", "TensorSpec",
    ),
    "the reference disagrees in dtype": Mistake(
        lambda: spec_with(outputs=(TensorSpec("logits", ("batch", 4), "int64"),)), CHECK,
        "returned 'logits' as float32 [2, 4]; ModelSpec.outputs declares int64", "TensorSpec",
    ),
    "the reference returns NaN": Mistake(
        lambda: reference_with(lambda module, inputs, outputs: {"logits": outputs["logits"] * float("nan")}), CHECK,
        "the adapter's reference returned 8 values in 'logits' that are no finite numbers", "weights",
    ),
    "the reference writes into its input": Mistake(
        lambda: reference_with(lambda module, inputs, outputs: inputs["images"].zero_() is not None and outputs), CHECK,
        "the adapter's reference writes into its input 'images'", "clone()",
    ),
    # preflight: decode
    "the decode hook returns a class": Mistake(
        mine(decode=type), CHECK, "convkit_decode returned a ABCMeta", "convkit.Decode"
    ),
    "the decode raises": bug(mine(decoded=boom), CHECK, "Plugin 'mine': the decode Changed raised RuntimeError: boom"),
    "the decode returns one result for a batch": Mistake(
        mine(decoded=lambda outputs, results: results[:1]), CHECK,
        "Plugin 'mine': the decode Changed returned 1 results for 2 inputs", "one result for each",
    ),
    "the decode returns dicts": Mistake(
        mine(decoded=lambda outputs, results: [{} for _ in results]), CHECK,
        "Plugin 'mine': the decode Changed returned a dict among its results", "convkit.Result",
    ),
    "the decode draws lots": Mistake(
        mine(decoded=shuffled), CHECK,
        "Plugin 'mine': the decode Changed returned two different results for the same outputs", "deterministic",
    ),
    "the decode mixes the batch": Mistake(
        mine(decoded=lambda outputs, results: results[::-1]), CHECK,
        "Plugin 'mine': the decode Changed gives another result for an input in a batch", "by itself",
    ),
    "the decode writes into the outputs": Mistake(
        mine(decoded=lambda outputs, results: [outputs["logits"].fill(0), results][1]), CHECK,
        "the decode Changed writes into the output 'logits'", "copy",
    ),
    "a result is no JSON": Mistake(
        mine(decoded=lambda outputs, results: [Classification(r.probabilities, (np.int64(7),) * 4) for r in results]),
        CHECK, "Classification.to_json()['classes'][0]['class_name'] is a numpy.int64", ".item()",
    ),
    # preflight: GPU sides
    "on_device raises": bug(
        mine(preprocess=on_device(boom)), CHECK, "Plugin 'mine': on_device() of Changed raised RuntimeError: boom"
    ),
    "on_device returns something else": Mistake(
        mine(decode=on_device(lambda host: 3)), CHECK,
        "Plugin 'mine': on_device() of Changed returned a int, which is no convkit.DeviceDecode", "launch",
    ),
    "kernels raises": bug(
        mine(preprocess=on_device(lambda host: Place(host, "kernels"))), CHECK,
        "Plugin 'mine': kernels() of Place raised",
    ),
    "place raises": bug(
        mine(preprocess=on_device(lambda host: Place(host, "place"))), CHECK, "Plugin 'mine': place() of Place raised"
    ),
    "a row does not fit its record": bug(
        mine(preprocess=on_device(lambda host: Place(host, "row"))), CHECK, "Plugin 'mine': row() of Place raised"
    ),
    "a value for the GPU is missing": bug(
        mine(decode=on_device(lambda host: Back())), CHECK, "Plugin 'mine': values() of Back raised KeyError: 'scale'"
    ),
    # preflight: patches
    "the hook of patches raises": bug(mine(patches=boom), CHECK, "Plugin 'mine' failed in convkit_export_patches"),
    "the hook of patches returns one": bug(
        mine(patches=lambda patches: patches[0]), CHECK, "Plugin 'mine' failed in convkit_export_patches: TypeError"
    ),
    "the hook of patches returns a function": Mistake(
        mine(patches=lambda patches: [boom]), CHECK, "Plugin 'mine' returned a function from convkit_export_patches",
        "convkit.ModulePatch",
    ),
    "two patches of one name": Mistake(
        mine(patches=lambda patches: [*patches, *patches]), CHECK, "Two patches or rewrites have the name 'mine.tuple'"
    ),
    "match of a patch raises": bug(
        mine(match=boom), CHECK, "Plugin 'mine': match() of patch 'mine.tuple' at module 'ToyNet' raised RuntimeError"
    ),
    "a patch matches nothing": Mistake(
        mine(match=lambda path, module: path == "ehad" or (path == "head" and "it is no root")), CHECK,
        "Plugin 'mine': patch 'mine.tuple' matches 0 modules; it declares at least 1", "head: it is no root",
    ),
    "a patch matches too much": Mistake(
        lambda: Mine(
            match=lambda path, module: path in ("", "head"),
            loaded=lambda source: spec_with(expect={"mine.tuple": exactly(1)}).loaded(source),
        ),
        CHECK, "patch 'mine.tuple' matches 2 modules; it declares exactly 1", "too often",
    ),
    "forward of a patch raises": bug(
        mine(forward=boom), CHECK,
        "Plugin 'mine': forward() of patch 'mine.tuple' (or what it calls) raised RuntimeError"
    ),
    "the patched model returns a dict": Mistake(
        mine(forward=lambda module, original, images: original(images)), CHECK,
        "Plugin 'mine': the patched model returns a dict of logits; the adapter declares 1 outputs (logits)", "tuple",
    ),
    "the patched model takes another argument": Mistake(
        mine(forward=lambda module, original, images, mask: (original(images)["logits"],)), CHECK,
        "Plugin 'mine': the patched model does not take the 1 declared inputs (images)", "order of ModelSpec.inputs",
    ),
    "the patched model returns another shape": Mistake(
        mine(forward=lambda module, original, images: (original(images)["logits"].sum(),)), CHECK,
        "Plugin 'mine': the patched model returned 'logits' as float32 []", "TensorSpec",
    ),
    "the hook of rewrites returns a class": Mistake(
        mine(rewrites=[Thrice]), CHECK,
        "Plugin 'mine' returned the class Thrice from convkit_graph_rewrites", "[Thrice()]"
    ),
    "the hook of adapters returns a class": Mistake(
        mine(adapters=lambda adapter: [type(adapter)]), "",
        "Plugin 'mine' returned the class Changed from", "[Changed()]"
    ),
    # afterwards
    "a fixed dtype in the reference": Mistake(
        lambda: reference_with(lambda module, inputs, outputs: {"logits": outputs["logits"] @ torch.eye(4)}), MEASURE,
        "Plugin 'mine': the adapter's reference in float64 raised RuntimeError: expected", "dtype from the inputs",
        debug=True,
    ),
    "a patch that cannot be exported": bug(
        mine(forward=deciding), EXPORT,
        "Plugin 'mine': patch 'mine.tuple'",
    ),
    "match of a rewrite raises": bug(
        lambda: Mine(rewrites=[Thrice(match=boom)]), REWRITE, "Plugin 'mine': match() of rewrite 'mine.again' at node '"
    ),
    "rewrite of a rewrite raises": bug(
        lambda: Mine(rewrites=[Thrice(rewrite=boom)]), REWRITE,
        "Plugin 'mine': rewrite() of rewrite 'mine.again' at node '"
    ),
    "apply of a rewrite counts nothing": Mistake(
        lambda: Mine(rewrites=[Thrice(apply=lambda graph, misses: None)]), REWRITE,
        "Plugin 'mine': apply() of rewrite 'mine.again' returned None", "how often",
    ),
    "a rewrite makes an invalid node": Mistake(
        lambda: Mine(rewrites=[Invalid()]), REWRITE, "after rewrite 'mine.again' of plugin 'mine'", "mend that"
    ),
    "a rewrite fires too rarely": Mistake(
        lambda: Mine(rewrites=[Thrice(expect=exactly(3))]), REWRITE,
        "Plugin 'mine': rewrite 'mine.again' fired 2 times; it declares exactly 3", "too rarely",
    ),
    "a rewrite fires too often": Mistake(
        lambda: Mine(rewrites=[Thrice(expect=exactly(1))]), REWRITE, "fired 2 times; it declares exactly 1", "too often"
    ),
    "an operator of no engine": Mistake(
        lambda: Mine(rewrites=[Foreign()]), REWRITE, "mine::Gate", "--backend torch"
    ),
}  # fmt: skip


def told(make: Callable[[], Any], weights: Path, output: Path) -> tuple[ConvkitError, list[str]]:
    """Return the error that a conversion ends with, and the steps that it had begun."""
    steps: list[str] = []
    with registered(make(), "mine"), pytest.raises(ConvkitError) as caught:
        convert("toy", weights=weights, output=output, samples=2, progress=lambda step, *_: steps.append(step))
    return caught.value, steps


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_by_plugin_object_and_stage_as_early_as_it_can_be(name, toy_weights_file, tmp_path):
    mistake = MISTAKES[name]
    error, steps = told(mistake.make, toy_weights_file, tmp_path / "out")
    assert mistake.message in error.message
    assert mistake.hint in error.hint
    assert error.hint
    assert ("CONVKIT_DEBUG=1 shows where" in error.hint) == mistake.debug
    assert isinstance(error, SettingError) or error.stage == mistake.stage
    later = STEPS.get(mistake.stage, "never")
    assert not [step for step in steps if step.startswith(later)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "the reference writes into its input",
        "the decode draws lots",
        "forward of a patch raises",
        "a fixed dtype in the reference",
        "match of a rewrite raises",
    ],
)
def test_it_is_told_alike_while_other_processes_compute_the_reference(name, toy_weights_file, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        error, _ = told(MISTAKES[name].make, toy_weights_file, tmp_path / "out")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert MISTAKES[name].message in error.message
    assert error.stage == MISTAKES[name].stage
    assert not multiprocessing.active_children()
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_shows_although_another_process_was_first(toy_weights_file, tmp_path, monkeypatch):
    """What the network gives for the samples is known before the checks begin, as it may be on many cores."""
    check = _preflight.check_network

    def late(checked: Any, float32: Any) -> None:
        for item in checked.samples.prepared[checked.case.item_sizes]:
            float32({name: value[None].copy() for name, value in item.tensors.items()})
        check(checked, float32)

    monkeypatch.setattr(_preflight, "check_network", late)
    mistake = MISTAKES["the reference writes into its input"]
    error, _ = told(mistake.make, toy_weights_file, tmp_path / "out")
    assert mistake.message in error.message


@pytest.mark.parametrize("name", ["load raises", "the patched model returns a dict", "the decode draws lots"])
def test_the_command_line_tells_it_without_a_traceback(name, toy_weights_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("convkit.plugins.block", lambda names: None)  # the manager of this process knows the plugin
    mistake = MISTAKES[name]
    with registered(mistake.make(), "mine"):
        code = execute(["convert", "toy", "-w", str(toy_weights_file), "-o", str(tmp_path / "out"), "-q"])
    shown = capsys.readouterr().err
    assert code == 3
    assert "Traceback" not in shown
    assert mistake.message in shown
    assert f"\n  stage: {mistake.stage}\n" in shown


def test_there_are_more_mistakes_than_an_author_tried():
    assert len(MISTAKES) > 38
