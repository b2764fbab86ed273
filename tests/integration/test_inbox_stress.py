"""A watched folder under load, changes in motion, wrong times and failing outputs."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from msgspec import structs

import media
from daemon import Daemon, InboxFolder, eventually
from subtitled.config import schema
from subtitled.config.load import to_toml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from subtitle import JobFacts

pytestmark = pytest.mark.long

DEMO_ZH = Path(str(files("subtitled") / "demo" / "demo-zh.flac"))
MODEL = schema.ModelConfig(name="demo", cpu_threads=1, beam_size=1, batch_size=4)
ONE_SLOT = schema.PoolConfig(devices=("cpu",), prepare_workers=1)
SUBTITLE = str(Path(sys.executable).with_name("subtitle"))
MANY = 10_000
MEMORY_MB = 250
"""More than the daemon needs with 10,000 queued jobs (measured: 65 MB)."""
QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


def daemon_in(folder: Path, *inboxes: InboxFolder, **sections: object) -> Daemon:
    given = {"model": MODEL, "pool": ONE_SLOT, **sections}
    return Daemon(folder, inboxes=inboxes or (InboxFolder(),), **given)  # type: ignore[arg-type]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Return four seconds of speech."""
    return media.write_sound(tmp_path / "clip.flac", media.speech(4))


def assert_still_works(daemon: Daemon, clip: Path) -> None:
    """Check that the next good file is subtitled."""
    assert daemon.wait_for(daemon.drop(clip, "next.flac")).state == "done"
    assert "morning and welcome." in (daemon.outbox / "next.en.srt").read_text("utf-8")


def jobs_of(daemon: Daemon, source: Path) -> list[JobFacts]:
    """Return all jobs of a source, newest first."""
    return [job for job in daemon.jobs() if job.source == str(source)]


# -- very many --------------------------------------------------------------------------------------------


def test_ten_thousand_files_at_once_are_each_one_job(tmp_path: Path) -> None:
    """While the model loads, so that all wait: memory stays bounded and the daemon responds."""
    staged = tmp_path / "many"
    for place in range(MANY):
        (staged / str(place % 10)).mkdir(parents=True, exist_ok=True)
        (staged / str(place % 10) / f"{place}.wav").write_bytes(b"%d" % place)
    with daemon_in(tmp_path) as daemon:
        daemon.spawn()
        os.kill(eventually(lambda: daemon.workers().get("cpu0.1"), "a worker starts"), signal.SIGSTOP)
        daemon.wait_for_log("inbox.watched")
        # Half of them one by one, half in moved folders.
        for folder in sorted(staged.iterdir()):
            if int(folder.name) < 5:
                for file in sorted(folder.iterdir()):
                    file.rename(daemon.inbox / file.name)
            else:
                folder.rename(daemon.inbox / folder.name)
        pings = 0

        def all_accepted() -> bool:
            nonlocal pings
            ping = [SUBTITLE, "--server", daemon.endpoint, "ping"]
            subprocess.run(ping, check=True, stdout=subprocess.DEVNULL)
            pings += 1
            return sum(daemon.stats().jobs.values()) >= MANY

        eventually(all_accepted, f"{MANY} jobs are accepted")
        assert daemon.stats().jobs == {"queued": MANY}
        [(jobs, sources)] = daemon.query("SELECT count(*), count(DISTINCT source) FROM jobs")
        assert (jobs, sources) == (MANY, MANY)
        [(accepted,)] = daemon.query("SELECT count(*) FROM journal WHERE event = 'accepted'")
        assert accepted == MANY
        assert pings > 1
        assert peak_mb(daemon.pid) < MEMORY_MB


def peak_mb(pid: int) -> float:
    """Return the largest resident size of a process so far, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text("utf-8")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def test_file_whose_event_the_kernel_dropped_is_found(tmp_path: Path, clip: Path) -> None:
    """More events than fit into the kernel's queue while it is not read: the event of the file is lost."""
    with daemon_in(tmp_path, InboxFolder(options={"rescan_s": 1.0})) as daemon:
        daemon.start()
        os.kill(daemon.pid, signal.SIGSTOP)
        busy = [daemon.inbox / "a.tmp", daemon.inbox / "b.tmp"]
        with busy[0].open("wb", buffering=0) as a, busy[1].open("wb", buffering=0) as b:
            # Alternately, because the kernel merges equal consecutive events.
            for _ in range(int(QUEUE.read_text("ascii"))):
                a.write(b"a")
                b.write(b"b")
        flat = daemon.drop(clip, "flat.flac")
        deep = daemon.drop(clip, Path("new", "folder", "deep.flac"))
        os.kill(daemon.pid, signal.SIGCONT)
        eventually(
            lambda: any("overflow" in str(line) for line in daemon.log("library.message")),
            "the queue overflowed",
        )
        assert {daemon.wait_for(flat).state, daemon.wait_for(deep).state} == {"done"}
        # The watch works again: files in the new folder are reported by events.
        later = daemon.drop(clip, Path("new", "folder", "later.flac"))
        assert daemon.wait_for(later).state == "done"
        daemon.stop()


# -- files in motion --------------------------------------------------------------------------------------


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with daemon_in(tmp_path, InboxFolder(options={"settle_s": 0.5, "rescan_s": 1.0})) as running:
        yield running.start()


