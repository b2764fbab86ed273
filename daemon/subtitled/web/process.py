"""The gateway's process: listening socket, HTTP server and graceful stop."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Mapping

import uvicorn

from subtitle.errors import SubtitleError
from subtitle.transport import key_for
from subtitled import log
from subtitled.config.addresses import host_of
from subtitled.config.schema import Config
from subtitled.errors import SubtitledError
from subtitled.http.auth import Role, read_tokens
from subtitled.runtime.processes import raise_descriptor_limit
from subtitled.systemd.notify import SystemdNotifier
from subtitled.web.app import build_app
from subtitled.web.connections import HttpConnectionLimits, log_loop_errors, protocol_class

STOP_S = 10
"""Time for running requests to finish after SIGTERM; then their jobs are cancelled."""
MIB = 2**20
_log = log.get()


def serve(config: Config, environ: Mapping[str, str]) -> None:
    """Serve until SIGTERM or SIGINT; raises SubtitledError if it cannot start."""
    log.configure(config.log.level, config.log.format, sys.stderr)
    log.forward_lines(environ)
    http, endpoint, notifier = config.http, server_of(config), SystemdNotifier(environ)
    host = host_of(http.listen)
    if host is None:
        raise SubtitledError("http.listen is empty; set an address, such as 127.0.0.1:8600 (docs/http.md)")
    tokens = read_tokens(http.token_file) if http.token_file else dict[bytes, Role]()
    try:
        key_for(endpoint, http.key)
    except SubtitleError as error:
        raise SubtitledError(f"http.key: {error}") from error
    limits = HttpConnectionLimits(raise_descriptor_limit())
    app = build_app(
        endpoint,
        http.key,
        tokens=tokens,
        max_bytes=http.max_upload_mb * MIB,
        models=http.models,
        origins=http.origins,
        on_ready=lambda: _on_ready(notifier),
    )
    with listening(http.listen) as sock:
        _log.info(log.HTTP_LISTENING, address=http.listen, server=endpoint, has_tokens=bool(tokens))
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=protocol_class(limits),
                loop="asyncio",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=STOP_S,
            )
        )

        def stop(*_: object) -> None:
            server.should_exit = True

        # For signals before and after uvicorn installs its own handlers: it raises a signal again when it stops.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        server.run(sockets=[sock])
    _log.info(log.HTTP_STOPPED)


def _on_ready(notifier: SystemdNotifier) -> None:
    log_loop_errors(asyncio.get_running_loop())
    notifier.ready()


def server_of(config: Config) -> str:
    """Return the daemon's endpoint: `http.server`, else the first local endpoint of `listen.clients`."""
    local = [end for end in config.listen.clients if end.startswith("ipc:")]
    return config.http.server or (*local, *config.listen.clients, "")[0]


def listening(address: str) -> socket.socket:
    """Return a socket that listens on HOST:PORT; raises SubtitledError."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        family = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, int(port)), family=family, backlog=1024)
    except OSError as error:
        raise SubtitledError(
            f"http.listen {address}: {error.strerror or error}; choose another address"
        ) from error
