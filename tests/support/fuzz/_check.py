"""What happens to programs on their way: export, every rewrite, every engine, and the verdict on each result."""

from __future__ import annotations

import copy
import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
from support.fuzz._module import Fragment
from support.fuzz._program import CHANNELS, Program
from torch import Tensor, nn

from convkit import Dim, ModelSpec, Target, TensorSpec
from convkit.backends import foreign_operators, open_session
from convkit.conversion import export_onnx
from convkit.errors import ExportError, RewriteError, SettingError
from convkit.graph import apply_rewrite, in_phases, save_onnx
from convkit.model import find_precision
from convkit.plugins import manager
from convkit.proof import ILL_CONDITIONED, Case, baselines_of, judge, measure, shape_cases
from convkit_plugins.dcnv2.export import translations

__all__ = ["TARGETS", "Fault", "Outcome", "find_faults"]

OPSET = 20
JIGGLES = 3
"""Other ways of rounding, besides PyTorch's own, that the baseline of float32 is taken over."""
SLACK = 4.0
"""How far beyond its limit an error is still put down to rounding, and listed apart.

The limit follows PyTorch's own error, which of a few numbers is small by chance now and then.
"""
INSTANCE_ERROR = 1e-4
"""Above this an error of ONNX Runtime is not put down to its instance normalisation."""
DIMS = (
    (Dim.fixed("batch", 2), Dim.fixed("height", 16), Dim.fixed("width", 13)),
    (Dim("batch", 1, 2, 3), Dim.fixed("height", 16), Dim.fixed("width", 13)),
    (Dim("batch", 1, 2, 3), Dim("height", 12, 16, 21), Dim("width", 12, 14, 19)),
)
"""Fixed sizes, a batch of any size, and everything of any size."""
ANY_SIZES = len(DIMS) - 1
TARGETS = {
    "onnx": Target("onnx"),
    "onnx fp16": Target("onnx", precision="fp16"),
    "onnx bf16": Target("onnx", precision="bf16"),
    "tensorrt-rtx": Target("tensorrt-rtx", options={"dcn": "grid-sample"}),
    "tensorrt-rtx bf16": Target("tensorrt-rtx", precision="bf16", options={"dcn": "gather"}),
    "tensorrt-rtx creator": Target("tensorrt-rtx", options={"dcn": "creator"}),
    "tensorrt fp16 plugin": Target("tensorrt", precision="fp16", options={"dcn": "plugin"}),
    "tensorrt native": Target("tensorrt", options={"dcn": "native"}),
}
"""What the graph is rewritten for. The last three differ from others in deformable convolutions only."""
_FOR_DEFORM = ("tensorrt-rtx creator", "tensorrt fp16 plugin", "tensorrt native")


@dataclass(frozen=True)
class Fault:
    """A program, where it fails (``stage``), and how."""

    program: Program
    sizes: int
    stage: str
    text: str
    rel_l2: float = math.inf

    def __str__(self) -> str:
        way = ("fixed sizes", "any batch", "any sizes")[self.sizes]
        return f"seed {self.program.seed}, {way}, {self.stage}: {self.text}\n{self.program}"


def known_fault(fault: Fault) -> bool:
    """Tell whether a fault is one of two of ONNX Runtime, or one of PyTorch's exporter.

    ONNX Runtime resizes to the nearest pixel of a given size by a scale in float32: of 14 columns to 4 it takes column
    6 where 2 * 14 / 4 is 7. Its instance normalisation, as which a group one is exported, loses digits where the mean
    is many times the deviation: at 100 times its error is 1.1e-5 where PyTorch's is 1.1e-6.

    The exporter writes the size behind a pooling with ``ceil_mode`` as a formula that holds for the sizes it saw, since
    whether the last window begins in the padding is decided once. What computes with that size is wrong at others.
    """
    steps = fault.program.steps
    if fault.sizes == ANY_SIZES and any(step.kind == "pool" and step.settings.get("up") for step in steps):
        return any(step.kind == "position" for step in steps)
    return fault.stage.endswith(" on onnxruntime") and any(
        (step.kind == "resize" and step.settings["mode"] == "nearest" and "size" in step.settings)
        or (step.kind == "norm" and step.settings["of"] in ("instance", "group") and fault.rel_l2 < INSTANCE_ERROR)
        for step in steps
    )


