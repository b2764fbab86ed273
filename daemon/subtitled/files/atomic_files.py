"""Files that appear whole, where they belong."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from subtitled.errors import SpoolError

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME_BYTES = 255
"""Longest file name in bytes: NAME_MAX of Linux's file systems."""

_SUFFIX_BYTES = 32
"""Longest ending of a name that is kept as its suffix."""

_REMEDIES = {
    errno.ENOSPC: "free some space on its file system",
    errno.EDQUOT: "raise the quota of the daemon's user, or free some of its space",
    errno.EACCES: "give the daemon's user the right to write there",
    errno.EPERM: "give the daemon's user the right to write there",
    errno.EROFS: "mount its file system writable",
    errno.ENAMETOOLONG: f"shorten it: a name takes at most {NAME_BYTES} bytes",
}

_NO_FSYNC = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF})
"""What a file system answers that cannot do it for a folder; fsync(2)."""

TEMPORARY_PREFIX = ".subtitled-"
TEMPORARY_SUFFIX = ".tmp"


def write_whole(path: str | Path, data: bytes) -> None:
    """Make `path` hold `data`, in one step and durably; its folder is made where missing.

    Whoever looks sees the file as it was before or all of `data`, also after a power cut. Blocks while the
    disk writes; may be repeated. Raises SpoolError; the file is then as it was before or, where only its name could not
    be made durable, all of `data`. Nothing else is left behind.
    """
    target = Path(path)
    with _reported(target, "written"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(target.parent) as (temporary, file):
            file_bytes = memoryview(data)
            while file_bytes:
                file_bytes = file_bytes[os.write(file, file_bytes) :]
            os.fsync(file)
            temporary.replace(target)
        sync_folder(target.parent)


def move_whole(source: str | Path, target: str | Path) -> Path:
    """Move `source` to `target` and return where it came to lie: never over another file.

    A name that is taken gets ` (2)`, ` (3)` … before its suffix. Between file systems the file is copied,
    with its times, and appears whole. Blocks; raises SpoolError, and leaves `source` in its place then.
    """
    source, target = Path(source), Path(target)
    with _reported(source, f"moved to {printable(target)}"):
        source.lstat()
        target.parent.mkdir(parents=True, exist_ok=True)
        free = _claim(target)
        try:
            _move_over(source, free)
        except BaseException:
            free.unlink(missing_ok=True)
            raise
        # The file has moved: to say that it has not would be wrong. After a power cut it may be where it was, once.
        with contextlib.suppress(OSError):
            sync_folder(free.parent)
            sync_folder(source.parent)
    return free


def is_there(path: str | Path) -> bool:
    """Return whether something is at `path`: not so where that cannot be told, as nothing can be done there either."""
    return os.path.lexists(path)


def remove(path: str | Path) -> None:
    """Remove the file at `path`, if there is one; may be repeated. Raises SpoolError."""
    with _reported(Path(path), "removed"):
        Path(path).unlink(missing_ok=True)


def sweep_temporaries(folder: str | Path) -> int:
    """Remove what an interrupted `write_whole` left in `folder` and below; return how many.

    Files that a process is still writing stay. A missing folder holds none.
    """
    removed = 0
    for where, _, names in os.walk(folder):
        for name in names:
            if is_temporary(name) and _is_abandoned(path := Path(where, name)):
                with contextlib.suppress(OSError):
                    path.unlink()
                    removed += 1
    return removed


def is_temporary(name: str) -> bool:
    """Return whether `name` is one that `write_whole` gives to its unfinished files."""
    return name.startswith(TEMPORARY_PREFIX) and name.endswith(TEMPORARY_SUFFIX)


def free_bytes(path: str | Path) -> int:
    """Return the bytes that may still be written below `path`, which need not exist yet.

    Raises SpoolError where that cannot be told.
    """
    existing = Path(path)
    while not is_there(existing) and existing != existing.parent:
        existing = existing.parent
    with _reported(existing, "asked for its free space"):
        status = os.statvfs(existing)
    return status.f_bavail * status.f_frsize


def inside(root: str | Path, path: str | Path) -> bool:
    """Return whether `path` lies in `root` or is it, once all symbolic links and `..` are followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def fitted(stem: str, tail: str) -> str:
    """Return the file name `stem + tail`, its stem shortened where it takes more than 255 bytes.

    The stem is cut between characters and gets a hash, so that two long stems stay apart.
    """
    room = NAME_BYTES - len(_encoded(tail))
    if len(_encoded(stem)) <= room:
        return stem + tail
    mark = "-" + hashlib.sha256(_encoded(stem)).hexdigest()[:8]
    room -= len(mark)
    kept = 0
    for char in stem:
        room -= len(_encoded(char))
        if room < 0:
            break
        kept += 1
    return stem[:kept] + mark + tail


def printable(path: str | Path) -> str:
    r"""Return `path` for a log or a person: bytes that are no UTF-8 as `\udc80` escapes."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def _encoded(name: str) -> bytes:
    """Return `name` as the file system holds it, also where it is no UTF-8."""
    return name.encode("utf-8", "surrogateescape")


@contextlib.contextmanager
def _reported(path: Path, verb: str) -> Iterator[None]:
    """Turn what the operating system refuses into a SpoolError that names `path`, the cause, the remedy."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "")
        reason = f"{printable(path)} cannot be {verb}: {error.strerror or error}"
        raise SpoolError(f"{reason}; {remedy}" if remedy else reason) from error


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[tuple[Path, int]]:
    """Give a new file of `folder`, open for writing; it is removed unless it was renamed by then."""
    path = folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        # Held while this process lives, so that a sweep tells unfinished files from abandoned ones.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield path, file
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)


def _is_abandoned(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(file)


def _claim(target: Path) -> Path:
    """Return `target`, or its first numbered name that nobody has, as an empty file that is now ours."""
    for number in itertools.count(1):
        mark = f" ({number})" if number > 1 else ""
        # A long suffix is no suffix: it belongs to the name that may be shortened.
        suffix = target.suffix if len(_encoded(target.suffix)) <= _SUFFIX_BYTES else ""
        free = target.with_name(fitted(target.name.removesuffix(suffix), mark + suffix))
        with contextlib.suppress(FileExistsError):
            os.close(os.open(free, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
            return free
    raise AssertionError  # count() has no end


def _move_over(source: Path, target: Path) -> None:
    """Move `source` over the empty file `target`, by copying where they are on different file systems."""
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    else:
        return
    with _temporary(target.parent) as (temporary, file):
        if source.is_symlink():
            temporary.unlink()
            temporary.symlink_to(source.readlink())
        else:
            shutil.copyfile(source, temporary)
            # Times and rights are kept where the file system has them; the content is what counts.
            with contextlib.suppress(OSError):
                shutil.copystat(source, temporary)
            os.fsync(file)
        temporary.replace(target)
    sync_folder(target.parent)
    source.unlink()


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable: a rename is, only once its folder is on the disk.

    Where the file system has no such call (SMB, some of FUSE), it is as durable as it gets.
    """
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise
    finally:
        os.close(file)
