"""The actions that the broker returns; the server commits the `Save…` actions first, then performs the others in order."""

from __future__ import annotations

from msgspec import Struct

from subtitle.messages import EditedCue
from subtitled.core import protocol as pr
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
    cues: tuple[EditedCue, ...] | None = None
    """The cues of a subtitle file, stored as a version of the job's subtitles."""


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


class StoredTranslation(Struct, frozen=True, kw_only=True):
    """The result for one sentence, as it is stored with its job."""

    target: str
    """Language tag."""
    key: str
    """As in TextPlan."""
    source: str
    """The sentence."""
    text: str
    """Its translation; the sentence itself if there is a `problem`."""
    problem: str = ""
    """Why it is not translated; "" if it is."""
    model: str = ""
    """Name of the model."""
    engine: str = ""
    """"ctranslate2" or "openai"; "" if no engine has answered."""
    version: str = ""
    warning: str = ""
    """What to check in the translation."""
    terms: str = ""
    """As in TextPlan."""


class SaveText(Struct, frozen=True, kw_only=True):
    """Store the translations of a text segment after a transition; text segments themselves are not stored."""

    segment: Segment
    before: SegmentState
    event: SegmentEvent
    translations: tuple[StoredTranslation, ...] = ()

    @property
    def target(self) -> str:
        """The language tag."""
        return self.segment.text.request.target if self.segment.text is not None else ""


class DropTranslations(Struct, frozen=True, kw_only=True):
    """Delete sentences of a job: those that are not translated, so that they are tried again, or those that it has no more."""

    job: str
    target: str = ""
    """"": of all languages those with a problem."""
    keys: tuple[str, ...] = ()
    """Delete all sentences of `target` except these."""


class SavePause(Struct, frozen=True):
    """Store whether an admin has paused the queue."""

    is_paused: bool


class SaveWorker(Struct, frozen=True, kw_only=True):
    """Write a worker's transition to the journal."""

    slot: str
    incarnation: int
    before: WorkerState
    event: WorkerEvent
    after: WorkerState
    cause: str = ""


class SpawnWorker(Struct, frozen=True, kw_only=True):
    """Start a process in a slot."""

    slot: str
    incarnation: int


class KillWorker(Struct, frozen=True, kw_only=True):
    """SIGKILL a worker's process."""

    worker: str
    cause: str


class SendPrepare(Struct, frozen=True, kw_only=True):
    """Send a file to a prepare worker; the listener adds the message's `skip_rule`."""

    worker: str
    job: Job
    message: pr.Prepare


class SendLease(Struct, frozen=True, kw_only=True):
    """Send a lease to a worker, with the PCM of its audio segments."""

    lease: Lease
    message: pr.Transcribe | pr.Translate

    @property
    def audio(self) -> tuple[pr.LeaseItem, ...]:
        """Its audio segments."""
        return self.message.items if isinstance(self.message, pr.Transcribe) else ()


class SendMessage(Struct, frozen=True):
    """Send a message to a worker."""

    worker: str
    message: pr.FeedCredit | pr.Abandon | pr.AbandonLease | pr.FreeModel | pr.KeepModel | pr.Drain


class DropPcm(Struct, frozen=True):
    """Drop a segment's PCM from memory."""

    key: SegmentKey


class WriteOutputs(Struct, frozen=True):
    """Write a job's subtitles, then archive its source; ends in OutputsWritten or WriteFailed."""

    job: Job


class WriteFailure(Struct, frozen=True):
    """Write a failed job's partial subtitles and its error text, then archive its source; ends in FailureWritten."""

    job: Job


class PlanTranslations(Struct, frozen=True, kw_only=True):
    """Divide the sentences of a job that have no stored translation into text segments; ends in TranslationsPlanned."""

    job: Job
    number: int
    """Unique; the result of an earlier one is ignored."""


class WriteTranslations(Struct, frozen=True, kw_only=True):
    """Write a job's subtitles in other languages; ends in TranslationsWritten."""

    job: Job
    number: int
    """As in its PlanTranslations."""


class CheckFile(Struct, frozen=True, kw_only=True):
    """Find out whether a file's folder answers, for however long that takes; ends in FileChecked."""

    job: Job
    folder: bytes
    suspicion: str
    """Fault of the file, if its folder answers at once; "" for none."""
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


Save = (
    SaveNewJob
    | SaveJob
    | SaveSource
    | SaveNewSegment
    | SaveSegment
    | SaveText
    | DropTranslations
    | SaveWorker
    | SavePause
)
Do = (
    SpawnWorker
    | KillWorker
    | SendPrepare
    | SendLease
    | SendMessage
    | DropPcm
    | WriteOutputs
    | WriteFailure
    | PlanTranslations
    | WriteTranslations
    | CheckFile
    | StopFileCheck
    | LeaseLost
    | ResultStale
)
Action = Save | Do
