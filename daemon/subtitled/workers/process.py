"""A worker process: its start, its socket, its end.

`python -m subtitled.workers.process SETTINGS` (JSON of `backend.WorkerSettings`) is started by the supervisor, one process for each
slot, and one that brings the model here before. The main thread owns the socket; the role's work runs in other threads and speaks through `Channel.post`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
import zmq

from subtitle.codec import Buffer
from subtitled import log
from subtitled.core.protocol import (
    FromWorker,
    Heartbeat,
    LastWords,
    ToWorker,
    WorkerSettings,
    from_worker,
    to_worker,
)
from subtitled.errors import ExitCode
from subtitled.runtime.mailbox import Mailbox
from subtitled.runtime.niceness import give_way

PR_SET_PDEATHSIG = 1
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""Parameters of mallopt(3), from malloc.h."""
LINGER_MS = 2000
"""How long a dying worker waits for its last words to leave."""


class Work(Protocol):
    """What a role does with the messages that come."""

    def receive(self, message: ToWorker, blobs: Sequence[memoryview]) -> None:
        """Take a message; must not block."""

    def heartbeat(self) -> Heartbeat:
        """Return the present heartbeat; must not block."""


class Port(Protocol):
    """Through which a role's threads speak; both may be called from any of them."""

    def post(self, message: FromWorker, blobs: Sequence[Any] = ()) -> None:
        """Send a message soon; blobs (objects with the buffer interface) are not copied and must not change."""

    def stop(self, code: ExitCode) -> None:
        """End the work with this code, after what was posted before has been sent."""


class Channel:
    """The worker's DEALER socket. `post` and `stop` may be called from any thread, the rest from one."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, settings.identity.encode())
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        # What is under way is bounded by leases and credit; a full pipe would only hide where.
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.connect(settings.endpoint)
        self._heartbeat_s = settings.heartbeat_s
        self._outbox: Mailbox[tuple[FromWorker, Sequence[Any]]] = Mailbox()
        self._exit: ExitCode | None = None

    def post(self, message: FromWorker, blobs: Sequence[Any] = ()) -> None:
        """Send a message soon; blobs (objects with the buffer interface) are not copied and must not change."""
        self._outbox.put((message, blobs))

    def stop(self, code: ExitCode) -> None:
        """End `serve` with this code, after what was posted before has been sent."""
        self._exit = code
        self._outbox.wake()

    def serve(self, work: Work) -> ExitCode:
        """Receive and send until `stop`; a heartbeat leaves whenever one is due."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._outbox.fileno(), zmq.POLLIN)
        due = time.monotonic()
        while True:
            if (now := time.monotonic()) >= due:
                self._send(work.heartbeat(), ())
                due = now + self._heartbeat_s
            ready = dict(poller.poll(max(0, int((due - now) * 1000))))
            code = self._exit  # read first: what was posted before it was set is sent below
            for posted in self._outbox.drain():
                self._send(*posted)
            if code is not None:
                return code
            while ready.get(self._socket):
                try:
                    frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
                except zmq.Again:
                    break
                message, blobs = to_worker.decode([frame.buffer for frame in frames])
                work.receive(message, [memoryview(blob) for blob in blobs])

    def close(self) -> None:
        """Send what is left, within `LINGER_MS`, and close."""
        for posted in self._outbox.drain():
            self._send(*posted)
        self._socket.close()
        self._context.term()

    def _send(self, message: FromWorker, blobs: Sequence[Buffer]) -> None:
        self._socket.send_multipart(from_worker.encode(message, blobs), copy=False)


Run = Callable[[Channel, WorkerSettings], ExitCode]


def start_thread(port: Port, name: str, run: Callable[[], None]) -> None:
    """Run `run` in a thread of the worker; what it raises is logged, told as last words, and ends the process."""
    logger = log.get()

    def guarded() -> None:
        try:
            run()
        except Exception as error:
            logger.exception(log.WORKER_LOST, cause=f"{type(error).__name__}: {error}")
            port.post(LastWords(cause=f"{type(error).__name__}: {error}"))
            port.stop(ExitCode.FAILED)

    threading.Thread(target=guarded, name=name, daemon=True).start()


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends; exits at once if it has ended already."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        sys.exit(ExitCode.FAILED)


def keep_memory() -> None:
    """Have malloc keep what is freed for the next call instead of giving it back to the kernel.

    To be called while there is one thread. CTranslate2 on a CPU asks for hundreds of megabytes at every layer and frees
    them; got anew from the kernel each time, clearing their pages takes two of every five seconds of processor time (the demo
    model, 16 segments: 1.5 million page faults). The largest resident size is the same. Does nothing without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)  # other arenas than the first cannot grow beyond 64 MB
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def main(argv: Sequence[str], transcribe: Run | None = None) -> int:
    """Run a worker until it is drained or fails; `transcribe` takes the place of that role's own work."""
    settings = msgspec.json.decode(argv[0], type=WorkerSettings)
    die_with_parent(settings.parent_pid)
    give_way()
    # Ctrl-C in a terminal goes to the whole process group, `systemctl kill` to the whole unit; what becomes of a worker is
    # the daemon's decision.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    log.configure(settings.log_level, settings.log_format, sys.stderr, worker=settings.identity)
    if settings.device == "cpu":
        keep_memory()
    channel = Channel(settings)
    try:
        if settings.role == "prepare":
            from subtitled.workers.prepare import run
        elif settings.role == "fetch":
            from subtitled.workers.download import run
        else:
            from subtitled.workers.transcribe import run
        code = (transcribe if transcribe and settings.role == "transcribe" else run)(channel, settings)
    except Exception as error:  # noqa: BLE001 - the boundary of the process
        log.get().exception(log.WORKER_LOST, cause=f"{type(error).__name__}: {error}")
        channel.post(LastWords(cause=f"{type(error).__name__}: {error}"))
        code = ExitCode.FAILED
    channel.close()
    # Threads that hang in native code must not keep a finished worker alive.
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
