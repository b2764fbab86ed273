"""What a child process does at its start, and what its exit status means."""

from __future__ import annotations

import ctypes
import os
import resource
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


NICENESS = 5
"""Of the children (nice(1)): against each of them the daemon has three times its share."""


def give_way() -> None:
    """Have the kernel prefer the daemon to this process, its child.

    The daemon needs little of a processor, and needs it at once: everybody waits for it. Who decodes, computes or lays out
    for seconds does not mind.
    """
    os.nice(NICENESS)


MAX_DESCRIPTORS = 16_384
"""Open files that are asked of the system, which gives 1024 where nothing else is said."""


def more_descriptors() -> int:
    """Have the process open as many files as it may, within reason; return how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
