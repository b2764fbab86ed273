"""A disk that fails by plan: a gate before the system calls of Python that write files and make them durable.

What the database writes goes through SQLite's own calls, not through these.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from faults.planned_faults import PlannedFaults


@contextlib.contextmanager
def failing_disk(plan: PlannedFaults) -> Iterator[None]:
    """Put the gate before `os.fsync` and `os.write` of this process."""
    fsync, write = os.fsync, os.write
    os.fsync = _gated(plan, "fsync", fsync)  # type: ignore[assignment]
    os.write = _gated(plan, "write", write)  # type: ignore[assignment]
    try:
        yield
    finally:
        os.fsync, os.write = fsync, write


def _gated(plan: PlannedFaults, call: str, through: Callable[..., int | None]) -> Callable[..., int | None]:
    is_asking = False

    def gated(file: int, *args: object) -> int | None:
        nonlocal is_asking
        if is_asking:  # the plan notes what is used up, with the same calls
            return through(file, *args)
        is_asking = True
        try:
            fault = plan.strike_disk(call, str(Path(f"/proc/self/fd/{file}").readlink()))
        finally:
            is_asking = False
        if fault is not None:
            raise OSError(fault.errno, os.strerror(fault.errno))
        return through(file, *args)

    return gated
