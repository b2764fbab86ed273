"""A worker process's socket, and the interfaces between it and the worker's role."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import zmq

from subtitle.codec import Buffer
from subtitled import log
from subtitled.core import protocol as pr
from subtitled.errors import ExitCode
from subtitled.runtime.mailbox import Mailbox
from subtitled.workers.shared_pcm import DescriptorReceiver, lease_audio

LINGER_MS = 2000
"""How long an exiting worker waits until its last messages are sent."""


class RoleHandler(Protocol):
    """The part of a worker that handles its messages."""

    def receive(self, message: pr.ToWorker, blobs: Sequence[memoryview]) -> None:
        """Handle a message; must not block."""

    def heartbeat(self) -> pr.Heartbeat:
        """Return the present heartbeat; must not block."""


class MessagePort(Protocol):
    """Used by a role's threads to send; both methods may be called from any thread."""

    def post(self, message: pr.FromWorker, blobs: Sequence[Any] = ()) -> None:
        """Queue a message; blobs (objects with the buffer interface) are not copied and must not change."""

    def stop(self, code: ExitCode) -> None:
        """End the worker with this code after the messages posted before are sent."""


class Channel:
    """The worker's DEALER socket. `post` and `stop` may be called from any thread, the rest from one."""

    def __init__(self, settings: pr.WorkerSettings) -> None:
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, settings.identity.encode())
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        # Bounded by leases and credit; a full pipe would only hide where messages wait.
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.connect(settings.endpoint)
        self._descriptors = DescriptorReceiver(settings.descriptors) if settings.descriptors >= 0 else None
        self._heartbeat_s = settings.heartbeat_s
        self._outbox: Mailbox[tuple[pr.FromWorker, Sequence[Any]]] = Mailbox()
        self._exit: ExitCode | None = None

    def post(self, message: pr.FromWorker, blobs: Sequence[Any] = ()) -> None:
        """Queue a message; blobs (objects with the buffer interface) are not copied and must not change."""
        self._outbox.put((message, blobs))

    def stop(self, code: ExitCode) -> None:
        """End `serve` with this code after the messages posted before are sent."""
        self._exit = code
        self._outbox.wake()

    def receive_descriptors(self, tag: int) -> list[int]:
        """Return the descriptors that were sent with a tag, to be closed by the caller; raises OSError."""
        if self._descriptors is None:
            raise OSError(f"no socket for the descriptors with the tag {tag}")
        return self._descriptors.receive(tag)

    def serve(self, work: RoleHandler) -> ExitCode:
        """Receive and send until `stop`; send a heartbeat whenever one is due."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._outbox.fileno(), zmq.POLLIN)
        due = time.monotonic()
        while True:
            if (now := time.monotonic()) >= due:
                self._send(work.heartbeat(), ())
                due = now + self._heartbeat_s
            ready = dict(poller.poll(max(0, int((due - now) * 1000))))
            code = self._exit  # read first: messages posted before it was set are sent below
            for posted in self._outbox.drain():
                self._send(*posted)
            if code is not None:
                return code
            while ready.get(self._socket):
                try:
                    frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
                except zmq.Again:
                    break
                message, blobs = pr.to_worker.decode([frame.buffer for frame in frames])
                if isinstance(message, pr.Transcribe):
                    blobs = lease_audio(message, blobs, self.receive_descriptors)
                work.receive(message, [memoryview(blob) for blob in blobs])

    def close(self) -> None:
        """Send the remaining messages, within `LINGER_MS`, and close."""
        for posted in self._outbox.drain():
            self._send(*posted)
        self._socket.close()
        self._context.term()

    def _send(self, message: pr.FromWorker, blobs: Sequence[Buffer]) -> None:
        self._socket.send_multipart(pr.from_worker.encode(message, blobs), copy=False)


def start_thread(port: MessagePort, name: str, run: Callable[[], None]) -> None:
    """Run `run` in a thread; an exception is logged, sent as ExitReason, and ends the process."""
    logger = log.get()

    def guarded() -> None:
        try:
            run()
        except Exception as error:
            logger.exception(log.WORKER_LOST, cause=f"{type(error).__name__}: {error}")
            port.post(pr.ExitReason(cause=f"{type(error).__name__}: {error}"))
            port.stop(ExitCode.FAILED)

    threading.Thread(target=guarded, name=name, daemon=True).start()
