"""The keys of the configuration, as frozen Structs with their defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct

from subtitled.config.layout_limits import Profile

SAMPLE_RATE = 16_000

Format = Literal["srt", "vtt", "ass", "ttml", "txt", "tsv", "lrc", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)
Variant = Literal["tw", "hk", "cn", "off"]
"""Written Chinese: of Taiwan, of Hong Kong, of the mainland, or as the model wrote it."""
BESIDE = "beside"
"""The value of an inbox's `output` that puts subtitles into the folder of their source."""

DEFAULT_FILE = Path(__file__).with_name("subtitled.toml")
"""A configuration file with every key at its default, explained; `config/subtitled.toml` is a link to it."""


class _Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all sections share: frozen, and an unknown key is an error."""


class ModelConfig(_Section, frozen=True):
    """Which model, and how it decodes."""

    name: str = "large-v3-turbo"
    compute_type: str = "auto"
    beam_size: Annotated[int, Meta(ge=1, le=20)] = 5
    batch_size: Literal["auto"] | Annotated[int, Meta(ge=1, le=256)] = 16
    """"auto": what the memory of the device has room for."""
    streams_per_gpu: Annotated[int, Meta(ge=1, le=8)] = 1
    """Batches that one GPU decodes at once."""
    cpu_threads: Annotated[int, Meta(ge=0, le=256)] = 0
    """Threads of one CPU slot; 0 shares the cores out evenly between the CPU slots."""
    idle_unload_s: Annotated[float, Meta(ge=0, le=604_800)] = 0.0
    """Seconds without work after which a worker frees its model's memory; 0: never."""
    digest: str = ""
    """SHA-256 of the weights that every worker must have; "" for those of the first one."""


