"""Limits of HTTP connections: their number, the time for a request's header, and stalled writes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from subtitled import log
from subtitled.http.auth import client_of

MAX_CONNECTIONS = 1024
MIN_CONNECTIONS = 16
RESERVED_DESCRIPTORS = 576
"""File descriptors reserved for running requests, each with a connection to the daemon, and for files."""
HEADER_TIMEOUT_S = 20.0
"""From the connection, or from the first byte of a later request, to the end of the request's header."""
WRITE_TIMEOUT_S = 60.0
"""A client that does not read its response for this long is disconnected."""
CHECK_S = 5.0
LOG_INTERVAL_S = 60.0
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 5\r\nConnection: close\r\n\r\n"
)
_log = log.get()


class RateLimitedLog:
    """Logs one event at most once per LOG_INTERVAL_S, with the number of occurrences since then."""

    def __init__(self, event: str, now: Callable[[], float] = time.monotonic) -> None:
        """`event` is a constant of `subtitled.log`."""
        self._event = event
        self._now = now
        self._next_at = -float("inf")
        self._count = 0

    def warn(self, **fields: object) -> None:
        """Log the event, or only count it."""
        self._count += 1
        now = self._now()
        if now >= self._next_at:
            _log.warning(self._event, count=self._count, **fields)
            self._next_at, self._count = now + LOG_INTERVAL_S, 0


class HttpConnectionLimits:
    """The number of open connections, in all and of each client."""

    def __init__(self, max_descriptors: int) -> None:
        """`max_descriptors` is the process's limit of open files, which connections must not reach."""
        self.max_open = max(MIN_CONNECTIONS, min(MAX_CONNECTIONS, max_descriptors - RESERVED_DESCRIPTORS))
        self.max_open_of_client = self.max_open * 3 // 4
        self._open: Counter[str] = Counter()
        self._refused = RateLimitedLog(log.HTTP_CONNECTIONS_REFUSED)

    def acquire(self, client: str) -> bool:
        """Count a connection; return False, and log it, if a limit is reached."""
        is_allowed = self._open.total() < self.max_open and self._open[client] < self.max_open_of_client
        if is_allowed:
            self._open[client] += 1
        else:
            self._refused.warn(client=client, open=self._open.total(), limit=self.max_open)
        return is_allowed

    def release(self, client: str) -> None:
        """Count the end of a connection."""
        self._open[client] -= 1
        if not self._open[client]:
            del self._open[client]


def protocol_class(limits: HttpConnectionLimits) -> type[H11Protocol]:
    """Return uvicorn's HTTP protocol with these limits."""

    class LimitedProtocol(H11Protocol):
        """One connection."""

        _client = ""
        _is_counted = False
        _check: asyncio.TimerHandle | None = None
        _header_since: float | None = None
        _unsent_bytes = 0
        _unsent_since = 0.0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            """Accept or refuse the connection."""
            super().connection_made(transport)
            self._client = client_of({"client": self.client})
            self._is_counted = limits.acquire(self._client)
            if not self._is_counted:
                transport.write(_BUSY)
                transport.close()
                return
            self._header_since = self.loop.time()
            self._check = self.loop.call_later(CHECK_S, self._check_deadlines)

        def connection_lost(self, exc: Exception | None) -> None:
            """Release the connection."""
            if self._is_counted:
                limits.release(self._client)
                self._is_counted = False
            if self._check is not None:
                self._check.cancel()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            """Parse data, and start or stop the deadline of a header."""
            if self.transport.is_closing():
                return
            if self._is_waiting and self._header_since is None:
                self._header_since = self.loop.time()
            super().data_received(data)
            if not self._is_waiting:
                self._header_since = None

        @property
        def _is_waiting(self) -> bool:
            """No request is running."""
            return self.cycle is None or self.cycle.response_complete

        def _check_deadlines(self) -> None:
            now = self.loop.time()
            unsent = self.transport.get_write_buffer_size()
            if not unsent or unsent != self._unsent_bytes:
                self._unsent_bytes, self._unsent_since = unsent, now
            is_stalled = unsent > 0 and now - self._unsent_since >= WRITE_TIMEOUT_S
            is_late = (
                self._is_waiting
                and self._header_since is not None
                and now - self._header_since >= HEADER_TIMEOUT_S
            )
            if is_stalled or is_late:
                self.transport.abort()
                return
            self._check = self.loop.call_later(CHECK_S, self._check_deadlines)

    return LimitedProtocol


def log_loop_errors(loop: asyncio.AbstractEventLoop) -> None:
    """Log errors of the event loop, such as a failed accept, at a limited rate and without tracebacks."""
    errors = RateLimitedLog(log.HTTP_LOOP_FAILED)

    def handle(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        cause = context.get("exception")
        errors.warn(cause=repr(cause) if cause else "", message=context["message"])

    loop.set_exception_handler(handle)
