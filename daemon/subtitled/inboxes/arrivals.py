"""Jobs from the files that settle in inboxes."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from subtitle.messages import OpenFile
from subtitled import log
from subtitled.config import schema
from subtitled.config.checks import layout_of
from subtitled.config.model_choice import ConfiguredModel, ModelChoice, ModelChoiceError, choose_model
from subtitled.core.events import JobArrived, RetryRequested, SourceRenamed
from subtitled.core.records import Job, Options, options_of
from subtitled.core.states import JOB_LIVE, JobState
from subtitled.errors import InboxError
from subtitled.inboxes.file_filter import ARCHIVES
from subtitled.inboxes.watch import InboxWatcher, RenamedFile, SettledFile
from subtitled.languages import option_of
from subtitled.storage.store import Store

_NUMBER = re.compile(r" \(\d+\)$")
_GROWTH_MS = 3_600_000
JOB_DELETED = "its job was deleted; touch the file to process it again"
_MOST_ACCEPTED = 100_000
_log = log.get()


class RenameCandidate(Struct, frozen=True):
    """The file of a job that has not ended, with the inbox, size and time of a file that was found."""

    job: str
    is_there: bool


LookUp = Callable[[str, str, Callable[[bool], None]], None]
"""Takes a path and its mount point; the loop calls the function with whether the path exists, or never."""


class FoundFile(Struct, frozen=True):
    """A file that settled or was renamed, with the inbox it lies in."""

    file: SettledFile | RenamedFile
    inbox: schema.InboxConfig
    candidate: RenameCandidate | None = None
    """Another file that it may have been before it was renamed, once that was looked up."""


class FolderWatcher(Protocol):
    """Watches inboxes in separate threads."""

    def start(self) -> None:
        """Start; existing files are reported too."""

    def stop(self) -> None:
        """Stop; no file is reported afterwards."""

    @property
    def is_alive(self) -> bool:
        """Whether its threads run."""

    @property
    def hung_s(self) -> dict[str, float]:
        """Seconds for which an inbox has not answered, by its path, of those that do not answer."""

    @property
    def open_files(self) -> list[OpenFile]:
        """The files that wait for a process that keeps them open for writing."""


MakeWatcher = Callable[
    [Sequence[schema.InboxConfig], Callable[[SettledFile | RenamedFile], None]], FolderWatcher
]


class InboxArrivals:
    """The watched inboxes of one configuration; belongs to the thread of the server's loop."""

    def __init__(
        self,
        inboxes: tuple[schema.InboxConfig, ...],
        store: Store,
        put: Callable[[FoundFile], None],
        *,
        make_watcher: MakeWatcher = InboxWatcher,
        look_up: LookUp | None = None,
    ) -> None:
        """Create the watcher; `put` passes a file to the loop, and is called in the watcher's thread.

        Without `look_up` no file is searched that was renamed without an event of the file system.
        """
        self._look_up = look_up
        self._store = store
        self._put = put
        self._held: list[FoundFile] = []
        self._accepted = {(job.options.inbox, job.size, job.mtime_ns): job.id for job in store.live_jobs()}
        """The newest job of a file by its inbox, size and time, which a rename keeps."""
        self.models: tuple[ConfiguredModel, ...] = ()
        """The configured models; set at the start and by each reload."""
        self._make_watcher = make_watcher
        self._watcher = self._watch(inboxes)

    def _watch(self, inboxes: tuple[schema.InboxConfig, ...]) -> FolderWatcher:
        self._inboxes = inboxes
        return self._make_watcher(inboxes, lambda file: self._put(FoundFile(file, inboxes[file.inbox])))

    def reconfigure(self, inboxes: tuple[schema.InboxConfig, ...]) -> None:
        """Watch other inboxes, if they differ. Files that are held back stay so."""
        if inboxes != self._inboxes:
            self._watcher.stop()
            self._watcher = self._watch(inboxes)
            self._watcher.start()

    def start(self) -> None:
        """Start watching; existing files are reported too."""
        self._watcher.start()

    def check(self) -> None:
        """Raise InboxError if the watcher has stopped, because no file would be found any more."""
        if not self._watcher.is_alive:
            raise InboxError("the thread that watches the inboxes has ended; see the reason in the log above")

    def stop(self) -> None:
        """Stop watching."""
        self._watcher.stop()

    @property
    def hung_s(self) -> dict[str, float]:
        """Seconds for which an inbox has not answered, by its path, of those that do not answer."""
        return self._watcher.hung_s

    def open_files(self) -> list[OpenFile]:
        """Return the files that wait for a process that keeps them open for writing."""
        return self._watcher.open_files

    def take(self, found: FoundFile, *, is_space: bool) -> JobArrived | RetryRequested | SourceRenamed | None:
        """Return the event for a file, if any; without disk space a new file is held back."""
        if isinstance(found.file, RenamedFile):
            # It is reported again at its new path.
            self._held = [held for held in self._held if held.file.path != found.file.before]
            return renamed_source(found.file, found.inbox, self._store)
        if not is_space:
            if not self._held:
                _log.info(log.INBOX_PAUSED, cause="no space for the results of further files; they wait")
            self._held.append(found)
            return None
        inbox = os.fsencode(Path(found.inbox.path).absolute())
        content = inbox, found.file.size, found.file.mtime_ns
        if self._look_up is not None and (job := self._twin(found.file, content)) is not None:
            if found.candidate is None or found.candidate.job != job.id:
                self._look_up(
                    os.fsdecode(job.source),
                    found.file.mount,
                    lambda is_there: self._put(replace(found, candidate=RenameCandidate(job.id, is_there))),
                )
                return None
            if not found.candidate.is_there:
                _log.info(log.JOB_RENAMED, job=job.id, path=found.file.path, before=os.fsdecode(job.source))
                return SourceRenamed(job.id, os.fsencode(found.file.path))
        event = take(found.file, found.inbox, self._store, self.models)
        if isinstance(event, JobArrived):
            self._accepted[content] = event.job.id
            if len(self._accepted) > _MOST_ACCEPTED:
                del self._accepted[next(iter(self._accepted))]
        return event

    def _twin(self, file: SettledFile, content: tuple[bytes, int, int]) -> Job | None:
        """Return the live job whose file this may be, moved without an event of the file system (into a new folder)."""
        row = self._store.find_job(self._accepted.get(content, ""))
        source = os.fsencode(file.path)
        if row is None or row.job.state not in JOB_LIVE or row.job.location != row.job.source:
            return None
        job = row.job
        # A file of another file system was not renamed.
        if job.source == source or job.options.mount != os.fsencode(file.mount):
            return None
        is_known = self._store.find_source(source, job.size, job.mtime_ns, job.options) is not None
        return None if is_known else job

    def release(self) -> None:
        """Put the files again that were held back."""
        held, self._held = self._held, []
        for found in held:
            self._put(found)


