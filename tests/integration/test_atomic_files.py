"""Files appear whole and stay in their folders."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subtitled.errors import FileWriteError
from subtitled.files import open_beneath
from subtitled.files.atomic_files import (
    NAME_BYTES,
    fitted,
    inside,
    is_temporary,
    move_whole,
    printable,
    sweep_temporaries,
    write_whole,
)
from subtitled.files.filesystem import free_bytes

AWKWARD = [
    "a b.srt",
    "谈话.srt",
    "🎬.srt",
    "two\nlines.srt",
    os.fsdecode(b"\xff\xfe.srt"),
    "x" * 251 + ".srt",
]


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def run(script: str, folder: Path) -> None:
    """Run `script` in a separate process, with the folder as its argument."""
    subprocess.run([sys.executable, "-c", script, folder], timeout=30, check=False)


@pytest.mark.parametrize("name", AWKWARD)
def test_any_name_can_be_written(tmp_path: Path, name: str) -> None:
    write_whole(tmp_path / name, b"data")
    assert (tmp_path / name).read_bytes() == b"data"
    assert names(tmp_path) == [name]


def test_writing_again_replaces_what_was_there(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.srt", b"old" * 1000)
    write_whole(tmp_path / "a.srt", b"new")
    assert (tmp_path / "a.srt").read_bytes() == b"new"


def test_missing_folder_is_made(tmp_path: Path) -> None:
    write_whole(tmp_path / "deep" / "er" / "a.srt", b"")
    assert (tmp_path / "deep" / "er" / "a.srt").read_bytes() == b""


def test_written_file_has_the_rights_that_the_umask_leaves(tmp_path: Path) -> None:
    """Not 0600, as tempfile would have it: a media player runs as another user."""
    (tmp_path / "plain").touch()
    write_whole(tmp_path / "a.srt", b"")
    assert stat.S_IMODE((tmp_path / "a.srt").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "plain").stat().st_mode
    )


def test_failed_write_leaves_no_temporary_and_names_the_path(tmp_path: Path) -> None:
    (tmp_path / "a.srt").mkdir()
    with pytest.raises(FileWriteError, match=r"a\.srt cannot be written: Is a directory"):
        write_whole(tmp_path / "a.srt", b"data")
    assert names(tmp_path) == ["a.srt"]


def test_name_that_is_too_long_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileWriteError, match="at most 255 bytes"):
        write_whole(tmp_path / ("x" * 256), b"data")
    assert names(tmp_path) == []


def test_write_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    """A limit on file sizes stands in for a full disk: the kernel takes a part, then refuses."""
    (tmp_path / "a.srt").write_bytes(b"old")
    run(
        "import resource, signal, sys, pathlib\n"
        "from subtitled.errors import FileWriteError\n"
        "from subtitled.files.atomic_files import write_whole\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "try:\n"
        "    write_whole(folder / 'a.srt', bytes(2000))\n"
        "except FileWriteError as error:\n"
        "    (folder / 'error').write_text(str(error))\n",
        tmp_path,
    )
    assert "a.srt cannot be written: File too large" in (tmp_path / "error").read_text()
    assert (tmp_path / "a.srt").read_bytes() == b"old"
    assert sorted(names(tmp_path)) == ["a.srt", "error"]


def test_sweep_removes_what_was_abandoned_and_nothing_else(tmp_path: Path) -> None:
    """A file that a process still holds its lock on is being written."""
    (tmp_path / "sub").mkdir()
    abandoned = tmp_path / "sub" / ".subtitled-0123.tmp"
    held = tmp_path / ".subtitled-4567.tmp"
    others = [tmp_path / "a.srt", tmp_path / ".hidden", tmp_path / "b.tmp"]
    for path in [abandoned, held, *others]:
        path.touch()
    with held.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert sweep_temporaries(tmp_path) == 1
    assert not abandoned.exists()
    assert held.exists()
    assert all(path.exists() for path in others)


def test_sweep_finds_what_a_killed_writer_leaves(tmp_path: Path) -> None:
    """The temporary file of a real write is one of those that a sweep recognises."""
    run(
        "import os, pathlib, signal, sys\n"
        "from subtitled.files.atomic_files import write_whole\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_whole(pathlib.Path(sys.argv[1], 'x' * 255), b'data')\n",
        tmp_path,
    )
    (left,) = names(tmp_path)
    assert is_temporary(left)
    assert sweep_temporaries(tmp_path) == 1
    assert names(tmp_path) == []


def test_sweep_of_a_missing_folder_removes_nothing(tmp_path: Path) -> None:
    assert sweep_temporaries(tmp_path / "missing") == 0


def test_free_bytes_of_a_missing_folder_are_those_of_its_parent(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "yet") > 0


def test_inside_follows_links_and_dots(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "out").symlink_to(tmp_path)
    (root / "in").symlink_to("sub")
    assert inside(root, root / "sub" / "a")
    assert inside(root, root / "in" / "a")
    assert not inside(root, root / "out" / "a")
    assert not inside(root, root / ".." / "root2")
    assert not inside(root, tmp_path / "rootless")


def test_move_keeps_the_content_and_times(tmp_path: Path) -> None:
    source = tmp_path / "a.mp4"
    source.write_bytes(b"media")
    os.utime(source, ns=(1, 2_000_000_000))
    moved = move_whole(source, tmp_path / "done" / "a.mp4")
    assert moved == tmp_path / "done" / "a.mp4"
    assert moved.read_bytes() == b"media"
    assert moved.stat().st_mtime_ns == 2_000_000_000
    assert not source.exists()


@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("a.mp4", "a (2).mp4"),
        ("noend", "noend (2)"),
        ("a.tar.gz", "a.tar (2).gz"),
        (".dot", ".dot (2)"),
        ("谈话.mp3", "谈话 (2).mp3"),
    ],
)
def test_move_never_overwrites(tmp_path: Path, name: str, second: str) -> None:
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / name).write_bytes(b"first")
    (tmp_path / name).write_bytes(b"second")
    assert move_whole(tmp_path / name, tmp_path / "done" / name) == tmp_path / "done" / second
    (tmp_path / name).write_bytes(b"third")
    third = move_whole(tmp_path / name, tmp_path / "done" / name)
    assert third.name == second.replace("(2)", "(3)")
    assert sorted(path.read_bytes() for path in (tmp_path / "done").iterdir()) == [
        b"first",
        b"second",
        b"third",
    ]


def test_move_of_a_255_byte_name_finds_a_second_name(tmp_path: Path) -> None:
    name = "长" * 83 + "ab.mp3"
    assert len(os.fsencode(name)) == NAME_BYTES
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / name).touch()
    (tmp_path / name).write_bytes(b"second")
    moved = move_whole(tmp_path / name, tmp_path / "done" / name)
    assert moved.name.endswith(" (2).mp3")
    assert moved.read_bytes() == b"second"


def test_move_of_a_missing_file_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(FileWriteError, match=r"a\.mp4 cannot be moved to .*done/a\.mp4: No such file"):
        move_whole(tmp_path / "a.mp4", tmp_path / "done" / "a.mp4")
    assert names(tmp_path) == []


def test_move_that_fails_leaves_the_source_and_no_claim(tmp_path: Path) -> None:
    """A folder is no file."""
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(FileWriteError):
        move_whole(tmp_path / "a.mp4", tmp_path / "done" / "a.mp4")
    assert (tmp_path / "a.mp4").is_dir()
    assert names(tmp_path) == ["a.mp4"]


def other_file_system(folder: Path) -> Path:
    shared = Path("/dev/shm")  # noqa: S108 - the one writable tmpfs that every Linux has
    if not os.access(shared, os.W_OK) or shared.stat().st_dev == folder.stat().st_dev:
        pytest.skip("needs two writable file systems")
    return shared


@pytest.mark.parametrize("is_link", [False, True])
def test_move_between_file_systems_copies_and_removes(tmp_path: Path, *, is_link: bool) -> None:
    target = other_file_system(tmp_path) / f"subtitled-test-{os.getpid()}" / "a.mp4"
    source = tmp_path / "a.mp4"
    if is_link:
        source.symlink_to("b.mp4")
    else:
        source.write_bytes(b"media")
        os.utime(source, ns=(1, 2_000_000_000))
    try:
        target.parent.mkdir()
        with pytest.raises(OSError, match=os.strerror(errno.EXDEV)):
            source.rename(target)
        assert move_whole(source, target) == target
        assert names(target.parent) == ["a.mp4"]
        assert not os.path.lexists(source)
        if is_link:
            assert target.readlink() == Path("b.mp4")
        else:
            assert target.read_bytes() == b"media"
            assert target.stat().st_mtime_ns == 2_000_000_000
    finally:
        target.unlink(missing_ok=True)
        target.parent.rmdir()


def test_move_killed_while_copying_leaves_no_file_with_the_final_name(tmp_path: Path) -> None:
    """The next try gets the name, and the sweep removes the rest of the first."""
    target = other_file_system(tmp_path) / f"subtitled-test-{os.getpid()}" / "a.mp4"
    source = tmp_path / "a.mp4"
    source.write_bytes(b"media" * 1_000_000)
    program = (
        "import os, signal, sys\n"
        "from subtitled.files import atomic_files\n"
        "atomic_files.shutil.copyfileobj = lambda old, new, size: (new.write(old.read(size)), new.flush(), "
        "os.kill(os.getpid(), signal.SIGKILL))\n"
        "atomic_files.move_whole(*sys.argv[1:])\n"
    )
    target.parent.mkdir()
    try:
        subprocess.run([sys.executable, "-c", program, str(source), str(target)], check=False)
        assert source.exists()
        assert all(is_temporary(name) for name in names(target.parent))
        assert move_whole(source, target) == target
        assert sweep_temporaries(target.parent) == 1
        assert names(target.parent) == ["a.mp4"]
        assert target.stat().st_size == 5_000_000
    finally:
        shutil.rmtree(target.parent)


@pytest.mark.parametrize("has_openat2", [True, False])
def test_link_does_not_lead_files_out_of_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_openat2: bool
) -> None:
    if not has_openat2:
        monkeypatch.setattr(open_beneath, "_OPENAT2", 100_000)
    root, outside = tmp_path / "inbox", tmp_path / "outside"
    (root / "season").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret.mp4").write_bytes(b"secret")
    for name in ("done", "linked"):
        (root / name).symlink_to(outside)
    (root / "talk.mp4").write_bytes(b"media")
    with pytest.raises(FileWriteError, match="replace the symbolic link that leads out of its folder"):
        move_whole(root / "talk.mp4", root / "done" / "talk.mp4", root=root)
    with pytest.raises(FileWriteError):
        move_whole(root / "talk.mp4", root / "done" / "a" / "talk.mp4", root=root)
    with pytest.raises(FileWriteError):
        move_whole(root / "linked" / "secret.mp4", root / "season" / "secret.mp4", root=root)
    with pytest.raises(FileWriteError):
        write_whole(root / "linked" / "talk.srt", b"1", root=root)
    assert names(outside) == ["secret.mp4"]
    write_whole(root / "new" / "deep" / "talk.srt", b"1", root=root)
    assert (root / "new" / "deep" / "talk.srt").read_bytes() == b"1"
    assert (
        move_whole(root / "talk.mp4", root / "failed" / "x" / "talk.mp4", root=root).read_bytes() == b"media"
    )


@pytest.mark.parametrize("is_absolute", [False, True])
def test_link_within_the_root_is_followed(tmp_path: Path, *, is_absolute: bool) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "videos").symlink_to(tmp_path / "films" if is_absolute else "films")
    write_whole(tmp_path / "videos" / "talk.srt", b"1", root=tmp_path)
    assert (tmp_path / "films" / "talk.srt").read_bytes() == b"1"


NAMES = st.binary(min_size=1, max_size=300).map(os.fsdecode) | st.text(
    alphabet="a长🎬é", min_size=1, max_size=300
)


@given(NAMES)
def test_fitted_name_has_at_most_255_bytes_and_whole_characters(stem: str) -> None:
    name = fitted(stem, ".zh.srt")
    assert len(os.fsencode(name)) <= NAME_BYTES
    assert name.endswith(".zh.srt")
    if len(os.fsencode(stem)) <= 248:
        assert name == stem + ".zh.srt"
    else:
        assert stem.startswith(name[: -len("-01234567.zh.srt")])


def test_two_long_names_stay_apart() -> None:
    assert fitted("x" * 300 + "1", ".srt") != fitted("x" * 300 + "2", ".srt")


def test_printable_path_can_always_be_encoded() -> None:
    assert printable(os.fsdecode(b"a\xff/\xe4\xb8\xad")) == "a\\udcff/中"
