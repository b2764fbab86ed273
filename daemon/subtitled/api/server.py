"""Assembles the client API: sockets, allow-list, request handlers and uploads."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import zmq

from subtitled.api.connection import ClientEndpoint
from subtitled.api.connection_limits import ConnectionLimits
from subtitled.api.downloads import Downloads
from subtitled.api.handlers import RequestHandlers
from subtitled.api.media_preview import MediaPreview
from subtitled.api.peer import Peer
from subtitled.api.stats import ServerStats
from subtitled.api.upload_store import UploadStore
from subtitled.api.uploads import WINDOW_BYTES, Uploads
from subtitled.config.schema import Config
from subtitled.core.broker import Broker
from subtitled.core.events import Event
from subtitled.core.records import Job
from subtitled.network.auth import (
    ZAP_DOMAIN,
    AllowList,
    Authenticator,
    principals,
    server_key,
    server_key_path,
)
from subtitled.network.rate_limit import RateLimit
from subtitled.network.sockets import MAX_BACKLOG, kind_of, open_listeners
from subtitled.observability.gpu import GpuMemoryMonitor
from subtitled.observability.metrics import Metrics
from subtitled.output.layout_process import LayoutProcess
from subtitled.runtime.background import BackgroundPool, CallInLoop, FolderThreads
from subtitled.runtime.mailbox import Mailbox
from subtitled.runtime.processes import raise_descriptor_limit
from subtitled.storage.durability import DurabilityQueue
from subtitled.storage.retention import Retention
from subtitled.storage.rows import JournalEntry
from subtitled.storage.store import Store
from subtitled.workers.remote_listener import RemoteListener

UPLOADS_FOLDER = "uploads"
HOUSEKEEPING_S = 1.0
"""Seconds between two updates of the upload gauges; a turn of the loop is far shorter."""
MIB = 2**20
_READ_POOLS = frozenset({"render", "gpu"})
_ENDS = frozenset({"done", "failed", "cancelled", "deleted"})
POOL_THREADS = {"upload": 4, "hash": 2, "render": 2, "delete": 1, "edit": 1, "gpu": 1}
"""Threads that write uploads, hash resumed files, render results, delete uploads, validate edited cues, read GPU drivers."""
CLOSE_PATHS_S = 1.0
"""Wait at most so long for path lookups when the daemon stops: a hung mount does not answer."""


class ApiServer:
    """Belongs to the thread of the server's loop."""

    def __init__(
        self,
        config: Config,
        context: zmq.Context[zmq.Socket[bytes]],
        *,
        authenticator: Authenticator,
        remote: RemoteListener | None = None,
        store: Store,
        broker: Broker,
        dispatch: Callable[[Event], None],
        call_in_loop: CallInLoop,
        metrics: Metrics,
        languages: Callable[[], Mapping[str, Sequence[str]]],
    ) -> None:
        """Open the sockets; raises SubtitledError.

        `dispatch` handles an event and commits the result; `languages` are those of each loaded model.
        """
        self._metrics = metrics
        self._call_in_loop = call_in_loop
        self._results: Mailbox[Callable[[], None]] = Mailbox()
        """Results of requests that change nothing, which are also sent while the loop waits for disk space."""
        self._unsent: deque[list[JournalEntry]] = deque()
        """Entries for watchers that wait for the disk."""
        self._housekeeping_at = 0.0
        # One pool for each kind of work, so that a slow kind does not delay another.
        self._pools = {
            name: BackgroundPool(
                name, self._return_result if name in _READ_POOLS else call_in_loop, threads=threads
            )
            for name, threads in POOL_THREADS.items()
        }
        self._path_threads = FolderThreads("path", call_in_loop)
        self._durability = DurabilityQueue(store, call_in_loop)
        self._upload_store = UploadStore(
            Path(config.state.dir, UPLOADS_FOLDER),
            config.uploads,
            reserve_bytes=config.state.reserve_mb * MIB,
            background=self._pools["delete"],
        )
        self.stats = ServerStats(
            store,
            broker,
            self._upload_store,
            GpuMemoryMonitor(lambda: metrics.gpus.devices, self._pools["gpu"]),
        )
        if remote is not None:
            self.stats.sessions = remote.sessions
        self._preview = MediaPreview(self._upload_store, self._return_result)
        self._layout = LayoutProcess()
        self.uploads = Uploads(
            config.uploads,
            store=store,
            upload_store=self._upload_store,
            dispatch=dispatch,
            reply_with_job=self._reply_with_job,
            pool=self._pools["upload"],
            hash_pool=self._pools["hash"],
            call_in_loop=call_in_loop,
            metrics=metrics,
        )
        self.downloads = Downloads(
            config.url,
            config.uploads,
            store=store,
            upload_store=self._upload_store,
            dispatch=dispatch,
            reply_with_job=self._reply_with_job,
            hash_pool=self._pools["hash"],
            call_in_loop=call_in_loop,
        )
        self.stats.count_uploads = lambda: self.uploads.count
        self.handlers = RequestHandlers(
            config,
            store=store,
            broker=broker,
            dispatch=dispatch,
            durability=self._durability,
            upload_store=self._upload_store,
            uploads=self.uploads,
            downloads=self.downloads,
            preview=self._preview,
            stats=self.stats,
            layout=self._layout,
            render_pool=self._pools["render"],
            path_threads=self._path_threads,
            edit_pool=self._pools["edit"],
            languages=languages,
            send_to_watchers=self.send_to_watchers,
            call_in_loop=self._return_result,
        )
        self._retention = Retention(
            store,
            call_in_loop,
            keep_days=config.state.keep_jobs_days,
            on_deleted=self.uploads.job_deleted,
        )
        self._allowed = AllowList(principals(config.client), on_refused=lambda _: metrics.refused_keys.inc())
        descriptors = raise_descriptor_limit()
        has_keys = any(kind_of(end, has_keys=bool(config.client)) == "keys" for end in config.listen.clients)
        if has_keys:
            authenticator.allow(ZAP_DOMAIN, self._allowed)
        try:
            key = server_key(server_key_path(config)) if has_keys else None
            backlog = min(MAX_BACKLOG, descriptors // 16)
            self._listeners = open_listeners(context, config.listen.clients, key, backlog=backlog)
        except BaseException:
            authenticator.stop()
            raise
        # The workers' listener is read elsewhere; its connections are limited here with all others.
        limited = [*self._listeners, *([remote.listener] if remote else [])]
        self._limits = ConnectionLimits(context, limited, descriptors=descriptors, metrics=metrics)
        self._limits.allow(_expected_bytes(config))
        rate_limit = RateLimit(config.listen.requests_per_s)
        self._endpoints = [
            ClientEndpoint(
                listener,
                allowed=self._allowed,
                rate_limit=rate_limit,
                store=store,
                handle=self.handlers.handle,
                metrics=metrics,
            )
            for listener in self._listeners
        ]

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """Sockets that the loop polls."""
        return [listener.socket for listener in self._listeners]

    @property
    def poll_timeout_s(self) -> float:
        """Longest time until `receive` must be called again."""
        retention_s = max(0.0, self._retention.next_at - time.monotonic())
        endpoints_s = (endpoint.poll_timeout_s for endpoint in self._endpoints)
        drafts_s = max(0.0, self.handlers.drafts_due_at - time.monotonic())
        return min(self._limits.poll_timeout_s, retention_s, drafts_s, *endpoints_s)

    def start(self) -> None:
        """Resume unfinished uploads and downloads; the broker must know its jobs by then."""
        self.downloads.start(self.uploads.start(time.monotonic(), _now_ms()))

    def receive(self) -> None:
        """Handle the requests that arrived, and expire abandoned uploads."""
        now = time.monotonic()
        self._limits.check(now)
        for endpoint in self._endpoints:
            endpoint.receive(now)
        self.uploads.tick(now, _now_ms())
        self._durability.checkpoint_if_due()
        self._retention.tick(now, _now_ms())
        if now >= self.handlers.drafts_due_at:
            self.handlers.keep_old_drafts(now)
        if now >= self._housekeeping_at:
            self._housekeeping_at = now + HOUSEKEEPING_S
            self._preview.tick(now)
            self.stats.prune()
            self._metrics.uploads_open.set(self.uploads.count)
            self._metrics.spool_bytes.set(self._upload_store.total_bytes)

    @property
    def result_descriptor(self) -> int:
        """Readable while a result for `serve_reads` is there."""
        return self._results.fileno()

    def serve_reads(self) -> None:
        """Answer requests that change nothing, while the loop waits for disk space; the others are kept."""
        self._send_results()
        for endpoint in self._endpoints:
            endpoint.serve_reads(time.monotonic())

    def _return_result(self, send: Callable[[], None]) -> None:
        """Hand a result from a thread to the loop, or to `serve_reads`."""
        self._results.put(send)
        self._call_in_loop(self._send_results)

    def _send_results(self) -> None:
        for send in self._results.drain():
            send()

    def send_to_watchers(self, entries: list[JournalEntry]) -> None:
        """Send new journal entries to the clients that watch, in order; those with a job's end once they are on the disk."""
        if not entries:  # a save that changes nothing, or a draft that replaces another
            return
        if not self._unsent and not any(entry.after in _ENDS and entry.subject == "job" for entry in entries):
            self._send(entries)
            return
        self._unsent.append(entries)
        self._set_horizon()
        self._durability.when_durable(self._send_unsent)

    def _send_unsent(self) -> None:
        entries = self._unsent.popleft()
        self._set_horizon()
        self._send(entries)

    def _set_horizon(self) -> None:
        horizon = self._unsent[0][0].seq - 1 if self._unsent else None
        for endpoint in self._endpoints:
            endpoint.horizon = horizon

    def _send(self, entries: list[JournalEntry]) -> None:
        for endpoint in self._endpoints:
            endpoint.send_to_watchers(entries)

    def job_changed(self, job: Job) -> None:
        """Release a job's upload once it is no longer needed; called after each committed transition."""
        if not self.downloads.job_changed(job):
            self.uploads.job_changed(job, _now_ms())

    def state_changed(self, fault: str) -> None:
        """Refuse new work as long as `fault` says that the state is lost."""
        self.stats.state_fault = fault

    def reconfigure(self, config: Config) -> None:
        """Apply another allow-list, other limits and folders."""
        self.handlers.reconfigure(config)
        self._allowed.replace(principals(config.client))
        for endpoint in self._endpoints:
            endpoint.drop_revoked()
        self._limits.allow(_expected_bytes(config))
        self.uploads.limits = self.downloads.limits = config.uploads
        self.downloads.config = config.url
        self._retention.keep_days = config.state.keep_jobs_days
        self._upload_store.reconfigure(config.uploads, reserve_bytes=config.state.reserve_mb * MIB)

    def _reply_with_job(self, peer: Peer, request: int, job: str) -> None:
        self.handlers.reply_with_job(peer, request, job)

    def close(self) -> None:
        """Close the sockets; uploads resume after the next start."""
        self.uploads.close()
        self.downloads.close()
        self._preview.close()
        self._layout.close()  # ends a layout in progress, which its pool waits for
        for pool in self._pools.values():
            pool.close()
        self._path_threads.close(CLOSE_PATHS_S)
        self.handlers.close()
        self._durability.close()
        self._retention.close()
        self._limits.close()
        self._results.close()
        for listener in self._listeners:
            listener.socket.close()


def _expected_bytes(config: Config) -> int:
    """Return the memory that the daemon's own buffers may take: queued audio and chunks in flight."""
    return config.pool.queue_mb * MIB + config.uploads.max_open * WINDOW_BYTES


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
