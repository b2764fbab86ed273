"""The whole of the clients' side: doors, allow-list, desk and uploads, put together for the server's loop."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import zmq
from msgspec import Struct

from subtitle import messages as ms
from subtitle.codec import Buffer
from subtitled.api.audio_preview import AudioPreview
from subtitled.api.connection import ClientEndpoint
from subtitled.api.connection_limits import ConnectionLimits
from subtitled.api.handlers import RequestHandlers
from subtitled.api.peer import Peer, RefusedError
from subtitled.api.stats import ServerStats
from subtitled.api.upload_store import UploadStore
from subtitled.api.upload_writer import CallBack
from subtitled.api.uploads import WINDOW_BYTES, Uploads
from subtitled.api.validation import options_of
from subtitled.config.schema import Config
from subtitled.core.broker import Broker
from subtitled.core.events import Event, JobArrived, RetryRequested
from subtitled.core.records import Job, Options
from subtitled.core.states import JobState
from subtitled.files.atomic_files import inside
from subtitled.inboxes.arrivals import new_job_id
from subtitled.network.auth import ZAP_DOMAIN, AllowList, Authenticator, server_key, server_key_path, whos
from subtitled.network.rate_limit import RateLimit
from subtitled.network.sockets import kind_of, open_doors
from subtitled.observability.gpu import GpuMemoryMonitor
from subtitled.observability.metrics import Metrics
from subtitled.output.layout_process import LayoutProcess
from subtitled.runtime.background import BackgroundPool
from subtitled.runtime.processes import more_descriptors
from subtitled.storage.durability import DurabilityQueue
from subtitled.storage.rows import JournalEntry
from subtitled.storage.store import Store
from subtitled.workers.remote_listener import RemoteListener

UPLOADS_FOLDER = "uploads"
GAUGE_S = 1.0
"""Seconds between two sums over all files that clients have sent; a turn of the loop is far shorter."""
MIB = 2**20
CATCH_UP_S = 0.05
"""Wait before a client that did not read fast enough is sent more."""


class ApiServer:
    """Belongs to the thread of the server's loop."""

    def __init__(
        self,
        config: Config,
        context: zmq.Context[zmq.Socket[bytes]],
        *,
        authenticator: Authenticator,
        gate: RemoteListener | None = None,
        store: Store,
        broker: Broker,
        happen: Callable[[Event], None],
        call_back: CallBack,
        metrics: Metrics,
        languages: Callable[[], tuple[str, ...]],
    ) -> None:
        """Open the doors; raises SubtitledError where one cannot be opened.

        `happen` hands an event to the broker and commits what comes of it; `call_back`, called in a thread, has a function called
        in the loop's; `languages` are those that the loaded model knows, none before it is loaded.
        """
        self._config = config
        self._store = store
        self._broker = broker
        self._happen = happen
        self._metrics = metrics
        self._languages = languages
        self._gauge_at = 0.0
        self._aside = BackgroundPool("clients", call_back, threads=4)
        self._durability = DurabilityQueue(store, call_back)
        self._folder = Path(config.state.dir, UPLOADS_FOLDER)
        self._holdings = UploadStore(
            self._folder,
            config.uploads,
            reserve_bytes=config.state.reserve_mb * MIB,
            aside=self._aside,
        )
        self.census = ServerStats(
            store, broker, self._holdings, GpuMemoryMonitor(lambda: metrics.gpus.devices, self._aside)
        )
        self._listening = AudioPreview(self._holdings, call_back)
        self._composer = LayoutProcess()
        self.desk = RequestHandlers(
            store,
            broker,
            happen,
            holdings=self._holdings,
            census=self.census,
            aside=self._aside,
            composer=self._composer,
            model=config.model.name,
        )
        if gate is not None:
            self.census.sessions = gate.sessions
        self.uploads = Uploads(
            config.uploads,
            store=store,
            holdings=self._holdings,
            happen=happen,
            tell=self._tell,
            aside=self._aside,
            call_back=call_back,
            metrics=metrics,
        )
        self.desk.received_bytes = self.uploads.received_bytes
        self.census.uploads = lambda: self.uploads.count
        self._allowed = AllowList(whos(config.client), refused=lambda _: metrics.refused_keys.inc())
        has_keys = any(kind_of(end, has_keys=bool(config.client)) == "keys" for end in config.listen.clients)
        if has_keys:
            authenticator.admit(ZAP_DOMAIN, self._allowed)
        try:
            key = server_key(server_key_path(config)) if has_keys else None
            self._doors = open_doors(context, config.listen.clients, key)
        except BaseException:
            authenticator.stop()
            raise
        # The door for workers is not answered here, but its connections are looked after with the others.
        doors = [*self._doors, *([gate.door] if gate else [])]
        self._lines = ConnectionLimits(context, doors, descriptors=more_descriptors(), metrics=metrics)
        self._lines.allow(_held_bytes(config))
        rate = RateLimit(config.listen.requests_per_s)
        self._links = [
            ClientEndpoint(
                door, allowed=self._allowed, rate=rate, store=store, handle=self._handle, metrics=metrics
            )
            for door in self._doors
        ]

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """What the loop waits for."""
        return [*(door.socket for door in self._doors), *self._lines.sockets]

    @property
    def patience_s(self) -> float:
        """How long `receive` may be left uncalled when nothing comes."""
        if any(link.is_behind for link in self._links):
            return CATCH_UP_S
        return self._lines.patience_s

    def start(self) -> None:
        """Take up unfinished uploads; the broker must know its jobs by then."""
        self.uploads.start(time.monotonic(), _now_ms())

    def receive(self) -> None:
        """Answer what clients have asked, and give up what they have abandoned."""
        now = time.monotonic()
        self._lines.look(now)
        for link in self._links:
            link.receive(now)
        self.uploads.tick(now, _now_ms())
        self._durability.checkpoint_if_due()
        if now >= self._gauge_at:
            self._gauge_at = now + GAUGE_S
            self._listening.tick(now)
            self._metrics.uploads_open.set(self.uploads.count)
            self._metrics.spool_bytes.set(self._holdings.total_bytes)

    def tell_watchers(self, entries: list[JournalEntry]) -> None:
        """Send new journal entries to those who watch."""
        for link in self._links:
            link.tell_watchers(entries)

    def job_changed(self, job: Job) -> None:
        """Let go of a job's file once nobody needs it; called after each stored transition."""
        self.uploads.job_changed(job, _now_ms())

    def reconfigure(self, config: Config) -> None:
        """Put another allow-list, other limits and folders into force."""
        self._config = config
        self._allowed.replace(whos(config.client))
        for link in self._links:
            link.forget_strangers()
        self._lines.allow(_held_bytes(config))
        self.uploads.limits = config.uploads
        self._holdings.reconfigure(config.uploads, reserve_bytes=config.state.reserve_mb * MIB)

    def close(self) -> None:
        """Close the doors; uploads go on after the next start."""
        self.uploads.close()
        self._listening.close()
        self._aside.close()
        self._durability.close()
        self._composer.close()
        self._lines.close()
        for door in self._doors:
            door.socket.close()

    # -- requests --------------------------------------------------------------------------------------------

    def _handle(self, message: ms.ToServer, blobs: Sequence[Buffer], peer: Peer) -> None:
        now = time.monotonic()
        match message:
            case ms.Submit():
                self._submit(message, peer, now)
            case ms.Chunk():
                self.uploads.chunk(message, blobs, peer, now)
            case ms.Commit(job=job, options=wanted):
                options = self._options(wanted) if wanted is not None else None
                self.uploads.commit(message, options, self.desk.find(job, peer).job, peer, now)
            case ms.GetAudio(job=job):
                self._listening.listen(message, self.desk.find(job, peer), peer)
            case ms.Watch():
                raise TypeError("Watch is the link's own")
            case _:
                self.desk.answer(message, peer)

    def _submit(self, message: ms.Submit, peer: Peer, now: float) -> None:
        if self._broker.is_draining:
            raise RefusedError("DRAINING", "the server is stopping; submit again when it is back")
        if self._broker.is_paused:
            raise RefusedError(
                "NO_SPACE", "the server's disk is full (state.reserve_mb); submit again when it has space"
            )
        options = self._options(message.options)
        if message.path is None:
            self.uploads.submit(message, options, peer, now)
            return
        if not peer.who.is_local:
            raise RefusedError(
                "FORBIDDEN",
                "path: files on the server are submitted on its local socket alone; upload the file",
            )
        self._aside.run(
            partial(_look_at, message.path, self._config.uploads.paths),
            partial(self._submit_found, message, options, peer),
            lambda error: peer.refuse(message.request, error.code, str(error)),
            RefusedError,
        )

    def _options(self, wanted: ms.JobOptions) -> Options:
        return options_of(wanted, model=self._config.model.name, languages=self._languages(), after="keep")

    def _submit_found(self, message: ms.Submit, options: Options, peer: Peer, found: _Found) -> None:
        """Make a job of a file on this machine, unless it is one already."""
        known = self._store.find_source(found.path, found.size, found.mtime_ns, options)
        if known is not None and not message.is_again and known.job.state is not JobState.CANCELLED:
            job = known.job
            if job.state is JobState.FAILED and job.is_closed:
                self._happen(RetryRequested(job=job, segments=self._store.segment_rows(job.id)))
        else:
            order = self._store.next_order()
            job = Job(
                id=new_job_id(order),
                state=JobState.QUEUED,
                source=found.path,
                location=found.path,
                size=found.size,
                mtime_ns=found.mtime_ns,
                options=options,
                order=order,
                owner=peer.who.name,
                tag=message.options.tag,
                repetition=order if known is not None else 0,
            )
            self._happen(JobArrived(job))
        self._tell(peer, message.request, job.id)

    def _tell(self, peer: Peer, request: int, job: str) -> None:
        """Answer with a job that nobody will send again, so not before it is on the disk."""
        self._durability.when_durable(
            lambda: peer.reply(ms.JobInfo(request=request, job=self.desk.facts(job)))
        )


