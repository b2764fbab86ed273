"""The worker protocol: the messages between the daemon and its worker processes.

The broker takes them as they are (`events.MessageReceived`) and sends them as they are (`actions.SendMessage`). Frames are those of
`subtitle.codec`. Both sides come from one release: a worker of another version is refused, at JoinSession if it is on
another host, else at WorkerReady.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from subtitle.codec import Codec
from subtitle.messages import AudioChoice, EditedCue, WordTimestamps
from subtitled.config.model_choice import DEFAULT_MODEL
from subtitled.config.schema import DecodingConfig
from subtitled.core.plan import Plan, PlanSettings, SegmentSound, SkippedSpan
from subtitled.core.records import SegmentKey
from subtitled.core.transcription import DecodingDecision, Phrase, Probability, SegmentMs, Temperature
from subtitled.core.translation import SentenceTranslation, TranslationRequest


class _Message(Struct, frozen=True, kw_only=True, tag=True):
    """A tagged Struct; unknown fields are ignored."""


PROTOCOL = 1
"""Version of the messages between hosts."""

ShortText = Annotated[str, Meta(max_length=200)]
"""Text from a worker on another host."""

Seconds = Annotated[float, Meta(ge=0.0, le=86_400.0)]
"""A duration that a worker has measured."""

Count = Annotated[int, Meta(ge=0, le=2**48)]

WINDOW_SAMPLES = 480_000
"""Window of every Whisper model: 30 s at 16 kHz."""

MAX_RESULT_BYTES = 512 * 1024
"""Encoded result of one segment; 448 tokens with word times, twice, have less than 100 KiB."""

WireCodec = Literal["pcm", "flac"]
"""Encoding of a lease's blobs: int16 little-endian, 16 kHz mono; or the same as FLAC."""


EngineKind = Literal["whisper", "ctranslate2", "openai"]
"""What runs a model: faster-whisper for audio; CTranslate2, or a chat endpoint, for text."""


class EndpointSettings(Struct, frozen=True, kw_only=True):
    """A chat endpoint with OpenAI's interface that translates."""

    url: str
    """Its base, such as "http://127.0.0.1:11434/v1"."""
    model: str
    """The model's name there."""
    api_key_file: str = ""
    """A file whose content, stripped, is the key; "": none is sent."""
    max_concurrent: int = 2
    """Requests at once."""


class EngineSettings(Struct, frozen=True, kw_only=True):
    """How a worker runs a model, on any host."""

    kind: EngineKind = "whisper"
    model: str = ""
    """Source of the model: a size, a hub id or a folder; of an endpoint, its model's name there."""
    endpoint: EndpointSettings | None = None
    """With the kind "openai"."""
    compute_type: str = "auto"
    beam_size: int = 5
    batch_size: int = 16
    """0: as many segments as fit into the device's memory."""
    streams: int = 1
    """Batches decoded at once."""
    idle_unload_s: float = 0.0
    """Idle seconds after which the model is unloaded; 0: never."""
    decoding: DecodingConfig = DecodingConfig()


class WorkerSettings(Struct, frozen=True, kw_only=True):
    """Settings of a worker process: JSON on its command line."""

    identity: str
    role: str
    endpoint: str
    parent_pid: int
    heartbeat_s: float
    log_level: str
    log_format: str
    device: str = ""
    """"cpu" or "cuda" (the one GPU in CUDA_VISIBLE_DEVICES)."""
    wants_digest: bool = False
    """WorkerReady must have the SHA-256 of the weights; computing it takes a few seconds."""
    cpu_threads: int = 0
    engine: EngineSettings = EngineSettings()
    """Of the default model."""
    readable: tuple[str, ...] = ()
    """Folders that a prepare worker may read besides the system's."""
    hung: tuple[str, ...] = ()
    """Folders among them that did not answer when the worker started; it cannot read them."""
    memory_bytes: int = 0
    """Limit of a prepare worker's address space; 0: none."""
    max_hours: float = 0.0
    """Longest audio that a prepare worker reads; 0: no limit."""
    descriptors: int = -1
    """Descriptor of the socket through which it receives others; -1: none."""


