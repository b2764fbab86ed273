"""Signals end the daemon the way an operator means it."""

from __future__ import annotations

import os
import signal
import stat
from typing import TYPE_CHECKING

import pytest

import media
from daemon import Daemon, eventually, is_running
from subtitled.config import schema

if TYPE_CHECKING:
    from pathlib import Path


def test_sigterm_before_the_workers_are_ready_ends_cleanly(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        process = daemon.spawn()
        daemon.wait_for_log("worker.starting", slot="cpu0")
        workers = eventually(daemon.workers, "the workers are there")
        process.send_signal(signal.SIGTERM)
        assert daemon.wait_for_exit() == 0
        assert not any(map(is_running, workers.values()))


def test_sigint_ends_an_idle_daemon_cleanly(tmp_path: Path) -> None:
    """As Ctrl-C in a terminal does, which goes to the workers too: they leave it to the daemon."""
    with Daemon(tmp_path) as daemon:
        daemon.start()
        workers = daemon.workers()
        for pid in (*workers.values(), daemon.pid):
            os.kill(pid, signal.SIGINT)
        assert daemon.wait_for_exit() == 0
        assert not any(map(is_running, workers.values()))
        assert daemon.log("worker.exited") == []
        assert daemon.log("daemon.stopped")[-1]["status"] == 0
        assert "Traceback" not in daemon.log_file.read_text("utf-8")


@pytest.mark.long
def test_second_signal_is_immediate(tmp_path: Path) -> None:
    """A lease that hangs holds up the first SIGTERM; the second waits for nothing. The job continues later."""
    recovery = schema.RecoveryConfig(stop_timeout_s=600, lease_min_s=600, silence_s=600)
    with Daemon(tmp_path, recovery=recovery) as daemon:
        source = daemon.drop(media.DEMO / "demo.flac", "talk.flac")
        daemon.start()
        busy = eventually(
            lambda: [w for w in daemon.stats().workers if w.role == "transcribe" and w.leases],
            "a worker has a lease",
        )
        hung = daemon.workers()[f"{busy[0].slot}.1"]
        os.kill(hung, signal.SIGSTOP)
        daemon.terminate()
        daemon.wait_for_log("daemon.stopping", cause="SIGTERM")
        assert is_running(hung)
        daemon.terminate()
        assert daemon.wait_for_exit() == 0
        eventually(lambda: not is_running(hung), "the hung worker is gone")
        daemon.start()
        assert daemon.wait_for(source).state == "done"
        daemon.stop()


def test_the_time_to_stop_ends_what_hangs(tmp_path: Path) -> None:
    recovery = schema.RecoveryConfig(stop_timeout_s=1.0, lease_min_s=600, silence_s=600)
    with Daemon(tmp_path, recovery=recovery) as daemon:
        daemon.drop(media.DEMO / "demo.flac", "talk.flac")
        daemon.start()
        for identity, pid in daemon.workers().items():
            if identity.startswith("cpu"):
                os.kill(pid, signal.SIGSTOP)
        workers = daemon.workers()
        daemon.stop()
        eventually(lambda: not any(map(is_running, workers.values())), "all workers are gone")


@pytest.mark.long
def test_sigusr1_logs_more_and_then_less_again(tmp_path: Path) -> None:
    """To the whole unit, as `systemctl kill -s USR1` sends it: the workers pass it over."""
    with Daemon(tmp_path) as daemon:
        daemon.start()
        workers = daemon.workers()
        for level, before in (("debug", "info"), ("info", "debug")):
            for pid in (*workers.values(), daemon.pid):
                os.kill(pid, signal.SIGUSR1)
            daemon.wait_for_log("log.level", to=level, before=before, by="SIGUSR1")
            if level == "debug":
                daemon.wait_for(daemon.drop(media.clip(), "talk.flac"))
                assert daemon.log("lease.sent")
        assert daemon.workers() == workers
        daemon.stop()


def test_sockets_are_closed_to_other_users(tmp_path: Path) -> None:
    """The clients' socket to those of its group, the workers' to the daemon's own user."""
    with Daemon(tmp_path) as daemon:
        daemon.start()
        assert stat.S_IMODE((daemon.sockets / "clients.sock").stat().st_mode) == 0o660
        assert stat.S_IMODE((daemon.sockets / "private").stat().st_mode) == 0o700
        daemon.stop()
