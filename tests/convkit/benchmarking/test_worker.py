"""The process of an engine: what its end looks like to the one that waits for it."""

from __future__ import annotations

import os
import signal

import pytest

from convkit.benchmarking import Candidate
from convkit.benchmarking._worker import Job, Worker
from convkit.errors import EnvironmentProblem


def test_an_engine_whose_process_dies_is_an_error_with_its_signal(tmp_path):
    job = Job(Candidate(str(tmp_path), "fp32", "onnxruntime", "cpu"), False, (), ())
    with Worker(job, 1) as worker:
        os.kill(worker._process.pid, signal.SIGKILL)
        with pytest.raises(EnvironmentProblem, match="the process of the engine ended with signal SIGKILL"):
            worker.ready()
        with pytest.raises(EnvironmentProblem, match="signal SIGKILL"):
            worker.once()