# -- worker → daemon ---------------------------------------------------------------------------------------------------


class JoinSession(_Message, frozen=True, kw_only=True):
    """A worker on another host opens a session; sent every two seconds until it is answered."""

    version: ShortText
    protocol: int
    place: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")]
    """Name of the worker on its host, such as "cuda0"."""
    device: ShortText = ""
    """Display name: "CPU", or the GPU's name."""
    hostname: ShortText = ""
    previous: ShortText = ""
    """Identity of this process in its last session."""


ModelName = Annotated[str, Meta(max_length=100)]
"""DEFAULT_MODEL, or the name of a model of `[[models]]`."""


class HeldModel(Struct, frozen=True, kw_only=True):
    """A model that a worker has loaded."""

    name: ModelName = DEFAULT_MODEL
    batch_size: Annotated[int, Meta(ge=1, le=256)] | None = None
    """Segments that are decoded at once; None: the policy's number."""
    streams: Annotated[int, Meta(ge=1, le=64)] | None = None
    """Leases of it that are decoded at once; None: as many as the worker has streams."""
    languages: Annotated[tuple[ShortText, ...], Meta(max_length=1000)] = ()
    """Languages that the model has tokens for."""
    load_s: Seconds = 0.0
    """Seconds that loading it took."""
    memory_bytes: Count = 0
    """Memory that it took, as measured; 0 if unknown."""
    digest: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""
    """SHA-256 of its weights, in hex; "" if `WorkerSettings.wants_digest` is False."""


class WorkerReady(_Message, frozen=True, kw_only=True):
    """The worker has loaded what it needs; its model is the default one."""

    version: ShortText
    credit: Annotated[int, Meta(ge=1, le=64)]
    """Leases (or files) that it takes at once."""
    device: ShortText = ""
    """Display name: "cpu", or the GPU's name."""
    is_cpu: bool = False
    """It decodes on a CPU."""
    model: ShortText = ""
    window_samples: Annotated[int, Meta(ge=1, le=WINDOW_SAMPLES)] | None = None
    """Samples that the model sees at once; None from a prepare worker."""
    languages: Annotated[tuple[ShortText, ...], Meta(max_length=1000)] = ()
    """Languages that the model has tokens for."""
    streams: Annotated[int, Meta(ge=1, le=64)] = 1
    """Leases that it decodes at once."""
    batch_size: Annotated[int, Meta(ge=1, le=256)] | None = None
    """Segments that it decodes at once; None: the policy's number."""
    load_s: Seconds = 0.0
    """Seconds that loading the model took; 0 if an earlier session loaded it."""
    model_digest: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""
    """SHA-256 of the model's weights, in hex; "" if `WorkerSettings.wants_digest` is False."""
    compute_type: ShortText = ""
    """Compute type of the loaded weights."""
    memory_bytes: Count = 0
    """Memory that the model took, as measured; 0 if unknown."""
    free_bytes: Count | None = None
    """Free memory of its device; None if unknown."""
    has_default: bool = True
    """It holds the default model; False if an earlier session has unloaded it."""
    stale_models: Annotated[tuple[ModelName, ...], Meta(max_length=64)] = ()
    """Other models that it holds since earlier sessions; the daemon may have other settings for them now."""


class LeaseProgress(Struct, frozen=True, kw_only=True):
    """Calls of the model that are done for a lease, fallbacks included."""

    lease: Count
    steps: Count


class Heartbeat(_Message, frozen=True, kw_only=True):
    """The worker is alive; with the progress of a prepare worker's file, or of a transcribe worker's leases."""

    feed: Count = 0
    decoded_samples: Count = 0
    is_waiting: bool = False
    """It waits for credit."""
    leases: Annotated[tuple[LeaseProgress, ...], Meta(max_length=64)] = ()


