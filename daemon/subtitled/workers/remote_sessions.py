"""The sessions of workers on other hosts, and the keys that these workers join with."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

from msgspec import Struct

from subtitled import log
from subtitled.core.protocol import JoinSession, WireCodec
from subtitled.network.auth import AllowList
from subtitled.observability.metrics import Metrics
from subtitled.workers.codec_choice import LinkMeter

MAX_REMEMBERED = 4096
_log = log.get()

T = TypeVar("T", bound=Hashable)


class RecentlySeen(Generic[T]):
    """The last MAX_REMEMBERED distinct items; bounded, since unauthorized peers send them."""

    def __init__(self) -> None:
        self._seen: OrderedDict[T, None] = OrderedDict()

    def __contains__(self, item: object) -> bool:
        return item in self._seen

    def add(self, item: T) -> bool:
        """Add an item; return whether it is new."""
        if item in self._seen:
            return False
        self._seen[item] = None
        if len(self._seen) > MAX_REMEMBERED:
            self._seen.popitem(last=False)
        return True


class RemoteSession(Struct, kw_only=True):
    """One worker's session; it lasts as long as its connection."""

    route: bytes
    """Routing id that ZeroMQ gave to the connection."""
    identity: str
    key: str
    host: str
    """Name of its key."""
    join: JoinSession
    meter: LinkMeter
    seen_at: float
    """When its last message arrived."""
    probe_at: float
    """When the next Probe is due."""
    probed_s: float = 0.0
    """Stamp of the last Probe; 0 once it is answered."""
    probed_clock_s: float = 0.0
    """Wall clock of the last Probe."""
    codec: WireCodec = "pcm"
    """Codec of its last lease."""
    clock_ahead_s: float | None = None
    """Difference of its wall clock to the daemon's."""
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
        """Round trip of a small message on an idle link; None before the first answer."""
        return self.meter.round_trip_s

    def echoed(self, stamp_s: float, clock_s: float, now: float) -> bool:
        """Record the answer to a Probe; False if no Probe with this stamp is open."""
        if not self.probed_s or stamp_s != self.probed_s:
            return False
        took_s = max(0.0, now - self.probed_s)
        self.meter.echoed(took_s)
        # Its clock was read half way.
        self.clock_ahead_s = clock_s - self.probed_clock_s - took_s / 2
        self.probed_s = 0.0
        return True


class RemoteSessions:
    """Open sessions by connection and by identity, and recently closed ones."""

    def __init__(self) -> None:
        self.by_route: dict[bytes, RemoteSession] = {}
        self.by_identity: dict[str, RemoteSession] = {}
        self._closed: OrderedDict[bytes, str] = OrderedDict()

    def add(self, session: RemoteSession) -> None:
        """Add an open session."""
        self.by_route[session.route] = self.by_identity[session.identity] = session

    def close(self, session: RemoteSession) -> None:
        """Close a session; its connection gets no other one."""
        del self.by_route[session.route]
        del self.by_identity[session.identity]
        self._closed[session.route] = session.identity
        if len(self._closed) > MAX_REMEMBERED:
            self._closed.popitem(last=False)

    def closed_identity(self, route: bytes) -> str | None:
        """Return the identity of the closed session of a connection; None if there was none."""
        return self._closed.get(route)

    def count(self, host: str) -> int:
        """Return the number of open sessions of a key."""
        return sum(session.host == host for session in self.by_route.values())


class RemoteKeys:
    """The accepted keys: of the configuration, and temporary ones. Belongs to the loop's thread, except `_reject`."""

    def __init__(self, keys: Mapping[str, str], metrics: Metrics) -> None:
        """`keys`: the configuration's, by host."""
        self._metrics = metrics
        self._configured = dict(keys)
        self._temporary: dict[str, str] = {}
        self._rejected: RecentlySeen[str] = RecentlySeen()
        self.allowed: AllowList[str] = AllowList(self._by_key(), on_refused=self._reject)

    def replace(self, keys: Mapping[str, str]) -> None:
        """Replace the configuration's keys."""
        self._configured = dict(keys)
        self.allowed.replace(self._by_key())

    def add_temporary(self, host: str, key: str) -> None:
        """Accept a key that is not in the configuration, until the daemon ends."""
        self._temporary[host] = key
        self.allowed.replace(self._by_key())

    def _by_key(self) -> dict[str, str]:
        return {key: host for host, key in (*self._temporary.items(), *self._configured.items())}

    def _reject(self, key: str) -> None:
        """Count a connection with an unknown key, and log it once; called in the authenticator's thread."""
        self._metrics.refused_keys.inc()
        if self._rejected.add(key):
            _log.warning(
                log.WORKER_REFUSED, key=key, cause="the key is not in remote.keys; add it, and reload"
            )
