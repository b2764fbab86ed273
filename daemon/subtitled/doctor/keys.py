"""Keys: the server's own, readable by the daemon alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from subtitled.config.schema import Config
from subtitled.doctor.daemon_user import DaemonUser, run_as
from subtitled.doctor.finding import Finding, fault, from_error, ok
from subtitled.errors import SubtitledError
from subtitled.network.auth import server_key, server_key_path


def check(config: Config, account: DaemonUser) -> Iterator[Finding]:
    """Check the server's key where clients have keys, or where there is one."""
    path = server_key_path(config)
    if not config.client and not path.exists():
        yield ok("keys", "none: only the local socket and loopback are open")
        return
    if not path.exists():
        yield ok("keys", f"{path} is made at the next start")
        return
    yield from run_as(account, lambda: [_key(path, account)])
    yield ok("keys", f"{len(config.client)} clients have a key")


def _key(path: Path, account: DaemonUser) -> Finding:
    name = "server key"
    if not os.access(path, os.R_OK):
        return fault(
            name, f"{account.name} may not read {path}", f"type: chown {account.name} {quote(str(path))}"
        )
    try:
        server_key(path)
    except SubtitledError as error:
        return from_error(name, error, "restore it from a backup")
    return ok(name, f"{path}, for {account.name} alone")
