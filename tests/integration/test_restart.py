"""Whatever process ends, and however, the text is that of an undisturbed run and nothing is decoded in vain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from msgspec.structs import replace

import media
from daemon import ONE_SLOT, TWO_SLOTS, Daemon, InboxFolder, eventually, is_running
from subtitled.config import schema
from subtitled.files.atomic_files import TEMPORARY_PREFIX, TEMPORARY_SUFFIX, is_temporary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from subtitled.cues.transcript import Transcript

INBOX = InboxFolder(options={"settle_s": 0.1})
MODEL = schema.ModelConfig(name="demo", cpu_threads=1, beam_size=1, batch_size=2)
SMALL_LEASES = replace(MODEL, batch_size=1)
RECOVERY = schema.RecoveryConfig(heartbeat_s=0.2)
IMPATIENT = schema.RecoveryConfig(heartbeat_s=0.2, silence_s=4.0)


def daemon_in(
    folder: Path,
    recovery: schema.RecoveryConfig = RECOVERY,
    model: schema.ModelConfig = MODEL,
    pool: schema.PoolConfig = ONE_SLOT,
) -> Daemon:
    return Daemon(folder, inboxes=(INBOX,), model=model, recovery=recovery, pool=pool)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a minute and a half of speech, with 200 s of silence in the middle that take a while to be read."""
    pcm = np.concatenate([media.speech(30), media.silence(200), media.recording()])
    return media.write_sound(tmp_path_factory.mktemp("long") / "long.flac", pcm)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, long: Path) -> Transcript:
    """Return the result without a restart."""
    with daemon_in(tmp_path_factory.mktemp("undisturbed")) as daemon:
        daemon.drop(long, "long.flac")
        daemon.start()
        daemon.wait_for_jobs(1)
        daemon.stop()
        return daemon.transcript("long.en")


def texts_of(transcript: Transcript) -> list[object]:
    """Return all of a transcript that may not depend on who did it, and how often it was tried."""
    return [
        transcript.cues,
        transcript.language,
        transcript.duration_ms,
        transcript.missing,
        transcript.skipped,
        [(segment.pieces, segment.spans, segment.phrases) for segment in transcript.segments],
    ]


def segment_counts(daemon: Daemon, event: str, *, until_seq: int | None = None) -> Counter[str]:
    """Return how often each segment met with `event`, in the journal."""
    return Counter(
        entry.name
        for entry in daemon.journal()
        if entry.subject == "segment"
        and entry.event == event
        and (until_seq is None or entry.seq <= until_seq)
    )


def wait_until_done(daemon: Daemon, segments: int) -> None:
    """Wait until so many segments are transcribed, as a client watches it."""
    eventually(lambda: len(segment_counts(daemon, "done")) >= segments, f"{segments} segments are done")


def see_that_nothing_shows(daemon: Daemon, undisturbed: Transcript) -> None:
    """See that the one job ends as if nothing had happened."""
    [job] = daemon.wait_for_jobs(1)
    assert (job.state, job.cause) == ("done", "")
    assert texts_of(daemon.transcript("long.en")) == texts_of(undisturbed)
    assert sorted(path.name for path in daemon.outbox.iterdir()) == ["long.en.json", "long.en.srt"]
    assert (daemon.inbox / "done" / "long.flac").is_file()
    assert [path for path in daemon.folder.rglob("*") if is_temporary(path.name)] == []
    done = segment_counts(daemon, "done")
    assert len(done) == job.segments["done"]
    assert set(done.values()) == {1}


def test_killed_daemon_goes_on_where_it_was(tmp_path: Path, long: Path, undisturbed: Transcript) -> None:
    """While the file is read, while it is transcribed, while its subtitles are written.

    Finished segments stay finished; leased ones are done again; the dead daemon's workers are gone.
    """
    with daemon_in(tmp_path) as daemon:
        daemon.drop(long, "long.flac")
        daemon.start()
        eventually(lambda: is_in_journal(daemon, "leased"), "the file is being read")
        daemon.kill()
        daemon.start()
        wait_until_done(daemon, 3)
        workers = daemon.workers()
        daemon.kill()
        eventually(lambda: not any(map(is_running, workers.values())), "the workers die with their daemon")
        killed_at = daemon.journal()[-1].seq
        before = segment_counts(daemon, "done")
        assert 3 <= len(before) < len(undisturbed.segments)
        # As `write_whole` leaves it when it is killed on the way.
        (daemon.outbox / f"{TEMPORARY_PREFIX}0123{TEMPORARY_SUFFIX}").write_bytes(b"1\n00:0")
        daemon.start()
        eventually(lambda: is_in_journal(daemon, "all_done"), "the subtitles are being written")
        daemon.kill()
        daemon.start()
        see_that_nothing_shows(daemon, undisturbed)
        again = segment_counts(daemon, "leased") - segment_counts(daemon, "leased", until_seq=killed_at)
        assert again
        assert not set(again) & set(before)
        daemon.stop()


