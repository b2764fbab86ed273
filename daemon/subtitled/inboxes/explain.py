"""The decision about a file, with its reasons, without side effects."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from subtitle.tables import damage_line, span_line
from subtitled.config import schema
from subtitled.config.model_choice import (
    ConfiguredModel,
    ModelChoiceError,
    choose_translator,
    configured_models,
)
from subtitled.core.records import Options
from subtitled.core.states import JobState
from subtitled.errors import MediaError, StoreError
from subtitled.files.atomic_files import printable
from subtitled.files.filesystem import is_open_for_writing, writer_of
from subtitled.inboxes.arrivals import (
    JOB_DELETED,
    archived_sources,
    inbox_options,
    is_dropped_again,
    new_job,
)
from subtitled.inboxes.file_filter import FileFilter, absolute
from subtitled.languages import ENGLISH, named_language
from subtitled.media.existing_subtitles import (
    MediaTracks,
    apply_rule,
    language_of,
    read_tracks,
    skip_rule_of,
    subtitle_files,
)
from subtitled.output.layout_process import speech_without_text
from subtitled.output.paths import output_folder, output_paths
from subtitled.storage.database import open_database
from subtitled.storage.reader import Reader
from subtitled.storage.rows import JobRow
from subtitled.storage.schema import MIGRATIONS

UNKNOWN = "LANGUAGE"
"""Placeholder in a name for a language that only the audio can determine."""


class Explanation(Struct, frozen=True, kw_only=True):
    """The result for a file at its current path."""

    path: str
    is_accepted: bool
    """Whether it would become a job."""
    cause: str
    """The rule that decides."""
    inbox: str = ""
    """The inbox that contains it."""
    model: str = ""
    """The model that would decode it, and why, if it is not the default."""
    translations: tuple[str, ...] = ()
    """The languages that it would be translated to, and by which models."""
    job: str = ""
    """The earlier job of the same file."""
    job_state: str = ""
    job_cause: str = ""
    missing: tuple[str, ...] = ()
    """Speech that the earlier job could not decode: times and cause."""
    unheard: tuple[str, ...] = ()
    """Speech for which the model gave the earlier job no text: times and cause."""
    damaged: tuple[str, ...] = ()
    """Where the earlier job found audio lost: times and cause."""
    existing: tuple[str, ...] = ()
    """Existing subtitles, with their languages."""
    skipped: str = ""
    """Why no subtitles would be written for an accepted file."""
    unreadable: str = ""
    """Why its tracks cannot be read, if they matter."""
    outputs: tuple[str, ...] = ()
    """The files that would be written; LANGUAGE is a language that only the audio determines."""
    after: str = ""
    """What would happen to the source."""


def explain(path: str, configuration: schema.Config) -> Explanation:
    """Return the decision about the file at `path`; raises StoreError if the database cannot be read."""
    found = absolute(path)
    result = FileFilter(configuration.inbox).check(found)
    database = Path(configuration.state.dir, "subtitled.sqlite")
    if result.inbox is None:
        return Explanation(path=printable(found), is_accepted=False, cause=result.cause)
    inbox = configuration.inbox[result.inbox]
    if not result.accepted:
        facts: dict[str, Any] = {}
        if (sources := archived_sources(found, inbox)) is not None:
            with _stored_jobs(database) as stored:
                location = os.fsencode(found)
                archived = (stored.find_archived(os.fsencode(source), location) for source in sources)
                facts = _facts_of(next(filter(None, archived), None), stored)
        return Explanation(
            path=printable(found),
            is_accepted=False,
            cause=result.cause,
            inbox=printable(inbox.path),
            **facts,
        )
    models = configured_models(configuration)
    options = inbox_options(inbox, models)
    explanation = _explain_media(found, inbox, options, result.cause, database)
    return replace(explanation, translations=tuple(_translations(options, models)))


def as_text(found: Explanation) -> str:
    """Return an explanation as lines of text."""
    rows = [
        ("inbox", found.inbox or "none"),
        ("accepted", f"{'yes' if found.is_accepted else 'no'}: {found.cause}"),
        ("model", found.model),
        *(("translate", text) for text in found.translations),
        ("job", " ".join(filter(None, (found.job, found.job_state, found.job_cause)))),
        *(("missing", span) for span in found.missing),
        *(("unheard", span) for span in found.unheard),
        *(("damaged", span) for span in found.damaged),
        ("existing", ", ".join(found.existing)),
        ("tracks", found.unreadable),
        ("skipped", found.skipped),
        *(("output", output) for output in found.outputs),
        ("source", found.after),
    ]
    return "\n".join([found.path, *(f"  {name:9} {text}" for name, text in rows if text)])


def _explain_media(
    path: str, inbox: schema.InboxConfig, options: Options, cause: str, database: Path
) -> Explanation:
    info = Path(path).stat()
    source = os.fsencode(path)
    with _stored_jobs(database) as stored:
        known = stored.find_source(source, info.st_size, info.st_mtime_ns, options)
        is_deleted = known is None and stored.is_processed(source, info.st_size, info.st_mtime_ns)
        job = new_job(source, info.st_size, info.st_mtime_ns, options, order=0)
        rule = skip_rule_of(job, stored.outputs_of_source)
        contents, unreadable = _contents(path) if rule else (MediaTracks(), "")
        files = subtitle_files(rule) if rule else ()
        skipped = apply_rule(contents, files, rule) if rule else ""
        outputs = () if skipped else _outputs(path, options, stored)
        facts = _facts_of(known, stored)
    is_repeated = known is not None and not is_dropped_again(known.job, source)
    if is_deleted:
        cause = JOB_DELETED
    elif known is not None:
        cause = (
            f"the same file is already job {known.job.id}; touch it to process it again"
            if is_repeated
            else f"job {known.job.id} failed and is retried when its file is put into the inbox again"
        )
    is_open = not (is_repeated or is_deleted) and is_open_for_writing(path)
    if is_open:
        writer = writer_of(path)
        cause = f"it is open for writing{writer and f' by {writer}'}; it waits until it is closed"
    return Explanation(
        path=printable(path),
        is_accepted=not (is_repeated or is_deleted or is_open),
        cause=cause,
        inbox=printable(inbox.path),
        model=f"{options.model or 'default'} ({options.model_reason})" if options.model_reason else "",
        **facts,
        existing=tuple(
            f"{one.name} ({one.language or 'language unknown'})" for one in (*files, *contents.subtitles)
        ),
        skipped=skipped,
        unreadable=unreadable,
        outputs=tuple(map(printable, outputs)),
        after=_after(inbox, is_skipped=bool(skipped)),
    )


def _translations(options: Options, models: Sequence[ConfiguredModel]) -> Iterator[str]:
    """Yield each language that a file would be translated to, with the model."""
    source = named_language(options.language)
    for target in options.translate_to:
        try:
            model = choose_translator(models, wanted=options.translate_model, source=source, target=target)
            yield f"{target} by {model.name}"
        except ModelChoiceError as error:
            yield f"{target}: {error}"


def _contents(path: str) -> tuple[MediaTracks, str]:
    """Return the tracks of a file, and why they cannot be read."""
    try:
        return read_tracks(path), ""
    except (MediaError, OSError) as error:
        return MediaTracks(), str(error)


def _outputs(path: str, options: Options, stored: Reader) -> Iterable[Path]:
    language = language_of(options.language, options.task) or UNKNOWN
    folder = output_folder(os.fsdecode(options.inbox), path, os.fsdecode(options.output))

    def is_writable(output: Path) -> bool:
        source = stored.source_of_output(os.fsencode(output))
        return not output.exists() if source is None else source == os.fsencode(path)

    languages = [language, *([ENGLISH] if options.is_translated_too else []), *options.translate_to]
    return [
        output
        for name in dict.fromkeys(languages)
        for output in output_paths(
            folder, path, name, options.formats, is_writable, flags=options.flags
        ).values()
    ]


def _after(inbox: schema.InboxConfig, *, is_skipped: bool) -> str:
    match inbox.after:
        case "move":
            return f"moved to {printable(Path(inbox.path, 'done'))}"
        case "delete" if not is_skipped:
            return "deleted"
        case _:
            return "kept"


@contextmanager
def _stored_jobs(path: Path) -> Iterator[Reader]:
    """Give a Reader of a daemon's database, also while the daemon runs; of an empty one if it does not exist."""
    try:
        if path.exists():
            db = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)
            db.execute("SELECT 1 FROM jobs LIMIT 1")
        else:
            db = open_database(":memory:", MIGRATIONS)
    except sqlite3.Error as error:
        remedy = "run this as the daemon's user (sudo -u subtitled), or as root"
        raise StoreError(f"database {path} cannot be read: {error}; {remedy}") from error
    with closing(db):
        yield Reader(db)


def _facts_of(known: JobRow | None, stored: Reader) -> dict[str, Any]:
    """Return the fields of an Explanation that describe an earlier job."""
    if known is None:
        return {}
    job = known.job
    results = stored.results(job.id) if job.state in {JobState.DONE, JobState.FAILED} else ()
    missing, unheard = (
        tuple(span_line(f"{span.start_ms} {span.end_ms} {span.cause}") for span in spans)
        for spans in speech_without_text(known, results)
    )
    return {
        "job": job.id,
        "job_state": job.state.value,
        "job_cause": job.cause,
        "missing": missing,
        "unheard": unheard,
        "damaged": tuple(damage_line(start_s, end_s) for start_s, end_s in known.media_facts.damaged_s),
    }
