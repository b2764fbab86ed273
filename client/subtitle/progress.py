"""The progress of one job."""

from __future__ import annotations

from typing import get_args

from msgspec import Struct

from subtitle.errors import JobFailedError
from subtitle.messages import JobFacts, Task

ENDED = frozenset({"done", "failed", "cancelled"})
"""The final states of a job."""


class Progress(Struct, frozen=True, kw_only=True):
    """The progress of one job; unknown values are 0."""

    job: str = ""
    """Empty while the file is hashed, before the job exists."""
    state: str
    """A state of the job, or "hashing"."""
    hashed_bytes: int = 0
    uploaded_bytes: int = 0
    """Bytes that the server has."""
    size_bytes: int = 0
    decoded_ms: int = 0
    """Audio read so far."""
    audio_ms: int = 0
    """Length of the audio; 0 until it has been read to its end."""
    segments_done: int = 0
    segments_total: int = 0
    """Segments found so far; all of them once the audio has been read to its end."""
    sentences_done: int = 0
    sentences_total: int = 0
    """Sentences to be translated, of all languages."""

    @property
    def fraction(self) -> float:
        """The finished part of the current stage, 0 to 1: of the bytes, then of the segments, then of the sentences.

        0 while the whole is unknown; 1 when the job is done.
        """
        if self.state == "done":
            return 1.0
        part, whole = self.segments_done, self.segments_total if self.audio_ms else 0
        if self.state == "hashing":
            part, whole = self.hashed_bytes, self.size_bytes
        elif self.state == "translating":
            part, whole = self.sentences_done, self.sentences_total
        elif self.state == "receiving":
            part, whole = self.uploaded_bytes, self.size_bytes
        return min(part / whole, 1.0) if whole else 0.0


def progress_of(job: JobFacts) -> Progress:
    """Return the progress of a job from the server's facts."""
    is_here = job.state != "receiving"
    return Progress(
        job=job.id,
        state=job.state,
        hashed_bytes=job.size,
        uploaded_bytes=job.size if is_here else job.received_bytes,
        size_bytes=job.size,
        decoded_ms=job.audio_ms or job.decoded_ms,
        audio_ms=job.audio_ms,
        segments_done=sum(job.segments.get(state, 0) for state in ("done", "skipped")),
        segments_total=sum(job.segments.values()),
        sentences_done=sum(one.done for one in job.translations),
        sentences_total=sum(one.sentences for one in job.translations),
    )


def tasks_of(job: JobFacts) -> tuple[Task | None, ...]:
    """Return the values of `Fetch.task` for all subtitles of a job; (None,) for one with a single task."""
    return tuple(task for task in get_args(Task) if task in job.tasks) if len(job.tasks) > 1 else (None,)


def check_done(job: JobFacts) -> JobFacts:
    """Return a done job; raises JobFailedError for one in another final state."""
    if job.state == "done":
        return job
    cause = f": {job.cause}" if job.cause else ""
    raise JobFailedError(
        f"job {job.id} ({job.source.rpartition('/')[2]}) {_ENDS.get(job.state, job.state)}{cause}"
    )


_ENDS = {"failed": "failed", "cancelled": "was cancelled"}
