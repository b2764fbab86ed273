"""Checks of the machine: Python, kernel, limits, clock."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from subtitled.doctor.finding import Finding, fault, ok, warning

MIN_PYTHON = (3, 11)
MIN_FILES = 1024
JUMP_S = 1.0
SANDBOX_S = 60.0


def check() -> Iterator[Finding]:
    """Check the machine."""
    yield python_finding(sys.version_info[:3])
    yield kernel_finding(platform.release(), has_pidfd=_has_pidfd())
    yield sandbox_finding(*_sandbox())
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


def sandbox_finding(missing: Sequence[str], error: str) -> Finding:
    """Check the sandbox of decoder processes: the layers that the kernel lacks, and why it refuses one."""
    if error:
        return fault(
            "sandbox", error, "allow Landlock and seccomp filters, in a container by its seccomp profile"
        )
    if missing:
        remedy = "update the kernel, or accept that media files are decoded without it"
        return warning("sandbox", f"this kernel lacks {'; '.join(missing)}", remedy)
    return ok("sandbox", "Landlock and seccomp filters confine the processes that decode media")


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


def jump_finding(offset_s: float, offset_before_s: float) -> Finding | None:
    """Return a finding if the clock jumped while the checks ran: its offset to the monotonic clock has changed."""
    jump = offset_s - offset_before_s
    if abs(jump) < JUMP_S:
        return None
    return warning("clock", f"jumped by {jump:+.1f} s during the checks", "type: timedatectl timesync-status")


_CONFINED = """
import json
from subtitled.errors import SubtitledError
from subtitled.runtime import sandbox
try:
    print(json.dumps([sandbox.enter((), memory_bytes=0, allows_unix_sockets=True).missing(), ""]))
except SubtitledError as error:
    print(json.dumps([[], str(error)]))
"""


def _sandbox() -> tuple[Sequence[str], str]:
    """Return what a confined process lacks, and its error: a process of its own enters the sandbox."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CONFINED], capture_output=True, timeout=SANDBOX_S, check=True
        )
        missing, error = msgspec.json.decode(done.stdout, type=tuple[list[str], str])
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError) as failure:
        return (), f"a confined process failed: {failure}"
    return missing, error


def _has_pidfd() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True
