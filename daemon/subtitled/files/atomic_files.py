"""Write, move and remove files atomically and durably."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import itertools
import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from subtitled.errors import FileWriteError
from subtitled.files.open_beneath import folder_beneath, open_beneath

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME_BYTES = 255
"""Longest file name in bytes: NAME_MAX of Linux's file systems."""

_SUFFIX_BYTES = 32
"""Longest suffix of a name that is kept as such."""

_REMEDIES = {
    errno.ENOSPC: "free some space on its file system",
    errno.EDQUOT: "raise the quota of the daemon's user, or free some of its space",
    errno.EACCES: "grant the daemon's user write access",
    errno.EPERM: "grant the daemon's user write access",
    errno.EROFS: "remount its file system read-write",
    errno.EXDEV: "replace the symbolic link that leads out of its folder by the folder itself",
    errno.ENAMETOOLONG: f"shorten the name to at most {NAME_BYTES} bytes",
}

_NO_FSYNC = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF})
"""Errors of file systems without fsync(2) for folders."""

TEMPORARY_PREFIX = ".subtitled-"
TEMPORARY_SUFFIX = ".tmp"

_RENAME_NOREPLACE = 1
_libc = ctypes.CDLL(None, use_errno=True)


def write_whole(path: str | Path, data: bytes, *, root: str | Path | None = None) -> None:
    """Make `path` contain `data`, in one step and durably; its folder is created if missing.

    A reader sees the file as it was before or all of `data`, also after a power cut. With `root` no symbolic link may
    lead out of that folder. Blocks while the disk writes; may be repeated. Raises FileWriteError; the file is then as it was
    before or, where only its name could not be made durable, all of `data`. No other file remains.
    """
    target = Path(path)
    with _reported(target, "written"), folder_beneath(root, target.parent) as folder:
        with _temporary(folder) as (temporary, file):
            file_bytes = memoryview(data)
            while file_bytes:
                file_bytes = file_bytes[os.write(file, file_bytes) :]
            os.fsync(file)
            os.replace(temporary, target.name, src_dir_fd=folder, dst_dir_fd=folder)
        _sync(folder)


