"""How many workers there are to be, by what waits for them; given its time, without socket, file or clock.

More are asked for at once: a queue does not wait for certainty. Fewer only after a time without work, since a worker let go
costs its successor a node and the loading of a model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from msgspec import Struct

SETTLE_S = 60.0
"""What was asked for and has no place yet is withdrawn when it has been too much for so long."""
UNREAD_MS = 1_800_000
"""Length of a file that nobody has read yet, while no other has been done from which to judge."""
FIRST_PAUSE_S = 1.0
"""After a failure, until a worker is asked for again; doubled with each, up to MAX_PAUSE_S."""
MAX_PAUSE_S = 60.0
LONG_LIFE_S = 60.0
"""A worker that lived so long did not fail at its start: pauses begin anew."""


class ScalingLimits(Struct, frozen=True, kw_only=True):
    """What the configuration says; see [ray]."""

    min_workers: int
    max_workers: int
    hours_per_worker: float
    idle_s: float


class ScalingMember(Struct, frozen=True, kw_only=True):
    """One worker that was asked for, as it is seen now."""

    number: int
    """In the order in which they were asked for."""
    is_placed: bool
    """Ray has found it a node."""
    is_idle: bool
    """It has joined, and holds no lease."""
    audio_ms: int = 0
    """What it has transcribed so far."""


class ScalingDecision(Struct, frozen=True, kw_only=True):
    """What is to be done now."""

    wanted: int
    """How many there are to be."""
    ask: int = 0
    """So many more."""
    withdraw: tuple[int, ...] = ()
    """Those that Ray has found no node for, and that are needed no more."""
    let_go: tuple[int, ...] = ()
    """Those that were without work for too long."""


def wanted(queued_ms: float, limits: ScalingLimits, *, is_any: bool) -> int:
    """Return how many workers so much audio is worth; `is_any`: somebody waits, though nobody knows how much it is."""
    hours = queued_ms / 3_600_000
    by_audio = max(math.ceil(hours / limits.hours_per_worker), int(is_any))
    return min(max(by_audio, limits.min_workers), limits.max_workers)


def backlog_ms(queued_ms: float, unread: int, typical_ms: float) -> float:
    """Return the audio that waits: what is known of, and `unread` files as long as others were."""
    return queued_ms + unread * (typical_ms or UNREAD_MS)


class ScalingPolicy:
    """Remembers since when each worker is idle, and since when there are too many."""

    def __init__(self, limits: ScalingLimits) -> None:
        self._limits = limits
        self._idle_since: dict[int, tuple[float, int]] = {}
        """When a worker was first seen idle, with the audio that it had transcribed by then."""
        self._too_many_since: float | None = None

    def decide(
        self,
        now: float,
        members: Iterable[ScalingMember],
        queued_ms: float,
        *,
        is_any: bool,
        may_ask: bool = True,
    ) -> ScalingDecision:
        """Return what is to be done; `members`: those that are not leaving already."""
        members = list(members)
        count = wanted(queued_ms, self._limits, is_any=is_any)
        self._note_idle(now, members)
        surplus = len(members) - count
        if surplus <= 0:
            self._too_many_since = None
            return ScalingDecision(wanted=count, ask=-surplus if may_ask else 0)
        if self._too_many_since is None:
            self._too_many_since = now
        withdraw: list[int] = []
        if now - self._too_many_since >= SETTLE_S:
            # The youngest first: the oldest is the next to be placed.
            withdraw = sorted((m.number for m in members if not m.is_placed), reverse=True)[:surplus]
        let_go = self._tired(now)[: surplus - len(withdraw)]
        return ScalingDecision(wanted=count, withdraw=tuple(withdraw), let_go=tuple(let_go))

    def _note_idle(self, now: float, members: list[ScalingMember]) -> None:
        idle = {member.number: member.audio_ms for member in members if member.is_idle}
        self._idle_since = {
            # One whose audio has grown had work between two looks.
            number: seen
            if (seen := self._idle_since.get(number)) and seen[1] == audio_ms
            else (now, audio_ms)
            for number, audio_ms in idle.items()
        }

    def _tired(self, now: float) -> list[int]:
        """Return those that were idle for too long, the longest first."""
        since = {number: began for number, (began, _) in self._idle_since.items()}
        long = [number for number, began in since.items() if now - began >= self._limits.idle_s]
        return sorted(long, key=lambda number: (since[number], number))


class ScalingCooldowns:
    """When workers may be asked for again after some have failed; so that a fault is not repeated without end."""

    def __init__(self) -> None:
        self._pause_s = FIRST_PAUSE_S
        self._until = 0.0

    def may_ask(self, now: float) -> bool:
        """Say whether a worker may be asked for."""
        return now >= self._until

    def left_s(self, now: float) -> float:
        """Return how long none may be."""
        return max(0.0, self._until - now)

    def failed(self, now: float, lived_s: float, *, is_fatal: bool = False) -> None:
        """Note that one has failed; `is_fatal`: it said that trying again cannot help."""
        if lived_s >= LONG_LIFE_S:
            self._pause_s = FIRST_PAUSE_S
        if now < self._until:
            return  # of several that fail together only one counts
        self._until = now + (MAX_PAUSE_S if is_fatal else self._pause_s)
        self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)

    def succeeded(self) -> None:
        """Note that one has joined."""
        self._pause_s = FIRST_PAUSE_S
