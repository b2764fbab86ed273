"""The events that the broker handles; each is a fact and is passed once."""

from __future__ import annotations

from msgspec import Struct

from subtitled.core.model_placement import ModelSpec
from subtitled.core.plan import Plan
from subtitled.core.protocol import FromWorker
from subtitled.core.records import Job, Options, Role, SegmentKey, TextPlan


class JobArrived(Struct, frozen=True):
    """A new job was accepted; RECEIVING until its file is uploaded, else QUEUED."""

    job: Job


class Uploaded(Struct, frozen=True, kw_only=True):
    """A job's file was uploaded completely and is on the disk."""

    job: str
    size: int
    mtime_ns: int
    sha256: str
    options: Options | None = None
    """The options of its Commit; None: unchanged."""
    source: bytes | None = None
    """The path of a downloaded file, whose name was not known before; None: unchanged."""


class PriorityChanged(Struct, frozen=True, kw_only=True):
    """A client changed the priority of a job that has not ended."""

    job: str
    priority: int


class JobMoved(Struct, frozen=True, kw_only=True):
    """A client moved a waiting job directly before or after another one, whose priority it gets."""

    job: str
    neighbour: str
    is_after: bool = False


class FailureDismissed(Struct, frozen=True):
    """A client dismissed the failure of a job, which comes from the store."""

    job: Job


class PauseRequested(Struct, frozen=True):
    """An admin pauses or resumes the queue: while it is paused, nothing more is started."""

    is_paused: bool


class ModelRequested(Struct, frozen=True, kw_only=True):
    """An admin has loaded or unloaded a model."""

    model: str
    workers: int
    """Workers that load it and keep it; 0: all workers unload it."""


class UploadExpired(Struct, frozen=True, kw_only=True):
    """A job's upload timed out, or its file was damaged."""

    job: str
    cause: str


class DownloadFailed(Struct, frozen=True, kw_only=True):
    """The file of a job that names a URL could not be downloaded."""

    job: str
    cause: str


class SlotAdded(Struct, frozen=True):
    """A worker slot was added; it needs a process."""

    slot: str
    role: Role


class SlotRemoved(Struct, frozen=True):
    """A worker slot was removed; its worker finishes its work first."""

    slot: str


class SlotReset(Struct, frozen=True):
    """An operator has repaired a broken slot; it is started again."""

    slot: str


class WorkerJoined(Struct, frozen=True, kw_only=True):
    """A transcribe worker on another host has joined; it replaces its slot's last worker.

    Afterwards the slot's worker is STARTING and has the new identity. Ignored while the daemon drains, and while the slot
    is quarantined.
    """

    slot: str
    """`HOST/PLACE`; slots of this host have no slash."""
    previous: str = ""
    """Identity of the same process in its last session; the end of that session is not blamed on its work."""


class LinkMeasured(Struct, frozen=True, kw_only=True):
    """The link to a worker on another host was measured."""

    worker: str
    round_trip_s: float
    bytes_per_s: float | None = None
    """PCM that the link carries per second, counted before compression; None: not measured yet."""


class MessageReceived(Struct, frozen=True):
    """A worker has sent a message; each one is also a sign of life."""

    worker: str
    """Identity of the sender."""
    message: FromWorker


class WorkerExited(Struct, frozen=True, kw_only=True):
    """A worker's process has exited, or its session on another host has ended."""

    worker: str
    is_fatal: bool
    """Restarting it cannot help."""
    cause: str
    is_blamed: bool = True
    """The segments that it was working on may be the cause; False after an invalid message."""


class OutputsWritten(Struct, frozen=True):
    """A job's output files are written."""

    job: str
    location: bytes
    """Present path of its source."""
    unheard: int = 0
    """Stretches of speech for which the model gave no text."""


class WriteFailed(Struct, frozen=True):
    """A job's files could not be written."""

    job: str
    cause: str


class FailureWritten(Struct, frozen=True):
    """A failed job's files are written."""

    job: str
    location: bytes
    """Present path of its source."""


class TranslationRequested(Struct, frozen=True, kw_only=True):
    """A job is to be translated: one that is done, or is translated already."""

    job: Job
    """As stored."""
    languages: tuple[str, ...] = ()
    """Language tags, added to the job's."""
    model: str = ""
    """Name of the model that translates to these languages, or to all of the job without any; "": the job's."""
    is_retry: bool = False
    """Sentences that could not be translated are tried again."""
    is_edit: bool = False
    """The transcript was edited: languages whose translation was cancelled stay as they are."""


class TranslationsPlanned(Struct, frozen=True, kw_only=True):
    """The text segments of a job are known."""

    job: str
    number: int
    """That of its PlanTranslations."""
    texts: tuple[TextPlan, ...]
    """Without the sentences whose translation is stored."""
    keys: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """For each language the keys of all sentences; the translations of others are deleted."""
    cause: str = ""
    """Why the sentences could not be read; nothing is written then."""


class TranslationsWritten(Struct, frozen=True, kw_only=True):
    """A job's subtitles in other languages are written, or could not be written."""

    job: str
    number: int
    """That of its WriteTranslations."""


class SourceRenamed(Struct, frozen=True):
    """The file of a job was renamed within its inbox."""

    job: str
    source: bytes
    """Its new path."""


class FileChecked(Struct, frozen=True, kw_only=True):
    """The folder of a file that could not be read answers again."""

    job: str
    folder: bytes
    blame: str
    """The check's suspicion if the folder answered at once: the file itself could not be read; else ""."""
    is_missing: bool = False
    """As in CheckFile."""


class CancelRequested(Struct, frozen=True):
    """A job is cancelled."""

    job: str


class SegmentRow(Struct, frozen=True, kw_only=True):
    """A stored segment, for a restart or a retry."""

    key: SegmentKey
    state: str
    plan: Plan
    losses: int
    cause: str
    language: str | None
    language_probability: float


class RetryRequested(Struct, frozen=True):
    """A failed job is retried; it and its segments come from the store."""

    job: Job
    segments: tuple[SegmentRow, ...]


class ModelsChanged(Struct, frozen=True):
    """The configuration has other models, or one of them was downloaded or cannot be used."""

    models: tuple[ModelSpec, ...]


class DiskSpaceChanged(Struct, frozen=True):
    """There is, or is no longer, enough disk space for the results of more files."""

    is_enough: bool


class DrainRequested(Struct, frozen=True):
    """The daemon stops: no new leases, running ones may finish."""


Event = (
    JobArrived
    | Uploaded
    | UploadExpired
    | DownloadFailed
    | SlotAdded
    | SlotRemoved
    | SlotReset
    | WorkerJoined
    | LinkMeasured
    | MessageReceived
    | WorkerExited
    | PriorityChanged
    | FailureDismissed
    | JobMoved
    | PauseRequested
    | ModelRequested
    | OutputsWritten
    | WriteFailed
    | FailureWritten
    | TranslationRequested
    | TranslationsPlanned
    | TranslationsWritten
    | SourceRenamed
    | FileChecked
    | CancelRequested
    | RetryRequested
    | ModelsChanged
    | DiskSpaceChanged
    | DrainRequested
)
