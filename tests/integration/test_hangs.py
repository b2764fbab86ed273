"""A device or a decoder hangs while its process still sends heartbeats."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import media
from daemon import Daemon, eventually
from faults.planned_faults import ModelFault, PlannedFaults
from subtitled.config import schema

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.long

SERVER = Path(__file__).parents[1] / "faults" / "daemon_main.py"
MODEL = schema.ModelConfig(name="demo", cpu_threads=1, beam_size=1, batch_size=4)
ONE_SLOT = schema.PoolConfig(devices=("cpu",), prepare_workers=1)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Make every open of the file wait in the kernel, as on a network mount whose server is gone.

    A write lease does it, for 45 s at most (fcntl(2), F_SETLEASE). The kernel notifies the holder with a signal.
    """
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    file = os.open(path, os.O_RDONLY)
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield
    finally:
        os.close(file)
        signal.signal(signal.SIGIO, before)


def reading(daemon: Daemon, killed: int = 0) -> int:
    """Wait until the prepare worker, another than one that was killed, has a file; return its process id."""

    def found() -> int | None:
        [worker] = [worker for worker in daemon.stats().workers if worker.role == "prepare"]
        pid = daemon.workers().get(f"{worker.slot}.{worker.incarnation}") if worker.job else None
        return None if pid == killed else pid

    return eventually(found, "the file is being read")


def test_decoder_that_makes_no_progress_is_killed_and_its_file_given_up(tmp_path: Path) -> None:
    talk = media.write_sound(tmp_path / "talk.flac", media.speech(4))
    recovery = schema.RecoveryConfig(prepare_stall_s=1.0)
    with Daemon(tmp_path, model=MODEL, pool=ONE_SLOT, recovery=recovery) as daemon, held(talk):
        daemon.start()
        path = talk.rename(daemon.inbox / "talk.flac")
        job = daemon.wait_for(path)
        assert job.state == "failed"
        assert job.cause == "reading it failed 2 times, the last time with: no progress in decoding for 1 s"
        assert job.cause in (daemon.inbox / "failed" / "talk.flac.error.txt").read_text("utf-8")
        daemon.stop()


def test_file_that_takes_its_decoder_down_twice_fails_with_the_reason(tmp_path: Path) -> None:
    talk = media.write_sound(tmp_path / "talk.flac", media.speech(4))
    with Daemon(tmp_path, model=MODEL, pool=ONE_SLOT) as daemon, held(talk):
        daemon.start()
        path = talk.rename(daemon.inbox / "talk.flac")
        killed = 0
        for _ in range(2):
            killed = reading(daemon, killed)
            os.kill(killed, signal.SIGSEGV)
            daemon.wait_until_ready()
        job = daemon.wait_for(path)
        assert job.cause == "reading it failed 2 times, the last time with: killed by SIGSEGV"
        assert [line["losses"] for line in daemon.log("job.requeued")] == [1]
        daemon.stop()


def test_lease_that_hangs_is_taken_away_and_done_elsewhere(tmp_path: Path) -> None:
    """The worker still sends heartbeats: another thread hangs."""
    plan = PlannedFaults(tmp_path / "faults")
    with Daemon(
        tmp_path,
        model=MODEL,
        pool=ONE_SLOT,
        recovery=schema.RecoveryConfig(attempts=20, lease_min_s=4.0, lease_per_audio_s=0.01),
        command=lambda config_file: (str(SERVER), str(config_file), str(plan.folder)),
    ) as daemon:
        daemon.start()
        plan.set(ModelFault(kind="hang", times=1))
        path = daemon.drop(media.write_sound(tmp_path / "talk.flac", media.speech(4)), "talk.flac")
        assert daemon.wait_for(path).state == "done"
        assert (
            daemon.wait_for_log("worker.lost", worker="gpu0.1")["cause"]
            == "lease not done within its time limit"
        )
        daemon.stop()


def test_cancelled_file_that_hangs_its_decoder_is_not_blamed_on_the_next_one(tmp_path: Path) -> None:
    talk = media.write_sound(tmp_path / "talk.flac", media.speech(4))
    recovery = schema.RecoveryConfig(prepare_attempts=1)
    with Daemon(tmp_path, model=MODEL, pool=ONE_SLOT, recovery=recovery) as daemon, held(talk):
        daemon.start()
        talk = talk.rename(daemon.inbox / "talk.flac")
        reading(daemon)
        [job] = daemon.client.list()
        following = daemon.drop(media.write_sound(tmp_path / "next.flac", media.speech(4)), "next.flac")
        daemon.client.cancel(job.id)
        assert daemon.wait_for(following).state == "done"
        assert (
            daemon.wait_for_log("worker.lost", worker="prepare0.1")["cause"]
            == "did not stop reading an abandoned file within 5 s"
        )
        assert not daemon.log("job.requeued")
        daemon.stop()


def test_cancelled_lease_that_hangs_is_stopped_within_seconds(tmp_path: Path) -> None:
    plan = PlannedFaults(tmp_path / "faults")
    with Daemon(
        tmp_path,
        model=MODEL,
        pool=ONE_SLOT,
        command=lambda config_file: (str(SERVER), str(config_file), str(plan.folder)),
    ) as daemon:
        daemon.start()
        plan.set(ModelFault(kind="hang", times=1))
        daemon.drop(media.write_sound(tmp_path / "talk.flac", media.speech(4)), "talk.flac")
        # A lease that is cancelled before it reaches the model leaves the hang to the next file.
        eventually(lambda: any(call.fault for call in plan.calls()), "the model hangs")
        [job] = daemon.client.list()
        daemon.client.cancel(job.id)
        following = daemon.drop(media.write_sound(tmp_path / "next.flac", media.speech(4)), "next.flac")
        assert daemon.wait_for(following).state == "done"
        assert (
            daemon.wait_for_log("worker.lost", worker="gpu0.1")["cause"]
            == "did not stop an abandoned lease within 5 s"
        )
        assert {row[0] for row in daemon.query("SELECT losses FROM segments")} == {0}
        daemon.stop()
