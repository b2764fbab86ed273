"""The daemon as systemd sees it: a socket that the test plays the manager at."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import media
from daemon import Daemon, eventually
from faults.planned_faults import ModelFault, PlannedFaults
from subtitled.config import schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SERVER = Path(__file__).parents[1] / "faults" / "daemon_main.py"
MODEL = schema.ModelConfig(name="demo", cpu_threads=1, beam_size=1, batch_size=1)
ONE_SLOT = schema.PoolConfig(devices=("cpu",), prepare_workers=1)


class Manager:
    """Systemd's end of the notify socket: keeps what comes, in order. A context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0.1)
        self._is_over = False
        self._thread = threading.Thread(target=self._listen)
        self.heard: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._thread.join()
        self._socket.close()

    @property
    def environ(self) -> dict[str, str]:
        """What systemd puts into the environment with WatchdogSec=2."""
        return {"NOTIFY_SOCKET": str(self._path), "WATCHDOG_USEC": "2000000"}

    def states(self) -> list[str]:
        """Return what was sent besides pings and status lines."""
        return [
            reported for reported in list(self.heard) if not reported.startswith(("WATCHDOG=", "STATUS="))
        ]

    def count(self, reported: str) -> int:
        """Return how often this was reported."""
        return self.heard.count(reported)

    def wait_for(self, is_it: Callable[[str], bool], what: str) -> str:
        """Wait until something like this was sent; return it."""
        return eventually(
            lambda: next((reported for reported in list(self.heard) if is_it(reported)), None), what
        )

    def _listen(self) -> None:
        while not self._is_over:
            try:
                self.heard.append(self._socket.recv(4096).decode())
            except TimeoutError:
                continue


def test_ready_comes_with_the_first_worker_and_stopping_before_the_end(tmp_path: Path) -> None:
    with (
        Manager(tmp_path / "notify") as manager,
        Daemon(tmp_path, model=MODEL, pool=ONE_SLOT, environ=manager.environ) as daemon,
    ):
        daemon.spawn()
        daemon.wait_for_log("worker.starting", slot="cpu0")
        is_ready_sent = "READY=1" in manager.heard
        assert not is_ready_sent or daemon.log("worker.ready"), "ready before any worker was"
        manager.wait_for("READY=1".__eq__, "READY")
        assert [line["worker"] for line in daemon.log("worker.ready")] == ["cpu0.1"]
        manager.wait_for("STATUS=0 jobs".__eq__, "the line of an idle daemon")
        assert any("0 of 1 workers ready" in state for state in manager.heard)
        daemon.stop()
        assert manager.states() == ["READY=1", "STOPPING=1"]


def test_a_daemon_without_a_worker_is_never_ready(tmp_path: Path) -> None:
    nowhere = schema.ModelConfig(name=str(tmp_path / "no-model"))
    (tmp_path / "no-model").mkdir()
    (tmp_path / "no-model" / "model.bin").write_bytes(b"no model")
    with (
        Manager(tmp_path / "notify") as manager,
        Daemon(tmp_path, model=nowhere, pool=ONE_SLOT, environ=manager.environ) as daemon,
    ):
        daemon.spawn()
        assert daemon.wait_for_exit() == 78
        assert manager.count("READY=1") == 0


def test_a_reload_is_reported_with_its_time_and_ended(tmp_path: Path) -> None:
    with (
        Manager(tmp_path / "notify") as manager,
        Daemon(tmp_path, model=MODEL, pool=ONE_SLOT, environ=manager.environ) as daemon,
    ):
        daemon.start()
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        os.kill(daemon.pid, signal.SIGHUP)
        reported = manager.wait_for(lambda reported: reported.startswith("RELOADING=1"), "RELOADING")
        assert int(reported.removeprefix("RELOADING=1\nMONOTONIC_USEC=")) >= before
        eventually(lambda: manager.count("READY=1") == 2, "READY after the reload")
        assert manager.states() == ["READY=1", reported, "READY=1"]
        daemon.stop()


def test_status_reports_jobs_queue_and_speed(tmp_path: Path) -> None:
    """While the only GPU hangs there is a job, and audio that waits for it."""
    plan = PlannedFaults(tmp_path / "faults")
    with (
        Manager(tmp_path / "notify") as manager,
        Daemon(
            tmp_path,
            model=MODEL,
            pool=ONE_SLOT,
            environ=manager.environ,
            command=lambda config_file: (str(SERVER), str(config_file), str(plan.folder)),
        ) as daemon,
    ):
        daemon.start()
        plan.set(ModelFault(kind="hang", times=1))
        daemon.drop(media.write_sound(tmp_path / "talk.flac", media.speech(6)), "talk.flac")
        line = re.compile(r"STATUS=1 job, ([1-9]\d*) s of audio waiting, 0x real time")
        manager.wait_for(
            lambda reported: line.fullmatch(reported) is not None, "a line with a job and its queue"
        )


def test_pings_stop_when_the_loop_is_stuck(tmp_path: Path) -> None:
    """The loop reads its configuration from a pipe that is never closed, as from a mount whose server is gone."""
    with (
        Manager(tmp_path / "notify") as manager,
        Daemon(tmp_path, model=MODEL, pool=ONE_SLOT, environ=manager.environ) as daemon,
    ):
        daemon.start()
        seen = manager.count("WATCHDOG=1")
        eventually(lambda: manager.count("WATCHDOG=1") > seen + 2, "pings of a loop that turns")
        daemon.config_file.unlink()
        os.mkfifo(daemon.config_file)
        os.kill(daemon.pid, signal.SIGHUP)
        with open_pipe(daemon.config_file):
            assert_quiet(manager)
            assert len(daemon.workers()) == 2, "its workers live, and only the watchdog notices"
        daemon.wait_for_log("config.rejected")
        daemon.stop()


def test_pings_stop_when_the_process_is_stopped(tmp_path: Path) -> None:
    with (
        Manager(tmp_path / "notify") as manager,
        Daemon(tmp_path, model=MODEL, pool=ONE_SLOT, environ=manager.environ) as daemon,
    ):
        daemon.start()
        os.kill(daemon.pid, signal.SIGSTOP)
        eventually(lambda: _state_of(daemon.pid) == "T", "the daemon is stopped")
        assert_quiet(manager)
        seen = manager.count("WATCHDOG=1")
        os.kill(daemon.pid, signal.SIGCONT)
        eventually(lambda: manager.count("WATCHDOG=1") > seen + 1, "pings again")
        daemon.stop()


@contextlib.contextmanager
def open_pipe(path: Path) -> Iterator[None]:
    """Hold a pipe open for writing, once it is read, and write nothing."""

    def opened() -> list[int]:
        try:
            return [os.open(path, os.O_WRONLY | os.O_NONBLOCK)]
        except OSError as error:
            if error.errno != errno.ENXIO:  # not read yet
                raise
            return []

    [file] = eventually(opened, "the pipe is read")
    try:
        yield
    finally:
        os.close(file)


def assert_quiet(manager: Manager) -> None:
    """Assert that no ping comes in more than the time that systemd allows; one may have been in progress."""
    seen = manager.count("WATCHDOG=1")
    threading.Event().wait(2.5)
    assert manager.count("WATCHDOG=1") <= seen + 1


def _state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
