"""bench(): artifacts on every engine that runs here, timed in turns."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from convkit.artifact import Artifact, spec_from_manifest
from convkit.backends import coverage
from convkit.benchmarking._candidates import Candidate, check_comparable, choose_batches, find_candidates
from convkit.benchmarking._protocol import gpu_state, protocol
from convkit.benchmarking._result import Benchmark, NotRun
from convkit.benchmarking._settings import BenchSettings
from convkit.benchmarking._turns import measure_in_turns
from convkit.benchmarking._worker import Job, Worker, available_cores
from convkit.errors import ConvkitError, EnvironmentProblem, SettingError
from convkit.plugins import manager
from convkit.progress import Progress, silent

__all__ = ["bench"]


def bench(
    paths: Sequence[Path | str], settings: BenchSettings | None = None, *, progress: Progress = silent
) -> Benchmark:
    """Time artifacts on every engine that runs here, in turns; what cannot run is listed with the reason.

    Each engine gets a process of its own, so a script calls this below ``if __name__ == "__main__":``.

    Raises:
        ArtifactError, IntegrityError: one of them is no artifact, or not the one that was proved.
        SettingError: they take different inputs, or not the batch that was asked for; there are no such threads, or no
            such backend.
        EnvironmentProblem: no engine runs here.
    """
    settings = settings or BenchSettings()
    artifacts = [Artifact.open(path) for path in dict.fromkeys(map(Path, paths))]
    specs = [spec_from_manifest(artifact.manifest) for artifact in artifacts]
    check_comparable(list(zip(artifacts, specs, strict=True)))
    batches = choose_batches(specs, settings.batches)
    cores = _cores(settings.threads)
    progress("looking for engines")
    found = [
        (one, reason or _unproved(artifact, one, settings))
        for artifact in artifacts
        for one, reason in find_candidates(artifact, settings.backends, settings.devices)
    ]
    not_run = [NotRun(one, reason) for one, reason in found if reason]
    facts = protocol(settings, cores if hasattr(os, "sched_setaffinity") else (), len(cores))
    with ExitStack() as stack:
        engines: dict[Candidate, Worker] = {}
        for one in (one for one, reason in found if not reason):
            progress(f"loading {Path(one.artifact).name} on {one.engine}")
            job = Job(one, settings.unproved, tuple(cores), tuple(manager().blocked))
            worker = stack.enter_context(Worker(job, len(cores)))
            try:
                worker.ready()
            except ConvkitError as error:
                not_run.append(NotRun(one, error.message.rstrip(".")))
            else:
                engines[one] = worker
        if not engines:
            lines = (f"\n  {each.candidate.artifact} on {each.candidate.engine}: {each.reason}" for each in not_run)
            raise EnvironmentProblem(
                f"No engine runs here:{''.join(lines)}", hint="`convkit doctor` shows what this machine can run."
            )
        on_gpu = any(one.device.startswith("cuda") for one in engines)
        facts["gpu"] = gpu_state() if on_gpu else []
        cells, failed = measure_in_turns(engines, batches, settings, progress)
        facts["gpu_after"] = gpu_state() if on_gpu else []
    return Benchmark(tuple(cells), (*not_run, *failed), facts)


def _unproved(artifact: Artifact, one: Candidate, settings: BenchSettings) -> str:
    """Return that no proof covers a candidate, unless those are run too; empty where one does.

    That nobody can tell, because the device is missing, is a reason of its own.
    """
    if settings.unproved:
        return ""
    try:
        reason = coverage(artifact, one.backend, one.device).reason
    except EnvironmentProblem as error:
        return error.message.rstrip(".")
    return f"not proved: {reason}; --unproved runs it as it is" if reason else ""


def _cores(threads: int | None) -> Sequence[int]:
    """Return the cores that each engine is bound to.

    Raises:
        SettingError: there are not so many.
    """
    cores = available_cores()
    asked = os.environ.get("OMP_NUM_THREADS", "")
    wanted = threads or (min(int(asked), len(cores)) if asked.isdigit() and int(asked) else len(cores))
    if wanted > len(cores):
        raise SettingError(
            f"--threads is {wanted}, and this process may use {len(cores)} core{'s' * (len(cores) > 1)}.",
            hint=f"Give {len(cores)} or fewer.",
        )
    return cores[:wanted]
