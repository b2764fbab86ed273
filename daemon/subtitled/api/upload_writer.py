"""Write one upload to the disk in background threads, in order, and hash it."""

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
from subtitled.runtime.background import CallInLoop

READ_BYTES = 2**20
MAX_QUEUED = 256
"""Chunks that may be queued: a window of eight million one-byte chunks would take gigabytes."""
FOLDER_MODE = 0o700
FILE_MODE = 0o600


class ReceivedFile(Struct, frozen=True, kw_only=True):
    """A complete file on the disk."""

    size: int
    mtime_ns: int
    sha256: str


class UploadWriter:
    """Writes one file. The methods only enqueue; they belong to the thread of the server's loop.

    `hash_pool` reads what a resumed file has already, which may take minutes, so that other uploads need not wait.

    The loop calls `written(offset)` from time to time and `failed(error)` at most once; nothing is written after that.
    """

    def __init__(
        self,
        path: Path,
        *,
        pool: Executor,
        hash_pool: Executor,
        call_in_loop: CallInLoop,
        written: Callable[[int], None],
        failed: Callable[[OSError], None],
    ) -> None:
        self._path = path
        self._pool = pool
        self._hash_pool = hash_pool
        self._call_in_loop = call_in_loop
        self._written = written
        self._failed = failed
        self._lock = threading.Lock()
        self._tasks: deque[Callable[[], None]] = deque()
        self._is_running = False
        self._is_closing = False
        self._has_failed = False
        self._file = -1
        self._offset = 0
        self._hash = hashlib.sha256()

    @property
    def is_full(self) -> bool:
        """The limit of queued chunks is reached."""
        return len(self._tasks) >= MAX_QUEUED

    def open(self, on_open: Callable[[int], None]) -> None:
        """Open or create the file, unless `close` comes first; `on_open` receives its present size in bytes."""

        def work() -> None:
            if self._is_closing:
                return
            self._path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.open(self._path, flags, FILE_MODE)
            while not self._is_closing and (data := os.read(self._file, READ_BYTES)):
                self._hash.update(data)
                self._offset += len(data)
            offset = self._offset
            self._call_in_loop(lambda: on_open(offset))

        self._put(self._guarded(work), self._hash_pool)

    def write(self, chunk: Buffer) -> None:
        """Append a chunk."""

        def work() -> None:
            self._hash.update(chunk)
            rest = memoryview(chunk)
            while rest:
                count = os.write(self._file, rest)
                rest = rest[count:]
                self._offset += count

        self._put(self._guarded(work))

    def finish(self, on_finish: Callable[[ReceivedFile], None]) -> None:
        """Sync the file and close it; `on_finish` receives its size, time and hash."""

        def work() -> None:
            os.fsync(self._file)
            for folder in (self._path.parent, self._path.parent.parent):
                sync_folder(folder)
            found = os.fstat(self._file)
            received = ReceivedFile(
                size=found.st_size, mtime_ns=found.st_mtime_ns, sha256=self._hash.hexdigest()
            )
            self._call_in_loop(lambda: on_finish(received))

        self._put(self._guarded(work))
        self.close()

    def close(self, closed: Callable[[], None] | None = None) -> None:
        """Close the file after the queued tasks; then the loop calls `closed`: its folder may be deleted."""

        def work() -> None:
            self._close()
            if closed is not None:
                self._call_in_loop(closed)

        self._is_closing = True
        self._put(work)

    def _guarded(self, task: Callable[[], None]) -> Callable[[], None]:
        """Return a task that does nothing after a failure, and whose own failure is reported."""

        def work() -> None:
            if self._has_failed:
                return
            try:
                task()
            except OSError as error:
                self._has_failed = True
                self._close()
                failure = error
                self._call_in_loop(lambda: self._failed(failure))

        return work

    def _put(self, task: Callable[[], None], pool: Executor | None = None) -> None:
        with self._lock:
            self._tasks.append(task)
            if self._is_running:
                return
            self._is_running = True
        (pool or self._pool).submit(self._work).add_done_callback(self._check)

    def _check(self, done: Future[None]) -> None:
        """Raise a bug of a task in the loop."""
        if (error := done.exception()) is not None:
            fault = error

            def raise_it() -> None:
                raise fault

            self._call_in_loop(raise_it)

    def _work(self) -> None:
        """Run the queued tasks in a thread of the pool; one thread at a time for each file."""
        while True:
            with self._lock:
                if not self._tasks:
                    self._is_running = False
                    return
                tasks = list(self._tasks)
                self._tasks.clear()
            before = self._offset
            for task in tasks:
                task()
            offset = self._offset
            if offset > before:
                self._call_in_loop(lambda offset=offset: self._written(offset))  # type: ignore[misc]

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
