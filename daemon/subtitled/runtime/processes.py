"""Set up a process: priority, descriptor limit, malloc, end with its parent; describe exit statuses."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from subtitled.errors import ExitCode

PR_SET_PDEATHSIG = 1
START_RETRY_S = 0.2
_LACKING = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
"""No process, memory or descriptor is left for a new process; see fork(2) and pipe(2)."""
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""Parameters of mallopt(3), from malloc.h."""


def describe_status(status: int) -> str:
    """Return an exit status of `Popen` as text."""
    if status < 0:
        try:
            return f"killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"killed by signal {-status}"
    return "exited" if status == 0 else f"exited with status {status}"


def module_command(module: str) -> tuple[str, ...]:
    """Return the command that runs a module as a child of this Python.

    `-P`: no module is imported from the current folder, to which other users may write; a sandbox that leaves `sys.path` readable
    would also leave that folder readable.
    """
    return (sys.executable, "-P", "-m", module)


def start_process(
    command: Sequence[str], until: float, pause: Callable[[float], object] = time.sleep, **options: Any
) -> subprocess.Popen[bytes]:
    """Start a process as Popen does with `options`; while the system lacks what it takes, try again. Blocks.

    Raises OSError at the time `until` (monotonic clock), for any other cause, or when `pause`, which is called with the
    seconds between two attempts, returns a true value.
    """
    while True:
        try:
            return subprocess.Popen(command, **options)
        except OSError as error:
            is_over = error.errno not in _LACKING or time.monotonic() >= until
            if is_over or pause(START_RETRY_S):
                raise


def die_with_parent(parent_pid: int) -> None:
    """Make the kernel kill this process when its parent ends; exits at once when the parent has ended already."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        sys.exit(ExitCode.FAILED)


def keep_memory() -> None:
    """Make malloc reuse freed memory instead of returning it to the kernel.

    To be called while the process has one thread. CTranslate2 on a CPU allocates and frees hundreds of megabytes at every
    layer; with fresh pages from the kernel each time, clearing them takes two fifths of the processor time (demo model, 16
    segments: 1.5 million page faults). The largest resident size is unchanged. Does nothing without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)  # other arenas than the first cannot grow beyond 64 MB
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


NICENESS = 5
"""nice(1) value of the daemon's children: the daemon gets about three times the share of each."""


def lower_priority() -> None:
    """Lower the priority of this child below the daemon's, which needs little processor time but without delay."""
    os.nice(NICENESS)


def become_child(parent_pid: int, *also_ignored: signal.Signals) -> None:
    """Set up a child of the daemon: it ends with its parent, has a lower priority, and ignores signals to the daemon's group.

    Ctrl-C in a terminal goes to the whole process group, `systemctl kill` to the whole unit; the daemon ends its children.
    """
    die_with_parent(parent_pid)
    lower_priority()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, *also_ignored):
        signal.signal(number, signal.SIG_IGN)


MAX_DESCRIPTORS = 16_384
"""Limit of open descriptors that the daemon sets; the usual default is 1024."""


def raise_descriptor_limit() -> int:
    """Raise the limit of open files up to MAX_DESCRIPTORS as far as allowed (root: the hard limit too); return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= MAX_DESCRIPTORS:
        return MAX_DESCRIPTORS
    for limits in ((MAX_DESCRIPTORS, max(hard, MAX_DESCRIPTORS)), (min(hard, MAX_DESCRIPTORS), hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        except (ValueError, PermissionError):
            continue
        return limits[0]
    return soft
