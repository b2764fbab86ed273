"""What a child process does at its start, and what its exit status means."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from subtitled.errors import ExitCode

PR_SET_PDEATHSIG = 1
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""Parameters of mallopt(3), from malloc.h."""


def describe_status(status: int) -> str:
    """Return an exit status of `Popen` in words."""
    if status < 0:
        try:
            return f"killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"killed by signal {-status}"
    return "exited" if status == 0 else f"exited with status {status}"


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends; exits at once if it has ended already."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        sys.exit(ExitCode.FAILED)


def keep_memory() -> None:
    """Have malloc keep what is freed for the next call instead of giving it back to the kernel.

    To be called while there is one thread. CTranslate2 on a CPU asks for hundreds of megabytes at every layer and frees
    them; got anew from the kernel each time, clearing their pages takes two of every five seconds of processor time (the demo
    model, 16 segments: 1.5 million page faults). The largest resident size is the same. Does nothing without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)  # other arenas than the first cannot grow beyond 64 MB
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
