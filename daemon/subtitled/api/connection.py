"""The client protocol on one socket: receive requests, send journal entries to watchers."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec
import zmq
from msgspec import Struct

from subtitle import messages as ms
from subtitle.codec import Buffer
from subtitle.errors import ProtocolError
from subtitled import log
from subtitled.api.peer import Peer, RefusedError, Send
from subtitled.api.views import journal_event
from subtitled.network.auth import AllowList, Principal
from subtitled.network.rate_limit import RateLimit
from subtitled.network.sockets import Listener, RouterReader, has_own_routing_id
from subtitled.observability.metrics import Metrics
from subtitled.storage.rows import JournalEntry
from subtitled.storage.store import Store

TURN_S = 0.006
"""Processor time for the requests of one socket in one turn of the loop, and for its watchers; at least one is served."""
MAX_BYTES_PER_TURN = 16 * 2**20
"""Bytes read in one turn, so that one socket does not hold up the others."""
MAX_ENTRIES = 100
"""Journal entries sent to one client at a time; they take some 3 ms."""
CATCH_UP_S = 0.01
"""Wait between two pages of older entries."""
MAX_RETRY_S = 1.0
"""Longest wait until entries are sent again to a client that does not read."""
MAX_WATCHERS = 1000
MAX_DEFERRED = 1000
MAX_DEFERRED_BYTES = 64 * 2**20
"""Requests that are kept while the disk is full; further ones wait at the clients."""
_READS = (
    ms.Hello,
    ms.List,
    ms.Status,
    ms.Fetch,
    ms.ListCueVersions,
    ms.GetWaveform,
    ms.GetAudio,
    ms.GetVideo,
    ms.Stats,
    ms.SetLogLevel,
)
"""Requests that are answered while the loop waits for disk space; an Operate that changes nothing is one too."""
Handle = Callable[[ms.ToServer, Sequence[Buffer], Peer], None]

_log = log.get()


class _Watcher(Struct):
    """A client that watches the journal."""

    watch: ms.Watch
    principal: Principal
    seq: int
    """The last entry that was sent to it or skipped for it."""
    is_behind: bool = True
    """Older entries remain to be sent before new ones."""
    retry_s: float = CATCH_UP_S
    """Wait until the next attempt if the client accepts no entry; doubled by each that fails."""
    retry_at: float = 0.0
    """Earliest time of the next attempt to send older entries (monotonic)."""


class _RequestNumber(Struct):
    """The field of a message that an Error needs."""

    request: int = 0


_request_decoder = msgspec.msgpack.Decoder(_RequestNumber)


class ClientEndpoint:
    """The clients of one socket; belongs to the thread of the server's loop."""

    def __init__(
        self,
        listener: Listener,
        *,
        allowed: AllowList[Principal],
        rate_limit: RateLimit,
        store: Store,
        handle: Handle,
        metrics: Metrics,
    ) -> None:
        """`handle` answers a request now or later, or raises RefusedError."""
        self._socket = listener.socket
        self._reader = RouterReader(listener.socket, ms.to_server.max_frames)
        self._kind = listener.kind
        self._allowed = allowed
        self._rate_limit = rate_limit
        self._store = store
        self._handle = handle
        self._metrics = metrics
        self._is_reading_only = False
        self._deferred: deque[tuple[ms.ToServer, Sequence[Buffer], Peer]] = deque()
        """Requests that wait for disk space, in order."""
        self._deferred_bytes = 0
        self.horizon: int | None = None
        """The last entry that may be sent: later ones wait for the disk; None: no limit."""
        self._watchers: dict[bytes, _Watcher] = {}
        """By routing id, in the order in which they are sent entries."""

    @property
    def poll_timeout_s(self) -> float:
        """Longest time until `receive` must be called again, for kept requests and older entries; inf without any."""
        if self._deferred:
            return CATCH_UP_S
        retry_at = min((one.retry_at for one in self._watchers.values() if one.is_behind), default=math.inf)
        return max(CATCH_UP_S, retry_at - time.monotonic())

    def serve_reads(self, now: float) -> None:
        """Answer requests that change nothing and keep the others for `receive`: for a loop that waits for disk space."""
        self._is_reading_only = True
        try:
            self._read_socket(now)
        finally:
            self._is_reading_only = False

    def receive(self, now: float) -> None:
        """Handle the requests that arrived, and send older entries to watchers that are behind."""
        deadline = time.thread_time() + TURN_S
        while self._deferred:
            message, blobs, peer = self._deferred.popleft()
            self._deferred_bytes -= sum(map(len, blobs))
            self._perform(message, blobs, peer)
            if time.thread_time() >= deadline:
                return
        self._read_socket(now)
        deadline = time.thread_time() + TURN_S
        behind = [
            entry for entry in self._watchers.items() if entry[1].is_behind and entry[1].retry_at <= now
        ]
        for identity, watcher in behind:
            self._watchers[identity] = self._watchers.pop(identity)
            self._catch_up(identity, watcher)
            if time.thread_time() >= deadline:
                break  # the others follow in later turns

    def _read_socket(self, now: float) -> None:
        taken_bytes = 0
        deadline = time.thread_time() + TURN_S
        while True:
            if len(self._deferred) >= MAX_DEFERRED or self._deferred_bytes >= MAX_DEFERRED_BYTES:
                break
            try:
                identity, *frames = self._reader.read()
            except zmq.Again:
                break
            principal = self._principal(frames)
            if principal is not None:
                send = self._sender(identity.bytes, principal)
                self._receive(self._peer(identity.bytes, principal, send), frames, now)
            taken_bytes += sum(len(frame.buffer) for frame in frames)
            if taken_bytes >= MAX_BYTES_PER_TURN or time.thread_time() >= deadline:
                break

    def send_to_watchers(self, entries: list[JournalEntry]) -> None:
        """Send new journal entries to the watchers; those that are behind get them later, in order."""
        deadline = time.thread_time() + TURN_S
        for identity, watcher in list(self._watchers.items()):
            if not watcher.is_behind:
                self._send(identity, watcher, entries, deadline)

    def drop_revoked(self) -> None:
        """Remove the watchers whose key was removed from the allow-list or changed its role."""
        if self._kind == "keys":
            self._watchers = {
                identity: watcher
                for identity, watcher in self._watchers.items()
                if self._allowed.still_has(watcher.principal)
            }

    def _principal(self, frames: Sequence[zmq.Frame]) -> Principal | None:
        """Return the sender of these frames; None for a revoked key, which gets no answer."""
        if self._kind != "keys":
            return Principal(is_local=self._kind == "local")
        return self._allowed.find_sender(frames[0]) if frames else None

    def _peer(self, identity: bytes, principal: Principal, send: Send) -> Peer:
        account = principal.name or (self._kind, identity)
        return Peer(self._kind, identity, principal, send, partial(self._rate_limit.charge, account))

    def _receive(self, peer: Peer, frames: Sequence[zmq.Frame], now: float) -> None:
        buffers = [frame.buffer for frame in frames]
        if peer.principal.name and has_own_routing_id(peer.identity, frames[0]):
            # It may be the id of another user's connection, which would receive its answers.
            self._refuse(peer, 0, "BAD_FORMAT", "the connection sets its own routing id; remove the setting")
            return
        try:
            message, blobs = ms.to_server.decode(buffers)
        except ProtocolError as error:
            request = _request_of(buffers)
            if not self._rate_limit.allows(self._account(peer), now):
                self._refuse_rate(peer, request)
            else:
                self._refuse(peer, request, error.code, str(error))
            return
        # Chunks are limited by their credit.
        if not isinstance(message, ms.Chunk) and not self._rate_limit.allows(self._account(peer), now):
            self._refuse_rate(peer, message.request)
            return
        if self._is_reading_only and not _is_read(message):
            self._deferred.append((message, blobs, peer))
            self._deferred_bytes += sum(map(len, blobs))
            return
        self._perform(message, blobs, peer)

    def _perform(self, message: ms.ToServer, blobs: Sequence[Buffer], peer: Peer) -> None:
        started = time.thread_time()
        try:
            if isinstance(message, ms.Watch):
                self._watch(message, peer)
            else:
                self._handle(message, blobs, peer)
        except RefusedError as error:
            self._refuse(peer, message.request, error.code, str(error))
        if not isinstance(message, ms.Chunk):
            peer.charge(time.thread_time() - started)

    def _account(self, peer: Peer) -> object:
        """Return what the rate limit counts requests by: the key for all its connections, else the connection."""
        return peer.principal.name or peer.connection

    def _refuse_rate(self, peer: Peer, request: int) -> None:
        self._refuse(
            peer, request, "RATE_LIMITED", "rate limit exceeded (listen.requests_per_s); send fewer requests"
        )

    def _refuse(self, peer: Peer, request: int, code: str, message: str) -> None:
        self._metrics.refused_requests.labels(code).inc()
        peer.refuse(request, code, message)

    def _watch(self, message: ms.Watch, peer: Peer) -> None:
        if len(self._watchers) >= MAX_WATCHERS and peer.identity not in self._watchers:
            # It may be gone: ZeroMQ reports that only when something is sent to it.
            oldest = next(iter(self._watchers))
            request = self._watchers.pop(oldest).watch.request
            reason = f"{MAX_WATCHERS} newer connections watch; send the Watch again"
            self._reply(oldest, ms.Error(request=request, code="RATE_LIMITED", message=reason))
        after = self._store.last_seq() if message.after_seq < 0 else message.after_seq
        self._watchers[peer.identity] = _Watcher(message, peer.principal, after)

    def _catch_up(self, identity: bytes, watcher: _Watcher) -> None:
        """Send the next page of older entries."""
        watch = watcher.watch
        entries = self._store.journal(
            watcher.seq, job=watch.job, owner=watcher.principal.only_owner, limit=MAX_ENTRIES
        )
        known = [entry for entry in entries if self.horizon is None or entry.seq <= self.horizon]
        watcher.is_behind = len(entries) == MAX_ENTRIES or len(known) < len(entries)
        self._send(identity, watcher, known)

    def _send(
        self, identity: bytes, watcher: _Watcher, entries: list[JournalEntry], deadline: float = math.inf
    ) -> None:
        """Send entries until `deadline`, or until the client accepts no more; the rest follows later."""
        for entry in entries:
            if entry.seq <= watcher.seq or not self._is_visible(watcher, entry):
                watcher.seq = max(watcher.seq, entry.seq)
                continue
            if time.thread_time() >= deadline:
                watcher.is_behind = True
                return
            if not self._reply(identity, journal_event(watcher.watch.request, entry)):
                watcher.is_behind = True
                watcher.retry_at = time.monotonic() + watcher.retry_s
                watcher.retry_s = min(2 * watcher.retry_s, MAX_RETRY_S)
                return
            watcher.seq = entry.seq
            watcher.retry_s = CATCH_UP_S

    def _is_visible(self, watcher: _Watcher, entry: JournalEntry) -> bool:
        if watcher.watch.job not in {None, entry.job}:
            return False
        return watcher.principal.only_owner in {None, entry.owner}

    def _sender(
        self, identity: bytes, principal: Principal
    ) -> Callable[[ms.ToClient, Iterable[Buffer]], bool]:
        def send(message: ms.ToClient, blobs: Iterable[Buffer]) -> bool:
            """Send an answer unless the key was revoked since the request."""
            is_known = self._kind != "keys" or self._allowed.still_has(principal)
            return is_known and self._reply(identity, message, blobs)

        return send

    def _reply(self, identity: bytes, message: ms.ToClient, blobs: Iterable[Buffer] = ()) -> bool:
        """Send a message to a client; return False when it is gone or does not read."""
        try:
            frames = ms.to_client.encode(message, tuple(blobs))
        except UnicodeEncodeError as error:
            # A text from a name that is not UTF-8: the request fails, and not the daemon.
            _log.error(log.REQUEST_FAILED, cause=str(error))
            refusal = "the answer has text that is not UTF-8; see the server's log"
            frames = ms.to_client.encode(ms.Error(request=message.request, code="INTERNAL", message=refusal))
        try:
            self._socket.send_multipart([identity, *frames], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                self._watchers.pop(identity, None)
            elif error.errno != zmq.EAGAIN:
                raise
            return False
        return True


def _is_read(message: ms.ToServer) -> bool:
    """Return whether a request leaves the broker and the database unchanged."""
    return isinstance(message, _READS) or (isinstance(message, ms.Operate) and message.is_paused is None)


def _request_of(frames: Sequence[Buffer]) -> int:
    """Return the request number of an invalid message; 0 when it has none."""
    try:
        return _request_decoder.decode(frames[1]).request
    except (IndexError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
