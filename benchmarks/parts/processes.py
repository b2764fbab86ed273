"""Processor time and memory of processes, from /proc; the machine that they run on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def family(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    stats = {int(folder.name): _stat(int(folder.name)) for folder in Path("/proc").glob("[0-9]*")}
    found = [pid]
    for member in found:
        found += [child for child, stat in stats.items() if stat and int(stat[1]) == member]
    return found


def cpu_s(pids: Sequence[int]) -> float:
    """Return the processor time that these processes have used, in seconds."""
    stats = [stat for pid in pids if (stat := _stat(pid))]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


def peak_mb(pids: Sequence[int]) -> float:
    """Return the sum of the largest resident sizes of these processes, in MiB."""
    sizes = [re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{pid}/status").read_text()) for pid in pids]
    return sum(int(size[1]) for size in sizes if size) / 1024


def machine() -> str:
    """Return a line about this machine, its load, and the commit that is measured."""
    git = ("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty")
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    cpu = found[1] if found else platform.machine()
    return (
        f"commit {commit}, {os.cpu_count()} cores of {cpu}, load average {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}"
    )


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on (proc(5)'s third); none of a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
