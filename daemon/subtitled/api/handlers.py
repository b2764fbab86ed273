"""Answers clients' requests from the store and the broker."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar, assert_never

import msgspec
from msgspec.structs import replace

from subtitle import messages as ms
from subtitle.codec import Buffer
from subtitled import log
from subtitled.api.admin_requests import AdminRequests
from subtitled.api.downloads import Downloads
from subtitled.api.media_preview import MediaPreview
from subtitled.api.peer import Peer, RefusedError
from subtitled.api.stats import ServerStats
from subtitled.api.upload_store import UploadStore
from subtitled.api.uploads import Uploads
from subtitled.api.validation import (
    FileOnServer,
    check_layout,
    check_translations,
    find_file,
    job_options,
    job_states,
)
from subtitled.api.views import display_path, history, job_facts, media_of
from subtitled.config.model_choice import configured_models
from subtitled.config.schema import FORMATS, Config, Format
from subtitled.core import events as ev
from subtitled.core.broker import Broker
from subtitled.core.live_jobs import started_entry
from subtitled.core.plan import SAMPLES_PER_MS
from subtitled.core.protocol import Waveform
from subtitled.core.queue_order import queue_entry
from subtitled.core.records import Job, Options, language_tags
from subtitled.core.states import JOB_LIVE, WITH_TRANSCRIPT, JobState
from subtitled.cues.edits import parse_cues
from subtitled.cues.render import render
from subtitled.cues.text import clean
from subtitled.cues.transcript import MissingSpan, Transcript
from subtitled.errors import NoSpaceError, StateLostError
from subtitled.files.atomic_files import is_there
from subtitled.inboxes.arrivals import new_job
from subtitled.languages import ENGLISH, option_of, target_tag
from subtitled.output.job_writer import render_options
from subtitled.output.layout_process import NO_EDITS, LayoutProcess, speech_without_text
from subtitled.output.paths import output_paths
from subtitled.output.translation_inputs import translation_inputs
from subtitled.runtime.background import BackgroundPool, CallInLoop, FolderThreads
from subtitled.storage.durability import DurabilityQueue
from subtitled.storage.reader import JobFilter, Reader
from subtitled.storage.rows import EditRow, JobRow, JournalEntry, ResultRow, pack_cues
from subtitled.storage.store import DRAFT_MS, Store, is_deletable
from subtitled.version import VERSION

MAX_LISTED = 1000
MAX_QUEUE_LISTED = 20_000
"""Jobs that a list in the order of the queue searches; the next page continues after them."""
MAX_QUERIES = 64
"""Maximum lists and states of all clients that are being read or queued."""
MAX_QUERIES_OF_ONE = 16
"""Maximum of these for one client's key."""
MAX_PATHS = 64
"""Maximum paths of one folder that are checked at once: on a mount that hangs, no check ends."""
MAX_RENDERED = 32
"""Maximum answers rendered at once; each has all results of a job in memory."""
MAX_CUES_BYTES = 4 * 2**20
"""Maximum size of the cues in a SaveCues, in JSON."""
RETRY_DRAFTS_S = 60.0
"""Pause before old drafts are read again while the database accepts no change."""
CANCELLABLE = JOB_LIVE - {JobState.WRITING}
_log = log.get()
STATE_LOST = "the server's state folder was deleted"
_waveform_decoder = msgspec.msgpack.Decoder(Waveform)
_CHANGES = (
    ms.Submit,
    ms.Chunk,
    ms.Commit,
    ms.Cancel,
    ms.Reorder,
    ms.Dismiss,
    ms.Retry,
    ms.TranslateJob,
    ms.Delete,
    ms.SaveCues,
)
"""Requests that change the database; they are refused while it is lost."""
T = TypeVar("T")


