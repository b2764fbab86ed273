"""Close client connections when they are too many or make the daemon hold too much memory.

ZeroMQ limits the size of a frame and the messages that it queues per client, but neither the frames of one message nor the
connections: it buffers a message that never ends until the memory is full. So connections are counted from ZeroMQ's monitor
events, and the daemon's memory is measured while any are open. Closing a connection frees what was buffered for it. A client
of this project connects again automatically and resumes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import socket as plain
import stat
import struct
import threading
import time
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
RESERVE_FACTOR = 4
"""Descriptors for each allowed connection: more connections are accepted before the guard refuses them."""
MAX_EVENTS = 64
"""Events that the guard reads before it closes surplus connections."""
GUARD_POLL_MS = 200
IDLE_CHECK_S = 1.0
CHECK_S = 0.25
"""Seconds between two memory checks while a client is connected."""
SETTLE_S = 2.0
"""Time in which ZeroMQ frees what it buffered for closed connections."""
RECHECK_S = 0.05
"""Seconds between two checks until then: clients that connect again may fill the memory again."""
LOG_S = 10.0
"""Seconds between two lines in the log about the limit: a flood reaches it many times a second."""
_SO_ATTACH_FILTER, _SO_DETACH_FILTER, _BPF_RET = 26, 27, 6
"""From asm-generic/socket.h and linux/bpf_common.h."""
_EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED
_log = log.get()


class _Limited(Struct):
    """One listener with its monitor socket and open connections; belongs to the guard's thread."""

    monitor: zmq.Socket[bytes]
    listener: Listener
    connections: dict[int, str]
    """File descriptor -> endpoint that it connected to, oldest first."""


class _HiddenName:
    """The name of a Unix socket is moved away; raises OSError."""

    def __init__(self, endpoint: str) -> None:
        self._path = Path(endpoint.removeprefix("ipc://"))
        self._hidden = self._path.with_name(f"{self._path.name}.full")
        self._path.rename(self._hidden)

    def undo(self) -> None:
        """Move it back."""
        self._hidden.rename(self._path)


class _DroppedHandshakes:
    """A filter drops what reaches a listening TCP socket: its clients repeat their handshakes. Raises OSError.

    See socket(7), SO_ATTACH_FILTER; open connections have sockets of their own.
    """

    def __init__(self, listening: plain.socket) -> None:
        self._listening = listening
        drop = ctypes.create_string_buffer(struct.pack("=HBBI", _BPF_RET, 0, 0, 0))
        program = struct.pack("@HP", 1, ctypes.addressof(drop))
        listening.setsockopt(plain.SOL_SOCKET, _SO_ATTACH_FILTER, program)

    def undo(self) -> None:
        """Accept handshakes again."""
        self._listening.setsockopt(plain.SOL_SOCKET, _SO_DETACH_FILTER, 0)


