"""One daemon to a state folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from subtitled.errors import SubtitledError


def take_folder(state: Path) -> int:
    """Take the state folder for this process; return the descriptor that holds it.

    Raises SubtitledError when another daemon has it.
    """
    lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise SubtitledError(
            f'state.dir = "{state}": another daemon uses it; stop that one, or give this one a folder of its own'
        ) from None
    return lock
