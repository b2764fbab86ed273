"""A mount that does not answer holds up its own files, and nothing else."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest

import media
from daemon import Daemon, InboxFolder, eventually
from hung_mount import BindMount, ForbiddenError, HungMount, StoppableMount
from subtitle.messages import Error, Retry
from subtitled.config import schema
from subtitled.doctor import folders
from subtitled.doctor.daemon_user import find_daemon_user
from wire_client import WireClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.long

INBOXES = (
    InboxFolder(name="good", options={"settle_s": 0.1, "language": "en"}),
    InboxFolder(name="bad", options={"settle_s": 0.1, "language": "en"}),
)
RECOVERY = schema.RecoveryConfig(stop_timeout_s=2.0)


@pytest.fixture(autouse=True)
def allowed(tmp_path: Path) -> None:
    """Skip the test where the system does not allow mounts."""
    folder = tmp_path / "probe"
    folder.mkdir()
    try:
        HungMount(folder).close()
    except ForbiddenError as error:
        pytest.skip(str(error))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Return a daemon with two inboxes, each with an output folder; it is not started."""
    with Daemon(tmp_path, inboxes=INBOXES, recovery=RECOVERY) as created:
        yield created


@contextlib.contextmanager
def stopped_workers(daemon: Daemon, slots: str) -> Iterator[None]:
    """Stop the workers of the slots that begin with `slots`; they continue afterwards."""
    stopped = [pid for worker, pid in daemon.workers().items() if worker.startswith(slots)]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


def hung_folders(daemon: Daemon) -> set[str]:
    """Return the folders that do not answer, as clients are reported."""
    return {folder.path for folder in daemon.stats().hung_folders}


def is_in_metrics(daemon: Daemon, folder: Path) -> bool:
    """Return whether the metrics name a folder that does not answer."""
    with urllib.request.urlopen(f"http://{daemon.metrics}/metrics", timeout=10) as answer:
        return f'subtitled_folder_hung{{folder="{folder}"}} 1.0' in answer.read().decode()


def test_inbox_that_hangs_stops_no_other_inbox(daemon: Daemon) -> None:
    """It is shown, and SIGHUP and SIGTERM work."""
    bad = daemon.folder / "bad"
    daemon.start()
    with HungMount(bad):
        eventually(lambda: hung_folders(daemon) == {str(bad)}, "the inbox is shown as hung")
        assert is_in_metrics(daemon, bad)
        assert daemon.log("folder.hung")[-1]["path"] == str(bad)
        source = daemon.drop(media.clip(), "talk.flac")
        assert daemon.wait_for(source).state == "done"
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.wait_for_log("config.loaded")
        daemon.stop()


def test_output_that_hangs_holds_up_its_own_jobs_alone(daemon: Daemon) -> None:
    """They are written when it answers again, by the next daemon if this one is stopped before."""
    outbox = daemon.folder / "bad-out"
    daemon.start()
    with HungMount(outbox):
        waiting = daemon.drop(media.clip(), "waiting.flac", inbox=daemon.folder / "bad")
        eventually(lambda: hung_folders(daemon) == {str(outbox)}, "the output is shown as hung")
        source = daemon.drop(media.clip(), "talk.flac")
        assert daemon.wait_for(source).state == "done"
        job = daemon.job_of(waiting)
        assert job is not None
        assert job.state == "writing"
        daemon.stop()
    with BindMount(outbox, outbox):  # without a mount there the subtitles would wait for it
        daemon.start()
        assert daemon.wait_for(waiting).state == "done"
        assert (outbox / "waiting.en.srt").exists()
        daemon.stop()


def drop_old(daemon: Daemon, name: str, folder: Path) -> None:
    """Put a file there that was written a day ago: the watcher does not read its end."""
    path = daemon.drop(media.DEMO / "demo.flac", name, inbox=folder)
    os.utime(path, (time.time() - 86_400,) * 2)


