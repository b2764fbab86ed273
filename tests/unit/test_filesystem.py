"""The file system of a path is read from the kernel's table of mounts."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from subtitled.core.actions import CheckFile
from subtitled.core.events import Event
from subtitled.core.records import Job, Options
from subtitled.core.states import JobState
from subtitled.files.filesystem import (
    NETWORK_FILE_SYSTEMS,
    file_system,
    find_renamed,
    is_mounted,
    is_open_for_writing,
    mount_of,
    read_mounts,
    writer_of,
)
from subtitled.server.hung_folders import FileChecks

MOUNTS = (
    "/dev/vda / ext4 rw,relatime 0 0\n"
    "nas:/media /srv/nas nfs4 rw 0 0\n"
    "//nas/films /srv/nas/my\\040films cifs rw 0 0\n"
    "/dev/sdb1 /srv/over nfs rw 0 0\n"
    "/dev/sdb2 /srv/over xfs rw 0 0\n"
)


def test_longest_mount_point_holds_the_path() -> None:
    assert file_system("/srv/nas/a", MOUNTS) == "nfs4"
    assert file_system("/srv/nas", MOUNTS) == "nfs4"
    assert file_system("/srv/nasty", MOUNTS) == "ext4"
    assert file_system("/", MOUNTS) == "ext4"


def test_escaped_mount_point_is_found() -> None:
    assert file_system("/srv/nas/my films/a", MOUNTS) == "cifs"


def test_later_mount_hides_the_earlier_one() -> None:
    assert file_system("/srv/over", MOUNTS) == "xfs"


def test_path_without_a_mount_has_no_file_system() -> None:
    assert file_system("/srv", "") == ""


def test_mount_point_of_a_path_is_found_through_links(tmp_path: Path) -> None:
    """Links into a network file system are followed up to it: a call on it may hang."""
    nas = tmp_path / "nas"
    nas.mkdir()
    (tmp_path / "inbox").symlink_to(nas)
    (tmp_path / "deep").symlink_to("inbox/films/../talks")
    (nas / "films").symlink_to(tmp_path)
    (tmp_path / "circle").symlink_to("circle")
    root = "22 1 253:0 / / rw,relatime - ext4 /dev/vda rw\n"
    disk = f"{root}40 22 253:1 / {tmp_path} rw shared:1 - xfs /dev/vdb rw\n"
    mounts = f"{disk}41 40 0:50 / {nas} rw - nfs4 nas:/media rw\n"
    for path in ("inbox", "deep", "inbox/a.wav", "nas/films/a.wav", "nas"):
        assert mount_of(str(tmp_path / path), mounts) == str(nas)
    for path in ("", "nasty", "circle", "nas/../a.wav"):
        assert mount_of(str(tmp_path / path), mounts) == str(tmp_path)
    assert mount_of("/etc/passwd", root) == ""
    own = f"{root}42 22 253:0 {tmp_path} {tmp_path} rw - ext4 /dev/vda rw\n"
    assert mount_of(str(tmp_path), own) == ""
    assert mount_of(str(tmp_path), own.replace(f"253:0 {tmp_path}", "253:0 /elsewhere")) == str(tmp_path)
    table = tmp_path / "mounts"
    table.write_text(f"/dev/vda / ext4 rw 0 0\n/dev/vdb {tmp_path} xfs rw 0 0\n")
    assert is_mounted(str(tmp_path), table)
    assert is_mounted("", table)
    assert not is_mounted(str(nas), table)


def test_network_file_systems_are_known() -> None:
    assert {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p"} <= NETWORK_FILE_SYSTEMS
    assert not {"ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs"} & NETWORK_FILE_SYSTEMS


@pytest.mark.parametrize(
    "place", ["#recycle/a.wav", "@Recycle/a.wav", ".Trash/a.wav", ".a.wav", "done/a.wav"]
)
def test_renamed_file_is_not_searched_in_a_recycle_bin(tmp_path: Path, place: str) -> None:
    for name in (place, "films/b.wav"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"sound")
        os.utime(path, ns=(5, 5))
    assert find_renamed(str(tmp_path), 5, 5) == str(tmp_path / "films/b.wav")
    (tmp_path / "films/b.wav").unlink()
    assert find_renamed(str(tmp_path), 5, 5) is None


@pytest.mark.parametrize(
    ("place", "include", "exclude", "is_found"),
    [
        ("raw/b.wav", (), ("Raw/*",), False),
        ("raw/2026/b.wav", (), ("/raw/*",), False),
        ("raw/b.draft.WAV", (), ("*.Draft.*",), False),
        ("films/b.wav", (), ("raw/*",), True),
        ("films/b.wav", ("*.mkv",), (), False),
        ("films/b.wav", ("films/*.WAV",), (), True),
    ],
)
def test_renamed_file_is_searched_only_where_the_globs_of_its_inbox_accept_it(
    tmp_path: Path, place: str, include: tuple[str, ...], exclude: tuple[str, ...], is_found: bool
) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_bytes(b"sound")
    os.utime(path, ns=(5, 5))
    found = find_renamed(str(tmp_path), 5, 5, include=include, exclude=exclude)
    assert found == (str(path) if is_found else None)


@pytest.mark.parametrize(("kind", "is_open"), [("ext4", True), ("nfs4", False), ("cifs", False)])
def test_lease_that_a_network_file_system_refuses_shows_no_writer(
    tmp_path: Path, kind: str, is_open: bool
) -> None:
    mounts, path = tmp_path / "mounts", tmp_path / "a.wav"
    mounts.write_text(f"server:/x / {kind} rw 0 0\n")
    with path.open("wb"):
        assert is_open_for_writing(str(path), mounts) is is_open
    assert not is_open_for_writing(str(path), mounts)


def test_writer_with_a_name_that_the_kernel_cuts_within_a_character_is_found(tmp_path: Path) -> None:
    path = tmp_path / "talk.mkv"
    code = (
        "import sys\n"
        "file = open(sys.argv[1], 'wb')\n"
        "open('/proc/self/comm', 'wb').write('Filmaufnahmen-\u00fc'.encode())\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = (sys.executable, "-c", code, str(path))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert writer_of(str(path)) == f"Filmaufnahmen-\ufffd (pid {process.pid})"
        process.communicate()


def test_file_that_is_gone_has_no_writer(tmp_path: Path) -> None:
    assert writer_of(str(tmp_path / "gone.mkv")) == ""


def test_mount_counts_as_mounted_while_the_table_of_mounts_cannot_be_read(tmp_path: Path) -> None:
    assert is_mounted("/srv/nas", tmp_path / "missing")
    assert mount_of("/srv/nas/a.mkv", read_mounts(tmp_path / "missing")) == ""


def test_stopped_check_of_a_folder_that_is_not_mounted_ends_and_reports_nothing(tmp_path: Path) -> None:
    calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    events: list[Event] = []
    checks = FileChecks(events.append, calls.put)
    path, folder = bytes(tmp_path / "a.wav"), bytes(tmp_path)
    options = Options(inbox=folder, mount=folder)
    job = Job(
        id="a",
        state=JobState.QUEUED,
        source=path,
        location=path,
        size=1,
        mtime_ns=1,
        options=options,
        order=1,
    )
    checks.check(CheckFile(job=job, folder=folder, suspicion=""))
    checks.stop(folder)
    calls.get(timeout=60)()
    assert not events
    assert not checks.hung_s
