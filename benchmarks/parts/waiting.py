"""Workers that do nothing but wait, many in one process: each its own DEALER socket and identity.

`waiting.py FOLDER A B` opens a worker for each message of its standard input, a Unix socket (JSON of `protocol.WorkerSettings`, and the
descriptor of the worker's socket for descriptors). A transcribe worker takes leases as a GPU's does, two at once, reads a byte of
each page of their PCM, and answers each after `A + B x segments` seconds; a prepare worker sends the segments of its "file" (which
says how many, of how many samples) with real PCM, as fast as its credit goes. When the input ends, what the engines have done is
written to the folder.
"""

from __future__ import annotations

import heapq
import os
import socket as unix
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec
import zmq
from msgspec import Struct

from parts.speech import recording
from subtitled.config.schema import SAMPLE_RATE
from subtitled.core import protocol as pr
from subtitled.core.plan import Plan, PlanPiece, Span
from subtitled.core.transcription import Phrase
from subtitled.version import VERSION
from subtitled.workers.shared_pcm import ArenaWriter, DescriptorReceiver, lease_audio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from subtitle.codec import Buffer
    from subtitled.core.protocol import WorkerSettings

CREDIT = 2
PAGE_BYTES = 4096
WINDOW_SAMPLES = 30 * SAMPLE_RATE
SAID = "He wants sugar and fish from the park, and the weather is cold."
PHRASE_S = 5
"""A phrase for so many seconds of speech, about what a model makes."""


class Service(Struct, frozen=True):
    """One lease in one worker's engine; times on the monotonic clock."""

    worker: str
    start: float
    end: float
    segments: int
    wire_bytes: int = 0
    """Of audio, as it came."""


class Timing(Struct, frozen=True):
    """What an engine takes for a lease: `a_s + b_s x segments` seconds."""

    a_s: float
    b_s: float


class Transcriber:
    """One GPU that only waits."""

    def __init__(self, identity: str, timing: Timing) -> None:
        self.identity = identity
        self._timing = timing
        self._orders: deque[tuple[pr.Transcribe, int]] = deque()
        self._started = 0.0
        self.services: list[Service] = []

    def ready(self, model: str = "none") -> pr.WorkerReady:
        """Return its first words."""
        return pr.WorkerReady(
            version=VERSION, credit=CREDIT, device="cuda", model=model, window_samples=WINDOW_SAMPLES
        )

    def receive(self, message: pr.ToWorker, blobs: Sequence[Buffer], now: float) -> float | None:
        """Take a message; return when to call `due`, if that is to change."""
        if not isinstance(message, pr.Transcribe):
            return None
        self._orders.append((message, sum(map(len, blobs))))
        return self._begin(now) if len(self._orders) == 1 else None

    def _begin(self, now: float) -> float:
        self._started = now
        return now + self._timing.a_s + self._timing.b_s * len(self._orders[0][0].items)

    def due(self, now: float) -> tuple[pr.FromWorker, float | None]:
        """Return the answer to the lease that is done by now, and when to call again."""
        order, wire_bytes = self._orders.popleft()
        self.services.append(Service(self.identity, self._started, now, len(order.items), wire_bytes))
        items = tuple(pr.ItemResult.of(item.key, _RESULT) for item in order.items)
        answer = pr.Transcribed(lease=order.lease, items=items, features_s=0.0, decode_s=now - self._started)
        return answer, self._begin(now) if self._orders else None


_RESULT = pr.SegmentResult(
    phrases=tuple(
        Phrase(SAID, second * 1000, (second + PHRASE_S) * 1000 - 200, avg_logprob=-0.3, compression_ratio=1.2)
        for second in range(0, 10, PHRASE_S)
    ),
    language="en",
    language_probability=0.98,
)


class _Preparer:
    """One reader of files that say what is to be sent."""

    def __init__(self, identity: str, pcm: memoryview, descriptors: DescriptorReceiver) -> None:
        self.identity = identity
        self._descriptors = descriptors
        self._memory: ArenaWriter | None = None
        self._pcm = pcm
        self._feed = self._abandoned = 0
        self._credit_bytes = 0
        self._segments = self._samples = self._next = 0

    def ready(self) -> pr.WorkerReady:
        return pr.WorkerReady(version=VERSION, credit=1)

    def receive(self, message: pr.ToWorker) -> None:
        match message:
            case pr.Prepare():
                count, samples = Path(os.fsdecode(message.path)).read_text().split()
                self._feed, self._credit_bytes = message.feed, message.credit_bytes
                self._segments, self._samples, self._next = int(count), int(samples), 0
                if self._memory is not None:
                    self._memory.close()
                has_memory = message.has_memory
                self._memory = ArenaWriter(*self._descriptors.receive(message.feed)) if has_memory else None
            case pr.FeedCredit(feed=feed, bytes=count, free_places=places) if feed == self._feed:
                self._credit_bytes += count
                if self._memory is not None:
                    self._memory.free(places)
            case pr.Abandon(feed=feed) if feed == self._feed:
                self._feed, self._abandoned = 0, feed
            case _:
                pass

    def next(self) -> tuple[pr.FromWorker, list[memoryview]] | None:
        """Return what is to be sent now, if anything; one message, so that others have their turn."""
        if self._abandoned:
            self._abandoned, feed = 0, self._abandoned
            return pr.FileAbandoned(feed=feed), []
        if not self._feed or (self._credit_bytes <= 0 and self._next < self._segments):
            return None
        if self._next == self._segments:
            media = pr.Media(container="none", decoded_samples=self._segments * self._samples)
            self._feed, done = 0, self._feed
            return pr.PlanComplete(feed=done, media=msgspec.msgpack.encode(media)), []
        start = self._next * self._samples
        plan = Plan(self._next, (PlanPiece(start, self._samples),), (Span(start, start + self._samples),))
        self._next += 1
        pcm = self._pcm[: self._samples * 2]
        self._credit_bytes -= len(pcm)
        place = self._memory.write(pcm) if self._memory is not None else None
        return pr.Prepared(feed=self._feed, plan=plan, place=place), [pcm] if place is None else []


