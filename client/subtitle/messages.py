"""The client protocol's messages; docs/protocol.md specifies them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from subtitle import asked, told
from subtitle.codec import Codec

PROTOCOL = 1
JobOptions = asked.JobOptions
VadOptions = asked.VadOptions
LayoutOptions = asked.LayoutOptions
WordTimestamps = asked.WordTimestamps
Step = told.Step
JobFacts = told.JobFacts
WorkerFacts = told.WorkerFacts


class _Message(Struct, frozen=True, kw_only=True, tag=True):
    """A tagged Struct. `request` is chosen by the client and comes back in every answer."""

    request: int


# -- client → server ---------------------------------------------------------------------------------------------------


class Hello(_Message, frozen=True, kw_only=True):
    """Ask who is there."""


class Submit(_Message, frozen=True, kw_only=True):
    """Ask that a media file become a job: one that is uploaded, or one that the server can see (`path`)."""

    name: Annotated[str, Meta(max_length=1_024)] = ""
    """The file's name, for the names of its subtitles; what a file system would not take is replaced."""
    size: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    """Bytes of the file; None: told at Commit."""
    sha256: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")] = ""
    """Of the file, in hexadecimal; "": told at Commit, and the upload cannot be resumed by another connection."""
    path: Annotated[str, Meta(max_length=4_096)] | None = None
    """An absolute path on the server, instead of an upload; on its local socket only."""
    is_again: bool = False
    """A job of its own, whether or not this file was submitted before with the same options."""
    options: JobOptions = JobOptions()


class Chunk(_Message, frozen=True, kw_only=True):
    """The next bytes of an upload, in one blob of 1 to `chunk_bytes`; `request` is that of its Submit."""

    job: str
    offset: Annotated[int, Meta(ge=0, le=2**62)]


class Commit(_Message, frozen=True, kw_only=True):
    """The upload is complete; `request` is one of its own."""

    job: str
    size: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    """Must be given here or in Submit; where in both, they must agree."""
    sha256: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")] = ""
    """Likewise."""
    options: JobOptions | None = None
    """In place of those in Submit, its `tag` apart, where that had no sha256; None: those hold."""


class List(_Message, frozen=True, kw_only=True):
    """Ask for the newest jobs."""

    states: tuple[str, ...] = ()
    """Only jobs in these states; empty for all."""
    limit: int = 100
    tag: str | None = None
    """Only jobs with this tag."""
    before: Annotated[str, Meta(max_length=64)] = ""
    """Only jobs that are older than this one."""
    name: Annotated[str, Meta(max_length=1_024)] = ""
    """Only jobs whose file has this in its name, capital letters or not."""


class Status(_Message, frozen=True, kw_only=True):
    """Ask for one job."""

    job: str


class Watch(_Message, frozen=True, kw_only=True):
    """Ask for the journal after an entry, and for what is added to it from now on."""

    after_seq: Annotated[int, Meta(ge=-1, le=2**63 - 1)] = 0
    """The last entry that the client has; -1: only what is new from now on."""
    job: Annotated[str, Meta(max_length=64)] | None = None
    """Only this job's entries."""


class Fetch(_Message, frozen=True, kw_only=True):
    """Ask for a job's subtitles."""

    job: str
    format: str = "srt"
    layout: LayoutOptions | None = None
    """Make the cues within these limits; None: those that the job was submitted with."""


class GetWaveform(_Message, frozen=True, kw_only=True):
    """Ask how loud a job's audio is."""

    job: str


class GetAudio(_Message, frozen=True, kw_only=True):
    """Ask for a stretch of a job's audio."""

    job: str
    start_ms: Annotated[int, Meta(ge=0, le=2**62)] = 0
    """In the time of the cues."""
    duration_ms: Annotated[int, Meta(ge=0, le=60_000)] = 0
    """0: only how much there is, and whether it can be heard."""


class Cancel(_Message, frozen=True, kw_only=True):
    """Ask that a job be ended."""

    job: str


class Retry(_Message, frozen=True, kw_only=True):
    """Ask that a failed job be tried again; only what is missing is decoded."""

    job: str


class Stats(_Message, frozen=True, kw_only=True):
    """Ask for workers, queue and speed."""


LogLevelName = Literal["debug", "info", "warning", "error"]


class SetLogLevel(_Message, frozen=True, kw_only=True):
    """Ask that the server log more or less, until it reads its configuration again; for an admin."""

    level: LogLevelName | None = None
    """None: only say which level is in force."""


# -- server → client ---------------------------------------------------------------------------------------------------


