"""The server's side of the client protocol: requests answered, watchers told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import zmq
from msgspec import Struct

from subtitle import messages as ms
from subtitle.errors import ProtocolError
from subtitled.desk import Desk, RefusedError, journal_event
from subtitled.rows import JournalEntry
from subtitled.store import Store

MAX_PER_TURN = 256
"""Requests taken in one turn, so that no flood of one kind holds up the others."""
MAX_ENTRIES_PER_TURN = 500
"""Journal entries sent to one client in one turn; fewer than ZeroMQ holds for it (1000)."""


class _Watcher(Struct):
    """A client that watches, and how far it is."""

    watch: ms.Watch
    seen: int
    """The last journal entry that it was sent, or did not ask for."""
    is_behind: bool = True
    """There may be older entries to be sent than those that are added now."""


class _Addressed(Struct):
    """The one field by which a client knows what it gets an Error for."""

    request: int = 0


_addressed = msgspec.msgpack.Decoder(_Addressed)


class ClientLink:
    """Answers clients, on the thread of the server's loop."""

    def __init__(self, *, socket: zmq.Socket[bytes], store: Store, desk: Desk) -> None:
        self._socket = socket
        self._store = store
        self._desk = desk
        self._watchers: dict[bytes, _Watcher] = {}

    @property
    def is_behind(self) -> bool:
        """Some client has not read all that it asked for: `receive` is to be called again soon."""
        return any(watcher.is_behind for watcher in self._watchers.values())

    def receive(self) -> None:
        """Answer what clients have asked, and send more to those who watch and are behind."""
        for _ in range(MAX_PER_TURN):
            try:
                identity, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            try:
                message, _blobs = ms.to_server.decode(frames)
            except ProtocolError as error:
                self._reply(
                    identity, ms.Error(request=_request_of(frames), code=error.code, message=str(error))
                )
                continue
            if isinstance(message, ms.Watch):
                after = self._store.last_seq() if message.after_seq < 0 else message.after_seq
                self._watchers[identity] = _Watcher(message, after)
                continue
            try:
                for answer, blobs in self._desk.answer(message):
                    self._reply(identity, answer, blobs)
            except RefusedError as error:
                self._reply(identity, ms.Error(request=message.request, code=error.code, message=str(error)))
        for identity, watcher in list(self._watchers.items()):
            if watcher.is_behind:
                self._catch_up(identity, watcher)

    def tell_watchers(self, entries: list[JournalEntry]) -> None:
        """Send new journal entries to those who watch; who is behind gets them in turn."""
        for identity, watcher in list(self._watchers.items()):
            if not watcher.is_behind:
                self._send(identity, watcher, entries)

    def _catch_up(self, identity: bytes, watcher: _Watcher) -> None:
        """Send the next of the entries that the journal holds already."""
        entries = self._store.journal(watcher.seen, job=watcher.watch.job, limit=MAX_ENTRIES_PER_TURN)
        watcher.is_behind = len(entries) == MAX_ENTRIES_PER_TURN
        self._send(identity, watcher, entries)

    def _send(self, identity: bytes, watcher: _Watcher, entries: list[JournalEntry]) -> None:
        """Send entries up to where the client does not take them; none is left out."""
        for entry in entries:
            if watcher.watch.job in {None, entry.job} and not self._reply(
                identity, journal_event(watcher.watch.request, entry)
            ):
                watcher.is_behind = True
                return
            watcher.seen = entry.seq

    def _reply(self, identity: bytes, message: ms.ToClient, blobs: Iterable[bytes | memoryview] = ()) -> bool:
        """Send a message to a client; False when it is gone, or does not read."""
        try:
            self._socket.send_multipart([identity, *ms.to_client.encode(message, tuple(blobs))], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                self._watchers.pop(identity, None)
            elif error.errno != zmq.EAGAIN:
                raise
            return False
        return True


def _request_of(frames: Sequence[bytes]) -> int:
    """Return the number that a client gave to a message which is none; 0 where it cannot be told."""
    try:
        return _addressed.decode(frames[1]).request
    except (IndexError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