class Prepared(_Message, frozen=True, kw_only=True):
    """A planned segment; one blob: its PCM, int16 little-endian, 16 kHz mono. None if that is in the file's shared memory."""

    feed: int
    plan: Plan
    place: int | None = None
    """Where it is there; places are `shared_pcm.PLACE_BYTES` apart."""


class AlreadySubtitled(_Message, frozen=True, kw_only=True):
    """The file already has the subtitles that its SkipRule names; nothing of it was decoded."""

    feed: int
    cause: str


class Media(Struct, frozen=True, kw_only=True):
    """Facts found by reading a file to its end; stored with the job."""

    container: ShortText = ""
    codec: ShortText = ""
    sample_rate: Count = 0
    channels: Count = 0
    offset_samples: Annotated[int, Meta(ge=-(2**48), le=2**48)] = 0
    """The audio stream's own start time, in samples at 16 kHz; added to every time."""
    track_offsets: dict[int, int] = {}
    """`offset_samples` of each track that is transcribed, by its number; empty if it is one."""
    decoded_samples: Count = 0
    speech_samples: Count = 0
    bad_packets: Count = 0
    damaged: Annotated[tuple[tuple[Count, Count], ...], Meta(max_length=1000)] = ()
    """Where audio is lost, since the file is damaged or cut: start and end in ms of media time."""
    drift_ms: Annotated[int, Meta(ge=-(2**48), le=2**48)] = 0
    """Largest distance between a timestamp and the position of its audio; if large, a place in the file is found only by
    reading up to it."""
    skipped: tuple[SkippedSpan, ...] = ()
    audio: AudioChoice | None = None
    """Track and mix that were decoded; None for files that an earlier release read."""

    def offset_of(self, track: int) -> int:
        """Return the start time of a track, in samples."""
        return self.track_offsets.get(track, self.offset_samples)

    @property
    def damaged_s(self) -> tuple[tuple[float, float], ...]:
        """Where audio is lost, in seconds."""
        return tuple((start_ms / 1000, end_ms / 1000) for start_ms, end_ms in self.damaged)


class Waveform(Struct, frozen=True, kw_only=True):
    """Loudness of a file's audio; stored beside the job, since it is large and rarely read."""

    interval_ms: Annotated[int, Meta(ge=1, le=2**31)]
    peaks: Annotated[bytes, Meta(max_length=2**17)]
    """One byte for each interval: 0 for silence, 255 for full scale."""


class PlanComplete(_Message, frozen=True, kw_only=True):
    """The file has been read to its end."""

    feed: int
    media: bytes
    """A Media in msgpack, stored as it is."""
    waveform: bytes | None = None
    """A Waveform in msgpack, stored as it is; None if only stored segments were read again."""
    decode_s: Seconds = 0.0
    vad_s: Seconds = 0.0
    """Seconds of decoding and of voice detection; 0 if only stored segments were read again."""
    cues: Annotated[tuple[EditedCue, ...], Meta(max_length=50_000)] | None = None
    """The cues of a subtitle file; None for audio."""
    language: ShortText = ""
    """Their language."""


class PrepareRefused(_Message, frozen=True, kw_only=True):
    """The file cannot be read; the file is at fault, the worker is not."""

    feed: int
    cause: str
    is_missing: bool = False
    """There is no such file; its mount may have gone."""


class FileUnavailable(_Message, frozen=True, kw_only=True):
    """The file system cannot read the file now; the file is at fault only if its folder answers."""

    feed: int
    cause: str


class FileAbandoned(_Message, frozen=True, kw_only=True):
    """The worker has stopped reading a file, after Abandon."""

    feed: int


