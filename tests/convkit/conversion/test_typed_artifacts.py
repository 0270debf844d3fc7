"""Artifacts whose graph is 16-bit: typed by what is seen on samples, audited, and proved where they run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from support.disturb import DisturbPlugin
from support.plugins import registered
from support.toy import ToyNet, ToyPlugin, toy_weights

from convkit import Artifact, Conversion, Target, convert, load, validate
from convkit.backends import open_artifact, open_session
from convkit.bisection import Limits
from convkit.conversion import plan_conversion, run_plan
from convkit.conversion._changes import Wish
from convkit.conversion._stages import Rewritten
from convkit.conversion._typing import type_graph
from convkit.errors import ConversionError, EnvironmentProblem, ProofFailedError, SettingError
from convkit.graph.precision import read_keep_file
from convkit.model import PRECISIONS

TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
UNITS = {"fp16": 2.0**-10, "bf16": 2.0**-7}


@pytest.fixture(scope="module")
def half_made(tmp_path_factory: pytest.TempPathFactory, toy_weights_file: Path) -> Conversion:
    return make("fp16", tmp_path_factory, toy_weights_file)


@pytest.fixture(scope="module")
def brain_made(tmp_path_factory: pytest.TempPathFactory, toy_weights_file: Path) -> Conversion:
    return make("bf16", tmp_path_factory, toy_weights_file)


def make(precision: str, folders: pytest.TempPathFactory, weights: Path) -> Conversion:
    with registered(ToyPlugin()):
        return convert("toy", weights=weights, output=folders.mktemp("typed") / "toy", precision=precision, samples=2)


@pytest.fixture(params=["half_made", "brain_made"])
def typed(request: pytest.FixtureRequest) -> Conversion:
    made: Conversion = request.getfixturevalue(request.param)
    return made


@pytest.fixture
def half(half_made: Conversion) -> Artifact:
    return half_made.artifact


def precision_of(done: Conversion) -> str:
    return str(done.artifact.manifest["graph"]["precision"])


def test_weights_and_activations_are_16_bit_and_the_edges_float32(typed: Conversion) -> None:
    model = onnx.load(typed.artifact.model)
    wanted = TYPES[precision_of(typed)]
    assert {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) > 1} == {wanted}
    edges = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert edges == {TensorProto.FLOAT}
    stamped = {entry.key: entry.value for entry in model.metadata_props}
    assert f"graph.to-{precision_of(typed)}" in [entry["name"] for entry in json.loads(stamped["convkit.rewrites"])]
    assert model.opset_import[0].version == typed.artifact.manifest["graph"]["opset"]


def test_it_errs_as_the_precision_does_against_float64(typed: Conversion, toy_weights_file: Path) -> None:
    """An independent run of the network in float64, on inputs that the conversion never saw."""
    net = ToyNet(4).double().eval()
    net.load_state_dict(torch.load(toy_weights_file))
    images = np.random.default_rng(5).random((3, 3, 32, 32), np.float32)
    with torch.no_grad():
        exact = net(torch.from_numpy(images).double())["logits"].numpy()
    found = open_session("torch", typed.artifact.model).run({"images": images})["logits"]
    assert found.dtype == np.float32
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert UNITS[precision_of(typed)] / 50 < error < 4 * UNITS[precision_of(typed)]


def test_the_ladder_has_the_float32_proof_and_that_of_the_typed_graph(typed: Conversion, toy: ToyPlugin) -> None:
    states = {rung.name: rung.status for rung in typed.ladder.rungs}
    assert [states[name] for name in ("exported", "typed", "decoded", "ran", "pipeline")] == ["passed"] * 5
    assert typed.verdict.backend == "torch"
    assert typed.verdict.baselines["logits"]["ulp"] == UNITS[precision_of(typed)]
    again = validate(typed.artifact.path)
    assert again.passed
    assert again.backend == "torch"
    assert not any(check.kind == "engines" for check in again.checks), "ONNX Runtime is no judge here"
    with load(typed.artifact.path) as predictor:
        assert predictor(np.zeros((40, 50, 3), np.uint8)).probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_the_manifest_says_what_was_asked_and_what_came_of_it(typed: Conversion) -> None:
    found = typed.artifact.manifest["precision"]
    dtype = {"fp16": "float16", "bf16": "bfloat16"}[precision_of(typed)]
    assert found["asked"] == precision_of(typed)
    assert found["nodes"] == {dtype: 6}
    assert (found["kept"], found["arithmetic"], found["weights"]) == ([], {dtype: 1.0}, {dtype: 1.0})


def test_the_name_by_default_ends_in_the_precision(
    toy: ToyPlugin, toy_weights_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = convert("toy", weights=toy_weights_file, precision="fp16", samples=1)
    assert done.artifact.path.name == "toy-toy1-32-fp16"


def test_onnx_runtime_on_the_cpu_is_refused_with_the_reason(half: Artifact, toy: ToyPlugin) -> None:
    for use in (
        lambda: load(half.path, backend="onnxruntime"),
        lambda: validate(half.path, backend="onnxruntime"),
        lambda: open_artifact(half, "onnxruntime", unproved=True),
    ):
        with pytest.raises(EnvironmentProblem, match="is fp16, and on the CPU, ONNX Runtime computes") as caught:
            use()
        assert "--backend torch" in caught.value.hint


def test_a_typed_graph_that_was_changed_fails_the_proof(half: Artifact, toy: ToyPlugin, tmp_path: Path) -> None:
    """The limits are those of float16, not wider: 1 % in one layer stands out."""
    session = open_artifact(half, "torch")
    original = session.run

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: value * np.float32(1.01) for name, value in original(inputs).items()}

    session.run = run  # type: ignore[method-assign]
    from convkit.artifact import spec_from_manifest
    from convkit.proof import GoldenSamples, prove_again

    golden = GoldenSamples.load(half.path, spec_from_manifest(half.manifest))
    assert not prove_again(half, session, golden, backend="torch").passed


@pytest.mark.parametrize(("precision", "factor"), [("fp16", 1.1), ("bf16", 1.5)])
def test_a_fault_in_the_typing_fails_its_rung(
    toy: ToyPlugin, toy_weights_file: Path, tmp_path: Path, precision: str, factor: float
) -> None:
    with registered(DisturbPlugin(factor), "a_disturbing_one"), pytest.raises(ProofFailedError):
        convert("toy", weights=toy_weights_file, output=tmp_path / "toy", precision=precision, samples=2)
    assert [path.name for path in tmp_path.iterdir()] == ["toy.rejected"]
    ladder = json.loads((tmp_path / "toy.rejected" / "proof" / "verdict.json").read_text())["ladder"]
    assert ladder["exported"]["status"] == "passed"
    assert ladder["typed"]["status"] == "failed"
    assert ladder["typed"]["hint"]


def test_nodes_of_a_file_stay_float32(toy: ToyPlugin, toy_weights_file: Path, half: Artifact, tmp_path: Path) -> None:
    names = [node.name for node in onnx.load(half.model).graph.node if node.op_type == "Gemm"]
    (tmp_path / "kept.txt").write_text(f"# by hand\n{names[0]}  # the last layer\n")
    done = convert(
        "toy", weights=toy_weights_file, output=tmp_path / "toy", precision="fp16", samples=1,
        keep_fp32=tmp_path / "kept.txt",
    )  # fmt: skip
    found = done.artifact.manifest["precision"]
    assert found["kept"] == names
    assert found["reasons"][names[0]] == "it is kept by name"
    assert found["nodes"]["float32"] == 1
    settings = {item["name"]: item["value"] for item in done.artifact.manifest["settings"]}
    assert settings["keep_fp32"] == "kept.txt"


def test_keeping_everything_is_no_16_bit_artifact(
    toy: ToyPlugin, toy_weights_file: Path, half: Artifact, tmp_path: Path
) -> None:
    names = [node.name for node in onnx.load(half.model).graph.node if node.op_type != "Cast"]
    (tmp_path / "kept.txt").write_text("\n".join(names))
    with pytest.raises(
        ConversionError, match="fp16 was asked for, and 100% of the arithmetic stayed float32"
    ) as caught:
        convert(
            "toy", weights=toy_weights_file, output=tmp_path / "toy", precision="fp16", samples=1,
            keep_fp32=tmp_path / "kept.txt",
        )  # fmt: skip
    assert "it is kept by name (6 nodes)" in caught.value.message
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"], "nothing is left behind"


@pytest.mark.parametrize(
    ("text", "message"), [(None, "There is no file"), ("hed/Gemm\n", "lists a name that no node of the graph has")]
)
def test_a_keep_file_that_does_not_fit_is_refused(
    toy: ToyPlugin, toy_weights_file: Path, tmp_path: Path, text: str | None, message: str
) -> None:
    if text:
        (tmp_path / "kept.txt").write_text(text)
    plan = plan_conversion(
        "toy", weights=toy_weights_file, output=tmp_path / "toy",
        settings={"precision": "fp16", "samples": 1, "keep_fp32": tmp_path / "kept.txt"},
    )  # fmt: skip
    with pytest.raises(SettingError, match=message):
        run_plan(plan)
    assert not (tmp_path / "toy").exists()


def weights_times(factors: dict[str, float], path: Path) -> Path:
    state = toy_weights()
    for name, factor in factors.items():
        state[name] *= factor
    torch.save(state, path)
    return path


def test_what_overflows_stays_float32_and_is_named(toy: ToyPlugin, tmp_path: Path) -> None:
    """The last layer leaves the range of float16, which thus has no yardstick of its own: bfloat16 lends its."""
    weights = weights_times({"body.weight": 300, "body.bias": 300, "head.weight": 1e5}, tmp_path / "large.pth")
    done = convert("toy", weights=weights, output=tmp_path / "large", precision="fp16", samples=2)
    found = done.artifact.manifest["precision"]
    (reason,) = found["reasons"].values()
    assert "on the samples, beyond 65504" in reason
    (ends,) = found["ranges"].values()
    assert max(map(abs, ends)) > 65504
    assert found["nodes"] == {"float16": 5, "float32": 1}
    assert np.isfinite(done.verdict.baselines["logits"]["max_abs"])
    assert done.verdict.baselines["logits"]["ulp"] == UNITS["fp16"]


def test_a_network_that_overflows_throughout_is_refused_by_name(toy: ToyPlugin, tmp_path: Path) -> None:
    factors = {"stem.1.weight": 1e6, "stem.1.bias": 1e6, "body.weight": 1e-6}
    weights = weights_times(factors, tmp_path / "large.pth")
    with pytest.raises(ConversionError, match="100% of the arithmetic stayed float32") as caught:
        convert("toy", weights=weights, output=tmp_path / "large", precision="fp16", samples=2)
    assert "on the samples, beyond 65504" in caught.value.message
    assert "--precision bf16" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["large.pth"]


def test_a_graph_that_is_16_bit_already_is_refused(half: Artifact, tmp_path: Path) -> None:
    rewritten = Rewritten(onnx.load(half.model), [])
    with pytest.raises(ConversionError, match="16-bit already"):
        type_graph(
            "toy", None, Target("onnx", 20, "logits", "fp16", {}), rewritten, None, None,  # type: ignore[arg-type]
            Wish(PRECISIONS["fp16"]), tmp_path, lambda *_: None,
        )  # fmt: skip


def test_auto_keeps_what_results_need_and_writes_the_list(
    toy: ToyPlugin, toy_weights_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits so tight that float16 misses them everywhere, and the usual ones, which it meets without a node kept."""
    from convkit.conversion import _typing

    free = convert("toy", weights=toy_weights_file, output=tmp_path / "free", precision="auto", samples=2)
    assert free.artifact.manifest["precision"]["asked"] == "auto"
    assert free.artifact.manifest["graph"]["precision"] == "fp16"
    assert free.artifact.manifest["precision"]["kept"] == []
    assert free.artifact.manifest["precision"]["search"]["minimal"]
    assert "proof/kept.txt" in free.artifact.manifest["files"]
    monkeypatch.setattr(_typing, "Limits", lambda: Limits(score=2e-6))
    tight = convert("toy", weights=toy_weights_file, output=tmp_path / "tight", precision="auto", samples=2)
    kept = tight.artifact.manifest["precision"]["kept"]
    assert kept
    names = {node.name for node in onnx.load(tight.artifact.model).graph.node}
    assert read_keep_file(tight.artifact.path / "proof" / "kept.txt", onnx.load(tight.artifact.model)) == set(kept)
    assert set(kept) <= names
    monkeypatch.setattr(_typing, "Limits", lambda: Limits(score=3e-7))
    with pytest.raises(ConversionError, match="float32") as caught:
        convert("toy", weights=toy_weights_file, output=tmp_path / "none", precision="auto", samples=2)
    assert caught.value.hint
    assert not (tmp_path / "none").exists()
