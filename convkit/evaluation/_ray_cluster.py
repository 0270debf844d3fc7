"""The connection to a Ray cluster, or why there is none; only here and in `_ray` is Ray imported."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from convkit.errors import EnvironmentProblem

__all__ = ["LOCAL", "connected", "reason"]

LOCAL = "local"
"""The address that starts Ray on this machine, and ends it afterwards."""
LISTENING, ANSWERING = 10, 90
"""Seconds in which somebody has to listen at an address, and Ray has to connect; Ray itself tries for minutes."""
_TRIAL = """
import sys, ray
try:
    ray.init(sys.argv[1], log_to_driver=False)
except Exception:  # which `connected` will see again
    pass
"""


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Connect to a cluster while the block runs, unless this process is connected already; return the module ``ray``.

    Raises:
        EnvironmentProblem: Ray is missing, or does not connect to this address.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise EnvironmentProblem("--ray needs Ray Data.", hint='pip install "convkit[ray]"') from error
    if ray.is_initialized():
        yield ray
        return
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if address != LOCAL:
        _check_listening(address)
        _check_member(address)
    with redirect_stdout(sys.stderr):  # where Ray says what became of its workers
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(
                address,
                include_dashboard=False if address == LOCAL else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=True,
            )
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            why = reason(error.__cause__) if error.__cause__ else " ".join(str(error).split())
            raise _unconnected(address, why) from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray puts a handler of its own in its place
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        try:
            yield ray
        finally:
            ray.shutdown()


def _check_listening(address: str) -> None:
    """Check that somebody listens at an address ``HOST:PORT``; what is wrong with others Ray says at once.

    Raises:
        EnvironmentProblem: nobody does, or it is that of Ray Client, through which Ray Data does not run.
    """
    if address.startswith("ray://"):
        raise _unconnected(address, "that is an address of Ray Client, which has no Ray Data")
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in host:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=LISTENING).close()
        except (OSError, OverflowError) as error:
            raise _unconnected(address, getattr(error, "strerror", None) or str(error)) from error


def _check_member(address: str) -> None:
    """Check by a process of its own that this machine is one of the cluster: on others Ray ends the process.

    Raises:
        EnvironmentProblem: the process was ended, or waits for too long.
    """
    try:
        trial = subprocess.run(
            [sys.executable, "-c", _TRIAL, address],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=ANSWERING,
        )
    except subprocess.TimeoutExpired as error:
        raise _unconnected(address, f"nothing that Ray knows answers there within {ANSWERING} seconds") from error
    if trial.returncode:
        raise _unconnected(address, "this machine is not one of the cluster")


def _unconnected(address: str, why: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"Ray cannot connect to {address!r}: {why.rstrip('.')}.",
        hint="Run it on a machine of the cluster, with its versions of Ray and Python, and give HOST:PORT as"
        f" `ray start` prints it, or --ray {LOCAL}.",
    )


def reason(error: BaseException) -> str:
    """Return the line of an error of Ray that says what happened: that of the error behind it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line for line in reversed(lines) if re.match(r"[\w.]+(Error|Exception): ", line)), lines[-1]).strip()
