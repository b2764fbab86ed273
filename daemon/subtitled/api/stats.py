"""How the daemon is, as a client sees it: workers, queue and speed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping

from subtitle import messages as ms
from subtitled.api.upload_store import UploadStore
from subtitled.api.views import worker_facts
from subtitled.core.broker import Broker
from subtitled.core.live_jobs import BYTES_PER_SAMPLE
from subtitled.core.plan import SAMPLES_PER_MS
from subtitled.core.records import Worker
from subtitled.core.states import JobState
from subtitled.network.auth import Principal
from subtitled.observability.gpu import GpuMemoryMonitor, GpuMemoryUsage
from subtitled.storage.store import Store
from subtitled.workers.remote_session import RemoteSession


class ServerStats:
    """Counts for whoever asks; belongs to the thread of the server's loop."""

    def __init__(self, store: Store, broker: Broker, holdings: UploadStore, memory: GpuMemoryMonitor) -> None:
        """Count from now on."""
        self._store = store
        self._broker = broker
        self._holdings = holdings
        self._memory = memory
        self._started = time.monotonic()
        self.audio_samples: Counter[str] = Counter()
        """Audio of the segments transcribed since the start, by slot."""
        self.uploads: Callable[[], int] = lambda: 0
        self.busy_s: Mapping[str, float] = {}
        """Seconds that transcribe workers have decoded, by slot."""
        self.sessions: Mapping[str, RemoteSession] = {}
        """Of the workers on other hosts, by identity."""

    def stats(self, request: int, who: Principal) -> ms.StatsInfo:
        """Return what a client may know: the numbers of the jobs that it may see, and those of the server for the rest."""
        broker = self._broker
        leases = broker.lease_dispatch.leases.values()
        memory = self._memory.look(time.monotonic())
        unread = [
            job
            for job in broker.live_jobs.jobs.values()
            if job.state in {JobState.QUEUED, JobState.PREPARING} and not job.is_planned
        ]
        return ms.StatsInfo(
            request=request,
            workers=tuple(
                self._worker(worker, who, memory.get(worker.slot, GpuMemoryUsage()))
                for worker in broker.worker_table.workers.values()
            ),
            jobs=self._store.count_jobs(owner=who.only),
            ready_segments=len(broker.lease_dispatch.ready),
            leased_segments=sum(len(lease.keys) for lease in leases),
            queued_bytes=broker.live_jobs.queued_bytes,
            audio_ms=self.audio_samples.total() // SAMPLES_PER_MS,
            uptime_s=time.monotonic() - self._started,
            last_seq=self._store.last_seq(),
            queued_ms=broker.live_jobs.queued_bytes // BYTES_PER_SAMPLE // SAMPLES_PER_MS,
            uploads=self.uploads(),
            spool_bytes=self._holdings.total_bytes,
            waiting_ms=broker.live_jobs.open_samples // SAMPLES_PER_MS,
            unread_files=len(unread),
            unread_bytes=sum(job.size for job in unread),
            is_paused=broker.is_paused,
            is_draining=broker.is_draining,
        )

    def _worker(self, worker: Worker, who: Principal, memory: GpuMemoryUsage) -> ms.WorkerFacts:
        leases = self._broker.lease_dispatch.leases
        held = {key.job: None for lease in worker.leases for key in leases[lease].keys}
        jobs = tuple(held) + ((worker.feed.job,) if worker.feed else ())
        seen = tuple(job for job in jobs if who.only is None or who.may_see(self._store.job_owner(job) or ""))
        return worker_facts(
            worker,
            audio_samples=self.audio_samples[worker.slot],
            busy_s=self.busy_s.get(worker.slot, 0.0),
            may_see_job=who.only is None or (worker.feed is not None and worker.feed.job in seen),
            jobs=seen,
            memory=memory,
            session=self.sessions.get(worker.identity),
        )
