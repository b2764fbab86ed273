"""The file system of a path is read from the kernel's table of mounts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from subtitled.files.filesystem import NETWORK_FILE_SYSTEMS, file_system, find_renamed, is_open_for_writing

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


@pytest.mark.parametrize(("kind", "is_open"), [("ext4", True), ("nfs4", False), ("cifs", False)])
def test_lease_that_a_network_file_system_refuses_shows_no_writer(
    tmp_path: Path, kind: str, is_open: bool
) -> None:
    mounts, path = tmp_path / "mounts", tmp_path / "a.wav"
    mounts.write_text(f"server:/x / {kind} rw 0 0\n")
    with path.open("wb"):
        assert is_open_for_writing(str(path), mounts) is is_open
    assert not is_open_for_writing(str(path), mounts)
