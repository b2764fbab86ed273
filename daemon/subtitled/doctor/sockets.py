"""Checks of the sockets, the running daemon and the server's key."""

from __future__ import annotations

import errno
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from msgspec import Struct

from subtitle import Client, StatsInfo, SubtitleError, Welcome
from subtitled.config.schema import Config
from subtitled.doctor.daemon_user import DaemonUser, run_as
from subtitled.doctor.finding import Finding, fault, from_error, ok, warning
from subtitled.doctor.folders import is_there
from subtitled.errors import SubtitledError
from subtitled.network.auth import server_key, server_key_path
from subtitled.network.sockets import is_served
from subtitled.version import VERSION

ANSWER_S = 10.0
_LOADED = frozenset({"idle", "busy"})


class RunningDaemon(Struct, frozen=True, kw_only=True):
    """A running daemon's answers."""

    endpoint: str
    welcome: Welcome
    stats: StatsInfo


def check(config: Config, account: DaemonUser) -> Iterator[Finding]:
    """Check every socket of the configuration, and a running daemon's state."""
    is_here = is_running(config)
    for endpoint in (*config.listen.clients, config.listen.workers):
        kind, _, address = endpoint.partition("://")
        if kind == "tcp":
            yield _port(endpoint, address, is_running=is_here)
        elif not is_served(Path(address)):
            yield from run_as(account, lambda address=address: [_place(Path(address), account)])  # type: ignore[misc]
        elif endpoint == config.listen.workers:
            yield ok(endpoint, "served by the running daemon")
        else:
            yield from _running(endpoint)
    if config.listen.metrics:
        yield from _metrics(config.listen.metrics, is_running=is_here)
    if config.http.listen:
        yield _gateway(config.http.listen, is_expected=is_here and config.http.with_daemon)


def is_running(config: Config) -> bool:
    """Return whether a daemon with this configuration runs: it holds the state's lock, or serves a local socket."""
    try:
        inode = Path(config.state.dir, "lock").stat().st_ino
        locks = [line.split() for line in Path("/proc/locks").read_text("utf-8").splitlines()]
    except OSError:
        locks = []
    if any("FLOCK" in words and any(word.endswith(f":{inode}") for word in words) for words in locks):
        return True
    paths = (end.removeprefix("ipc://") for end in config.listen.clients if end.startswith("ipc://"))
    return any(is_served(Path(path)) for path in paths)


def _running(endpoint: str) -> Iterator[Finding]:
    try:
        with Client(endpoint, timeout_s=ANSWER_S) as client:
            running = RunningDaemon(endpoint=endpoint, welcome=client.ping(), stats=client.stats())
    except SubtitleError as error:
        remedy = "see `journalctl -u subtitled -n 50 -o cat`, then: systemctl restart subtitled"
        yield fault(endpoint, f"a process serves it and does not answer: {error}", remedy)
        return
    yield from running_findings(running)


def running_findings(running: RunningDaemon) -> Iterator[Finding]:
    """Return findings about a running daemon and its workers."""
    stats, version = running.stats, running.welcome.server
    if version != VERSION:
        text = f"subtitled {version} runs, {VERSION} is installed"
        yield warning(running.endpoint, text, "type: systemctl restart subtitled")
    else:
        text = f"subtitled {version}, up {stats.uptime_s:.0f} s, model {running.welcome.model}"
        yield ok(running.endpoint, text)
    for worker in stats.workers:
        name = f"worker {worker.slot}"
        if worker.state == "broken":
            yield fault(
                name, f"is broken: {worker.cause}", "fix the cause, then type: systemctl reload subtitled"
            )
        elif worker.state not in _LOADED and not worker.has_left:
            cause = f": {worker.cause}" if worker.cause else ""
            yield warning(
                name, f"is {worker.state}{cause}", "wait for worker.ready in the log, then repeat the check"
            )
    for file in stats.open_files:
        text = f"waits: {file.process or 'a process'} has had it open for writing for {file.seconds} s"
        yield warning(file.path, text, "close it there, or stop that process; the file is accepted then")
    transcribers = [worker for worker in stats.workers if worker.role == "transcribe"]
    loaded = sum(worker.state in _LOADED for worker in transcribers)
    if loaded:
        text = f"{loaded} of {len(transcribers)} transcribe workers are ready, {stats.ready_segments} segments are queued"
        yield ok("workers", text)