def move_whole(source: str | Path, target: str | Path, *, root: str | Path | None = None) -> Path:
    """Move `source` to `target` and return its new path; an existing file is never replaced.

    A name in use gets ` (2)`, ` (3)` … before its suffix. Between file systems the file is copied, with its times, and
    gets its name when it is complete: a process killed meanwhile leaves a temporary file that `sweep_temporaries`
    removes. With `root` no symbolic link in the folders of either path may lead out of that folder. Blocks; raises
    FileWriteError, and leaves `source` in its place then.
    """
    source, target = Path(source), Path(target)
    with (
        _reported(source, f"moved to {printable(target)}"),
        _existing_folder(root, source.parent) as old,
        contextlib.ExitStack() as stack,
    ):
        if stat.S_ISDIR(os.lstat(source.name, dir_fd=old).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        new = stack.enter_context(folder_beneath(root, target.parent))
        try:
            moved = _rename_to_free_name((old, source.name), (new, target.name))
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with _temporary(new) as (temporary, file):
                _copy((old, source.name), (new, temporary), file)
                moved = _rename_to_free_name((new, temporary), (new, target.name))
            _sync(new)
            os.unlink(source.name, dir_fd=old)
        # The file has moved, so a failure to sync is not reported. After a power cut it may be in its old place once.
        with contextlib.suppress(OSError):
            _sync(new)
            _sync(old)
    return target.with_name(moved)


def is_there(path: str | Path) -> bool:
    """Return whether `path` exists; False also when that cannot be determined."""
    return os.path.lexists(path)


def remove(path: str | Path) -> None:
    """Remove the file at `path` if it exists; may be repeated. Raises FileWriteError."""
    with _reported(Path(path), "removed"):
        Path(path).unlink(missing_ok=True)


def sweep_temporaries(folder: str | Path) -> int:
    """Remove the temporary files of interrupted writes in `folder` and below; return how many.

    Files that a process is still writing are kept.
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
    """Return whether `name` is that of a temporary file of `write_whole`."""
    return name.startswith(TEMPORARY_PREFIX) and name.endswith(TEMPORARY_SUFFIX)


def inside(root: str | Path, path: str | Path) -> bool:
    """Return whether `path` is in `root` or is `root`, with symbolic links and `..` resolved."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def fitted(stem: str, tail: str) -> str:
    """Return the file name `stem + tail`, with the stem shortened to at most 255 bytes in all.

    The stem is cut between characters and gets a hash, so that two long stems stay distinct.
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
    r"""Return `path` as printable text, with bytes that are not UTF-8 as `\udc80` escapes."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def _encoded(name: str) -> bytes:
    """Return `name` as the file system's bytes."""
    return name.encode("utf-8", "surrogateescape")


@contextlib.contextmanager
def _reported(path: Path, verb: str) -> Iterator[None]:
    """Turn OSError into FileWriteError with path, cause and remedy."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "")
        reason = f"{printable(path)} cannot be {verb}: {error.strerror or error}"
        raise FileWriteError(f"{reason}; {remedy}" if remedy else reason) from error


@contextlib.contextmanager
def _existing_folder(root: str | Path | None, folder: Path) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    descriptor = os.open(folder, flags) if root is None else open_beneath(root, folder, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _temporary(folder: int) -> Iterator[tuple[str, int]]:
    """Yield the name and descriptor of a new file in `folder`, open for writing; it is removed unless renamed by then."""
    name = f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=folder)
    try:
        # Locked while this process lives, so that a sweep distinguishes unfinished files from abandoned ones.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield name, file
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
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


def _rename_to_free_name(source: tuple[int, str], target: tuple[int, str]) -> str:
    """Rename `source` (folder, name) to `target` or its first free numbered name; return the name. Raises OSError."""
    name = Path(target[1])
    # A long suffix is no suffix: it belongs to the part of the name that may be shortened.
    suffix = name.suffix if len(_encoded(name.suffix)) <= _SUFFIX_BYTES else ""
    for number in itertools.count(1):
        mark = f" ({number})" if number > 1 else ""
        free = fitted(name.name.removesuffix(suffix), mark + suffix)
        with contextlib.suppress(FileExistsError):
            _rename_new(source, (target[0], free))
            return free
    raise AssertionError  # count() has no end


def _rename_new(source: tuple[int, str], target: tuple[int, str]) -> None:
    """Rename without replacing: renameat2(2) with RENAME_NOREPLACE, or an empty file first where there is no such call."""
    names = (source[0], os.fsencode(source[1]), target[0], os.fsencode(target[1]))
    if _libc.renameat2(*names, _RENAME_NOREPLACE) == 0:
        return
    failure = ctypes.get_errno()
    if failure not in {errno.EINVAL, errno.ENOSYS}:
        raise OSError(failure, os.strerror(failure), source[1])
    claim = os.open(target[1], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=target[0])
    os.close(claim)
    try:
        os.replace(source[1], target[1], src_dir_fd=source[0], dst_dir_fd=target[0])
    except BaseException:
        os.unlink(target[1], dir_fd=target[0])
        raise


def _copy(source: tuple[int, str], target: tuple[int, str], file: int) -> None:
    """Copy a file or link, with its times and rights where the file system has them, into the open file `target`."""
    if stat.S_ISLNK(os.lstat(source[1], dir_fd=source[0]).st_mode):
        os.unlink(target[1], dir_fd=target[0])
        os.symlink(os.readlink(source[1], dir_fd=source[0]), target[1], dir_fd=target[0])
        return
    with os.fdopen(
        os.open(source[1], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source[0]), "rb"
    ) as old:
        with os.fdopen(os.dup(file), "wb") as new:
            shutil.copyfileobj(old, new, 1 << 20)
        with contextlib.suppress(OSError):
            status = os.fstat(old.fileno())
            os.fchmod(file, stat.S_IMODE(status.st_mode))
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.fsync(file)


def sync_folder(folder: Path) -> None:
    """Sync `folder`, which makes renames in it durable. Does nothing on file systems without support (SMB, some FUSE)."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sync(file)
    finally:
        os.close(file)


def _sync(folder: int) -> None:
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise
