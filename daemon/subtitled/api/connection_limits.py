"""The connections behind the doors: hung up on when they are too many, or when they have the daemon hold too much.

ZeroMQ limits a frame and how many messages it holds of a client, not the frames of a message: one that never ends is kept,
out of sight, for as long as it grows. Nor does it limit connections. So they are counted here as ZeroMQ tells of them, the
daemon's memory is looked at while there are any, and who is hung up on loses what was held. Honest clients connect again by
themselves, and go on.
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
"""Connections of one door, so that strangers on the network leave the local socket open; fewer where there are few descriptors."""
ALLOWANCE_BYTES = 256 * 2**20
"""Memory that clients may take beyond that of their uploads."""
LOOK_S = 0.25
"""Seconds between two looks at the memory while anybody is connected."""
JUDGE_S = 2.0
"""After so long ZeroMQ has let go of what it held of connections that were hung up on."""
JUDGE_LOOK_S = 0.05
"""Seconds between two looks until then: who comes back may fill the memory again."""
_EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED
_log = log.get()


class _Gate(Struct):
    """A door, what tells of it, and who is connected."""

    monitor: zmq.Socket[bytes]
    door: Listener
    lines: dict[int, str]
    """The endpoint that each file descriptor came in by, oldest first."""


class ConnectionLimits:
    """All connections of clients; belongs to the thread of the server's loop."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        doors: Iterable[Listener],
        *,
        descriptors: int,
        metrics: Metrics,
    ) -> None:
        """`descriptors`: how many files the process may have open; half of them are left to the rest of the daemon."""
        self._metrics = metrics
        self._gates = [_Gate(_monitor(context, door), door, {}) for door in doors]
        self._max_connections = min(MAX_CONNECTIONS, descriptors // 2 // max(1, len(self._gates)))
        self._base_bytes = held_bytes()
        self._allowed_bytes = ALLOWANCE_BYTES
        self._look_at = 0.0
        self._held_before = 0
        """What was held when all were hung up on; 0 once it is known whether that helped."""
        self._judge_until = 0.0

    @property
    def patience_s(self) -> float:
        """How long `look` may be left uncalled when nothing comes."""
        if self._held_before:
            return JUDGE_LOOK_S
        return LOOK_S if self.count else math.inf

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """What tells that somebody has come or gone."""
        return [gate.monitor for gate in self._gates]

    @property
    def count(self) -> int:
        """Connections that are open."""
        return sum(len(gate.lines) for gate in self._gates)

    def allow(self, held: int) -> None:
        """Let the daemon hold so many bytes for other reasons than hostile ones."""
        self._allowed_bytes = held + ALLOWANCE_BYTES

    def look(self, now: float) -> None:
        """Take note of who came and went; hang up where there is too much."""
        for gate in self._gates:
            self._listen(gate)
        if now < self._look_at:
            return
        if self._held_before:
            self._judge(now)
        elif self.count and held_bytes() > self._base_bytes + self._allowed_bytes:
            _give_back()
            if (held := held_bytes()) > self._base_bytes + self._allowed_bytes:
                self._hang_up_all(held)
                self._held_before = held
                self._judge_until = now + JUDGE_S
        self._look_at = now + min(self.patience_s, LOOK_S)

    def close(self) -> None:
        """Stop listening; before the doors are closed."""
        for gate in self._gates:
            gate.door.socket.disable_monitor()
            gate.monitor.close()

    def _listen(self, gate: _Gate) -> None:
        while True:
            try:
                event = parse_monitor_message(gate.monitor.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                break
            file = int(event["value"])
            if event["event"] == zmq.EVENT_ACCEPTED:
                gate.lines[file] = event["endpoint"].decode("utf-8", "surrogateescape")
            else:
                gate.lines.pop(file, None)
        # The newest: who is at work already is not sent away for those who come in numbers.
        surplus = list(gate.lines.items())[self._max_connections :]
        for file, endpoint in surplus:
            del gate.lines[file]
            hang_up(file, endpoint)
            self._metrics.hung_up.labels("connections").inc()

    def _hang_up_all(self, held: int) -> None:
        for gate in self._gates:
            for file, endpoint in gate.lines.items():
                hang_up(file, endpoint)
                self._metrics.hung_up.labels("memory").inc()
        _log.warning(
            log.CLIENT_DISCONNECTED,
            connections=self.count,
            held_mb=held // 2**20,
            allowed_mb=(self._base_bytes + self._allowed_bytes) // 2**20,
        )

    def _judge(self, now: float) -> None:
        """Look whether the connections were what held the memory; if not, it is the daemon's own, and may be held."""
        _give_back()
        held = held_bytes()
        if self._held_before - held >= ALLOWANCE_BYTES // 2:
            self._held_before = 0
        elif now >= self._judge_until:
            self._held_before = 0
            self._base_bytes = held


def held_bytes() -> int:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()


def hang_up(file: int, endpoint: str) -> None:
    """End the connection of a file descriptor that is ZeroMQ's, if it is still one that came in by `endpoint`."""
    with contextlib.suppress(OSError), plain.socket(fileno=os.dup(file)) as line:
        if _is_at(line, endpoint):
            line.shutdown(plain.SHUT_RDWR)


def _is_at(line: plain.socket, endpoint: str) -> bool:
    """Say whether a connection's own end is `endpoint`: its number may be that of another file by now."""
    here = line.getsockname()
    if line.family == plain.AF_UNIX:
        return endpoint == f"ipc://{here}"
    return endpoint.startswith("tcp://") and endpoint.rpartition(":")[2] == str(here[1])


def _monitor(context: zmq.Context[zmq.Socket[bytes]], door: Listener) -> zmq.Socket[bytes]:
    address = f"inproc://lines-{door.kind}"
    door.socket.monitor(address, _EVENTS)
    monitor = context.socket(zmq.PAIR)
    monitor.setsockopt(zmq.LINGER, 0)
    # ZeroMQ's own thread, which serves all sockets, must never wait for the loop to read.
    monitor.setsockopt(zmq.RCVHWM, 0)
    monitor.connect(address)
    return monitor


def _give_back() -> None:
    """Have the allocator give back what it keeps of freed memory, where it can."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