def _place(path: Path, account: DaemonUser) -> Finding:
    """Check the folder of an unused socket, as the daemon's user."""
    name = f"ipc://{path}"
    folder = next(place for place in path.parents if is_there(place))
    if os.access(folder, os.W_OK | os.X_OK):
        return ok(name, "free")
    if path.is_relative_to("/run/subtitled"):
        return ok(name, "free; systemd creates its folder at the start (RuntimeDirectory)")
    remedy = f"type: install -d -o {account.name} -m 750 {quote(str(path.parent))}"
    return fault(name, f"{account.name} cannot create it in {folder}", remedy)


def _port(name: str, address: str, *, is_running: bool) -> Finding:
    host, _, port = address.rpartition(":")
    return port_finding(name, _bind_error(host.strip("[]"), int(port)), is_running=is_running)


def port_finding(name: str, error: OSError | None, *, is_running: bool) -> Finding:
    """Return the finding about an attempt to bind a port."""
    if error is None:
        return ok(name, "free")
    if error.errno == errno.EADDRINUSE and is_running:
        return ok(name, "served by the running daemon")
    if error.errno == errno.EADDRINUSE:
        return fault(
            name, "another program uses it", "find it with `ss -ltnp` and stop it, or choose another port"
        )
    remedy = "choose an address of this machine and a port of 1024 or higher"
    return fault(name, f"cannot be bound: {error.strerror}", remedy)


def _bind_error(host: str, port: int) -> OSError | None:
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, number) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error
    return None


def _metrics(address: str, *, is_running: bool) -> Iterator[Finding]:
    name = f"metrics {address}"
    found = _port(name, address, is_running=is_running)
    if not (is_running and found.state == "ok" and found.message != "free"):
        yield found
        return
    for path in ("healthz", "readyz"):
        try:
            with urllib.request.urlopen(f"http://{address}/{path}", timeout=ANSWER_S):
                yield ok(f"{name} {path}", "ok")
        except urllib.error.HTTPError as error:
            with error:
                text = error.read(2000).decode("utf-8", "replace").strip()
            yield fault(f"{name} {path}", text, "see the daemon's log: journalctl -u subtitled -n 50 -o cat")
        except OSError as error:
            yield fault(f"{name} {path}", str(error), "check with `ss -ltnp` which program listens there")


def _gateway(address: str, *, is_expected: bool) -> Finding:
    """Check the gateway's port; a running gateway answers /health."""
    name = f"http {address}"
    found = _port(name, address, is_running=False)
    if found.message == "free" and is_expected:
        remedy = "see http.failed and http.lost in the daemon's log: journalctl -u subtitled -n 50 -o cat"
        return fault(name, "the gateway does not run", remedy)
    try:
        urllib.request.urlopen(f"http://{address}/health", timeout=ANSWER_S).close()
    except urllib.error.HTTPError as error:
        with error:
            content = error.read(1000)
        if b'"status"' not in content:
            return found
        return warning(name, f"the gateway answers: {content.decode()}", "see the workers above")
    except OSError:
        return found
    return ok(name, "served by the gateway")


def check_server_key(config: Config, account: DaemonUser) -> Iterator[Finding]:
    """Check the server's key, if it exists or clients have keys."""
    path = server_key_path(config)
    if not config.client and not path.exists():
        yield ok("keys", "none: only the local socket and loopback accept clients")
        return
    if not path.exists():
        yield ok("keys", f"{path} will be created at the next start")
        return
    yield from run_as(account, lambda: [_key_finding(path, account)])
    yield ok("keys", f"{len(config.client)} clients have a key")


def _key_finding(path: Path, account: DaemonUser) -> Finding:
    name = "server key"
    if not os.access(path, os.R_OK):
        return fault(
            name, f"{account.name} cannot read {path}", f"type: chown {account.name} {quote(str(path))}"
        )
    try:
        server_key(path)
    except SubtitledError as error:
        return from_error(name, error, "restore it from a backup")
    return ok(name, f"{path}, readable only by {account.name}")
