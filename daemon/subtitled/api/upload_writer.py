"""The bytes of one upload on their way to the disk: hashed and written in order, beside the loop."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path

from msgspec import Struct

from subtitle.codec import Buffer
from subtitled.files.atomic_files import sync_folder

READ_BYTES = 2**20
MAX_WAITING = 256
"""Chunks that may wait: a window of eight million of one byte would take gigabytes."""
FOLDER_MODE = 0o700
FILE_MODE = 0o600

CallBack = Callable[[Callable[[], None]], None]


class ReceivedFile(Struct, frozen=True, kw_only=True):
    """A file that is whole and on the disk."""

    size: int
    mtime_ns: int
    sha256: str


class UploadWriter:
    """Writes one file; its methods only enqueue, and belong to the thread of the loop.

    What happened comes back through `call_back`: `written(offset)` now and then, `failed(error)` once, after which nothing
    more is written.
    """

    def __init__(
        self,
        path: Path,
        *,
        pool: Executor,
        call_back: CallBack,
        written: Callable[[int], None],
        failed: Callable[[OSError], None],
    ) -> None:
        self._path = path
        self._pool = pool
        self._call_back = call_back
        self._written = written
        self._failed = failed
        self._lock = threading.Lock()
        self._tasks: deque[Callable[[], None] | None] = deque()
        self._is_running = False
        self._file = -1
        self._offset = 0
        self._hash = hashlib.sha256()

    @property
    def is_full(self) -> bool:
        """As many chunks wait to be written as may."""
        return len(self._tasks) >= MAX_WAITING

    def open(self, then: Callable[[int], None]) -> None:
        """Open the file, made where missing; `then` gets the bytes that it holds already."""

        def work() -> None:
            self._path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.open(self._path, flags, FILE_MODE)
            while found := os.read(self._file, READ_BYTES):
                self._hash.update(found)
                self._offset += len(found)
            offset = self._offset
            self._call_back(lambda: then(offset))

        self._put(work)

    def write(self, chunk: Buffer) -> None:
        """Append a chunk."""

        def work() -> None:
            self._hash.update(chunk)
            rest = memoryview(chunk)
            while rest:
                count = os.write(self._file, rest)
                rest = rest[count:]
                self._offset += count

        self._put(work)

    def finish(self, then: Callable[[ReceivedFile], None]) -> None:
        """Have the file on the disk, durably, and tell what it is; the last task."""

        def work() -> None:
            os.fsync(self._file)
            for folder in (self._path.parent, self._path.parent.parent):
                sync_folder(folder)
            found = os.fstat(self._file)
            arrived = ReceivedFile(
                size=found.st_size, mtime_ns=found.st_mtime_ns, sha256=self._hash.hexdigest()
            )
            self._call_back(lambda: then(arrived))

        self._put(work)
        self.close()

    def close(self) -> None:
        """Close the file after what is under way."""
        self._put(None)

    def _put(self, task: Callable[[], None] | None) -> None:
        with self._lock:
            self._tasks.append(task)
            if self._is_running:
                return
            self._is_running = True
        self._pool.submit(self._work).add_done_callback(self._check)

    def _check(self, done: Future[None]) -> None:
        """Raise in the loop what is a bug of ours."""
        if (error := done.exception()) is not None:
            fault = error

            def raise_it() -> None:
                raise fault

            self._call_back(raise_it)

    def _work(self) -> None:
        """Do what there is, in a thread of the pool; one at a time for each file."""
        while True:
            with self._lock:
                if not self._tasks:
                    self._is_running = False
                    return
                tasks = list(self._tasks)
                self._tasks.clear()
            before = self._offset
            for task in tasks:
                if task is None:
                    self._close()
                elif not self._do(task):
                    return  # with `_is_running` left set: nothing more is ever done
            offset = self._offset
            if offset > before:
                self._call_back(lambda offset=offset: self._written(offset))  # type: ignore[misc]

    def _do(self, task: Callable[[], None]) -> bool:
        try:
            task()
        except OSError as error:
            self._close()
            failure = error
            self._call_back(lambda: self._failed(failure))
            return False
        return True

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
