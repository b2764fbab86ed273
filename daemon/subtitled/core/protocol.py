"""The worker protocol: what daemon and worker processes say to each other.

Frames are those of `subtitle.codec`. Both sides come from one release: a worker of another version is refused, at JoinSession if it is
on another host, else at Ready.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from subtitle.codec import Codec
from subtitle.messages import WordTimestamps
from subtitled.config.schema import DecodingConfig
from subtitled.core.plan import Plan, Span
from subtitled.core.transcription import DecodingDecision, Phrase


class _Message(Struct, frozen=True, kw_only=True, tag=True):
    """A tagged Struct; fields that this version does not know are ignored."""


PROTOCOL = 1
"""Of the messages between hosts; another number, another language."""

ShortText = Annotated[str, Meta(max_length=200)]
"""Text that a worker on another host says of itself."""

WireCodec = Literal["pcm", "flac"]
"""What a lease's blobs are: int16 little-endian, 16 kHz mono; or the same as FLAC."""


class EngineSettings(Struct, frozen=True, kw_only=True):
    """How a transcribe worker decodes, wherever it runs."""

    model: str = ""
    compute_type: str = "auto"
    beam_size: int = 5
    batch_size: int = 16
    """0: what the device's memory has room for."""
    streams: int = 1
    """Batches decoded at once."""
    idle_unload_s: float = 0.0
    """Seconds without work after which the model leaves the memory; 0: never."""
    decoding: DecodingConfig = DecodingConfig()


class WorkerSettings(Struct, frozen=True, kw_only=True):
    """What a worker process is started with, as JSON on its command line."""

    identity: str
    role: str
    endpoint: str
    parent_pid: int
    heartbeat_s: float
    log_level: str
    log_format: str
    device: str = ""
    """"cpu" or "cuda" (the one GPU that CUDA_VISIBLE_DEVICES lets it see)."""
    wants_digest: bool = False
    """Ready is to tell the SHA-256 of the weights, which takes a second or a few."""
    cpu_threads: int = 0
    engine: EngineSettings = EngineSettings()


# -- worker → daemon ---------------------------------------------------------------------------------------------------


class JoinSession(_Message, frozen=True, kw_only=True):
    """A worker on another host begins a session; said again every two seconds until it is answered."""

    version: ShortText
    protocol: int
    place: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")]
    """What it is called on its host: "cuda0"."""
    device: ShortText = ""
    """For people: "CPU", or the GPU's name."""
    hostname: ShortText = ""
    previous: ShortText = ""
    """What this process was called in its last session."""


class Ready(_Message, frozen=True, kw_only=True):
    """The worker has loaded what it needs."""

    version: ShortText
    credit: Annotated[int, Meta(ge=1, le=64)]
    """Leases (or files) that it takes at once."""
    device: ShortText = ""
    """For people: "cpu", or the GPU's name."""
    model: str = ""
    window_samples: Annotated[int, Meta(ge=1)] | None = None
    languages: Annotated[tuple[ShortText, ...], Meta(max_length=1000)] = ()
    """Languages that the model has tokens for."""
    streams: Annotated[int, Meta(ge=1, le=64)] = 1
    """Leases that it decodes at once."""
    batch_size: Annotated[int, Meta(ge=1, le=256)] | None = None
    """Segments that it decodes at once."""
    load_s: float = 0.0
    """Seconds that loading the model took; 0 where it was loaded already, for an earlier session."""
    model_digest: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""
    """SHA-256 of the model's weights, in hex; "" where nobody asks."""
    compute_type: ShortText = ""
    """In which they were loaded."""


class Heartbeat(_Message, frozen=True, kw_only=True):
    """The worker is alive; a prepare worker also tells how far it is."""

    feed: int = 0
    decoded_samples: int = 0
    is_waiting: bool = False
    """It waits for credit."""


class Prepared(_Message, frozen=True, kw_only=True):
    """A planned segment; one blob: its PCM, int16 little-endian, 16 kHz mono."""

    feed: int
    plan: Plan


class Skip(Struct, frozen=True):
    """Speech that no segment holds, and why."""

    span: Span
    cause: str


class AlreadySubtitled(_Message, frozen=True, kw_only=True):
    """The file has subtitles already that make ours needless; nothing was read of it."""

    feed: int
    cause: str


class Media(Struct, frozen=True, kw_only=True):
    """What reading a file to its end has shown; stored with the job."""

    container: str = ""
    codec: str = ""
    sample_rate: int = 0
    channels: int = 0
    offset_samples: int = 0
    """The audio stream's own start time, in samples at 16 kHz; added to every time."""
    decoded_samples: int = 0
    speech_samples: int = 0
    bad_packets: int = 0
    drift_ms: int = 0
    """How far a timestamp was from where its audio came to be; much: a place in the file is found only by reading up to it."""
    skipped: tuple[Skip, ...] = ()


class Waveform(Struct, frozen=True, kw_only=True):
    """How loud a file's audio is; stored beside the job, since it is large and seldom asked for."""

    interval_ms: int
    peaks: bytes
    """One byte for each interval: 0 for silence, 255 for full scale."""


class PlanComplete(_Message, frozen=True, kw_only=True):
    """The file has been read to its end."""

    feed: int
    media: Media
    waveform: Waveform | None = None
    """None where only stored segments were cut again."""
    decode_s: float = 0.0
    vad_s: float = 0.0
    """Seconds that decoding it, and finding its speech, took; 0 where only stored segments were cut again."""