@dataclass
class Outcome:
    """What came of programs: how many results were judged, by stage; faults, and what the exporter refused.

    ``close`` are results beyond the limit of the rule by less than `SLACK`, ``known`` those with a fault of an engine
    that is known (`known_fault`).
    """

    judged: Counter[str] = field(default_factory=Counter)
    programs: int = 0
    faults: list[Fault] = field(default_factory=list)
    close: list[Fault] = field(default_factory=list)
    known: list[Fault] = field(default_factory=list)
    not_exported: dict[int, str] = field(default_factory=dict)
    not_comparable: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    graphs: list[tuple[onnx.ModelProto, dict[str, np.ndarray]]] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        for mine, theirs in ((self.judged, other.judged), (self.not_comparable, other.not_comparable),
                             (self.kinds, other.kinds), (self.refused, other.refused)):  # fmt: skip
            mine.update(theirs)
        self.programs += other.programs
        self.faults += other.faults
        self.close += other.close
        self.known += other.known
        self.not_exported |= other.not_exported
        self.graphs += other.graphs


class _Together(nn.Module):
    """Several programs of one input."""

    def __init__(self, fragments: Iterable[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(fragments)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(part(x) for part in self.parts)


def _spec(module: nn.Module, sizes: int) -> ModelSpec:
    with torch.no_grad():
        ranks = [value.shape for value in module(torch.zeros(2, CHANNELS, 16, 16))]
    outputs = tuple(TensorSpec(f"y{place}", tuple(shape)) for place, shape in enumerate(ranks))
    inputs = (TensorSpec("x", ("batch", CHANNELS, "height", "width")),)
    return ModelSpec("fuzz", DIMS[sizes], inputs, outputs)


def _feeds(spec: ModelSpec) -> list[tuple[Case, np.ndarray]]:
    rng = np.random.default_rng(7)
    cases = [case for case in shape_cases(spec.dims) if case.name != "max"]
    return [
        (case, rng.standard_normal(
            (case.batch, CHANNELS, case.table["height"], case.table["width"])).astype(np.float32))
        for case in cases
    ]  # fmt: skip


Runs = list[list[np.ndarray]]
"""The outputs of each case."""


def _by_torch(module: nn.Module, feeds: Sequence[tuple[Case, np.ndarray]], dtype: torch.dtype) -> Runs:
    with torch.no_grad():
        return [[value.double().numpy() for value in module.to(dtype)(torch.from_numpy(x).to(dtype))] for _, x in feeds]


def find_faults(
    programs: Sequence[Program], sizes: int, targets: Iterable[str] = TARGETS, *, keep_graphs: bool = False
) -> Outcome:
    """Return what comes of programs that share an input, exported as one graph; ``sizes`` is a place in `DIMS`."""
    outcome = Outcome(programs=len(programs))
    outcome.kinds.update(step.kind for program in programs for step in program.steps)
    module = _Together(Fragment(program) for program in programs).eval()
    spec = _spec(module, sizes)
    try:
        model = export_onnx(module, spec, opset=OPSET, translations=translations(OPSET))
    except ExportError as error:
        if len(programs) == 1:
            outcome.not_exported[programs[0].seed] = error.message
            return outcome
        single = Outcome()
        for program in programs:
            single.add(find_faults([program], sizes, targets, keep_graphs=keep_graphs))
        return single
    feeds = _feeds(spec)
    exact = _by_torch(module, feeds, torch.float64)
    judges: dict[str, _Judge] = {}
    deform = any(node.op_type == "DeformConv" for node in model.graph.node)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for label in ("exported", *targets):
            if label in _FOR_DEFORM and not deform:
                continue
            target = TARGETS.get(label, TARGETS["onnx"])
            precision = find_precision(target.precision)
            if precision.name not in judges:
                judges[precision.name] = _Judge(module.float(), spec, feeds, exact, precision.dtype, precision.ulp)
            try:
                graph = model if label == "exported" else rewritten(model, target)
                save_onnx(graph, path)
            except (RewriteError, SettingError) as error:
                outcome.refused[f"{label}: {error.message.partition(': ')[2] or error.message}"] += 1
                continue
            except Exception as error:
                outcome.faults.append(Fault(programs[0], sizes, label, f"{type(error).__name__}: {error}"))
                continue
            if keep_graphs and label == "tensorrt-rtx":
                outcome.graphs.append((graph, {"x": feeds[0][1]}))
            engines = ["torch"] if foreign_operators(graph) or precision.name != "fp32" else ["onnxruntime", "torch"]
            for engine in engines:
                stage = f"{label} on {engine}"
                try:
                    session = open_session(engine, path)
                    found = [session.run({"x": x}) for _, x in feeds]
                    session.close()
                except Exception as error:
                    outcome.faults.append(Fault(programs[0], sizes, stage, f"{type(error).__name__}: {error}"))
                    continue
                judges[precision.name](outcome, programs, sizes, stage, found)
    outcome.faults = _isolated(outcome.faults, programs, sizes)
    return outcome


def _isolated(faults: list[Fault], programs: Sequence[Program], sizes: int) -> list[Fault]:
    """Return the faults of programs alone; an error of many together is looked for in each of them."""
    found: list[Fault] = []
    for fault in faults:
        if len(programs) == 1 or "Error" not in fault.text.partition(":")[0]:
            found.append(fault)
            continue
        label = fault.stage.partition(" on ")[0]
        alone = [
            each for one in programs for each in find_faults([one], sizes, [label] if label in TARGETS else []).faults
        ]
        found += alone or [fault]
    return found


def rewritten(model: onnx.ModelProto, target: Target) -> onnx.ModelProto:
    """Return the graph after every rewrite that plugins offer for a target."""
    for _, rewrite in in_phases(manager().gather("convkit_graph_rewrites", target=target)):
        model, _ = apply_rewrite(model, rewrite)
        onnx.checker.check_model(model)
    return model


def _jiggled(module: nn.Module, seed: int) -> nn.Module:
    """Return the module with each float32 weight moved by one unit in its last place, up or down by chance.

    What that does to the results is what another order of the same sums may do. A single run of PyTorch can come out
    right by luck where a normalisation enlarges rounding errors.
    """
    other = copy.deepcopy(module)
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in (*other.parameters(), *other.buffers()):
            if value.dtype == torch.float32:
                up = torch.rand(value.shape, generator=chance) < 0.5
                value.copy_(torch.nextafter(value, torch.where(up, torch.inf, -torch.inf)))
    return other


class _Judge:
    """The rule of the proof; the baseline is PyTorch's own error, in float32 the worst of several ways to round."""

    def __init__(
        self, module: nn.Module, spec: ModelSpec, feeds: Sequence[tuple[Case, np.ndarray]], exact: Runs, dtype: str,
        ulp: float,
    ) -> None:  # fmt: skip
        self.spec, self.feeds, self.exact = spec, feeds, exact
        ways = [module, *(_jiggled(module, seed) for seed in range(JIGGLES if dtype == "float32" else 0))]
        runs: list[Mapping[str, list]] = []
        for way in ways:
            for right, values in zip(exact, _by_torch(way, feeds, getattr(torch, dtype)), strict=True):
                runs.append({
                    output.name: [measure(expected, value)]
                    for output, expected, value in zip(spec.outputs, right, values, strict=True)
                })  # fmt: skip
        module.float()
        self.baselines = baselines_of(runs, ulp)
        self.limit = ILL_CONDITIONED if dtype == "float32" else 10 * ILL_CONDITIONED

    def __call__(
        self, outcome: Outcome, programs: Sequence[Program], sizes: int, stage: str, found: list[dict[str, np.ndarray]]
    ) -> None:
        for program, output, place in zip(programs, self.spec.outputs, range(len(programs)), strict=True):
            baseline = self.baselines[output.name]
            if not baseline["rel_l2"] <= self.limit:  # PyTorch itself overflows, or what is left is rounding alone
                outcome.not_comparable[stage] += 1
                continue
            outcome.judged[stage] += 1
            for (case, _), right, values in zip(self.feeds, self.exact, found, strict=True):
                check = judge([measure(right[place], values[output.name])], output, str(case), baseline)
                if not check.passed:
                    text = f"{case}: {check.note or ''} {check.figures} where {check.limits} is allowed"
                    far = any(not check.figures[key] <= SLACK * check.limits[key] for key in check.figures)
                    fault = Fault(program, sizes, stage, text, check.figures["rel_l2"])
                    (outcome.close if not far else outcome.known if known_fault(fault) else outcome.faults).append(
                        fault
                    )
                    break
