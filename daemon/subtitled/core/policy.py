"""Time limits, retries and backoff."""

from __future__ import annotations

from msgspec import Struct

SAMPLE_RATE = 16_000
CRASH_WINDOW_S = 600.0
"""Crashes older than this do not count."""
BACKOFF_FIRST_S = 0.5
BACKOFF_LAST_S = 60.0
SLOWEST_BYTES_PER_S = 16_000
"""Below this, half of real time in PCM, a link is useless."""


class Policy(Struct, frozen=True, kw_only=True):
    """The limits that the configuration sets."""

    attempts: int = 3
    prepare_attempts: int = 2
    crash_budget: int = 10
    """Failures of a worker slot in a row before it is quarantined."""
    quarantine_s: float = 600.0
    """Length of the quarantine."""
    silence_s: float = 30.0
    forget_s: float = 600.0
    """How long a stopped slot of another host is remembered."""
    start_timeout_s: float = 600.0
    lease_min_s: float = 30.0
    lease_per_audio_s: float = 4.0
    abandon_s: float = 5.0
    """Time in which a worker must stop abandoned work; then it is replaced."""
    prepare_stall_s: float = 60.0
    batch_size: int = 16
    lease_cpu_s: float = 10.0
    """Longest usual time of a lease on a CPU, and on a GPU: urgent work waits until it is over."""
    lease_gpu_s: float = 2.0
    max_models: int = 0
    """Models that a worker holds at most; 0: as many as its memory allows."""
    queue_bytes: int = 512 * 2**20
    max_in_flight_bytes: int = 64 * 2**20
    """PCM that a worker on another host may hold, including PCM in flight."""
    feed_floor_bytes: int = 8 * 2**20
    """PCM of one file that each prepare worker may add even if the queue is full.

    At least one grant of credit and the PCM that an open language vote keeps: with less, files that wait for the last
    vote could fill the memory and wait for credit forever.
    """


def time_to_arrive(policy: Policy, pcm_bytes: int) -> float:
    """Return the seconds that PCM may be in flight to another host: a slow link is not a dead one."""
    return max(policy.lease_min_s, pcm_bytes / SLOWEST_BYTES_PER_S)


MAX_LIMITS = 10
"""A lease that makes progress may take so many times its time limit."""
EXPECTED_TIMES = 3.0
"""A lease may take so many times the time that is expected from its worker's throughput."""


def time_to_run(policy: Policy, samples: int) -> float:
    """Return the seconds that a lease of `samples` may take without progress: max(lease_min_s, lease_per_audio_s x audio)."""
    return max(policy.lease_min_s, policy.lease_per_audio_s * samples / SAMPLE_RATE)


def recent(crashes: tuple[float, ...], now: float) -> tuple[float, ...]:
    """Return the crashes that count."""
    return tuple(at for at in crashes if now - at < CRASH_WINDOW_S)


def backoff(crashes: tuple[float, ...], slot: str) -> float:
    """Return the seconds to wait before a slot's next process.

    Doubles with each recent crash, from 0.5 s to 60 s. The jitter, up to a quarter, is derived from the slot's name:
    slots that crash together do not start together, and a replayed history stays the same.
    """
    doublings = min(max(0, len(crashes) - 1), 16)  # far beyond BACKOFF_LAST_S, without overflow
    base = min(BACKOFF_LAST_S, BACKOFF_FIRST_S * 2.0**doublings)
    jitter = (sum(slot.encode()) * 37 + len(crashes) * 11) % 64 / 256
    return base * (1 + jitter)
