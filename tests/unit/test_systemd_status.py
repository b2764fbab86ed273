from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest

from subtitled.core import events as ev
from subtitled.core import protocol as pr
from subtitled.core.broker import Broker
from subtitled.core.policy import Policy
from subtitled.core.records import Job, Options, Role
from subtitled.core.states import JobState
from subtitled.observability.systemd_status import INTERVAL_S, SystemdStatus
from subtitled.systemd.notify import SystemdNotifier
from subtitled.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOUR_SAMPLES = 3600 * 16_000


class StatusReader:
    """The lines that reach systemd."""

    def __init__(self, path: Path) -> None:
        self.broker = Broker(Policy())
        self.samples = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        notifier = SystemdNotifier({"NOTIFY_SOCKET": str(path)})
        self.standing = SystemdStatus(notifier, self.broker, lambda: self.samples)

    def at(self, now: float) -> str | None:
        """Return the line sent at this time, or None."""
        self.standing.update(now)
        try:
            return self._socket.recv(4096).decode().removeprefix("STATUS=")
        except BlockingIOError:
            return None

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()


@pytest.fixture
def status(tmp_path: Path) -> Iterator[StatusReader]:
    listening = StatusReader(tmp_path / "notify")
    yield listening
    listening.close()


def job(name: str) -> Job:
    path = f"/in/{name}".encode()
    return Job(
        id=name,
        state=JobState.QUEUED,
        source=path,
        location=path,
        size=1,
        mtime_ns=1,
        options=Options(),
        order=1,
    )


def test_line_has_jobs_waiting_audio_and_speed(status: StatusReader) -> None:
    assert status.at(0.0) == "0 jobs"
    for name in ("a", "b", "c"):
        status.broker.handle([ev.JobArrived(job(name))], 1.0)
    status.broker.live_jobs.queued_bytes = 41 * 60 * 16_000 * 2
    status.samples = 380 * 16_000
    assert status.at(10.0) == "3 jobs, 41 min of audio waiting, 38x real time"


def test_speed_covers_the_last_half_minute(status: StatusReader) -> None:
    status.broker.handle([ev.JobArrived(job("a"))], 0.0)
    lines = []
    for second in range(0, 340, 4):
        status.samples += HOUR_SAMPLES if second < 300 else 0
        lines.append(status.at(float(second)))
    assert lines[10] is None, "the speed is the same all the time"
    assert [line for line in lines if line][-1] == "1 job, 0 s of audio waiting, 0x real time"


def test_line_is_sent_at_most_every_few_seconds_and_only_when_changed(status: StatusReader) -> None:
    assert status.at(0.0) is not None
    status.broker.handle([ev.JobArrived(job("a"))], 0.0)
    assert status.at(INTERVAL_S / 2) is None
    assert status.at(INTERVAL_S) is not None
    assert status.at(3 * INTERVAL_S) is None


def test_line_counts_ready_workers(status: StatusReader) -> None:
    status.broker.handle([ev.SlotAdded("gpu0", Role.TRANSCRIBE)], time.monotonic())
    assert status.at(0.0) == "0 jobs, 0 of 1 workers ready"


def test_line_names_a_full_disk_and_stopping(status: StatusReader) -> None:
    status.broker.handle([ev.DiskSpaceChanged(False)], 0.0)
    assert status.at(0.0) == "0 jobs, disk full, new files wait"
    status.broker.handle([ev.DrainRequested()], 0.0)
    assert (status.at(5.0) or "").endswith("stopping")


def test_workers_of_a_host_that_left_do_not_count(status: StatusReader) -> None:
    for slot in ("far/cuda0", "other/cuda0"):
        status.broker.handle([ev.WorkerJoined(slot=slot)], 0.0)
        status.broker.handle(
            [
                ev.MessageReceived(
                    f"{slot}.1", pr.WorkerReady(version=VERSION, credit=1, window_samples=480_000)
                )
            ],
            0.0,
        )
    assert status.at(0) == "0 jobs"
    status.broker.handle([ev.WorkerExited(worker="far/cuda0.1", is_fatal=False, cause="left")], 1.0)
    assert status.at(2 * INTERVAL_S) is None