class _Found(Struct, frozen=True):
    """A file on this machine that a client has named."""

    path: bytes
    size: int
    mtime_ns: int


def _look_at(path: str, folders: Sequence[str]) -> _Found:
    """Return the file at `path`, which must lie in one of `folders`; raises RefusedError. May block."""
    if not Path(path).is_absolute() or "\0" in path:
        raise RefusedError("BAD_FORMAT", f"path {path[:200]!r}: an absolute path is needed")
    real = os.path.realpath(path)
    if not any(inside(folder, real) for folder in folders):
        allowed = ", ".join(folders) or "none"
        raise RefusedError(
            "FORBIDDEN", f"path {path[:200]!r}: it lies in none of the folders of uploads.paths ({allowed})"
        )
    try:
        found = os.stat(real)  # noqa: PTH116 - as the rest here, a path that is text
    except OSError as error:
        raise RefusedError("NOT_FOUND", f"path {path[:200]!r}: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise RefusedError("BAD_FORMAT", f"path {path[:200]!r}: it is no regular file")
    if not os.access(real, os.R_OK):
        raise RefusedError("FORBIDDEN", f"path {path[:200]!r}: the daemon's user may not read it")
    return _Found(os.fsencode(real), found.st_size, found.st_mtime_ns)


def _held_bytes(config: Config) -> int:
    """Return what the daemon may hold when all goes well: the audio that waits, the chunks under way."""
    return config.pool.queue_mb * MIB + config.uploads.max_open * WINDOW_BYTES


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
