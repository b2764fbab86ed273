"""Detect a state folder that was deleted or replaced: SQLite writes into the deleted files without an error."""

from __future__ import annotations

from pathlib import Path

CHECK_S = 1.0


class StateFolder:
    """Compares the folder and its database with what they were at the start; belongs to the loop's thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths = (folder, folder / "subtitled.sqlite", folder / "lock")
        self._identities = {path: _identity(path) for path in self._paths}
        self._due = 0.0
        self.fault = ""
        """Why nothing that is stored now survives a restart; "" if it does."""

    def check(self, now: float) -> bool:
        """Check again if it is due; return whether `fault` changed."""
        if now < self._due:
            return False
        self._due = now + CHECK_S
        before = self.fault
        lost = next((path for path in self._paths if _identity(path) != self._identities[path]), None)
        self.fault = (
            ""
            if lost is None
            else (
                f"{lost} was deleted or replaced while the daemon runs; no new work is accepted: "
                "move it back, or restart the daemon, which begins with an empty state"
            )
        )
        return self.fault != before


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode; None if nothing is there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
