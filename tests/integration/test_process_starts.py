"""Fork fails with EAGAIN at the limit of processes; whatever the daemon starts is started when there is room again."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

import media
from daemon import eventually
from integration.test_hooks import ENDED
from integration.test_layout_process import finished
from integration.test_supervisor import SETTINGS
from subtitled.core.plan import AudioSource
from subtitled.hooks import commands
from subtitled.media.preview_pool import AudioRange, PreviewPool
from subtitled.output.layout_process import LayoutProcess
from subtitled.runtime import processes
from subtitled.runtime.sidecar import Sidecar, SidecarSettings
from subtitled.workers.supervisor import Supervisor

if TYPE_CHECKING:
    from pathlib import Path

FAILURES = 2


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Let the next starts of processes fail; return those that did."""
    failed: list[object] = []
    popen = subprocess.Popen

    def start(command: object, *args: Any, **options: Any) -> object:
        if len(failed) < FAILURES:
            failed.append(command)
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return popen(command, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(processes, "START_RETRY_S", 0.01)
    return failed


def test_layout_process_is_started_and_its_job_does_not_fail(failures: list[object]) -> None:
    row, results = finished()
    layout_process = LayoutProcess()
    assert layout_process.compose(row, results, model="demo").segments
    assert len(failures) == FAILURES
    layout_process.close()


def test_preview_process_is_started(failures: list[object], tmp_path: Path) -> None:
    path = media.write_sound(tmp_path / "talk.flac", media.speech(2))
    found = path.stat()
    pool = PreviewPool(count=1)
    wanted = AudioRange(
        path=os.fsencode(path),
        root=os.fsencode(tmp_path),
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
        source=AudioSource(),
        language=None,
        drift_ms=0,
        start=0,
        samples=16_000,
    )
    assert pool.decode(wanted)
    assert len(failures) == FAILURES
    pool.close()


def test_command_of_an_inbox_is_run(failures: list[object], tmp_path: Path) -> None:
    command = (sys.executable, "-c", f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert commands.run(command, ENDED, os.environ, 60, threading.Event()) == ""
    assert (tmp_path / "ran").exists()
    assert len(failures) == FAILURES


def test_command_that_waits_for_its_start_does_not_hold_up_the_stop(
    monkeypatch: pytest.MonkeyPatch, failures: list[object]
) -> None:
    stopping = threading.Event()
    stopping.set()
    monkeypatch.setattr(processes, "START_RETRY_S", 3600)
    assert commands.run(("/bin/true",), ENDED, os.environ, 3600, stopping) is None
    assert len(failures) == 1


def test_command_that_does_not_exist_fails_at_once(tmp_path: Path) -> None:
    problem = commands.run((str(tmp_path / "none"),), ENDED, os.environ, 3600, threading.Event())
    assert problem is not None
    assert "No such file" in problem


def test_gateway_is_started_and_each_failure_is_logged(
    failures: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subtitled.runtime.sidecar.FIRST_PAUSE_S", 0.01)
    script = f"open({str(tmp_path / 'ran')!r}, 'w'); import sys; sys.stdin.read()"
    with (
        capture_logs() as logs,
        Sidecar((sys.executable, "-c", script), os.environ, lost_event="http.lost") as gateway,
    ):
        gateway.configure(SidecarSettings())
        eventually((tmp_path / "ran").exists, "the gateway runs")
    assert len(failures) == FAILURES
    lost = [line["status"] for line in logs if line["event"] == "http.lost"]
    assert lost[:FAILURES] == ["[Errno 11] Resource temporarily unavailable"] * FAILURES


def test_start_of_a_worker_counts_as_its_end(failures: list[object]) -> None:
    supervisor = Supervisor(os.environ, command=("/bin/true",))
    supervisor.spawn(SETTINGS, visible_devices="")
    [end] = supervisor.take_failed_starts()
    assert not end.is_fatal
    assert "Resource temporarily unavailable" in end.cause
    assert len(failures) == 1


def test_start_is_given_up_at_its_deadline(failures: list[object]) -> None:
    with pytest.raises(BlockingIOError):
        processes.start_process(("/bin/true",), time.monotonic() - 1)
    assert len(failures) == 1
