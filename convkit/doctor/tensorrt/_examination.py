"""The whole examination, in order."""

from __future__ import annotations

import tempfile
from pathlib import Path

from convkit.backends import EngineProbe, backend_named, engine_probes
from convkit.doctor._recommendations import Recommendation
from convkit.doctor.tensorrt._basics import try_argument_order, try_convolution, try_timing_cache
from convkit.doctor.tensorrt._flavour import examine_flavour, is_installed
from convkit.doctor.tensorrt._host import MACHINE, Host, examine_host
from convkit.doctor.tensorrt._probes import ReadyProbe, prepare
from convkit.doctor.tensorrt._recommend import recommend
from convkit.doctor.tensorrt._report import TensorRTReport
from convkit.doctor.tensorrt._steps import FAILED, SKIPPED, Steps
from convkit.doctor.tensorrt._ways import try_ways
from convkit.progress import Progress, silent

__all__ = ["examine_tensorrt"]


def examine_tensorrt(progress: Progress = silent) -> TensorRTReport:
    """Examine both flavours of TensorRT as far as they are installed and this machine can run them.

    What works and what does not is in the report; what cannot be tried here is skipped with the reason, and no number
    is given for an engine that did not run. The recommended ways are stored.
    """
    from convkit.backends.tensorrt import FLAVOURS

    steps = Steps(progress)
    recommendations: list[Recommendation] = []
    installed = [flavour for flavour in FLAVOURS.values() if is_installed(flavour)]
    with tempfile.TemporaryDirectory(prefix="convkit-doctor-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        host = examine_host(steps, folder, plans_hold_kernels=any(not flavour.targets for flavour in installed))
        probes = _prepare(steps, folder, host) if installed else []
        for flavour in FLAVOURS.values():
            if flavour in installed:
                recommendations += _examine(steps, flavour.name, host, probes)
            else:
                steps.note(flavour.name, "installed", SKIPPED, flavour.problem(), remedy=flavour.remedy)
    if not installed:
        titles = " nor ".join(flavour.title for flavour in FLAVOURS.values())
        remedy = " ".join(flavour.remedy for flavour in FLAVOURS.values())
        steps.note(MACHINE, "TensorRT", FAILED, f"neither {titles} is installed", remedy=remedy)
    return TensorRTReport(tuple(steps.made), tuple(recommendations))


def _prepare(steps: Steps, folder: Path, host: Host) -> list[ReadyProbe]:
    """Return the probes; without a GPU those of real size, which are there for their latency, are left out."""
    found: list[EngineProbe] = []
    with steps.step(MACHINE, "probes") as step:
        found = engine_probes()
        step.text = ", ".join(probe.name for probe in found) or "no plugin brings one"
    prepared = []
    for probe in found:
        if probe.timed and host.gpu is None:
            steps.note(MACHINE, "reference", SKIPPED, f"it is for the latency, and {host.no_gpu}", probe.name)
        else:
            prepared.append(prepare(steps, probe, folder))
    return [each for each in prepared if each is not None]


def _examine(steps: Steps, name: str, host: Host, probes: list[ReadyProbe]) -> list[Recommendation]:
    from convkit.backends.tensorrt import find_flavour

    flavour, backend = find_flavour(name), backend_named(name)
    options = list(dict.fromkeys(prepared.probe.option for prepared in probes))
    full = not flavour.targets  # it builds for the GPU that it finds, and its plans contain the code of plugins
    if not examine_flavour(steps, flavour, host):
        reason = host.no_gpu if full and host.no_gpu else "the library does not work"
        for what in ("convolution", *(("timing cache", "argument order") if full else ()), *options):
            steps.note(name, what, SKIPPED, reason)
        return []
    no_gpu = host.no_gpu or backend.problem("cuda")
    # Without a GPU that it runs on one kind shows as much as all of them, in a part of the time.
    targets = flavour.default_targets[:1] if no_gpu or host.gpu is None else (host.gpu.target,)
    try_convolution(steps, backend, targets=targets, no_gpu=no_gpu)
    if full:
        try_timing_cache(steps, flavour, targets=targets)
        try_argument_order(steps, backend, flavour, targets=targets)
    found = []
    for option in options:
        mine = [prepared for prepared in probes if prepared.probe.option == option]
        trials = try_ways(steps, backend, option, mine, targets=targets, no_gpu=no_gpu)
        made = recommend(steps, option, name, flavour.version, host.gpu, no_gpu, mine, trials)
        found += [made] if made is not None else []
    return found