class SegmentResult(Struct, frozen=True, kw_only=True):
    """The model's result for one segment; stored with the segment."""

    phrases: Annotated[tuple[Phrase, ...], Meta(max_length=500)]
    language: ShortText
    language_probability: Probability
    no_speech_prob: Probability = 0.0
    is_speech: bool = True
    temperature: Temperature = 0.0
    fallbacks: Annotated[int, Meta(ge=0, le=1000)] = 0
    """Windows that were decoded again because the result looked wrong."""
    decisions: Annotated[tuple[DecodingDecision, ...], Meta(max_length=1000)] = ()
    windows: Annotated[int, Meta(ge=0, le=1000)] = 0
    """Windows that were decoded: one, and one for each stretch of speech that was decoded again."""
    unheard: Annotated[tuple[tuple[SegmentMs, SegmentMs], ...], Meta(max_length=500)] = ()
    """Speech without text: its start and end in ms of segment time."""
    translation: Annotated[tuple[Phrase, ...], Meta(max_length=500)] | None = None
    """The phrases in English, if that was requested too; None if they are English already, or silence."""


class ResultSummary(Struct, frozen=True, kw_only=True):
    """The fields of a SegmentResult that metrics count; decoding it skips the phrases."""

    is_speech: bool = True
    language: str = ""
    decisions: tuple[DecodingDecision, ...] = ()
    unheard: tuple[tuple[int, int], ...] = ()


class ItemResult(Struct, frozen=True, kw_only=True):
    """The result for one segment of a lease."""

    key: SegmentKey
    is_speech: bool
    """False: the model found no speech; the segment is skipped."""
    language: ShortText
    language_probability: Probability
    result: Annotated[bytes, Meta(max_length=MAX_RESULT_BYTES)]
    """The SegmentResult in msgpack, stored as it is; it repeats the three fields above."""

    @staticmethod
    def of(key: SegmentKey, result: SegmentResult) -> ItemResult:
        """Return a segment's result in the form that is sent and stored."""
        return ItemResult(
            key=key,
            is_speech=result.is_speech,
            language=result.language,
            language_probability=result.language_probability,
            result=msgspec.msgpack.encode(result),
        )


class SegmentsTranscribed(_Message, frozen=True, kw_only=True):
    """Some segments of a lease are done, others are still decoded; Transcribed repeats their results."""

    lease: int
    items: Annotated[tuple[ItemResult, ...], Meta(max_length=256)]


class LeaseAnswer(_Message, frozen=True, kw_only=True):
    """What every answer to a lease reports: how the worker's models have changed."""

    lease: int
    loaded: HeldModel | None = None
    """The model of the lease, if it was loaded for it, or the lease has `is_load`."""
    evicted: Annotated[tuple[ModelName, ...], Meta(max_length=64)] = ()
    """Models that were unloaded for it, or in vain."""
    free_bytes: Count | None = None
    """Free memory of the device after the load; None if unknown, and without a load."""


class Transcribed(LeaseAnswer, frozen=True, kw_only=True):
    """A lease is done."""

    items: Annotated[tuple[ItemResult, ...], Meta(max_length=256)]
    features_s: Seconds = 0.0
    decode_s: Seconds = 0.0
    load_s: Seconds = 0.0
    """Seconds that loading the model again took, after an idle unload."""


class TextResult(Struct, frozen=True, kw_only=True):
    """The translations of one text segment of a lease."""

    key: SegmentKey
    sentences: Annotated[tuple[SentenceTranslation, ...], Meta(min_length=1, max_length=100)]
    """One for each sentence of its request, in order."""
    engine: ShortText
    """"ctranslate2" or "openai"."""
    version: ShortText
    """The model and its version, for the JSON output."""
    tokens: Count = 0
    """Tokens of input and output that it took; 0 if unknown."""


class Translated(LeaseAnswer, frozen=True, kw_only=True):
    """A lease of text segments is done."""

    results: Annotated[tuple[TextResult, ...], Meta(max_length=256)]
    decode_s: Seconds = 0.0
    load_s: Seconds = 0.0
    """Seconds that loading the model again took, after an idle unload."""


class LeaseRefused(LeaseAnswer, frozen=True, kw_only=True):
    """A lease cannot be done; the worker itself still works."""

    cause: str
    is_model_fault: bool = False
    """The worker cannot load the model of the lease; its segments are not the reason."""


class LeaseAbandoned(LeaseAnswer, frozen=True, kw_only=True):
    """The worker has dropped a lease, after AbandonLease."""