class DecodingConfig(_Section, frozen=True):
    """When a result is taken, decoded again, or dropped; the defaults are Whisper's own."""

    temperatures: tuple[Annotated[float, Meta(ge=0, le=2)], ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """The first is 0; a result that looks wrong is decoded again at the next."""
    compression_ratio_threshold: Annotated[float, Meta(ge=1, le=100)] = 2.4
    """Above it the text repeats itself, and looks wrong."""
    log_prob_threshold: Annotated[float, Meta(ge=-100, le=0)] = -1.0
    """Below it, on the mean of the tokens, the text looks wrong."""
    no_speech_threshold: Annotated[float, Meta(ge=0, le=1)] = 0.6
    """Above it, with an improbable text, nobody speaks."""
    max_repeats: Annotated[int, Meta(ge=0, le=100)] = 4
    """A text that looks wrong to the last and says one thing so many times or more is cut; 0 cuts nothing."""
    best_of: Annotated[int, Meta(ge=1, le=20)] = 5
    """Samples at a temperature above 0, of which the most probable is taken."""
    patience: Annotated[float, Meta(ge=0.1, le=10)] = 1.0
    length_penalty: Annotated[float, Meta(ge=0, le=10)] = 1.0
    repetition_penalty: Annotated[float, Meta(ge=0.1, le=10)] = 1.0
    no_repeat_ngram_size: Annotated[int, Meta(ge=0, le=100)] = 0


class PoolConfig(_Section, frozen=True):
    """The worker processes."""

    devices: str | tuple[str, ...] = "auto"
    """"auto" (every GPU, else one CPU slot), or a list such as ("cuda:0", "cuda:1") or ("cpu", "cpu"); () with [remote] or RayConfig."""
    engine: Literal["local", "ray"] = "local"
    """Who starts transcribe workers beside those of this machine."""
    prepare_workers: Literal["auto"] | Annotated[int, Meta(ge=1, le=64)] = "auto"
    queue_mb: Annotated[int, Meta(ge=16, le=65_536)] = 512
    """Most PCM that may wait in the daemon's memory, in MiB."""


class VadConfig(_Section, frozen=True):
    """Voice activity detection, in the terms of Silero VAD."""

    threshold: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    min_silence_ms: Annotated[int, Meta(ge=0, le=10_000)] = 160
    pad_ms: Annotated[int, Meta(ge=0, le=2_000)] = 200


class SegmentsConfig(_Section, frozen=True):
    """How spans of speech are packed into what the model sees at once."""

    min_speech_ms: Annotated[int, Meta(ge=0, le=5_000)] = 100
    max_segment_s: Annotated[int, Meta(ge=1, le=30)] = 30


class RecoveryConfig(_Section, frozen=True):
    """How long things may take, and how often they are tried."""

    attempts: Annotated[int, Meta(ge=1, le=20)] = 3
    """Workers that one segment may take down before it is buried."""
    prepare_attempts: Annotated[int, Meta(ge=1, le=20)] = 2
    """Decoders that one media file may take down before its job fails."""
    crash_budget: Annotated[int, Meta(ge=1, le=100)] = 10
    """Crashes and refused leases of a worker in a row before it is put aside."""
    quarantine_s: Annotated[float, Meta(gt=0, le=86_400)] = 600.0
    """How long it is put aside, until it is tried again."""
    heartbeat_s: Annotated[float, Meta(gt=0, le=60)] = 1.0
    silence_s: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    """A worker that is not heard for so long is killed."""
    start_timeout_s: Annotated[float, Meta(gt=0, le=86_400)] = 600.0
    lease_min_s: Annotated[float, Meta(gt=0, le=86_400)] = 30.0
    lease_per_audio_s: Annotated[float, Meta(gt=0, le=1_000)] = 4.0
    """A lease may take max(lease_min_s, lease_per_audio_s x its audio) before its worker is killed."""
    prepare_stall_s: Annotated[float, Meta(gt=0, le=86_400)] = 60.0
    """A decoder that makes no progress for so long is killed."""
    stop_timeout_s: Annotated[float, Meta(ge=0, le=3600)] = 30.0
    """Running leases may take so long to finish after SIGTERM."""


class InboxConfig(_Section, frozen=True):
    """One watched folder."""

    path: str = "/srv/subtitled/inbox"
    output: str = "/srv/subtitled/outbox"
    """The folder that gets the subtitles, sub-folders mirrored; or "beside" the source."""
    formats: tuple[Format, ...] = ("srt",)
    bom: bool = False
    """Subtitle files, JSON apart, begin with a byte order mark."""
    newline: Literal["lf", "crlf"] = "lf"
    karaoke: bool = False
    """ASS colours each word when it is said; needs `word_timestamps`."""
    language: str = "auto"
    task: Literal["transcribe", "translate"] = "transcribe"
    tasks: tuple[Literal["transcribe", "translate"], ...] = ()
    """In place of `task`: both give subtitles in two languages from one reading of the file."""
    flags: tuple[Literal["default", "sdh", "forced"], ...] = ()
    """What the names of the subtitles tell players beside the language."""
    skip_existing: Literal["any", "language", "never"] = "never"
    """Which subtitles that a file has already make ours needless."""
    after: Literal["move", "keep", "delete"] = "move"
    on_done: tuple[str, ...] = ()
    """A command and its arguments, run when a job is done; no shell has a part in it."""
    on_failed: tuple[str, ...] = ()
    command_timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 60.0
    settle_s: Annotated[float, Meta(ge=0, le=3600)] = 2.0
    rescan_s: Annotated[float, Meta(ge=1, le=86_400)] = 60.0
    """Seconds between two full scans, which find what no event told."""
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0
    word_timestamps: bool | Literal["auto"] = "auto"
    drop_unsaid: bool = True
    """Leave out stock phrases and loops that nobody said."""
    marks: bool = True
    """Keep marks of music and noise, such as [Music]."""
    chinese: Variant = "off"
    """How Chinese text is written: as in Taiwan, in Hong Kong, on the mainland, or as the model has it."""
    profile: Profile = "default"
    """How cues are laid out; "auto" below is the profile's own limit for the language."""
    max_chars: Literal["auto"] | Annotated[int, Meta(ge=8, le=200)] = "auto"
    max_lines: Literal["auto"] | Annotated[int, Meta(ge=1, le=4)] = "auto"
    max_chars_per_s: Literal["auto"] | Annotated[float, Meta(gt=0, le=100)] = "auto"
    min_ms: Literal["auto"] | Annotated[int, Meta(ge=0, le=10_000)] = "auto"
    max_ms: Literal["auto"] | Annotated[int, Meta(ge=500, le=60_000)] = "auto"
    gap_ms: Literal["auto"] | Annotated[int, Meta(ge=0, le=2_000)] = "auto"
    chain_ms: Literal["auto"] | Annotated[int, Meta(ge=0, le=10_000)] = "auto"


class ListenConfig(_Section, frozen=True):
    """The sockets."""

    clients: tuple[str, ...] = ("ipc:///run/subtitled/clients.sock",)
    workers: str = "ipc:///run/subtitled/private/workers.sock"
    metrics: str = "127.0.0.1:9477"
    server_key: str = ""
    """File of the server's own CURVE key; "" for server.key in state.dir, made when it is first needed."""
    requests_per_s: Annotated[float, Meta(ge=1, le=100_000)] = 100.0
    """Requests of one client, chunks of uploads apart; twice as many at once."""


class RemoteConfig(_Section, frozen=True):
    """Workers on other hosts, which come by themselves."""

    listen: str = ""
    """tcp://HOST:PORT; "" lets none in."""
    keys: dict[str, str] = {}
    """The public key of each host by the host's name, as `subtitled keys new` prints it."""
    wire_codec: Literal["auto", "pcm", "flac"] = "auto"
    """How sound travels; "auto" by the measured bandwidth."""
    max_in_flight_mb: Annotated[int, Meta(ge=1, le=4096)] = 64
    """Most sound that one worker may be sent before it has answered, in MiB."""


class RayConfig(_Section, frozen=True):
    """Workers that RayConfig starts, while pool.engine is "ray"."""

    address: str = "auto"
    min_workers: Annotated[int, Meta(ge=0, le=4096)] = 0
    max_workers: Annotated[int, Meta(ge=1, le=4096)] = 8
    hours_per_worker: Annotated[float, Meta(gt=0, le=10_000)] = 1.0
    """Hours of audio in line for which one more worker is asked."""
    idle_s: Annotated[float, Meta(ge=1, le=604_800)] = 600.0
    """A worker without work for so long is let go."""
    gpus_per_worker: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """0: it decodes on the CPU."""
    cpus_per_worker: Annotated[float, Meta(ge=0, le=256)] = 1.0
    endpoint: str = ""
    """tcp://HOST:PORT under which its workers reach this daemon; "" for the address that RayConfig knows this machine by."""


class ClientConfig(_Section, frozen=True):
    """One key that may speak over TCP."""

    name: str = ""
    key: str = ""
    """The public key, as `subtitled keys new` prints it."""
    role: Literal["user", "admin"] = "user"


class UploadsConfig(_Section, frozen=True):
    """Files that clients send, and files on this machine that they may name."""

    max_file_mb: Annotated[int, Meta(ge=1, le=16_777_216)] = 20_480
    max_spool_mb: Annotated[int, Meta(ge=1, le=268_435_456)] = 102_400
    """Most that all files may take on the disk."""
    max_open: Annotated[int, Meta(ge=1, le=1_000)] = 32
    idle_s: Annotated[float, Meta(ge=1, le=2_592_000)] = 3_600.0
    """An upload of which nothing came for so long is given up."""
    max_age_s: Annotated[float, Meta(ge=1, le=31_536_000)] = 86_400.0
    """An upload that is not complete after so long is given up."""
    keep_failed_s: Annotated[float, Meta(ge=0, le=31_536_000)] = 604_800.0
    """The file of a failed job is kept for so long, so that it can be retried."""
    keep_done_s: Annotated[float, Meta(ge=0, le=31_536_000)] = 86_400.0
    """The file of a job that is done is kept for so long, so that it can be heard, unless its space is needed before."""
    paths: tuple[str, ...] = ()
    """Folders whose files may be submitted by their path, on the local socket."""


class HttpConfig(_Section, frozen=True):
    """The gateway, `subtitled http`: the interfaces that other programs know."""

    listen: str = ""
    """HOST:PORT; "" starts none."""
    with_daemon: bool = True
    """The daemon starts it, and again when it ends; else it has a unit of its own."""
    token_file: str = ""
    """One token a line, of which each request must show one; "" only on loopback."""
    server: str = ""
    """The daemon's endpoint; "" for the first local one of listen.clients."""
    key: str = ""
    """Key file to show there; "" shows none."""
    max_upload_mb: Annotated[int, Meta(ge=1, le=16_777_216)] = 20_480


class WebhookConfig(_Section, frozen=True):
    """Where each job's end is told."""

    url: str = ""
    secret_file: str = ""
    """Its content, without white space around it, signs each message."""
    attempts: Annotated[int, Meta(ge=1, le=100)] = 10


class StateConfig(_Section, frozen=True):
    """Where the daemon keeps its database."""

    dir: str = "/var/lib/subtitled"
    reserve_mb: Annotated[int, Meta(ge=0, le=1_048_576)] = 256
    """Space that is left free on the file systems of the state and of the outputs, in MiB."""


class LogConfig(_Section, frozen=True):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    """"auto": console on a terminal, JSON otherwise."""


class Config(_Section, frozen=True):
    """The whole configuration."""

    model: ModelConfig = ModelConfig()
    decoding: DecodingConfig = DecodingConfig()
    pool: PoolConfig = PoolConfig()
    vad: VadConfig = VadConfig()
    segments: SegmentsConfig = SegmentsConfig()
    recovery: RecoveryConfig = RecoveryConfig()
    inbox: tuple[InboxConfig, ...] = (InboxConfig(),)
    listen: ListenConfig = ListenConfig()
    remote: RemoteConfig = RemoteConfig()
    ray: RayConfig = RayConfig()
    client: tuple[ClientConfig, ...] = ()
    uploads: UploadsConfig = UploadsConfig()
    http: HttpConfig = HttpConfig()
    webhook: WebhookConfig = WebhookConfig()
    state: StateConfig = StateConfig()
    log: LogConfig = LogConfig()
