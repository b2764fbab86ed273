"""Checks of the folders: existence, permissions, space, file systems, inotify limits."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from shlex import quote

from msgspec import structs

from subtitled.config.schema import BESIDE, Config
from subtitled.config.schema import InboxConfig as InboxSection
from subtitled.core.config_mapping import disk_reserve_of
from subtitled.doctor.daemon_user import DaemonUser, run_as
from subtitled.doctor.finding import Finding, fault, ok, warning
from subtitled.files.atomic_files import TEMPORARY_PREFIX, TEMPORARY_SUFFIX
from subtitled.files.filesystem import is_remote

MIB = 2**20
ANSWER_S = 3.0
MAX_COUNTED = 1_000_000
"""Maximum number of sub-folders to count."""
_LIMITS = Path("/proc/sys/fs/inotify")


def check(config: Config, account: DaemonUser) -> Iterator[Finding]:
    """Check all folders of the configuration; those that do not answer are reported, and not checked further."""
    hung = unanswered([*_spaces(config), *(inbox.path for inbox in config.inbox), *config.uploads.paths])
    for folder in hung:
        yield hung_finding(folder)
    if config.state.dir in hung:
        return
    config = structs.replace(
        config,
        inbox=tuple(inbox for inbox in config.inbox if not {inbox.path, inbox.output} & hung.keys()),
        uploads=structs.replace(
            config.uploads, paths=tuple(path for path in config.uploads.paths if path not in hung)
        ),
    )
    full = [space_finding(folder, _free(folder), disk_reserve_of(config)[1]) for folder in _spaces(config)]
    yield from full
    # A full file system has its fault already.
    full_folders = {finding.name.removeprefix("space ") for finding in full if finding.state == "fault"}
    yield from run_as(account, lambda: list(_as_user(config, account, full_folders)))
    yield from run_as(account, lambda: [instance_finding()])
    watched = [inbox.path for inbox in config.inbox if not is_remote(inbox.path)]
    yield watches_finding(sum(map(count_folders, watched)), int(_limit("max_user_watches")))


def unanswered(folders: Iterable[str], timeout_s: float = ANSWER_S) -> dict[str, None]:
    """Return the folders on which a call takes longer than `timeout_s`, in order: their mounts hang."""
    threads = {
        folder: threading.Thread(target=os.path.lexists, args=(os.path.join(folder, ""),), daemon=True)  # noqa: PTH118
        for folder in folders
    }
    for thread in threads.values():
        thread.start()
    deadline = time.monotonic() + timeout_s
    for thread in threads.values():
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict.fromkeys(folder for folder, thread in threads.items() if thread.is_alive())


def hung_finding(folder: str) -> Finding:
    """Return the finding about a folder that does not answer."""
    return fault(
        f"folder {folder}",
        f"does not answer within {ANSWER_S:g} s: its mount hangs; the daemon processes the files of all others",
        f"check the server and the network of this mount; to give it up, type: umount -f -l {quote(folder)}",
    )


def _as_user(config: Config, account: DaemonUser, full_folders: set[str]) -> Iterator[Finding]:
    yield from _state(config.state.dir, account, full_folders)
    for inbox in config.inbox:
        yield from _inbox(inbox, account, full_folders)
        if inbox.output != BESIDE:
            yield _writable(f"output {inbox.output}", inbox.output, account, full_folders)
    for path in config.uploads.paths:
        yield _readable(path, account)


def _state(state: str, account: DaemonUser, full_folders: set[str]) -> Iterator[Finding]:
    if not is_there(Path(state)):
        parent = next(place for place in Path(state).parents if is_there(place))
        if os.access(parent, os.W_OK | os.X_OK):
            yield ok(f"state {state}", "does not exist yet; the daemon creates it")
            return
    yield _writable(f"state {state}", state, account, full_folders)


def _inbox(inbox: InboxSection, account: DaemonUser, full_folders: set[str]) -> Iterator[Finding]:
    name = f"inbox {inbox.path}"
    judged = _writable(name, inbox.path, account, full_folders)
    yield judged
    if judged.state != "ok" or inbox.after != "move":
        return
    for archive in ("done", "failed"):
        folder = Path(inbox.path, archive)
        if folder.is_dir():
            found = _writable(f"inbox {folder}", str(folder), account, full_folders)
            if found.state == "fault":
                yield found
            elif folder.stat().st_dev != Path(inbox.path).stat().st_dev:
                text = "is on another file system: finished files are copied there, not moved"
                yield warning(
                    name,
                    f"{archive}/ {text}",
                    f"replace {folder} by a folder on the same file system, or expect slow copies",
                )


def _writable(name: str, folder: str, account: DaemonUser, full_folders: set[str]) -> Finding:
    """Write, sync, rename and remove a file, as the daemon does."""
    path = Path(folder)
    if not path.is_dir():
        if _is_hidden(path):
            return fault(
                name, f"{account.name} cannot enter it", f"type: chmod a+x {quote(str(path.parent))}"
            )
        return fault(name, "does not exist", f"type: install -d -o {account.name} {quote(folder)}")
    draft = path / f"{TEMPORARY_PREFIX}doctor-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    target = draft.with_name(f"{TEMPORARY_PREFIX}doctor-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        with draft.open("xb") as file:
            file.write(b"subtitled doctor\n")
            file.flush()
            os.fsync(file.fileno())
        draft.rename(target)
        next(path.iterdir())
    except OSError as error:
        return writing_finding(name, folder, error, account.name, is_full_folders=folder in full_folders)
    finally:
        for left in (draft, target):
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)
    return ok(name, f"{account.name} can write")


def writing_finding(
    name: str, folder: str, error: OSError, user: str, *, is_full_folders: bool = False
) -> Finding:
    """Return the finding about a failed write."""
    text = f"{user} cannot write: {error.strerror}"
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT if is_full_folders:
            return ok(name, f"{user} can write when there is space")
        case errno.ENOSPC | errno.EDQUOT:
            remedy = "free some space, or raise the user's quota"
        case errno.EACCES | errno.EPERM:
            remedy = f"type: chown {user} {quote(folder)} && chmod u+rwx {quote(folder)}"
        case errno.EROFS:
            remedy = f"type: mount -o remount,rw $(findmnt -no TARGET -T {quote(folder)})"
        case _:
            remedy = "see `dmesg`: the file system has an error"
    return fault(name, text, remedy)


def _readable(path: str, account: DaemonUser) -> Finding:
    name = f"uploads.paths {path}"
    if os.access(path, os.R_OK | os.X_OK):
        return ok(name, f"{account.name} can read")
    return fault(
        name, f"{account.name} cannot read", f"type: setfacl -R -m u:{account.name}:rX {quote(path)}"
    )


def space_finding(folder: str, free: int | None, reserve: int) -> Finding:
    """Check the free space of a folder, in bytes, against `state.reserve_mb`."""
    name = f"space {folder}"
    if free is None:
        return warning(name, "unknown", "see the finding about the folder")
    if free < reserve:
        text = f"{free // MIB} MiB free, state.reserve_mb = {reserve // MIB}: no new file is started"
        return fault(name, text, f"free {-(-(reserve - free) // MIB)} MiB on the file system of {folder}")
    return ok(name, f"{free // MIB} MiB free, {reserve // MIB} MiB reserved")


def watches_finding(folders: int, limit: int) -> Finding:
    """Check the kernel's limit of watches against the number of folders in the inboxes."""
    text = f"{folders} folders to watch, the kernel allows {limit}"
    if folders > limit:
        remedy = f"type: sysctl -w fs.inotify.max_user_watches={2 * folders} (and add it to /etc/sysctl.d)"
        return fault("inotify watches", text, remedy)
    return ok("inotify watches", text)


