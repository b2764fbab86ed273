"""Uploaded media on the disk: space that is used, reserved and freed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from subtitled.api.peer import RefusedError
from subtitled.config.schema import UploadsConfig
from subtitled.core.records import Job
from subtitled.errors import SpoolError
from subtitled.files.filesystem import free_bytes
from subtitled.runtime.background import BackgroundPool

MIB = 2**20


class UploadStore:
    """The space of the uploads folder; belongs to the thread of the server's loop."""

    def __init__(
        self, folder: Path, limits: UploadsConfig, *, reserve_bytes: int, background: BackgroundPool
    ) -> None:
        self._folder = folder
        self._background = background
        self._bytes: dict[str, int] = {}
        """Size of each job's file, or its announced size while it is received."""
        self._received: dict[str, int] = {}
        """Bytes on the disk of the files that are still received."""
        self._evictable: dict[str, int] = {}
        """Done jobs and when they ended, oldest first: their files are kept for playing while there is space."""
        self._deleting: dict[str, int] = {}
        """Bytes of the files that are being deleted."""
        self.reconfigure(limits, reserve_bytes=reserve_bytes)

    def reconfigure(self, limits: UploadsConfig, *, reserve_bytes: int) -> None:
        """Apply other limits to further uploads."""
        self._max_file_bytes = limits.max_file_mb * MIB
        self._max_total_bytes = limits.max_spool_mb * MIB
        self._reserve_bytes = reserve_bytes
        self._keep_done_ms = int(limits.keep_done_s * 1000)

    @property
    def max_file_bytes(self) -> int:
        """Largest accepted file."""
        return self._max_file_bytes

    @property
    def total_bytes(self) -> int:
        """Size of all files, with the announced sizes of those that are still received."""
        return sum(self._bytes.values())

    def path(self, job: str, name: str) -> Path:
        """Return the path of a job's file: each job has its own folder."""
        return self._folder / job / name

    def contains(self, job: Job) -> bool:
        """Return whether a job's file is an upload."""
        return job.location.startswith(os.fsencode(self._folder) + b"/")

    def restore(
        self,
        jobs: Iterable[Job],
        *,
        receiving: Iterable[str],
        done: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Count the files of `jobs` at the start and delete all others; `done`: end times of done jobs, oldest first."""
        still_receiving = set(receiving)
        for job in filter(self.contains, jobs):
            path = Path(os.fsdecode(job.location))
            try:
                found = path.stat().st_size
            except OSError:
                found = 0
            if job.id in done:
                if not found:
                    continue
                self._evictable[job.id] = done[job.id]
            self._bytes[job.id] = max(found, job.size) if job.id in still_receiving else found
            if job.id in still_receiving:
                self._received[job.id] = found
        self._background.submit(partial(_sweep, self._folder, frozenset(self._bytes)))

    def reserve(self, job: str, size: int | None) -> None:
        """Reserve space for a new job's file of `size` bytes (None: unknown); raises RefusedError."""
        self._check_size(size or 0)
        self._check_space(size or 0)
        self._bytes[job] = size or 0
        self._received[job] = 0

    def grow(self, job: str, offset: int) -> None:
        """Record the received size of a file; raises RefusedError when it exceeds the space."""
        reserved = self._bytes.get(job, 0)
        if offset > reserved:
            self._check_size(offset)
            self._check_space(offset - reserved)
            self._bytes[job] = offset
        self._received[job] = offset

    def received(self, job: str) -> int:
        """Return the bytes on the disk of a file that is still received."""
        return self._received.get(job, 0)

    def complete(self, job: str, size: int) -> None:
        """Record that a file is complete."""
        self._bytes[job] = size
        self._received.pop(job, None)

    def keep_done(self, job: str, ended_ms: int) -> None:
        """Keep a done job's file for `uploads.keep_done_s`, or until its space is needed."""
        if not self._keep_done_ms:
            self.discard(job)
        elif job in self._bytes:
            self._evictable[job] = ended_ms

    def tick(self, now_ms: int) -> None:
        """Delete the files of done jobs whose time is over, and further ones while the disk is nearly full."""
        for job, ended_ms in list(self._evictable.items()):
            if now_ms - ended_ms >= self._keep_done_ms:
                self.discard(job)
        if self._evictable:
            with contextlib.suppress(SpoolError):
                # Twice the reserve: below the reserve all new work stops.
                self._evict(min(2 * self._reserve_bytes - self._free_bytes(), self._evictable_bytes))

    def discard(self, job: str) -> None:
        """Delete a job's upload, if it has one."""
        size = self._bytes.pop(job, None)
        if size is None:
            return
        self._evictable.pop(job, None)
        self._deleting[job] = self._received.pop(job, size)

        def deleted(_: object) -> None:
            self._deleting.pop(job, None)

        self._background.run(
            partial(shutil.rmtree, self._folder / job, ignore_errors=True), deleted, deleted, OSError
        )

    def _evict(self, wanted_bytes: int) -> None:
        """Delete files of done jobs, oldest first, to free bytes; none when all of them would not suffice."""
        if wanted_bytes > self._evictable_bytes:
            return
        while wanted_bytes > 0:
            oldest = next(iter(self._evictable))
            wanted_bytes -= self._bytes[oldest]
            self.discard(oldest)

    @property
    def _evictable_bytes(self) -> int:
        return sum(self._bytes[job] for job in self._evictable)

    def _free_bytes(self) -> int:
        """Return the free bytes on the disk, counting files that are being deleted; raises SpoolError."""
        return free_bytes(self._folder) + sum(self._deleting.values())

    def _check_size(self, size: int) -> None:
        if size > self._max_file_bytes:
            raise RefusedError(
                "TOO_BIG",
                f"file of {size} bytes exceeds the limit of {self._max_file_bytes} (uploads.max_file_mb on the server)",
            )

    def _check_space(self, more: int) -> None:
        self._evict(self.total_bytes + more - self._max_total_bytes)
        total = self.total_bytes + more
        if total > self._max_total_bytes:
            raise RefusedError(
                "NO_SPACE",
                f"{more} more bytes: unfinished uploads would take {total} bytes; the limit is"
                f" {self._max_total_bytes} (uploads.max_spool_mb on the server); try again when some are done",
            )
        try:
            announced = sum(self._bytes[job] - received for job, received in self._received.items())
            self._evict(self._reserve_bytes + announced + more - self._free_bytes())
            free = self._free_bytes()
        except SpoolError as error:
            raise RefusedError("NO_SPACE", str(error)) from error
        if free - announced - more < self._reserve_bytes:
            raise RefusedError(
                "NO_SPACE",
                f"{more} more bytes: {free} are free on the server's disk, {announced} of them for other uploads,"
                f" {self._reserve_bytes} are reserved (state.reserve_mb); try again when there is space",
            )


def _sweep(folder: Path, wanted: frozenset[str]) -> None:
    """Delete the folders of ended jobs that a killed daemon left."""
    if not folder.is_dir():
        return
    for found in folder.iterdir():
        if found.name not in wanted:
            shutil.rmtree(found, ignore_errors=True)
