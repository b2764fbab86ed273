"""The frozen records that the broker keeps: job, segment, worker, lease."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from subtitle.messages import LayoutOptions, VadOptions, WordTimestamps
from subtitled.core.plan import Plan, PlanSettings
from subtitled.core.states import JobState, SegmentState, WorkerState
from subtitled.core.throughput import Throughput


class SegmentKey(Struct, frozen=True, order=True):
    """Names one segment: its job's id and its index in the plan."""

    job: str
    index: int


class Options(Struct, frozen=True, kw_only=True):
    """What was asked of one job; never changes."""

    language: str = "auto"
    """A Whisper language code, "auto" (one language per file, by vote) or "multi" (each segment its own)."""
    task: str = "transcribe"
    is_translated_too: bool = False
    """Its segments are decoded once more, translated to English, and subtitles in both languages are written."""
    initial_prompt: str = ""
    """Text that counts as said before each segment: names, style, punctuation."""
    hotwords: str = ""
    """Words to be expected in each segment."""
    formats: tuple[str, ...] = ("srt",)
    bom: bool = False
    newline: str = "lf"
    karaoke: bool = False
    flags: tuple[str, ...] = ()
    """What the names of the subtitles tell players beside the language: "default", "sdh", "forced"."""
    skip_existing: str = "never"
    """Which subtitles that the file has already make ours needless: "any", those in the "language", "never"."""
    word_timestamps: WordTimestamps = "auto"
    drop_unsaid: bool = True
    """Leave out stock phrases and loops that nobody said."""
    marks: bool = True
    """Keep marks of music and noise."""
    chinese: str = "off"
    """How Chinese text is written: "tw", "hk", "cn", or "off": as the model has it."""
    priority: int = 0
    vad: VadOptions = VadOptions()
    """What differs from the server's own settings for finding speech."""
    layout: LayoutOptions = LayoutOptions()
    """What differs from the usual limits of cues."""
    after: str = "keep"
    """What becomes of the source: "move", "keep" or "delete"."""
    inbox: bytes = b""
    """Root of the inbox that took the file, as the file system's bytes."""
    output: bytes = b"beside"
    """Folder of the subtitles, or b"beside"; b"": none are written, whoever submitted the file fetches them."""

    @property
    def passes(self) -> int:
        """How often the model decodes each segment."""
        return 2 if self.is_translated_too else 1


class Job(Struct, frozen=True, kw_only=True):
    """One media file on its way to subtitles."""

    id: str
    state: JobState
    source: bytes
    """Path that the media file was found at, as the file system's bytes."""
    location: bytes
    """Where the media file is now: its source, or the archive it was moved to."""
    size: int
    mtime_ns: int
    options: Options
    order: int
    """Counts up with every job; earlier jobs of one priority are prepared first."""
    losses: int = 0
    """Prepare workers that this file has taken down."""
    plan_settings: PlanSettings | None = None
    """The settings of its first plan: a plan made again must be the same. None: not planned yet."""
    is_planned: bool = False
    """The whole plan is stored."""
    language: str | None = None
    """The settled language; None while it is open, and for "multi"."""
    language_probability: float = 0.0
    cause: str = ""
    """Why the job failed, or why it is needless."""
    is_closed: bool = False
    """A failed job whose files (partial, error text, the source's move) are in place."""
    owner: str = ""
    """Name of the client's key that submitted it; empty for inboxes and the local socket."""
    tag: str = ""
    """The client's own note."""
    sha256: str = ""
    """Of an uploaded file, in hexadecimal; empty while it is not known, and for files that were found."""
    repetition: int = 0
    """Not 0 for a file that was submitted again on purpose: then it is a number of its own."""

    @property
    def is_needless(self) -> bool:
        """The file has subtitles already, as `cause` says: none of ours are written."""
        return bool(self.cause) and self.state in {JobState.WRITING, JobState.DONE}


