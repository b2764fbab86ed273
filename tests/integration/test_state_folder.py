"""A state folder that is deleted under a running daemon is noticed: no work is accepted that the next start forgets."""

from __future__ import annotations

import os
import shutil
import signal
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

import media
from daemon import Daemon, eventually
from subtitle import ServerError
from subtitle.messages import Cancel, Chunk, Commit, Delete, Error, Retry
from wire_client import WireClient, submit_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.long


def readiness(daemon: Daemon) -> str:
    """Return what the daemon answers to the question whether it makes subtitles."""
    try:
        with urllib.request.urlopen(f"http://{daemon.metrics}/readyz", timeout=10) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()


def test_deleted_state_folder_stops_new_work(tmp_path: Path) -> None:
    """A file waits in its inbox, an upload is refused; after a restart both are accepted."""
    with Daemon(tmp_path) as daemon:
        daemon.start()
        shutil.rmtree(tmp_path / "state")
        daemon.wait_for_log("state.lost")
        assert daemon.stats().is_state_lost
        eventually(lambda: "was deleted or replaced" in readiness(daemon), "the daemon is not ready")
        source = daemon.drop(media.clip(), "talk.flac")
        with WireClient(daemon.endpoint) as client:  # `Client` would repeat the Submit for a while
            client.send(submit_of(client.number(), b"sound"))
            refused = client.receive(Error)
        assert refused.code == "DRAINING"
        assert "state folder was deleted" in refused.message
        daemon.wait_for_log("inbox.paused")
        assert not sum(daemon.stats().jobs.values())
        daemon.stop()
        daemon.start()
        assert daemon.wait_for(source).state == "done"
        assert "deleted" not in readiness(daemon)
        daemon.stop()


def test_state_folder_that_is_moved_back_is_used_again(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.start()
        (tmp_path / "state").rename(tmp_path / "elsewhere")
        eventually(lambda: daemon.stats().is_state_lost, "the loss is noticed")
        source = daemon.drop(media.clip(), "talk.flac")
        daemon.wait_for_log("inbox.paused")
        (tmp_path / "elsewhere").rename(tmp_path / "state")
        daemon.wait_for_log("state.recovered")
        assert daemon.wait_for(source).state == "done"
        daemon.stop()


def test_job_in_progress_waits_until_its_end_can_be_stored(tmp_path: Path) -> None:
    """Its source stays in place, its subtitles are not written, and lists are refused with the reason."""
    with Daemon(tmp_path) as daemon:
        daemon.start()
        stopped = [pid for worker, pid in daemon.workers().items() if worker.startswith("cpu")]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        source = daemon.drop(media.clip(), "talk.flac")
        eventually(lambda: daemon.stats().jobs.get("transcribing") == 1, "the job is transcribed")
        (tmp_path / "state").rename(tmp_path / "elsewhere")
        daemon.wait_for_log("state.lost")
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        eventually(lambda: daemon.stats().jobs.get("writing") == 1, "the job waits")
        with pytest.raises(ServerError, match="state folder was deleted") as refused:
            daemon.client.list()
        assert refused.value.code == "DRAINING"
        assert source.exists()
        assert not list(daemon.outbox.iterdir())
        (tmp_path / "elsewhere").rename(tmp_path / "state")
        daemon.wait_for_log("state.recovered")
        assert daemon.wait_for(source).state == "done"
        daemon.stop()


def test_replaced_database_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.start()
        database = tmp_path / "state" / "subtitled.sqlite"
        database.unlink()
        database.write_bytes(b"")
        assert str(database) in daemon.wait_for_log("state.lost")["cause"]
        daemon.stop()


def test_lost_state_folder_refuses_every_request_that_changes_it(tmp_path: Path) -> None:
    """What is changed now would be forgotten by the restart; reading still works."""
    with Daemon(tmp_path) as daemon:
        daemon.start()
        stopped = [pid for worker, pid in daemon.workers().items() if worker.startswith("cpu")]
        done = daemon.wait_for(daemon.drop(media.clip(), "done.flac"))
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        daemon.drop(media.clip(), "talk.flac")
        eventually(lambda: daemon.stats().jobs.get("transcribing") == 1, "the job is transcribed")
        (running,) = daemon.client.list(("transcribing",))
        with WireClient(daemon.endpoint) as client:
            upload = client.submit(b"sound")
            (tmp_path / "state").rename(tmp_path / "elsewhere")
            for change in (
                submit_of(client.number(), b"other sound"),
                Chunk(request=upload.request, job=upload.job, offset=0),
                Commit(request=client.number(), job=upload.job, size=5, sha256="0" * 64),
                Cancel(request=client.number(), job=running.id),
                Retry(request=client.number(), job=running.id),
                Delete(request=client.number(), job=done.id),
            ):
                client.send(change, [b"sound"] if isinstance(change, Chunk) else [])
                refused = client.receive(Error)
                assert (refused.request, refused.code) == (change.request, "DRAINING")
                assert "state folder was deleted" in refused.message
            assert client.status(running.id).state == "transcribing"
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        daemon.stop()
