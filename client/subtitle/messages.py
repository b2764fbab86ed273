"""The client protocol's messages; docs/protocol.md specifies them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from subtitle.codec import Codec

PROTOCOL = 1


class _Message(Struct, frozen=True, kw_only=True, tag=True):
    """A tagged Struct. `request` is chosen by the client and comes back in every answer."""

    request: int


# -- client → server ---------------------------------------------------------------------------------------------------


class Hello(_Message, frozen=True, kw_only=True):
    """Ask who is there."""


class List(_Message, frozen=True, kw_only=True):
    """Ask for the newest jobs."""

    states: tuple[str, ...] = ()
    """Only jobs in these states; empty for all."""
    limit: int = 100


class Status(_Message, frozen=True, kw_only=True):
    """Ask for one job."""

    job: str


class Watch(_Message, frozen=True, kw_only=True):
    """Ask for the journal after an entry, and for what is added to it from now on."""

    after_seq: Annotated[int, Meta(ge=-1, le=2**63 - 1)] = 0
    """The last entry that the client has; -1: only what is new from now on."""
    job: str | None = None
    """Only this job's entries."""


class Fetch(_Message, frozen=True, kw_only=True):
    """Ask for a job's subtitles."""

    job: str
    format: str = "srt"


class Cancel(_Message, frozen=True, kw_only=True):
    """Ask that a job be ended."""

    job: str


class Retry(_Message, frozen=True, kw_only=True):
    """Ask that a failed job be tried again; only what is missing is decoded."""

    job: str


class Stats(_Message, frozen=True, kw_only=True):
    """Ask for workers, queue and speed."""


# -- server → client ---------------------------------------------------------------------------------------------------


class Welcome(_Message, frozen=True, kw_only=True):
    """The answer to Hello."""

    server: str
    """Version of the daemon."""
    protocol: int
    model: str


class JobFacts(Struct, frozen=True, kw_only=True):
    """One job as a client sees it; times in milliseconds of the Unix epoch."""

    id: str
    state: str
    source: str
    """The media file's path, with U+FFFD for what is not UTF-8."""
    language: str | None
    task: str
    created_ms: int
    started_ms: int | None
    ended_ms: int | None
    cause: str
    audio_ms: int
    """Length of the audio; 0 while it is not known."""
    segments: dict[str, int] = {}
    """How many segments are in each state."""
    decoded_ms: int = 0
    """How much of the audio has been read, while it is read."""
    outputs: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    """Spans of a failed job that have no text: "start_ms end_ms cause"."""


class JobInfo(_Message, frozen=True, kw_only=True):
    """The answer to Status, Cancel and Retry."""

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


class WorkerFacts(Struct, frozen=True, kw_only=True):
    """One worker slot."""

    slot: str
    role: str
    state: str
    incarnation: int
    device: str
    leases: int
    job: str
    """What a prepare worker reads."""
    cause: str


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


class Error(_Message, frozen=True, kw_only=True):
    """The answer to what cannot be done; `code` is one of the protocol's."""

    code: str
    message: str


ToServer = Hello | List | Status | Watch | Fetch | Cancel | Retry | Stats
ToClient = Welcome | JobInfo | JobList | Event | Subtitles | StatsInfo | Error

to_server: Codec[ToServer] = Codec(ToServer)
to_client: Codec[ToClient] = Codec(ToClient)