class RequestHandlers:
    """Handles every request but Watch; belongs to the thread of the server's loop."""

    def __init__(
        self,
        config: Config,
        *,
        store: Store,
        broker: Broker,
        dispatch: Callable[[ev.Event], None],
        durability: DurabilityQueue,
        upload_store: UploadStore,
        uploads: Uploads,
        downloads: Downloads,
        preview: MediaPreview,
        stats: ServerStats,
        layout: LayoutProcess,
        render_pool: BackgroundPool,
        path_threads: FolderThreads,
        edit_pool: BackgroundPool,
        languages: Callable[[], Mapping[str, Sequence[str]]],
        send_to_watchers: Callable[[list[JournalEntry]], None],
        call_in_loop: CallInLoop,
    ) -> None:
        """`dispatch` handles an event and commits the result; `languages` are those of each loaded model."""
        self.config = config
        self._models = configured_models(config)
        self._store = store
        self._broker = broker
        self._dispatch = dispatch
        self._durability = durability
        self._upload_store = upload_store
        self._uploads = uploads
        self._downloads = downloads
        self._preview = preview
        self._stats = stats
        stats.models = self._models
        self._layout = layout
        self._render_pool = render_pool
        self._path_threads = path_threads
        self._edit_pool = edit_pool
        self.on_edited: Callable[[str], None] = lambda _: None
        """Receives a job whose output files are to be written again."""
        self.drafts_due_at = 0.0
        """When `keep_old_drafts` is to be called (monotonic)."""
        self._languages = languages
        self._send_to_watchers = send_to_watchers
        self._queries = BackgroundPool("queries", call_in_loop)
        self._pending_queries: Counter[str] = Counter()
        """Number of pending queries of each key."""
        self._admin = AdminRequests(config, broker=broker, dispatch=dispatch, stats=stats, query=self.query)

    def reconfigure(self, config: Config) -> None:
        """Apply another configuration."""
        self.config = self._admin.config = config
        self._models = self._stats.models = configured_models(config)

    def handle(self, message: ms.ToServer, blobs: Sequence[Buffer], peer: Peer) -> None:
        """Answer a message now or later; raises RefusedError."""
        if isinstance(message, _CHANGES) and (self._stats.state_fault or self._store.is_lost):
            raise RefusedError("DRAINING", f"{STATE_LOST}; try again after its operator has restarted it")
        request = message.request
        match message:
            case ms.Hello(options=wanted):
                if wanted is not None:
                    self._options(wanted)
                peer.reply(self._welcome(request, peer))
            case ms.Submit():
                self._submit(message, peer)
            case ms.Chunk():
                self._uploads.chunk(message, blobs, peer, time.monotonic())
            case ms.Commit(job=job, options=wanted):
                options = self._options(wanted) if wanted is not None else None
                self._uploads.commit(message, options, self.find(job, peer).job, peer, time.monotonic())
            case ms.List():
                self._list(message, peer)
            case ms.Status(job=job):
                self._status(request, self.find(job, peer), peer)
            case ms.Cancel(job=job):
                self._cancel(self.find(job, peer).job)
                peer.reply(ms.JobInfo(request=request, job=self.facts(job)))
            case ms.Retry(job=job):
                self._retry(request, self.find(job, peer).job, peer)
            case ms.TranslateJob(job=job):
                self._translate(message, self.find(job, peer).job, peer)
            case ms.Delete(job=job):
                self._delete(request, self.find(job, peer), peer)
            case ms.Fetch():
                self._fetch(message, peer)
            case ms.SaveCues():
                self._save_cues(message, blobs, peer)
            case ms.ListCueVersions(job=job, task=task):
                row = self.find(job, peer)
                self._reply_with_versions(request, row, _edit_task(row, task), peer)
            case ms.GetWaveform(job=job):
                self._waveform(request, self.find(job, peer), peer)
            case ms.GetAudio(job=job):
                self._preview.audio(message, self.find(job, peer), peer)
            case ms.GetVideo(job=job):
                self._preview.video(message, self.find(job, peer), peer)
            case ms.Stats():
                peer.reply(self._stats.stats(request, peer.principal))
            case ms.Reorder(job=job):
                self._reorder(message, self.find(job, peer).job, peer)
                peer.reply(ms.JobInfo(request=request, job=self.facts(job)))
            case ms.Dismiss(job=job):
                self._dismiss(self.find(job, peer).job)
                peer.reply(ms.JobInfo(request=request, job=self.facts(job)))
            case ms.Operate() | ms.SetLogLevel() | ms.LoadModel() | ms.UnloadModel():
                self._admin.handle(message, peer)
            case ms.Watch():
                raise TypeError("Watch is handled by the connection")
            case _:
                assert_never(message)

    def close(self) -> None:
        """Wait for the queries in progress."""
        self._queries.close()

    def reply_with_job(self, peer: Peer, request: int, job: str) -> None:
        """Reply with a job once it is on the disk: the client relies on it and does not send the file again."""

        def reply() -> None:
            if self._store.find_job(job) is None:
                peer.refuse(request, "NOT_FOUND", f"job {job} was deleted")
            else:
                peer.reply(ms.JobInfo(request=request, job=self.facts(job)))

        self._durability.when_durable(reply)

    def find(self, job: str, peer: Peer) -> JobRow:
        """Return a job; raises RefusedError for an unknown job and for one that this client may not see."""
        row = self._store.find_job(job)
        if row is None or not peer.principal.may_see(row.job.owner):
            raise RefusedError("NOT_FOUND", f"unknown job {job[:64]!r}; `subtitle list` shows the known jobs")
        return row

    def facts(self, job: str) -> ms.JobFacts:
        """Return an existing job as a client sees it."""
        row = self._store.find_job(job)
        if row is None:
            raise KeyError(job)
        return self._with_progress(*self._facts([row], self._store))

    def _welcome(self, request: int, peer: Peer) -> ms.Welcome:
        return ms.Welcome(
            request=request,
            server=VERSION,
            protocol=ms.PROTOCOL,
            model=self.config.model.name,
            models=tuple(model.name for model in self._models),
            user=peer.principal.name,
            role=peer.principal.role,
            formats=tuple(FORMATS),
            max_upload_bytes=self._upload_store.max_file_bytes,
            url_hosts=self.config.url.allowed_hosts,
        )

    # -- submitting ------------------------------------------------------------------------------------------

    def _submit(self, message: ms.Submit, peer: Peer) -> None:
        if self._broker.is_draining:
            raise RefusedError("DRAINING", "the server is stopping; submit again after its restart")
        if self._broker.is_disk_full:
            raise RefusedError(
                "NO_SPACE", "the server's disk is full (state.reserve_mb); submit again when it has space"
            )
        options = self._options(message.options)
        if message.url is not None:
            if message.path is not None or message.size is not None or message.sha256:
                raise RefusedError(
                    "BAD_FORMAT", "url: not allowed with path, size or sha256; send one source"
                )
            self._downloads.submit(message, options, peer)
            return
        if message.path is None:
            self._uploads.submit(message, options, peer, time.monotonic())
            return
        if not peer.principal.is_local:
            raise RefusedError(
                "FORBIDDEN",
                "path: only clients of the server's local socket may name a path; upload the file",
            )
        folders = self.config.uploads.paths
        folder = next((one for one in folders if Path(message.path).is_relative_to(one)), "")
        thread = self._path_threads.of(folder)
        if thread.pending >= MAX_PATHS:
            raise RefusedError("RATE_LIMITED", f"{MAX_PATHS} paths are being checked; try again later")
        # The folder itself first: another one may be on a mount that hangs.
        thread.run(
            partial(find_file, message.path, sorted(folders, key=lambda one: one != folder)),
            partial(self._submit_file, message, options, peer),
            lambda error: peer.refuse(message.request, error.code, str(error)),
            RefusedError,
        )

    def _options(self, wanted: ms.JobOptions) -> Options:
        return job_options(wanted, models=self._models, languages=self._languages(), after="keep")

    def _submit_file(self, message: ms.Submit, options: Options, peer: Peer, file: FileOnServer) -> None:
        """Create a job for a file on the server, or find the job that it already has."""
        options = replace(options, mount=file.mount)
        known = self._store.find_source(file.path, file.size, file.mtime_ns, options)
        if known is not None and not message.allow_duplicate and known.job.state is not JobState.CANCELLED:
            job = known.job
            if job.state is JobState.FAILED and job.is_closed:
                self._dispatch(ev.RetryRequested(job=job, segments=self._store.segment_rows(job.id)))
        else:
            order = self._store.next_order()
            job = new_job(file.path, file.size, file.mtime_ns, options, order)
            repetition = order if known is not None else 0
            job = replace(job, owner=peer.principal.name, tag=message.options.tag, repetition=repetition)
            self._dispatch(ev.JobArrived(job))
        self.reply_with_job(peer, message.request, job.id)

    # -- jobs ------------------------------------------------------------------------------------------------

    def _list(self, message: ms.List, peer: Peer) -> None:
        """Reply with jobs, read in the background: a page of a thousand takes longer than a turn of the loop may."""
        states = job_states(message.states)
        job_filter = self._job_filter(message, states, peer)
        limit = max(1, min(message.limit, MAX_LISTED))
        live = self._live_jobs_after(message.before) if message.sort == "queue" else []

        def read() -> tuple[ms.JobFacts, ...]:
            reader = self._store.readers.get()
            if message.sort == "queue":
                names = (job.id for job in live if job_filter.matches_job(job))
                rows = reader.jobs_in_order(names, job_filter, limit)
            elif message.sort == "newest" and not job_filter.is_special:
                rows = reader.list_jobs(
                    states,
                    owner=peer.principal.only_owner,
                    tag=message.tag,
                    before=message.before,
                    name=message.name,
                    limit=limit,
                )
            else:
                rows = reader.find_jobs(job_filter, sort=message.sort, limit=limit, before=message.before)
            return self._facts(rows, reader)

        def done(jobs: tuple[ms.JobFacts, ...]) -> None:
            peer.reply(ms.JobList(request=message.request, jobs=tuple(map(self._with_progress, jobs))))

        self.query(message.request, peer, read, done, "the jobs cannot be read; see the server's log")

    def _live_jobs_after(self, before: str) -> list[Job]:
        """Return MAX_QUEUE_LISTED jobs that have not ended, in the order of the queue, after the job `before`."""
        jobs = self._broker.live_jobs
        entries = chain(jobs.started, jobs.waiting)
        if before:
            live = jobs.jobs.get(before)
            if live is None:
                return []
            if live.job.state is JobState.QUEUED:
                entries = chain(jobs.waiting.after(queue_entry(live.job)))
            else:
                entries = chain(jobs.started.after(started_entry(live.job)), jobs.waiting)
        return [jobs.job(name) for *_, name in islice(entries, MAX_QUEUE_LISTED)]

    def _job_filter(self, message: ms.List, states: Iterable[JobState], peer: Peer) -> JobFilter:
        model = message.model
        options = {one.name: one.option for one in self._models}
        return JobFilter(
            states=frozenset(states),
            owner=peer.principal.only_owner,
            tag=message.tag,
            name=message.name,
            language=option_of(message.language) if message.language else "",
            model=options.get(model, model) if model else None,
            inbox=os.fsencode(message.inbox),
            is_damaged=message.is_damaged,
            is_unheard=message.is_unheard,
        )

    def _reorder(self, message: ms.Reorder, job: Job, peer: Peer) -> None:
        """Change a job's priority and place; raises RefusedError."""
        if job.state not in CANCELLABLE:
            raise RefusedError(
                "WRONG_STATE", f"job {job.id} is {job.state.value}; its place cannot be changed"
            )
        other = message.before or message.after
        if not other:
            priority = job.priority if message.priority is None else message.priority
            self._dispatch(ev.PriorityChanged(job=job.id, priority=priority))
            return
        both = (job, self.find(other, peer).job)
        if other == job.id or any(one.state is not JobState.QUEUED for one in both):
            raise RefusedError("WRONG_STATE", f"job {other}: both jobs must wait; see their states")
        self._dispatch(ev.JobMoved(job=job.id, neighbour=other, is_after=not message.before))

    def _dismiss(self, job: Job) -> None:
        """Dismiss a failure; raises RefusedError."""
        if job.state is not JobState.FAILED:
            raise RefusedError("WRONG_STATE", f"job {job.id} is {job.state.value}; it has not failed")
        if not job.is_dismissed:
            self._dispatch(ev.FailureDismissed(job))

    def query(
        self, request: int, peer: Peer, work: Callable[[], T], on_result: Callable[[T], None], error_text: str
    ) -> None:
        """Run `work` on the database in the background; raises RefusedError at the limits of pending queries."""
        owner = peer.principal.name
        if self._queries.pending >= MAX_QUERIES or self._pending_queries[owner] >= MAX_QUERIES_OF_ONE:
            raise RefusedError(
                "RATE_LIMITED",
                f"{self._queries.pending} lists and states are pending, {self._pending_queries[owner]} of them"
                f" yours (limits: {MAX_QUERIES}, {MAX_QUERIES_OF_ONE}); try again when some are answered",
            )

        def release() -> None:
            self._pending_queries[owner] -= 1
            if not self._pending_queries[owner]:
                del self._pending_queries[owner]

        self._pending_queries[owner] += 1
        _run_charged(self._queries, request, peer, work, on_result, error_text, on_end=release)

    def _with_progress(self, facts: ms.JobFacts) -> ms.JobFacts:
        """Add what is known in memory of a job; for the thread of the loop."""
        live = self._broker.live_jobs.jobs.get(facts.id)
        if live is None:
            return facts
        feed = self._broker.prepare_dispatch.feed_of(facts.id)
        received, total = self._downloads.progress(facts.id) or (self._uploads.received_bytes(facts.id), 0)
        decoded_samples = feed.decoded_samples if feed else 0
        changes: dict[str, Any] = {"decoded_ms": decoded_samples // SAMPLES_PER_MS} if decoded_samples else {}
        if facts.state == "receiving":
            changes |= {"size": facts.size or total, "received_bytes": received}
        if facts.state == "queued":
            waiting = self._broker.live_jobs.waiting
            changes["position"] = waiting.position(queue_entry(live.job))
        if live.open_sentences and facts.state == "translating":
            changes["translations"] = tuple(
                replace(one, sentences=one.done + live.open_sentences.get(one.language, 0))
                for one in facts.translations
            )
        return replace(facts, **changes) if changes else facts

    def _facts(self, rows: list[JobRow], reader: Reader) -> tuple[ms.JobFacts, ...]:
        """Return jobs as a client sees them, without their progress; for the thread of `reader`."""
        counts = reader.count_segments([row.job.id for row in rows])
        return tuple(
            job_facts(
                row,
                segments=counts.get(row.job.id, {}),
                sentences=reader.count_translations(row.job.id) if row.job.translate_to else {},
                is_uploaded=self._upload_store.contains(row.job),
                default_model=self.config.model.name,
            )
            for row in rows
        )

    def _status(self, request: int, row: JobRow, peer: Peer) -> None:
        job = row.job
        facts = replace(
            self._with_progress(*self._facts([row], self._store)),
            outputs=tuple(display_path(path) for path in self._store.outputs_of(job.id)),
            history=history(self._store.history(job.id)),
        )
        if job.state not in {*WITH_TRANSCRIPT, JobState.FAILED} or not facts.segments:
            peer.reply(ms.JobInfo(request=request, job=facts))
            return

        def read() -> ms.JobFacts:
            missing, unheard = speech_without_text(row, self._store.readers.get().results(job.id))
            return replace(facts, missing=_span_texts(missing), unheard=_span_texts(unheard))

        def done(complete: ms.JobFacts) -> None:
            peer.reply(ms.JobInfo(request=request, job=complete))

        self.query(request, peer, read, done, "the stored results cannot be read; see the server's log")

    def _cancel(self, job: Job) -> None:
        if job.state not in CANCELLABLE:
            raise RefusedError("WRONG_STATE", f"job {job.id} is {job.state.value}; it cannot be cancelled")
        self._dispatch(ev.CancelRequested(job.id))

    def _retry(self, request: int, job: Job, peer: Peer) -> None:
        """Retry a failed job if its file exists; a thread checks this, since the mount of the file may hang."""
        _check_retryable(job)

        def checked(is_found: bool) -> None:
            try:
                current = self.find(job.id, peer).job
                _check_retryable(current)
                if not is_found:
                    raise self._missing_file(current)
            except RefusedError as error:
                peer.refuse(request, error.code, str(error))
                return
            self._dispatch(ev.RetryRequested(job=current, segments=self._store.segment_rows(job.id)))
            peer.reply(ms.JobInfo(request=request, job=self.facts(job.id)))

        find = partial(is_there, os.fsdecode(job.location))
        thread = self._path_threads.of(os.fsdecode(job.options.mount or job.options.inbox))
        if job.is_download_missing:
            self._downloads.check(job.options.url)
            checked(True)
        elif self._upload_store.contains(job):
            checked(find())
        elif thread.pending >= MAX_PATHS:
            checked(True)  # a file that is missing fails when it is read
        else:
            thread.run(find, checked)

    def _translate(self, message: ms.TranslateJob, job: Job, peer: Peer) -> None:
        """Translate a job; its transcript may not be done yet."""
        if job.state in {JobState.RECEIVING, JobState.FAILED, JobState.CANCELLED} or job.is_already_subtitled:
            raise RefusedError(
                "WRONG_STATE",
                f"job {job.id} is {job.state.value} and has no transcript; submit its file again",
            )
        languages = language_tags(message.to)
        if not (languages or job.translate_to):
            raise RefusedError(
                "BAD_FORMAT", f"to: empty, and job {job.id} has no translation; name a language"
            )
        check_translations(
            self._models, languages, model=message.model, source=job.language or job.options.language
        )
        self._dispatch(
            ev.TranslationRequested(
                job=job, languages=languages, model=message.model, is_retry=message.is_retry
            )
        )
        self.reply_with_job(peer, message.request, job.id)

    def _missing_file(self, job: Job) -> RefusedError:
        where, remedy = display_path(job.location), "drop it again"
        if self._upload_store.contains(job):
            where, remedy = "the server, which keeps it for uploads.keep_failed_s", "submit it again"
        return RefusedError("NOT_FOUND", f"job {job.id}: its file is gone from {where}; {remedy}")

    def _delete(self, request: int, row: JobRow, peer: Peer) -> None:
        _check_closed(row.job)
        if not is_deletable(row):
            raise RefusedError(
                "WRONG_STATE",
                f"job {row.job.id} is {row.job.state.value}; cancel it, or wait until it has ended",
            )
        facts = self.facts(row.job.id)
        try:
            entries = self._store.delete_job(row, is_noted=True)
        except NoSpaceError as error:
            raise RefusedError(
                "NO_SPACE", "the server's disk is full; try again when it has space"
            ) from error
        self._uploads.job_deleted(row.job)
        self._send_to_watchers(entries)
        peer.reply(ms.JobInfo(request=request, job=facts))

    # -- results ---------------------------------------------------------------------------------------------

    def _fetch(self, message: ms.Fetch, peer: Peer) -> None:
        row = self.find(message.job, peer)
        format_ = next((name for name in FORMATS if name == message.format), None)
        if format_ is None:
            raise RefusedError(
                "BAD_FORMAT", f"unknown format {message.format[:64]!r}; supported: {', '.join(FORMATS)}"
            )
        if not message.segments and row.job.state not in {*WITH_TRANSCRIPT, JobState.FAILED}:
            raise RefusedError(
                "WRONG_STATE",
                f"job {row.job.id} is {row.job.state.value}; wait until it is done, or fetch finished `segments`",
            )
        if row.job.is_already_subtitled:
            raise RefusedError("WRONG_STATE", f"job {row.job.id} wrote no subtitles: {row.job.cause}")
        if message.layout is not None:
            check_layout(message.layout)
        target = _target(row.job, message)
        edit_task = _edit_task(row, message.task)
        is_translation = row.job.options.is_translated_too and message.task == "translate"
        is_settled = (
            not message.segments or row.job.language is not None or row.job.options.language != "auto"
        )

        def work(results: list[ResultRow]) -> tuple[int, Transcript, bytes]:
            edit = None if message.segments else self._edit(row, edit_task, message.version)
            edits = {edit_task: edit} if edit else NO_EDITS
            wanted = [
                replace(one, is_bilingual=message.is_bilingual)
                for one in translation_inputs(row, self._store.readers.get(), self._models)
                if one.target == target
            ]
            model, layout = self.config.model.name, message.layout
            if wanted:
                (transcript,) = self._layout.compose_translations(
                    row, results, wanted, model=model, layout=layout, edits=edits
                )
            else:  # also a translation into the transcript's own language
                transcript = self._layout.compose(
                    row, results, model=model, layout=layout, is_translation=is_translation, edits=edits
                )
            body = render(format_, transcript, render_options(row.job.options))
            return edit.version if edit else 0, transcript, body

        def rendered(found: tuple[int, Transcript, bytes]) -> None:
            version, transcript, body = found
            answer = ms.Subtitles(
                request=message.request,
                job=row.job.id,
                format=format_,
                language=transcript.output_language if is_settled else None,
                name=_file_name(row, transcript, format_),
                version=version,
            )
            peer.reply(answer, (body,))

        self._render(message.request, row, peer, work, rendered, segments=message.segments)

    def _edit(self, row: JobRow, task: str, version: int | None) -> EditRow | None:
        """Return a saved version of a job's cues, None for the model's; for a thread. Raises RefusedError for an unknown one."""
        if version == 0:
            return None
        edit = self._store.readers.get().edit(row.job.id, task, version)
        if edit is None and version is not None:
            raise RefusedError(
                "NOT_FOUND", f"job {row.job.id} has no version {version}; `subtitle edit` lists its versions"
            )
        return edit

    def _save_cues(self, message: ms.SaveCues, blobs: Sequence[Buffer], peer: Peer) -> None:
        """Validate and compress the cues in the background, then store them if their version is still the newest."""
        request, row = message.request, self.find(message.job, peer)
        task = _edit_task(row, message.task)
        if self._edit_pool.pending >= MAX_RENDERED:
            raise RefusedError("RATE_LIMITED", f"{MAX_RENDERED} edits are being saved; try again later")
        if (message.restore is None) is not (len(blobs) > 0):
            raise RefusedError(
                "BAD_FORMAT", f"{len(blobs)} blobs; send the cues, or name a version to restore"
            )
        size = sum(map(len, blobs))
        if size > MAX_CUES_BYTES:
            raise RefusedError("TOO_BIG", f"cues of {size} bytes; the limit is {MAX_CUES_BYTES}")

        def work() -> tuple[int, bytes | None]:
            """Return the number of cues, and the cues as they are stored."""
            try:
                if message.restore is not None:
                    edit = self._edit(row, task, message.restore)
                    return (edit.cues, edit.data) if edit else (0, None)
                cues = parse_cues(b"".join(blobs))
                return len(cues), pack_cues(cues)
            except ValueError as error:
                raise RefusedError("BAD_FORMAT", str(error)[:400]) from error

        def done(found: tuple[int, bytes | None]) -> None:
            try:
                self._store_edit(message, task, *found, peer)
            except RefusedError as error:
                peer.refuse(request, error.code, str(error))

        text = "the cues cannot be saved; see the server's log"
        _run_charged(self._edit_pool, request, peer, work, done, text, job=row.job.id)

    def _store_edit(
        self, message: ms.SaveCues, task: str, count: int, data: bytes | None, peer: Peer
    ) -> None:
        """Store validated cues; raises RefusedError."""
        row = self.find(message.job, peer)  # it may have been deleted meanwhile
        job = row.job
        if job.state not in WITH_TRANSCRIPT or job.is_already_subtitled:
            cause = f": {job.cause}" if job.cause else ""
            raise RefusedError(
                "WRONG_STATE",
                f"job {job.id} is {job.state.value}{cause}; cues can be edited once the job is done or being translated",
            )
        try:
            entries = self._store.save_edit(
                job,
                task,
                base=message.version,
                data=data,
                cues=count,
                author=clean(message.author) or peer.principal.name,
                draft_session=message.draft_session,
                restored=message.restore,
            )
        except NoSpaceError as error:
            raise RefusedError(
                "NO_SPACE", "the server's disk is full; save again when it has space"
            ) from error
        if entries is None:
            newest = self._store.edit(job.id, task)
            saved = (
                f"version {newest.version} by {newest.author or 'a local client'}" if newest else "version 0"
            )
            raise RefusedError(
                "CONFLICT",
                f"job {job.id}: {saved} is the newest, and the edit was made from version {message.version}; nothing is"
                " saved: fetch the newest version, and repeat the edit",
            )
        self._send_to_watchers(entries)
        # Answered after the sync: the editor discards its own copy.
        self._durability.when_durable(lambda: self._reply_with_versions(message.request, row, task, peer))
        self.on_edited(job.id)
        if message.draft_session:
            self.drafts_due_at = min(self.drafts_due_at, time.monotonic() + DRAFT_MS / 1000)
        else:
            self._translate_edit(job)

    def _translate_edit(self, job: Job) -> None:
        """Translate what an edit has changed."""
        if job.translate_to:
            self._dispatch(ev.TranslationRequested(job=job, is_edit=True))

    def keep_old_drafts(self, now: float) -> None:
        """Make versions of the drafts that no later draft replaces any more, and translate them: their pages may be closed."""
        self.drafts_due_at = now + RETRY_DRAFTS_S
        if self._stats.state_fault or self._store.is_lost:
            return
        try:
            jobs, next_ms = self._store.keep_old_drafts()
        except NoSpaceError:
            return
        self.drafts_due_at = math.inf if next_ms is None else now + next_ms / 1000
        for name in jobs:
            row = self._store.find_job(name)
            if row is not None and row.job.state in WITH_TRANSCRIPT:
                self._translate_edit(row.job)

    def _reply_with_versions(self, request: int, row: JobRow, task: str, peer: Peer) -> None:
        versions = self._store.edit_versions(row.job.id, task)
        peer.reply(ms.CueVersions(request=request, job=row.job.id, versions=versions))

    def _waveform(self, request: int, row: JobRow, peer: Peer) -> None:
        media = media_of(row)
        stored = self._store.waveform(row.job.id)
        if stored is None:
            raise RefusedError("NOT_FOUND", f"job {row.job.id} has no waveform; submit its file again")
        waveform = _waveform_decoder.decode(stored)
        answer = ms.WaveformInfo(
            request=request,
            job=row.job.id,
            interval_ms=waveform.interval_ms,
            offset_ms=media.offset_samples // SAMPLES_PER_MS,
            audio_ms=media.decoded_samples // SAMPLES_PER_MS,
        )
        peer.reply(answer, (waveform.peaks,))

    def _render(
        self,
        request: int,
        row: JobRow,
        peer: Peer,
        work: Callable[[list[ResultRow]], T],
        on_result: Callable[[T], None],
        *,
        segments: Sequence[int] = (),
    ) -> None:
        """Run `work` on a job's results, or those of some segments, in the background; raises RefusedError at MAX_RENDERED."""
        pending = self._render_pool.pending
        if pending >= MAX_RENDERED:
            raise RefusedError(
                "RATE_LIMITED",
                f"{pending} answers are being rendered (limit: {MAX_RENDERED}); try again later",
            )

        def run() -> T:
            reader = self._store.readers.get()
            return work(reader.results_of(row.job.id, segments) if segments else reader.results(row.job.id))

        text = "the stored results cannot be read; see the server's log"
        _run_charged(self._render_pool, request, peer, run, on_result, text, job=row.job.id)


def _run_charged(
    pool: BackgroundPool,
    request: int,
    peer: Peer,
    work: Callable[[], T],
    on_result: Callable[[T], None],
    error_text: str,
    *,
    job: str | None = None,
    on_end: Callable[[], None] = lambda: None,
) -> None:
    """Run `work` in the background and charge its processor time; `error_text` answers an unexpected error.

    `on_end` is called first in either case.
    """

    def run() -> tuple[T, float]:
        started = time.thread_time()
        result = work()
        return result, time.thread_time() - started

    def done(found: tuple[T, float]) -> None:
        on_end()
        result, cost_s = found
        peer.charge(cost_s)
        on_result(result)

    def failed(error: Exception) -> None:
        on_end()
        if isinstance(error, RefusedError):
            peer.refuse(request, error.code, str(error))
            return
        # A bug, or damaged results, of one job: the daemon continues.
        _log.error(log.REQUEST_FAILED, **({"job": job} if job else {}), cause=repr(error))
        if isinstance(error, StateLostError):
            reason = f"{STATE_LOST}; try again after its operator has restarted it"
            peer.refuse(request, "DRAINING", reason)
        else:
            peer.refuse(request, "INTERNAL", error_text)

    pool.run(run, done, failed, Exception)


def _check_closed(job: Job) -> None:
    """Raise RefusedError while the files of a failed job are moved and written."""
    if job.state is JobState.FAILED and not job.is_closed:
        raise RefusedError("WRONG_STATE", f"job {job.id}: its files are being written; try again in a moment")


def _check_retryable(job: Job) -> None:
    """Raise RefusedError unless a job can be retried."""
    _check_closed(job)
    if job.state is not JobState.FAILED:
        raise RefusedError(
            "WRONG_STATE", f"job {job.id} is {job.state.value}; only a failed job can be retried"
        )


def _target(job: Job, message: ms.Fetch) -> str:
    """Return the tag of the language whose translation is fetched, "" for none; raises RefusedError for one without translation."""
    if not message.language:
        if message.is_bilingual:
            raise RefusedError(
                "BAD_FORMAT", "is_bilingual needs a language; name one that the job is translated to"
            )
        return ""
    target = target_tag(message.language)
    if target is None:
        raise RefusedError(
            "BAD_FORMAT", f"unknown language {message.language!r}; write a tag such as ja or zh-TW"
        )
    if target not in job.translate_to:
        languages = f"; its translations: {', '.join(job.translate_to)}" if job.translate_to else ""
        raise RefusedError(
            "NOT_FOUND",
            f"job {job.id} is not translated to {target}{languages}; translate it: subtitle translate {job.id} --to {target}",
        )
    return target


def _edit_task(row: JobRow, task: ms.Task | None) -> str:
    """Return the task whose subtitles are fetched or edited; raises RefusedError for one that the job does not have.

    The translation of English is the transcript itself.
    """
    options = row.job.options
    if task is not None and task not in options.tasks:
        raise RefusedError(
            "BAD_FORMAT",
            f'task "{task}": job {row.job.id} has "{options.tasks[0]}" only; submit its file with this task',
        )
    is_english = (row.job.language or options.language) == ENGLISH
    return options.task if task is None or is_english else task


def _span_texts(spans: Sequence[MissingSpan]) -> tuple[str, ...]:
    return tuple(f"{span.start_ms} {span.end_ms} {span.cause}" for span in spans)


def _file_name(row: JobRow, transcript: Transcript, format_: Format) -> str:
    paths = output_paths(
        "",
        Path(display_path(row.job.source)).name,
        transcript.output_language,
        [format_],
        lambda _: True,
        flags=row.job.options.flags,
        is_partial=row.job.state is JobState.FAILED,
        is_bilingual=transcript.is_bilingual,
    )
    return str(paths[format_])
