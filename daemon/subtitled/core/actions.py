"""The actions that the broker returns; the server commits the `Save…` actions first, then performs the others in order."""

from __future__ import annotations

from msgspec import Struct

from subtitled.core.protocol import Abandon, AbandonLease, Drain, FeedCredit, Prepare, Transcribe
from subtitled.core.records import Job, Lease, Segment, SegmentKey
from subtitled.core.states import JobEvent, JobState, SegmentEvent, SegmentState, WorkerEvent, WorkerState


class SaveNewJob(Struct, frozen=True):
    """Insert a job."""

    job: Job


class SaveJob(Struct, frozen=True, kw_only=True):
    """Store a job after a transition; the stored state must be `before`."""

    job: Job
    before: JobState
    event: JobEvent | None
    """None: no transition, only other fields changed."""
    media: bytes | None = None
    waveform: bytes | None = None


class SaveSource(Struct, frozen=True):
    """Store the new path of a job's file, which was renamed."""

    job: Job


class SaveNewSegment(Struct, frozen=True):
    """Insert a planned segment."""

    segment: Segment


class SaveSegment(Struct, frozen=True, kw_only=True):
    """Store a segment after a transition; the stored state must be `before`."""

    segment: Segment
    before: SegmentState
    event: SegmentEvent
    worker: str = ""
    result: bytes | None = None


class SaveWorker(Struct, frozen=True, kw_only=True):
    """Write a worker's transition to the journal."""

    slot: str
    incarnation: int
    before: WorkerState
    event: WorkerEvent
    after: WorkerState
    cause: str = ""


class Spawn(Struct, frozen=True, kw_only=True):
    """Start a process in a slot."""

    slot: str
    incarnation: int


class Kill(Struct, frozen=True, kw_only=True):
    """SIGKILL a worker's process."""

    worker: str
    cause: str


class SendPrepare(Struct, frozen=True, kw_only=True):
    """Send a file to a prepare worker; the listener adds the message's `skip_rule`."""

    worker: str
    job: Job
    message: Prepare


class SendLease(Struct, frozen=True, kw_only=True):
    """Send a lease to a transcribe worker, with the PCM of its segments."""

    lease: Lease
    message: Transcribe


class SendMessage(Struct, frozen=True):
    """Send a message to a worker."""

    worker: str
    message: FeedCredit | Abandon | AbandonLease | Drain


class DropPcm(Struct, frozen=True):
    """Drop a segment's PCM from memory."""

    key: SegmentKey


class WriteOutputs(Struct, frozen=True):
    """Write a job's subtitles, then archive its source; ends in Written or WriteFailed."""

    job: Job


class WriteFailure(Struct, frozen=True):
    """Write a failed job's partial subtitles and its error text, then archive its source; ends in Closed."""

    job: Job


class CheckFile(Struct, frozen=True, kw_only=True):
    """Find out whether a file's folder answers, for however long that takes; ends in FileChecked."""

    job: Job
    folder: bytes
    suspicion: str
    """What the file is blamed for if its folder answers at once; "" for nothing."""
    is_missing: bool = False
    """There is no such file: it fails at once if its mount is there."""


class StopFileCheck(Struct, frozen=True, kw_only=True):
    """Stop the check of a folder: no FileChecked follows."""

    folder: bytes


class LeaseLost(Struct, frozen=True, kw_only=True):
    """For the log: a lease was lost."""

    lease: Lease
    cause: str


class ResultStale(Struct, frozen=True, kw_only=True):
    """For the log: a reply for a lease that is not current was dropped."""

    worker: str
    lease: int


Save = SaveNewJob | SaveJob | SaveSource | SaveNewSegment | SaveSegment | SaveWorker
Do = (
    Spawn
    | Kill
    | SendPrepare
    | SendLease
    | SendMessage
    | DropPcm
    | WriteOutputs
    | WriteFailure
    | CheckFile
    | StopFileCheck
    | LeaseLost
    | ResultStale
)
Action = Save | Do