def is_in_journal(daemon: Daemon, event: str) -> bool:
    return any(entry.subject == "job" and entry.event == event for entry in daemon.journal())


def test_killed_workers_are_replaced(tmp_path: Path, long: Path, undisturbed: Transcript) -> None:
    """The file is read again by another decoder, and planned the same; lost leases go to another worker."""
    with daemon_in(tmp_path, pool=TWO_SLOTS) as daemon:
        daemon.drop(long, "long.flac")
        daemon.start()
        decoder = reader(daemon)
        os.kill(daemon.workers()[decoder], signal.SIGKILL)
        wait_until_done(daemon, 2)
        os.kill(daemon.workers()["cpu0.1"], signal.SIGKILL)
        see_that_nothing_shows(daemon, undisturbed)
        for worker in (decoder, "cpu0.1"):
            assert "SIGKILL" in daemon.wait_for_log("worker.exited", worker=worker)["cause"]
        assert daemon.log("job.requeued")
        eventually(lambda: "cpu0.2" in daemon.workers(), "another process takes its place")
        daemon.wait_for_log("worker.ready", worker="cpu0.2")
        assert daemon.scrape()['subtitled_model_loads_total{model="demo",slot="cpu0"}'] == 2
        assert daemon.scrape()['subtitled_worker_restarts_total{slot="cpu0"}'] == 1
        daemon.stop()


def reader(daemon: Daemon) -> str:
    """Wait until a prepare worker is in the middle of a file; return its identity."""

    def found() -> str | None:
        jobs = {job.id for job in daemon.jobs() if job.decoded_ms > 100_000}
        return next(
            (
                f"{worker.slot}.{worker.incarnation}"
                for worker in daemon.stats().workers
                if worker.job in jobs
            ),
            None,
        )

    return eventually(found, "a prepare worker is in the middle of the file")


@pytest.mark.long
def test_stopped_workers_are_killed_and_replaced(tmp_path: Path, long: Path, undisturbed: Transcript) -> None:
    """A process that exists and does nothing, like one that hangs in a driver."""
    with daemon_in(tmp_path, IMPATIENT, pool=TWO_SLOTS) as daemon:
        daemon.drop(long, "long.flac")
        daemon.start()
        decoder = reader(daemon)
        pids = daemon.workers()
        os.kill(pids[decoder], signal.SIGSTOP)
        wait_until_done(daemon, 2)
        os.kill(pids["cpu1.1"], signal.SIGSTOP)
        for worker in (decoder, "cpu1.1"):
            assert "no message for" in daemon.wait_for_log("worker.lost", worker=worker)["cause"]
            eventually(lambda pid=pids[worker]: not is_running(pid), "the stopped worker is killed")  # type: ignore[misc]
        see_that_nothing_shows(daemon, undisturbed)
        daemon.stop()


@pytest.mark.long
def test_sigterm_ends_cleanly_and_the_job_goes_on_later(
    tmp_path: Path, long: Path, undisturbed: Transcript
) -> None:
    """First while the file is read, then while it is transcribed."""
    with daemon_in(tmp_path, model=SMALL_LEASES) as daemon:
        daemon.drop(long, "long.flac")
        daemon.start()
        reader(daemon)
        daemon.stop()
        finished = len(segment_counts(daemon, "done"))
        daemon.start()
        wait_until_done(daemon, finished + 1)
        workers = daemon.workers()
        daemon.stop()
        assert not any(map(is_running, workers.values()))
        assert daemon.log("daemon.stopping")
        stopped_at = daemon.journal()[-1].seq
        leased, done = segment_counts(daemon, "leased"), segment_counts(daemon, "done")
        assert len(done) < len(undisturbed.segments)
        # Running leases were finished within the time to stop: nothing that a worker had is to be done again.
        assert leased == done
        daemon.start()
        see_that_nothing_shows(daemon, undisturbed)
        assert segment_counts(daemon, "leased", until_seq=stopped_at) == leased
        assert {segment_counts(daemon, "leased")[name] for name in done} == {1}
        daemon.stop()


