"""How many files and sockets this process may have open."""

from __future__ import annotations

import resource

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