def renamed_source(file: RenamedFile, inbox: schema.InboxConfig, store: Store) -> SourceRenamed | None:
    """Return the event for a renamed file: its job follows it; None if it is not the file of a job of this inbox."""
    root = os.fsencode(Path(inbox.path).absolute())
    before, source = os.fsencode(file.before), os.fsencode(file.path)
    for job in store.find_live(before):
        is_other = store.find_source(source, job.size, job.mtime_ns, job.options) is not None
        if job.options.inbox == root and job.location == before and not is_other:
            _log.info(log.JOB_RENAMED, job=job.id, path=file.path, before=file.before)
            return SourceRenamed(job.id, source)
    return None


def take(
    file: SettledFile, inbox: schema.InboxConfig, store: Store, models: Sequence[ConfiguredModel] = ()
) -> JobArrived | RetryRequested | None:
    """Return the event for a file; None, with a log line, if it was a job already.

    The job of a failed file is retried if the file is put into the inbox again unchanged.
    """
    source = os.fsencode(file.path)
    options = replace(
        inbox_options(inbox, models),
        mount=os.fsencode(file.mount),
        output_mount=os.fsencode(file.output_mount),
    )
    if (archived := archived_sources(file.path, inbox)) is not None:
        return _take_changed(file, archived, options, store)
    known = store.find_source(source, file.size, file.mtime_ns, options)
    if known is None and store.is_processed(source, file.size, file.mtime_ns):
        _log.info(log.INBOX_IGNORED, path=file.path, cause=JOB_DELETED)
        return None
    if known is None:
        order = store.next_order()
        return JobArrived(new_job(source, file.size, file.mtime_ns, options, order))
    job = known.job
    if is_dropped_again(job, source):
        _log.info(log.JOB_REQUEUED, job=job.id, path=file.path, cause="dropped again")
        return _retry(job, file, store)
    _log.info(
        log.INBOX_IGNORED,
        path=file.path,
        cause=f"already job {job.id} ({job.state.value}); touch the file to process it again",
    )
    return None


