"""A broker with simulated local and remote workers under a virtual clock: how the work is divided, and when it ends."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping

from msgspec import Struct

from subtitled.core import actions as ac
from subtitled.core import events as ev
from subtitled.core import protocol as pr
from unit.broker_bench import WINDOW, Bench

BEAT_S = 5.0


class Kind(Struct, frozen=True, kw_only=True):
    """What a worker is like; `bytes_per_s` of None is on this host."""

    fixed_s: float = 0.5
    window_s: float = 0.2
    bytes_per_s: float | None = None
    round_trip_s: float = 0.0
    hangs_at: float = float("inf")
    is_cpu: bool = False
    credit: int = 2

    def takes_s(self, windows: int) -> float:
        """Return how long a lease takes."""
        return self.fixed_s + windows * self.window_s


class Done(Struct, frozen=True):
    """A lease as it was worked on."""

    slot: str
    windows: int
    start: float
    end: float


class TimedPool:
    """Does one job of whole windows with the given workers."""

    def __init__(
        self,
        kinds: Mapping[str, Kind],
        *,
        lease_min_s: float = 1e6,
        lease_gpu_s: float = 1e6,
        **policy: float,
    ) -> None:
        """Full batches, however long they take, unless `lease_gpu_s` is given."""
        self.bench = Bench(
            queue_bytes=2**50,
            feed_floor_bytes=2**40,
            lease_min_s=lease_min_s,
            lease_gpu_s=lease_gpu_s,
            **policy,
        )
        self.done: list[Done] = []
        self.most_bytes: dict[str, int] = {}
        """The most PCM that each worker held at once."""
        self._kinds = kinds
        self._agenda: list[tuple[float, int, Callable[[], list[ac.Action]]]] = []
        self._count = 0
        self._link_free: dict[str, float] = {}
        self._free: dict[str, float] = {}
        self.bench.worker("p0")
        for slot, kind in kinds.items():
            if kind.bytes_per_s is None:
                self.bench.worker(slot, credit=kind.credit, is_cpu=kind.is_cpu)
            else:
                self.bench.join(slot, credit=2)
                self._measure(slot, kind)

    def run(self, windows: int, *, feed_s: float = 0.0) -> float:
        """Do a job, whose windows come `feed_s` apart; return when the last of it was done."""
        self.bench.submit()
        seen = len(self.bench.actions)
        for index in range(windows):
            self._at(index * feed_s, lambda index=index: self.bench.prepared(index, samples=WINDOW))  # type: ignore[misc]
        self._at(windows * feed_s, self.bench.read)
        self._at(BEAT_S, self._beat)
        while self._agenda and sum(done.windows for done in self.done) < windows:
            now, _, call = heapq.heappop(self._agenda)
            self.bench.now = max(now, self.bench.now)
            call()
            self.bench.wait(0)
            for action in self.bench.actions[seen:]:
                if isinstance(action, ac.SendLease):
                    self._send(action)
            seen = len(self.bench.actions)
        assert sum(done.windows for done in self.done) == windows
        return self.bench.now

    def windows(self, slot: str) -> int:
        """Return how much a worker did."""
        return sum(done.windows for done in self.done if done.slot == slot)

    def busy(self, slot: str, start: float, end: float) -> float:
        """Return a worker's share of a time in which it worked."""
        inside = (min(d.end, end) - max(d.start, start) for d in self.done if d.slot == slot)
        return sum(max(0.0, share) for share in inside) / (end - start)

    def _at(self, when: float, call: Callable[[], list[ac.Action]]) -> None:
        self._count += 1
        heapq.heappush(self._agenda, (when, self._count, call))

    def _beat(self) -> list[ac.Action]:
        self._at(self.bench.now + BEAT_S, self._beat)
        for worker in self.bench.broker.worker_table.workers.values():
            self.bench.handle(ev.MessageReceived(worker.identity, pr.Heartbeat()))
        return []

    def _measure(self, slot: str, kind: Kind) -> None:
        worker = self.bench.slot(slot).identity
        measured = ev.LinkMeasured(
            worker=worker, round_trip_s=kind.round_trip_s, bytes_per_s=kind.bytes_per_s
        )
        self.bench.handle(measured)

    def _send(self, sent: ac.SendLease) -> None:
        slot = sent.lease.worker.rpartition(".")[0]
        kind = self._kinds[slot]
        leases = self.bench.broker.lease_dispatch.leases
        held = sum(leases[lease].pcm_bytes for lease in self.bench.slot(slot).leases)
        self.most_bytes[slot] = max(held, self.most_bytes.get(slot, 0))
        arrived = self.bench.now
        if kind.bytes_per_s is not None:
            arrived = (
                max(self._link_free.get(slot, 0.0), self.bench.now) + sent.lease.pcm_bytes / kind.bytes_per_s
            )
            self._link_free[slot] = arrived
            arrived += kind.round_trip_s / 2
            self._at(arrived + kind.round_trip_s / 2, lambda: self.bench.receive(sent))
        start = max(arrived, self._free.get(slot, 0.0))
        if start >= kind.hangs_at:
            return
        end = self._free[slot] = start + kind.takes_s(len(sent.message.items))
        self._at(
            end + kind.round_trip_s / 2,
            lambda: self._answer(Done(slot, len(sent.message.items), start, end), sent),
        )

    def _answer(self, done: Done, sent: ac.SendLease) -> list[ac.Action]:
        self.done.append(done)
        return self.bench.reply(sent)
