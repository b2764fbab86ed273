"""Finished and failed jobs on their last way: composed, named, written, archived.

Composing and writing run in one small thread, so that no fsync holds up the loop; naming needs the store and is done here.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from subtitled import log
from subtitled.config.schema import FORMATS, Format
from subtitled.core import events as ev
from subtitled.core.records import Job
from subtitled.cues.transcript import Transcript
from subtitled.errors import NoSpaceError, SpoolError, StoreError, SubtitledError
from subtitled.files.atomic_files import is_there, sweep_temporaries
from subtitled.observability.transition_log import TransitionLog, job_report
from subtitled.output import finish
from subtitled.output.layout_process import LayoutProcess
from subtitled.output.paths import output_folder, output_paths
from subtitled.runtime.background import BackgroundPool
from subtitled.storage.rows import JobRow
from subtitled.storage.store import Store

_log = log.get()


class JobWriter:
    """Ends jobs; belongs to the thread of the server's loop, to which its results come back."""

    def __init__(
        self,
        store: Store,
        reporter: TransitionLog,
        *,
        happen: Callable[[ev.Event], None],
        call_back: Callable[[Callable[[], None]], None],
        model: str,
    ) -> None:
        """Make one for a server; `call_back`, called in the file thread, has a function called in the loop's."""
        self._store = store
        self._reporter = reporter
        self._happen = happen
        self._model = model
        self._files = BackgroundPool("files", call_back)
        self._composer = LayoutProcess()
        self.waiting: list[tuple[Job, bool]] = []
        """Jobs whose files found no space."""
        self._is_told = False

    @property
    def is_at_rest(self) -> bool:
        """Nothing is being written."""
        return self._files.is_idle

    def try_waiting(self) -> None:
        """Write what found no space before."""
        waiting, self.waiting = self.waiting, []
        for job, is_failure in waiting:
            self.finish(job, is_failure=is_failure)

    def _written(self, event: ev.Event) -> None:
        if self._is_told and not self.waiting:
            self._is_told = False
            _log.info(log.DISK_OK)
        self._happen(event)

    def sweep(self, folders: Iterable[str]) -> None:
        """Remove, before anything is written, what a daemon that was killed left half-written in `folders`."""
        for folder in folders:
            self._files.submit(partial(sweep_temporaries, folder))

    def close(self) -> None:
        """Wait for what is being written."""
        self._files.close()
        self._composer.close()

    def finish(self, job: Job, *, is_failure: bool) -> None:
        """Write a job's files; ends in Written, Closed or WriteFailed."""
        row = self._store.find_job(job.id)
        if row is None:
            raise StoreError(f"database: job {job.id} is gone")
        compose_it = partial(self._composer.compose_all, row, self._store.results(job.id), model=self._model)

        def composed(transcripts: tuple[Transcript, ...]) -> None:
            self._write(row, transcripts, is_failure=is_failure)

        failed = partial(self._finish_failed, job, is_failure=is_failure)
        self._files.run(compose_it, composed, failed, SpoolError)

    def _write(self, row: JobRow, transcripts: tuple[Transcript, ...], *, is_failure: bool) -> None:
        job, transcript = row.job, transcripts[0]
        self._reporter.jobs[job.id] = job_report(row, transcript, now_ms=time.time_ns() // 1_000_000)
        if not job.options.output:  # whoever submitted the file fetches what there is
            ended = ev.Closed if is_failure else ev.Written
            self._written(ended(job.id, job.location))
            return
        source = os.fsdecode(job.source)
        inbox = os.fsdecode(job.options.inbox)
        folder = output_folder(inbox, source, os.fsdecode(job.options.output))
        paths = [self._paths(job, folder, one, is_failure=is_failure) for one in transcripts]
        error_folder = finish.error_folder(job, folder)
        claimed = [path for named in paths for path in named.values()]
        if is_failure and not transcript.cues:
            claimed = []
        if is_failure:
            claimed.append(finish.error_path(job, error_folder))
        obsolete = [Path(path) for path in self._store.outputs_of(job.id) if Path(path) not in claimed]
        try:
            self._store.claim_outputs(job, [os.fsencode(path) for path in claimed])
        except NoSpaceError as error:
            self._wait_for_space(job, error, is_failure=is_failure)
            return
        more = tuple(zip(transcripts[1:], paths[1:], strict=True))
        work = finish.OutputJob(
            job=job, transcript=transcript, paths=paths[0], more=more, obsolete=tuple(obsolete)
        )
        failed = partial(self._finish_failed, job, is_failure=is_failure)
        if is_failure:
            self._files.run(
                partial(finish.write_failure, work, error_folder),
                lambda location: self._written(ev.Closed(job.id, location)),
                failed,
                SpoolError,
            )
        else:

            def write() -> bytes:
                with self._reporter.stage("write"):
                    return finish.write_outputs(work)

            def written(location: bytes) -> None:
                if obsolete:
                    with contextlib.suppress(
                        NoSpaceError
                    ):  # `status` names files that are gone; no more than that
                        self._store.release_outputs(job, [os.fsencode(path) for path in obsolete])
                self._written(ev.Written(job.id, location))

            self._files.run(write, written, failed, SpoolError)

    def _paths(
        self, job: Job, folder: Path, transcript: Transcript, *, is_failure: bool
    ) -> dict[Format, Path]:
        """Return the file of each format of one transcript; none where the job is needless."""
        if job.is_needless:
            return {}
        named = output_paths(
            folder,
            os.fsdecode(job.source),
            transcript.output_language,
            job.options.formats,
            partial(self._is_mine, job.source),
            flags=job.options.flags,
            is_partial=is_failure,
        )
        return {form: named[form] for form in FORMATS if form in named}

    def _is_mine(self, source: bytes, path: Path) -> bool:
        owner = self._store.source_of_output(os.fsencode(path))
        return owner == source if owner is not None else not is_there(path)

    def _finish_failed(self, job: Job, error: SpoolError, *, is_failure: bool) -> None:
        if finish.is_disk_full(error):
            self._wait_for_space(job, error, is_failure=is_failure)
        elif is_failure:
            _log.error(log.JOB_FAILED, job=job.id, cause=f"its error text cannot be written: {error}")
            self._happen(ev.Closed(job.id, job.location))
        else:
            self._happen(ev.WriteFailed(job.id, str(error)))

    def _wait_for_space(self, job: Job, error: SubtitledError, *, is_failure: bool) -> None:
        """Leave a job in its state; it is written once there is space again."""
        if not self._is_told:
            _log.warning(log.DISK_FULL, cause=str(error))
        self._is_told = True
        self.waiting.append((job, is_failure))
