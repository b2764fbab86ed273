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
from subtitled.errors import FileWriteError
from subtitled.files.filesystem import free_bytes, free_inodes
from subtitled.runtime.background import BackgroundPool

MIB = 2**20
UPLOAD_INODES = 2
"""The folder and the file of an upload."""


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
        self._done: dict[str, int] = {}
        """Done jobs whose files are kept for playing, and when they ended, oldest first."""
        self._failed: dict[str, int] = {}
        """Failed jobs whose files are kept for a retry, likewise."""
        self._deleting: dict[str, int] = {}
        """Bytes of the files that are being deleted."""
        self.reconfigure(limits, reserve_bytes=reserve_bytes)

    def reconfigure(self, limits: UploadsConfig, *, reserve_bytes: int) -> None:
        """Apply other limits to further uploads."""
        self._max_file_bytes = limits.max_file_mb * MIB
        self._max_total_bytes = limits.max_spool_mb * MIB
        self._reserve_bytes = reserve_bytes
        self._keep_done_ms = int(limits.keep_done_s * 1000)
        self._keep_failed_ms = int(limits.keep_failed_s * 1000)

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

    def stored_jobs(self) -> list[str]:
        """Return the ids of the jobs that have a folder."""
        with contextlib.suppress(FileNotFoundError):
            return [found.name for found in self._folder.iterdir() if found.name.isascii()]
        return []

    def restore(
        self,
        jobs: Iterable[Job],
        *,
        receiving: Iterable[str],
        done: Mapping[str, int] = MappingProxyType({}),
        failed: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Count the files of `jobs` at the start and delete all others; `done`, `failed`: end times of ended jobs, oldest first."""
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
                self._done[job.id] = done[job.id]
            if job.id in failed:
                self._failed[job.id] = failed[job.id]
            self._bytes[job.id] = max(found, job.size) if job.id in still_receiving else found
            if job.id in still_receiving:
                self._received[job.id] = found
        self._background.submit(partial(_sweep, self._folder, frozenset(self._bytes)))

    def reserve(self, job: str, size: int | None) -> None:
        """Reserve space for a new job's file of `size` bytes (None: unknown); raises RefusedError."""
        self._check_size(size or 0)
        self._check_space(size or 0)
        self._check_inodes()
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

    def keep(self, job: str, ended_ms: int, *, is_failed: bool) -> None:
        """Keep an ended job's file for `uploads.keep_done_s` or `keep_failed_s`, or until its space is needed."""
        if job in self._bytes:
            (self._failed if is_failed else self._done)[job] = ended_ms

    def claim(self, job: str) -> None:
        """Keep the file of a job that is retried."""
        self._failed.pop(job, None)

    def tick(self, now_ms: int) -> None:
        """Delete kept files whose time is over, and further ones of done jobs while the disk is nearly full."""
        for kept, keep_ms in ((self._done, self._keep_done_ms), (self._failed, self._keep_failed_ms)):
            for job, ended_ms in list(kept.items()):
                if now_ms - ended_ms >= keep_ms:
                    self.discard(job)
        if self._done:
            with contextlib.suppress(FileWriteError):
                # Twice the reserve: below the reserve all new work stops.
                done_bytes = sum(self._bytes[job] for job in self._done)
                self._evict_bytes(min(2 * self._reserve_bytes - self._free_bytes(), done_bytes))

    def discard(self, job: str) -> None:
        """Delete a job's upload, if it has one."""
        size = self._bytes.pop(job, None)
        if size is None:
            return
        self._done.pop(job, None)
        self._failed.pop(job, None)
        self._deleting[job] = self._received.pop(job, size)

        def deleted(_: object) -> None:
            self._deleting.pop(job, None)

        self._background.run(
            partial(shutil.rmtree, self._folder / job, ignore_errors=True), deleted, deleted, OSError
        )

    def _evict_bytes(self, wanted: int) -> None:
        """Delete kept files, those of done jobs first, each kind oldest first; none when all would not suffice."""
        if wanted > sum(self._bytes[job] for job in (*self._done, *self._failed)):
            return
        while wanted > 0:
            job = next(iter(self._done or self._failed))
            wanted -= self._bytes[job]
            self.discard(job)

    def _evict_inodes(self, wanted: int) -> None:
        """Do as `_evict_bytes` for inodes."""
        if wanted > UPLOAD_INODES * (len(self._done) + len(self._failed)):
            return
        while wanted > 0:
            self.discard(next(iter(self._done or self._failed)))
            wanted -= UPLOAD_INODES

    def _free_bytes(self) -> int:
        """Return the free bytes on the disk, counting files that are being deleted; raises FileWriteError."""
        return free_bytes(self._folder) + sum(self._deleting.values())

    def _missing_inodes(self) -> int:
        """Return how many inodes are missing for one more upload, 0 or less for none; raises FileWriteError."""
        free = free_inodes(self._folder)
        if free is None:
            return 0
        # Uploads without a byte may have no file yet.
        announced = UPLOAD_INODES * sum(not received for received in self._received.values())
        return UPLOAD_INODES + announced - free - UPLOAD_INODES * len(self._deleting)

    def _check_inodes(self) -> None:
        try:
            self._evict_inodes(self._missing_inodes())
            missing = self._missing_inodes()
        except FileWriteError as error:
            raise RefusedError("NO_SPACE", str(error)) from error
        if missing > 0:
            raise RefusedError(
                "NO_SPACE",
                f"{missing} free inodes are missing on the server's disk (df -i); try again when some are free",
            )

    def _check_size(self, size: int) -> None:
        if size > self._max_file_bytes:
            raise RefusedError(
                "TOO_BIG",
                f"file of {size} bytes exceeds the limit of {self._max_file_bytes} (uploads.max_file_mb on the server)",
            )

    def _check_space(self, more: int) -> None:
        self._evict_bytes(self.total_bytes + more - self._max_total_bytes)
        total = self.total_bytes + more
        if total > self._max_total_bytes:
            raise RefusedError(
                "NO_SPACE",
                f"{more} more bytes: unfinished uploads would take {total} bytes; the limit is"
                f" {self._max_total_bytes} (uploads.max_spool_mb on the server); try again when some are done",
            )
        try:
            announced = sum(self._bytes[job] - received for job, received in self._received.items())
            self._evict_bytes(self._reserve_bytes + announced + more - self._free_bytes())
            free = self._free_bytes()
        except FileWriteError as error:
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
