"""The answer to Stats: workers, queue and speed."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from subtitle import messages as ms
from subtitled.api.upload_store import UploadStore
from subtitled.config.model_choice import ConfiguredModel
from subtitled.config.schema import SAMPLE_RATE
from subtitled.core.broker import Broker
from subtitled.core.live_jobs import BYTES_PER_SAMPLE
from subtitled.core.plan import SAMPLES_PER_MS
from subtitled.core.records import Role, Worker
from subtitled.network.auth import Principal
from subtitled.observability.gpu import GpuMemoryMonitor, GpuMemoryUsage
from subtitled.storage.store import Store
from subtitled.workers.model_download import DownloadState
from subtitled.workers.remote_sessions import RemoteSession

MAX_OPEN_FILES = 20
"""Files that an answer to Stats names."""


class ServerStats:
    """Counters since the start; belongs to the thread of the server's loop."""

    def __init__(self, store: Store, broker: Broker, uploads: UploadStore, memory: GpuMemoryMonitor) -> None:
        self._store = store
        self._broker = broker
        self._upload_store = uploads
        self._memory = memory
        self._started = time.monotonic()
        self.audio_samples: Counter[str] = Counter()
        """Samples of the segments transcribed since the start, by slot."""
        self.count_uploads: Callable[[], int] = lambda: 0
        self.busy_s: Mapping[str, float] = {}
        """Seconds that workers decoded since the start, by slot."""
        self.hung_s: Mapping[str, float] = {}
        """Seconds for which a folder has not answered, by its path, of those that do not answer."""
        self.download_of: Callable[[str], DownloadState] = lambda _: DownloadState()
        """Returns the state of a model's download, by its name in the options of a job."""
        self.open_files: Callable[[], list[ms.OpenFile]] = list
        """Files that wait for a process that keeps them open for writing."""
        self.models: tuple[ConfiguredModel, ...] = ()
        """All models, the default first."""
        self.state_fault = ""
        """Why nothing that is stored survives a restart; "" if it does."""
        self.sessions: Mapping[str, RemoteSession] = {}
        """Sessions of workers on other hosts, by identity."""

    def stats(self, request: int, principal: Principal) -> ms.StatsInfo:
        """Return the statistics: job counts of the jobs that the client may see, all else of the whole server."""
        broker = self._broker
        leases = broker.lease_dispatch.leases.values()
        memory = self._memory.usage(time.monotonic())
        return ms.StatsInfo(
            request=request,
            workers=tuple(
                self._worker(worker, principal, memory.get(worker.slot, GpuMemoryUsage()))
                for worker in broker.worker_table.workers.values()
            ),
            jobs=self._store.count_jobs(owner=principal.only_owner),
            ready_segments=len(broker.lease_dispatch.ready),
            leased_segments=sum(len(lease.keys) for lease in leases),
            queued_bytes=broker.live_jobs.queued_bytes,
            audio_ms=self.audio_samples.total() // SAMPLES_PER_MS,
            uptime_s=time.monotonic() - self._started,
            last_seq=self._store.last_seq(),
            queued_ms=broker.live_jobs.queued_bytes // BYTES_PER_SAMPLE // SAMPLES_PER_MS,
            uploads=self.count_uploads(),
            spool_bytes=self._upload_store.total_bytes,
            waiting_ms=broker.live_jobs.open_samples // SAMPLES_PER_MS,
            unread_files=broker.live_jobs.unread_files,
            unread_bytes=broker.live_jobs.unread_bytes,
            models=self.model_facts(principal),
            is_paused=broker.is_paused,
            is_disk_full=broker.is_disk_full,
            is_draining=broker.is_draining,
            is_state_lost=bool(self.state_fault),
            hung_folders=self._hung_folders(principal),
            open_files=() if principal.only_owner is not None else tuple(self.open_files()[:MAX_OPEN_FILES]),
        )

    def model_facts(self, principal: Principal) -> tuple[ms.ModelFacts, ...]:
        """Return all models; the reason for a fault may contain paths, and is for admins."""
        broker, placement = self._broker, self._broker.placement
        jobs = broker.live_jobs.count_by_model
        facts, now = [], time.monotonic()
        for model in self.models:
            download = self.download_of(model.option)
            fault = placement.obstacle(model.option, now)
            cause = fault or download.cause
            if cause and principal.only_owner is not None:
                cause = "it cannot be used now; an admin can see the reason"
            facts.append(
                ms.ModelFacts(
                    name=model.name,
                    source=model.source,
                    is_default=model.is_default,
                    languages=model.languages,
                    tasks=model.tasks or ("text",),
                    slots=tuple(
                        worker.slot
                        for worker in broker.worker_table.of(Role.TRANSCRIBE)
                        if worker.has_loaded(model.option)
                    ),
                    stale_slots=tuple(
                        worker.slot
                        for worker in broker.worker_table.of(Role.TRANSCRIBE)
                        if model.option in worker.stale_models
                    ),
                    memory_bytes=placement.memory_bytes(model.option),
                    preload=placement.preload(model.option),
                    preload_cause=(
                        placement.preload_obstacle(model.option, now) if principal.only_owner is None else ""
                    ),
                    is_requested=placement.is_requested(model.option),
                    loads=placement.loads.get(model.option, 0),
                    jobs=jobs[model.option],
                    ready_segments=broker.lease_dispatch.ready.count(model.option),
                    cause=cause,
                    is_downloading=not (download.is_done or fault),
                    downloaded_bytes=download.done_bytes,
                    download_bytes=download.total_bytes,
                )
            )
        return tuple(facts)

    def _hung_folders(self, principal: Principal) -> tuple[ms.HungFolder, ...]:
        """Return the folders that do not answer; their paths are for admins."""
        return tuple(
            ms.HungFolder(
                path=os.fsencode(path).decode("utf-8", "replace") if principal.only_owner is None else "",
                seconds=round(seconds),
            )
            for path, seconds in self.hung_s.items()
        )

    def prune(self) -> None:
        """Add the samples of slots that no longer exist to those of the slot ""."""
        for slot in self.audio_samples.keys() - self._broker.worker_table.workers.keys() - {""}:
            self.audio_samples[""] += self.audio_samples.pop(slot)

    def _worker(self, worker: Worker, principal: Principal, memory: GpuMemoryUsage) -> ms.WorkerFacts:
        leases = self._broker.lease_dispatch.leases
        leased = {key.job: None for lease in worker.leases for key in leases[lease].keys}
        jobs = tuple(leased) + ((worker.feed.job,) if worker.feed else ())
        visible = tuple(
            job
            for job in jobs
            if principal.only_owner is None or principal.may_see(self._store.job_owner(job) or "")
        )
        may_see_job = principal.only_owner is None or (worker.feed is not None and worker.feed.job in visible)
        audio_samples, busy_s = self.audio_samples[worker.slot], self.busy_s.get(worker.slot, 0.0)
        names = {model.option: model.name for model in self.models}
        return ms.WorkerFacts(
            slot=worker.slot,
            role=worker.role.value,
            state=worker.state.value,
            incarnation=worker.incarnation,
            device=worker.device,
            leases=len(worker.leases),
            job=worker.feed.job if worker.feed and may_see_job else "",
            cause=worker.cause if may_see_job else "",
            audio_ms=audio_samples // SAMPLES_PER_MS,
            jobs=visible,
            memory_used_bytes=memory.used_bytes,
            memory_total_bytes=memory.total_bytes,
            speed=round(audio_samples / SAMPLE_RATE / busy_s, 2) if busy_s else 0.0,
            models=tuple(name for option, name in names.items() if worker.has_loaded(option)),
            loading=names.get(worker.loading, "") if worker.loading is not None else "",
            **_session_facts(self.sessions.get(worker.identity)),
        )


def _session_facts(session: RemoteSession | None) -> dict[str, Any]:
    if session is None:
        return {}
    return {
        "host": session.host,
        "round_trip_ms": round(1000 * (session.round_trip_s or 0.0), 3),
        "sent_bytes": session.sent_bytes,
        "received_bytes": session.received_bytes,
        "clock_ahead_ms": round(1000 * (session.clock_ahead_s or 0.0), 1),
        "model_digest": session.digest,
    }
