"""The media that clients have sent, on the disk: how much there is, what more may come, what goes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from subtitled.aside import Aside
from subtitled.clients.refusal import RefusedError
from subtitled.config import Uploads as Limits
from subtitled.core.records import Job
from subtitled.errors import SpoolError
from subtitled.writing.spool import free_bytes

MIB = 2**20


class Holdings:
    """Accounts for the folder of uploads; belongs to the thread of the server's loop."""

    def __init__(self, folder: Path, limits: Limits, *, reserve_bytes: int, aside: Aside) -> None:
        self._folder = folder
        self._aside = aside
        self._bytes: dict[str, int] = {}
        """What each job's file takes, or will take when it has arrived."""
        self._arrived: dict[str, int] = {}
        """What is on the disk of those that are still arriving."""
        self.reconfigure(limits, reserve_bytes=reserve_bytes)

    def reconfigure(self, limits: Limits, *, reserve_bytes: int) -> None:
        """Put other limits into force, for what comes from now on."""
        self._max_file_bytes = limits.max_file_mb * MIB
        self._max_total_bytes = limits.max_spool_mb * MIB
        self._reserve_bytes = reserve_bytes

    @property
    def max_file_bytes(self) -> int:
        """Longest file that is taken."""
        return self._max_file_bytes

    @property
    def total_bytes(self) -> int:
        """What all files take, or will take when they have arrived."""
        return sum(self._bytes.values())

    def path(self, job: str, name: str) -> Path:
        """Return where the file of a job lies: in a folder of its own."""
        return self._folder / job / name

    def holds(self, job: Job) -> bool:
        """Say whether the file of a job is one that a client sent."""
        return job.location.startswith(os.fsencode(self._folder) + b"/")

    def take_stock(self, jobs: Iterable[Job], *, is_arriving: Iterable[str]) -> None:
        """Count, at the start, the files of `jobs`; remove all others."""
        arriving = set(is_arriving)
        for job in jobs:
            path = Path(os.fsdecode(job.location))
            try:
                found = path.stat().st_size
            except OSError:
                found = 0
            self._bytes[job.id] = max(found, job.size) if job.id in arriving else found
            if job.id in arriving:
                self._arrived[job.id] = found
        self._aside.submit(partial(_sweep, self._folder, frozenset(self._bytes)))

    def admit(self, job: str, size: int | None) -> None:
        """Make room for a file of a new job; raises RefusedError where there is none."""
        wanted = size or 0
        self._check_size(wanted)
        self._check_room(wanted)
        self._bytes[job] = wanted
        self._arrived[job] = 0

    def arrive(self, job: str, offset: int) -> None:
        """Note how much of a file has come; raises RefusedError when it outgrows what there is room for."""
        held = self._bytes.get(job, 0)
        if offset > held:
            self._check_size(offset)
            self._check_room(offset - held)
            self._bytes[job] = offset
        self._arrived[job] = offset

    def complete(self, job: str, size: int) -> None:
        """Note that a file is whole."""
        self._bytes[job] = size
        self._arrived.pop(job, None)

    def discard(self, job: str) -> None:
        """Remove a job's file, if a client sent one."""
        if self._bytes.pop(job, None) is not None:
            self._arrived.pop(job, None)
            self._aside.submit(partial(shutil.rmtree, self._folder / job, ignore_errors=True))

    def _check_size(self, size: int) -> None:
        if size > self._max_file_bytes:
            raise RefusedError(
                "TOO_BIG",
                f"file of {size} bytes; the limit is {self._max_file_bytes} (uploads.max_file_mb on the server)",
            )

    def _check_room(self, more: int) -> None:
        total = self.total_bytes + more
        if total > self._max_total_bytes:
            raise RefusedError(
                "NO_SPACE",
                f"{more} bytes more: files sent and not finished would take {total} bytes; the limit is"
                f" {self._max_total_bytes} (uploads.max_spool_mb on the server); try again when some are done",
            )
        try:
            free = free_bytes(self._folder)
        except SpoolError as error:
            raise RefusedError("NO_SPACE", str(error)) from error
        coming = sum(self._bytes[job] - arrived for job, arrived in self._arrived.items())
        if free - coming - more < self._reserve_bytes:
            raise RefusedError(
                "NO_SPACE",
                f"{more} bytes more: {free} are free on the server's disk, {coming} of them for uploads under way,"
                f" {self._reserve_bytes} to be left (state.reserve_mb); try again when there is space",
            )


def _sweep(folder: Path, wanted: frozenset[str]) -> None:
    """Remove the folders of jobs that are over: a daemon that was killed may have left some."""
    if not folder.is_dir():
        return
    for found in folder.iterdir():
        if found.name not in wanted:
            shutil.rmtree(found, ignore_errors=True)
