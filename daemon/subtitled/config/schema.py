"""The keys of the configuration as frozen Structs, with their defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct

from subtitle.messages import AudioTrackOption, Channels, Chinese, Flag, Task, WordTimestamps
from subtitled.config.layout_limits import Profile

SAMPLE_RATE = 16_000

Format = Literal["srt", "vtt", "ass", "ttml", "txt", "tsv", "lrc", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)
BESIDE = "beside"
"""The value of an inbox's `output` that puts subtitles into the folder of their source."""

DEFAULT_FILE = Path(__file__).with_name("subtitled.toml")
"""A configuration file that explains every key at its default; `config/subtitled.toml` links to it."""


class _Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections: frozen; an unknown key is an error."""


class ModelConfig(_Section, frozen=True):
    """The model and its inference settings."""

    name: str = "large-v3-turbo"
    compute_type: str = "auto"
    beam_size: Annotated[int, Meta(ge=1, le=20)] = 5
    batch_size: Literal["auto"] | Annotated[int, Meta(ge=1, le=256)] = 16
    """"auto": as many as fit into the device's memory."""
    streams_per_gpu: Annotated[int, Meta(ge=1, le=8)] = 1
    """Batches that one GPU decodes concurrently."""
    cpu_threads: Annotated[int, Meta(ge=0, le=256)] = 0
    """Threads of one CPU slot; 0: the cores are divided evenly between the CPU slots."""
    idle_unload_s: Annotated[float, Meta(ge=0, le=604_800)] = 0.0
    """Seconds without work after which a worker frees its model's memory; 0: never."""
    digest: str = ""
    """SHA-256 of the weights, required of every worker; "": that of the first worker."""


class NamedModelConfig(_Section, frozen=True):
    """A model besides the default, which jobs name or rules choose."""

    name: str = ""
    source: str = ""
    """A Whisper size, a hub id, or the folder of a CTranslate2 model or a Transformers checkpoint."""
    compute_type: str = "auto"
    batch_size: Literal["auto"] | Annotated[int, Meta(ge=1, le=256)] = 16
    languages: tuple[str, ...] = ()
    """Languages that it is for: jobs in them use it unless they name another model."""
    tasks: tuple[Task, ...] = ()
    """Its tasks; (): by its files or its name."""
    devices: tuple[str, ...] = ("*",)
    """Patterns of the worker slots that may hold it, such as "gpu0" and "cpu*"."""
    preload: Annotated[int, Meta(ge=0, le=4096)] = 0
    """Number of workers that load it before a job needs it, and keep it; the others load it when they need it."""
    engine: Literal["auto", "whisper", "ctranslate2", "openai"] = "auto"
    """"ctranslate2" and "openai" translate text; "auto": "openai" with an `endpoint`, else by the files or name of the source."""
    translate_from: tuple[str, ...] = ()
    """Languages that it translates from; (): by its name, else any."""
    translate_to: tuple[str, ...] = ()
    """Languages that it translates to; (): likewise."""
    endpoint: str = ""
    """URL of a chat endpoint with OpenAI's interface, such as "http://127.0.0.1:11434/v1"; in place of `source`."""
    endpoint_model: str = ""
    """The model's name there."""
    api_key_file: str = ""
    """File whose content, stripped, is the endpoint's key; "": none is sent."""
    max_concurrent: Annotated[int, Meta(ge=1, le=64)] = 2
    """Requests to the endpoint at once."""
    digest: str = ""
    """SHA-256 of the weights, required of every worker; "": that of the first worker."""


