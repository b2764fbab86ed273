"""Checks of the machine: Python, kernel, limits, clock."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from subtitled.doctor.finding import Finding, fault, ok, warning

MIN_PYTHON = (3, 11)
MIN_FILES = 1024
JUMP_S = 1.0


def check() -> Iterator[Finding]:
    """Check the machine."""
    yield python_finding(sys.version_info[:3])
    yield kernel_finding(platform.release(), has_pidfd=_has_pidfd())
    yield files_finding(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    yield clock_finding(time.time(), Path(__file__).stat().st_mtime)


def python_finding(found: tuple[int, int, int]) -> Finding:
    """Check the interpreter's version."""
    text = f"{'.'.join(map(str, found))}, {sys.executable}"
    if found < MIN_PYTHON:
        return fault("Python", text, "create the environment with Python 3.11 or newer")
    return ok("Python", text)


def kernel_finding(release: str, *, has_pidfd: bool) -> Finding:
    """Check the kernel: workers are watched with pidfds."""
    if not has_pidfd:
        remedy = "use a kernel from 5.4 on; in a container, allow pidfd_open in its seccomp profile"
        return fault("kernel", f"{release} has no pidfd_open", remedy)
    return ok("kernel", release)


def files_finding(limit: int) -> Finding:
    """Check the limit of open files."""
    if limit != resource.RLIM_INFINITY and limit < MIN_FILES:
        return warning(
            "open files", f"at most {limit}", f"type: ulimit -n {MIN_FILES} (LimitNOFILE= in the unit)"
        )
    return ok("open files", f"at most {limit}")


def clock_finding(now: float, installed: float) -> Finding:
    """Check the clock: it cannot be earlier than the installation."""
    text = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if now < installed:
        return fault("clock", f"{text}, before subtitled was installed", "type: timedatectl set-ntp true")
    return ok("clock", text)


def jump_finding(realtime_s: float, monotonic_s: float) -> Finding | None:
    """Return a finding if the clock jumped while the checks ran."""
    jump = realtime_s - monotonic_s
    if abs(jump) < JUMP_S:
        return None
    return warning("clock", f"jumped by {jump:+.1f} s during the checks", "type: timedatectl timesync-status")


def _has_pidfd() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True
