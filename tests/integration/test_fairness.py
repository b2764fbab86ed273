"""A short clip is not kept waiting by long files, however much of them there is."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import numpy as np

import media
from daemon import Daemon, eventually
from subtitled.config import schema

if TYPE_CHECKING:
    from pathlib import Path

BATCH = 4


def one_worker(folder: Path, **recovery: int) -> Daemon:
    return Daemon(
        folder,
        model=schema.ModelConfig(name="demo", cpu_threads=1, batch_size=BATCH, beam_size=1),
        pool=schema.PoolConfig(devices=("cpu",), prepare_workers=2, queue_mb=16),
        recovery=schema.RecoveryConfig(**recovery),
    )


def test_a_clip_dropped_during_a_long_job_is_done_within_two_leases(tmp_path: Path) -> None:
    """From its speech being found: the lease that is decoded, and its own."""
    long = media.write_sound(tmp_path / "long.wav", np.tile(media.recording(), 8))
    clip = media.write_sound(tmp_path / "clip.wav", media.speech(7))
    with one_worker(tmp_path) as daemon:
        daemon.start()
        slow = daemon.drop(long, "long.wav")
        eventually(lambda: daemon.stats().audio_ms > 0, "the long job is in progress")
        quick = daemon.wait_for(daemon.drop(clip, "clip.wav"))
        job = daemon.job_of(slow)
        assert quick.state == "done"
        assert job is not None
        assert job.state == "transcribing"
        daemon.stop()
        journal = daemon.journal()
    planned = next(entry.seq for entry in journal if entry.job == quick.id and entry.event == "planned")
    done = max(entry.seq for entry in journal if entry.job == quick.id and entry.subject == "segment")
    others = [e for e in journal if e.job == job.id and e.event == "done" and planned < e.seq < done]
    assert len(others) <= 2 * BATCH
    steps = [e.event for e in journal if e.job == job.id and e.subject == "segment"]
    assert steps[:2] == ["leased", "done"], "the first lease of a CPU has one segment"


def test_a_clip_is_read_though_long_files_fill_the_memory(tmp_path: Path) -> None:
    """No worker transcribes, and both decoders wait for credit: one of them gives way, and nothing is counted against it."""
    long = media.write_sound(tmp_path / "long.wav", np.tile(media.recording(), 14))
    clip = media.write_sound(tmp_path / "clip.wav", media.speech(7))
    with one_worker(tmp_path, silence_s=3600, lease_min_s=3600) as daemon:
        daemon.start()
        worker = daemon.workers()["cpu0.1"]
        os.kill(worker, signal.SIGSTOP)
        for name in ("one.wav", "two.wav"):
            daemon.drop(long, name)
        eventually(lambda: daemon.stats().queued_bytes > 12 * 2**20, "the memory is full")
        source = daemon.drop(clip, "clip.wav")
        eventually(lambda: (job := daemon.job_of(source)) and job.state == "transcribing", "the clip is read")
        assert any(entry["losses"] == 0 for entry in daemon.log("job.requeued"))
        os.kill(worker, signal.SIGCONT)
        assert daemon.wait_for(source).state == "done"
