"""What would happen to a file, and why: looked up, nothing done."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Self

from msgspec import Struct

from subtitled.asr.dual_task import ENGLISH
from subtitled.config import schema
from subtitled.core.records import Job, Options
from subtitled.core.states import JobState
from subtitled.errors import MediaError, StoreError
from subtitled.files.atomic_files import printable
from subtitled.inboxes.arrivals import options_of
from subtitled.inboxes.file_filter import FileFilter, absolute
from subtitled.media.existing_subtitles import MediaTracks, beside, language_of, look_into, unless_of, verdict
from subtitled.output.paths import output_folder, output_paths
from subtitled.storage.queries import SELECT_JOB
from subtitled.storage.rows import JobRow, job_row

UNKNOWN = "LANGUAGE"
"""Stands in a name for a language that only the audio tells."""


class Explanation(Struct, frozen=True, kw_only=True):
    """What would happen to a file that lay where it lies now."""

    path: str
    is_taken: bool
    """It would become a job."""
    cause: str
    """The rule that says so."""
    inbox: str = ""
    """The inbox that it lies in."""
    job: str = ""
    """The job that this very file was before."""
    job_state: str = ""
    job_cause: str = ""
    existing: tuple[str, ...] = ()
    """Subtitles that it has already, with their languages."""
    needless: str = ""
    """Why no subtitles of ours would be written all the same."""
    unreadable: str = ""
    """Why its tracks cannot be looked at, where that matters."""
    outputs: tuple[str, ...] = ()
    """What would be written; LANGUAGE stands for one that only the audio tells."""
    then: str = ""
    """What would become of the source."""


def explain(path: str, configuration: schema.Config) -> Explanation:
    """Return what would happen to the file at `path`; raises StoreError where the database cannot be read."""
    found = absolute(path)
    admission = FileFilter(configuration.inbox)
    admitted = admission.judge(found)
    if admitted.inbox is None:
        return Explanation(path=printable(found), is_taken=False, cause=admitted.cause)
    inbox = configuration.inbox[admitted.inbox]
    if not admitted.accepted:
        return Explanation(
            path=printable(found), is_taken=False, cause=admitted.cause, inbox=printable(inbox.path)
        )
    return _explain_media(found, inbox, admitted.cause, Path(configuration.state.dir, "subtitled.sqlite"))


def told(found: Explanation) -> str:
    """Return an explanation for people."""
    rows = [
        ("inbox", found.inbox or "none"),
        ("taken", f"{'yes' if found.is_taken else 'no'}: {found.cause}"),
        ("before", " ".join(filter(None, (found.job, found.job_state, found.job_cause)))),
        ("has", ", ".join(found.existing)),
        ("tracks", found.unreadable),
        ("needless", found.needless),
        *(("writes", output) for output in found.outputs),
        ("source", found.then),
    ]
    return "\n".join([found.path, *(f"  {name:9} {text}" for name, text in rows if text)])


def _explain_media(path: str, inbox: schema.InboxConfig, cause: str, database: Path) -> Explanation:
    options = options_of(inbox)
    info = Path(path).stat()
    source = os.fsencode(path)
    with _Past(database) as past:
        known = past.job_of(source, info.st_size, info.st_mtime_ns, options)
        job = _job(source, info, options)
        unless = unless_of(job, past.outputs_of_source)
        contents, unreadable = _contents(path) if unless else (MediaTracks(), "")
        files = beside(unless) if unless else ()
        needless = verdict(contents, files, unless) if unless else ""
        outputs = () if needless else _outputs(path, options, past)
    is_again = known is not None and not _is_retried(known.job, source)
    if known is not None:
        cause = (
            f"this very file was job {known.job.id} already; touch it to have it done again"
            if is_again
            else f"job {known.job.id} failed, and is tried again when its file is put into the inbox again"
        )
    return Explanation(
        path=printable(path),
        is_taken=not is_again,
        cause=cause,
        inbox=printable(inbox.path),
        job=known.job.id if known else "",
        job_state=known.job.state.value if known else "",
        job_cause=known.job.cause if known else "",
        existing=tuple(
            f"{one.name} ({one.language or 'language unknown'})" for one in (*files, *contents.subtitles)
        ),
        needless=needless,
        unreadable=unreadable,
        outputs=tuple(map(printable, outputs)),
        then=_then(inbox, is_needless=bool(needless)),
    )


def _contents(path: str) -> tuple[MediaTracks, str]:
    """Return the tracks of a file, and why they cannot be looked at."""
    try:
        return look_into(path), ""
    except (MediaError, OSError) as error:
        return MediaTracks(), str(error)


def _outputs(path: str, options: Options, past: _Past) -> Iterable[Path]:
    language = language_of(options.language, options.task) or UNKNOWN
    folder = output_folder(os.fsdecode(options.inbox), path, os.fsdecode(options.output))
    is_mine = partial(past.is_mine, os.fsencode(path))
    languages = (language, ENGLISH) if options.is_translated_too and language != ENGLISH else (language,)
    return [
        output
        for name in languages
        for output in output_paths(folder, path, name, options.formats, is_mine, flags=options.flags).values()
    ]


def _is_retried(job: Job, source: bytes) -> bool:
    return job.state is JobState.FAILED and job.is_closed and job.location != source


def _job(source: bytes, info: os.stat_result, options: Options) -> Job:
    return Job(
        id="",
        state=JobState.QUEUED,
        source=source,
        location=source,
        size=info.st_size,
        mtime_ns=info.st_mtime_ns,
        options=options,
        order=0,
    )


def _then(inbox: schema.InboxConfig, *, is_needless: bool) -> str:
    match inbox.after:
        case "move":
            return f"moved to {printable(Path(inbox.path, 'done'))}"
        case "delete" if not is_needless:
            return "deleted"
        case _:
            return "left where it is"


class _Past:
    """The database of a daemon, which may run, for reading alone; empty where there is none yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        if self._path.exists():
            try:
                self._db = sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, timeout=5)
                self._db.execute("SELECT 1 FROM jobs LIMIT 1")
            except sqlite3.Error as error:
                remedy = "type this as the daemon's user (sudo -u subtitled), or as root"
                raise StoreError(f"database {self._path} cannot be read: {error}; {remedy}") from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._db is not None:
            self._db.close()

    def job_of(self, source: bytes, size: int, mtime_ns: int, options: Options) -> JobRow | None:
        """Return the job that this very file was before, with these options."""
        rows = self._rows(
            f"{SELECT_JOB} WHERE source = ? AND size = ? AND mtime_ns = ?", source, size, mtime_ns
        )
        return next((found for row in rows if (found := job_row(row)).job.options == options), None)

    def outputs_of_source(self, source: bytes) -> tuple[bytes, ...]:
        """Return the files that were written for a source."""
        return tuple(path for (path,) in self._rows("SELECT path FROM outputs WHERE source = ?", source))

    def is_mine(self, source: bytes, path: Path) -> bool:
        """Say whether a file may be written for a source: it is not there, or was written for it before."""
        rows = self._rows("SELECT source FROM outputs WHERE path = ?", os.fsencode(path))
        return rows[0][0] == source if rows else not path.exists()

    def _rows(self, sql: str, *values: object) -> list[tuple[bytes, ...]]:
        return [] if self._db is None else self._db.execute(sql, values).fetchall()
