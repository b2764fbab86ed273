"""How long a daemon takes to answer while it is at work, beside a process that has nothing else to do."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from typing import TYPE_CHECKING, Any, Self

import zmq
from msgspec import Struct

from subtitle import messages as ms

if TYPE_CHECKING:
    from pathlib import Path

PING_S = 0.005
WAIT_MS = 60_000


class Times(Struct, frozen=True):
    """Answers, in milliseconds."""

    median: float
    most: float
    """99 of 100 are not longer."""
    longest: float
    count: int

    @classmethod
    def of(cls, found: list[float]) -> Times:
        """Return what is to be known of them."""
        times = sorted(found)
        return cls(statistics.median(times), times[len(times) * 99 // 100], times[-1], len(times))


class Pings:
    """Asks a daemon `Hello` every 5 ms, and in the same moments an idle process that sends back what it gets.

    What the second is late by, the machine is: it says how much of the first is the daemon's. A context manager; what was
    found is known at its end.
    """

    def __init__(self, endpoint: str, folder: Path) -> None:
        """`folder`: for the socket of the other process."""
        spawn = multiprocessing.get_context("spawn")
        self._stop, self._found = spawn.Event(), spawn.Queue()
        echo = f"ipc://{folder}/echo.sock"
        self._processes = [
            spawn.Process(target=_echo, args=(echo, self._stop)),
            spawn.Process(target=_ping, args=(endpoint, echo, self._stop, self._found)),
        ]
        self.daemon = self.echo = Times(0, 0, 0, 0)

    def __enter__(self) -> Self:
        for process in self._processes:
            process.start()
        self._found.get(timeout=WAIT_MS / 1000)  # they have begun
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.daemon, self.echo = (Times.of(self._found.get(timeout=WAIT_MS / 1000)) for _ in range(2))
        for process in self._processes:
            process.join()


def _ping(endpoint: str, echo: str, stop: Any, found: Any) -> None:
    """Ping both in turn until `stop` is set; runs in a process of its own."""
    question = ms.to_server.encode(ms.Hello(request=1))
    with zmq.Context() as context, context.socket(zmq.DEALER) as daemon, context.socket(zmq.DEALER) as other:
        daemon.connect(endpoint)
        other.connect(echo)
        times: tuple[list[float], list[float]] = ([], [])
        while not stop.is_set():
            for socket, into in zip((daemon, other), times, strict=True):
                started = time.perf_counter()
                socket.send_multipart(question)
                if not socket.poll(WAIT_MS):
                    raise SystemExit(f"no answer within {WAIT_MS} ms")
                socket.recv_multipart()
                into.append((time.perf_counter() - started) * 1000)
            if len(times[0]) == 1:
                found.put(None)
            stop.wait(PING_S)
    for into in times:
        found.put(into[1:])


def _echo(endpoint: str, stop: Any) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.bind(endpoint)
        while not stop.is_set():
            if socket.poll(500):
                socket.send_multipart(socket.recv_multipart())
