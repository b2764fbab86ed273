"""Worker processes as the daemon sees them from outside."""

from __future__ import annotations

import os
import select
import subprocess
import sys

import pytest

from subtitled.core.protocol import WorkerSettings
from subtitled.workers.supervisor import Supervisor

SETTINGS = WorkerSettings(
    identity="gpu0.1",
    role="transcribe",
    endpoint="",
    parent_pid=os.getpid(),
    heartbeat_s=1.0,
    log_level="info",
    log_format="json",
)


def ended(supervisor: Supervisor) -> int:
    """Start a worker and wait for its end; return its pidfd."""
    supervisor.spawn(SETTINGS, visible_devices="")
    [pidfd] = supervisor.pidfds
    assert select.select([pidfd], [], [], 60)[0]
    return pidfd


@pytest.mark.parametrize(
    ("program", "cause", "is_missing"),
    [
        ("raise SystemExit(0)", "exited", False),
        ("raise SystemExit(70)", "exited with status 70", True),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL", False),
    ],
)
def test_an_exit_reason_is_expected_only_of_a_process_that_failed(
    program: str, cause: str, is_missing: bool
) -> None:
    supervisor = Supervisor(os.environ, command=(sys.executable, "-c", program))
    pidfd = ended(supervisor)
    assert supervisor.is_exit_reason_missing(pidfd) is is_missing
    assert supervisor.reap(pidfd).cause == cause


def test_the_exit_reason_is_the_cause_of_the_exit() -> None:
    supervisor = Supervisor(os.environ, command=(sys.executable, "-c", "raise SystemExit(78)"))
    pidfd = ended(supervisor)
    supervisor.record_exit_reason("gpu0.1", "no such model")
    assert not supervisor.is_exit_reason_missing(pidfd)
    end = supervisor.reap(pidfd)
    assert (end.worker, end.is_fatal, end.cause) == ("gpu0.1", True, "no such model")


def test_a_process_that_cannot_be_started_counts_as_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork fails with EAGAIN at the limit of processes; a child that is at its own limit shows it for real."""
    program = (
        "import os, resource\n"
        "from integration.test_supervisor import SETTINGS\n"
        "from subtitled.workers.supervisor import Supervisor\n"
        "supervisor = Supervisor(os.environ, command=('/bin/true',))\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "supervisor.spawn(SETTINGS, visible_devices='')\n"
        "assert supervisor.has_failed_starts\n"
        "[end] = supervisor.take_failed_starts()\n"
        "assert not supervisor.take_failed_starts()\n"
        "assert not supervisor.pidfds\n"
        "print(end.worker, end.is_ok, end.is_fatal, end.cause)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(
        "gpu0.1 False False its process could not be started: Too many open files; "
    )
