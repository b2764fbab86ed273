"""The three transition tables: every legal step of a job, a segment and a worker slot.

An event without a row raises `IllegalTransition` and changes nothing.
"""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

from subtitled.errors import SubtitledError


class JobState(Enum):
    """State of a job; CANCELLED is final, FAILED until `retry`, DONE until it is to be translated (again)."""

    RECEIVING = "receiving"
    QUEUED = "queued"
    PREPARING = "preparing"
    TRANSCRIBING = "transcribing"
    WRITING = "writing"
    TRANSLATING = "translating"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobEvent(Enum):
    """Events of a job."""

    UPLOADED = "uploaded"
    EXPIRED = "expired"
    DOWNLOAD_FAILED = "download_failed"
    DOWNLOAD_AGAIN = "download_again"
    LEASED = "leased"
    RESUME = "resume"
    PLANNED = "planned"
    NO_SPEECH = "no_speech"
    ALREADY_SUBTITLED = "already_subtitled"
    LOST = "lost"
    REJECTED = "rejected"
    EXHAUSTED = "exhausted"
    ALL_DONE = "all_done"
    SEGMENTS_FAILED = "segments_failed"
    WRITTEN = "written"
    WRITE_FAILED = "write_failed"
    TRANSLATE = "translate"
    TRANSLATED = "translated"
    RETRY = "retry"
    CANCEL = "cancel"


class SegmentState(Enum):
    """State of a segment."""

    PENDING = "pending"
    LEASED = "leased"
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"
    DROPPED = "dropped"


class SegmentEvent(Enum):
    """Events of a segment."""

    LEASED = "leased"
    DONE = "done"
    SKIPPED = "skipped"
    LOST = "lost"
    EXHAUSTED = "exhausted"
    LANGUAGE_CHANGED = "language_changed"
    TRANSCRIBED = "transcribed"
    RETRIED = "retried"
    DROPPED = "dropped"