class Welcome(_Message, frozen=True, kw_only=True):
    """The answer to Hello."""

    server: str
    """Version of the daemon."""
    protocol: int
    model: str
    user: str = ""
    """Name of the key that the client has shown; empty on the local socket."""
    role: str = "admin"
    """"user" (sees and changes its own jobs) or "admin" (all)."""
    formats: tuple[str, ...] = ()
    """What Fetch can be asked for."""
    max_upload_bytes: int = 0


class Accepted(_Message, frozen=True, kw_only=True):
    """The answer to a Submit whose bytes are wanted."""

    job: str
    offset: int
    """Bytes that the server has already; the next Chunk begins here."""
    window_bytes: int
    """Bytes that may be under way: a Chunk may reach to the last UploadCredit's (or this) `offset` + `window_bytes`."""
    chunk_bytes: int
    """Longest blob of a Chunk."""


class UploadCredit(_Message, frozen=True, kw_only=True):
    """Bytes of an upload were written; `request` is that of its Submit."""

    job: str
    offset: int
    """All bytes before this one are written."""


class JobInfo(_Message, frozen=True, kw_only=True):
    """The answer to Status, Cancel, Retry and Commit, and to a Submit whose bytes are not wanted."""

    job: JobFacts


class JobList(_Message, frozen=True, kw_only=True):
    """The answer to List, newest first."""

    jobs: tuple[JobFacts, ...]


class Event(_Message, frozen=True, kw_only=True):
    """One journal entry; the answer to Watch, again and again."""

    seq: int
    at_ms: int
    subject: str
    """"job", "segment" or "worker"."""
    job: str
    name: str
    """A segment's index, a worker's identity."""
    before: str
    event: str
    after: str
    cause: str


class Subtitles(_Message, frozen=True, kw_only=True):
    """The answer to Fetch; one blob holds the file."""

    job: str
    format: str
    language: str | None
    name: str
    """A name for the file, without a folder."""


class WaveformInfo(_Message, frozen=True, kw_only=True):
    """The answer to GetWaveform; one blob holds the peaks, one byte for each interval: 0 for silence, 255 for full scale."""

    job: str
    interval_ms: int
    offset_ms: int
    """When the first interval begins, in the media's time."""
    audio_ms: int


class Audio(_Message, frozen=True, kw_only=True):
    """The answer to GetAudio; one blob holds the samples, 16 bits, little-endian, mono: fewer than asked for at the end."""

    job: str
    start_ms: int
    sample_rate: int
    total_samples: int
    """Of the whole, from the media's start."""


class StatsInfo(_Message, frozen=True, kw_only=True):
    """The answer to Stats."""

    workers: tuple[WorkerFacts, ...]
    jobs: dict[str, int]
    """How many jobs are in each state."""
    ready_segments: int
    leased_segments: int
    queued_bytes: int
    audio_ms: int
    """Audio of the segments that were transcribed since the start."""
    uptime_s: float
    last_seq: int
    queued_ms: int = 0
    """Audio in the server's memory: it waits for a worker, or is with one."""
    uploads: int = 0
    """Uploads under way."""
    spool_bytes: int = 0
    """Uploaded media on the server's disk."""
    waiting_ms: int = 0
    """Audio that was found in files and is not transcribed yet."""
    unread_files: int = 0
    """Files whose audio is not known, or not all of it."""
    unread_bytes: int = 0
    """Their size."""
    is_paused: bool = False
    """The disk is full: files that are not read yet wait."""
    is_draining: bool = False
    """The daemon is stopping: what is under way is finished, nothing is begun."""


class LogLevel(_Message, frozen=True, kw_only=True):
    """The answer to SetLogLevel."""

    level: str
    """What is in force now."""
    before: str
    """What was."""


class Error(_Message, frozen=True, kw_only=True):
    """The answer to what cannot be done; `code` is one of the protocol's."""

    code: str
    message: str


ToServer = (
    Hello
    | Submit
    | Chunk
    | Commit
    | List
    | Status
    | Watch
    | Fetch
    | GetWaveform
    | GetAudio
    | Cancel
    | Retry
    | Stats
    | SetLogLevel
)
ToClient = (
    Welcome
    | Accepted
    | UploadCredit
    | JobInfo
    | JobList
    | Event
    | Subtitles
    | WaveformInfo
    | Audio
    | StatsInfo
    | LogLevel
    | Error
)

MAX_BLOBS = 4
"""Of a message to the server: a Chunk has one, what a later version may add has few."""

to_server: Codec[ToServer] = Codec(ToServer, max_blobs=MAX_BLOBS)
to_client: Codec[ToClient] = Codec(ToClient)
