"""Convert jobs, workers and journal entries to the protocol's messages."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from subtitle import messages as ms
from subtitled.api.peer import RefusedError
from subtitled.core.plan import SAMPLES_PER_MS
from subtitled.core.protocol import Media
from subtitled.core.states import JOB_LIVE, JobState
from subtitled.languages import named_language
from subtitled.storage.rows import JobRow, JournalEntry


def job_facts(
    row: JobRow,
    *,
    segments: Mapping[str, int],
    sentences: Mapping[str, tuple[int, int]],
    is_uploaded: bool,
    default_model: str,
) -> ms.JobFacts:
    """Return one job without its progress and the fields that only Status fills; `is_uploaded`: a client uploaded its file.

    `sentences`: how many have a result, and how many of them no translation, by language.
    """
    job = row.job
    media = row.media_facts
    return ms.JobFacts(
        id=job.id,
        state=job.state.value,
        # The path of an upload on the server is private; the client knows the file by its name.
        source=Path(display_path(job.source)).name if is_uploaded else display_path(job.source),
        language=job.language or named_language(job.options.language),
        task=job.options.task,
        created_ms=row.created_ms,
        started_ms=row.started_ms,
        ended_ms=row.ended_ms,
        cause=job.cause,
        audio_ms=media.decoded_samples // SAMPLES_PER_MS,
        segments=dict(segments),
        owner=job.owner,
        tag=job.tag,
        size=job.size,
        received_bytes=0 if job.state is JobState.RECEIVING else job.size,
        url=job.options.url,
        priority=job.priority,
        model=job.options.model or default_model,
        model_reason=job.options.model_reason,
        formats=job.options.formats,
        inbox=display_path(job.options.inbox),
        unheard_count=job.unheard,
        is_dismissed=job.is_dismissed,
        damaged=media.damaged_s,
        tasks=job.options.tasks,
        audio=media.audio,
        translations=tuple(
            ms.TranslationFacts(
                language=language,
                sentences=done,
                done=done,
                untranslated=untranslated,
                cause=job.translation_cause,
            )
            for language in job.translate_to
            for done, untranslated in [sentences.get(language, (0, 0))]
        ),
    )


def media_of(row: JobRow) -> Media:
    """Return the stored media facts of a job; raises RefusedError when its file was not read to the end."""
    job = row.job
    if row.media is not None:
        return row.media_facts
    if job.state in JOB_LIVE:
        raise RefusedError("WRONG_STATE", f"job {job.id} is {job.state.value}; wait until its file is read")
    cause = f": {job.cause}" if job.cause else ""
    raise RefusedError(
        "WRONG_STATE", f"job {job.id} is {job.state.value}; its file was not read to the end{cause}"
    )


def history(entries: Iterable[JournalEntry]) -> tuple[ms.Step, ...]:
    """Return a job's history."""
    return tuple(msgspec.convert(entry, ms.Step, from_attributes=True) for entry in entries)


def journal_event(request: int, entry: JournalEntry) -> ms.Event:
    """Return the Event of a journal entry."""
    fields = msgspec.structs.asdict(entry)
    del fields["owner"]
    return ms.Event(request=request, **fields)


def display_path(path: bytes | str) -> str:
    """Return a path as text, with U+FFFD for bytes that are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")
