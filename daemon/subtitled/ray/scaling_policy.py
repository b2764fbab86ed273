"""The number of workers by the amount of queued audio; pure: no socket, file or clock.

More workers are requested immediately. Idle ones are stopped only after a while, since a new worker has to get a node and
load a model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from msgspec import Struct

SETTLE_S = 60.0
"""Unplaced requests are cancelled after there were too many for so long."""
UNREAD_MS = 1_800_000
"""Assumed length of an unread file while no finished file gives an estimate."""
FIRST_PAUSE_S = 1.0
"""Cooldown after a failure; doubled with each, up to MAX_PAUSE_S."""
MAX_PAUSE_S = 60.0
LONG_LIFE_S = 60.0
"""A worker that ran for so long did not fail at its start: the cooldown starts over."""


class ScalingLimits(Struct, frozen=True, kw_only=True):
    """The limits in [ray]."""

    min_workers: int
    max_workers: int
    hours_per_worker: float
    idle_s: float


class ScalingMember(Struct, frozen=True, kw_only=True):
    """The present state of one requested worker."""

    number: int
    """In the order of the requests."""
    is_placed: bool
    """It has a node."""
    is_idle: bool
    """It has joined and has no lease."""
    audio_ms: int = 0
    """Audio transcribed so far."""


class ScalingDecision(Struct, frozen=True, kw_only=True):
    """The changes to make now."""

    desired: int
    """Number of workers to have."""
    request: int = 0
    """Workers to request."""
    cancel: tuple[int, ...] = ()
    """Unplaced workers that are no longer needed."""
    stop: tuple[int, ...] = ()
    """Workers that were idle for too long."""


def desired_workers(queued_ms: float, limits: ScalingLimits, *, is_any: bool) -> int:
    """Return the number of workers for an amount of audio; `is_any`: there is work of unknown length."""
    hours = queued_ms / 3_600_000
    by_audio = max(math.ceil(hours / limits.hours_per_worker), int(is_any))
    return min(max(by_audio, limits.min_workers), limits.max_workers)


def backlog_ms(queued_ms: float, unread: int, typical_ms: float) -> float:
    """Return the queued audio: the known amount, and `unread` files of typical length."""
    return queued_ms + unread * (typical_ms or UNREAD_MS)


class ScalingPolicy:
    """Tracks since when each worker is idle, and since when there are too many."""

    def __init__(self, limits: ScalingLimits) -> None:
        self._limits = limits
        self._idle_since: dict[int, tuple[float, int]] = {}
        """When a worker was first seen idle, and its audio at that time."""
        self._too_many_since: float | None = None

    def decide(
        self,
        now: float,
        members: Iterable[ScalingMember],
        queued_ms: float,
        *,
        is_any: bool,
        may_request: bool = True,
    ) -> ScalingDecision:
        """Return the changes to make; `members`: workers that are not stopping."""
        members = list(members)
        count = desired_workers(queued_ms, self._limits, is_any=is_any)
        self._note_idle(now, members)
        surplus = len(members) - count
        if surplus <= 0:
            self._too_many_since = None
            return ScalingDecision(desired=count, request=-surplus if may_request else 0)
        if self._too_many_since is None:
            self._too_many_since = now
        cancel: list[int] = []
        if now - self._too_many_since >= SETTLE_S:
            # The newest first: the oldest is placed next.
            cancel = sorted((m.number for m in members if not m.is_placed), reverse=True)[:surplus]
        stop = self._idle_too_long(now)[: surplus - len(cancel)]
        return ScalingDecision(desired=count, cancel=tuple(cancel), stop=tuple(stop))

    def _note_idle(self, now: float, members: list[ScalingMember]) -> None:
        idle = {member.number: member.audio_ms for member in members if member.is_idle}
        self._idle_since = {
            # A worker whose audio has grown was busy in between.
            number: seen
            if (seen := self._idle_since.get(number)) and seen[1] == audio_ms
            else (now, audio_ms)
            for number, audio_ms in idle.items()
        }

    def _idle_too_long(self, now: float) -> list[int]:
        """Return the workers that were idle for too long, the longest first."""
        since = {number: began for number, (began, _) in self._idle_since.items()}
        long = [number for number, began in since.items() if now - began >= self._limits.idle_s]
        return sorted(long, key=lambda number: (since[number], number))


class ScalingCooldowns:
    """The time after failures in which no workers are requested, so a fault is not repeated without end."""

    def __init__(self) -> None:
        self._pause_s = FIRST_PAUSE_S
        self._until = 0.0

    def may_request(self, now: float) -> bool:
        """Return whether a worker may be requested."""
        return now >= self._until

    def left_s(self, now: float) -> float:
        """Return the remaining seconds."""
        return max(0.0, self._until - now)

    def failed(self, now: float, lived_s: float, *, is_fatal: bool = False) -> None:
        """Record a failed worker; `is_fatal`: it reported that a restart cannot help."""
        if lived_s >= LONG_LIFE_S:
            self._pause_s = FIRST_PAUSE_S
        if now < self._until:
            return  # several failures at once count as one
        self._until = now + (MAX_PAUSE_S if is_fatal else self._pause_s)
        self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)

    def succeeded(self) -> None:
        """Record that a worker has joined."""
        self._pause_s = FIRST_PAUSE_S
