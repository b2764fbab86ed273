"""File systems: their kind, their free space, and a monitor of free space."""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import re
import signal
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from subtitled.errors import FileWriteError
from subtitled.files.atomic_files import printable

MAX_RESERVED_INODES = 1000
"""Files that the daemon itself may still create when uploads have used up the others."""
CHECK_S = 5.0
"""Seconds between two checks of the free space."""
FIRST_WAIT_S = 0.5
HUNG_S = 10.0
"""A folder that has not answered for so long hangs."""
MOUNT_ERRORS = frozenset(
    {
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EIO,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENODEV,
        errno.ENOTCONN,
        errno.ENXIO,
        errno.EREMOTEIO,
        errno.ESHUTDOWN,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)
"""Errors of every call on a mount whose server or device is gone; a damaged file returns EIO, too."""
MOUNTS = Path("/proc/self/mounts")
MOUNT_INFO = Path("/proc/self/mountinfo")
RETRY_S = 1.0
"""Seconds between two attempts at a folder that does not answer."""
NETWORK_FILE_SYSTEMS = frozenset(
    """
    9p afs ceph cifs davfs fuse.davfs2 fuse.glusterfs fuse.rclone fuse.s3fs fuse.sshfs lustre ncpfs nfs nfs4
    prl_fs smb2 smb3 smbfs vboxsf virtiofs
    """.split()  # noqa: SIM905 - one name a line would take a page
)
"""Kinds of file system, as in /proc/mounts, on which inotify does not report changes by other hosts."""

_MAX_LINKS = 40
"""Links of one path that are followed, as by the kernel."""
SYSTEM_FOLDERS = frozenset(
    {
        *("@eadir", "@recycle", "@recently-snapshot", "@tmp", "@sharebin", "@synoresource"),
        *("#recycle", "#snapshot", "$recycle.bin", "lost+found", "system volume information"),
        *("recycler", "recycled", "~snapshot", "__macosx", "network trash folder", "temporary items"),
    }
)
"""Folders of NAS and operating systems, in lower case: thumbnails, snapshots, recycle bins."""


def file_system(real: str, mounts: str) -> str:
    """Return the kind of file system of `real`, from the text of /proc/self/mounts; "" if unknown.

    `real` is an absolute path without symbolic links.
    """
    points = _mount_points(mounts)
    return points.get(_point_above(real, points), "")


def mount_of(path: str, mounts: str) -> str:
    """Return the mount point of a file or folder, from the text of /proc/self/mountinfo; "" for the root file system.

    Links are followed, but no network or FUSE file system is touched, which may hang. A folder that is mounted on itself, as
    systemd does for ReadWritePaths=, does not count: another daemon may see the same files without it.
    """
    points = _foreign_mount_points(mounts)
    parts, done, links = os.path.abspath(path).split("/")[::-1], "", 0  # noqa: PTH100 - links are followed below
    while parts:
        part = parts.pop()
        if part in {"", ".", ".."}:
            done = os.path.dirname(done) if part == ".." else done  # noqa: PTH120
            continue
        done = f"{done.rstrip('/')}/{part}"
        kind = points.get(done, "")
        if kind in NETWORK_FILE_SYSTEMS or kind.startswith(("fuse", "autofs")):
            done = "/".join([done, *reversed(parts)])
            break
        with suppress(OSError):  # not a link, or missing
            target = str(Path(done).readlink())
            links += 1
            if links > _MAX_LINKS:
                break
            parts += target.split("/")[::-1]
            done = "" if target.startswith("/") else os.path.dirname(done)  # noqa: PTH120
    return _point_above(done, points)


def is_mounted(point: str, mounts: Path = MOUNTS) -> bool:
    """Return whether a file system is mounted at a mount point of `mount_of`; touches none.

    True if the table of mounts cannot be read.
    """
    return not point or not (table := read_mounts(mounts)) or point in _mount_points(table)


def read_mounts(table: Path = MOUNT_INFO) -> str:
    """Return the text of /proc/self/mountinfo or /proc/self/mounts; "" if it cannot be read: no descriptor may be free."""
    try:
        return table.read_text("utf-8", "surrogateescape")
    except OSError:
        return ""


@functools.lru_cache(maxsize=1)
def _foreign_mount_points(mounts: str) -> Mapping[str, str]:
    """Return the kind of file system by mount point, without folders that are mounted on themselves; see proc(5)."""
    rows = [line.split(" ") for line in filter(None, mounts.split("\n"))]
    places = {row[0]: (row[2], _unescaped(row[3]), _unescaped(row[4])) for row in rows}
    points = {}
    for row in rows:
        device, root, point = places[row[0]]
        outer = places.get(row[1])
        if outer is None or (device, root) != (outer[0], outer[1] + point.removeprefix(outer[2])):
            points[point] = row[row.index("-") + 1]
    return points


def _unescaped(path: str) -> str:
    """Return a path as it is: the kernel writes space, tab, newline and backslash as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), path).rstrip("/")


def _mount_points(mounts: str) -> dict[str, str]:
    """Return the kind of file system by mount point, "" for the root, from the text of /proc/self/mounts."""
    points = {}
    for line in filter(None, mounts.split("\n")):
        _, point, kind, *_ = line.split(" ")
        points[_unescaped(point)] = kind  # of two mounts on one point the later one is visible
    return points


def _point_above(path: str, points: Iterable[str]) -> str:
    above = [point for point in points if (path + "/").startswith(point + "/")]
    return max(above, key=len, default="")


def is_remote(path: str, mounts: Path = MOUNTS) -> bool:
    """Return whether a file or folder is on a file system of a network."""
    kind = file_system(os.path.realpath(path), read_mounts(mounts))
    return kind in NETWORK_FILE_SYSTEMS


def is_mount_error(error: BaseException | None) -> bool:
    """Return whether an OSError, or the OSError that caused `error`, may be due to a mount whose server has gone."""
    return _number_of(error) in MOUNT_ERRORS


def is_missing_error(error: BaseException | None) -> bool:
    """Return whether an OSError, or the OSError that caused `error`, is that of a missing file."""
    return _number_of(error) in {errno.ENOENT, errno.ENOTDIR}


def _number_of(error: BaseException | None) -> int | None:
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__
    return None if error is None else error.errno


def does_answer(folder: str | bytes) -> bool:
    """Return whether the file system of a folder answers; any error but those of a mount that has gone is an answer.

    Blocks for as long as the file system does.
    """
    try:
        with os.scandir(folder) as entries:
            next(entries, None)
    except OSError as error:
        return error.errno not in MOUNT_ERRORS
    return True


def wait_until_answers(
    folders: Iterable[str], mount: bytes = b"", root: str = "", is_stopped: threading.Event | None = None
) -> bool:
    """Wait until all folders answer, `mount` is mounted and `root` is a folder, or until `is_stopped` is set.

    Return whether all answered at once.
    """
    waits = 0
    for folder in folders:
        while not (
            does_answer(folder) and is_mounted(os.fsdecode(mount)) and (not root or os.path.isdir(root))  # noqa: PTH112
        ):
            waits += 1
            if is_stopped is None:
                time.sleep(RETRY_S)
            elif is_stopped.wait(RETRY_S):
                return False
    return not waits


def free_bytes(path: str | Path) -> int:
    """Return the free bytes of the file system of `path`, which need not exist; raises FileWriteError."""
    status = _statvfs(path)
    return status.f_bavail * status.f_frsize


def free_inodes(path: str | Path) -> int | None:
    """Return the inodes that the file system of `path` has above its reserve; None if it has no limit. Raises FileWriteError.

    The reserve is a twentieth of all, MAX_RESERVED_INODES at most.
    """
    status = _statvfs(path)
    if not status.f_files:
        return None
    return status.f_favail - min(MAX_RESERVED_INODES, status.f_files // 20)


def _statvfs(path: str | Path) -> os.statvfs_result:
    place = Path(path)
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    try:
        return os.statvfs(place)
    except OSError as error:
        raise FileWriteError(
            f"free space of {printable(place)} cannot be read: {error.strerror or error}"
        ) from error


class DiskSpaceMonitor:
    """Compares the free space of folders with a reserve; belongs to one thread, which it never blocks for long.

    Each folder is measured in a separate thread: on a mount that hangs, that never ends.
    """

    def __init__(self, folders: Iterable[str], reserve_bytes: int) -> None:
        self.is_enough = True
        self.cause = ""
        """The first folder with too little space; "" if there is enough."""
        self.reconfigure(folders, reserve_bytes)

    def reconfigure(self, folders: Iterable[str], reserve_bytes: int) -> None:
        """Check other folders against another reserve, starting with the next `check`."""
        self._folders = [_FolderSpace(folder, reserve_bytes) for folder in sorted(set(folders))]
        self._due = 0.0
        self._is_first = True

    def check(self, now: float) -> bool:
        """Measure the free space if it is due; return whether `is_enough` changed.

        The first measurement is waited for, at most for `FIRST_WAIT_S`.
        """
        if now >= self._due:
            self._due = now + CHECK_S
            for folder in self._folders:
                folder.start()
        if self._is_first:
            self._is_first = False
            deadline = time.monotonic() + FIRST_WAIT_S
            for folder in self._folders:
                folder.join(deadline - time.monotonic())
        self.cause = next((folder.shortage for folder in self._folders if folder.shortage), "")
        was_enough, self.is_enough = self.is_enough, not self.cause
        return was_enough != self.is_enough


class _FolderSpace:
    """The free space of one folder, as it was measured last."""

    def __init__(self, folder: str, reserve_bytes: int) -> None:
        self._folder = folder
        self._reserve_bytes = reserve_bytes
        self._thread: threading.Thread | None = None
        self.shortage = ""
        """Why there is too little; "" if there is enough, or nothing is known."""

    def start(self) -> None:
        """Measure, unless the last measurement has not ended."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._measure, name="disk space", daemon=True)
            self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait for the measurement."""
        if self._thread is not None:
            self._thread.join(max(0.0, timeout_s))

    def _measure(self) -> None:
        self.shortage = self._find_shortage()

    def _find_shortage(self) -> str:
        folder = self._folder
        try:
            free = free_bytes(folder)
            inodes = free_inodes(folder)
        except FileWriteError:
            return ""  # an unreachable folder is reported by the inbox or the output
        if inodes is not None and inodes < 0:
            return f"{folder}: its file system has too few free inodes (df -i); delete files, work resumes automatically"
        if free >= self._reserve_bytes:
            return ""
        return (
            f"{folder}: {free // 2**20} MiB are free, state.reserve_mb = {self._reserve_bytes // 2**20}; "
            "free some space, work resumes automatically"
        )


def matching_glob(below: str, globs: tuple[str, ...]) -> str | None:
    """Return the first glob that matches `below`, a path below its inbox; one without a slash matches the file's name.

    The case of letters does not count.
    """
    below = below.casefold()
    name = below.rpartition("/")[2]
    return next(
        (one for one in globs if fnmatchcase(below if "/" in one else name, one.casefold().lstrip("/"))), None
    )


def find_renamed(
    root: str, size: int, mtime_ns: int, *, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()
) -> str | None:
    """Return the file of this size and time in `root` or below; None if there is none, or more than one.

    A rename keeps both. Files and folders with a dot, SYSTEM_FOLDERS, `done` and `failed` of the root, and files that
    the globs of the inbox do not accept are left out.
    """

    def is_accepted(path: str) -> bool:
        below = path[len(root.rstrip("/")) + 1 :]
        return not matching_glob(below, exclude) and (not include or bool(matching_glob(below, include)))

    found = ""
    for folder, folders, names in os.walk(root):
        folders[:] = [
            name
            for name in folders
            if name[0] != "."
            and name.casefold() not in SYSTEM_FOLDERS
            and (folder != root or name not in {"done", "failed"})
        ]
        for name in names:
            if name[0] == ".":
                continue
            path = os.path.join(folder, name)  # noqa: PTH118 - Path objects take most of the time
            try:
                status = os.stat(path, follow_symlinks=False)  # noqa: PTH116
            except OSError:
                continue
            if (status.st_size, status.st_mtime_ns) == (size, mtime_ns) and is_accepted(path):
                if found:
                    return None
                found = path
    return found or None


def writer_of(path: str) -> str:
    """Return name and id of a process of this host that has the file open for writing; "" if /proc shows none.

    /proc shows the files of other users' processes to root only.
    """
    try:
        name, found = os.path.basename(path), os.stat(path)  # noqa: PTH116, PTH119 - as text
    except OSError:
        return ""
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with suppress(OSError):  # of another user, or it has ended
            for file in (process / "fd").iterdir():
                with suppress(OSError):  # closed meanwhile
                    target = os.readlink(file)  # noqa: PTH115
                    # Others are not looked at: they may be on a mount that hangs.
                    if os.path.basename(target) != name or not os.path.samestat(file.stat(), found):  # noqa: PTH119
                        continue
                    flags = re.search(
                        r"^flags:\s*([0-7]+)", (process / "fdinfo" / file.name).read_text(), re.MULTILINE
                    )
                    if flags and int(flags[1], 8) & os.O_ACCMODE != os.O_RDONLY:
                        # The kernel cuts a name at 15 bytes, also within a character.
                        command = (process / "comm").read_bytes().decode("utf-8", "replace").strip()
                        return f"{command} (pid {process.name})"
    return ""


def is_open_for_writing(path: str, mounts: Path = MOUNTS) -> bool:
    """Return whether a process on this host has the file open for writing.

    False where the kernel does not tell: a file of another user without CAP_LEASE, a file system without leases, one of a
    network, which refuses leases for other reasons too.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # A writer that opens the file meanwhile breaks the lease with this signal, which is ignored by default; SIGIO ends a process.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN and not is_remote(path, mounts)
    finally:
        with suppress(OSError):  # a mount that has gone reports an error here too
            os.close(descriptor)
    return False
