"""The file of an upload is written in the background, and no longer once it is closed."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from subtitled.api.upload_writer import UploadWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WAIT_S = 60


class Writing:
    """A writer whose only thread is busy until `release`."""

    def __init__(self, folder: Path) -> None:
        self.calls: queue.Queue[Callable[[], object]] = queue.Queue()
        self.errors: list[OSError] = []
        self.release = threading.Event()
        self.pool = ThreadPoolExecutor(1)
        self.pool.submit(self.release.wait, WAIT_S)
        self.writer = UploadWriter(
            folder / "job" / "talk.wav",
            pool=self.pool,
            hash_pool=self.pool,
            call_in_loop=self.calls.put,
            written=lambda _offset: None,
            failed=self.errors.append,
        )

    def run_until(self, is_done: Callable[[], object]) -> None:
        """Run what the writer calls in the loop."""
        while not is_done():
            self.calls.get(timeout=WAIT_S)()


@pytest.fixture
def writing(tmp_path: Path) -> Iterator[Writing]:
    writing = Writing(tmp_path)
    yield writing
    writing.release.set()
    writing.pool.shutdown()


def test_writer_that_is_closed_before_it_runs_creates_no_file(writing: Writing, tmp_path: Path) -> None:
    """The job of an upload is cancelled while all threads are busy: nothing may appear in a deleted folder."""
    closed: list[bool] = []
    writing.writer.open(lambda _offset: None)
    writing.writer.close(lambda: closed.append(True))
    assert not closed
    writing.release.set()
    writing.run_until(lambda: closed)
    assert list(tmp_path.iterdir()) == []


def test_closing_is_reported_after_the_queued_chunks_are_written(writing: Writing, tmp_path: Path) -> None:
    opened: list[int] = []
    closed: list[bool] = []
    writing.release.set()
    writing.writer.open(opened.append)
    writing.run_until(lambda: opened)
    writing.writer.write(b"abc")
    writing.writer.write(b"def")
    writing.writer.close(lambda: closed.append((tmp_path / "job" / "talk.wav").read_bytes() == b"abcdef"))
    writing.run_until(lambda: closed)
    assert closed == [True]


def test_failed_writer_writes_nothing_more_and_is_closed_all_the_same(
    writing: Writing, tmp_path: Path
) -> None:
    closed: list[bool] = []
    (tmp_path / "job").write_bytes(b"not a folder")
    writing.writer.open(lambda _offset: None)
    writing.writer.write(b"abc")
    writing.release.set()
    writing.run_until(lambda: writing.errors)
    writing.writer.close(lambda: closed.append(True))
    writing.run_until(lambda: closed)
    assert [type(error) for error in writing.errors] == [FileExistsError]
    assert (tmp_path / "job").read_bytes() == b"not a folder"
