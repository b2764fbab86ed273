"""Ends jobs: composes and names their files, writes them, archives the source.

Composing runs in one thread. Whatever touches a folder of the operator runs in a thread of that folder, so that neither fsync
nor a mount that hangs blocks the loop or other folders; the loop claims the names in the store.
`write_outputs` and `write_failure` may be repeated after a kill, with the same result.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from subtitled import log
from subtitled.config.model_choice import ConfiguredModel
from subtitled.config.schema import BESIDE, FORMATS, Format
from subtitled.core import events as ev
from subtitled.core.records import Job, Options
from subtitled.core.states import WITH_TRANSCRIPT
from subtitled.cues.render import RenderOptions, render
from subtitled.cues.text_formats import clock
from subtitled.cues.transcript import Transcript
from subtitled.errors import FileWriteError, LayoutError, NoSpaceError, StoreError, SubtitledError
from subtitled.files.atomic_files import (
    fitted,
    is_there,
    move_whole,
    printable,
    remove,
    sweep_temporaries,
    write_whole,
)
from subtitled.files.filesystem import (
    HUNG_S,
    find_renamed,
    is_mount_error,
    is_mounted,
    is_open_for_writing,
    wait_until_answers,
)
from subtitled.observability.transition_log import TransitionLog, job_report
from subtitled.output.layout_process import LayoutProcess, TranslationInput, TranslationPlan, source_name
from subtitled.output.paths import (
    ERROR_SUFFIX,
    archive,
    error_text,
    flag_tag,
    language_tag,
    output_folder,
    output_paths,
    write_error,
)
from subtitled.output.translation_inputs import translation_inputs
from subtitled.runtime.background import BackgroundPool, CallInLoop, FolderThread, FolderThreads
from subtitled.storage.rows import EditRow, JobRow, ResultRow
from subtitled.storage.store import Store

FAILED_FOLDER = "failed"
CLOSE_S = 5.0
_log = log.get()


class OutputJob(Struct, frozen=True, kw_only=True):
    """The files to write for one job."""

    job: Job
    transcript: Transcript
    paths: Mapping[Format, Path]
    """The file of each format."""
    more: tuple[tuple[Transcript, Mapping[Format, Path]], ...] = ()
    """Further transcripts of the same source, in other languages, with their files."""
    obsolete: tuple[Path, ...] = ()
    """Files of an earlier, failed attempt."""


class JobWriter:
    """Ends jobs; belongs to the thread of the server's loop, in which its results arrive."""

    def __init__(
        self,
        store: Store,
        reporter: TransitionLog,
        *,
        dispatch: Callable[[ev.Event], None],
        call_in_loop: CallInLoop,
        model: str,
    ) -> None:
        """Create it; `dispatch` receives the events of a job's end."""
        self._store = store
        self._reporter = reporter
        self._dispatch = dispatch
        self._model = model
        self._layouts = BackgroundPool("layout", call_in_loop)
        self._layout_process = LayoutProcess()
        # Apart, so that no transcript waits for the sentences of many jobs in many languages.
        self._text_layouts = BackgroundPool("text-layout", call_in_loop)
        self._text_layout_process = LayoutProcess()
        self._folders = FolderThreads("files", call_in_loop)
        """Threads by folder for subtitles, or by inbox if they are beside their source."""
        self._waits = FolderThreads("wait", call_in_loop)
        """Threads that wait for folders that do not answer; by the same, or by mount below."""
        self.waiting: list[Callable[[], None]] = []
        """Calls that write the files of jobs, which wait for disk space or for the lost database."""
        self._is_disk_full_logged = False
        self._rewriting: dict[str, bool] = {}
        """Jobs whose files are being written again; True: another version was saved since."""
        self.models: Callable[[], Sequence[ConfiguredModel]] = tuple
        """Returns the configured models."""
        self._retried: set[str] = set()
        """Jobs that were written once more, since a folder of theirs could not be reached."""

    @property
    def is_idle(self) -> bool:
        """Whether no file is being written."""
        return (
            self._layouts.is_idle
            and self._text_layouts.is_idle
            and self._folders.is_idle
            and self._waits.is_idle
        )

    @property
    def hung_s(self) -> dict[str, float]:
        """Seconds for which a folder has not answered, by its path, of those that do not answer."""
        return self._waits.busy_s(HUNG_S) | self._folders.busy_s(HUNG_S)

    def retry_waiting(self) -> None:
        """Write the jobs that wait for disk space or for the lost database."""
        waiting, self.waiting = self.waiting, []
        for write in waiting:
            write()

    def sweep(self, folders: Iterable[str]) -> None:
        """Remove temporary files that a killed daemon left in `folders`, then write the edits that it had not written."""
        for folder in folders:
            self._folders.of(folder).submit(partial(sweep_temporaries, folder))
        for job in self._store.edits_to_write():
            self.write_edited(job)

    def write_edited(self, job: str) -> None:
        """Write a done job's files again, from the newest version of its cues.

        Only files that the job still owns: none of them gets another name. An error is logged, and the files are written at the next
        edit or start of the daemon; without disk space, as soon as there is some.
        """
        row = self._store.find_job(job)
        if job in self._rewriting or row is None or row.job.state not in WITH_TRANSCRIPT:
            self._rewriting.update({job: True} if job in self._rewriting else {})
            return
        if self._store.is_lost:
            self.waiting.append(partial(self.write_edited, job))
            return
        edits = {task: edit for task in row.job.options.tasks if (edit := self._store.edit(job, task))}
        self._rewriting[job] = False
        if not self._store.outputs_of(job):
            self._on_rewritten(row.job, edits, ())
            return

        def work() -> tuple[Transcript, ...]:
            results = self._store.readers.get().results(job)
            return self._layout_process.compose_all(row, results, model=self._model, edits=edits)

        def composed(transcripts: tuple[Transcript, ...]) -> None:
            claimed = [Path(path) for path in self._store.outputs_of(job)]
            if self._store.find_job(job) is None:  # deleted meanwhile
                self._rewriting.pop(job, None)
                return
            if not claimed:  # a newer job of the same source has them now
                self._on_rewritten(row.job, edits, ())
                return
            files = [_files_of(row.job, made, claimed) for made in transcripts]
            written = _output_job(row.job, transcripts, files)
            paths = [path for its in files for path in its.values()]
            self._thread_of(row.job).run(
                partial(_write_files, written),
                lambda _: self._on_rewritten(row.job, edits, paths),
                partial(self._on_rewrite_error, row.job),
                FileWriteError,
            )

        self._layouts.run(work, composed, partial(self._on_rewrite_error, row.job), SubtitledError)

    def _on_rewritten(self, job: Job, edits: Mapping[str, EditRow], paths: Iterable[Path]) -> None:
        versions = {task: edit.version for task, edit in edits.items()}
        try:
            self._store.mark_edits_written(job.id, versions)
        except NoSpaceError as error:
            self._on_rewrite_error(job, error)
            return
        self._log_disk_ok()
        outputs = tuple(map(printable, paths))
        _log.info(log.JOB_EDITED, job=job.id, version=max(versions.values(), default=0), outputs=outputs)
        if self._rewriting.pop(job.id, False):
            self.write_edited(job.id)

    def _on_rewrite_error(self, job: Job, error: SubtitledError) -> None:
        is_again = self._rewriting.pop(job.id, False)
        if _is_no_space(error):
            self._wait_for_space(error, partial(self.write_edited, job.id))
            return
        _log.warning(log.JOB_EDIT_UNWRITTEN, job=job.id, cause=str(error))
        if is_again:
            self.write_edited(job.id)

    def plan_translations(self, job: Job, number: int) -> None:
        """Read the sentences of a job that have no stored translation; dispatches TranslationsPlanned.

        If that fails, the event has the cause.
        """

        def work() -> tuple[TranslationPlan, ...]:
            row, results, edits = self._read(job.id)
            inputs = self._inputs(row)
            return (
                self._text_layout_process.plan_translations(
                    row, results, inputs, model=self._model, edits=edits
                )
                if inputs
                else ()
            )

        def planned(plans: tuple[TranslationPlan, ...]) -> None:
            texts = tuple(text for plan in plans for text in plan.texts)
            keys = tuple((plan.target, plan.keys) for plan in plans)
            self._dispatch(ev.TranslationsPlanned(job=job.id, number=number, texts=texts, keys=keys))

        def failed(error: SubtitledError) -> None:
            _log.warning(log.JOB_TRANSLATION_UNWRITTEN, job=job.id, cause=str(error))
            self._dispatch(ev.TranslationsPlanned(job=job.id, number=number, texts=(), cause=str(error)))

        self._text_layouts.run(work, planned, failed, SubtitledError)

    def write_translations(self, job: Job, number: int) -> None:
        """Write a job's subtitles in other languages; dispatches TranslationsWritten.

        An error is logged, and they are written when the job is translated again; without disk space, as soon as there is some,
        and after a fault of a mount once its folders answer.
        """
        write_again = partial(self.write_translations, job, number)

        def ended() -> None:
            self._retried.discard(job.id)
            self._dispatch(ev.TranslationsWritten(job=job.id, number=number))

        def failed(error: SubtitledError) -> None:
            if _is_no_space(error):
                self._wait_for_space(error, write_again)
                return
            if is_mount_error(error) and job.id not in self._retried:
                self._wait_for_folders(job, write_again)
                return
            _log.warning(log.JOB_TRANSLATION_UNWRITTEN, job=job.id, cause=str(error))
            ended()

        if self._store.is_lost:
            self.waiting.append(write_again)
            return
        if not job.options.output:  # the client fetches the result
            ended()
            return
        ours = frozenset(Path(os.fsdecode(path)) for path in self._store.outputs_of_source(job.source))

        def work() -> tuple[Transcript, ...]:
            row, results, edits = self._read(job.id)
            inputs = self._inputs(row)
            if job.options.is_bilingual:
                inputs = tuple(replace(each, is_bilingual=both) for each in inputs for both in (False, True))
            return (
                self._text_layout_process.compose_translations(
                    row, results, inputs, model=self._model, edits=edits
                )
                if inputs
                else ()
            )

        def composed(transcripts: tuple[Transcript, ...]) -> None:
            if not transcripts:
                ended()
                return
            self._name_translations(job, transcripts, ours, frozenset(), ended, failed)

        self._text_layouts.run(work, composed, failed, SubtitledError)

    def _name_translations(
        self,
        job: Job,
        transcripts: tuple[Transcript, ...],
        ours: frozenset[Path],
        taken: frozenset[Path],
        ended: Callable[[], None],
        failed: Callable[[SubtitledError], None],
    ) -> None:
        """Find free names for translations in the folder's thread, claim them, and write the files."""
        thread = self._thread_of(job)

        def named(names: _Names) -> None:
            paths = [path for each in names.paths for path in each.values()]
            if others := {path for path in paths if self._is_of_another(job, path)}:
                self._name_translations(job, transcripts, ours, taken | others, ended, failed)
                return
            try:
                self._store.claim_outputs(job, [os.fsencode(path) for path in paths])
            except NoSpaceError as error:
                failed(error)
                return
            work = _output_job(job, transcripts, names.paths)
            thread.run(partial(_write_files, work), written, failed, FileWriteError)

        def written(_: None) -> None:
            self._log_disk_ok()
            ended()

        thread.run(
            partial(_named, job, transcripts, ours, taken, is_failure=False, may_follow=False),
            named,
            failed,
            FileWriteError,
        )

    def _inputs(self, row: JobRow) -> tuple[TranslationInput, ...]:
        """Return what the translations of a job are made of, without those that were cancelled; for a thread."""
        inputs = translation_inputs(row, self._store.readers.get(), self.models())
        return tuple(each for each in inputs if each.target in row.job.active_languages)

    def _read(self, job: str) -> tuple[JobRow, list[ResultRow], dict[str, EditRow]]:
        """Return the rows of a job, and the newest versions of its cues; for a thread. Raises StoreError."""
        reader = self._store.readers.get()
        row = reader.find_job(job)
        if row is None:
            raise StoreError(f"database: job {job} is gone")
        edits = {task: edit for task in row.job.options.tasks if (edit := reader.edit(job, task))}
        return row, reader.results(job), edits

    def remove_error_texts(self, job: Job) -> None:
        """Remove the error texts of earlier jobs of this source, which is processed again; in its folder's thread."""
        if not job.options.output:
            return
        earlier = [Path(os.fsdecode(path)) for path in self._store.outputs_of_source(job.source)]
        stale = [path for path in earlier if path.name.endswith(ERROR_SUFFIX)]
        if stale:
            self._thread_of(job).submit(partial(_remove_all, stale))

    def _thread_of(self, job: Job) -> FolderThread:
        output, inbox = os.fsdecode(job.options.output), os.fsdecode(job.options.inbox)
        return self._folders.of(inbox if output == BESIDE else output)

    def close(self) -> None:
        """Wait at most `CLOSE_S` for what is being written; it and a layout in progress are repeated after the next start."""
        for layout_process, pool in (
            (self._layout_process, self._layouts),
            (self._text_layout_process, self._text_layouts),
        ):
            layout_process.close()
            pool.pool.shutdown(cancel_futures=True)
        deadline = time.monotonic() + CLOSE_S
        for threads in (self._folders, self._waits):
            threads.close(deadline - time.monotonic())

    def finish(self, job: Job, *, is_failure: bool) -> None:
        """Write a job's files; dispatches OutputsWritten, FailureWritten or WriteFailed.

        While the database is lost the job waits: its end could not be stored, and its source must not be moved.
        """
        if self._store.is_lost:
            self.waiting.append(partial(self.finish, job, is_failure=is_failure))
            return
        row = self._store.find_job(job.id)
        if row is None:
            raise StoreError(f"database: job {job.id} is gone")
        try:
            results = self._store.results(job.id)
        except StoreError as error:  # the results of this job are damaged
            self._on_layout_error(row, LayoutError(str(error)), is_failure=is_failure)
            return
        self._layouts.run(
            partial(self._layout_process.compose_all, row, results, model=self._model),
            partial(self._write, row, is_failure=is_failure),
            partial(self._on_layout_error, row, is_failure=is_failure),
            LayoutError,
        )

    def _on_layout_error(self, row: JobRow, error: LayoutError, *, is_failure: bool) -> None:
        """Fail a job that cannot be composed; one that has failed already ends without partial subtitles."""
        job = row.job
        _log.error(log.JOB_FAILED, job=job.id, cause=f"its transcript cannot be composed: {error}")
        if not is_failure:
            self._dispatch(ev.WriteFailed(job.id, str(error)))
            return
        empty = Transcript(
            source=source_name(job),
            duration_ms=0,
            task=job.options.task,
            model=job.options.model or self._model,
        )
        self._write(row, (empty,), is_failure=True)

    def _write(self, row: JobRow, transcripts: tuple[Transcript, ...], *, is_failure: bool) -> None:
        job, transcript = row.job, transcripts[0]
        self._reporter.jobs[job.id] = job_report(row, transcript, now_ms=time.time_ns() // 1_000_000)
        ended = (
            ev.FailureWritten if is_failure else partial(ev.OutputsWritten, unheard=len(transcript.unheard))
        )
        if not job.options.output:  # the client fetches the result
            self._ended(ended(job.id, job.location))
            return
        self._name(row.job, transcripts, frozenset(), is_failure=is_failure)

    def _name(
        self,
        job: Job,
        transcripts: tuple[Transcript, ...],
        taken: frozenset[Path],
        *,
        is_failure: bool,
    ) -> None:
        """Find free names in the folder's thread, then claim them; `taken` are those of other sources."""
        ours = frozenset(Path(os.fsdecode(path)) for path in self._store.outputs_of_source(job.source))
        thread = self._thread_of(job)
        may_follow = _may_follow(job, is_repeated=bool(self._store.outputs_of(job.id)))
        thread.run(
            partial(
                _named,
                job,
                transcripts,
                ours,
                taken,
                is_failure=is_failure,
                may_follow=may_follow,
            ),
            partial(
                self._claim, job, transcripts, taken, thread, is_failure=is_failure, may_follow=may_follow
            ),
            partial(self._on_error, job, is_failure=is_failure),
            FileWriteError,
        )

    def _claim(
        self,
        job: Job,
        transcripts: tuple[Transcript, ...],
        taken: frozenset[Path],
        thread: FolderThread,
        named: _Names,
        *,
        is_failure: bool,
        may_follow: bool,
    ) -> None:
        if named.renamed:
            self._follow(job, named.renamed, is_failure=is_failure)
            return
        claimed = [path for paths in named.paths for path in paths.values()]
        if others := {path for path in claimed if self._is_of_another(job, path)}:
            self._name(job, transcripts, taken | others, is_failure=is_failure)
            return
        if is_failure:
            claimed = [*(claimed if transcripts[0].cues else ()), named.error]
        obsolete = [Path(path) for path in self._store.outputs_of(job.id) if Path(path) not in claimed]
        if not is_failure:
            # The error text of an earlier file of this name, which failed.
            earlier = map(Path, map(os.fsdecode, self._store.outputs_of_source(job.source)))
            obsolete += [p for p in earlier if p.name.endswith(ERROR_SUFFIX) and p not in obsolete]
        try:
            self._store.claim_outputs(job, [os.fsencode(path) for path in (*claimed, *obsolete)])
        except NoSpaceError as error:
            self._wait_for_space(error, partial(self.finish, job, is_failure=is_failure))
            return
        work = _output_job(job, transcripts, named.paths, obsolete)
        ended = (
            ev.FailureWritten
            if is_failure
            else partial(ev.OutputsWritten, unheard=len(work.transcript.unheard))
        )
        is_retried = job.id in self._retried

        def write() -> tuple[bytes, bytes]:
            """Return where the source is, and its new path if it was renamed meanwhile."""
            # Before the source is moved: a power cut must not leave a moved file with a job that lacks its results.
            self._store.sync()
            if self._store.is_lost:
                raise FileWriteError("the database was deleted or replaced")
            _check_mounts(job)
            try:
                if is_failure:
                    location = write_failure(work, named.error.parent, is_last=is_retried)
                else:
                    with self._reporter.stage("write"):
                        location = write_outputs(work)
            except FileWriteError:
                # If its files are there, this job may have deleted the source itself.
                is_written = job.options.after == "delete" and all(map(is_there, claimed))
                if may_follow and not is_written and (renamed := _renamed(job)):
                    return job.location, renamed
                raise
            is_in_place = location == job.location and job.options.after != "delete"
            return location, _renamed(job) if may_follow and is_in_place else b""

        def written(result: tuple[bytes, bytes]) -> None:
            location, renamed = result
            if renamed:
                self._follow(job, renamed, is_failure=is_failure)
                return
            summary = self._reporter.jobs.get(job.id)
            if summary is not None:
                outputs = tuple(map(str, claimed))
                self._reporter.jobs[job.id] = replace(summary, outputs=outputs)
            if obsolete and not is_failure:
                with contextlib.suppress(NoSpaceError):  # `status` still names the removed files
                    self._store.release_outputs(job, [os.fsencode(path) for path in obsolete])
            self._ended(ended(job.id, location))

        thread.run(write, written, partial(self._on_error, job, is_failure=is_failure), FileWriteError)

    def _follow(self, job: Job, source: bytes, *, is_failure: bool) -> None:
        """Write the files of a job for the new path of its source."""
        other = self._store.find_source(source, job.size, job.mtime_ns, job.options)
        if other is not None and other.job.id != job.id:
            cause = f"its file was renamed and is now job {other.job.id}"
            self._dispatch(
                ev.FailureWritten(job.id, job.location) if is_failure else ev.WriteFailed(job.id, cause)
            )
            return
        before, path = (printable(os.fsdecode(name)) for name in (job.source, source))
        _log.info(log.JOB_RENAMED, job=job.id, path=path, before=before)
        self._dispatch(ev.SourceRenamed(job.id, source))
        self.finish(job, is_failure=is_failure)

    def _ended(self, event: ev.OutputsWritten | ev.FailureWritten) -> None:
        self._retried.discard(event.job)
        self._log_disk_ok()
        self._dispatch(event)

    def _log_disk_ok(self) -> None:
        """Log that the disk has space again, once no job waits for it."""
        if self._is_disk_full_logged and not self.waiting:
            self._is_disk_full_logged = False
            _log.info(log.DISK_OK)

    def _is_of_another(self, job: Job, path: Path) -> bool:
        return self._store.source_of_output(os.fsencode(path)) not in {None, job.source}

    def _on_error(self, job: Job, error: FileWriteError, *, is_failure: bool) -> None:
        write_again = partial(self.finish, job, is_failure=is_failure)
        if self._store.is_lost:
            self.waiting.append(write_again)
        elif is_disk_full(error):
            self._wait_for_space(error, write_again)
        elif is_mount_error(error) and job.id not in self._retried:
            self._wait_for_folders(job, write_again)
            return
        elif is_failure:
            _log.error(log.JOB_FAILED, job=job.id, cause=f"its error text cannot be written: {error}")
            self._dispatch(ev.FailureWritten(job.id, job.location))
        else:
            self._dispatch(ev.WriteFailed(job.id, str(error)))

    def _wait_for_folders(self, job: Job, write: Callable[[], None]) -> None:
        """Keep a job in its state until its folders answer, each in its own thread, and call `write` then.

        If they answer at once, it is written once more, and not a third time.
        """
        places = _places_of(job)
        # Not in the root's own thread: a mount below it holds up no other files.
        below = {
            root: mount for root, (_, mount) in places.items() if mount.startswith(os.fsencode(root) + b"/")
        }
        waiting = set(places)
        total_waited = False

        def answered(folder: str, is_at_once: bool) -> None:
            nonlocal total_waited
            waiting.discard(folder)
            total_waited |= not is_at_once
            if waiting:
                return
            if not total_waited:
                self._retried.add(job.id)
            write()

        def root_answered(root: str, is_at_once: bool) -> None:
            mount = below.get(root, b"")
            self._waits.of(os.fsdecode(mount) or root).run(
                partial(wait_until_answers, places[root][0], mount),
                lambda is_rest_at_once: answered(root, is_at_once and is_rest_at_once),
            )

        for root, (_, mount) in places.items():
            own = b"" if root in below else mount
            self._folders.of(root).run(partial(wait_until_answers, [root], own), partial(root_answered, root))

    def _wait_for_space(self, error: SubtitledError, write: Callable[[], None]) -> None:
        """Keep a job in its state, and call `write` when there is space again."""
        if not self._is_disk_full_logged:
            _log.warning(log.DISK_FULL, cause=str(error))
        self._is_disk_full_logged = True
        self.waiting.append(write)


class _Names(Struct, frozen=True):
    paths: list[dict[Format, Path]]
    """The file of each format of each transcript; none if the source has subtitles already."""
    error: Path
    """The error text of a failed job."""
    renamed: bytes = b""
    """Where the source is now, if it was renamed: the names are void."""


def _named(
    job: Job,
    transcripts: tuple[Transcript, ...],
    ours: frozenset[Path],
    taken: frozenset[Path],
    *,
    is_failure: bool,
    may_follow: bool,
) -> _Names:
    """Return names that are free: nothing is there, or a file of the same source; and not in `taken`. Blocks.

    `may_follow`: whether a source that is gone may have been renamed.
    """
    _check_mounts(job)
    if may_follow and (renamed := _renamed(job)):
        return _Names([], Path(), renamed)
    folder = output_folder(
        os.fsdecode(job.options.inbox), os.fsdecode(job.source), os.fsdecode(job.options.output)
    )

    def is_free(path: Path) -> bool:
        return path not in taken and (path in ours or not is_there(path))

    paths: list[dict[Format, Path]] = []
    for transcript in () if job.is_already_subtitled else transcripts:
        found = output_paths(
            folder,
            os.fsdecode(job.source),
            transcript.output_language,
            job.options.formats,
            is_free,
            flags=job.options.flags,
            is_partial=is_failure,
            is_bilingual=transcript.is_bilingual,
        )
        paths.append({form: found[form] for form in FORMATS if form in found})
    return _Names(paths or [{} for _ in transcripts], error_path(job, error_folder(job, folder)))


def _files_of(job: Job, transcript: Transcript, claimed: Iterable[Path]) -> dict[Format, Path]:
    """Return the file of each format that was written for a transcript, of those that its job owns."""
    tag = language_tag(transcript.output_language, is_bilingual=transcript.is_bilingual)
    tag += flag_tag(job.options.flags)
    forms: dict[str, Format] = {form: form for form in FORMATS if form in job.options.formats}
    # The name of a transcript without language has no tag, so that those of the translations end like it.
    others = (
        [language_tag(target) for target in job.translate_to] if transcript.output_language is None else []
    )
    translated = "|".join(re.escape(other + flag_tag(job.options.flags)) for other in others) or "(?!)"
    return {
        form: path
        for path in claimed
        if (form := forms.get(path.suffix[1:]))
        and re.search(rf"{re.escape(tag)}(\.\d+)?$", path.stem)
        and not re.search(rf"({translated})(\.\d+)?$", path.stem)
    }


def _places_of(job: Job) -> dict[str, tuple[list[str], bytes]]:
    """Return the folders that the end of a job needs, and their mount, by the root above them."""
    output, inbox = os.fsdecode(job.options.output), os.fsdecode(job.options.inbox)
    source = os.fsdecode(job.source)
    folder = output_folder(inbox, source, output)
    below = Path(source).relative_to(inbox).parent
    archives = (str(Path(inbox, name, below)) for name in ("done", FAILED_FOLDER))
    places = {inbox: ([str(Path(source).parent), *archives], job.options.mount)}
    if output != BESIDE:
        if job.options.after == "keep":
            places.clear()
        places[output] = ([str(folder)], job.options.output_mount)
    return places


def _check_mounts(job: Job) -> None:
    """Raise FileWriteError if a mount is gone that the end of a job needs: its files would be written into the mount point."""
    for _, mount in _places_of(job).values():
        if not is_mounted(os.fsdecode(mount)):
            error = OSError(errno.ENODEV, "not mounted")
            raise FileWriteError(f"{printable(os.fsdecode(mount))} is not mounted") from error


def _may_follow(job: Job, *, is_repeated: bool) -> bool:
    """Return whether a source that is gone may have been renamed; an earlier attempt may have moved or deleted it itself.

    Another file of the same size and time would be taken for it.
    """
    return job.options.after == "keep" or not is_repeated


def _renamed(job: Job) -> bytes:
    """Return the new path of a job's source that was renamed within its inbox; b"" if it is in place, or gone. Blocks."""
    inbox = os.fsdecode(job.options.inbox)
    if not inbox or job.location != job.source or is_there(os.fsdecode(job.location)):
        return b""
    options = job.options
    found = find_renamed(inbox, job.size, job.mtime_ns, include=options.include, exclude=options.exclude)
    return os.fsencode(found or b"")


def _remove_all(paths: Iterable[Path]) -> None:
    for path in paths:
        with contextlib.suppress(FileWriteError):
            remove(path)


def write_outputs(work: OutputJob) -> bytes:
    """Write the subtitles of a finished job and archive its source; return the source's location.

    Blocks for fsync. Raises FileWriteError if a file cannot be written, and leaves no partial file.
    """
    _write_files(work)
    for path in work.obsolete:
        remove(path)
    job = work.job
    match job.options.after:
        case "move":
            return _archived(job, "done")
        case "delete" if (
            _is_unchanged(job) and not job.is_already_subtitled and not _is_being_written(job)
        ):  # the source may contain the only subtitles
            remove(os.fsdecode(job.location))
    return job.location


def write_failure(work: OutputJob, folder: Path, *, is_last: bool = True) -> bytes:
    """Write the error text of a failed job to `folder`, with partial subtitles if any; archive its source.

    Returns the source's location. Blocks for fsync. Raises FileWriteError if the error text cannot be written or the disk is full;
    the source stays in place then; also, unless `is_last`, if their mount has lost its server. If partial subtitles cannot be
    written for another reason, for example into a read-only folder, the error text contains it.
    """
    job = work.job
    text = _failure_text(work)
    if work.transcript.cues:
        try:
            _write_files(work)
        except FileWriteError as error:
            if is_disk_full(error) or (is_mount_error(error) and not is_last):
                raise
            text += f"\nThe finished part could not be written: {error}\n"
    _check_folder(job, folder / "_")
    write_error(folder, Path(os.fsdecode(job.source)).name, text, root=_root(job, folder))
    return job.location if job.options.after == "keep" else _archived(job, "failed")


def render_options(options: Options) -> RenderOptions:
    """Return the encoding details of a job's files."""
    newline: Literal["lf", "crlf"] = "crlf" if options.newline == "crlf" else "lf"
    return RenderOptions(bom=options.bom, newline=newline, karaoke=options.karaoke)


def _output_job(
    job: Job,
    transcripts: Sequence[Transcript],
    paths: Sequence[Mapping[Format, Path]],
    obsolete: Iterable[Path] = (),
) -> OutputJob:
    """Return what is written for the transcripts of a job, given the files of each."""
    (first, its_paths), *more = zip(transcripts, paths, strict=True)
    return OutputJob(job=job, transcript=first, paths=its_paths, more=tuple(more), obsolete=tuple(obsolete))


def is_disk_full(error: FileWriteError) -> bool:
    """Return whether the error is a full disk or quota, so that a later attempt may succeed."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in {errno.ENOSPC, errno.EDQUOT}


def _is_no_space(error: SubtitledError) -> bool:
    """Return whether files or the database cannot be written for want of space."""
    return isinstance(error, NoSpaceError) or (isinstance(error, FileWriteError) and is_disk_full(error))


def error_folder(job: Job, output_folder: Path) -> Path:
    """Return the folder of NAME.error.txt: that of the archived source, or of the subtitles."""
    if job.options.after == "keep" or not job.options.inbox:
        return output_folder
    inbox, source = Path(os.fsdecode(job.options.inbox)), Path(os.fsdecode(job.source))
    return inbox / FAILED_FOLDER / source.parent.relative_to(inbox)


def error_path(job: Job, folder: Path) -> Path:
    """Return the path of a failed job's error text in `folder`."""
    return folder / fitted(Path(os.fsdecode(job.source)).name, ERROR_SUFFIX)


def _write_files(work: OutputJob) -> None:
    _check_mounts(work.job)
    options = render_options(work.job.options)
    for transcript, paths in ((work.transcript, work.paths), *work.more):
        for form, path in paths.items():
            _check_folder(work.job, path)
            write_whole(path, render(form, transcript, options), root=_root(work.job, path))


def _check_folder(job: Job, path: Path) -> None:
    """Raise FileWriteError if `path` is beside a source whose folder is gone, and is not created again, or cannot be reached."""
    if os.fsdecode(job.options.output) == BESIDE and path.parent == Path(os.fsdecode(job.source)).parent:
        try:
            path.parent.stat()
        except OSError as error:
            is_gone = isinstance(error, FileNotFoundError)
            cause = (
                "its folder is gone; submit the file again" if is_gone else f"its folder: {error.strerror}"
            )
            raise FileWriteError(f"{printable(path)} cannot be written: {cause}") from error


def _failure_text(work: OutputJob) -> str:
    job = work.job
    remedy = (
        f"check that the file plays, then drop it again, or type: subtitle retry {job.id}\n"
        "The finished part is kept and is not transcribed again."
    )
    text = error_text(job.id, os.fsdecode(job.source), job.cause, remedy)
    for heading, spans in (
        ("Missing speech", work.transcript.missing),
        ("Speech without text", work.transcript.unheard),
    ):
        if spans:
            rows = (f"  {clock(gap.start_ms, '.')} - {clock(gap.end_ms, '.')}  {gap.cause}" for gap in spans)
            text += f"\n{heading}:\n" + "\n".join(rows) + "\n"
    return text


def _archived(job: Job, outcome: Literal["done", "failed"]) -> bytes:
    """Move the source to the archive, unless it is not the accepted file any more; return its location."""
    if not job.options.inbox or not _is_unchanged(job):
        return job.location
    source, inbox = os.fsdecode(job.source), os.fsdecode(job.options.inbox)
    location = os.fsdecode(job.location)
    if Path(location).is_relative_to(Path(inbox, outcome)) or _is_being_written(job):
        return job.location
    try:
        if location == source:
            return os.fsencode(archive(source, inbox, outcome))
        if outcome == "failed":
            return job.location
        # A retried job: its source is in failed/, and its place in done/ is the usual one.
        return os.fsencode(
            move_whole(location, Path(inbox, outcome, Path(source).relative_to(inbox)), root=inbox)
        )
    except FileNotFoundError:
        return job.location
    except FileWriteError as error:
        if is_mount_error(error) or is_there(location):
            raise
        return job.location


def _is_being_written(job: Job) -> bool:
    """Return whether a process has the source open for writing; it stays in place then, and is taken again if it changes."""
    path = os.fsdecode(job.location)
    if not is_open_for_writing(path):
        return False
    _log.warning(log.JOB_SOURCE_KEPT, job=job.id, path=printable(path), cause="it is open for writing")
    return True


def _root(job: Job, path: Path) -> str | None:
    """Return the configured folder that no symbolic link in `path` may lead out of."""
    inbox, output = os.fsdecode(job.options.inbox), os.fsdecode(job.options.output)
    if not inbox:
        return None
    return inbox if output == BESIDE or path.is_relative_to(inbox) else output


def _is_unchanged(job: Job) -> bool:
    """Return whether the source is in place, with the size and time it was accepted with.

    Raises FileWriteError if its mount has gone.
    """
    try:
        found = os.stat(job.location)  # noqa: PTH116 - the path is bytes
    except OSError as error:
        if is_mount_error(error):
            path = printable(os.fsdecode(job.location))
            raise FileWriteError(f"{path} cannot be moved: {error.strerror}") from error
        return False
    return (found.st_size, found.st_mtime_ns) == (job.size, job.mtime_ns)
