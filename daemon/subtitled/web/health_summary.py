"""Whether all is well, in one sentence."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from subtitle.messages import JobFacts, StatsInfo, WorkerFacts

LATELY_MS = 24 * 3_600_000
WORKING = frozenset({"idle", "busy"})
COMING = frozenset({"starting", "lost", "backoff"})
"""States of a worker that is not there, and will be by itself."""


class HealthSummary(Struct, frozen=True, kw_only=True):
    """The sentence."""

    level: str
    """"ok", "warn" or "bad"."""
    key: str
    """Of the words."""
    n: int = 0
    whole: int = 0


def verdict(stats: StatsInfo, failed: int, most_failed: int) -> HealthSummary:
    """Return the worst there is to say; `failed` files failed lately, of which no more than `most_failed` are counted."""
    workers = [worker for worker in stats.workers if worker.role == "transcribe" and not worker.has_left]
    working = sum(worker.state in WORKING for worker in workers)
    out = [worker for worker in workers if is_out(worker)]
    if stats.is_draining:
        return HealthSummary(level="warn", key="verdict.draining")
    if not workers:
        return HealthSummary(
            level="warn", key="verdict.nobody"
        )  # none has joined, or the model is not here yet
    if len(out) == len(workers):
        return HealthSummary(level="bad", key="verdict.none")
    if stats.is_paused:
        return HealthSummary(level="bad", key="verdict.paused")
    if out:
        return HealthSummary(level="warn", key="verdict.broken", n=len(out), whole=len(workers))
    if not working:
        return HealthSummary(level="warn", key="verdict.starting")
    if working < len(workers):
        return HealthSummary(level="warn", key="verdict.fewer", n=len(workers) - working, whole=len(workers))
    if failed:
        key = "verdict.failed" if failed < most_failed else "verdict.failed_many"
        return HealthSummary(level="warn", key=key, n=failed)
    return HealthSummary(level="ok", key="verdict.well")


def is_out(worker: WorkerFacts) -> bool:
    """Say whether a worker is out of order: it does nothing, and will not soon."""
    return worker.state not in WORKING | COMING | {"draining"}


def lately(failed: Iterable[JobFacts], now_ms: float) -> tuple[JobFacts, ...]:
    """Return those of some failed jobs that failed in the last day."""
    return tuple(job for job in failed if (job.ended_ms or job.created_ms) > now_ms - LATELY_MS)
