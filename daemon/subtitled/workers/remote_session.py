"""Workers on other hosts: one session each, as long as its connection lasts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from msgspec import Struct

from subtitled.core.protocol import JoinSession, WireCodec
from subtitled.workers.codec_choice import LinkMeter

MAX_REMEMBERED = 4096

T = TypeVar("T", bound=Hashable)


class PreviousSession(Generic[T]):
    """Things that were seen, of too many those that were seen last; what strangers send must not fill the memory."""

    def __init__(self) -> None:
        self._seen: OrderedDict[T, None] = OrderedDict()

    def __contains__(self, thing: object) -> bool:
        return thing in self._seen

    def note(self, thing: T) -> bool:
        """Note a thing; say whether it is new."""
        if thing in self._seen:
            return False
        self._seen[thing] = None
        if len(self._seen) > MAX_REMEMBERED:
            self._seen.popitem(last=False)
        return True


class RemoteSession(Struct, kw_only=True):
    """What the daemon knows of it."""

    route: bytes
    """Its routing id, which ZeroMQ gave to the connection."""
    identity: str
    key: str
    host: str
    """Name of its key."""
    join: JoinSession
    meter: LinkMeter
    heard_at: float
    probe_at: float
    """When the next Probe is due."""
    probed_s: float = 0.0
    """Stamp of the last Probe; 0 once it was answered."""
    probed_clock_s: float = 0.0
    """The time of day then."""
    codec: WireCodec = "pcm"
    """In which its last lease was sent."""
    clock_ahead_s: float | None = None
    """How far its clock is before ours."""
    sent_bytes: int = 0
    received_bytes: int = 0
    digest: str = ""
    """SHA-256 of its model's weights; "" until it is ready."""
    compute_type: str = ""

    @property
    def slot(self) -> str:
        """HOST/PLACE."""
        return self.identity.rpartition(".")[0]

    @property
    def round_trip_s(self) -> float | None:
        """That of a small message with nothing before it; None before the first answer."""
        return self.meter.round_trip_s

    def echoed(self, stamp_s: float, clock_s: float, now: float) -> bool:
        """Take the answer to a Probe; False where none is waited for with this stamp."""
        if not self.probed_s or stamp_s != self.probed_s:
            return False
        took_s = max(0.0, now - self.probed_s)
        self.meter.echoed(took_s)
        # Its clock was read half way.
        self.clock_ahead_s = clock_s - self.probed_clock_s - took_s / 2
        self.probed_s = 0.0
        return True


class RemoteSessions:
    """Who is in, by connection or by name, and who was."""

    def __init__(self) -> None:
        self.by_route: dict[bytes, RemoteSession] = {}
        self.by_identity: dict[str, RemoteSession] = {}
        self._past: OrderedDict[bytes, str] = OrderedDict()

    def add(self, session: RemoteSession) -> None:
        """Take one in."""
        self.by_route[session.route] = self.by_identity[session.identity] = session

    def end(self, session: RemoteSession) -> None:
        """Let one go; its connection gets no other session."""
        del self.by_route[session.route]
        del self.by_identity[session.identity]
        self._past[session.route] = session.identity
        if len(self._past) > MAX_REMEMBERED:
            self._past.popitem(last=False)

    def past(self, route: bytes) -> str | None:
        """Return what a worker was called whose session on this connection is over."""
        return self._past.get(route)

    def count_of(self, host: str) -> int:
        """Return how many workers of a key are in."""
        return sum(session.host == host for session in self.by_route.values())
