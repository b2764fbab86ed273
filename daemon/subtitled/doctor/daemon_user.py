"""The user that the daemon runs as; files are checked with its permissions."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from subtitled.doctor.finding import Finding, fault, from_error, ok, warning

USUAL = "subtitled"


class DaemonUser(Struct, frozen=True, kw_only=True):
    """A user of this machine."""

    uid: int
    gid: int
    name: str
    home: str
    why: str
    """How it was determined."""


def find_daemon_user(state: str) -> DaemonUser:
    """Return the daemon's user: the caller, or, for root, the owner of the state folder or user `subtitled`."""
    if os.geteuid() != 0:
        return _account(os.geteuid(), os.getegid(), "the caller")
    folder = Path(state)
    if folder.is_dir():
        owner = folder.stat()
        return _account(owner.st_uid, owner.st_gid, f"the owner of {state}")
    try:
        usual = pwd.getpwnam(USUAL)
    except KeyError:
        return _account(0, 0, "the caller")
    return _account(usual.pw_uid, usual.pw_gid, "the default")


def run_as(account: DaemonUser, work: Callable[[], list[Finding]]) -> list[Finding]:
    """Return the findings of `work` with a user's permissions; root changes to it in a child process."""
    if account.uid == os.geteuid():
        return work()
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _become(account)
            data = msgspec.json.encode(work())
            while data:
                data = data[os.write(sink, data) :]
        except Exception as error:  # noqa: BLE001 - the boundary of a process
            data = msgspec.json.encode([from_error("user", error, f"run this as {account.name}")])
            os.write(sink, data)
        finally:
            os._exit(0)
    os.close(sink)
    with os.fdopen(source, "rb") as answer:
        data = answer.read()
    os.waitpid(child, 0)
    if not data:
        return [fault("user", f"no check was possible as {account.name}", f"run this as {account.name}")]
    return msgspec.json.decode(data, type=list[Finding])


def program_finding(account: DaemonUser) -> Finding:
    """Check whether the daemon's user may run the interpreter of this environment."""
    if os.access(sys.executable, os.X_OK):
        return ok("program", f"{account.name} can run {sys.executable}")
    remedy = "create the environment and its Python in a folder that all users can read: /opt/subtitled"
    return warning("program", f"{account.name} cannot run {sys.executable}", remedy)


def _become(account: DaemonUser) -> None:
    try:
        groups = os.getgrouplist(pwd.getpwuid(account.uid).pw_name, account.gid)
    except KeyError:
        groups = [account.gid]
    os.setgroups(groups)
    os.setgid(account.gid)
    os.setuid(account.uid)


def _account(uid: int, gid: int, why: str) -> DaemonUser:
    try:
        found = pwd.getpwuid(uid)
    except KeyError:
        return DaemonUser(uid=uid, gid=gid, name=str(uid), home="/", why=why)
    return DaemonUser(uid=uid, gid=gid, name=found.pw_name, home=found.pw_dir, why=why)