class SegmentResult(Struct, frozen=True, kw_only=True):
    """What the model made of one segment; stored with the segment."""

    phrases: tuple[Phrase, ...]
    language: str
    language_probability: float
    no_speech_prob: float = 0.0
    is_speech: bool = True
    temperature: float = 0.0
    fallbacks: int = 0
    """Windows of the segment that were decoded again because the result looked wrong."""
    decisions: tuple[DecodingDecision, ...] = ()
    translation: tuple[Phrase, ...] | None = None
    """The same in English, where that was asked for too; None where it is English already, or silence."""


class ItemResult(Struct, frozen=True, kw_only=True):
    """The answer for one segment of a lease."""

    job: str
    index: int
    result: SegmentResult


class Transcribed(_Message, frozen=True, kw_only=True):
    """A lease is done."""

    lease: int
    items: tuple[ItemResult, ...]
    features_s: float
    decode_s: float
    load_s: float = 0.0
    """Seconds that loading the model again took, where it had left the memory."""


class Unloaded(_Message, frozen=True, kw_only=True):
    """There was nothing to do for long: the model has left the memory, and comes back with the next lease."""


class Echo(_Message, frozen=True, kw_only=True):
    """The answer to a Probe, at once."""

    stamp_s: float
    """The Probe's."""
    clock_s: float = 0.0
    """The time of day at the worker, in seconds since 1970."""


class Received(_Message, frozen=True, kw_only=True):
    """A lease has arrived whole; said at once by a worker on another host."""

    lease: int


class WorkerLeaves(_Message, frozen=True, kw_only=True):
    """The worker is asked to go: it finishes what it holds, and wants nothing more."""

    cause: ShortText


class ExitReason(_Message, frozen=True, kw_only=True):
    """Why the worker is about to exit, or that it goes as it was told, if it is on another host; it says nothing more."""

    cause: str


class Refused(_Message, frozen=True, kw_only=True):
    """A file (`feed`) or a lease (`lease`) cannot be done; the worker itself is well."""

    feed: int = 0
    lease: int = 0
    cause: str


# -- daemon → worker ---------------------------------------------------------------------------------------------------


class PlanSettings(Struct, frozen=True, kw_only=True):
    """The settings that decide a plan; a job is planned again with those of its first plan."""

    threshold: float
    min_silence_ms: int
    pad_ms: int
    min_speech_ms: int
    max_segment_s: int
    window_samples: int
    """What the model saw at once when the file was first planned; 0 while no model is loaded."""


class SkipRule(Struct, frozen=True, kw_only=True):
    """When a file is not to be read: it has subtitles already, inside or in files beside it."""

    rule: str
    """"any", or "language": those in the language that ours would have."""
    language: str | None
    """That language; None: the one that the file's audio track names."""
    source: bytes
    """Path that the file was found at, which names the subtitles that belong to it."""
    folders: tuple[bytes, ...]
    """Where they are looked for."""
    ours: tuple[bytes, ...]
    """Files that were written for this source, which do not count."""


class Prepare(_Message, frozen=True, kw_only=True):
    """Read a file: plan it, or cut the segments of `plans` once more."""

    feed: int
    path: bytes
    size: int
    mtime_ns: int
    recipe: PlanSettings
    language: str | None
    """Prefer the audio track in this language."""
    plans: tuple[Plan, ...] | None
    done: frozenset[int]
    """Indices whose PCM is not wanted."""
    credit_bytes: int
    unless: SkipRule | None = None


class FeedCredit(_Message, frozen=True, kw_only=True):
    """So many more bytes of PCM may be sent for this job."""

    feed: int
    bytes: int


class Abandon(_Message, frozen=True, kw_only=True):
    """Nobody wants this file any more; stop reading it, without an answer."""

    feed: int


class Item(Struct, frozen=True, kw_only=True):
    """One segment of a lease; its sound is the blob at the same place."""

    job: str
    index: int
    language: str | None
    """None: detect it."""
    task: str
    is_translated_too: bool = False
    initial_prompt: str = ""
    hotwords: str = ""
    codec: WireCodec = "pcm"
    """Of its blob."""


class Transcribe(_Message, frozen=True, kw_only=True):
    """A lease; one blob of sound for each item."""

    lease: int
    items: tuple[Item, ...]
    word_timestamps: WordTimestamps
    """"auto": the worker decides window by window."""


class Drain(_Message, frozen=True, kw_only=True):
    """Finish what you hold, then exit."""


class SessionAccepted(_Message, frozen=True, kw_only=True):
    """The worker is taken, under this name; it loads the model, unless it has it, and says Ready."""

    identity: str
    heartbeat_s: float
    silence_s: float
    """Either side takes the other for gone that it has not heard for so long."""
    engine: EngineSettings


class SessionRefused(_Message, frozen=True, kw_only=True):
    """The worker is not wanted."""

    cause: str
    is_final: bool
    """It will not be so either when it comes again as it is."""


class SessionUnknown(_Message, frozen=True, kw_only=True):
    """What was said belongs to no session: begin another."""


class Probe(_Message, frozen=True, kw_only=True):
    """The daemon lives; to be answered with an Echo at once."""

    stamp_s: float


FromWorker = (
    JoinSession
    | Ready
    | Heartbeat
    | Prepared
    | PlanComplete
    | AlreadySubtitled
    | Transcribed
    | Unloaded
    | Refused
    | Echo
    | Received
    | WorkerLeaves
    | ExitReason
)
ToWorker = (
    Prepare
    | FeedCredit
    | Abandon
    | Transcribe
    | Drain
    | SessionAccepted
    | SessionRefused
    | SessionUnknown
    | Probe
)

from_worker: Codec[FromWorker] = Codec(FromWorker)
to_worker: Codec[ToWorker] = Codec(ToWorker)
