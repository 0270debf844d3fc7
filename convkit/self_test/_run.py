"""The self-test: faults planted and clean variants run, each judged as ``convkit validate`` judges."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from convkit.artifact import Artifact
from convkit.backends import backend_named, proved_engine
from convkit.errors import ConvkitError, SettingError, ValidationError
from convkit.progress import Progress, silent
from convkit.self_test._clean import NotApplicableError, Variant
from convkit.self_test._clean_engines import ENGINE_VARIANTS
from convkit.self_test._clean_graph import GRAPH_VARIANTS
from convkit.self_test._clean_orders import ORDER_VARIANTS
from convkit.self_test._fault import Fault
from convkit.self_test._faults_engine import ENGINE_FAULTS
from convkit.self_test._faults_graph import GRAPH_FAULTS
from convkit.self_test._faults_preprocess import PREPROCESS_FAULTS
from convkit.self_test._faults_results import RESULT_FAULTS
from convkit.self_test._judge import Judge
from convkit.self_test._report import Clean, Outcome, Planted, SelfTest

__all__ = ["FAULTS", "VARIANTS", "self_test"]

FAULTS: tuple[Fault, ...] = (*GRAPH_FAULTS, *ENGINE_FAULTS, *PREPROCESS_FAULTS, *RESULT_FAULTS)
"""Every kind of fault."""
VARIANTS: tuple[Variant, ...] = (*ORDER_VARIANTS, *ENGINE_VARIANTS, *GRAPH_VARIANTS)
"""Every clean variant."""
GRAPHS = "onnxruntime"
"""The backend for artifacts that were proved by an engine that was built."""
PLACES = 2
"""Places in which each kind is planted."""
ATTEMPTS = 6
"""Places that are tried at most where a fault changes nothing."""


def self_test(
    path: Path | str,
    *,
    backend: str | None = None,
    device: str | None = None,
    seed: int = 0,
    places: int = PLACES,
    faults: Sequence[Fault] = FAULTS,
    variants: Sequence[Variant] = VARIANTS,
    progress: Progress = silent,
) -> SelfTest:
    """Return which planted faults the proof of an artifact catches, and which clean variants it rejects.

    ``backend`` and ``device`` are those that proved the artifact, unless others are given. Nothing of the artifact is
    written. Each kind of fault is planted in up to ``places`` places that ``seed`` chooses.
    A place in which it changes no result by a hundredth of its limit is left for another one and listed. A kind that
    has no place in this artifact does not count.

    Raises:
        ArtifactError, IntegrityError: it is no artifact, or not the one that was proved.
        SettingError: the backend runs engines that it builds, in which no fault can be planted.
        ValidationError: the artifact itself fails its proof here.
        EnvironmentProblem: the backend cannot run here.
    """
    started = time.perf_counter()
    artifact = Artifact.open(path)
    backend, device = _engine(artifact, backend, device)
    if backend_named(backend).builds:
        raise SettingError(
            f"A self-test plants faults in the graph, and {backend!r} runs engines that it built.",
            hint="Test the proof of the graph: --backend onnxruntime.",
        )
    progress("checking hashes")
    artifact.verify()
    judge = Judge(artifact, backend, device)
    try:
        progress("proving the artifact itself")
        sound = judge.judge_sound()
        if not sound.passed:
            raise ValidationError(
                f"{path} fails its proof here, so its proof cannot be tested: {sound.by} {sound.note}".strip() + ".",
                hint=f"`convkit validate {path} -v` shows every check.",
            )
        outcomes, clean = [], []
        for number, fault in enumerate(faults):
            progress("planting faults", number, len(faults))
            outcomes.append(_outcome(judge, fault, seed, places))
        for number, variant in enumerate(variants):
            progress("running clean variants", number, len(variants))
            clean.append(_clean(judge, variant))
    finally:
        judge.close()
    seconds = time.perf_counter() - started
    return SelfTest(backend, judge.session.device, outcomes, clean, seconds, seed)


def _engine(artifact: Artifact, backend: str | None, device: str | None) -> tuple[str, str]:
    """Return backend and device: those that proved the artifact, unless these build engines or others are given."""
    name, where = proved_engine(artifact, backend, device)
    if backend is None and backend_named(name).builds:
        name, where = proved_engine(artifact, GRAPHS, device)
    return name, where


def _outcome(judge: Judge, fault: Fault, seed: int, places: int) -> Outcome:
    rng = np.random.default_rng([seed, zlib.crc32(fault.kind.encode())])
    sites = list(fault.sites(judge, rng))
    planted: list[Planted] = []
    without_effect: list[str] = []
    refused: list[str] = []
    for site in [sites[index] for index in rng.permutation(len(sites))[:ATTEMPTS]]:
        if len(planted) == places:
            break
        try:
            subject = site.plant()
        except ConvkitError as error:
            refused.append(f"{site.where}: {error.message}")
            continue
        judgement = judge.judge(subject)
        if not judgement.passed:
            planted.append(Planted(site.where, True, judgement.by, judgement.note))
        elif judge.changes_nothing(subject):
            without_effect.append(site.where)
        else:
            planted.append(Planted(site.where, False))
    reason = ""
    if not planted:
        reason = "changes nothing here" if without_effect else refused[0] if refused else "nothing of the kind here"
    return Outcome(fault.kind, fault.part, fault.cause, planted, [*without_effect, *refused], reason)


def _clean(judge: Judge, variant: Variant) -> Clean:
    try:
        subject = variant.make(judge)
    except NotApplicableError as error:
        return Clean(variant.name, variant.group, reason=str(error))
    except ConvkitError as error:
        return Clean(variant.name, variant.group, reason=error.message)
    try:
        judgement = judge.judge_clean(subject)
    finally:
        if subject.session:
            subject.session.close()
    return Clean(variant.name, variant.group, judgement.passed, judgement.by, judgement.note, judgement.used)
