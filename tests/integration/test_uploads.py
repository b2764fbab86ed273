"""Files over the wire: they arrive whole or not at all, resume, and take no more room than they may."""

from __future__ import annotations

import hashlib
import os
import random
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

import media
from daemon import Daemon, eventually
from subtitle import messages as ms
from subtitled.config import schema
from wire_client import WireClient, submit_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEMO_ZH = media.clip(name="demo-zh.flac")
NOISE = random.Random(4).randbytes(6 * 2**20)
"""No media at all: its job fails as soon as it is read."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("uploads")
    (folder / "media").mkdir()
    paths = (str(folder / "media"),)
    limits = schema.UploadsConfig(max_file_mb=64, max_spool_mb=1024, keep_done_s=0.0, paths=paths)
    with Daemon(folder, uploads=limits) as running:
        yield running.start()


@pytest.fixture
def sender(daemon: Daemon) -> Iterator[WireClient]:
    with WireClient(daemon.endpoint) as connected:
        yield connected
        for job in daemon.client.list(("receiving",)):
            daemon.client.cancel(job.id)


def spool(daemon: Daemon, job: str) -> list[str]:
    """Return the names of the files that the daemon keeps for a job."""
    try:
        return [path.name for path in (daemon.folder / "state" / "uploads" / job).iterdir()]
    except FileNotFoundError:  # the daemon removes the folder whenever it is done with it
        return []


def ended(sender: WireClient, job: str) -> ms.JobFacts:
    return eventually(
        lambda: facts if (facts := sender.status(job)).state in {"done", "failed", "cancelled"} else None,
        f"job {job} ended",
    )


def test_an_uploaded_file_comes_back_as_subtitles_and_leaves_nothing_behind(
    daemon: Daemon, sender: WireClient
) -> None:
    facts = sender.upload(DEMO_ZH, "../../etc/演讲\x07.flac", options=ms.JobOptions(tag="first"))
    assert (facts.source, facts.tag, facts.size) == ("演讲_.flac", "first", len(DEMO_ZH))
    done = ended(sender, facts.id)
    assert (done.state, done.language, done.outputs) == ("done", "zh", ())
    assert "现在早上八点" in sender.fetch(facts.id).decode()
    eventually(lambda: not spool(daemon, facts.id), "the media is gone")
    assert list(daemon.outbox.iterdir()) == []


def test_the_same_file_is_the_same_job_unless_it_is_asked_for_again(sender: WireClient) -> None:
    options = ms.JobOptions(tag="twice")
    first = sender.upload(DEMO_ZH, options=options)
    sender.send(submit_of(90, DEMO_ZH, "other-name.flac", options=options))
    assert sender.receive(ms.JobInfo).job.id == first.id
    again = sender.submit(DEMO_ZH, options=options, allow_duplicate=True)
    assert again.job != first.id
    # Sent once more after a lost connection, it continues, and is no third one.
    assert sender.submit(DEMO_ZH, options=options, allow_duplicate=True).job == again.job
    assert sender.submit(DEMO_ZH, options=ms.JobOptions(tag="twice", language="zh")).job not in {
        first.id,
        again.job,
    }


def test_an_upload_goes_on_over_another_connection(daemon: Daemon, sender: WireClient) -> None:
    first = sender.submit(NOISE)
    sender.send_to(first, NOISE, 3 * 2**20)
    with WireClient(daemon.endpoint) as other:
        second = other.submit(NOISE)
        assert (second.job, second.offset) == (first.job, 3 * 2**20)
        sender.chunk(first, 3 * 2**20, b"late")
        assert sender.receive(ms.Error).code == "WRONG_STATE"
        other.send_to(second, NOISE)
        assert other.commit(second.job).state == "queued" or ended(other, second.job).state == "failed"


def test_an_upload_goes_on_after_the_daemon_was_killed(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.start()
        with WireClient(daemon.endpoint) as sender:
            first = sender.submit(DEMO_ZH)
            sender.send_to(first, DEMO_ZH, 100_000)
            daemon.kill()
            daemon.start()
            # What was meant for the daemon before is not taken by the new one.
            assert (
                sender.refusal(
                    ms.Chunk(request=first.request, job=first.job, offset=100_000), [DEMO_ZH[100_000:]]
                )
                == "WRONG_STATE"
            )
            second = sender.submit(DEMO_ZH)
            assert (second.job, second.offset) == (first.job, 100_000)
            sender.send_to(second, DEMO_ZH)
            sender.commit(second.job)
            assert ended(sender, second.job).state == "done"
            assert "现在早上八点" in sender.fetch(second.job).decode()


def test_a_job_survives_the_daemon_after_its_commit(tmp_path: Path) -> None:
    """An answer holds after a kill: the answer to Commit comes after fsync and the database."""
    with Daemon(tmp_path, uploads=schema.UploadsConfig(keep_done_s=0.0)) as daemon:
        daemon.start()
        with WireClient(daemon.endpoint) as sender:
            job = sender.upload(DEMO_ZH).id
            daemon.kill()
            daemon.start()
            assert ended(sender, job).state == "done"
            eventually(lambda: not spool(daemon, job), "the media is gone")


def test_a_file_that_differs_from_its_hash_is_no_job(daemon: Daemon, sender: WireClient) -> None:
    wrong = hashlib.sha256(b"something else").hexdigest()
    accepted = sender.submit(DEMO_ZH, sha256=wrong)
    sender.send_to(accepted, DEMO_ZH)
    assert sender.refusal(ms.Commit(request=80, job=accepted.job)) == "HASH_MISMATCH"
    assert sender.status(accepted.job).state == "cancelled"
    assert "SHA-256" in sender.status(accepted.job).cause
    eventually(lambda: not spool(daemon, accepted.job), "its bytes are gone")


def test_size_and_hash_may_be_sent_at_the_end(sender: WireClient) -> None:
    accepted = sender.submit(DEMO_ZH, size=None, sha256="", options=ms.JobOptions(tag="stream"))
    sender.send_to(accepted, DEMO_ZH)
    assert sender.refusal(ms.Commit(request=81, job=accepted.job)) == "BAD_FORMAT"
    digest = hashlib.sha256(DEMO_ZH).hexdigest()
    facts = sender.commit(accepted.job, size=len(DEMO_ZH), sha256=digest)
    assert facts.id == accepted.job
    assert sender.commit(accepted.job, size=len(DEMO_ZH), sha256=digest).id == accepted.job
    # Known by its content from now on.
    sender.send(submit_of(82, DEMO_ZH, options=ms.JobOptions(tag="stream")))
    assert sender.receive(ms.JobInfo).job.id == accepted.job


def test_options_may_be_sent_at_the_end_with_the_hash(sender: WireClient) -> None:
    """A form in a browser has its other fields after the file as often as before it."""
    accepted = sender.submit(DEMO_ZH, size=None, sha256="", options=ms.JobOptions(tag="form", priority=1))
    sender.send_to(accepted, DEMO_ZH)
    digest = hashlib.sha256(DEMO_ZH).hexdigest()
    commit = ms.Commit(request=83, job=accepted.job, size=len(DEMO_ZH), sha256=digest)
    assert sender.refusal(replace(commit, options=ms.JobOptions(language="klingon"))) == "BAD_FORMAT"
    options = ms.JobOptions(language="zh", priority=7, formats=("vtt",), tag="form")
    facts = sender.commit(accepted.job, size=len(DEMO_ZH), sha256=digest, options=options)
    assert (facts.id, facts.priority, facts.formats) == (accepted.job, 7, ("vtt",))
    assert ended(sender, accepted.job).language == "zh"
    # Known by its content and these options from now on.
    sender.send(submit_of(84, DEMO_ZH, options=options))
    assert sender.receive(ms.JobInfo).job.id == accepted.job


def test_options_are_not_sent_twice_if_the_hash_came_first(sender: WireClient) -> None:
    accepted = sender.submit(DEMO_ZH, options=ms.JobOptions(tag="sent-twice"))
    sender.send_to(accepted, DEMO_ZH)
    assert sender.refusal(ms.Commit(request=85, job=accepted.job, options=ms.JobOptions())) == "BAD_FORMAT"


def test_chunks_are_taken_in_order_and_within_what_was_announced(sender: WireClient) -> None:
    accepted = sender.submit(DEMO_ZH)

    def refused(offset: int, *blobs: bytes, job: str = accepted.job, request: int = accepted.request) -> str:
        return sender.refusal(ms.Chunk(request=request, job=job, offset=offset), blobs)

    assert refused(1, b"x") == "WRONG_STATE"
    assert refused(0) == "BAD_FORMAT"
    assert refused(0, b"") == "BAD_FORMAT"
    assert refused(0, b"x", b"y") == "BAD_FORMAT"
    assert refused(0, b"x" * (2**20 + 1)) == "TOO_BIG"
    assert refused(0, b"x" * (len(DEMO_ZH) + 1)) == "TOO_BIG"
    assert refused(0, b"x", job="none") == "WRONG_STATE"
    assert refused(0, b"x", request=accepted.request + 1000) == "WRONG_STATE"
    assert sender.refusal(ms.Commit(request=70, job=accepted.job)) == "WRONG_STATE"
    assert sender.refusal(ms.Commit(request=71, job=accepted.job, size=1)) == "BAD_FORMAT"
    sender.send_to(accepted, DEMO_ZH)
    assert sender.commit(accepted.job).state != "receiving"


def test_more_than_the_window_is_refused(sender: WireClient) -> None:
    big = NOISE * 3
    accepted = sender.submit(big)
    # A chunk far beyond the window would be out of order too: the window is what a patient flood runs into.
    for offset in range(0, len(big), 2**20):
        sender.chunk(accepted, offset, big[offset : offset + 2**20])
    written = 0
    errors: list[str] = []
    while written < len(big) and not errors:
        assert sender.socket.poll(60_000)
        message, _ = ms.to_client.decode(sender.socket.recv_multipart())
        if isinstance(message, ms.Error):
            errors.append(message.code)
        elif isinstance(message, ms.UploadCredit):
            written = message.offset
    assert set(errors) <= {"TOO_BIG"}


def test_limits_are_kept_and_named(tmp_path: Path) -> None:
    limits = schema.UploadsConfig(max_file_mb=64, max_spool_mb=96, max_open=4)
    with Daemon(tmp_path, uploads=limits) as daemon, WireClient(daemon.endpoint) as sender:
        daemon.start()
        assert sender.refusal(submit_of(60, b"", size=65 * 2**20)) == "TOO_BIG"
        held = [sender.submit(bytes([n]) * 10, size=30 * 2**20) for n in range(3)]
        assert sender.refusal(submit_of(61, b"?", size=30 * 2**20)) == "NO_SPACE"
        sender.submit(b"four")
        assert sender.refusal(submit_of(62, b"five")) == "RATE_LIMITED"
        sender.send(ms.Stats(request=63))
        stats = sender.receive(ms.StatsInfo)
        assert (stats.uploads, stats.spool_bytes) == (4, 90 * 2**20 + 4)
        daemon.client.cancel(held[0].job)
        assert sender.receive(ms.Error).request == held[0].request
        eventually(lambda: daemon.stats().spool_bytes < 90 * 2**20, "the bytes of the cancelled one are gone")
        sender.submit(b"five", size=30 * 2**20)


def test_a_cancelled_upload_is_gone(daemon: Daemon, sender: WireClient) -> None:
    content = NOISE + b"another"
    accepted = sender.submit(content)
    sender.send_to(accepted, content, 2**20)
    assert spool(daemon, accepted.job) == ["talk.flac"]
    assert daemon.client.cancel(accepted.job).state == "cancelled"
    reported = sender.receive(ms.Error)
    assert (reported.request, reported.code) == (accepted.request, "WRONG_STATE")
    eventually(lambda: not spool(daemon, accepted.job), "its bytes are gone")
    sender.chunk(accepted, 2**20, b"x")
    assert sender.receive(ms.Error).code == "WRONG_STATE"
    assert sender.refusal(ms.Commit(request=50, job=accepted.job)) == "WRONG_STATE"
    assert sender.submit(content).offset == 0


def test_a_failed_file_is_kept_and_tried_again_when_it_is_sent_again(
    daemon: Daemon, sender: WireClient
) -> None:
    job = sender.upload(NOISE[:5000], "noise.mp4").id
    failed = ended(sender, job)
    assert failed.state == "failed"
    assert failed.cause
    reported = [(step.event, step.after) for step in failed.history]
    assert reported[:4] == [
        ("accepted", "receiving"),
        ("uploaded", "queued"),
        ("leased", "preparing"),
        ("rejected", "failed"),
    ]
    assert failed.history[3].cause == failed.cause
    eventually(lambda: daemon.is_closed(job), "its end is stored")
    assert spool(daemon, job) == ["noise.mp4"]
    assert list(daemon.outbox.iterdir()) == []
    sender.send(submit_of(40, NOISE[:5000], "noise.mp4"))
    assert sender.receive(ms.JobInfo).job.id == job
    eventually(
        lambda: sum(entry.event == "retry" for entry in daemon.journal() if entry.job == job) == 1, "retried"
    )
    ended(sender, job)


def test_what_is_silent_for_too_long_is_given_up_and_its_bytes_reclaimed(tmp_path: Path) -> None:
    limits = schema.UploadsConfig(idle_s=1.0, keep_failed_s=0.0)
    with Daemon(tmp_path, uploads=limits) as daemon, WireClient(daemon.endpoint) as sender:
        daemon.start()
        accepted = sender.submit(NOISE)
        sender.send_to(accepted, NOISE, 2**20)
        assert "uploads.idle_s" in sender.receive(ms.Error).message
        given_up = ended(sender, accepted.job)
        assert given_up.state == "cancelled"
        assert "uploads.idle_s" in given_up.cause
        eventually(lambda: not spool(daemon, accepted.job), "its bytes are gone")
        sender.send(ms.Stats(request=30))
        assert sender.receive(ms.StatsInfo).spool_bytes == 0
        assert sender.refusal(ms.Commit(request=31, job=accepted.job)) == "WRONG_STATE"
        # The file of a failed job has its time too.
        job = sender.upload(b"no media", "x.mp4").id
        assert ended(sender, job).state == "failed"
        eventually(lambda: not spool(daemon, job), "the failed file is gone")
        assert sender.refusal(ms.Retry(request=32, job=job)) in {"NOT_FOUND", "WRONG_STATE"}


def test_leftovers_of_a_killed_daemon_are_removed(tmp_path: Path) -> None:
    orphan = tmp_path / "state" / "uploads" / "0123456789abcdef"
    orphan.mkdir(parents=True)
    (orphan / "talk.flac").write_bytes(b"x")
    with Daemon(tmp_path) as daemon:
        daemon.start()
        eventually(lambda: not orphan.exists(), "the orphan is gone")


def test_a_file_on_the_server_is_submitted_by_its_path(daemon: Daemon, sender: WireClient) -> None:
    folder = daemon.folder / "media"
    (folder / "talk.flac").write_bytes(DEMO_ZH)
    secret = daemon.folder / "secret.flac"
    secret.write_bytes(DEMO_ZH)
    (folder / "link.flac").symlink_to(secret)

    def submit(path: object, *, allow_duplicate: bool = False) -> ms.JobFacts:
        sender.send(ms.Submit(request=sender.number(), path=str(path), allow_duplicate=allow_duplicate))
        return sender.receive(ms.JobInfo).job

    job = submit(folder / "talk.flac")
    assert ended(sender, job.id).state == "done"
    assert (folder / "talk.flac").read_bytes() == DEMO_ZH
    assert submit(folder / ".." / "media" / "talk.flac").id == job.id
    again = submit(folder / "talk.flac", allow_duplicate=True).id
    assert again != job.id
    assert ended(sender, again).state == "done"
    for path, code in (
        (secret, "FORBIDDEN"),
        (folder / "link.flac", "FORBIDDEN"),
        (folder / ".." / "secret.flac", "FORBIDDEN"),
        (folder / "none.flac", "NOT_FOUND"),
        (folder, "BAD_FORMAT"),
        ("talk.flac", "BAD_FORMAT"),
    ):
        assert sender.refusal(ms.Submit(request=sender.number(), path=str(path))) == code, path
    os.mkfifo(folder / "pipe.flac")
    assert sender.refusal(ms.Submit(request=20, path=str(folder / "pipe.flac"))) == "BAD_FORMAT"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (ms.JobOptions(language="klingon"), "BAD_FORMAT"),
        (ms.JobOptions(language="de"), "UNSUPPORTED"),
        (ms.JobOptions(formats=("docx",)), "BAD_FORMAT"),
        (ms.JobOptions(formats=()), "BAD_FORMAT"),
        (ms.JobOptions(layout=ms.LayoutOptions(min_ms=5000, max_ms=2000)), "BAD_FORMAT"),
        (ms.JobOptions(layout=ms.LayoutOptions(gap_ms=900, chain_ms=100)), "BAD_FORMAT"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(
    sender: WireClient, options: ms.JobOptions, code: str
) -> None:
    assert sender.refusal(submit_of(10, DEMO_ZH, options=options)) == code


def test_a_job_finds_speech_by_its_own_settings(daemon: Daemon, sender: WireClient, tmp_path: Path) -> None:
    deaf = ms.JobOptions(vad=ms.VadOptions(threshold=0.999999), tag="deaf")
    talk = media.write_sound(tmp_path / "talk.flac", media.speech(8)).read_bytes()
    heard = sender.upload(talk).id
    assert ended(sender, heard).state == "done"
    assert sender.fetch(heard)
    job = sender.upload(talk, options=deaf).id
    assert ended(sender, job).state == "done"
    assert sender.fetch(job) == b""
    assert daemon.client.list(("done",), tag="deaf")[0].id == job