class WorkerState(Enum):
    """State of a worker slot."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    DRAINING = "draining"
    LOST = "lost"
    BACKOFF = "backoff"
    BROKEN = "broken"
    STOPPED = "stopped"


AT_WORK = (WorkerState.IDLE, WorkerState.BUSY)
"""A worker takes leases or files."""


class WorkerEvent(Enum):
    """Events of a worker slot."""

    READY = "ready"
    ASSIGNED = "assigned"
    REPLIED = "replied"
    OVERDUE = "overdue"
    EXITED = "exited"
    EXITED_FATAL = "exited_fatal"
    EXHAUSTED = "exhausted"
    ELAPSED = "elapsed"
    RESET = "reset"
    DRAIN = "drain"
    REPLACED = "replaced"


JOB: dict[tuple[JobState, JobEvent], JobState] = {
    (JobState.RECEIVING, JobEvent.UPLOADED): JobState.QUEUED,
    (JobState.RECEIVING, JobEvent.EXPIRED): JobState.CANCELLED,
    (JobState.RECEIVING, JobEvent.DOWNLOAD_FAILED): JobState.FAILED,
    (JobState.QUEUED, JobEvent.LEASED): JobState.PREPARING,
    (JobState.QUEUED, JobEvent.RESUME): JobState.TRANSCRIBING,
    (JobState.PREPARING, JobEvent.PLANNED): JobState.TRANSCRIBING,
    (JobState.PREPARING, JobEvent.NO_SPEECH): JobState.WRITING,
    # The file has subtitles already: nothing is written; its source is archived like any other.
    (JobState.PREPARING, JobEvent.ALREADY_SUBTITLED): JobState.WRITING,
    (JobState.PREPARING, JobEvent.LOST): JobState.QUEUED,
    # The last of its workers made no progress, and its folder answers: the file is at fault.
    (JobState.QUEUED, JobEvent.EXHAUSTED): JobState.FAILED,
    # Its file is missing, and its folder answers.
    (JobState.QUEUED, JobEvent.REJECTED): JobState.FAILED,
    (JobState.PREPARING, JobEvent.REJECTED): JobState.FAILED,
    (JobState.PREPARING, JobEvent.EXHAUSTED): JobState.FAILED,
    (JobState.TRANSCRIBING, JobEvent.ALL_DONE): JobState.WRITING,
    (JobState.TRANSCRIBING, JobEvent.SEGMENTS_FAILED): JobState.FAILED,
    # A resumed job decodes its media again for the PCM that a restart lost; the file may have changed.
    (JobState.TRANSCRIBING, JobEvent.REJECTED): JobState.FAILED,
    (JobState.TRANSCRIBING, JobEvent.EXHAUSTED): JobState.FAILED,
    (JobState.WRITING, JobEvent.WRITTEN): JobState.DONE,
    (JobState.WRITING, JobEvent.WRITE_FAILED): JobState.FAILED,
    # Its transcript is written; a failed translation does not fail the job.
    (JobState.WRITING, JobEvent.TRANSLATE): JobState.TRANSLATING,
    (JobState.DONE, JobEvent.TRANSLATE): JobState.TRANSLATING,
    (JobState.TRANSLATING, JobEvent.TRANSLATED): JobState.DONE,
    (JobState.TRANSLATING, JobEvent.CANCEL): JobState.DONE,
    (JobState.FAILED, JobEvent.RETRY): JobState.QUEUED,
    # Its file was never downloaded completely.
    (JobState.FAILED, JobEvent.DOWNLOAD_AGAIN): JobState.RECEIVING,
    (JobState.RECEIVING, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.QUEUED, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.PREPARING, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.TRANSCRIBING, JobEvent.CANCEL): JobState.CANCELLED,
}

SEGMENT: dict[tuple[SegmentState, SegmentEvent], SegmentState] = {
    (SegmentState.PENDING, SegmentEvent.LEASED): SegmentState.LEASED,
    (SegmentState.LEASED, SegmentEvent.DONE): SegmentState.DONE,
    (SegmentState.LEASED, SegmentEvent.SKIPPED): SegmentState.SKIPPED,
    (SegmentState.LEASED, SegmentEvent.LOST): SegmentState.PENDING,
    # Text that no model can translate.
    (SegmentState.PENDING, SegmentEvent.EXHAUSTED): SegmentState.FAILED,
    # Another model translates it.
    (SegmentState.LEASED, SegmentEvent.TRANSCRIBED): SegmentState.PENDING,
    (SegmentState.LEASED, SegmentEvent.EXHAUSTED): SegmentState.FAILED,
    # Decoded in a language that lost the vote: decoded again in the job's language.
    (SegmentState.DONE, SegmentEvent.LANGUAGE_CHANGED): SegmentState.PENDING,
    (SegmentState.FAILED, SegmentEvent.RETRIED): SegmentState.PENDING,
    (SegmentState.PENDING, SegmentEvent.RETRIED): SegmentState.PENDING,
    (SegmentState.PENDING, SegmentEvent.DROPPED): SegmentState.DROPPED,
    (SegmentState.LEASED, SegmentEvent.DROPPED): SegmentState.DROPPED,
    (SegmentState.FAILED, SegmentEvent.DROPPED): SegmentState.DROPPED,
}

WORKER: dict[tuple[WorkerState, WorkerEvent], WorkerState] = {
    (WorkerState.STARTING, WorkerEvent.READY): WorkerState.IDLE,
    (WorkerState.IDLE, WorkerEvent.ASSIGNED): WorkerState.BUSY,
    (WorkerState.BUSY, WorkerEvent.REPLIED): WorkerState.IDLE,
    (WorkerState.STARTING, WorkerEvent.OVERDUE): WorkerState.LOST,
    (WorkerState.IDLE, WorkerEvent.OVERDUE): WorkerState.LOST,
    (WorkerState.BUSY, WorkerEvent.OVERDUE): WorkerState.LOST,
    (WorkerState.DRAINING, WorkerEvent.OVERDUE): WorkerState.LOST,
    (WorkerState.STARTING, WorkerEvent.EXITED): WorkerState.BACKOFF,
    (WorkerState.IDLE, WorkerEvent.EXITED): WorkerState.BACKOFF,
    (WorkerState.BUSY, WorkerEvent.EXITED): WorkerState.BACKOFF,
    (WorkerState.LOST, WorkerEvent.EXITED): WorkerState.BACKOFF,
    (WorkerState.STARTING, WorkerEvent.EXITED_FATAL): WorkerState.BROKEN,
    (WorkerState.IDLE, WorkerEvent.EXITED_FATAL): WorkerState.BROKEN,
    (WorkerState.BUSY, WorkerEvent.EXITED_FATAL): WorkerState.BROKEN,
    (WorkerState.LOST, WorkerEvent.EXITED_FATAL): WorkerState.BROKEN,
    (WorkerState.STARTING, WorkerEvent.EXHAUSTED): WorkerState.BROKEN,
    (WorkerState.IDLE, WorkerEvent.EXHAUSTED): WorkerState.BROKEN,
    (WorkerState.BUSY, WorkerEvent.EXHAUSTED): WorkerState.BROKEN,
    (WorkerState.LOST, WorkerEvent.EXHAUSTED): WorkerState.BROKEN,
    (WorkerState.BACKOFF, WorkerEvent.ELAPSED): WorkerState.STARTING,
    (WorkerState.BROKEN, WorkerEvent.ELAPSED): WorkerState.STARTING,
    (WorkerState.BROKEN, WorkerEvent.RESET): WorkerState.STARTING,
    (WorkerState.STARTING, WorkerEvent.DRAIN): WorkerState.DRAINING,
    (WorkerState.IDLE, WorkerEvent.DRAIN): WorkerState.DRAINING,
    (WorkerState.BUSY, WorkerEvent.DRAIN): WorkerState.DRAINING,
    (WorkerState.DRAINING, WorkerEvent.EXITED): WorkerState.STOPPED,
    (WorkerState.DRAINING, WorkerEvent.EXITED_FATAL): WorkerState.STOPPED,
    (WorkerState.BACKOFF, WorkerEvent.DRAIN): WorkerState.STOPPED,
    (WorkerState.BROKEN, WorkerEvent.DRAIN): WorkerState.STOPPED,
    # A worker on another host has joined again: its slot starts over.
    (WorkerState.STARTING, WorkerEvent.REPLACED): WorkerState.STOPPED,
    (WorkerState.IDLE, WorkerEvent.REPLACED): WorkerState.STOPPED,
    (WorkerState.BUSY, WorkerEvent.REPLACED): WorkerState.STOPPED,
    (WorkerState.DRAINING, WorkerEvent.REPLACED): WorkerState.STOPPED,
    (WorkerState.LOST, WorkerEvent.REPLACED): WorkerState.STOPPED,
}

SEGMENT_FINAL = frozenset(
    {SegmentState.DONE, SegmentState.SKIPPED, SegmentState.FAILED, SegmentState.DROPPED}
)
"""States in which a segment needs no more work."""

JOB_LIVE = frozenset(
    {
        JobState.RECEIVING,
        JobState.QUEUED,
        JobState.PREPARING,
        JobState.TRANSCRIBING,
        JobState.WRITING,
        JobState.TRANSLATING,
    }
)
"""States of a job that is not finished."""

WITH_TRANSCRIPT = frozenset({JobState.TRANSLATING, JobState.DONE})
"""States of a job whose transcript is whole and written: it can be fetched and edited."""


class IllegalTransition(SubtitledError):
    """An event that the table does not allow in this state; a bug in the daemon."""


S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)


def step(table: dict[tuple[S, E], S], state: S, event: E) -> S:
    """Return the state after `event`; raise IllegalTransition when the table has no such row."""
    try:
        return table[state, event]
    except KeyError:
        raise IllegalTransition(
            f"{type(state).__name__} {state.value}: event {event.value} is not allowed"
        ) from None