class ModelUnloaded(_Message, frozen=True, kw_only=True):
    """A model was unloaded after the idle timeout, or after FreeModel; the next lease loads it again."""

    model: ModelName = DEFAULT_MODEL


class Echo(_Message, frozen=True, kw_only=True):
    """The immediate answer to a Probe."""

    stamp_s: float
    """The Probe's."""
    clock_s: Annotated[float, Meta(ge=0.0, le=1e11)] = 0.0
    """The worker's wall clock, in seconds since 1970."""


class LeaseReceived(_Message, frozen=True, kw_only=True):
    """A lease has arrived whole; sent at once by a worker on another host."""

    lease: int


class WorkerLeaving(_Message, frozen=True, kw_only=True):
    """The worker received a request to stop: it finishes its leases and takes no more."""

    cause: ShortText


class DownloadProgress(_Message, frozen=True, kw_only=True):
    """How much of a model a download process has received."""

    done_bytes: Count
    total_bytes: Count = 0
    """Size of the model's files; 0 if unknown."""


class ExitReason(_Message, frozen=True, kw_only=True):
    """Why the worker exits; its last message."""

    cause: str


# -- daemon → worker ---------------------------------------------------------------------------------------------------


class SkipRule(Struct, frozen=True, kw_only=True):
    """When a file is not to be read: it has subtitles already, inside or in files beside it."""

    rule: str
    """"any", or "language": those in the language of this job's subtitles."""
    language: str | None
    """Language for `skip_existing = "language"`; None: that of the audio track's tag."""
    source: bytes
    """Path that the file was found at; subtitle files beside it are named after it."""
    folders: tuple[bytes, ...]
    """Where subtitle files are searched."""
    ours: tuple[bytes, ...]
    """Files that this daemon wrote for the source; they do not count."""


class Prepare(_Message, frozen=True, kw_only=True):
    """Read a file: plan it, or cut the segments of `plans` once more."""

    feed: int
    path: bytes
    root: bytes
    """Folder that no link in `path` may lead out of: the inbox; b"" for the folder of the file."""
    include: tuple[str, ...] = ()
    """Globs of the inbox: a file that was renamed is read only at a path that they accept."""
    exclude: tuple[str, ...] = ()
    size: int
    mtime_ns: int
    settings: PlanSettings
    language: str | None
    """Prefer the audio track in this language."""
    audio_track: str = "auto"
    """Transcribe only this track, or those in this language; "auto": the first with speech."""
    channels: str = "mix"
    plans: tuple[Plan, ...] | None
    """Stored segments whose PCM is needed again; None to plan the file."""
    done: frozenset[int]
    """Indices of segments whose PCM must not be sent."""
    credit_bytes: int
    skip_rule: SkipRule | None = None
    """None: read the file in any case."""
    is_subtitle_file: bool = False
    """Read the cues of a subtitle file."""
    has_memory: bool = False
    """A descriptor of shared memory for the PCM was sent, with the feed as its tag."""


class FeedCredit(_Message, frozen=True, kw_only=True):
    """Send up to `bytes` more bytes of PCM of this file."""

    feed: int
    bytes: int
    free_places: tuple[int, ...] = ()
    """Places in the file's shared memory that may be written again."""


class Abandon(_Message, frozen=True, kw_only=True):
    """Stop reading this file; answered with FileAbandoned, unless a final message was sent before."""

    feed: int


class FreeModel(_Message, frozen=True, kw_only=True):
    """Unload a model after the leases that were sent before; answered with ModelUnloaded."""

    model: str


class KeepModel(_Message, frozen=True, kw_only=True):
    """Change whether a model is unloaded after the idle timeout, from the leases on that are sent later; has no answer."""

    model: str
    is_kept: bool


class AbandonLease(_Message, frozen=True, kw_only=True):
    """Drop this lease; answered with LeaseAbandoned, unless its result was sent before."""

    lease: int


