"""Files that wait for disk space are taken at the path that they have then."""

from __future__ import annotations

import contextlib
from pathlib import Path

from subtitled.config.schema import InboxConfig
from subtitled.inboxes.arrivals import FoundFile, InboxArrivals
from subtitled.inboxes.watch import RenamedFile, SettledFile
from subtitled.storage.store import Store


def test_file_that_is_renamed_while_it_waits_for_space_is_taken_once(tmp_path: Path) -> None:
    inbox = InboxConfig(path=str(tmp_path / "in"), output=str(tmp_path / "out"))
    released: list[FoundFile] = []
    with contextlib.closing(Store(str(tmp_path / "state.db"))) as store:
        arrivals = InboxArrivals((inbox,), store, released.append)
        before, after, other = (str(tmp_path / "in" / name) for name in ("a.wav", "b.wav", "c.wav"))
        for file in (
            SettledFile(0, before, 5, 5),
            SettledFile(0, other, 6, 6),
            RenamedFile(0, before, after),
            SettledFile(0, after, 5, 5),
        ):
            assert arrivals.take(FoundFile(file, inbox), is_space=False) is None
        arrivals.release()
    assert [found.file.path for found in released] == [other, after]
