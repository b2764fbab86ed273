"""Folders and files opened below a root that no symbolic link leads out of."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_OPENAT2 = 437
"""System call number, the same on every architecture (linux/syscalls.h); Linux 5.6."""
_RESOLVE_NO_MAGICLINKS, _RESOLVE_BENEATH = 0x02, 0x08
_libc = ctypes.CDLL(None, use_errno=True)


def open_beneath(root: str | Path, path: str | Path, flags: int) -> int:
    """Return a descriptor of the existing `path`, which must lie below `root`, links followed.

    The root itself may be reached through links: it is configured. Raises OSError; its errno is EXDEV where a link or
    `..` leads out of the root.
    """
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            return _open_at(folder, os.path.relpath(path, root), flags | os.O_CLOEXEC)
        except OSError as error:
            # openat2 takes every absolute link for one that leads out.
            real = os.path.relpath(os.path.realpath(path), os.path.realpath(root))
            if error.errno != errno.EXDEV or real.startswith(".."):
                raise
            return _open_at(folder, real, flags | os.O_CLOEXEC)
    finally:
        os.close(folder)


@contextlib.contextmanager
def folder_beneath(root: str | Path | None, folder: str | Path) -> Iterator[int]:
    """Yield a descriptor of `folder`, which is created if missing; with `root`, as `open_beneath` does. Raises OSError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    if root is None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        current = os.open(folder, flags)
    else:
        Path(root).mkdir(parents=True, exist_ok=True)
        current = os.open(root, flags)
        try:
            done = Path()
            for name in Path(os.path.relpath(folder, root)).parts:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, dir_fd=current)
                done /= name
                # From the root each time: a link may go up, as long as it stays below the root.
                following = open_beneath(root, Path(root, done), flags)
                os.close(current)
                current = following
        except BaseException:
            os.close(current)
            raise
    try:
        yield current
    finally:
        os.close(current)


def _open_at(folder: int, path: str, flags: int) -> int:
    how = struct.pack("=QQQ", flags, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    result = int(_libc.syscall(_OPENAT2, folder, os.fsencode(path), how, len(how)))
    if result >= 0:
        return result
    failure = ctypes.get_errno()
    if failure not in {errno.ENOSYS, errno.EPERM}:
        raise OSError(failure, os.strerror(failure), path)
    return _walk(folder, Path(path).parts, flags)


def _walk(folder: int, parts: tuple[str, ...], flags: int) -> int:
    """Open without following any link: for an older kernel, or a container that filters openat2."""
    if ".." in parts:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    current = os.dup(folder)
    for place, name in enumerate(parts or (".",), 1):
        step = flags if place >= len(parts) else os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            following = os.open(name, step | os.O_NOFOLLOW, dir_fd=current)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENOTDIR} and _is_link(name, current):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV)) from error
            raise
        finally:
            os.close(current)
        current = following
    return current


def _is_link(name: str, folder: int) -> bool:
    return stat.S_ISLNK(os.lstat(name, dir_fd=folder).st_mode)