def refused(daemon: Daemon) -> subprocess.CompletedProcess[str]:
    """Start a daemon that must not come up; return how it ended."""
    command = [sys.executable, "-m", "subtitled", "run", "--config", str(daemon.config_file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=daemon.folder)


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run a daemon that may not read all files even as root."""
    folder = tmp_path_factory.mktemp("idle")
    with Daemon(folder, inboxes=(INBOX,), model=MODEL, is_bound_by_modes=True) as daemon:
        yield daemon.start()
        daemon.stop()


def test_second_daemon_on_the_same_state_is_refused(idle: Daemon) -> None:
    second = refused(idle)
    assert second.returncode == 1
    assert f'state.dir = "{idle.folder}/state"' in second.stderr
    assert "another daemon uses this folder" in second.stderr
    assert "Traceback" not in second.stderr
    assert idle.client.ping().model == "demo"


def test_second_daemon_on_the_same_socket_is_refused(idle: Daemon, tmp_path: Path) -> None:
    """It must not take over the clients of the first one."""
    listen = schema.ListenConfig(clients=(idle.endpoint,), workers=idle.config.listen.workers, metrics="")
    with Daemon(tmp_path, inboxes=(INBOX,), model=MODEL, listen=listen) as other:
        end = refused(other)
        assert end.returncode == 1
        assert str(idle.sockets) in end.stderr
        assert "another daemon" in end.stderr
    assert idle.client.ping().model == "demo"
    assert {worker.incarnation for worker in idle.stats().workers} == {1}


def test_failed_job_is_retried_from_where_it_lies(idle: Daemon, tmp_path: Path) -> None:
    """Its cause removed (here: the file's mode), `retry` ends it like any other; nothing stays in failed/."""
    clip = media.write_sound(tmp_path / "clip.flac", media.speech(4))
    clip.chmod(0)
    source = idle.inbox / "deep" / "clip.flac"
    source.parent.mkdir()
    clip.rename(source)
    job = idle.wait_for(source)
    if job.state == "done":
        pytest.skip("the rights of root could not be taken from the daemon")
    failed = idle.inbox / "failed" / "deep" / "clip.flac"
    # Once more in vain: it stays where it is, under its own name.
    idle.client.retry(job.id)
    assert idle.wait_for(source).state == "failed"
    assert sorted(path.name for path in failed.parent.iterdir()) == ["clip.flac", "clip.flac.error.txt"]
    failed.chmod(0o600)
    idle.client.retry(job.id)
    assert idle.wait_for(source).state == "done"
    assert (idle.inbox / "done" / "deep" / "clip.flac").is_file()
    assert list(failed.parent.iterdir()) == []
    assert "welcome" in (idle.outbox / "deep" / "clip.en.srt").read_text("utf-8")


def test_failed_file_that_is_repaired_and_dropped_again_is_done(idle: Daemon, tmp_path: Path) -> None:
    source = idle.drop(b"no sound at all", "talk.flac")
    assert idle.wait_for(source).state == "failed"
    repaired = media.write_sound(tmp_path / "repaired.flac", media.speech(4))
    idle.drop(repaired, "talk.flac")
    eventually((idle.outbox / "talk.en.srt").exists, "the repaired file is done")
    assert idle.wait_for(source).state == "done"


@pytest.mark.long
def test_cancelled_job_is_dropped_and_leaves_its_source_alone(tmp_path: Path, long: Path) -> None:
    with daemon_in(tmp_path) as daemon:
        source = daemon.drop(long, "long.flac")
        daemon.start()
        wait_until_done(daemon, 2)
        job = daemon.job_of(source)
        assert job is not None
        assert daemon.client.cancel(job.id).state == "cancelled"
        eventually(has_idle_workers(daemon), "the workers have nothing to do")
        assert daemon.stats().ready_segments == 0
        assert daemon.stats().queued_bytes == 0
        assert source.is_file()
        assert list(daemon.outbox.iterdir()) == []
        clip = daemon.drop(media.write_sound(tmp_path / "clip.flac", media.speech(4)), "next.flac")
        assert daemon.wait_for(clip).state == "done"
        daemon.stop()
        # Neither is done again by another daemon, the finished one not even when it is put back.
        (daemon.inbox / "done" / "next.flac").rename(clip)
        daemon.start()
        for path in (source, clip):
            assert "already" in daemon.wait_for_log("inbox.ignored", path=str(path))["cause"]
        assert {job.state for job in daemon.jobs()} == {"cancelled", "done"}
        daemon.stop()


def has_idle_workers(daemon: Daemon) -> Callable[[], bool]:
    return lambda: all(worker.state == "idle" for worker in daemon.stats().workers)
