"""Files that wait for disk space are taken at the path that they have then."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from subtitled.config.schema import InboxConfig
from subtitled.core.actions import SaveJob, SaveNewJob
from subtitled.core.events import JobArrived, RetryRequested, SourceRenamed
from subtitled.core.protocol import Media
from subtitled.core.records import Job
from subtitled.core.states import JobEvent, JobState
from subtitled.inboxes.arrivals import FoundFile, InboxArrivals, take
from subtitled.inboxes.watch import RenamedFile, SettledFile
from subtitled.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable


def test_file_that_is_renamed_while_it_waits_for_space_is_taken_once(tmp_path: Path) -> None:
    inbox = InboxConfig(path=str(tmp_path / "in"), output=str(tmp_path / "out"))
    released: list[FoundFile] = []
    with contextlib.closing(Store(str(tmp_path / "state.db"))) as store:
        arrivals = InboxArrivals((inbox,), store, released.append)
        before, after, other = (str(tmp_path / "in" / name) for name in ("a.wav", "b.wav", "c.wav"))
        for file in (
            SettledFile(0, before, 5, 5),
            SettledFile(0, other, 6, 6),
            RenamedFile(0, before, after),
            SettledFile(0, after, 5, 5),
        ):
            assert arrivals.take(FoundFile(file, inbox), is_space=False) is None
        arrivals.release()
    assert [found.file.path for found in released] == [other, after]


def failed_job(store: Store, inbox: InboxConfig, path: str, location: str) -> Job:
    """Store the failed job of a file that now lies at `location`; it was found on other mounts."""
    arrived = take(SettledFile(0, path, 5, 5, "/old", "/old-out"), inbox, store)
    assert isinstance(arrived, JobArrived)
    store.apply([SaveNewJob(arrived.job)])
    failed = replace(arrived.job, state=JobState.FAILED, is_closed=True, location=os.fsencode(location))
    media = msgspec.msgpack.encode(Media())
    store.apply([SaveJob(job=failed, before=JobState.QUEUED, event=JobEvent.REJECTED, media=media)])
    return failed


def test_file_that_is_dropped_again_waits_for_the_mounts_that_it_is_found_on(tmp_path: Path) -> None:
    inbox = InboxConfig(path=str(tmp_path / "in"), output=str(tmp_path / "out"))
    path = str(tmp_path / "in" / "a.wav")
    with contextlib.closing(Store(str(tmp_path / "state.db"))) as store:
        failed = failed_job(store, inbox, path, str(tmp_path / "in" / "failed" / "a.wav"))
        event = take(SettledFile(0, path, 5, 5, "/new", "/new-out"), inbox, store)
        assert isinstance(event, RetryRequested)
        options = replace(failed.options, mount=b"/new", output_mount=b"/new-out")
        assert event.job == replace(failed, location=os.fsencode(path), options=options)


def test_archived_file_that_has_changed_back_waits_for_the_mounts_that_it_is_found_on(tmp_path: Path) -> None:
    inbox = InboxConfig(path=str(tmp_path / "in"), output=str(tmp_path / "out"))
    path, archived = str(tmp_path / "in" / "a.wav"), str(tmp_path / "in" / "failed" / "a.wav")
    with contextlib.closing(Store(str(tmp_path / "state.db"))) as store:
        first = failed_job(store, inbox, path, str(tmp_path / "in" / "failed" / "a (1).wav"))
        changed = take(SettledFile(0, path, 6, 6, "/old", "/old-out"), inbox, store)
        assert isinstance(changed, JobArrived)
        store.apply([SaveNewJob(changed.job)])
        failed = replace(changed.job, state=JobState.FAILED, is_closed=True, location=os.fsencode(archived))
        media = msgspec.msgpack.encode(Media())
        store.apply([SaveJob(job=failed, before=JobState.QUEUED, event=JobEvent.REJECTED, media=media)])
        event = take(SettledFile(0, archived, 5, 5, "/new", "/new-out"), inbox, store)
        assert isinstance(event, RetryRequested)
        assert event.job.id == first.id
        assert (event.job.options.mount, event.job.options.output_mount) == (b"/new", b"/new-out")


def test_file_renamed_without_an_event_is_followed_once_its_old_place_was_looked_up(tmp_path: Path) -> None:
    """The lookup never blocks the caller: the mount may hang. Without an answer the file waits."""
    inbox = InboxConfig(path=str(tmp_path / "in"), output=str(tmp_path / "out"))
    before, after = (str(tmp_path / "in" / name) for name in ("a.wav", "b/a.wav"))
    put: list[FoundFile] = []
    asked: list[tuple[str, Callable[[bool], None]]] = []

    def request(path: str, _mount: str, on_answer: Callable[[bool], None]) -> None:
        asked.append((path, on_answer))

    with contextlib.closing(Store(str(tmp_path / "state.db"))) as store:
        arrivals = InboxArrivals((inbox,), store, put.append, look_up=request)
        accepted = arrivals.take(FoundFile(SettledFile(0, before, 5, 5), inbox), is_space=True)
        assert isinstance(accepted, JobArrived)
        store.apply([SaveNewJob(accepted.job)])
        assert arrivals.take(FoundFile(SettledFile(0, after, 5, 5), inbox), is_space=True) is None
        [(path, on_answer)] = asked
        assert path == before
        on_answer(False)
        renamed = arrivals.take(put.pop(), is_space=True)
        assert renamed == SourceRenamed(accepted.job.id, after.encode())
        on_answer(True)
        copied = arrivals.take(put.pop(), is_space=True)
        assert isinstance(copied, JobArrived)
