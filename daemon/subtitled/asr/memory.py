"""Memory of a worker's device: what its process uses, and what is free."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from subtitled.asr import cuda

_STATM = Path("/proc/self/statm")
_MEMINFO = Path("/proc/meminfo")
_OWN_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")


def used_bytes(device: str) -> int | None:
    """Return a value that grows by the memory that is taken on the device ("cpu", "cuda"); None if unknown.

    On a CPU, the process's resident memory; on a GPU, the memory that is not free any more, by whatever program.
    """
    if device == "cpu":
        try:
            return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError, IndexError):
            return None
    free = cuda.free_bytes()
    return None if free is None else -free


def free_bytes(device: str) -> int | None:
    """Return the free memory of the device; None if unknown. On a CPU, limited by the process's control groups.

    Their page cache counts as free: the kernel drops it before a limit is exceeded.
    """
    if device != "cpu":
        return cuda.free_bytes()
    found = [_available(), *_left_in_cgroups()]
    return min((free for free in found if free is not None), default=None)


def _available() -> int | None:
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _left_in_cgroups() -> list[int | None]:
    """Return the memory left in the process's control group, and in those around it; None for one without a limit."""
    try:
        entries = _OWN_CGROUP.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []
    # Of version 2; in a container the path may be the host's, and only the root is there.
    path = next((entry[3:].strip("/") for entry in entries if entry.startswith("0::")), "")
    own = _CGROUPS / path
    groups = [own, *own.parents]
    return [_left_in(group) for group in groups[: groups.index(_CGROUPS) + 1]]


def _left_in(group: Path) -> int | None:
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # another version of control groups, or "max"
        return None
    return max(0, limit - used + _droppable_cache(group))


def _droppable_cache(group: Path) -> int:
    try:
        lines = (group / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)


def trim() -> None:
    """Return freed memory to the kernel, which a CPU worker's malloc otherwise keeps (`keep_memory`)."""
    trim_heap = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim_heap is not None:
        trim_heap(0)
