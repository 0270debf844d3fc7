"""The conformance kit: a sound adapter passes every check, and every check finds what it is for."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
import torch
from support.conformance import (
    CHECKS,
    SoundToy,
    Variant,
    adapter_with,
    decode_with,
    module_with,
    patch_with,
    preprocess_with,
    reference_with,
    result_with,
    run_check,
    spec_with,
)
from support.plugins import registered, write_distribution
from support.toy import Resize, ToyAdapter
from support.toy_device import ResizeOnDevice, SoftmaxOnDevice, moved, resize_on, softmax_on

from convkit import (
    Artifact,
    CheckpointError,
    Classification,
    Difference,
    Dim,
    ImageReader,
    NodeRewrite,
    Option,
    Prepared,
    Request,
    Result,
    SourceModel,
    TensorSpec,
    Tolerance,
    exactly,
    hookimpl,
)
from convkit.cuda import find_device
from convkit.errors import IntegrityError
from convkit.plugins import manager
from convkit.processing.image_warp import ImageWarp
from convkit.testing import AdapterConformance
from convkit.testing._replay import Replay
from convkit.testing._subject import Subject

LIGHT = """
from convkit import Adapter, hookimpl
{imports}
class Toy(Adapter):
    name, summary = "toy", "toy"
    def load(self, request): ...
    def samples(self, spec, count, seed): ...
@hookimpl
def convkit_adapters():
    {body}
    return [Toy()]
