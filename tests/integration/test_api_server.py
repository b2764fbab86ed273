"""The client API in races: an upload and its cancellation, a key and its revocation."""

from __future__ import annotations

import math
import socket
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from api_harness import DEADLINE_S, ApiHarness, described
from subtitle.keys import Key, new_pair
from subtitled.api import connection
from subtitled.api.handlers import MAX_PATHS
from subtitled.api.uploads import CHUNK_BYTES, WINDOW_BYTES
from subtitled.config import schema
from subtitled.core import actions as ac
from subtitled.core.records import Job, Options
from subtitled.core.states import JobState
from subtitled.network import sockets
from subtitled.network.auth import server_key, server_key_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SILENCE_MS = 300
BIG = bytes(2 * WINDOW_BYTES)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiHarness]:
    with ApiHarness(tmp_path) as running:
        yield running


def _committing(api: ApiHarness, job: str) -> int | None:
    """Return the number of the Commit whose answer is awaited."""
    commit = api.server.uploads._open[job].commit
    return commit[1] if commit else None


# -- uploads -------------------------------------------------------------------------------------------------


def test_connection_that_resumes_an_upload_is_accepted_once_all_is_written(api: ApiHarness) -> None:
    """Else the window that it is promised would be full already of what the one before has sent."""
    first, second = api.connect(), api.connect()
    job = first.submit(BIG)["job"]
    with api.stalled("upload"):
        for number in range(8):
            first.send_message("Chunk", bytes(CHUNK_BYTES), request=1, job=job, offset=number * CHUNK_BYTES)
        api.turn_until(lambda: api.facts(job).received_bytes == WINDOW_BYTES, "all has come")
        second.send_message("Submit", request=1, **described(BIG))
        second.send_message("Chunk", b"x", request=1, job=job, offset=WINDOW_BYTES)
        assert second.receive()["code"] == "WRONG_STATE"
    accepted = second.receive()
    assert (accepted["type"], accepted["job"], accepted["offset"]) == ("Accepted", job, WINDOW_BYTES)
    with api.stalled("upload"):
        for number in range(8, 16):
            second.send_message("Chunk", bytes(CHUNK_BYTES), request=1, job=job, offset=number * CHUNK_BYTES)
        api.turn_until(lambda: api.facts(job).received_bytes == len(BIG), "the whole window was free")
    first.send_message("Chunk", b"x", request=1, job=job, offset=0)
    assert first.receive()["code"] == "WRONG_STATE"


def test_sender_receives_an_error_when_its_job_is_cancelled(api: ApiHarness) -> None:
    sender, other = api.connect(), api.connect()
    job = sender.submit(BIG)["job"]
    assert other.request("Cancel", job=job)["job"]["state"] == "cancelled"
    error = sender.receive()
    assert (error["request"], error["code"]) == (1, "WRONG_STATE")
    assert "cancelled" in error["message"]


def test_commit_is_answered_although_the_job_is_cancelled_meanwhile(api: ApiHarness) -> None:
    sender, other = api.connect(), api.connect()
    job = sender.submit(b"")["job"]
    with api.stalled("upload"):
        sender.send_message("Commit", request=2, job=job)
        api.turn_until(lambda: _committing(api, job) == 2, "the Commit has come")
        assert other.request("Cancel", job=job)["job"]["state"] == "cancelled"
    error = sender.receive()
    assert (error["request"], error["code"]) == (2, "WRONG_STATE")


def test_last_of_repeated_commits_is_answered(api: ApiHarness) -> None:
    sender = api.connect()
    job = sender.submit(b"")["job"]
    with api.stalled("upload"):
        sender.send_message("Commit", request=2, job=job)
        sender.send_message("Commit", request=3, job=job)
        api.turn_until(lambda: _committing(api, job) == 3, "both have come")
    said = sender.receive()
    assert (said["type"], said["request"], said["job"]["state"]) == ("JobInfo", 3, "queued")
    assert sender.request("Commit", request=4, job=job)["request"] == 4


