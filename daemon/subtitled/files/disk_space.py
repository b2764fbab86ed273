"""Whether there is space for the results of further files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

CHECK_S = 5.0
"""Seconds between two looks at the file systems."""


class DiskSpaceMonitor:
    """Watches the free space of some folders' file systems against a reserve; belongs to one thread."""

    def __init__(self, folders: Iterable[str], reserve_bytes: int) -> None:
        self.is_enough = True
        self.cause = ""
        """Which folder has too little, in words; empty when none has."""
        self.reconfigure(folders, reserve_bytes)

    def reconfigure(self, folders: Iterable[str], reserve_bytes: int) -> None:
        """Watch other folders, against another reserve, from the next look on, which is due at once."""
        self._folders = sorted(set(folders))
        self._reserve_bytes = reserve_bytes
        self._due = 0.0

    def check(self, now: float) -> bool:
        """Look again if it is time; return whether the answer changed since the last look."""
        if now < self._due:
            return False
        self._due = now + CHECK_S
        self.cause = next((cause for cause in map(self._fault, self._folders) if cause), "")
        was_enough, self.is_enough = self.is_enough, not self.cause
        return was_enough != self.is_enough

    def _fault(self, folder: str) -> str:
        try:
            found = os.statvfs(_existing(folder))
        except OSError:
            return ""  # a folder that is away is the inbox's or the output's own fault, told there
        free = found.f_bavail * found.f_frsize
        if free >= self._reserve_bytes:
            return ""
        return (
            f"{folder}: {free // 2**20} MiB are free, state.reserve_mb = {self._reserve_bytes // 2**20}; "
            "free some space, work goes on by itself"
        )


def _existing(folder: str) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    path = Path(folder)
    return next((place for place in (path, *path.parents) if place.exists()), path)