"""


def install_toy(folder: Path, monkeypatch: pytest.MonkeyPatch, imports: str = "", body: str = "") -> None:
    """Give the plugin ``toy`` an entry point, which the check of its imports loads in another process.

    The manager of this process is made before: it must not find that entry point.
    """
    manager()
    source = LIGHT.format(imports=imports, body=body)
    write_distribution(folder, "convkit-toy", {"toy": "light_toy"}, {"light_toy": source})
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.parametrize("check", CHECKS)
def test_sound_adapter_passes(
    check: str, toy_weights_file: Path, toy_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_toy(tmp_path / "site", monkeypatch)
    variant = Variant(preprocess=resize_on(), decode=softmax_on()) if "_device_" in check else Variant()
    run_check(check, variant, toy_weights_file, tmp_path, toy_artifact)


class Hasty(Variant):
    """A plugin with an option of its own."""

    @hookimpl
    def convkit_options(self) -> list[Option]:
        return [Option("haste", 3, "how much of a hurry there is")]


def test_hooks_learn_the_options_of_the_adapter_and_of_plugins(toy_weights_file: Path) -> None:
    with registered(Hasty()):
        usual = Subject.find("toy", toy_weights_file, (), {})
        set_ = Subject.find("toy", toy_weights_file, (), {"scale": 2.0, "haste": 7})
        assert {name: usual.target("logits").options[name] for name in ("scale", "haste")} == {"scale": 1.0, "haste": 3}
        assert {name: set_.target("logits").options[name] for name in ("scale", "haste")} == {"scale": 2.0, "haste": 7}
        assert set_.request("logits").options == {"scale": 2.0}


def test_the_kit_proves_on_the_backend_that_a_class_names(toy: object, toy_weights_file: Path, tmp_path: Path) -> None:
    """An adapter with nodes of its own, or with more exact sums than ONNX Runtime has, is tested as it is converted."""
    subject = Subject.find("toy", toy_weights_file, ("batch=1:1:2",), {}, "torch")
    artifact = subject.convert("logits", tmp_path / "artifact")
    replay = Replay(artifact)
    verdict = replay.prove(replay.engine)
    assert artifact.verdict["backend"] == replay.backend == verdict.backend == "torch"
    assert verdict.passed
    assert replay.prove(Replay(artifact).backwards).passed


@pytest.mark.parametrize("part", ["preprocess", "decode"])
def test_sides_that_an_adapter_lacks_are_not_checked(part: str, toy_weights_file: Path, tmp_path: Path) -> None:
    with pytest.raises(pytest.skip.Exception, match=f"the {part} has no device side"):
        run_check(f"test_device_{part}_gives_what_the_host_gives", Variant(), toy_weights_file, tmp_path)


def test_device_sides_are_left_out_where_they_cannot_run_and_the_reason_is_said(
    toy_weights_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant, check = Variant(preprocess=resize_on()), "test_device_preprocess_gives_what_the_host_gives"
    monkeypatch.setattr(AdapterConformance, "gpu_only", True)
    with pytest.raises(pytest.skip.Exception, match="gpu_only: the device side runs on a GPU only"):
        run_check(check, variant, toy_weights_file, tmp_path)
    monkeypatch.setattr(AdapterConformance, "gpu_only", False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(pytest.skip.Exception, match="no-such-compiler was not found"):
        run_check(check, variant, toy_weights_file, tmp_path)


def leave_trace(module: torch.nn.Module, result: Any) -> Any:
    module.seen = True  # type: ignore[assignment]
    return result


class Lenient(ToyAdapter):
    """Loads anything that torch reads: what does not fit is left at random."""

    weights_only: ClassVar[bool] = True

    def load(self, request: Request) -> SourceModel:
        content = torch.load(request.weights, weights_only=self.weights_only)
        state = content if isinstance(content, dict) and "head.bias" in content else {"head.bias": torch.zeros(4)}
        return SoundToy().load(replace(request, weights=_written(state, request.weights)))


def _written(state: dict[str, torch.Tensor], path: Path) -> Path:
    from support.toy import ToyNet

    net = ToyNet(len(state["head.bias"]))
    net.load_state_dict(state, strict=False)
    torch.save(net.state_dict(), path.with_suffix(".lenient"))
    return path.with_suffix(".lenient")


class Curt(ToyAdapter):
    """Says that a file is bad, and not what to do."""

    def load(self, request: Request) -> SourceModel:
        raise CheckpointError(f"{request.weights} is bad.")


class RepeatRelu(NodeRewrite):
    """Puts another Relu behind every Relu: the same values, but it never ends."""

    name = "toy.repeat"
    reason = "none"
    op_types = ("Relu",)

    def match(self, graph: gs.Graph, node: gs.Node) -> bool:
        return True

    def rewrite(self, graph: gs.Graph, node: gs.Node, match: bool) -> None:
        middle = gs.Variable(f"{node.name}:again", dtype=np.float32)
        again = gs.Node("Relu", f"{node.name}/again", inputs=[middle], outputs=list(node.outputs))
        node.outputs = [middle]
        graph.nodes.append(again)


class Unexplained(RepeatRelu):
    reason = " "


def ill_scaled(module: torch.nn.Module, logits: torch.Tensor) -> torch.Tensor:
    """Differ between float32 and float64 by more than rounding does."""
    return logits * (1.1 if logits.dtype == torch.float32 else 1.0)


class Jpeg(ImageReader):
    """Keeps images in files that lose something of them."""

    def write(self, raw: np.ndarray, path: Path) -> Path:
        file = path.with_suffix(".jpg")
        file.write_bytes(cv2.imencode(".jpg", raw)[1].tobytes())
        return file


class Negative(ImageReader):
    """Takes a path for another image than the file that it leads to."""

    def accept(self, value: Any) -> np.ndarray:
        image = super().accept(value)
        return 255 - image if isinstance(value, str | Path) else image


def reader_with(reader: ImageReader) -> Variant:
    return Variant(preprocess=type("Changed", (Resize,), {"reader": reader}))


def tensor_with(change: Callable[[np.ndarray], Any]) -> Variant:
    """Return a variant whose preprocess returns ``change(tensor)``."""
    return preprocess_with(lambda image, prepared: Prepared({"images": change(prepared.tensors["images"])}))


def never_equal(self: Classification, other: Result, *, slack: float = 0.0) -> Difference:
    return Difference(1, 0, 0, 1, note="always")


def draw_into(self: Classification, image: np.ndarray) -> np.ndarray:
    image[:] = 0
    return image


def scribble(image: np.ndarray, prepared: Prepared) -> Prepared:
    cv2.circle(image, (0, 0), 3, (1, 2, 3), -1)
    return prepared


def spoil(outputs: Mapping[str, np.ndarray], results: Any) -> Any:
    outputs["logits"][:] = 0
    return results


def shuffled(outputs: Mapping[str, np.ndarray], results: list[Classification]) -> list[Classification]:
    """Mix up the classes, every time in another way."""
    rng = np.random.default_rng(next(counter))
    return [Classification(rng.permutation(result.probabilities), result.classes) for result in results]


def across_batch(outputs: Mapping[str, np.ndarray], results: list[Classification]) -> list[Classification]:
    best = np.max([result.probabilities for result in results], axis=0)
    return [Classification(result.probabilities / best, result.classes) for result in results]


class TupleScale(Resize):
    """Works otherwise when a tuple has become a list."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__(spec)
        self.scale *= 1.0 if isinstance(spec["range"], tuple) else 2.0