class ConnectionLimits:
    """All connections of clients: counted in a separate thread, the memory check in the server's loop.

    libzmq aborts the process when it cannot accept a connection to a Unix socket for lack of descriptors, so the guard must not
    wait for the loop. At the limit it closes the newest connections and refuses further clients: a Unix socket's name is moved
    away, and the handshakes of a TCP socket are dropped by a filter in the kernel. zmq clients connect again afterwards.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        listeners: Iterable[Listener],
        *,
        descriptors: int,
        metrics: Metrics,
    ) -> None:
        """`descriptors`: open files that the process may have; most of them are left as a reserve if they are few."""
        self._metrics = metrics
        self._limited = [_Limited(_monitor(context, one), one, {}) for one in listeners]
        self._max_connections = max(
            8, min(MAX_CONNECTIONS, descriptors // RESERVE_FACTOR // max(1, len(self._limited)))
        )
        self._base_bytes = resident_bytes()
        self._allowed_bytes = ALLOWANCE_BYTES
        self._check_at = 0.0
        self._bytes_before = 0
        """Memory when all connections were closed; 0 once the effect is known."""
        self._settled_at = 0.0
        self._lock = threading.Lock()
        self._hidden: dict[str, _HiddenName | _DroppedHandshakes] = {}
        """Endpoints that accept no connection while the limit is reached."""
        self._tcp_sockets = _tcp_listeners()
        self._log_at = 0.0
        self._is_closing = False
        self._thread = threading.Thread(target=self._guard, name="connections", daemon=True)
        self._thread.start()

    @property
    def poll_timeout_s(self) -> float:
        """Longest time until `check` must be called again."""
        if self._bytes_before:
            return RECHECK_S
        return CHECK_S if self.count else IDLE_CHECK_S

    @property
    def count(self) -> int:
        """Open connections."""
        return sum(len(one.connections) for one in self._limited)

    def allow(self, expected: int) -> None:
        """Set the bytes that the daemon's own buffers may take."""
        self._allowed_bytes = expected + ALLOWANCE_BYTES

    def check(self, now: float) -> None:
        """Close all connections if they hold too much memory."""
        if now < self._check_at:
            return
        with contextlib.suppress(
            OSError
        ):  # no descriptor is left to read the memory: the guard closes connections now
            self._check_memory(now)
        self._check_at = now + min(self.poll_timeout_s, CHECK_S)

    def _check_memory(self, now: float) -> None:
        if self._bytes_before:
            self._recheck(now)
        elif self.count and resident_bytes() > self._base_bytes + self._allowed_bytes:
            _trim_heap()
            if (resident := resident_bytes()) > self._base_bytes + self._allowed_bytes:
                self._close_all(resident)
                self._bytes_before = resident
                self._settled_at = now + SETTLE_S

    def close(self) -> None:
        """Stop the guard; to be called before the listeners are closed."""
        self._is_closing = True
        for one in self._limited:
            one.listener.socket.disable_monitor()
        self._thread.join()

    def _guard(self) -> None:
        """Count connections until `close`."""
        poller = zmq.Poller()
        for one in self._limited:
            poller.register(one.monitor, zmq.POLLIN)
        while not self._is_closing:
            ready = dict(poller.poll(GUARD_POLL_MS))
            for one in self._limited:
                if one.monitor in ready:
                    self._count(one)
        for endpoint in list(self._hidden):
            self._show(endpoint)
        for one in self._limited:
            one.monitor.close()
        for listening in self._tcp_sockets.values():
            listening.close()

    def _count(self, one: _Limited) -> None:
        for _ in range(MAX_EVENTS):
            try:
                event = parse_monitor_message(one.monitor.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                break
            file = int(event["value"])
            with self._lock:
                if event["event"] == zmq.EVENT_ACCEPTED:
                    one.connections[file] = event["endpoint"].decode("utf-8", "surrogateescape")
                else:
                    one.connections.pop(file, None)
            if len(one.connections) > self._max_connections:
                self._hide(one.connections.get(file, ""))
        # The newest: a flood of connections does not close those of clients at work.
        with self._lock:
            surplus = list(one.connections.items())[self._max_connections :]
            for file, _ in surplus:
                del one.connections[file]
        for file, endpoint in surplus:
            close_connection(file, endpoint)
            self._metrics.closed_connections.labels("connections").inc()
        if len(one.connections) < self._max_connections * 9 // 10:
            for endpoint in list(self._hidden):
                self._show(endpoint)

    def _hide(self, endpoint: str) -> None:
        """Refuse further clients of an endpoint."""
        if endpoint and endpoint not in self._hidden:
            with contextlib.suppress(OSError, KeyError):
                is_local = endpoint.startswith("ipc://")
                self._hidden[endpoint] = (
                    _HiddenName(endpoint) if is_local else _DroppedHandshakes(self._tcp_sockets[endpoint])
                )
            if time.monotonic() >= self._log_at:
                self._log_at = time.monotonic() + LOG_S
                _log.warning(
                    log.CLIENT_DISCONNECTED, endpoint=endpoint, max_connections=self._max_connections
                )

    def _show(self, endpoint: str) -> None:
        with contextlib.suppress(OSError):
            self._hidden.pop(endpoint).undo()

    def _close_all(self, resident: int) -> None:
        with self._lock:
            connections = [item for one in self._limited for item in one.connections.items()]
        for file, endpoint in connections:
            close_connection(file, endpoint)
            self._metrics.closed_connections.labels("memory").inc()
        _log.warning(
            log.CLIENT_DISCONNECTED,
            connections=len(connections),
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


def _tcp_listeners() -> dict[str, plain.socket]:
    """Return a second descriptor of each TCP socket on which this process listens, by endpoint."""
    found: dict[str, plain.socket] = {}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - only the numbers are needed
        with contextlib.suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            one = plain.socket(fileno=os.dup(int(name)))
            is_tcp = one.family in {plain.AF_INET, plain.AF_INET6}
            if is_tcp and one.getsockopt(plain.SOL_SOCKET, plain.SO_ACCEPTCONN):
                host, port = one.getsockname()[:2]
                endpoint = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
                if found.setdefault(endpoint, one) is one:
                    continue
            one.close()
    return found


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