class DecodingConfig(_Section, frozen=True):
    """When a result is accepted, decoded again, or dropped; the defaults are Whisper's."""

    temperatures: tuple[Annotated[float, Meta(ge=0, le=2)], ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """The first is 0; a rejected result is decoded again at the next."""
    compression_ratio_threshold: Annotated[float, Meta(ge=1, le=100)] = 2.4
    """Above it the text is repetitive, and rejected."""
    log_prob_threshold: Annotated[float, Meta(ge=-100, le=0)] = -1.0
    """A text with a lower mean log probability of its tokens is rejected."""
    no_speech_threshold: Annotated[float, Meta(ge=0, le=1)] = 0.6
    """Above it, with an improbable text, the segment counts as silence."""
    max_repeats: Annotated[int, Meta(ge=0, le=100)] = 4
    """In a text rejected at every temperature, more repetitions are cut; 0: never."""
    best_of: Annotated[int, Meta(ge=1, le=20)] = 5
    """Samples at a temperature above 0, of which the most probable is used; only one sample at the first of these."""
    patience: Annotated[float, Meta(ge=0.1, le=10)] = 1.0
    length_penalty: Annotated[float, Meta(ge=0, le=10)] = 1.0
    repetition_penalty: Annotated[float, Meta(ge=0.1, le=10)] = 1.0
    no_repeat_ngram_size: Annotated[int, Meta(ge=0, le=100)] = 0
    chinese_prompt: Annotated[str, Meta(max_length=200)] = "以下是普通話的句子。"
    """Initial prompt of Chinese speech where a job has none: without one, Whisper writes Chinese without punctuation."""


class PoolConfig(_Section, frozen=True):
    """The worker processes."""

    devices: str | tuple[str, ...] = "auto"
    """"auto" (every GPU, else one CPU slot), or a list such as ("cuda:0", "cuda:1") or ("cpu", "cpu"); () with [remote] or [ray]."""
    engine: Literal["local", "ray"] = "local"
    """"ray": Ray starts transcribe workers in addition to those of this machine."""
    prepare_workers: Literal["auto"] | Annotated[int, Meta(ge=1, le=64)] = "auto"
    prepare_memory_mb: Literal[0] | Annotated[int, Meta(ge=512, le=1_048_576)] = 2048
    """Address space of one prepare worker, in MiB; 0: no limit."""
    max_hours: Annotated[float, Meta(ge=0, le=10_000)] = 48.0
    """Longest audio of one file; 0: no limit."""
    max_models: Annotated[int, Meta(ge=0, le=64)] = 0
    """Maximum models in one worker; 0: as many as its memory allows."""
    queue_mb: Annotated[int, Meta(ge=16, le=65_536)] = 512
    """Maximum decoded audio in memory, shared with the workers, in MiB."""


class VadConfig(_Section, frozen=True):
    """Voice activity detection (Silero VAD)."""

    threshold: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    min_silence_ms: Annotated[int, Meta(ge=0, le=10_000)] = 160
    pad_ms: Annotated[int, Meta(ge=0, le=2_000)] = 400


class SegmentsConfig(_Section, frozen=True):
    """How spans of speech are packed into segments."""

    min_speech_ms: Annotated[int, Meta(ge=0, le=5_000)] = 100
    max_segment_s: Annotated[int, Meta(ge=1, le=30)] = 30
    max_pause_ms: Annotated[int, Meta(ge=0, le=10_000)] = 2_000
    """Pauses up to this length stay in a segment; longer ones are shortened to the VAD's padding on both sides."""


class RecoveryConfig(_Section, frozen=True):
    """Timeouts and retries."""

    attempts: Annotated[int, Meta(ge=1, le=20)] = 3
    """Workers that may crash on one segment before it is given up."""
    prepare_attempts: Annotated[int, Meta(ge=1, le=20)] = 2
    """Decoders that may crash on one media file before its job fails."""
    crash_budget: Annotated[int, Meta(ge=1, le=100)] = 10
    """Consecutive crashes and rejected leases of a worker before its quarantine."""
    quarantine_s: Annotated[float, Meta(gt=0, le=86_400)] = 600.0
    """Duration of the quarantine; then the worker is started again."""
    heartbeat_s: Annotated[float, Meta(gt=0, le=60)] = 1.0
    silence_s: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    """A worker without a message for this long is killed."""
    start_timeout_s: Annotated[float, Meta(gt=0, le=86_400)] = 600.0
    lease_min_s: Annotated[float, Meta(gt=0, le=86_400)] = 30.0
    lease_per_audio_s: Annotated[float, Meta(gt=0, le=1_000)] = 4.0
    """A worker is killed if a lease makes no progress for max(lease_min_s, lease_per_audio_s x its audio)."""
    prepare_stall_s: Annotated[float, Meta(gt=0, le=86_400)] = 60.0
    """A decoder without progress for this long is killed."""
    stop_timeout_s: Annotated[float, Meta(ge=0, le=3600)] = 30.0
    """Time for running leases to finish after SIGTERM."""


class InboxConfig(_Section, frozen=True):
    """One watched folder."""

    path: str = "/srv/subtitled/inbox"
    output: str = "/srv/subtitled/outbox"
    """The folder for the subtitles, with the same sub-folders; or "beside" the source."""
    formats: tuple[Format, ...] = ("srt",)
    bom: bool = False
    """Write a byte order mark in subtitle files, except JSON."""
    newline: Literal["lf", "crlf"] = "lf"
    karaoke: bool = False
    """ASS highlights each word when it is spoken; needs `word_timestamps`."""
    model: str = ""
    """Name of a model; "": by the rules of `[[models]]`, else the default."""
    language: str = "auto"
    audio_track: AudioTrackOption = "auto"
    channels: Channels = "mix"
    task: Task = "transcribe"
    tasks: tuple[Task, ...] = ()
    """Overrides `task`; both tasks decode the file once and write subtitles in two languages."""
    translate_to: tuple[str, ...] = ()
    """Languages to translate the transcript to, with a model of `[[models]]` that translates."""
    is_bilingual: bool = False
    """With `translate_to`: also write a file with both languages for each."""
    translate_model: str = ""
    """Name of that model; "": the first one that covers both languages."""
    glossary: str = ""
    """File with translations of terms and names (names.toml)."""
    flags: tuple[Flag, ...] = ()
    """Flags for players in the names of the subtitles, after the language."""
    skip_existing: Literal["any", "language", "never"] = "never"
    """Which existing subtitles make the daemon skip a file."""
    after: Literal["move", "keep", "delete"] = "move"
    on_done: tuple[str, ...] = ()
    """A command and its arguments, run without a shell when a job is done."""
    on_failed: tuple[str, ...] = ()
    command_timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 60.0
    include: tuple[str, ...] = ()
    """Globs of the files to accept, below the inbox or by name; empty: all media files except trailers and samples."""
    exclude: tuple[str, ...] = ()
    """Globs of files to ignore."""
    settle_s: Annotated[float, Meta(ge=0, le=3600)] = 2.0
    incomplete_wait_s: Annotated[float, Meta(ge=0, le=86_400)] = 60.0
    """Seconds that a file waits for its missing part, if its container declares one."""
    rescan_s: Annotated[float, Meta(ge=1, le=86_400)] = 60.0
    """Seconds between two full scans, which find files without an event."""
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0
    word_timestamps: WordTimestamps = "auto"
    remove_hallucinations: bool = True
    """Leave out hallucinated stock phrases and loops."""
    marks: bool = True
    """Keep marks of music and noise, such as [Music]."""
    chinese: Chinese = "auto"
    """Characters of Chinese text; "auto": those of the script or region in the language tag, else as the model wrote them."""
    profile: Profile = "default"
    """Layout profile; "auto" below is the profile's limit for the language."""
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
    """File of the server's CURVE key; "": server.key in state.dir, created when it is first needed."""
    requests_per_s: Annotated[float, Meta(ge=1, le=100_000)] = 100.0
    """Requests of one client, except upload chunks; bursts of twice as many."""


class RemoteConfig(_Section, frozen=True):
    """Workers on other hosts, which connect to the daemon."""

    listen: str = ""
    """tcp://HOST:PORT; "": off."""
    keys: dict[str, str] = {}
    """The public key of each host by the host's name, as `subtitled keys new` prints it."""
    wire_codec: Literal["auto", "pcm", "flac"] = "auto"
    """Encoding of audio on the network; "auto": by the measured bandwidth."""
    max_in_flight_mb: Annotated[int, Meta(ge=1, le=4096)] = 64
    """Maximum unanswered audio sent to one worker, in MiB."""


class RayConfig(_Section, frozen=True):
    """Workers that Ray starts if pool.engine is "ray"."""

    address: str = "auto"
    min_workers: Annotated[int, Meta(ge=0, le=4096)] = 0
    max_workers: Annotated[int, Meta(ge=1, le=4096)] = 8
    hours_per_worker: Annotated[float, Meta(gt=0, le=10_000)] = 1.0
    """Hours of queued audio per worker."""
    idle_s: Annotated[float, Meta(ge=1, le=604_800)] = 600.0
    """A worker without work for this long is stopped."""
    gpus_per_worker: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """0: it decodes on the CPU."""
    cpus_per_worker: Annotated[float, Meta(ge=0, le=256)] = 1.0
    endpoint: str = ""
    """tcp://HOST:PORT under which its workers reach this daemon; "" for this machine's address in the Ray cluster."""


class ClientConfig(_Section, frozen=True):
    """A client's key for TCP endpoints."""

    name: str = ""
    key: str = ""
    """The public key, as `subtitled keys new` prints it."""
    role: Literal["user", "admin"] = "user"


class UploadsConfig(_Section, frozen=True):
    """Files that clients send, and files on this machine that they may submit by path."""

    max_file_mb: Annotated[int, Meta(ge=1, le=16_777_216)] = 20_480
    max_spool_mb: Annotated[int, Meta(ge=1, le=268_435_456)] = 102_400
    """Maximum size of all uploaded files on the disk."""
    max_open: Annotated[int, Meta(ge=1, le=1_000)] = 32
    idle_s: Annotated[float, Meta(ge=1, le=2_592_000)] = 3_600.0
    """An upload without data for this long is cancelled."""
    max_age_s: Annotated[float, Meta(ge=1, le=31_536_000)] = 86_400.0
    """An upload that is not complete after this long is cancelled."""
    keep_failed_s: Annotated[float, Meta(ge=0, le=31_536_000)] = 604_800.0
    """How long the file of a failed job is kept for a retry."""
    keep_done_s: Annotated[float, Meta(ge=0, le=31_536_000)] = 86_400.0
    """How long the file of a done job is kept for playback; it is deleted earlier if space is needed."""
    paths: tuple[str, ...] = ()
    """Folders whose files may be submitted by path, on the local socket."""


class UrlConfig(_Section, frozen=True):
    """Files that the daemon downloads from addresses that clients submit, by yt-dlp."""

    allowed_hosts: tuple[str, ...] = ()
    """Hosts that clients may name, each with its subdomains; "*": all. Empty: no addresses are accepted."""
    allowed_networks: tuple[str, ...] = ()
    """Networks that are not public and may be connected to, such as 10.0.0.0/8."""
    max_mb: Annotated[int, Meta(ge=1, le=16_777_216)] = 4_096
    """Largest file, in MiB; uploads.max_file_mb applies too."""
    max_hours: Annotated[float, Meta(gt=0, le=1_000)] = 12.0
    """Longest recording, if its site names the length."""
    timeout_s: Annotated[float, Meta(ge=1, le=604_800)] = 7_200.0
    """A download that is not complete after this long has failed."""
    stall_s: Annotated[float, Meta(ge=1, le=3_600)] = 30.0
    """A download without data for this long has failed."""
    parallel: Annotated[int, Meta(ge=1, le=16)] = 2
    """Downloads at a time; others wait."""


class HttpConfig(_Section, frozen=True):
    """The HTTP gateway, `subtitled http`: page and APIs."""

    listen: str = ""
    """HOST:PORT; "": off."""
    with_daemon: bool = True
    """The daemon starts and restarts it; else it runs as a unit of its own."""
    token_file: str = ""
    """One token per line; each request needs one of them. "": only on loopback."""
    server: str = ""
    """The daemon's endpoint; "": the first local one of listen.clients."""
    key: str = ""
    """Key file for that endpoint; "": none."""
    max_upload_mb: Annotated[int, Meta(ge=1, le=16_777_216)] = 20_480
    models: tuple[str, ...] = ()
    """Other names that clients may send: "NAME" (`*` matches any text) for the default model, "NAME=MODEL" for another."""
    origins: tuple[str, ...] = ()
    """Origins of other sites whose pages may use the gateway; "*": any, with a token."""


class WebhookConfig(_Section, frozen=True):
    """A URL that is notified when a job ends."""

    url: str = ""
    secret_file: str = ""
    """Its content, stripped, signs each message."""
    attempts: Annotated[int, Meta(ge=1, le=100)] = 10


class StateConfig(_Section, frozen=True):
    """The folder of the database."""

    dir: str = "/var/lib/subtitled"
    reserve_mb: Annotated[int, Meta(ge=0, le=1_048_576)] = 256
    """Free space to keep on the file systems of state and outputs, in MiB."""
    keep_jobs_days: Annotated[int, Meta(ge=0, le=36_500)] = 90
    """Age at which ended jobs are deleted with their results and journal; 0: never."""


class LogConfig(_Section, frozen=True):
    """Level and format of the log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    """"auto": console on a terminal, JSON otherwise."""


class Config(_Section, frozen=True):
    """The whole configuration."""

    model: ModelConfig = ModelConfig()
    models: tuple[NamedModelConfig, ...] = ()
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
    url: UrlConfig = UrlConfig()
    http: HttpConfig = HttpConfig()
    webhook: WebhookConfig = WebhookConfig()
    state: StateConfig = StateConfig()
    log: LogConfig = LogConfig()