class _Host:
    """The sockets of some workers, and the one thread that serves them all."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._poller = zmq.Poller()
        self._workers: dict[zmq.Socket[bytes], Transcriber | _Preparer] = {}
        self._descriptors: dict[zmq.Socket[bytes], DescriptorReceiver] = {}
        self._due: list[tuple[float, int, zmq.Socket[bytes], Transcriber]] = []
        self._beat_at = 0.0
        self._last = 0
        self._is_sending = False
        self._pcm = memoryview(recording()[:WINDOW_SAMPLES].tobytes())

    def open(self, settings: WorkerSettings) -> None:
        """Open a worker and say that it is ready."""
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.IDENTITY, settings.identity.encode())
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.connect(settings.endpoint)
        receiver = self._descriptors[socket] = DescriptorReceiver(settings.descriptors)
        worker: Transcriber | _Preparer = (
            Transcriber(settings.identity, self._timing)
            if settings.role == "transcribe"
            else _Preparer(settings.identity, self._pcm, receiver)
        )
        self._workers[socket] = worker
        self._poller.register(socket, zmq.POLLIN)
        self._send(socket, worker.ready())

    def serve(self) -> list[Service]:
        """Serve until standard input ends; return what the engines have done."""
        orders = unix.socket(fileno=sys.stdin.fileno())
        self._poller.register(orders, zmq.POLLIN)
        while True:
            ready = dict(self._poller.poll(self._wait_ms()))
            if ready.pop(orders.fileno(), 0):
                data, descriptors, _, _ = unix.recv_fds(orders, 1 << 16, 1)
                if not data:
                    break
                settings = msgspec.json.decode(data, type=pr.WorkerSettings)
                self.open(msgspec.structs.replace(settings, descriptors=descriptors[0]))
            for socket in ready:
                self._receive(socket)
            self._answer()
        self._context.destroy(linger=0)
        return [s for w in self._workers.values() if isinstance(w, Transcriber) for s in w.services]

    def _wait_ms(self) -> int:
        if self._is_sending:
            return 0
        until = min(self._beat_at, self._due[0][0] if self._due else self._beat_at)
        return max(0, int((until - time.monotonic()) * 1000 + 0.999))

    def _receive(self, socket: zmq.Socket[bytes]) -> None:
        worker = self._workers[socket]
        while True:
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            message, blobs = pr.to_worker.decode([frame.buffer for frame in frames])
            if isinstance(worker, _Preparer):
                worker.receive(message)
            else:
                if isinstance(message, pr.Transcribe):
                    blobs = lease_audio(message, blobs, self._descriptors[socket].receive)
                    for blob in blobs:
                        sum(blob[::PAGE_BYTES])
                if (due := worker.receive(message, blobs, time.monotonic())) is not None:
                    self._push(due, socket, worker)

    def _answer(self) -> None:
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            _, _, socket, worker = heapq.heappop(self._due)
            message, due = worker.due(now)
            self._send(socket, message)
            if due is not None:
                self._push(due, socket, worker)
        self._is_sending = False
        for socket, reader in self._workers.items():
            if isinstance(reader, _Preparer) and (found := reader.next()) is not None:
                self._send(socket, *found)
                self._is_sending = True
        if now >= self._beat_at:
            self._beat_at = now + 1.0
            for socket in self._workers:
                self._send(socket, pr.Heartbeat())

    def _push(self, due: float, socket: zmq.Socket[bytes], worker: Transcriber) -> None:
        self._last += 1
        heapq.heappush(self._due, (due, self._last, socket, worker))

    @staticmethod
    def _send(socket: zmq.Socket[bytes], message: pr.FromWorker, blobs: Sequence[memoryview] = ()) -> None:
        socket.send_multipart(pr.from_worker.encode(message, blobs), copy=False)


def write_services(folder: str, done: Sequence[Service]) -> None:
    """Write what the engines of this process have done, for `services`."""
    Path(folder, f"services-{os.getpid()}.json").write_bytes(msgspec.json.encode(done))


def services(folder: Path) -> list[Service]:
    """Return what the engines have done, after the end of the daemon."""
    files = folder.glob("services-*.json")
    return [
        service for file in files for service in msgspec.json.decode(file.read_bytes(), type=list[Service])
    ]


def main(argv: list[str]) -> None:
    """Serve workers until standard input ends."""
    folder, *timing = argv
    write_services(folder, _Host(Timing(*map(float, timing))).serve())


if __name__ == "__main__":
    main(sys.argv[1:])
