"""Close client connections when they are too many or make the daemon hold too much memory.

ZeroMQ limits the size of a frame and the messages that it queues per client, but neither the frames of one message nor the
connections: it buffers a message that never ends until the memory is full. So connections are counted from ZeroMQ's monitor
events, and the daemon's memory is measured while any are open. Closing a connection frees what was buffered for it. A client
of this project connects again automatically and resumes.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import resource
import socket as plain
from collections.abc import Iterable
from pathlib import Path

import zmq
from msgspec import Struct
from zmq.utils.monitor import parse_monitor_message

from subtitled import log
from subtitled.network.sockets import Listener
from subtitled.observability.metrics import Metrics

MAX_CONNECTIONS = 2048
"""Connections of one socket, so that a flood from the network leaves the local socket usable; fewer with few descriptors."""
ALLOWANCE_BYTES = 256 * 2**20
"""Memory that clients may take beyond the buffers of their uploads."""
CHECK_S = 0.25
"""Seconds between two memory checks while a client is connected."""
SETTLE_S = 2.0
"""Time in which ZeroMQ frees what it buffered for closed connections."""
RECHECK_S = 0.05
"""Seconds between two checks until then: clients that connect again may fill the memory again."""
_EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED
_log = log.get()


class _Limited(Struct):
    """One listener with its monitor socket and open connections."""

    monitor: zmq.Socket[bytes]
    listener: Listener
    connections: dict[int, str]
    """File descriptor -> endpoint that it connected to, oldest first."""


class ConnectionLimits:
    """All connections of clients; belongs to the thread of the server's loop."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        listeners: Iterable[Listener],
        *,
        descriptors: int,
        metrics: Metrics,
    ) -> None:
        """`descriptors`: open files that the process may have; half of them are left for the rest of the daemon."""
        self._metrics = metrics
        self._limited = [_Limited(_monitor(context, one), one, {}) for one in listeners]
        self._max_connections = min(MAX_CONNECTIONS, descriptors // 2 // max(1, len(self._limited)))
        self._base_bytes = resident_bytes()
        self._allowed_bytes = ALLOWANCE_BYTES
        self._check_at = 0.0
        self._bytes_before = 0
        """Memory when all connections were closed; 0 once the effect is known."""
        self._settled_at = 0.0

    @property
    def poll_timeout_s(self) -> float:
        """Longest time until `check` must be called again."""
        if self._bytes_before:
            return RECHECK_S
        return CHECK_S if self.count else math.inf

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """Monitor sockets, readable when a client connects or disconnects."""
        return [one.monitor for one in self._limited]

    @property
    def count(self) -> int:
        """Open connections."""
        return sum(len(one.connections) for one in self._limited)

    def allow(self, expected: int) -> None:
        """Set the bytes that the daemon's own buffers may take."""
        self._allowed_bytes = expected + ALLOWANCE_BYTES

    def check(self, now: float) -> None:
        """Count connections; close those beyond the limits."""
        for one in self._limited:
            self._count(one)
        if now < self._check_at:
            return
        if self._bytes_before:
            self._recheck(now)
        elif self.count and resident_bytes() > self._base_bytes + self._allowed_bytes:
            _trim_heap()
            if (resident := resident_bytes()) > self._base_bytes + self._allowed_bytes:
                self._close_all(resident)
                self._bytes_before = resident
                self._settled_at = now + SETTLE_S
        self._check_at = now + min(self.poll_timeout_s, CHECK_S)

    def close(self) -> None:
        """Stop monitoring; to be called before the listeners are closed."""
        for one in self._limited:
            one.listener.socket.disable_monitor()
            one.monitor.close()

    def _count(self, one: _Limited) -> None:
        while True:
            try:
                event = parse_monitor_message(one.monitor.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                break
            file = int(event["value"])
            if event["event"] == zmq.EVENT_ACCEPTED:
                one.connections[file] = event["endpoint"].decode("utf-8", "surrogateescape")
            else:
                one.connections.pop(file, None)
        # The newest: a flood of connections does not close those of clients at work.
        surplus = list(one.connections.items())[self._max_connections :]
        for file, endpoint in surplus:
            del one.connections[file]
            close_connection(file, endpoint)
            self._metrics.closed_connections.labels("connections").inc()

    def _close_all(self, resident: int) -> None:
        for one in self._limited:
            for file, endpoint in one.connections.items():
                close_connection(file, endpoint)
                self._metrics.closed_connections.labels("memory").inc()
        _log.warning(
            log.CLIENT_DISCONNECTED,
            connections=self.count,
            resident_mb=resident // 2**20,
            allowed_mb=(self._base_bytes + self._allowed_bytes) // 2**20,
        )

    def _recheck(self, now: float) -> None:
        """Check whether closing the connections freed memory; if not, the memory is the daemon's own and becomes the base."""
        _trim_heap()
        resident = resident_bytes()
        if self._bytes_before - resident >= ALLOWANCE_BYTES // 2:
            self._bytes_before = 0
        elif now >= self._settled_at:
            self._bytes_before = 0
            self._base_bytes = resident


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()


def close_connection(file: int, endpoint: str) -> None:
    """Shut down the socket behind one of ZeroMQ's file descriptors, if it is still a connection to `endpoint`."""
    with contextlib.suppress(OSError), plain.socket(fileno=os.dup(file)) as connection:
        if _is_at(connection, endpoint):
            connection.shutdown(plain.SHUT_RDWR)


def _is_at(connection: plain.socket, endpoint: str) -> bool:
    """Return whether a connection's local address is `endpoint`: the descriptor may belong to another file by now."""
    address = connection.getsockname()
    if connection.family == plain.AF_UNIX:
        return endpoint == f"ipc://{address}"
    return endpoint.startswith("tcp://") and endpoint.rpartition(":")[2] == str(address[1])


def _monitor(context: zmq.Context[zmq.Socket[bytes]], listener: Listener) -> zmq.Socket[bytes]:
    address = f"inproc://monitor-{listener.kind}"
    listener.socket.monitor(address, _EVENTS)
    monitor = context.socket(zmq.PAIR)
    monitor.setsockopt(zmq.LINGER, 0)
    # ZeroMQ's I/O thread serves all sockets and must not wait for the loop to read.
    monitor.setsockopt(zmq.RCVHWM, 0)
    monitor.connect(address)
    return monitor


def _trim_heap() -> None:
    """Return freed memory to the kernel where the allocator can."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
