"""A sandbox for processes that decode foreign media: no network, few files, bounded memory.

Three independent layers, each of which is left out where the kernel lacks it:

- `RLIMIT_AS` bounds the address space (setrlimit(2)); every kernel has it.
- Landlock (Linux 5.13, landlock(7)) leaves a read-only view of the named paths. It also keeps the process from tracing
  processes outside the sandbox and, from Linux 6.12 on, from signalling them.
- A seccomp filter (seccomp(2)) denies sockets, execution of programs, and system calls with a record of kernel exploits.

Nothing here can be undone by the process that called it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import pwd
import resource
import socket
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from subtitled.errors import SubtitledError

_PR_SET_NO_NEW_PRIVS = 38

_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
"""System call numbers, the same on every architecture (linux/syscalls.h)."""
_LANDLOCK_CREATE_RULESET_VERSION = 1
_LANDLOCK_RULE_PATH_BENEATH = 1
_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
_FS_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
"""File system rights that a version of the Landlock interface knows; what is handled and not allowed is denied."""
_NET_RIGHTS = 0b11
"""Binding and connecting TCP sockets, from version 4 on."""
_SCOPES = 0b11
"""Abstract Unix sockets and signals, from version 6 on."""

_AUDIT_ARCH = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
_X32_BIT = 0x4000_0000
# Numbers of system calls by architecture: x86_64, aarch64 (asm/unistd.h).
_DENIED = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "execve": (59, 221),
    "execveat": (322, 281),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "open_by_handle_at": (304, 265),
    "mount": (165, 40),
    "unshare": (272, 97),
    "setns": (308, 268),
}
_SOCKET = (41, 198)
_BPF_LOAD, _BPF_JUMP_EQUAL, _BPF_JUMP_SET, _BPF_RETURN = 0x20, 0x15, 0x45, 0x06
_RET_ALLOW, _RET_ERRNO, _RET_KILL = 0x7FFF_0000, 0x0005_0000, 0x8000_0000
_AT_NUMBER, _AT_ARCH, _AT_ARGUMENT_0 = 0, 4, 16
"""Offsets in `struct seccomp_data`."""

SYSTEM_PATHS = (
    "/usr",
    "/lib",
    "/lib64",
    "/sys/devices/system",
    "/sys/bus/pci/devices",
    "/proc/cpuinfo",
    "/proc/meminfo",
)
"""Paths that the interpreter and the decoders read besides their own installation; none is secret."""
_SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/dev/null", "/dev/urandom", "/dev/zero")

_OF_PREFIX = ("lib", "lib64", "share", "pyvenv.cfg")
"""Parts of its installation that Python reads while it runs."""

_HOME = os.environ.get("HOME", "")
"""At the start of the process: a download later gets the folder of its job as its home."""

_libc = ctypes.CDLL(None, use_errno=True)


class Protection(Struct, frozen=True, kw_only=True):
    """Which layers are in force in this process."""

    memory_bytes: int
    """Limit of the address space; 0: none."""
    landlock: int
    """Version of the kernel's Landlock interface; 0 where it has none."""
    has_seccomp: bool

    def missing(self) -> list[str]:
        """Return the layers that this kernel lacks, in words; empty if all are in force."""
        lacks = []
        if not self.landlock:
            lacks.append("Landlock (Linux 5.13 or newer, enabled in the kernel's list of security modules)")
        if not self.has_seccomp:
            lacks.append("seccomp filters (on x86-64 or 64-bit ARM)")
        return lacks


def landlock_version() -> int:
    """Return the version of the kernel's Landlock interface; 0 where it has none."""
    return max(0, int(_libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION)))


def enter(
    readable: Iterable[str],
    *,
    memory_bytes: int,
    allows_unix_sockets: bool,
    writable: Iterable[str] = (),
    allows_network: bool = False,
) -> Protection:
    """Confine this process permanently: read only `readable` (files, folders), the system and Python; no network.

    `allows_unix_sockets` leaves socket(AF_UNIX) usable, for a process that has yet to connect to its parent. The folders
    `writable` may be changed. `allows_network` leaves all sockets usable, for a process that downloads. To be called in the
    only thread: Landlock binds the calling thread and those it starts. Paths that do not exist are passed over. Raises
    SubtitledError where the kernel has a layer and refuses it.
    """
    if memory_bytes:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
    version = landlock_version()
    if version:
        paths = [*readable, *_interpreter_paths(), *SYSTEM_PATHS, *_SYSTEM_FILES]
        _restrict_files(paths, writable, version, allows_network=allows_network)
    return Protection(
        memory_bytes=memory_bytes,
        landlock=version,
        has_seccomp=_filter_calls(allows_unix_sockets=allows_unix_sockets, allows_network=allows_network),
    )


