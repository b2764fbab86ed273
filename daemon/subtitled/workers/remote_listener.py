"""The socket for workers on other hosts: they join, get an identity, and exchange messages with the daemon.

Its frames come from the network: any holder of a key may send anything. A connection that sends an invalid message, or too
many, loses its session and is ignored from then on; nothing here grows with what it sends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import zmq
from msgspec.structs import replace

from subtitle.codec import MAX_HEADER_BYTES
from subtitle.errors import ProtocolError
from subtitled import log
from subtitled.config.schema import Config
from subtitled.core import events as ev
from subtitled.core import protocol as pr
from subtitled.core.broker import Broker
from subtitled.core.config_mapping import engine_of
from subtitled.core.states import WorkerState
from subtitled.network.auth import Authenticator, server_key, server_key_path
from subtitled.network.rate_limit import RateLimit
from subtitled.network.sockets import (
    Listener,
    RouterReader,
    bind,
    has_own_routing_id,
    open_router,
    require_keys,
)
from subtitled.observability.metrics import Metrics
from subtitled.workers.codec_choice import LinkMeter
from subtitled.workers.remote_sessions import RecentlySeen, RemoteKeys, RemoteSession, RemoteSessions
from subtitled.workers.validation import ModelWeightsCheck, checked, join_refusal

ZAP_DOMAIN = "subtitled-workers"
"""ZeroMQ domain of the sockets whose workers authenticate with a key (RFC 27)."""
MAX_PER_TURN = 256
"""Messages received in one turn of the loop: a flood must not delay the rest."""
MAX_HELD_MESSAGES = 32
"""Messages of one worker that ZeroMQ queues for the loop; more wait at the worker."""
MAX_FRAMES = 8
"""Frames of a message; workers on other hosts send no blobs."""
MESSAGES_PER_S = 1000.0
"""Limit of one connection, with bursts of twice as many; a worker sends a few messages for each lease."""
JOINS_PER_S = 20.0
"""Limit of one key; a worker without an answer joins again."""
MAX_SESSIONS = 256
"""Open sessions of one key."""
ALIVE_HEARTBEATS = 3
"""A worker that sent a message within so many heartbeats is alive: another one cannot take its place."""
_log = log.get()

EventsOf = Callable[[str, pr.FromWorker], list[ev.Event]]


class RemoteListener:
    """Belongs to the thread of the server's loop."""

    def __init__(
        self,
        config: Config,
        context: zmq.Context[zmq.Socket[bytes]],
        *,
        authenticator: Authenticator,
        broker: Broker,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Listen at `remote.listen`; raises SubtitledError if that is not possible."""
        self._config = config
        self._clock = clock
        self._broker = broker
        self._metrics = metrics
        self.keys = RemoteKeys(config.remote.keys, metrics)
        self._sessions = RemoteSessions()
        self._pending: dict[str, tuple[bytes, str, pr.JoinSession]] = {}
        """Joins of this turn by slot: connection, key, message."""
        self._ignored: RecentlySeen[bytes] = RecentlySeen()
        """Connections whose messages are dropped."""
        self._logged: RecentlySeen[tuple[str, str]] = RecentlySeen()
        """Refusals that were logged: slot, cause."""
        self._ended: list[ev.Event] = []
        self._rate = RateLimit(MESSAGES_PER_S)
        self._joins = RateLimit(JOINS_PER_S)
        self.weights = ModelWeightsCheck(config.model.digest)
        authenticator.allow(ZAP_DOMAIN, self.keys.allowed)
        try:
            self.listener = _open(context, config)
        except BaseException:
            authenticator.stop()
            raise
        self._reader = RouterReader(self.listener.socket, MAX_FRAMES)
        _log.info(log.REMOTE_LISTENING, endpoint=config.remote.listen, keys=sorted(config.remote.keys))

    # -- keys ------------------------------------------------------------------------------------------------

    def reconfigure(self, config: Config) -> None:
        """Apply another list of keys; sessions of removed keys end."""
        self._config = config
        self.keys.replace(config.remote.keys)
        self.check_keys()

    def check_keys(self) -> None:
        """End the sessions whose key is no longer accepted."""
        for session in list(self._sessions.by_route.values()):
            if self.keys.allowed.find(session.key) != session.host:
                self._reject(session, "its key was removed from remote.keys", is_final=True)

    # -- receiving -------------------------------------------------------------------------------------------

    @property
    def sessions(self) -> dict[str, RemoteSession]:
        """Open sessions by identity; read only."""
        return self._sessions.by_identity

    def poll_timeout_s(self, now: float) -> float:
        """Return the seconds after which `receive` must be called even without a message."""
        if self._ended:
            return 0.0
        return (
            min((session.probe_at for session in self._sessions.by_route.values()), default=float("inf"))
            - now
        )

    def receive(self, now: float, events_of: EventsOf) -> list[ev.Event]:
        """Return the events of received messages, of joins and of ended sessions.

        `events_of` converts a message that needs no session. Call `answer_joins` once the events are handled.
        """
        events, self._ended = self._ended, []
        for _ in range(MAX_PER_TURN):
            try:
                identity, *frames = self._reader.read()
            except zmq.Again:
                break
            events += self._take(identity.bytes, frames, now, events_of)
        for session in list(self._sessions.by_route.values()):
            if now >= session.probe_at:
                events += self._probe(session, now)
        return events

    def _take(
        self, route: bytes, frames: Sequence[zmq.Frame], now: float, events_of: EventsOf
    ) -> list[ev.Event]:
        host = self.keys.allowed.find_sender(frames[0]) if frames else None
        if host is None or route in self._ignored or has_own_routing_id(route, frames[0]):
            return []
        if not self._rate.allows(route, now):
            return self._ignore(route, host, f"rate limit exceeded ({MESSAGES_PER_S:g} messages/s)")
        buffers = [frame.buffer for frame in frames]
        try:
            message, _ = pr.from_worker.decode(buffers)
        except ProtocolError as error:
            return self._ignore(route, host, f"sent an invalid message: {error}")
        session = self._sessions.by_route.get(route)
        if isinstance(message, pr.JoinSession):
            return [] if session else self._on_join(route, str(frames[0].get("User-Id")), host, message, now)
        if session is None:
            return self._on_unknown(route, message)
        try:
            message = checked(message, is_remote=True)
        except ProtocolError as error:
            return self._ignore(route, host, f"sent an invalid message: {error}")
        size = sum(len(buffer) for buffer in buffers)
        session.received_bytes += size
        self._metrics.worker_bytes.labels(session.slot, "received").inc(size)
        session.seen_at = now
        return self._events(session, message, now, events_of)

    def _events(
        self, session: RemoteSession, message: pr.FromWorker, now: float, events_of: EventsOf
    ) -> list[ev.Event]:
        match message:
            case pr.Echo(stamp_s=stamp_s, clock_s=clock_s):
                is_measured = session.echoed(stamp_s, clock_s, now)
            case pr.LeaseReceived(lease=lease):
                is_measured = session.meter.received(lease, now)
            case pr.ExitReason(cause=cause):
                return [self._close(session, cause)]
            case pr.WorkerReady():
                cause = self.weights.refusal(session.identity, message.model_digest, is_remote=True)
                if cause:
                    self._reject(session, cause, is_final=True)
                    return []
                session.digest, session.compute_type = message.model_digest, message.compute_type
                return events_of(session.identity, message)
            case _:
                return events_of(session.identity, message)
        received = ev.MessageReceived(session.identity, message)
        return [received, *(self._measured(session) if is_measured else [])]

    def _measured(self, session: RemoteSession) -> list[ev.Event]:
        if session.round_trip_s is None:
            return []
        self._metrics.worker_round_trip.labels(session.slot).set(session.round_trip_s)
        bytes_per_s = session.meter.pcm_bytes_per_s
        return [
            ev.LinkMeasured(
                worker=session.identity, round_trip_s=session.round_trip_s, bytes_per_s=bytes_per_s
            )
        ]

    def _on_join(self, route: bytes, key: str, host: str, join: pr.JoinSession, now: float) -> list[ev.Event]:
        slot = f"{host}/{join.place}"
        if cause := join_refusal(join):
            self._refuse(route, slot, cause, is_final=True)
            return []
        if not self._joins.allows(host, now):
            return []
        if self._sessions.closed_identity(route):
            self._refuse(route, slot, "each session needs a new connection", is_final=False)
            return []
        if self._sessions.count(host) >= MAX_SESSIONS:
            self._refuse(
                route, slot, f"{MAX_SESSIONS} workers with this key have joined already", is_final=False
            )
            return []
        known = self._broker.worker_table.workers.get(slot)
        held = self._sessions.by_identity.get(known.identity) if known else None
        if held is not None and held.identity != join.previous and self._is_alive(held, now):
            cause = f"{held.identity} on {held.join.hostname} has joined already; give each worker with this key its own --place"
            self._refuse(route, slot, cause, is_final=False)
            return []
        self._pending[slot] = (route, key, join)
        return [ev.WorkerJoined(slot=slot, previous=join.previous)]

    def _is_alive(self, session: RemoteSession, now: float) -> bool:
        is_recent = now - session.seen_at < ALIVE_HEARTBEATS * self._config.recovery.heartbeat_s
        return is_recent and self._send(session.route, pr.Probe(stamp_s=0.0))

    def _on_unknown(self, route: bytes, message: pr.FromWorker) -> list[ev.Event]:
        """Answer a message without a session; a result of a closed session is passed on, to be logged as stale."""
        self._send(route, pr.SessionUnknown())
        identity = self._sessions.closed_identity(route)
        if identity is not None and isinstance(message, pr.Transcribed):
            return [ev.MessageReceived(identity, replace(message, items=()))]
        if identity is not None and isinstance(message, pr.Translated):
            return [ev.MessageReceived(identity, replace(message, results=()))]
        return []

    def answer_joins(self, now: float) -> None:
        """Answer the joins of this turn, after the broker has handled their events."""
        for slot, (route, key, join) in self._pending.items():
            worker = self._broker.worker_table.workers.get(slot)
            if worker is None or worker.state is not WorkerState.STARTING:
                cause = (
                    worker.cause
                    if worker and worker.state is WorkerState.BROKEN
                    else "the daemon is stopping"
                )
                self._refuse(route, slot, cause, is_final=False)
                continue
            recovery = self._config.recovery
            session = RemoteSession(
                route=route,
                identity=worker.identity,
                key=key,
                host=slot.partition("/")[0],
                join=join,
                meter=LinkMeter(),
                seen_at=now,
                probe_at=now,
            )
            self._sessions.add(session)
            _log.info(log.WORKER_JOINED, worker=worker.identity, device=join.device, hostname=join.hostname)
            engine = engine_of(self._config)
            self._send(
                route,
                pr.SessionAccepted(
                    identity=worker.identity,
                    heartbeat_s=recovery.heartbeat_s,
                    silence_s=recovery.silence_s,
                    engine=engine,
                ),
            )
        self._pending.clear()

    def check_weights(self) -> None:
        """Check the weights of all workers again, after those of a worker on this host."""
        for session in list(self._sessions.by_route.values()):
            if session.digest and (
                cause := self.weights.refusal(session.identity, session.digest, is_remote=True)
            ):
                self._reject(session, cause, is_final=True)

    # -- sending ---------------------------------------------------------------------------------------------

    def send(self, worker: str, message: pr.ToWorker) -> None:
        """Send a message; one to a worker that is gone is dropped."""
        if session := self._sessions.by_identity.get(worker):
            self._send(session.route, message)

    def send_lease(
        self, worker: str, message: pr.Transcribe, blobs: Sequence[zmq.Frame], *, pcm_bytes: int
    ) -> None:
        """Send a lease that stands for `pcm_bytes` of PCM; one to a worker that is gone is dropped."""
        if session := self._sessions.by_identity.get(worker):
            size = sum(len(blob) for blob in blobs)
            session.meter.sent(message.lease, self._clock(), size=size, pcm_bytes=pcm_bytes)
            self._send(session.route, message, blobs)

    def end_session(self, worker: str, cause: str) -> None:
        """End a worker's session, as killing does for a worker on this host."""
        session = self._sessions.by_identity.get(worker)
        if session is not None:
            self._send(session.route, pr.SessionUnknown())
            self._ended.append(self._close(session, cause))
        else:
            self._ended.append(ev.WorkerExited(worker=worker, is_fatal=False, cause=cause))

    def close(self) -> None:
        """Close the socket."""
        self.listener.socket.close()

    def _send(self, route: bytes, message: pr.ToWorker, blobs: Sequence[zmq.Frame] = ()) -> bool:
        """Send a message to a connection; False if it is gone."""
        frames = pr.to_worker.encode(message, [])
        try:
            self.listener.socket.send_multipart([route, *frames, *blobs], zmq.NOBLOCK, copy=False)
        except zmq.ZMQError as error:
            if error.errno not in {zmq.EHOSTUNREACH, zmq.EAGAIN}:
                raise
            return False
        if (session := self._sessions.by_route.get(route)) is not None:
            size = sum(map(len, frames)) + sum(map(len, blobs))
            session.sent_bytes += size
            self._metrics.worker_bytes.labels(session.slot, "sent").inc(size)
        return True

    def _probe(self, session: RemoteSession, now: float) -> list[ev.Event]:
        """Probe a worker: measures the round trip, and detects a lost connection."""
        session.probe_at = now + self._config.recovery.heartbeat_s
        if not session.probed_s:
            session.probed_s, session.probed_clock_s = now, time.time()
        if self._send(session.route, pr.Probe(stamp_s=session.probed_s)):
            return []
        return [self._close(session, "its connection was lost")]

    # -- ends ------------------------------------------------------------------------------------------------

    def _refuse(self, route: bytes, slot: str, cause: str, *, is_final: bool) -> None:
        self._send(route, pr.SessionRefused(cause=cause, is_final=is_final))
        if self._logged.add((slot, cause)):
            _log.warning(log.WORKER_REFUSED, worker=slot, cause=cause)

    def _reject(self, session: RemoteSession, cause: str, *, is_final: bool) -> None:
        self._refuse(session.route, session.slot, cause, is_final=is_final)
        self._ended.append(self._close(session, cause, is_fatal=is_final))

    def _ignore(self, route: bytes, host: str, cause: str) -> list[ev.Event]:
        self._ignored.add(route)
        session = self._sessions.by_route.get(route)
        _log.warning(log.WORKER_REFUSED, worker=session.identity if session else host, cause=cause)
        self._send(route, pr.SessionRefused(cause=cause[:200], is_final=False))
        return [self._close(session, cause, is_blamed=False)] if session else []

    def _close(
        self, session: RemoteSession, cause: str, *, is_fatal: bool = False, is_blamed: bool = True
    ) -> ev.WorkerExited:
        self._sessions.close(session)
        self.weights.forget(session.identity)
        return ev.WorkerExited(worker=session.identity, is_fatal=is_fatal, cause=cause, is_blamed=is_blamed)


def _open(context: zmq.Context[zmq.Socket[bytes]], config: Config) -> Listener:
    socket = open_router(
        context,
        max_frame_bytes=MAX_HEADER_BYTES,
        held_messages=MAX_HELD_MESSAGES,
        # Bounded by the leases that a worker may hold; a full pipe would drop one.
        held_answers=0,
    )
    require_keys(socket, server_key(server_key_path(config)), ZAP_DOMAIN)
    bind(socket, config.remote.listen)
    return Listener(kind="workers", socket=socket)
