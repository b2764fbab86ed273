"""Worker processes as the daemon sees them from outside."""

from __future__ import annotations

import os
import select
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
    pidfd = supervisor.spawn(SETTINGS, visible_devices="")
    assert select.select([pidfd], [], [], 60)[0]
    return pidfd


@pytest.mark.parametrize(
    ("program", "cause", "owes"),
    [
        ("raise SystemExit(0)", "exited", False),
        ("raise SystemExit(70)", "exited with status 70", True),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL", False),
    ],
)
def test_only_a_process_that_ended_with_a_fault_owes_an_explanation(
    program: str, cause: str, owes: bool
) -> None:
    supervisor = Supervisor(os.environ, command=(sys.executable, "-c", program))
    pidfd = ended(supervisor)
    assert supervisor.owes_words(pidfd) is owes
    assert supervisor.reap(pidfd).cause == cause


def test_what_it_said_is_the_cause_of_its_end() -> None:
    supervisor = Supervisor(os.environ, command=(sys.executable, "-c", "raise SystemExit(78)"))
    pidfd = ended(supervisor)
    supervisor.note_last_words("gpu0.1", "no such model")
    assert not supervisor.owes_words(pidfd)
    end = supervisor.reap(pidfd)
    assert (end.worker, end.is_fatal, end.cause) == ("gpu0.1", True, "no such model")