def deny_sockets() -> bool:
    """Deny this process and all its threads every new socket; return False where the kernel cannot."""
    return _filter_calls(allows_unix_sockets=False)


def _interpreter_paths() -> list[str]:
    """Return what holds Python, its packages and this program; nothing that also holds files of others.

    `sys.path` may have any folder: `python -m` puts the current one first, without `-P`, and so does an empty entry of
    PYTHONPATH. "/", the home folder and the folders above it are left out; modules in them cannot be imported. A prefix may
    have other files too: only its libraries are readable.
    """
    prefixes = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    own = [Path(prefix, name) for prefix in prefixes for name in _OF_PREFIX]
    own.append(Path(sys.executable).resolve())
    for package in ("subtitled", "subtitle"):  # an editable installation may have no entry in sys.path
        own += map(Path, getattr(sys.modules.get(package), "__path__", ()))
    homes = [Path(home).resolve() for home in _home_folders()]
    broad = {Path("/"), *homes, *(parent for home in homes for parent in home.parents)}
    found = {path.resolve() for path in (*own, *(Path(entry) for entry in sys.path if entry))}
    return [str(path) for path in found if path not in broad]


def _home_folders() -> list[str]:
    """Return the home folder of this user, as the environment and as the system have it."""
    homes = [_HOME] if _HOME else []
    with suppress(KeyError):
        homes.append(pwd.getpwuid(os.getuid()).pw_dir)
    return homes


def _restrict_files(
    paths: Iterable[str], writable: Iterable[str], version: int, *, allows_network: bool
) -> None:
    handled = _FS_RIGHTS.get(version, _FS_RIGHTS[5])
    is_network_denied = version >= 4 and not allows_network
    attributes = struct.pack(
        "=QQQ", handled, _NET_RIGHTS if is_network_denied else 0, _SCOPES if version >= 6 else 0
    )
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _check(_libc.syscall(_LANDLOCK_CREATE_RULESET, attributes, size, 0), "landlock_create_ruleset")
    try:
        for path in paths:
            _allow(ruleset, path, _READ_FILE | _EXECUTE | _READ_DIR)
        for path in writable:
            _allow(ruleset, path, handled & ~_EXECUTE)
        _check(_libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not Path(path).is_dir():
            rights &= ~_READ_DIR
        rule = struct.pack("=Qi", rights, descriptor)
        _check(
            _libc.syscall(_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_RULE_PATH_BENEATH, rule, 0),
            f"landlock_add_rule for {path}",
        )
    finally:
        os.close(descriptor)


def _filter_calls(*, allows_unix_sockets: bool, allows_network: bool = False) -> bool:
    machine = platform.machine()
    if machine not in _AUDIT_ARCH:
        return False
    place = 0 if machine == "x86_64" else 1
    program = [
        (_BPF_LOAD, 0, 0, _AT_ARCH),
        (_BPF_JUMP_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_BPF_RETURN, 0, 0, _RET_KILL),
        (_BPF_LOAD, 0, 0, _AT_NUMBER),
    ]
    deny = (_BPF_RETURN, 0, 0, _RET_ERRNO | errno.EPERM)
    if machine == "x86_64":
        program += [(_BPF_JUMP_SET, 0, 1, _X32_BIT), deny]
    for numbers in _DENIED.values():
        program += [(_BPF_JUMP_EQUAL, 0, 1, numbers[place]), deny]
    if allows_network:
        pass
    elif allows_unix_sockets:
        # Past the check of the family, or over it: the number is no longer loaded, so this comes last.
        program += [
            (_BPF_JUMP_EQUAL, 0, 3, _SOCKET[place]),
            (_BPF_LOAD, 0, 0, _AT_ARGUMENT_0),
            (_BPF_JUMP_EQUAL, 1, 0, int(socket.AF_UNIX)),
            deny,
        ]
    else:
        program += [(_BPF_JUMP_EQUAL, 0, 1, _SOCKET[place]), deny]
    program.append((_BPF_RETURN, 0, 0, _RET_ALLOW))
    return _install(program)


def _install(program: list[tuple[int, int, int, int]]) -> bool:
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    sync_all_threads, set_filter = 1, 1
    number = 317 if platform.machine() == "x86_64" else 277
    if _libc.syscall(number, set_filter, sync_all_threads, header) == 0:
        return True
    failure = ctypes.get_errno()
    if failure in {errno.EINVAL, errno.ENOSYS}:
        return False
    raise SubtitledError(f"seccomp: {os.strerror(failure)}")


def _check(result: int, what: str) -> int:
    if result < 0:
        raise SubtitledError(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result
