"""A host with GPUs that only wait: `node.py FOLDER ENDPOINT KEY WORKERS A B ROUND_TRIP_S`.

Its workers use the protocol of `subtitled worker`, each over a socket of its own with CURVE, and answer a lease after the time that a GPU
takes (see `waiting`). What comes and what goes is held for half the round trip. When standard input ends, what the engines have
done is written to the folder.
"""

from __future__ import annotations

import heapq
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import assert_never

sys.path.insert(0, str(Path(__file__).parents[1]))

import zmq
from msgspec import structs

from parts.waiting import Service, Timing, Transcriber, write_services
from subtitle.keys import Key, load_key
from subtitled.core import protocol as pr
from subtitled.version import VERSION

JOIN_AGAIN_S = 2.0
BEAT_S = 1.0
WEIGHTS = "0" * 64
"""What would be the SHA-256 of the model's."""


class _Worker:
    """One worker: its session, its engine."""

    def __init__(self, socket: zmq.Socket[bytes], place: str, engine: Transcriber) -> None:
        self.socket = socket
        self.place = place
        self.engine = engine
        self.is_welcome = False


class Node:
    """The sockets of some workers, and the one thread that serves them all."""

    def __init__(self, endpoint: str, key: Key, workers: int, timing: Timing, round_trip_s: float) -> None:
        self._half_s = round_trip_s / 2
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._poller = zmq.Poller()
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0
        self._key = key
        self._workers = {}
        for number in range(workers):
            place = f"cuda{number}"
            socket = self._open(endpoint)
            worker = _Worker(socket, place, Transcriber(f"{key.name}/{place}", timing))
            self._workers[socket] = worker
            self._poller.register(socket, zmq.POLLIN)
            self._join(worker)
            self._beat(worker)

    def serve(self) -> list[Service]:
        """Serve until standard input ends; return what the engines have done."""
        line = sys.stdin.buffer.fileno()
        self._poller.register(line, zmq.POLLIN)
        while True:
            ready = dict(self._poller.poll(self._wait_ms()))
            if ready.pop(line, 0):
                break
            for socket in ready:
                self._receive(self._workers[socket])
            while self._due and self._due[0][0] <= time.monotonic():
                heapq.heappop(self._due)[2]()
        self._context.destroy(linger=0)
        return [service for worker in self._workers.values() for service in worker.engine.services]

    def _open(self, endpoint: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.curve_publickey = self._key.public.encode()
        socket.curve_secretkey = self._key.secret.encode()
        socket.curve_serverkey = self._key.server.encode()
        socket.connect(endpoint)
        return socket

    def _wait_ms(self) -> int:
        # Rounded up, a round trip of five milliseconds would be one of six.
        wait_s = self._due[0][0] - time.monotonic() if self._due else BEAT_S
        return max(0, int(wait_s * 1000 + 0.5))

    def _receive(self, worker: _Worker) -> None:
        while True:
            try:
                frames = worker.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self._in(self._half_s, partial(self._handle, worker, frames))

    def _handle(self, worker: _Worker, frames: Sequence[zmq.Frame]) -> None:
        message, blobs = pr.to_worker.decode([frame.buffer for frame in frames])
        match message:
            case pr.SessionAccepted():
                worker.is_welcome = True
                ready = worker.engine.ready(message.engine.model)
                self._send(worker, structs.replace(ready, model_digest=WEIGHTS, compute_type="float16"))
            case pr.Probe(stamp_s=stamp_s):
                self._send(worker, pr.Echo(stamp_s=stamp_s))
            case pr.Transcribe(lease=lease):
                self._send(worker, pr.LeaseReceived(lease=lease))
                due = worker.engine.receive(message, blobs, time.monotonic())
                if due is not None:
                    self._at(due, partial(self._answer, worker))
            case pr.SessionRefused() | pr.SessionUnknown():
                raise SystemExit(f"{worker.engine.identity}: {message}")
            case (
                pr.Prepare()
                | pr.FeedCredit()
                | pr.Abandon()
                | pr.AbandonLease()
                | pr.FreeModel()
                | pr.KeepModel()
                | pr.Translate()
                | pr.Drain()
            ):
                pass
            case _:
                assert_never(message)

    def _answer(self, worker: _Worker) -> None:
        answer, due = worker.engine.due(time.monotonic())
        self._send(worker, answer)
        if due is not None:
            self._at(due, partial(self._answer, worker))

    def _join(self, worker: _Worker) -> None:
        if not worker.is_welcome:
            join = pr.JoinSession(
                version=VERSION, protocol=pr.PROTOCOL, place=worker.place, device="a GPU that waits"
            )
            self._send(worker, join)
            self._in(JOIN_AGAIN_S, partial(self._join, worker))

    def _beat(self, worker: _Worker) -> None:
        if worker.is_welcome:
            self._send(worker, pr.Heartbeat())
        self._in(BEAT_S, partial(self._beat, worker))

    def _send(self, worker: _Worker, message: pr.FromWorker) -> None:
        frames = pr.from_worker.encode(message)
        self._in(self._half_s, partial(worker.socket.send_multipart, frames, copy=False))

    def _in(self, wait_s: float, call: Callable[[], object]) -> None:
        self._at(time.monotonic() + wait_s, call)

    def _at(self, at: float, call: Callable[[], object]) -> None:
        self._count += 1
        heapq.heappush(self._due, (at, self._count, call))


def main(argv: list[str]) -> None:
    """Serve until standard input ends."""
    folder, endpoint, key, workers, *numbers = argv
    a_s, b_s, round_trip_s = map(float, numbers)
    node = Node(endpoint, load_key(key), int(workers), Timing(a_s, b_s), round_trip_s)
    write_services(folder, node.serve())


if __name__ == "__main__":
    main(sys.argv[1:])
