"""Whether there is space for the results of further files."""

from __future__ import annotations

import os
import re
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


_NETWORK = """
    9p afs ceph cifs davfs fuse.davfs2 fuse.glusterfs fuse.rclone fuse.s3fs fuse.sshfs lustre ncpfs nfs nfs4
    prl_fs smb2 smb3 smbfs vboxsf virtiofs
"""
NETWORK_FILE_SYSTEMS = frozenset(_NETWORK.split())
"""Kinds of file system, in the kernel's words, where inotify does not tell what other hosts do."""


def file_system(real: str, mounts: str) -> str:
    """Return the kind of file system that holds `real`, by the text of /proc/self/mounts.

    `real` is an absolute path without symbolic links. "" where no line of `mounts` holds it.
    """
    found, longest = "", -1
    for line in filter(None, mounts.split("\n")):
        _, point, kind, *_ = line.split(" ")
        # The kernel writes space, tab, newline and backslash as three octal digits.
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point).rstrip("/")
        # Of two mounts on one point the later one is seen.
        if (real + "/").startswith(point + "/") and len(point) >= longest:
            found, longest = kind, len(point)
    return found
