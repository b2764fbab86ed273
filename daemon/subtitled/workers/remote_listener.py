"""The door for workers on other hosts: who comes in, what they are called, and what is said through it.

Its frames come from the network: whoever has a key may send anything. A connection that speaks nonsense, or too much, is not
listened to any more, and nothing here grows with what it sends.
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
from subtitled.core import protocol as be
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
from subtitled.workers.admission import ModelWeightsCheck, why_not_to_join
from subtitled.workers.codec_choice import LinkMeter
from subtitled.workers.remote_keys import RemoteKeys
from subtitled.workers.remote_session import PreviousSession, RemoteSession, RemoteSessions
from subtitled.workers.remote_validation import validated

ZAP_DOMAIN = "subtitled-workers"
"""The sockets whose workers must show a key (ZeroMQ RFC 27)."""
MAX_PER_TURN = 256
"""Messages taken in one turn, so that no flood of one kind holds up the others."""
MAX_HELD_MESSAGES = 32
"""Messages of one worker that ZeroMQ holds for the loop; more wait at the worker."""
MAX_FRAMES = 8
"""Of a message; no worker sends blobs."""
MESSAGES_PER_S = 1000.0
"""Of one connection; a worker says a few for each lease, twice as many may come at once."""
JOINS_PER_S = 20.0
"""Of one key; who is not heard asks again."""
MAX_SESSIONS = 256
"""Of one key."""
FRESH_BEATS = 3
"""A worker that was heard within so many heartbeats lives: another one does not take its place."""
_log = log.get()

EventsOf = Callable[[str, be.FromWorker], list[ev.Event]]


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
        """Open the door at `remote.listen`; raises SubtitledError where that cannot be done."""
        self._config = config
        self._clock = clock
        self._broker = broker
        self._metrics = metrics
        self.keys = RemoteKeys(config.remote.keys, metrics)
        self._in = RemoteSessions()
        self._pending: dict[str, tuple[bytes, str, be.JoinSession]] = {}
        """Those who have joined in this turn, by slot: connection, key, what they said."""
        self._deaf: PreviousSession[bytes] = PreviousSession()
        """Connections that are not listened to."""
        self._refused: PreviousSession[tuple[str, str]] = PreviousSession()
        """Who was told why it is not wanted; the log has each once."""
        self._ended: list[ev.Event] = []
        self._rate = RateLimit(MESSAGES_PER_S)
        self._joins = RateLimit(JOINS_PER_S)
        self.weights = ModelWeightsCheck(config.model.digest)
        authenticator.allow(ZAP_DOMAIN, self.keys.allowed)
        try:
            self.door = _open(context, config)
        except BaseException:
            authenticator.stop()
            raise
        self._inlet = RouterReader(self.door.socket, MAX_FRAMES)
        _log.info(log.REMOTE_LISTENING, endpoint=config.remote.listen, keys=sorted(config.remote.keys))

    # -- who may come in -------------------------------------------------------------------------------------

    def reconfigure(self, config: Config) -> None:
        """Put another list of keys into force; who is not on it any more is turned away."""
        self._config = config
        self.keys.replace(config.remote.keys)
        self.check_keys()

    def check_keys(self) -> None:
        """Turn away whose key may not come in any more."""
        for session in list(self._in.by_route.values()):
            if self.keys.allowed.find(session.key) != session.host:
                self._turn_away(session, "its key is not in remote.keys any more", is_final=True)

    # -- what comes in ---------------------------------------------------------------------------------------

    @property
    def sessions(self) -> dict[str, RemoteSession]:
        """Who is in, by identity; not to be changed."""
        return self._in.by_identity

    def patience_s(self, now: float) -> float:
        """Return how long `receive` may be left uncalled when nothing comes."""
        if self._ended:
            return 0.0
        return min((session.probe_at for session in self._in.by_route.values()), default=float("inf")) - now

    def receive(self, now: float, events_of: EventsOf) -> list[ev.Event]:
        """Return what the workers have said, and who has come or gone, as events.

        `events_of` makes one of what a worker says as any other does. Once they are handled, `welcome` is to be called.
        """
        events, self._ended = self._ended, []
        for _ in range(MAX_PER_TURN):
            try:
                identity, *frames = self._inlet.read()
            except zmq.Again:
                break
            events += self._take(identity.bytes, frames, now, events_of)
        for session in list(self._in.by_route.values()):
            if now >= session.probe_at:
                events += self._probe(session, now)
        return events

    def _take(
        self, route: bytes, frames: Sequence[zmq.Frame], now: float, events_of: EventsOf
    ) -> list[ev.Event]:
        host = self.keys.allowed.find_sender(frames[0]) if frames else None
        if host is None or route in self._deaf or has_own_routing_id(route, frames[0]):
            return []
        if not self._rate.allows(route, now):
            return self._stop_listening(route, host, f"says more than {MESSAGES_PER_S:g} things a second")
        buffers = [frame.buffer for frame in frames]
        try:
            message, _ = be.from_worker.decode(buffers)
        except ProtocolError as error:
            return self._stop_listening(route, host, f"spoke nonsense: {error}")
        session = self._in.by_route.get(route)
        if isinstance(message, be.JoinSession):
            return [] if session else self._on_join(route, str(frames[0].get("User-Id")), host, message, now)
        if session is None:
            return self._on_stranger(route, message)
        try:
            message = validated(message)
        except ProtocolError as error:
            return self._stop_listening(route, host, f"spoke nonsense: {error}")
        size = sum(len(buffer) for buffer in buffers)
        session.received_bytes += size
        self._metrics.worker_bytes.labels(session.slot, "received").inc(size)
        session.heard_at = now
        return self._events(session, message, now, events_of)

    def _events(
        self, session: RemoteSession, message: be.FromWorker, now: float, events_of: EventsOf
    ) -> list[ev.Event]:
        match message:
            case be.Echo(stamp_s=stamp_s, clock_s=clock_s):
                is_measured = session.echoed(stamp_s, clock_s, now)
            case be.LeaseReceived(lease=lease):
                is_measured = session.meter.received(lease, now)
            case be.ExitReason(cause=cause):
                return [self._end(session, cause)]
            case be.WorkerReady():
                cause = self.weights.why_not(session.identity, message.model_digest, is_remote=True)
                if cause:
                    self._turn_away(session, cause, is_final=True)
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

    def _on_join(self, route: bytes, key: str, host: str, join: be.JoinSession, now: float) -> list[ev.Event]:
        slot = f"{host}/{join.place}"
        if cause := why_not_to_join(join):
            self._refuse(route, slot, cause, is_final=True)
            return []
        if not self._joins.allows(host, now):
            return []
        if self._in.past(route):
            self._refuse(route, slot, "a session has a connection of its own", is_final=False)
            return []
        if self._in.count_of(host) >= MAX_SESSIONS:
            self._refuse(route, slot, f"{MAX_SESSIONS} workers with this key are there", is_final=False)
            return []
        known = self._broker.worker_table.workers.get(slot)
        held = self._in.by_identity.get(known.identity) if known else None
        if held is not None and held.identity != join.previous and self._is_there(held, now):
            cause = f"{held.identity}, on {held.join.hostname}, is there; give each worker of a key a --place of its own"
            self._refuse(route, slot, cause, is_final=False)
            return []
        self._pending[slot] = (route, key, join)
        return [ev.WorkerJoined(slot=slot, previous=join.previous)]

    def _is_there(self, session: RemoteSession, now: float) -> bool:
        is_fresh = now - session.heard_at < FRESH_BEATS * self._config.recovery.heartbeat_s
        return is_fresh and self._say(session.route, be.Probe(stamp_s=0.0))

    def _on_stranger(self, route: bytes, message: be.FromWorker) -> list[ev.Event]:
        """Tell a connection without a session so; what it has done for a session that is over is told as late."""
        self._say(route, be.SessionUnknown())
        past = self._in.past(route)
        if past is not None and isinstance(message, be.Transcribed):
            return [ev.MessageReceived(past, replace(message, items=()))]
        return []

    def welcome(self, now: float) -> None:
        """Answer those who have joined, now that the broker has heard of them."""
        for slot, (route, key, join) in self._pending.items():
            worker = self._broker.worker_table.workers.get(slot)
            if worker is None or worker.state is not WorkerState.STARTING:
                cause = worker.cause if worker and worker.state is WorkerState.BROKEN else "the daemon stops"
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
                heard_at=now,
                probe_at=now,
            )
            self._in.add(session)
            _log.info(log.WORKER_JOINED, worker=worker.identity, device=join.device, hostname=join.hostname)
            engine = engine_of(self._config, is_gpu=True)
            self._say(
                route,
                be.SessionAccepted(
                    identity=worker.identity,
                    heartbeat_s=recovery.heartbeat_s,
                    silence_s=recovery.silence_s,
                    engine=engine,
                ),
            )
        self._pending.clear()

    def check_weights(self) -> None:
        """Look at the weights of all workers again: one of this host has told its own."""
        for session in list(self._in.by_route.values()):
            if session.digest and (
                cause := self.weights.why_not(session.identity, session.digest, is_remote=True)
            ):
                self._turn_away(session, cause, is_final=True)

    # -- what goes out ---------------------------------------------------------------------------------------

    def send(self, worker: str, message: be.ToWorker) -> None:
        """Send a message; one to a worker that is gone is dropped."""
        if session := self._in.by_identity.get(worker):
            self._say(session.route, message)

    def send_lease(
        self, worker: str, message: be.Transcribe, blobs: Sequence[zmq.Frame], *, pcm_bytes: int
    ) -> None:
        """Send a lease, which is so many bytes of PCM; one to a worker that is gone is dropped."""
        if session := self._in.by_identity.get(worker):
            size = sum(len(blob) for blob in blobs)
            session.meter.sent(message.lease, self._clock(), size=size, pcm_bytes=pcm_bytes)
            self._say(session.route, message, blobs)

    def dismiss(self, worker: str, cause: str) -> None:
        """Forget a worker, which is told that it is not known: what killing is for those of this host."""
        session = self._in.by_identity.get(worker)
        if session is not None:
            self._say(session.route, be.SessionUnknown())
            self._ended.append(self._end(session, cause))
        else:
            self._ended.append(ev.WorkerExited(worker=worker, is_fatal=False, cause=cause))

    def close(self) -> None:
        """Close the door."""
        self.door.socket.close()

    def _say(self, route: bytes, message: be.ToWorker, blobs: Sequence[zmq.Frame] = ()) -> bool:
        """Send a message to a connection; False where it is no more."""
        frames = be.to_worker.encode(message, [])
        try:
            self.door.socket.send_multipart([route, *frames, *blobs], zmq.NOBLOCK, copy=False)
        except zmq.ZMQError as error:
            if error.errno not in {zmq.EHOSTUNREACH, zmq.EAGAIN}:
                raise
            return False
        if (session := self._in.by_route.get(route)) is not None:
            size = sum(map(len, frames)) + sum(map(len, blobs))
            session.sent_bytes += size
            self._metrics.worker_bytes.labels(session.slot, "sent").inc(size)
        return True

    def _probe(self, session: RemoteSession, now: float) -> list[ev.Event]:
        """Ask a worker whether it is there, and how far away; the connection of one that was killed is gone."""
        session.probe_at = now + self._config.recovery.heartbeat_s
        if not session.probed_s:
            session.probed_s, session.probed_clock_s = now, time.time()
        if self._say(session.route, be.Probe(stamp_s=session.probed_s)):
            return []
        return [self._end(session, "its connection was lost")]

    # -- the end of a session --------------------------------------------------------------------------------

    def _refuse(self, route: bytes, slot: str, cause: str, *, is_final: bool) -> None:
        self._say(route, be.SessionRefused(cause=cause, is_final=is_final))
        if self._refused.note((slot, cause)):
            _log.warning(log.WORKER_REFUSED, worker=slot, cause=cause)

    def _turn_away(self, session: RemoteSession, cause: str, *, is_final: bool) -> None:
        self._refuse(session.route, session.slot, cause, is_final=is_final)
        self._ended.append(self._end(session, cause, is_fatal=is_final))

    def _stop_listening(self, route: bytes, host: str, cause: str) -> list[ev.Event]:
        self._deaf.note(route)
        session = self._in.by_route.get(route)
        _log.warning(log.WORKER_REFUSED, worker=session.identity if session else host, cause=cause)
        self._say(route, be.SessionRefused(cause=cause[:200], is_final=False))
        return [self._end(session, cause)] if session else []

    def _end(self, session: RemoteSession, cause: str, *, is_fatal: bool = False) -> ev.WorkerExited:
        self._in.end(session)
        self.weights.forget(session.identity)
        return ev.WorkerExited(worker=session.identity, is_fatal=is_fatal, cause=cause)


def _open(context: zmq.Context[zmq.Socket[bytes]], config: Config) -> Listener:
    socket = open_router(
        context,
        max_frame_bytes=MAX_HEADER_BYTES,
        held_messages=MAX_HELD_MESSAGES,
        # What goes out is bounded by the leases that a worker may hold; a full pipe would drop one.
        held_answers=0,
    )
    require_keys(socket, server_key(server_key_path(config)), ZAP_DOMAIN)
    bind(socket, config.remote.listen)
    return Listener(kind="workers", socket=socket)
