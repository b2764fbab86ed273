"""The clients' side of the daemon where two of its promises meet: an upload and its end, a key and its loss."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from api_harness import Front, described
from subtitle.keys import Key, new_pair
from subtitled.api.uploads import CHUNK_BYTES, WINDOW_BYTES
from subtitled.config import schema
from subtitled.network.auth import server_key, server_key_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SILENCE_MS = 300
BIG = bytes(2 * WINDOW_BYTES)


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    with Front(tmp_path) as running:
        yield running


def _committing(front: Front, job: str) -> int | None:
    """Return the number of the Commit whose answer is awaited."""
    commit = front.reception.uploads._open[job].commit
    return commit[1] if commit else None


# -- uploads -------------------------------------------------------------------------------------------------


def test_who_takes_an_upload_over_is_accepted_once_all_is_written(front: Front) -> None:
    """Else the window that it is promised would be full already of what the one before has sent."""
    first, second = front.visitor(), front.visitor()
    job = first.submit(BIG)["job"]
    with front.stalled_disk():
        for number in range(8):
            first.tell("Chunk", bytes(CHUNK_BYTES), request=1, job=job, offset=number * CHUNK_BYTES)
        front.turn_until(lambda: front.facts(job).received_bytes == WINDOW_BYTES, "all has come")
        second.tell("Submit", request=1, **described(BIG))
        second.tell("Chunk", b"x", request=1, job=job, offset=WINDOW_BYTES)
        assert second.hear()["code"] == "WRONG_STATE"
    accepted = second.hear()
    assert (accepted["type"], accepted["job"], accepted["offset"]) == ("Accepted", job, WINDOW_BYTES)
    with front.stalled_disk():
        for number in range(8, 16):
            second.tell("Chunk", bytes(CHUNK_BYTES), request=1, job=job, offset=number * CHUNK_BYTES)
        front.turn_until(lambda: front.facts(job).received_bytes == len(BIG), "the whole window was free")
    first.tell("Chunk", b"x", request=1, job=job, offset=0)
    assert first.hear()["code"] == "WRONG_STATE"


def test_who_sends_a_file_hears_that_its_job_was_cancelled(front: Front) -> None:
    sender, other = front.visitor(), front.visitor()
    job = sender.submit(BIG)["job"]
    assert other.ask("Cancel", job=job)["job"]["state"] == "cancelled"
    error = sender.hear()
    assert (error["request"], error["code"]) == (1, "WRONG_STATE")
    assert "cancelled" in error["message"]


def test_commit_is_answered_also_when_the_job_is_cancelled_meanwhile(front: Front) -> None:
    sender, other = front.visitor(), front.visitor()
    job = sender.submit(b"")["job"]
    with front.stalled_disk():
        sender.tell("Commit", request=2, job=job)
        front.turn_until(lambda: _committing(front, job) == 2, "the Commit has come")
        assert other.ask("Cancel", job=job)["job"]["state"] == "cancelled"
    error = sender.hear()
    assert (error["request"], error["code"]) == (2, "WRONG_STATE")


def test_of_a_repeated_commit_the_last_is_answered(front: Front) -> None:
    sender = front.visitor()
    job = sender.submit(b"")["job"]
    with front.stalled_disk():
        sender.tell("Commit", request=2, job=job)
        sender.tell("Commit", request=3, job=job)
        front.turn_until(lambda: _committing(front, job) == 3, "both have come")
    said = sender.hear()
    assert (said["type"], said["request"], said["job"]["state"]) == ("JobInfo", 3, "queued")
    assert sender.ask("Commit", request=4, job=job)["request"] == 4


def test_who_sends_a_file_hears_that_it_was_given_up(front: Front) -> None:
    sender = front.visitor()
    job = sender.submit(BIG)["job"]
    front.reconfigure(uploads=schema.UploadsConfig(idle_s=0.0))
    error = sender.hear()
    assert (error["request"], error["code"]) == (1, "WRONG_STATE")
    assert "uploads.idle_s" in error["message"]
    assert front.facts(job).state == "cancelled"


# -- keys ----------------------------------------------------------------------------------------------------


class Keys:
    """A front with a door for keys, and the keys of a user and of an admin."""

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
        self.front = Front(folder, client=self.listed, listen=schema.ListenConfig(clients=(self.endpoint,)))


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    made = Keys(tmp_path)
    with made.front:
        yield made


def test_a_key_that_is_taken_off_the_list_hears_nothing_more(keys: Keys) -> None:
    front = keys.front
    ann, root = (front.visitor(keys.of[name], keys.endpoint) for name in ("ann", "root"))
    job = ann.submit(b"abcd")["job"]
    assert ann.ask("List")["jobs"]
    ann.tell("Watch", request=9)
    assert ann.hear()["type"] == "Event"
    front.reconfigure(client=keys.listed[1:])
    ann.tell("Hello")
    assert root.ask("Cancel", job=job)["job"]["state"] == "cancelled"
    heard = []
    while ann.socket.poll(SILENCE_MS):
        heard.append(ann.hear()["type"])
    assert heard == []
    front.reconfigure(client=keys.listed)
    assert ann.ask("Hello")["type"] == "Welcome"


def test_a_role_that_changes_is_in_force_at_once(keys: Keys) -> None:
    front = keys.front
    ann = front.visitor(keys.of["ann"], keys.endpoint)
    assert ann.ask("Hello")["role"] == "user"
    front.reconfigure(client=(schema.ClientConfig(name="ann", key=keys.of["ann"].public, role="admin"),))
    assert ann.ask("Hello")["role"] == "admin"