def with_range(source: SourceModel) -> SourceModel:
    return spec_with(preprocess={**source.spec.preprocess, "range": (0, 1)})(source)


def with_second_output(source: SourceModel) -> SourceModel:
    """Return an output that the specification lacks, and so nothing ever compares."""

    def reference(module: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        logits = source.reference(module, inputs)["logits"]
        return {"logits": logits, "scores": logits.softmax(-1)}

    return SourceModel(source.module, source.spec, reference)


class ResizeWithCupy(ResizeOnDevice):
    def launch(self, records: Any, payloads: Any, tensors: Mapping[str, Any], stream: int) -> None:
        import cupy

        cupy.cuda.runtime.memsetAsync(tensors["images"].data.ptr, 0, tensors["images"].nbytes, stream)


class ResizeOnlyWithGpu(ResizeOnDevice):
    def __init__(self, host: Resize) -> None:
        find_device("cuda")
        super().__init__(host)


class ResizeOfTheFirst(ResizeOnDevice):
    """Fills the tensors of all items from the first record."""

    def launch(self, records: Any, payloads: Any, tensors: Mapping[str, Any], stream: int) -> None:
        records.values[:] = records.values[:1]
        super().launch(records, payloads, tensors, stream)


def as_placed(**changes: Any) -> Callable[..., Any]:
    return lambda self, raw: replace(ResizeOnDevice.place(self, raw), **changes)


def too_high(self: ResizeOnDevice, placement: Any, offset: int) -> Any:
    return ResizeOnDevice.row(self, replace(placement, detail=replace(placement.detail, height=100_000)), offset)


def read_turned(self: SoftmaxOnDevice, results: Mapping[str, np.ndarray], metas: Any) -> list[Any]:
    return SoftmaxOnDevice.read(self, {"probabilities": results["probabilities"][:, ::-1]}, metas)


def warp_with(**settings: Any) -> Callable[..., ImageWarp]:
    """Return the toy's warp with other settings."""
    usual = {"rounding": "up", "edge": "replicate"}
    return lambda self, levels: ImageWarp(np.tile(levels, (3, 1)), **{**usual, **settings})


DEVICE_FAULTS: dict[str, list[tuple[Variant, str]]] = {
    "test_device_preprocess_gives_what_the_host_gives": [
        (Variant(preprocess=resize_on(matrix=moved(0, 1))), "it looks as if the image is before its place by a row"),
        (Variant(preprocess=resize_on(matrix=moved(-1, 0))), "the image is behind its place by a column"),
        (Variant(preprocess=resize_on(kernel=warp_with(swap=True))), "the order of the channels is reversed"),
        (Variant(preprocess=resize_on(kernel=warp_with(edge="border"))), "'images' differs from the host's by"),
        (
            Variant(preprocess=resize_on(matrix=lambda self, x, y: [[x, 0, 0], [0, y, 0]])),
            "'images' differs from the host's by",
        ),
        (
            Variant(preprocess=resize_on(kernel=lambda self, v: warp_with()(self, v * np.float32(255 / 256)))),
            r"differs from the host's by 0.00\d+, at .* on average; the limits are 0.0039",
        ),
        (Variant(preprocess=resize_on(ResizeOfTheFirst)), "'images' differs from the host's by"),
        (Variant(preprocess=resize_on(place=as_placed(meta={"n": 1}))), r"place\(\) gave the meta {'n': 1}, not {}"),
        (Variant(preprocess=resize_on(place=as_placed(shapes={"images": (3, 32, 16)}))), r"gave the shapes .*32, 16"),
        (Variant(preprocess=resize_on(row=too_high)), "failed on the host"),
        (Variant(preprocess=resize_on(ResizeOnlyWithGpu)), "needs cupy"),
        (Variant(preprocess=resize_on(ResizeWithCupy)), "uses cupy.*upload, allocate and clear of convkit.cuda"),
    ],
    "test_device_decode_gives_what_the_host_gives": [
        (Variant(decode=softmax_on(read=read_turned)), "0 of 1 results are those of the host, 1 differ"),
        (Variant(decode=softmax_on(values=lambda self, meta: {"offsets": np.float32(0.01)})), "max_score is 0.01 for"),
        (
            Variant(decode=softmax_on(read=lambda self, r, m: SoftmaxOnDevice.read(self, r, m)[1:])),
            "returned 3 results",
        ),
        (Variant(decode=softmax_on(values=lambda self, meta: {"offsets": np.zeros(2)})), r"the shape \(2,\)"),
    ],
}
counter = iter(range(1_000_000))
OUTPUT = TensorSpec("logits", ("batch", 4))
IMAGES = TensorSpec("images", ("batch", 3, "height", "width"))
OPTION = Option("mode", "a", "which mode", ("a", "b"))
SIZED = {"kind": "toy.resize", "height": 32, "width": 32, "scale": 1.0}
FAULTY: dict[str, list[tuple[Variant, str]]] = {
    "test_adapter_is_described": [
        (adapter_with(summary=" "), "summary is empty"),
        (adapter_with(summary="one\ntwo"), "several lines"),
        (adapter_with(forms=()), "name at least one output form"),
        (adapter_with(forms=("logits", "logits")), "forms names one thing twice"),
        (adapter_with(dims=(*ToyAdapter.dims, Dim.fixed("width", 8))), "dims names one thing twice"),
        (adapter_with(opset=11), "opset 11"),
        (adapter_with(options=(replace(OPTION, help=""),)), "has no help"),
        (adapter_with(options=(replace(OPTION, default="c"),)), "none of its choices"),
        (adapter_with(options=(replace(OPTION, default=["a"], choices=()),)), "default of type list"),
    ],
    "test_damaged_file_is_refused": [(Variant(adapter=Curt), "the error for a file that is empty has no hint")],
    "test_foreign_checkpoint_is_refused": [(Variant(adapter=Lenient), "DID NOT RAISE")],
    "test_nothing_in_the_file_is_executed": [
        (Variant(adapter=type("Unsafe", (Lenient,), {"weights_only": False})), "ran the command that it holds"),
    ],
    "test_class_names_are_taken_or_refused": [
        (Variant(edit=spec_with(classes=("a", "b", "c", "d"))), "--names gave"),
        (Variant(edit=lambda source: spec_with(classes=source.spec.classes[:4])(source)), "a wrong number of names"),
    ],
    "test_model_is_ready_for_inference": [
        (module_with(lambda module: module.train()), "in training mode: the model, stem"),
        (module_with(lambda module: module.stem[1].double()), "stem.1.weight is torch.float64"),
        (module_with(lambda module: module.to("meta")), "lies on meta"),
    ],
    "test_spec_is_complete": [
        (Variant(edit=spec_with(variant="")), "variant is empty"),
        (Variant(edit=spec_with(dims=(*ToyAdapter.dims, Dim.fixed("depth", 1)))), "dims are not those asked for"),
        (Variant(edit=spec_with(inputs=(IMAGES, IMAGES))), "declares the inputs images, images"),
        (Variant(edit=spec_with(outputs=())), "declares the outputs none"),
        (Variant(edit=spec_with(outputs=(replace(OUTPUT, name="images"),))), "share a name"),
        (Variant(edit=spec_with(outputs=(replace(OUTPUT, shape=("batch", "height-32")),))), r"has the shape \(1, 0\)"),
        (Variant(edit=spec_with(outputs=(replace(OUTPUT, shape=("batch", "height/64")),))), "is no whole number"),
        (Variant(edit=spec_with(outputs=(replace(OUTPUT, shape=("batch", "clases")),))), "unknown dimension 'clases'"),
        (Variant(edit=spec_with(info={"scale": np.float32(1)})), r"ModelSpec.info\['scale'\] is a numpy.float32"),
        (
            Variant(edit=spec_with(preprocess={"kind": "toy.resize", "mean": np.ones(3)})),
            r"ModelSpec.preprocess\['mean'\] is a numpy.ndarray",
        ),
        (Variant(edit=spec_with(decode={"kind": ""})), "decode has no 'kind'"),
    ],
    "test_preflight_passes": [
        (Variant(edit=spec_with(preprocess={**SIZED, "std": 0.0})), "a std of 0"),
        (Variant(edit=with_second_output), "returned scores, which ModelSpec.outputs does not declare"),
        (decode_with(lambda outputs, results: results[:1]), "returned 1 results for 2 inputs"),
        (module_with(lambda module: module.train()), "a module in training mode"),
    ],
    "test_reference_gives_the_declared_outputs": [
        (Variant(edit=spec_with(outputs=(replace(OUTPUT, name="scores"),))), "the spec declares"),
        (Variant(edit=spec_with(outputs=(replace(OUTPUT, shape=("batch", 5)),))), r"has the shape \(1, 4\)"),
        (Variant(edit=reference_with(lambda module, logits: logits.half())), "is float16"),
        (Variant(edit=with_second_output), r"reference returns \['logits', 'scores'\]; the spec declares \['logits'\]"),
    ],
    "test_reference_is_deterministic": [
        (Variant(edit=reference_with(lambda module, logits: logits + torch.rand_like(logits))), "two runs differ"),
    ],
    "test_reference_runs_in_float64": [
        (Variant(edit=reference_with(lambda module, logits: logits.float())), "came back as float32"),
        (Variant(edit=reference_with(lambda module, logits: logits @ torch.eye(4))), "dtype"),
        (Variant(edit=reference_with(ill_scaled)), "float32 lies 10.00% from float64"),
        (Variant(edit=reference_with(lambda module, logits: logits / 0)), "not finite"),
    ],
    "test_reference_leaves_the_module_alone": [
        (Variant(edit=reference_with(leave_trace)), "reference changed seen"),
        (
            Variant(edit=reference_with(lambda module, logits: (module.head.bias.data.add_(1), logits)[1])),
            "changed the values of head.bias",
        ),
    ],
    "test_preprocess_gives_the_declared_tensors": [
        (tensor_with(lambda tensor: tensor.astype(np.float64)), "float64 for 'images'; the model takes float32"),
        (tensor_with(lambda tensor: tensor.tolist()), "list for 'images'; the model takes float32"),
        (tensor_with(lambda tensor: tensor[:, :16]), r"shape \(3, 16, 32\)|height of 16"),
        (tensor_with(lambda tensor: tensor[:2]), r"shape \(2, 32, 32\)"),
        (tensor_with(lambda tensor: tensor[None]), r"shape \(1, 3, 32, 32\)"),
        (tensor_with(lambda tensor: np.full_like(tensor, np.inf)), "not finite"),
        (preprocess_with(lambda image, p: p.tensors["images"]), "returned a ndarray"),
        (preprocess_with(lambda image, p: Prepared(p.tensors["images"])), "returned a ndarray"),
        (preprocess_with(lambda image, p: Prepared({})), "returned tensors for nothing"),
        (preprocess_with(lambda image, p: Prepared({**p.tensors, "sizes": p.tensors["images"]})), "images, sizes"),
        (preprocess_with(lambda image, p: Prepared(p.tensors, {"n": image.shape[0] * np.int64(1)})), "is not JSON"),
        (Variant(preprocess=lambda spec: lambda image: image), "returned a function"),
        (Variant(preprocess=lambda spec: None), "No plugin preprocesses inputs for 'toy.resize'"),
    ],
    "test_preprocess_is_deterministic": [
        (tensor_with(lambda tensor: tensor + np.float32(next(counter))), "two runs differ"),
        (preprocess_with(lambda image, p: Prepared(p.tensors, {"n": next(counter)})), "different metas"),
        (preprocess_with(scribble), "preprocess wrote into its input"),
    ],
    "test_inputs_survive_a_file": [(reader_with(Jpeg()), "input_0.jpg reads back as another input")],
    "test_decode_gives_one_result_an_input": [
        (decode_with(lambda outputs, results: results[1:]), "returned 3 results for 4 inputs"),
        (decode_with(lambda outputs, results: results[0]), "returned a Classification instead of results for 4 inputs"),
        (decode_with(lambda outputs, results: [r.probabilities for r in results]), "returned a ndarray"),
        (result_with(to_json=lambda self: {"p": self.probabilities}), "is not JSON"),
        (result_with(summary=lambda self: ""), "summary.. is empty"),
        (result_with(summary=lambda self: "a\nb"), "several lines"),
        (result_with(draw=draw_into), "draw.. wrote into the input"),
        (result_with(draw=lambda self, image: image[:1] / 2), "draw.. returned float64"),
        (result_with(draw=lambda self, image: image[0]), "draw.. returned the shape"),
        (result_with(compare=never_equal), "differs from itself: always"),
        (Variant(decode=lambda spec: None), "No plugin decodes outputs for 'toy.softmax'"),
        (Variant(decode=lambda spec: lambda outputs, metas: []), "returned a function"),
        (Variant(edit=spec_with(decode={"kind": "toy.sofmax"})), "No plugin decodes outputs for 'toy.sofmax'"),
    ],
    "test_decode_is_deterministic": [
        (decode_with(spoil), "decode wrote into logits"),
        (decode_with(across_batch), "one by one give other results"),
        (decode_with(lambda outputs, results: sorted(results, key=lambda r: r.probabilities[0])), "in reverse"),
        (decode_with(shuffled), "gives other results"),
    ],
    "test_specification_survives_the_manifest": [
        (Variant(edit=with_range, preprocess=TupleScale), "the preprocess that was read back differs"),
        (Variant(edit=spec_with(classes=["a", "b", "c", "d"])), "classes reads back as another one"),
    ],
    "test_patched_model_returns_the_declared_outputs": [
        (patch_with(lambda module, result: (*result, *result)), "returns 2 values; the adapter declares 1"),
        (patch_with(lambda module, result: (result[0][:, :3],)), "has the shape"),
        (patch_with(lambda module, result: {"logits": result[0]}), "returns a dict"),
        (patch_with(lambda module, result: (result[0].double(),)), "logits is float64"),
        (Variant(patch=lambda patch: [replace(patch, match=lambda path, module: False)]), "matches 0 modules"),
    ],
    "test_patches_come_off": [(patch_with(leave_trace), "left traces: seen")],
    "test_patches_come_off_after_an_error": [(patch_with(leave_trace), "left traces: seen")],
    "test_patches_and_rewrites_say_why": [
        (Variant(patch=lambda patch: [replace(patch, reason="")]), "toy.tuple has no reason"),
        (Variant(patch=lambda patch: [replace(patch, name="")]), "has no name"),
        (Variant(patch=lambda patch: [patch, patch]), "two of these have one name"),
        (Variant(rewrites=(Unexplained(),)), "toy.repeat has no reason"),
        (Variant(edit=spec_with(expect={"toy.lost": exactly(1)})), "no plugin brings: toy.lost"),
    ],
    "test_rewrites_are_idempotent": [(Variant(rewrites=(RepeatRelu(),)), "toy.repeat fires 4 times")],
    "test_converts_and_is_proved": [
        (patch_with(lambda module, result: (result[0] * 1.01,)), "does not compute what PyTorch computes"),
    ],
    "test_proof_catches": [
        (
            Variant(edit=spec_with(outputs=(replace(OUTPUT, tolerance=Tolerance(atol=100.0)),))),
            "goes unnoticed in logits",
        ),
    ],
    "test_predictor_takes_files_values_and_lists": [
        (reader_with(Negative()), "a file gives another result than its content"),
    ],
}
ELSEWHERE = {
    "test_artifact_validates_again",
    "test_dimensions_stay_dynamic",
    "test_entry_module_is_light",
    "test_every_sample_stands_alone",
}
"""Checks whose faults do not come from a variant: tests of their own plant them, below."""


def test_every_check_is_shown_to_fail() -> None:
    assert set(CHECKS) == set(FAULTY) | set(DEVICE_FAULTS) | ELSEWHERE


@pytest.mark.parametrize(
    ("check", "variant", "message"),
    [(check, *case) for check, cases in (*FAULTY.items(), *DEVICE_FAULTS.items()) for case in cases],
    ids=[f"{check}-{case[1]}" for check, cases in (*FAULTY.items(), *DEVICE_FAULTS.items()) for case in cases],
)
def test_check_finds_the_fault(
    check: str, variant: Variant, message: str, toy_weights_file: Path, tmp_path: Path
) -> None:
    with pytest.raises((Exception, pytest.fail.Exception), match=message):
        run_check(check, variant, toy_weights_file, tmp_path)


def test_a_switch_is_an_option_like_any_other(toy_weights_file: Path, tmp_path: Path) -> None:
    variant = adapter_with(options=(*ToyAdapter.options, Option("fast", True, "whether to hurry")))
    run_check("test_adapter_is_described", variant, toy_weights_file, tmp_path)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        ("empty", EOFError),
        ("web page", pickle.UnpicklingError),
        ("cut short", (RuntimeError, OSError)),
        ("missing", FileNotFoundError),
    ],
)
def test_loader_that_lets_errors_through_is_found(
    damage: str, error: Any, toy_weights_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(error):
        run_check(
            "test_damaged_file_is_refused", Variant(adapter=ToyAdapter), toy_weights_file, tmp_path, damage=damage
        )


@pytest.mark.parametrize(
    ("imports", "body", "message"),
    [
        ("import numpy", "", "loading the entry point 'toy' imports numpy$"),
        ("", "import torch", "imports torch, numpy"),
        ("import no_such_module", "", "(?s)cannot be loaded:.*no_such_module"),
    ],
)
def test_heavy_entry_module_is_found(
    imports: str, body: str, message: str, toy_weights_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_toy(tmp_path / "site", monkeypatch, imports, body)
    with pytest.raises(AssertionError, match=message):
        run_check("test_entry_module_is_light", Variant(), toy_weights_file, tmp_path)


def test_artifact_that_was_changed_is_found(toy_artifact: Artifact, toy_weights_file: Path, tmp_path: Path) -> None:
    changed = Artifact.open(shutil.copytree(toy_artifact.path, tmp_path / "changed"))
    model = onnx.load(changed.model)
    model.doc_string = "changed"
    onnx.save(model, changed.model)
    with pytest.raises(IntegrityError, match="is not the file that was proved"):
        run_check("test_artifact_validates_again", Variant(), toy_weights_file, tmp_path, changed)


@pytest.mark.parametrize("end", ["input", "output"])
def test_frozen_batch_is_found(end: str, toy_artifact: Artifact, toy_weights_file: Path, tmp_path: Path) -> None:
    model = onnx.load(toy_artifact.model)
    getattr(model.graph, end)[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, tmp_path / "model.onnx")
    frozen = Artifact(tmp_path, toy_artifact.manifest)
    with pytest.raises(AssertionError, match="batch was frozen to 2"):
        run_check("test_dimensions_stay_dynamic", Variant(), toy_weights_file, tmp_path, frozen)


class Leaky(Replay):
    """An engine in which a little of the first image gets into all others."""

    def engine(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = super().engine(feed)
        return {name: value + np.float32(1e-3) * value[:1] for name, value in outputs.items()}


def test_batch_that_leaks_is_found(toy_artifact: Artifact, toy_weights_file: Path, tmp_path: Path) -> None:
    variant = Variant()
    with registered(variant):
        replay = Leaky(toy_artifact)
    with pytest.raises(AssertionError, match="in reverse gives other results"):
        run_check("test_every_sample_stands_alone", variant, toy_weights_file, tmp_path, toy_artifact, replay=replay)