def instance_finding() -> Finding:
    """Open an inotify instance as this user."""
    libc = ctypes.CDLL(None, use_errno=True)
    file = libc.inotify_init1(os.O_CLOEXEC)
    if file < 0:
        limit = _limit("max_user_instances")
        remedy = (
            f"type: sysctl -w fs.inotify.max_user_instances={2 * int(limit)} (and add it to /etc/sysctl.d)"
        )
        return fault("inotify instances", f"{os.strerror(ctypes.get_errno())}; the limit is {limit}", remedy)
    os.close(file)
    return ok("inotify instances", f"available; the limit is {_limit('max_user_instances')}")


def count_folders(top: str) -> int:
    """Return the number of folders below `top`, including it."""
    count = 0
    for _ in os.walk(top):
        count += 1
        if count == MAX_COUNTED:
            break
    return count


def _spaces(config: Config) -> Iterable[str]:
    return sorted(set(disk_reserve_of(config)[0]))


def _free(folder: str) -> int | None:
    existing = next(
        (place for place in (Path(folder), *Path(folder).parents) if is_there(place)), Path(folder)
    )
    try:
        found = os.statvfs(existing)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def is_there(path: Path) -> bool:
    """Return whether `path` exists and is visible to this user."""
    try:
        path.lstat()
    except OSError:
        return False
    return True


def _is_hidden(path: Path) -> bool:
    try:
        path.lstat()
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def _limit(name: str) -> str:
    return (_LIMITS / name).read_text("utf-8").strip()
