"""The media that clients have sent, on the disk: how much there is, what more may come, what goes."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from subtitled.api.peer import RefusedError
from subtitled.config.schema import UploadsConfig as Limits
from subtitled.core.records import Job
from subtitled.errors import SpoolError
from subtitled.files.atomic_files import free_bytes
from subtitled.runtime.background import BackgroundPool

MIB = 2**20


class UploadStore:
    """Accounts for the folder of uploads; belongs to the thread of the server's loop."""

    def __init__(self, folder: Path, limits: Limits, *, reserve_bytes: int, aside: BackgroundPool) -> None:
        self._folder = folder
        self._aside = aside
        self._bytes: dict[str, int] = {}
        """What each job's file takes, or will take when it has arrived."""
        self._arrived: dict[str, int] = {}
        """What is on the disk of those that are still arriving."""
        self._spare: dict[str, int] = {}
        """The files of jobs that are done, and when these ended, the oldest first: kept to be heard, while there is room."""
        self._going: dict[str, int] = {}
        """What is being removed, and will be free."""
        self.reconfigure(limits, reserve_bytes=reserve_bytes)

    def reconfigure(self, limits: Limits, *, reserve_bytes: int) -> None:
        """Put other limits into force, for what comes from now on."""
        self._max_file_bytes = limits.max_file_mb * MIB
        self._max_total_bytes = limits.max_spool_mb * MIB
        self._reserve_bytes = reserve_bytes
        self._keep_done_ms = int(limits.keep_done_s * 1000)

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

    def take_stock(
        self,
        jobs: Iterable[Job],
        *,
        is_arriving: Iterable[str],
        done: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Count, at the start, the files that clients sent of `jobs`; remove all others. `done`: when those ended that are done, the oldest first."""
        arriving = set(is_arriving)
        for job in filter(self.holds, jobs):
            path = Path(os.fsdecode(job.location))
            try:
                found = path.stat().st_size
            except OSError:
                found = 0
            if job.id in done:
                if not found:
                    continue
                self._spare[job.id] = done[job.id]
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

    def spare(self, job: str, ended_ms: int) -> None:
        """Note that a job is done: its file may be heard until `uploads.keep_done_s` is over, or its space is needed."""
        if not self._keep_done_ms:
            self.discard(job)
        elif job in self._bytes:
            self._spare[job] = ended_ms

    def tick(self, now_ms: int) -> None:
        """Remove the files of jobs that are done whose time is over, or that keep the disk from having room to spare."""
        for job, ended_ms in list(self._spare.items()):
            if now_ms - ended_ms >= self._keep_done_ms:
                self.discard(job)
        if self._spare:
            with contextlib.suppress(SpoolError):
                # Twice the reserve: at once the reserve all new work would stop, for files that nobody needs.
                self._give_up(min(2 * self._reserve_bytes - self._free_bytes(), self._spare_bytes))

    def discard(self, job: str) -> None:
        """Remove a job's file, if a client sent one."""
        size = self._bytes.pop(job, None)
        if size is None:
            return
        self._spare.pop(job, None)
        self._going[job] = self._arrived.pop(job, size)

        def gone(_: object) -> None:
            self._going.pop(job, None)

        self._aside.run(partial(shutil.rmtree, self._folder / job, ignore_errors=True), gone, gone, OSError)

    def _give_up(self, wanted_bytes: int) -> None:
        """Remove files of jobs that are done, the oldest first, for so many bytes; none where all of them would not do."""
        if wanted_bytes > self._spare_bytes:
            return
        while wanted_bytes > 0:
            oldest = next(iter(self._spare))
            wanted_bytes -= self._bytes[oldest]
            self.discard(oldest)

    @property
    def _spare_bytes(self) -> int:
        return sum(self._bytes[job] for job in self._spare)

    def _free_bytes(self) -> int:
        """Return what is free on the disk, or will be at once; raises SpoolError."""
        return free_bytes(self._folder) + sum(self._going.values())

    def _check_size(self, size: int) -> None:
        if size > self._max_file_bytes:
            raise RefusedError(
                "TOO_BIG",
                f"file of {size} bytes; the limit is {self._max_file_bytes} (uploads.max_file_mb on the server)",
            )

    def _check_room(self, more: int) -> None:
        self._give_up(self.total_bytes + more - self._max_total_bytes)
        total = self.total_bytes + more
        if total > self._max_total_bytes:
            raise RefusedError(
                "NO_SPACE",
                f"{more} bytes more: files sent and not finished would take {total} bytes; the limit is"
                f" {self._max_total_bytes} (uploads.max_spool_mb on the server); try again when some are done",
            )
        try:
            coming = sum(self._bytes[job] - arrived for job, arrived in self._arrived.items())
            self._give_up(self._reserve_bytes + coming + more - self._free_bytes())
            free = self._free_bytes()
        except SpoolError as error:
            raise RefusedError("NO_SPACE", str(error)) from error
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