def test_sender_receives_an_error_when_its_upload_expires(api: ApiHarness) -> None:
    sender = api.connect()
    job = sender.submit(BIG)["job"]
    api.reconfigure(uploads=schema.UploadsConfig(idle_s=0.0))
    error = sender.receive()
    assert (error["request"], error["code"]) == (1, "WRONG_STATE")
    assert "uploads.idle_s" in error["message"]
    assert api.facts(job).state == "cancelled"


# -- keys ----------------------------------------------------------------------------------------------------


class Keys:
    """A api with a listener for keys, and the keys of a user and of an admin."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.endpoint = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        self._server = server_key(server_key_path(schema.Config(state=schema.StateConfig(dir=str(folder)))))
        pairs = {name: new_pair() for name in ("ann", "root")}
        self.of = {
            name: Key(name=name, public=public, secret=secret, server=self._server.public)
            for name, (public, secret) in pairs.items()
        }
        self.listed = (
            schema.ClientConfig(name="ann", key=self.of["ann"].public),
            schema.ClientConfig(name="root", key=self.of["root"].public, role="admin"),
        )
        self.api = ApiHarness(
            folder, client=self.listed, listen=schema.ListenConfig(clients=(self.endpoint,))
        )


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    made = Keys(tmp_path)
    with made.api:
        yield made


def test_revoked_key_receives_nothing_more(keys: Keys) -> None:
    api = keys.api
    ann, root = (api.connect(keys.of[name], keys.endpoint) for name in ("ann", "root"))
    job = ann.submit(b"abcd")["job"]
    assert ann.request("List")["jobs"]
    ann.send_message("Watch", request=9)
    assert ann.receive()["type"] == "Event"
    api.reconfigure(client=keys.listed[1:])
    ann.send_message("Hello")
    assert root.request("Cancel", job=job)["job"]["state"] == "cancelled"
    heard = []
    while ann.socket.poll(SILENCE_MS):
        heard.append(ann.receive()["type"])
    assert heard == []
    api.reconfigure(client=keys.listed)
    assert ann.request("Hello")["type"] == "Welcome"


def test_changed_role_applies_at_once(keys: Keys) -> None:
    api = keys.api
    ann = api.connect(keys.of["ann"], keys.endpoint)
    assert ann.request("Hello")["role"] == "user"
    api.reconfigure(client=(schema.ClientConfig(name="ann", key=keys.of["ann"].public, role="admin"),))
    assert ann.request("Hello")["role"] == "admin"


def _upload(api: ApiHarness, content: bytes = b"1234") -> dict[str, Any]:
    """Upload a file and return the answer to its Commit."""
    client = api.connect()
    job = client.submit(content)["job"]
    client.send_message("Chunk", content, request=1, job=job, offset=0)
    client.send_message("Commit", request=2, job=job)
    return client.receive("UploadCredit", "Event")


def test_uploads_do_not_wait_for_rendering_deletion_hashing_or_path_lookups(api: ApiHarness) -> None:
    with api.stalled("render", "delete", "gpu"), api.stalled_folder(""):
        client = api.connect()
        for number in range(40):
            client.send_message("Submit", request=number, path=f"/nowhere/{number}", name="a.mp4")
        answer = _upload(api)
        assert (answer["type"], answer["job"]["state"]) == ("JobInfo", "queued")


def test_resumed_files_that_are_hashed_do_not_delay_other_uploads(api: ApiHarness) -> None:
    """A new file has nothing to hash, so it does not wait for those that have."""
    first = api.connect()
    job = first.submit(b"12345678")["job"]
    first.send_message("Chunk", b"1234", request=1, job=job, offset=0)
    assert first.receive()["type"] == "UploadCredit"
    api.server.uploads.close()  # as after a restart
    with api.stalled("hash"):
        resumed = api.connect()
        resumed.send_message("Submit", request=1, **described(b"12345678"), name="b.mp4")
        assert _upload(api, b"abcd")["type"] == "JobInfo"
    assert (resumed.receive()["offset"]) == 4


def test_path_lookups_are_bounded(api: ApiHarness) -> None:
    with api.stalled_folder(""):
        client = api.connect()
        for number in range(MAX_PATHS + 1):
            client.send_message("Submit", request=number, path=f"/nowhere/{number}", name="a.mp4")
        refused = client.receive()
        assert (refused["request"], refused["code"]) == (MAX_PATHS - 1, "RATE_LIMITED")


def test_folder_that_hangs_delays_neither_lookups_in_other_folders_nor_the_stop(
    tmp_path: Path, api: ApiHarness
) -> None:
    def retry(inbox: bytes) -> None:
        job = api.ended_job(JobState.FAILED, options=Options(inbox=inbox))
        client.send_message("Retry", request=job.order, job=job.id)

    client = api.connect()
    for folder in ("/hung", ""):
        api.server._path_threads.of(folder).run(threading.Event().wait, lambda _: None)
    for inbox in (b"/hung", b"/hung", b"/hung", b"/in"):
        retry(inbox)
    assert client.receive()["code"] == "NOT_FOUND"
    path = tmp_path / "talk.wav"
    path.write_bytes(b"sound")
    api.reconfigure(uploads=schema.UploadsConfig(paths=("/nowhere", str(tmp_path))))
    assert client.request("Submit", path=str(path))["type"] == "JobInfo"


def test_lists_and_rendering_do_not_wait_for_uploads(api: ApiHarness) -> None:
    job = _upload(api)["job"]["id"]
    with api.stalled("upload", "hash"):
        sender = api.connect()
        sender.send_message("Submit", request=1, **described(b"5678"), name="b.mp4")
        assert [found["id"] for found in api.connect().request("List")["jobs"]][-1] == job
        assert api.connect().request("Status", job=job)["type"] == "JobInfo"


def test_reads_are_answered_and_changes_kept_while_the_loop_waits_for_disk_space(api: ApiHarness) -> None:
    client = api.connect()
    client.send_message("Submit", request=1, **described(b"1234"), name="a.mp4")
    client.send_message("Stats", request=2)
    client.send_message("List", request=3)
    deadline = time.monotonic() + DEADLINE_S
    answers: list[tuple[str, int]] = []
    while len(answers) < 2:
        assert time.monotonic() < deadline
        api.server.serve_reads()
        if client.socket.poll(10):
            header = msgspec.msgpack.decode(client.socket.recv_multipart()[1])
            answers.append((header["type"], header["request"]))
    assert answers == [("StatsInfo", 2), ("JobList", 3)]
    assert api.store.count_jobs() == {}
    answer = client.receive()
    assert (answer["type"], answer["request"]) == ("Accepted", 1)


def test_pause_is_kept_while_the_loop_waits_for_disk_space_and_the_state_is_returned(api: ApiHarness) -> None:
    client = api.connect()
    client.send_message("Operate", request=1, is_paused=True)
    client.send_message("Operate", request=2)
    deadline = time.monotonic() + DEADLINE_S
    while not client.socket.poll(10):
        assert time.monotonic() < deadline
        api.server.serve_reads()
    header = msgspec.msgpack.decode(client.socket.recv_multipart()[1])
    assert (header["type"], header["request"], header["is_paused"]) == ("OperateInfo", 2, False)
    assert not api.broker.is_paused, "the change waits until the loop has committed what it waits for"
    answer = client.receive()
    assert (answer["request"], answer["is_paused"], api.broker.is_paused) == (1, True, True)


def test_paused_queue_stays_paused_after_a_restart_until_it_is_resumed(tmp_path: Path) -> None:
    for is_paused, change in ((False, True), (True, None), (True, False), (False, None)):
        with ApiHarness(tmp_path) as api:
            client = api.connect()
            assert client.request("Stats")["is_paused"] is is_paused
            expected = is_paused if change is None else change
            assert client.request("Operate", is_paused=change)["is_paused"] is expected


def test_turn_without_time_for_all_watchers_sends_them_the_entries_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each turn serves one request and one watcher; nothing is lost, and the order is kept."""
    monkeypatch.setattr(connection, "TURN_S", 0.0)
    listen = schema.ListenConfig(clients=(f"ipc://{tmp_path}/clients.sock",), requests_per_s=10_000)
    with ApiHarness(tmp_path, listen=listen, uploads=schema.UploadsConfig(max_open=100)) as api:
        watchers = [api.connect() for _ in range(5)]
        for watcher in watchers:
            watcher.send_message("Watch", request=9, after_seq=0)
        sender = api.connect()
        for number in range(80):
            sender.send_message("Submit", request=number, name="a.mp4", **described(b"%d" % number))
        jobs = [sender.receive()["job"] for _ in range(80)]
        for job in jobs:
            sender.request("Cancel", job=job)
        for watcher in watchers:
            entries = [watcher.receive() for _ in range(160)]
            seqs = [entry["seq"] for entry in entries]
            assert seqs == list(range(seqs[0], seqs[0] + 160))
            assert sorted(entry["job"] for entry in entries) == sorted(jobs + jobs)