def test_file_that_is_being_read_when_its_mount_hangs_waits_for_it(tmp_path: Path) -> None:
    """All prepare workers hang, even after SIGKILL; others replace them, and read the files of other inboxes."""
    recovery = schema.RecoveryConfig(prepare_attempts=20, prepare_stall_s=2.0)
    keep = {"settle_s": 0.1, "language": "en", "after": "keep", "rescan_s": 1.0}
    inboxes = (INBOXES[0], InboxFolder(name="bad", options=keep))
    shared = tmp_path / "shared"
    shared.mkdir()
    names = ["a.flac", "b.flac"]
    with (
        Daemon(tmp_path, inboxes=inboxes, recovery=recovery) as daemon,
        StoppableMount(shared, tmp_path / "bad") as mount,
    ):
        for name in names:
            drop_old(daemon, name, shared)
        mount.hang_at(100_000)
        daemon.spawn()
        assert mount.is_hung.wait(60), daemon.tail()
        daemon.wait_for_log("worker.lost", cause="no progress in decoding for 2 s")
        source = daemon.drop(media.clip(), "talk.flac")
        assert daemon.wait_for(source).state == "done"
        waiting = daemon.query("SELECT state, losses FROM jobs WHERE state != 'done'")
        assert waiting == [("queued", 0), ("queued", 0)]
        mount.resume()
        for name in names:
            assert daemon.wait_for(tmp_path / "bad" / name).state == "done"
        daemon.stop()


def test_file_waits_for_a_mount_that_has_gone_and_one_that_cannot_be_read_fails(tmp_path: Path) -> None:
    keep = {"settle_s": 0.1, "language": "en", "after": "keep", "rescan_s": 1.0}
    inboxes = (INBOXES[0], InboxFolder(name="bad", options=keep))
    shared, bad = tmp_path / "shared", tmp_path / "bad"
    shared.mkdir()
    with Daemon(tmp_path, inboxes=inboxes) as daemon, StoppableMount(shared, bad) as mount:
        drop_old(daemon, "talk.flac", shared)
        mount.fail_at(100_000)
        daemon.start()
        assert mount.is_failing.wait(60), daemon.tail()
        eventually(lambda: hung_folders(daemon) == {str(bad)}, "the inbox is shown as hung")
        assert daemon.query("SELECT state, losses FROM jobs") == [("queued", 0)]
        mount.unreadable = "scratched.flac"
        mount.resume()
        assert daemon.wait_for(bad / "talk.flac").state == "done"
        daemon.drop(media.clip(), "scratched.flac", inbox=shared)
        failed = daemon.wait_for(bad / "scratched.flac")
        assert failed.state == "failed"
        assert "Input/output error" in failed.cause
        eventually(lambda: not hung_folders(daemon), "the inbox answers again")
        daemon.stop()


def test_files_of_an_unmounted_inbox_wait_and_a_deleted_one_fails(tmp_path: Path) -> None:
    """Also after a restart; the mount point is an empty folder then, in which every file is missing."""
    keep = {"settle_s": 0.1, "language": "en", "rescan_s": 1.0}
    inboxes = (INBOXES[0], InboxFolder(name="bad", options=keep))
    shared, bad = tmp_path / "shared", tmp_path / "bad"
    shared.mkdir()
    with Daemon(tmp_path, inboxes=inboxes) as daemon, BindMount(shared, bad) as mount:
        daemon.start()
        with stopped_workers(daemon, "prepare"):
            daemon.drop(media.clip(), "a.flac", inbox=shared)
            daemon.drop(media.clip(), "deleted.flac", inbox=shared)
            eventually(lambda: len(daemon.query("SELECT 1 FROM jobs")) == 2, "both are accepted")
            mount.close()
        eventually(lambda: hung_folders(daemon) == {str(bad)}, "the inbox is shown as not available")
        source = daemon.drop(media.clip(), "talk.flac")
        assert daemon.wait_for(source).state == "done"
        daemon.stop()
        daemon.start()
        eventually(lambda: hung_folders(daemon) == {str(bad)}, "the inbox is shown after a restart")
        assert daemon.query("SELECT state, losses FROM jobs WHERE state != 'done'") == [("queued", 0)] * 2
        (shared / "deleted.flac").unlink()
        with BindMount(shared, bad):
            assert daemon.wait_for(bad / "a.flac").state == "done"
            assert (shared / "done" / "a.flac").exists()
            failed = daemon.wait_for(bad / "deleted.flac")
            assert (failed.state, failed.cause) == (
                "failed",
                "the file cannot be read: No such file or directory",
            )
            daemon.stop()