class Segment(Struct, frozen=True, kw_only=True):
    """What the model sees at once, and how far it is."""

    key: SegmentKey
    state: SegmentState
    plan: Plan
    has_pcm: bool = False
    """Its PCM waits in the daemon's memory."""
    losses: int = 0
    """Workers that this segment was with when they were lost, and refusals."""
    cause: str = ""
    """Why it was last lost, or buried."""
    language: str | None = None
    """The language it was decoded in."""
    language_probability: float = 0.0

    @property
    def samples(self) -> int:
        """Length in samples at 16 kHz."""
        return self.plan.samples


class Role(Enum):
    """The two kinds of worker."""

    PREPARE = "prepare"
    TRANSCRIBE = "transcribe"


class Lease(Struct, frozen=True, kw_only=True):
    """A batch of segments given to one worker until a deadline."""

    id: int
    worker: str
    """Identity, `slot.incarnation`."""
    keys: tuple[SegmentKey, ...]
    samples: int
    """What is decoded, twice where it is translated too."""
    windows: int = 0
    """Segments, those that are decoded twice counted twice."""
    pcm_bytes: int = 0
    is_received: bool = True
    """It has reached its worker; to another host it is under way for a while."""
    begun_at: float = float("inf")
    """When its turn came; infinity before that, and where the model had to be loaded first."""
    due_at: float = float("inf")
    """When it is overdue: to arrive, then to be done; infinity until it is its turn."""


class Feed(Struct, frozen=True, kw_only=True):
    """One file being read by one prepare worker."""

    id: int
    """Counts up; what a worker still says about an earlier feed is recognised as late."""
    job: str
    wanted: frozenset[int] | None
    """Segments of a stored plan whose PCM is asked for again; None when the file is being planned."""
    granted_bytes: int = 0
    received_bytes: int = 0
    decoded_samples: int = 0
    is_waiting: bool = False
    """The worker says that it waits for credit."""
    progressed_at: float = 0.0


class Worker(Struct, frozen=True, kw_only=True):
    """A worker slot and the process that fills it, or the session of one on another host."""

    slot: str
    role: Role
    state: WorkerState
    incarnation: int = 1
    credit: int = 1
    """Leases it may hold at once."""
    streams: int = 1
    """Leases it decodes at once; the others wait their turn."""
    batch_size: int | None = None
    """Segments it decodes at once; None: as many as the policy says."""
    is_loaded: bool = True
    """Its model is in memory; else the next lease takes as much longer as loading does."""
    leases: tuple[int, ...] = ()
    """Ids of the leases it holds, those it works on first."""
    feed: Feed | None = None
    heard_at: float = 0.0
    due_at: float = float("inf")
    """When it is overdue: to be ready, with its lease, to leave BACKOFF or BROKEN, or to be forgotten."""
    crashes: tuple[float, ...] = ()
    """When it crashed lately."""
    failures: int = 0
    """Its crashes and refused leases since it last finished a lease or a file."""
    device: str = ""
    cause: str = ""
    """Why it was last lost, is leaving, or is broken."""
    blamed: tuple[SegmentKey, ...] | None = None
    """What was blamed when nothing more was heard of it, and forgiven if its process turns out to live. None: it ended otherwise."""
    is_remote: bool = False
    """It is on another host, came by itself, and nobody here starts another in its place."""
    pace: Throughput = Throughput()
    """How fast it is."""
    round_trip_s: float = 0.0
    bytes_per_s: float | None = None
    """PCM that reaches it in a second; None: not known."""

    @property
    def identity(self) -> str:
        """Name of this incarnation on the wire; a late reply of an earlier one does not match it."""
        return f"{self.slot}.{self.incarnation}"

    @property
    def is_hopeless(self) -> bool:
        """It is broken, and will not be tried again by itself: its process said that this cannot help."""
        return self.state is WorkerState.BROKEN and self.due_at == float("inf")