class SharedPcm(Struct, frozen=True, kw_only=True):
    """PCM in shared memory; its descriptor was sent, with the lease as the tag."""

    descriptor: int
    """Which one of those descriptors."""
    place: int
    """Place of the segment in that memory."""
    size: int
    """Bytes."""


class LeaseItem(Struct, frozen=True, kw_only=True):
    """One segment of a lease; its audio is in shared memory, or in a blob, in the order of the items."""

    key: SegmentKey
    language: str | None
    """None: detect it; "multi": detect it for each part of the segment."""
    is_language_given: bool = False
    """The language is the job's option, not the result of a vote: the same for all attempts."""
    task: str
    is_translated_too: bool = False
    initial_prompt: str = ""
    hotwords: str = ""
    codec: WireCodec = "pcm"
    """Encoding of its blob."""
    shared: SharedPcm | None = None
    """Where its PCM is, on this host; None: in a blob."""
    sound: SegmentSound = SegmentSound()
    """Where it has speech; without any, all of it counts as speech."""


class LeaseOrder(_Message, frozen=True, kw_only=True):
    """What every lease has: its model, and how to load it."""

    lease: int
    model: str = DEFAULT_MODEL
    """A model that the worker holds, unless `is_load`."""
    is_load: bool = False
    """Load the model first; the worker has no other leases. Without items it is only loaded."""
    is_kept: bool = False
    """With `is_load`: do not unload it after the idle timeout."""
    engine: EngineSettings | None = None
    """With `is_load`: how to load it; None: the settings that the worker was started with."""
    evict: tuple[str, ...] = ()
    """With `is_load`: models to unload first."""
    may_evict: tuple[str, ...] = ()
    """Models to unload, one after the other in this order, as long as memory is short for this one, which has to be loaded, or
    loaded again; () if the worker has other leases."""


class Transcribe(LeaseOrder, frozen=True, kw_only=True):
    """A lease of audio segments; one blob for each item without shared memory."""

    items: tuple[LeaseItem, ...]
    word_timestamps: WordTimestamps
    """"auto": the worker decides for each window."""


class TextItem(Struct, frozen=True, kw_only=True):
    """One text segment of a lease."""

    key: SegmentKey
    request: TranslationRequest


class Translate(LeaseOrder, frozen=True, kw_only=True):
    """A lease of text segments, answered with Translated; without blobs."""

    items: tuple[TextItem, ...]


class Drain(_Message, frozen=True, kw_only=True):
    """Finish the current work, then exit."""


class SessionAccepted(_Message, frozen=True, kw_only=True):
    """The worker has joined under this identity; it loads the model if necessary, and answers WorkerReady."""

    identity: str
    heartbeat_s: float
    silence_s: float
    """Either side gives up a session that was silent for this time."""
    engine: EngineSettings


class SessionRefused(_Message, frozen=True, kw_only=True):
    """The worker may not join."""

    cause: str
    is_final: bool
    """Joining again without a change is refused too."""


class SessionUnknown(_Message, frozen=True, kw_only=True):
    """The message belongs to no session: open a new one."""


class Probe(_Message, frozen=True, kw_only=True):
    """The daemon is alive; answered with an Echo at once."""

    stamp_s: float


FromWorker = (
    JoinSession
    | WorkerReady
    | Heartbeat
    | Prepared
    | PlanComplete
    | AlreadySubtitled
    | PrepareRefused
    | FileUnavailable
    | FileAbandoned
    | SegmentsTranscribed
    | Transcribed
    | Translated
    | LeaseRefused
    | LeaseAbandoned
    | ModelUnloaded
    | Echo
    | LeaseReceived
    | WorkerLeaving
    | DownloadProgress
    | ExitReason
)
ToWorker = (
    Prepare
    | FeedCredit
    | Abandon
    | FreeModel
    | KeepModel
    | AbandonLease
    | Transcribe
    | Translate
    | Drain
    | SessionAccepted
    | SessionRefused
    | SessionUnknown
    | Probe
)

from_worker: Codec[FromWorker] = Codec(FromWorker)
to_worker: Codec[ToWorker] = Codec(ToWorker)
