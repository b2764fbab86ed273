"""The server's side of the client protocol at one door: requests handed on, watchers told."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

import msgspec
import zmq
from msgspec import Struct

from subtitle import messages as ms
from subtitle.codec import Buffer
from subtitle.errors import ProtocolError
from subtitled.api.peer import Peer, RefusedError
from subtitled.api.views import journal_event
from subtitled.network.auth import AllowList, Principal
from subtitled.network.rate_limit import RateLimit
from subtitled.network.sockets import Listener, RouterReader, is_chosen
from subtitled.observability.metrics import Metrics
from subtitled.storage.rows import JournalEntry
from subtitled.storage.store import Store

MAX_PER_TURN = 256
"""Requests taken in one turn, so that no flood of one kind holds up the others."""
MAX_BYTES_PER_TURN = 16 * 2**20
"""Bytes of uploads taken in one turn, likewise."""
MAX_ENTRIES_PER_TURN = 500
"""Journal entries sent to one client in one turn; fewer than ZeroMQ holds for it (1000)."""
MAX_WATCHERS = 1000
MAX_CATCH_UPS = 8
"""Watchers who are sent older entries in one turn; the others have theirs in the next ones."""

Handle = Callable[[ms.ToServer, Sequence[Buffer], Peer], None]


class _Watcher(Struct):
    """A client that watches, and how far it is."""

    watch: ms.Watch
    who: Principal
    seen: int
    """The last journal entry that it was sent, or did not ask for."""
    is_behind: bool = True
    """There may be older entries to be sent than those that are added now."""


class _Addressed(Struct):
    """The one field by which a client knows what it gets an Error for."""

    request: int = 0


_addressed = msgspec.msgpack.Decoder(_Addressed)


class ClientEndpoint:
    """Speaks with the clients of one door, on the thread of the server's loop."""

    def __init__(
        self,
        door: Listener,
        *,
        allowed: AllowList[Principal],
        rate: RateLimit,
        store: Store,
        handle: Handle,
        metrics: Metrics,
    ) -> None:
        """`handle` answers a request, now or later, or raises RefusedError."""
        self._socket = door.socket
        self._inlet = RouterReader(door.socket, ms.to_server.max_frames)
        self._kind = door.kind
        self._allowed = allowed
        self._rate = rate
        self._store = store
        self._handle = handle
        self._metrics = metrics
        self._watchers: dict[bytes, _Watcher] = {}
        """Principal watches, by identity; who was sent older entries last comes last."""

    @property
    def is_behind(self) -> bool:
        """Some client has not read all that it asked for: `receive` is to be called again soon."""
        return any(watcher.is_behind for watcher in self._watchers.values())

    def receive(self, now: float) -> None:
        """Answer what clients have asked, and send more to those who watch and are behind."""
        taken_bytes = 0
        for _ in range(MAX_PER_TURN):
            try:
                identity, *frames = self._inlet.take()
            except zmq.Again:
                break
            who = self._who(frames)
            if who is not None:
                self._take(
                    Peer(self._kind, identity.bytes, who, self._reply_to(identity.bytes, who)), frames, now
                )
            taken_bytes += sum(len(frame.buffer) for frame in frames)
            if taken_bytes >= MAX_BYTES_PER_TURN:
                break
        behind = ((identity, watcher) for identity, watcher in self._watchers.items() if watcher.is_behind)
        for identity_bytes, watcher in list(itertools.islice(behind, MAX_CATCH_UPS)):
            self._watchers[identity_bytes] = self._watchers.pop(identity_bytes)
            self._catch_up(identity_bytes, watcher)

    def tell_watchers(self, entries: list[JournalEntry]) -> None:
        """Send new journal entries to those who watch; who is behind gets them in turn."""
        for identity, watcher in list(self._watchers.items()):
            if not watcher.is_behind:
                self._send(identity, watcher, entries)

    def forget_strangers(self) -> None:
        """Tell those nothing more who are not on the allow-list as they were when they asked."""
        if self._kind == "keys":
            self._watchers = {
                identity: watcher
                for identity, watcher in self._watchers.items()
                if self._allowed.still_has(watcher.who)
            }

    def _who(self, frames: Sequence[zmq.Frame]) -> Principal | None:
        """Return who has sent these frames; None for whose key is no longer allowed, who gets no answer."""
        if self._kind != "keys":
            return Principal(is_local=self._kind == "local")
        return self._allowed.find_sender(frames[0]) if frames else None

    def _take(self, peer: Peer, frames: Sequence[zmq.Frame], now: float) -> None:
        buffers = [frame.buffer for frame in frames]
        if peer.who.name and is_chosen(peer.identity, frames[0]):
            # It might be one that another user's answers go to.
            self._refuse(peer, 0, "BAD_FORMAT", "the connection has a routing id of its own; do not set one")
            return
        try:
            message, blobs = ms.to_server.decode(buffers)
        except ProtocolError as error:
            request = _request_of(buffers)
            if not self._rate.allows(self._payer(peer), now):
                self._refuse_flood(peer, request)
            else:
                self._refuse(peer, request, error.code, str(error))
            return
        # Chunks are held back by their credit.
        if not isinstance(message, ms.Chunk) and not self._rate.allows(self._payer(peer), now):
            self._refuse_flood(peer, message.request)
            return
        try:
            if isinstance(message, ms.Watch):
                self._watch(message, peer)
            else:
                self._handle(message, blobs, peer)
        except RefusedError as error:
            self._refuse(peer, message.request, error.code, str(error))

    def _payer(self, peer: Peer) -> object:
        """Return on whose account a request goes: a key's, however many connections it has."""
        return peer.who.name or peer.connection

    def _refuse_flood(self, peer: Peer, request: int) -> None:
        self._refuse(
            peer, request, "RATE_LIMITED", "too many requests (listen.requests_per_s); ask less often"
        )

    def _refuse(self, peer: Peer, request: int, code: str, message: str) -> None:
        self._metrics.refused_requests.labels(code).inc()
        peer.refuse(request, code, message)

    def _watch(self, message: ms.Watch, peer: Peer) -> None:
        if len(self._watchers) >= MAX_WATCHERS and peer.identity not in self._watchers:
            # Perhaps it is gone, which is not told before something is sent to it.
            oldest = next(iter(self._watchers))
            request = self._watchers.pop(oldest).watch.request
            reason = f"{MAX_WATCHERS} other connections watch since; send the Watch again"
            self._reply(oldest, ms.Error(request=request, code="RATE_LIMITED", message=reason))
        after = self._store.last_seq() if message.after_seq < 0 else message.after_seq
        self._watchers[peer.identity] = _Watcher(message, peer.who, after)

    def _catch_up(self, identity: bytes, watcher: _Watcher) -> None:
        """Send the next of the entries that the journal holds already."""
        watch = watcher.watch
        entries = self._store.journal(
            watcher.seen, job=watch.job, owner=watcher.who.only, limit=MAX_ENTRIES_PER_TURN
        )
        watcher.is_behind = len(entries) == MAX_ENTRIES_PER_TURN
        self._send(identity, watcher, entries)

    def _send(self, identity: bytes, watcher: _Watcher, entries: list[JournalEntry]) -> None:
        """Send entries up to where the client does not take them; none is left out."""
        for entry in entries:
            if self._is_for(watcher, entry) and not self._reply(
                identity, journal_event(watcher.watch.request, entry)
            ):
                watcher.is_behind = True
                return
            watcher.seen = entry.seq

    def _is_for(self, watcher: _Watcher, entry: JournalEntry) -> bool:
        if watcher.watch.job not in {None, entry.job}:
            return False
        return watcher.who.only is None or self._store.job_owner(entry.job) == watcher.who.only

    def _reply_to(self, identity: bytes, who: Principal) -> Callable[[ms.ToClient, Iterable[Buffer]], bool]:
        def reply(message: ms.ToClient, blobs: Iterable[Buffer]) -> bool:
            """Send an answer, unless the key was taken off the list since the question."""
            is_known = self._kind != "keys" or self._allowed.still_has(who)
            return is_known and self._reply(identity, message, blobs)

        return reply

    def _reply(self, identity: bytes, message: ms.ToClient, blobs: Iterable[Buffer] = ()) -> bool:
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


def _request_of(frames: Sequence[Buffer]) -> int:
    """Return the number that a client gave to a message which is none; 0 where it cannot be told."""
    try:
        return _addressed.decode(frames[1]).request
    except (IndexError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