def test_job_waits_for_an_output_that_was_unmounted(tmp_path: Path) -> None:
    """Its subtitles are not written into the mount point, where the mount would hide them."""
    shared, outbox = tmp_path / "shared", tmp_path / "bad-out"
    shared.mkdir()
    with Daemon(tmp_path, inboxes=INBOXES) as daemon, BindMount(shared, outbox) as mount:
        daemon.start()
        with stopped_workers(daemon, "cpu"):
            waiting = daemon.drop(media.clip(), "waiting.flac", inbox=tmp_path / "bad")
            eventually(lambda: daemon.stats().jobs.get("transcribing") == 1, "the job is transcribed")
            mount.close()
        eventually(lambda: hung_folders(daemon) == {str(outbox)}, "the output is shown as not available")
        job = daemon.job_of(waiting)
        assert job is not None
        assert job.state == "writing"
        assert not list(outbox.iterdir())
        with BindMount(shared, outbox):
            assert daemon.wait_for(waiting).state == "done"
            assert (shared / "waiting.en.srt").exists()
            daemon.stop()


def test_job_waits_for_a_dead_mount_below_its_output(tmp_path: Path) -> None:
    outbox = tmp_path / "bad-out"
    with Daemon(tmp_path, inboxes=INBOXES) as daemon:
        daemon.start()
        below = outbox / "films"
        below.mkdir()
        with HungMount(below) as mount:
            mount.lose_server()
            waiting = daemon.drop(media.clip(), "films/waiting.flac", inbox=tmp_path / "bad")
            eventually(lambda: hung_folders(daemon) == {str(outbox)}, "the output is shown as hung")
            other = daemon.drop(media.clip(), "other.flac", inbox=tmp_path / "bad")
            assert daemon.wait_for(other).state == "done"
            job = daemon.job_of(waiting)
            assert job is not None
            assert job.state == "writing"
        assert daemon.wait_for(waiting).state == "done"
        assert (below / "waiting.en.srt").exists()
        daemon.stop()


def test_job_waits_for_an_output_whose_server_has_gone(daemon: Daemon) -> None:
    outbox = daemon.folder / "bad-out"
    daemon.start()
    with HungMount(outbox) as mount:
        mount.lose_server()
        waiting = daemon.drop(media.clip(), "waiting.flac", inbox=daemon.folder / "bad")
        eventually(lambda: hung_folders(daemon) == {str(outbox)}, "the output is shown as hung")
        job = daemon.job_of(waiting)
        assert job is not None
        assert job.state == "writing"
        source = daemon.drop(media.clip(), "talk.flac")
        assert daemon.wait_for(source).state == "done"
    with BindMount(outbox, outbox):  # without a mount there the subtitles would wait for it
        assert daemon.wait_for(waiting).state == "done"
        assert (outbox / "waiting.en.srt").exists()
        daemon.stop()


def test_daemon_starts_while_folders_hang(daemon: Daemon) -> None:
    """Their files are found and written when they answer again."""
    bad, outbox = daemon.folder / "bad", daemon.folder / "bad-out"
    with HungMount(bad) as inbox_mount, HungMount(outbox) as output_mount:
        daemon.start()
        source = daemon.drop(media.clip(), "talk.flac")
        assert daemon.wait_for(source).state == "done"
        eventually(lambda: hung_folders(daemon) == {str(bad), str(outbox)}, "both are shown as hung")
        inbox_mount.close()
        output_mount.close()
        eventually(lambda: not hung_folders(daemon), "both answer again")
        late = daemon.drop(media.clip(), "late.flac", inbox=bad)
        assert daemon.wait_for(late).state == "done"
        daemon.stop()


def test_retry_of_a_file_on_a_mount_that_hangs_holds_up_nothing_else(daemon: Daemon) -> None:
    """The loop does not look for the file; the retry is answered when the mount answers."""
    bad = daemon.folder / "bad"
    daemon.start()
    failed = daemon.wait_for(daemon.drop(b"no sound", "talk.flac", inbox=bad))
    assert failed.state == "failed"
    with WireClient(daemon.endpoint) as client:
        with HungMount(bad):
            client.send(Retry(request=client.number(), job=failed.id))
            source = daemon.drop(media.clip(), "other.flac")
            assert daemon.wait_for(source).state == "done"
            assert client.is_silent(0)
        client.receive(Error)
        daemon.stop()


def test_doctor_reports_folders_that_hang_and_checks_the_others(daemon: Daemon) -> None:
    bad, outbox = daemon.folder / "bad", daemon.folder / "good-out"
    with HungMount(bad), HungMount(outbox):
        found = list(folders.check(daemon.config, find_daemon_user(daemon.config.state.dir)))
    faults = {finding.name for finding in found if finding.state == "fault"}
    assert faults == {f"folder {bad}", f"folder {outbox}"}
    assert any(finding.name.startswith("state ") and finding.state == "ok" for finding in found)
