"""`subtitled run` on a disk that loses what was not synced: `lying_disk_main.py CONFIG IMAGE`.

At each sync of the database's log the folder IMAGE gets a copy of database and log. `restore` puts it in their place, as a
power cut would leave them. Other files are kept: to the daemon the worst power cut is one that loses its database only.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from subtitled.__main__ import main

NAME = "subtitled.sqlite"
_HEADER_BYTES = 32
"""Header of the log, with a salt that changes when the log starts again."""


class LyingDisk:
    """Replaces `os.fsync`."""

    def __init__(self, image: Path) -> None:
        self._image = image
        self._fsync = os.fsync
        self._lock = threading.Lock()

    def fsync(self, file: int) -> None:
        """Sync a file, and take an image if it is the log of the database."""
        self._fsync(file)
        path = Path(f"/proc/self/fd/{file}").readlink()
        if path.name == f"{NAME}-wal":
            with self._lock:
                self._take(path)

    def _take(self, log: Path) -> None:
        new = self._image.with_name(f"{self._image.name}.new")
        while True:
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
            header = _header(log)
            shutil.copy(log.with_name(NAME), new)
            shutil.copy(log, new)
            if header == _header(log) == _header(new / log.name):
                break  # no checkpoint has started the log again meanwhile, so it has all that the database lacks
        old = self._image.with_name(f"{self._image.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if self._image.exists():
            self._image.rename(old)
        new.rename(self._image)


def restore(image: Path, state: Path) -> bool:
    """Put the last image in place of the database in `state`, while no daemon runs; return whether there was one."""
    if not image.exists():
        image = image.with_name(f"{image.name}.old")  # killed between two renames
    if not image.exists():
        return False
    for path in state.glob(f"{NAME}*"):
        path.unlink()
    for path in image.iterdir():
        shutil.copy(path, state)
    return True


def _header(log: Path) -> bytes:
    with log.open("rb") as file:
        return file.read(_HEADER_BYTES)


if __name__ == "__main__":
    os.fsync = LyingDisk(Path(sys.argv[2])).fsync  # type: ignore[assignment]
    sys.argv = ["subtitled", "run", "--config", sys.argv[1]]
    main()