def archived_sources(path: str, inbox: schema.InboxConfig) -> tuple[str, ...] | None:
    """Return the paths in the inbox that a file in `done` or `failed` may have had; None for another file."""
    root = str(Path(inbox.path).absolute())
    folder, _, below = path.removeprefix(root.rstrip("/") + "/").partition("/")
    if folder not in ARCHIVES or not below:
        return None
    source = Path(root, below)
    # A name that was in use has got a number.
    stem = _NUMBER.sub("", source.stem)
    return (
        (str(source),) if stem == source.stem else (str(source), str(source.with_name(stem + source.suffix)))
    )


def _take_changed(
    file: SettledFile, sources: tuple[str, ...], options: Options, store: Store
) -> JobArrived | RetryRequested | None:
    """Return the event for a file in an archive: its content has changed since its job ended, as after a slow copy.

    None for any other file there. The file of a finished job counts only if it has grown within an hour.
    """
    location = os.fsencode(file.path)
    found = (store.find_archived(os.fsencode(source), location) for source in sources)
    row = next(filter(None, found), None)
    if row is None or (row.job.size, row.job.mtime_ns) == (file.size, file.mtime_ns):
        return None
    job = row.job
    is_grown = file.size > job.size and time.time_ns() // 1_000_000 - (row.ended_ms or 0) < _GROWTH_MS
    if not (job.state is JobState.FAILED and job.is_closed) and not (job.state is JobState.DONE and is_grown):
        return None
    known = store.find_source(job.source, file.size, file.mtime_ns, options)
    if known is not None and not is_dropped_again(known.job, location):
        return None
    _log.info(log.JOB_REQUEUED, job=job.id, path=file.path, cause="its file has changed since its end")
    if known is not None:
        return _retry(known.job, file, store)
    again = new_job(job.source, file.size, file.mtime_ns, options, store.next_order())
    return JobArrived(replace(again, location=location))


def _retry(job: Job, file: SettledFile, store: Store) -> RetryRequested:
    """Return the event that retries a failed job with its file at the place where it was found."""
    options = replace(job.options, mount=os.fsencode(file.mount), output_mount=os.fsencode(file.output_mount))
    job = replace(job, location=os.fsencode(file.path), options=options)
    return RetryRequested(job=job, segments=store.segment_rows(job.id))


def is_dropped_again(job: Job, source: bytes) -> bool:
    """Return whether a file at `source` is that of a failed job, put into the inbox again."""
    return job.state is JobState.FAILED and job.is_closed and job.location != source


def new_job(source: bytes, size: int, mtime_ns: int, options: Options, order: int) -> Job:
    """Return the queued job of a file in an inbox."""
    return Job(
        id=new_job_id(order),
        state=JobState.QUEUED,
        source=source,
        location=source,
        size=size,
        mtime_ns=mtime_ns,
        options=options,
        order=order,
    )


def new_job_id(order: int) -> str:
    """Return the id of the job with this order: 16 hexadecimal digits, later ones sorting after earlier ones.

    The last five come from `order`, so that jobs of one millisecond differ.
    """
    return f"{time.time_ns() // 1_000_000:011x}{order & 0xFFFFF:05x}"


def inbox_options(inbox: schema.InboxConfig, models: Sequence[ConfiguredModel] = ()) -> Options:
    """Return the job options of an inbox; `models` are those that the configuration has."""
    choice = ModelChoice(inbox.model)
    if models:
        tasks = inbox.tasks or (inbox.task,)
        # A model that was removed by a reload since the file was found: the job fails with that reason.
        with suppress(ModelChoiceError):
            language = option_of(inbox.language)
            choice = choose_model(models, wanted=inbox.model, tasks=tasks, language=language)
    return options_of(
        inbox,
        choice,
        bom=inbox.bom,
        newline=inbox.newline,
        karaoke=inbox.karaoke,
        skip_existing=inbox.skip_existing,
        glossary_file=inbox.glossary,
        remove_hallucinations=inbox.remove_hallucinations,
        marks=inbox.marks,
        layout=layout_of(inbox),
        after=inbox.after,
        inbox=os.fsencode(Path(inbox.path).absolute()),
        include=inbox.include,
        exclude=inbox.exclude,
        output=os.fsencode(inbox.output),
    )