def test_watcher_that_does_not_read_is_sent_the_rest_once_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then the loop does not try again every few milliseconds."""
    monkeypatch.setattr(sockets, "MAX_HELD_ANSWERS", 200)
    jobs = 4_000
    with ApiHarness(tmp_path) as api:
        options = Options()
        api.store.apply(
            [
                ac.SaveNewJob(
                    Job(
                        id=f"{number:x}",
                        state=JobState.QUEUED,
                        source=b"/in/%d.wav" % number,
                        location=b"/in/%d.wav" % number,
                        size=1,
                        mtime_ns=1,
                        options=options,
                        order=number,
                    )
                )
                for number in range(1, jobs + 1)
            ]
        )
        watcher = api.connect()
        watcher.send_message("Watch", request=9, after_seq=0)
        (endpoint,) = api.server._endpoints
        api.turn_until(
            lambda: connection.CATCH_UP_S * 8 < endpoint.poll_timeout_s <= connection.MAX_RETRY_S,
            "the client is left alone for a while",
        )
        assert [watcher.receive()["seq"] for _ in range(jobs)] == list(range(1, jobs + 1))
        api.turn_until(lambda: endpoint.poll_timeout_s == math.inf, "nothing is left to send")


def test_translation_of_a_file_in_english_is_edited_as_its_text(api: ApiHarness) -> None:
    job = api.ended_job(options=Options(language="en", is_translated_too=True)).id
    cues = msgspec.json.encode([{"start_ms": 0, "end_ms": 900, "lines": ["Hello."]}])
    answer = api.connect().request("SaveCues", cues, job=job, version=0, task="translate")
    assert answer["type"] == "CueVersions"
    assert [task for task in ("transcribe", "translate") if api.store.edit(job, task)] == ["transcribe"]


def test_draft_of_a_closed_page_is_translated_when_it_is_old(tmp_path: Path) -> None:
    """No person saves it; the daemon may have been restarted since."""
    options = Options(language="en", translate_to=("ja",))

    def cues(text: str) -> bytes:
        return msgspec.json.encode([{"start_ms": 0, "end_ms": 900, "lines": [text]}])

    with ApiHarness(tmp_path) as api:
        job = api.ended_job(options=options).id
        client = api.connect()
        for name, session in ((job, "one"), (api.ended_job(options=options).id, "two")):
            client.request("SaveCues", cues("Hello."), job=name, version=0, draft_session=session)
        api.turn()
        assert api.facts(job).state == "done"
        assert api.server.handlers.drafts_due_at < time.monotonic() + 301
    with sqlite3.connect(tmp_path / "subtitled.sqlite") as database:
        database.execute("UPDATE edits SET begun_ms = begun_ms - 300000 WHERE job = ?", (job,))
    database.close()
    with ApiHarness(tmp_path) as api:
        api.turn_until(lambda: api.facts(job).state == "translating", "the edit is translated")
        assert api.server.handlers.drafts_due_at < time.monotonic() + 301, "the other draft is not old"
        newest = api.store.edit(job, "transcribe")
        assert newest is not None
        assert (newest.version, newest.draft_session) == (1, "")
