"""The last step of a job: its files written, its source archived.

Runs in the server's thread for slow file work; everything here may be done again after a kill and comes out the same.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from msgspec import Struct

from subtitled.config.schema import Format
from subtitled.core.records import Job, Options
from subtitled.cues.render import RenderOptions, render
from subtitled.cues.transcript import Transcript
from subtitled.errors import SpoolError
from subtitled.files.atomic_files import fitted, is_there, move_whole, remove, write_whole
from subtitled.output.paths import ERROR_SUFFIX, archive, error_text, write_error

FAILED_FOLDER = "failed"


class OutputJob(Struct, frozen=True, kw_only=True):
    """What is to be written for one job."""

    job: Job
    transcript: Transcript
    paths: Mapping[Format, Path]
    """The file of each format."""
    more: tuple[tuple[Transcript, Mapping[Format, Path]], ...] = ()
    """Further transcripts of the same file, in other languages, with their files."""
    obsolete: tuple[Path, ...] = ()
    """What an earlier, failed try left behind."""


def write_outputs(finish: OutputJob) -> bytes:
    """Write a finished job's subtitles and archive its source; return where the source is now.

    Blocks for fsync. Raises SpoolError, with no half-written file left, when something cannot be written.
    """
    _write(finish)
    for path in finish.obsolete:
        remove(path)
    job = finish.job
    match job.options.after:
        case "move":
            return _archived(job, "done")
        case "delete":
            # The subtitles that made ours needless may be in the source itself.
            if _is_unchanged(job) and not job.is_needless:
                remove(os.fsdecode(job.location))
            return job.location
        case _:
            return job.location


def write_failure(finish: OutputJob, folder: Path) -> bytes:
    """Write a failed job's error text to `folder`, with its partial subtitles if any; archive its source.

    Returns where the source is now. Blocks for fsync. Raises SpoolError when the error text cannot be written, or a full
    disk is to be waited for; the source is in its place then. Partial subtitles that an output folder refuses, read-only
    perhaps, are named in the error text.
    """
    job = finish.job
    text = _failure_text(finish)
    if finish.transcript.cues:
        try:
            _write(finish)
        except SpoolError as error:
            if is_disk_full(error):
                raise
            text += f"\nThe finished part could not be written: {error}\n"
    write_error(folder, Path(os.fsdecode(job.source)).name, text)
    return job.location if job.options.after == "keep" else _archived(job, "failed")


def look_of(options: Options) -> RenderOptions:
    """Return how a job's files are to look."""
    newline: Literal["lf", "crlf"] = "crlf" if options.newline == "crlf" else "lf"
    return RenderOptions(bom=options.bom, newline=newline, karaoke=options.karaoke)


def _write(finish: OutputJob) -> None:
    look = look_of(finish.job.options)
    for transcript, paths in ((finish.transcript, finish.paths), *finish.more):
        for form, path in paths.items():
            write_whole(path, render(form, transcript, look))


def is_disk_full(error: SpoolError) -> bool:
    """Say whether a later try may do, once somebody has made space."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in {errno.ENOSPC, errno.EDQUOT}


def error_folder(job: Job, output_folder: Path) -> Path:
    """Return the folder that gets NAME.error.txt: that of the archived source, or of the subtitles."""
    if job.options.after == "keep" or not job.options.inbox:
        return output_folder
    inbox, source = Path(os.fsdecode(job.options.inbox)), Path(os.fsdecode(job.source))
    return inbox / FAILED_FOLDER / source.parent.relative_to(inbox)


def error_path(job: Job, folder: Path) -> Path:
    """Return the path of a failed job's error text in `folder`."""
    return folder / fitted(Path(os.fsdecode(job.source)).name, ERROR_SUFFIX)


def _failure_text(finish: OutputJob) -> str:
    job = finish.job
    remedy = (
        f"see that the file plays, then drop it again, or type: subtitle retry {job.id}\n"
        "What was finished before is kept and is not transcribed again."
    )
    text = error_text(job.id, os.fsdecode(job.source), job.cause, remedy)
    if finish.transcript.missing:
        rows = (
            f"  {_clock(gap.start_ms)} - {_clock(gap.end_ms)}  {gap.cause}"
            for gap in finish.transcript.missing
        )
        text += "\nMissing speech:\n" + "\n".join(rows) + "\n"
    return text


def _archived(job: Job, outcome: Literal["done", "failed"]) -> bytes:
    """Move the source to the archive; leave alone what is not the file that was accepted."""
    if not job.options.inbox or not _is_unchanged(job):
        return job.location
    source, inbox = os.fsdecode(job.source), os.fsdecode(job.options.inbox)
    location = os.fsdecode(job.location)
    try:
        if location == source:
            return os.fsencode(archive(source, inbox, outcome))
        if outcome == "failed":
            return job.location
        # A failed job that was retried: its source comes from failed/, its place in done/ is that of any other.
        return os.fsencode(move_whole(location, Path(inbox, outcome, Path(source).relative_to(inbox))))
    except FileNotFoundError:
        return job.location
    except SpoolError:
        if is_there(location):
            raise
        return job.location


def _is_unchanged(job: Job) -> bool:
    """Say whether the source is where it was and what it was."""
    try:
        found = os.stat(job.location)  # noqa: PTH116 - the path is bytes
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == (job.size, job.mtime_ns)


def _clock(time_ms: int) -> str:
    seconds, ms = divmod(time_ms, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{ms:03d}"
