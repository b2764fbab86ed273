"""Disks that are really full: small file systems in memory, filled to the last byte."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import media
from daemon import Daemon, eventually
from subtitle import Client, ServerError
from subtitled.config import schema
from subtitled.files.atomic_files import is_temporary

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.long

TALK = media.clip(name="demo-zh.flac")


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Mount a file system of its own at `folder`."""
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fill the file system to the last byte; return the file to delete."""
    filler = folder / ".filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return filler


def test_subtitles_wait_for_a_full_output_disk(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "inbox-out", "64k"),
        Daemon(tmp_path, state=schema.StateConfig(dir=str(tmp_path / "state"), reserve_mb=0)) as daemon,
    ):
        daemon.start()
        filler = fill(daemon.outbox)
        path, other = daemon.drop(TALK, "talk.flac"), daemon.drop(TALK, "other.flac")
        daemon.wait_for_log("disk.full")
        eventually(lambda: [job.state for job in daemon.jobs()] == ["writing"] * 2, "both wait")
        assert [path for path in daemon.outbox.iterdir() if not is_temporary(path.name)] == [filler]
        assert path.exists()
        filler.unlink()
        assert {daemon.wait_for(path).state, daemon.wait_for(other).state} == {"done"}
        daemon.wait_for_log("disk.ok")
        names = {f"{stem}.zh.{form}" for stem in ("talk", "other") for form in ("srt", "json")}
        assert {found.name for found in daemon.outbox.iterdir()} == names
        assert len(daemon.log("disk.full")) == 1, "once, not for each file"
        daemon.stop()


def test_daemon_waits_for_a_full_state_disk_and_loses_nothing(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "state", "4m"),
        Daemon(tmp_path, state=schema.StateConfig(dir=str(tmp_path / "state"), reserve_mb=0)) as daemon,
    ):
        daemon.start()
        filler = fill(tmp_path / "state")
        path = daemon.drop(TALK, "talk.flac")
        daemon.wait_for_log("disk.full")
        workers = daemon.workers()
        with Client(daemon.endpoint, timeout_s=20.0) as client:
            assert client.list() == ()
            assert client.stats().jobs == {}
            with pytest.raises(ServerError, match="NOT_FOUND"):
                client.status("none")
            with pytest.raises(ServerError, match="NOT_FOUND"):
                client.fetch("none")
        filler.unlink()
        assert daemon.wait_for(path).state == "done"
        assert daemon.workers() == workers
        daemon.stop()
