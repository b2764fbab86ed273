"""The server's side of the client protocol: requests answered, watchers told."""

from __future__ import annotations

from collections.abc import Iterable

import zmq

from subtitle import messages as ms
from subtitle.errors import ProtocolError
from subtitled.desk import Desk, RefusedError, journal_event
from subtitled.rows import JournalEntry
from subtitled.store import Store

MAX_PER_TURN = 256
"""Requests taken in one turn, so that no flood of one kind holds up the others."""


class ClientLink:
    """Answers clients, on the thread of the server's loop."""

    def __init__(self, *, socket: zmq.Socket[bytes], store: Store, desk: Desk) -> None:
        self._socket = socket
        self._store = store
        self._desk = desk
        self._watchers: dict[bytes, ms.Watch] = {}

    def receive(self) -> None:
        """Answer what clients have asked."""
        for _ in range(MAX_PER_TURN):
            try:
                identity, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message, _blobs = ms.to_server.decode(frames)
            except ProtocolError as error:
                self._reply(identity, ms.Error(request=0, code=error.code, message=str(error)))
                continue
            if isinstance(message, ms.Watch):
                self._on_watch(identity, message)
                continue
            try:
                for answer, blobs in self._desk.answer(message):
                    self._reply(identity, answer, blobs)
            except RefusedError as error:
                self._reply(identity, ms.Error(request=message.request, code=error.code, message=str(error)))

    def _on_watch(self, identity: bytes, watch: ms.Watch) -> None:
        """Send what the journal holds already; what is added follows by itself."""
        after = self._store.last_seq() if watch.after_seq < 0 else watch.after_seq
        while entries := self._store.journal(after, job=watch.job):
            for entry in entries:
                self._reply(identity, journal_event(watch.request, entry))
            after = entries[-1].seq
        self._watchers[identity] = watch

    def tell_watchers(self, entries: list[JournalEntry]) -> None:
        """Send new journal entries to those who watch."""
        for identity, watch in list(self._watchers.items()):
            for entry in entries:
                if watch.job in {None, entry.job} and not self._reply(
                    identity, journal_event(watch.request, entry)
                ):
                    break

    def _reply(self, identity: bytes, message: ms.ToClient, blobs: Iterable[bytes | memoryview] = ()) -> bool:
        """Send a message to a client; False when it is gone, or does not read."""
        try:
            self._socket.send_multipart([identity, *ms.to_client.encode(message, tuple(blobs))], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in {zmq.EHOSTUNREACH, zmq.EAGAIN}:
                raise
            self._watchers.pop(identity, None)
            return False
        return True
