"""What the broker asks for; the server commits the `Save…` actions first, then does the others in order."""

from __future__ import annotations

from msgspec import Struct

from subtitled.core.plan import Plan
from subtitled.core.records import Job, Lease, Options, Segment, SegmentKey
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
    """Put a worker's transition into the journal."""

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
    """Have a prepare worker read a file."""

    worker: str
    feed: int
    job: Job
    plans: tuple[Plan, ...] | None
    """Stored segments whose PCM is wanted again; None to plan the file."""
    done: frozenset[int]
    """Indices whose PCM is not wanted."""
    window_samples: int
    credit_bytes: int


class SendCredit(Struct, frozen=True, kw_only=True):
    """Let a prepare worker send more PCM."""

    worker: str
    feed: int
    bytes: int


class SendAbandon(Struct, frozen=True, kw_only=True):
    """Have a prepare worker stop reading a file that nobody wants any more."""

    worker: str
    feed: int


class LeaseItem(Struct, frozen=True, kw_only=True):
    """One segment of a lease as the worker needs it."""

    key: SegmentKey
    samples: int
    language: str | None
    """None: the worker detects it."""
    options: Options


class SendTranscribe(Struct, frozen=True, kw_only=True):
    """Give a lease to a transcribe worker."""

    lease: Lease
    items: tuple[LeaseItem, ...]


class SendDrain(Struct, frozen=True):
    """Have a worker finish what it holds and exit."""

    worker: str


class DropPcm(Struct, frozen=True):
    """Forget a segment's PCM."""

    key: SegmentKey


class WriteOutputs(Struct, frozen=True):
    """Write a job's subtitles, then archive its source; ends in Written or WriteFailed."""

    job: Job


class WriteFailure(Struct, frozen=True):
    """Write a failed job's partial subtitles and its error text, then archive its source; ends in Closed."""

    job: Job


class LeaseLost(Struct, frozen=True, kw_only=True):
    """For the log: a lease came back undone."""

    lease: Lease
    cause: str


class ResultStale(Struct, frozen=True, kw_only=True):
    """For the log: a reply came for a lease that is not current; it was dropped."""

    worker: str
    lease: int


Save = SaveNewJob | SaveJob | SaveNewSegment | SaveSegment | SaveWorker
Do = (
    Spawn
    | Kill
    | SendPrepare
    | SendCredit
    | SendAbandon
    | SendTranscribe
    | SendDrain
    | DropPcm
    | WriteOutputs
    | WriteFailure
    | LeaseLost
    | ResultStale
)
Action = Save | Do