def test_file_that_grows_for_seconds_is_processed_once_and_whole(daemon: Daemon, tmp_path: Path) -> None:
    whole = media.write_sound(tmp_path / "whole.wav", media.speech(20)).read_bytes()
    target = daemon.inbox / "grown.wav"
    pace = threading.Event()
    with target.open("wb", buffering=0) as file:
        for start in range(0, len(whole), len(whole) // 20):
            file.write(whole[start : start + len(whole) // 20])
            pace.wait(0.2)  # a slow copy
            assert not daemon.jobs()
    job = daemon.wait_for(target)
    assert (job.state, job.audio_ms) == ("done", 20_000)
    assert len(daemon.jobs()) == 1


def test_file_renamed_while_it_settles_is_processed_under_its_last_name(daemon: Daemon, clip: Path) -> None:
    path = daemon.drop(clip, "name0.flac")
    pace = threading.Event()
    for turn in range(1, 8):
        pace.wait(0.15)  # less than settle_s, and all turns together more than that
        path = path.rename(daemon.inbox / f"name{turn}.flac")
    assert daemon.wait_for(path).state == "done"
    assert [job.source for job in daemon.jobs()] == [str(path)]
    assert {found.name for found in daemon.outbox.iterdir()} == {"name7.en.srt", "name7.en.json"}


def test_file_renamed_while_it_is_processed_is_done_once_under_its_new_name(
    daemon: Daemon, tmp_path: Path, clip: Path
) -> None:
    path = daemon.drop(long_talk(tmp_path), "first.flac")
    eventually(lambda: is_running(daemon, path), "the file is being processed")
    before = len(daemon.jobs())
    renamed = path.rename(daemon.inbox / "second.flac")
    assert daemon.wait_for(renamed).state == "done"
    assert len(daemon.jobs()) == before
    assert (daemon.inbox / "done" / "second.flac").is_file()
    assert (daemon.outbox / "second.en.srt").is_file()
    assert_still_works(daemon, clip)


def test_file_deleted_while_transcribed_ends_with_the_finished_part(
    daemon: Daemon, tmp_path: Path, clip: Path
) -> None:
    path = daemon.drop(long_talk(tmp_path), "gone.flac")
    eventually(lambda: is_running(daemon, path), "the file is being processed")
    path.unlink()
    job = daemon.wait_for(path)
    if job.state == "failed":
        assert "No such file" in job.cause
        text = (daemon.inbox / "failed" / "gone.flac.error.txt").read_text("utf-8")
        assert job.cause in text
    else:
        assert job.state == "done"
        assert not daemon.transcript("gone.en").missing
    assert not path.exists()
    assert_still_works(daemon, clip)


def long_talk(folder: Path) -> Path:
    return media.write_sound(folder / "long.flac", np.concatenate([media.recording(), media.recording()]))


def is_running(daemon: Daemon, source: Path) -> bool:
    job = daemon.job_of(source)
    return job is not None and job.segments.get("leased", 0) > 0


def test_inbox_removed_during_a_job_is_watched_again(daemon: Daemon, tmp_path: Path, clip: Path) -> None:
    path = daemon.drop(long_talk(tmp_path), "running.flac")
    eventually(lambda: is_running(daemon, path), "the file is being processed")
    # Not `rmtree`: the daemon may be putting its archive there at the same time.
    daemon.inbox.rename(tmp_path / "away")
    eventually(lambda: daemon.log("inbox.lost"), "the loss is noticed")
    # The archive of the job may have created the folder again; without it the file waits for it.
    daemon.inbox.mkdir(exist_ok=True)
    job = daemon.wait_for(path)
    assert job.state == "done" or "No such file" in job.cause
    eventually(lambda: len(daemon.log("inbox.watched")) >= 2, "the new folder is watched")
    assert_still_works(daemon, clip)
    # And again, by removal.
    losses = len(daemon.log("inbox.lost"))
    shutil.rmtree(daemon.inbox)
    eventually(lambda: len(daemon.log("inbox.lost")) > losses, "the second loss is noticed")
    daemon.inbox.mkdir()
    later = daemon.drop(clip, "later.flac")
    assert daemon.wait_for(later).state == "done"


# -- wrong times ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "year", [1970, 2107], ids=["long ago, as from a camera without a clock", "in the future"]
)
def test_file_with_any_time_is_processed_once(daemon: Daemon, clip: Path, year: int) -> None:
    at = datetime(year, 1, 2, tzinfo=UTC).timestamp()
    os.utime(clip, (at, at))
    path = daemon.drop(clip, "dated.flac")
    assert daemon.wait_for(path).state == "done"
    assert (daemon.inbox / "done" / "dated.flac").stat().st_mtime == at
    assert len(daemon.jobs()) == 1


def test_changed_file_with_an_older_time_is_a_new_job(tmp_path: Path, clip: Path) -> None:
    """As after the clock was set back: a different time counts, not a newer one."""
    with daemon_in(tmp_path, InboxFolder(options={"after": "keep", "rescan_s": 1.0})) as daemon:
        daemon.start()
        path = daemon.drop(clip, "talk.flac")
        assert daemon.wait_for(path).state == "done"
        older = time.time() - 86_400
        longer = media.write_sound(tmp_path / "longer.flac", media.speech(8))
        os.utime(longer, (older, older))
        daemon.drop(longer, "talk.flac")
        eventually(lambda: len(jobs_of(daemon, path)) == 2, "the changed file is a job")
        second, first = jobs_of(daemon, path)
        daemon.wait_for_jobs(2)
        assert daemon.client.status(second.id).audio_ms == 8000
        assert daemon.client.status(first.id).audio_ms == 4000
        assert daemon.transcript("talk.en").duration_ms == 8000
        # The same content with another time is a new file too: contents are not compared. There is no watched
        # event for it; the next scan finds it.
        os.utime(path, (older - 60, older - 60))
        assert len(daemon.wait_for_jobs(3)) == 3
        daemon.stop()


# -- outputs ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """Mount a separate file system at `folder`."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def test_read_only_output_fails_the_job_and_retry_writes_it(tmp_path: Path) -> None:
    state = schema.StateConfig(dir=str(tmp_path / "state"), reserve_mb=0)
    with mounted(tmp_path / "inbox-out"), daemon_in(tmp_path, state=state) as daemon:
        daemon.start()
        remount(daemon.outbox, "ro")
        path = daemon.drop(DEMO_ZH, "talk.flac")
        job = daemon.wait_for(path)
        assert job.state == "failed"
        assert "Read-only file system" in job.cause
        assert "remount its file system read-write" in job.cause
        text = (daemon.inbox / "failed" / "talk.flac.error.txt").read_text("utf-8")
        assert job.cause in text
        assert f"subtitle retry {job.id}" in text
        remount(daemon.outbox, "rw")
        seq = daemon.journal()[-1].seq
        retry = [SUBTITLE, "--server", daemon.endpoint, "retry", job.id]
        subprocess.run(retry, check=True, stdout=subprocess.DEVNULL)
        daemon.wait_for_jobs(1)
        assert daemon.client.status(job.id).state == "done"
        assert {found.name for found in daemon.outbox.iterdir()} == {"talk.zh.srt", "talk.zh.json"}
        # Everything is already transcribed: nothing is decoded again.
        assert not [
            entry
            for entry in daemon.journal()
            if entry.seq > seq and entry.event == "leased" and entry.subject == "segment"
        ]
        assert not list((daemon.inbox / "failed").iterdir())
        daemon.stop()


def test_source_that_cannot_be_deleted_fails_its_job_alone(tmp_path: Path, clip: Path) -> None:
    inbox = InboxFolder(options={"after": "delete"})
    with daemon_in(tmp_path, inbox, is_bound_by_modes=True) as daemon:
        daemon.start()
        theirs = daemon.inbox / "theirs"
        path = daemon.drop(clip, "theirs/talk.flac")
        theirs.chmod(0o555)
        job = daemon.wait_for(path)
        theirs.chmod(0o755)
        assert job.state == "failed"
        assert (
            f"{path} cannot be removed: Permission denied; grant the daemon's user write access" in job.cause
        )
        assert_still_works(daemon, media.write_sound(tmp_path / "clip.flac", media.speech(4)))
        daemon.stop()


def test_output_folder_without_permission_fails_its_job_alone(tmp_path: Path, clip: Path) -> None:
    """Even the existence of a name cannot be determined there."""
    with daemon_in(tmp_path, is_bound_by_modes=True) as daemon:
        daemon.start()
        daemon.outbox.chmod(0)
        job = daemon.wait_for(daemon.drop(clip, "talk.flac"))
        assert job.state == "failed"
        assert "Permission denied; grant the daemon's user write access" in job.cause
        daemon.outbox.chmod(0o755)
        daemon.client.retry(job.id)
        daemon.wait_for_jobs(1)
        assert daemon.client.status(job.id).state == "done"
        daemon.stop()


def test_inboxes_with_the_same_output_folder_do_not_overwrite_each_other(tmp_path: Path) -> None:
    with daemon_in(tmp_path, InboxFolder(), InboxFolder(name="other")) as daemon:
        shared = tuple(structs.replace(inbox, output=str(daemon.outbox)) for inbox in daemon.config.inbox)
        daemon.config_file.write_text(to_toml(structs.replace(daemon.config, inbox=shared)), "utf-8")
        daemon.start()
        talks = {
            seconds: media.write_sound(tmp_path / f"{seconds}.flac", media.speech(seconds))
            for seconds in (4, 8)
        }
        other = tmp_path / "other"
        paths = [daemon.drop(talks[4], "talk.flac"), daemon.drop(talks[8], "talk.flac", inbox=other)]
        assert [daemon.wait_for(path).state for path in paths] == ["done", "done"]
        names = {"talk.en", "talk.flac.en"}
        assert {path.name for path in daemon.outbox.iterdir()} == {
            name + ending for name in names for ending in (".srt", ".json")
        }
        durations = {name: daemon.transcript(name).duration_ms for name in names}
        assert sorted(durations.values()) == [4000, 8000]
        for path in paths:
            job = daemon.job_of(path)
            assert job is not None
            [output] = [Path(output).stem for output in job.outputs if output.endswith(".json")]
            assert durations[output] == job.audio_ms
            assert (path.parent / "done" / "talk.flac").is_file()
        daemon.stop()
