"""The daemon's configuration: TOML plus environment, into frozen Structs."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta, Struct, inspect, structs

from subtitled import tomlstruct
from subtitled.config_checks import check
from subtitled.cues.limits import Profile
from subtitled.cues.render import Format
from subtitled.errors import ConfigError
from subtitled.writing.chinese import Variant

if TYPE_CHECKING:
    from collections.abc import Mapping

SAMPLE_RATE = 16_000

DEFAULT_FILE = Path(__file__).with_name("subtitled.toml")
"""A configuration file with every key at its default, explained; `config/subtitled.toml` is a link to it."""

_PREFIX = "SUBTITLED_"
_BELOW_THE_FILE = {"WHISPER_COMPUTE_TYPE": "compute_type", "WHISPER_MODEL": "name"}
"""Variables that Whisper servers are commonly set up with, and the keys of [model] that they stand for."""


class _Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all sections share: frozen, and an unknown key is an error."""


class Model(_Section, frozen=True):
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


class Decoding(_Section, frozen=True):
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


class Pool(_Section, frozen=True):
    """The worker processes."""

    devices: str | tuple[str, ...] = "auto"
    """"auto" (every GPU, else one CPU slot), or a list such as ("cuda:0", "cuda:1") or ("cpu", "cpu")."""
    prepare_workers: Literal["auto"] | Annotated[int, Meta(ge=1, le=64)] = "auto"
    queue_mb: Annotated[int, Meta(ge=16, le=65_536)] = 512
    """Most PCM that may wait in the daemon's memory, in MiB."""


class Vad(_Section, frozen=True):
    """Voice activity detection, in the terms of Silero VAD."""

    threshold: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    min_silence_ms: Annotated[int, Meta(ge=0, le=10_000)] = 160
    pad_ms: Annotated[int, Meta(ge=0, le=2_000)] = 200


class Segments(_Section, frozen=True):
    """How spans of speech are packed into what the model sees at once."""

    min_speech_ms: Annotated[int, Meta(ge=0, le=5_000)] = 100
    max_segment_s: Annotated[int, Meta(ge=1, le=30)] = 30


class Recovery(_Section, frozen=True):
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


class Inbox(_Section, frozen=True):
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


class Listen(_Section, frozen=True):
    """The sockets."""

    clients: tuple[str, ...] = ("ipc:///run/subtitled/clients.sock",)
    workers: str = "ipc:///run/subtitled/private/workers.sock"
    metrics: str = "127.0.0.1:9477"
    server_key: str = ""
    """File of the server's own CURVE key; "" for server.key in state.dir, made when it is first needed."""
    requests_per_s: Annotated[float, Meta(ge=1, le=100_000)] = 100.0
    """Requests of one client, chunks of uploads apart; twice as many at once."""


class Client(_Section, frozen=True):
    """One key that may speak over TCP."""

    name: str = ""
    key: str = ""
    """The public key, as `subtitled keys new` prints it."""
    role: Literal["user", "admin"] = "user"


class Uploads(_Section, frozen=True):
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


class Http(_Section, frozen=True):
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


class Webhook(_Section, frozen=True):
    """Where each job's end is told."""

    url: str = ""
    secret_file: str = ""
    """Its content, without white space around it, signs each message."""
    attempts: Annotated[int, Meta(ge=1, le=100)] = 10


class State(_Section, frozen=True):
    """Where the daemon keeps its database."""

    dir: str = "/var/lib/subtitled"
    reserve_mb: Annotated[int, Meta(ge=0, le=1_048_576)] = 256
    """Space that is left free on the file systems of the state and of the outputs, in MiB."""


class Log(_Section, frozen=True):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    """"auto": console on a terminal, JSON otherwise."""


class Config(_Section, frozen=True):
    """The whole configuration."""

    model: Model = Model()
    decoding: Decoding = Decoding()
    pool: Pool = Pool()
    vad: Vad = Vad()
    segments: Segments = Segments()
    recovery: Recovery = Recovery()
    inbox: tuple[Inbox, ...] = (Inbox(),)
    listen: Listen = Listen()
    client: tuple[Client, ...] = ()
    uploads: Uploads = Uploads()
    http: Http = Http()
    webhook: Webhook = Webhook()
    state: State = State()
    log: Log = Log()


def load(path: str | None, environ: Mapping[str, str], *, check_paths: bool = True) -> Config:
    """Give the configuration of the file at `path`, if any, as `SUBTITLED_SECTION__KEY` in `environ` overrides it.

    What neither sets is at its default. Folders come back in normal form, and one device as a list of one.
    WHISPER_MODEL and WHISPER_COMPUTE_TYPE set what the file leaves out. Without `check_paths` no folder is looked at. Raises
    `ConfigError` with every fault, one line each.
    """
    return _load(path, environ, check_paths=check_paths)[0]


def show(config: Config) -> str:
    """Give the whole configuration as TOML; `load` reads it back as the same."""
    return tomlstruct.emit(config)


def show_with_origins(path: str | None, environ: Mapping[str, str]) -> str:
    """Give what `load` gives as TOML, with a comment after each value that is not the default's: where it was set."""
    config, origins = _load(path, environ, check_paths=False)
    return tomlstruct.emit(config, origins)


def _load(
    path: str | None, environ: Mapping[str, str], *, check_paths: bool
) -> tuple[Config, Mapping[str, str]]:
    faults = tomlstruct.Faults(key for key, _ in tomlstruct.keys(Config))
    table = _read_file(path, faults) if path is not None else {}
    is_read = not faults.lines
    _read_below_the_file(environ, table, faults)
    _read_environment(environ, table, faults)
    config = tomlstruct.fill(Config, table, faults)
    if is_read:
        # After an unreadable file all its keys are at their defaults, of which nobody wants to hear.
        check(config, faults, check_paths=check_paths)
    if faults.lines:
        raise ConfigError(faults.lines)
    return _normal(config), faults.origins


def _read_file(path: str, faults: tomlstruct.Faults) -> dict[str, Any]:
    """Give what the file says; a file that cannot be read is noted and counts as empty."""
    try:
        data = Path(path).read_bytes()
        table = tomllib.loads(data.decode("utf-8"))
    except (OSError, ValueError) as error:
        faults.lines.append(f"{path}: {_why_unreadable(error)}")
        return {}
    for name, value in table.items():
        faults.origins[name] = path
        if isinstance(value, dict):
            faults.origins.update({f"{name}.{key}": path for key in value})
    return table


def _why_unreadable(error: OSError | ValueError) -> str:
    match error:
        case FileNotFoundError():
            return "no such file; `subtitled config init` writes one with every key explained"
        case OSError():
            return f"cannot be read: {error.strerror}"
        case UnicodeDecodeError():
            line = error.object.count(b"\n", 0, error.start) + 1
            return f"not UTF-8 (at line {line}); save the file as UTF-8"
        case _:
            return f"not TOML: {error}"


def _read_below_the_file(
    environ: Mapping[str, str], table: dict[str, Any], faults: tomlstruct.Faults
) -> None:
    """Put the values of other programs' variables into `table`, where the file says nothing."""
    for variable, key in _BELOW_THE_FILE.items():
        model = table.setdefault("model", {})
        if environ.get(variable) and isinstance(model, dict) and key not in model:
            model[key] = environ[variable]
            faults.origins[f"model.{key}"] = f"{variable} in the environment"


def _read_environment(environ: Mapping[str, str], table: dict[str, Any], faults: tomlstruct.Faults) -> None:
    """Put the values of the environment's variables into `table`, over those of the file."""
    known = dict(tomlstruct.keys(Config))
    lists = {field.name for field in structs.fields(Config) if isinstance(field.default, tuple)}
    for variable, text in sorted(environ.items()):
        name = variable.removeprefix(_PREFIX)
        section, separator, key = name.lower().partition("__")
        if name == variable or not (separator or section in lists):
            continue  # not ours to judge: SUBTITLED_CONFIG and the like
        dotted = f"{section}.{key}" if separator else section
        faults.origins[dotted] = f"{variable} in the environment"
        if not separator:
            table[section] = _read_value(text)
        elif section in lists:
            remedy = (
                f"""only as a whole list: {_PREFIX}{section.upper()}='[{{path = "/a", output = "/b"}}]'"""
            )
            faults.add(dotted, text, remedy)
        elif dotted not in known:
            faults.add_unknown(dotted, text)
        elif isinstance(table.setdefault(section, {}), dict):
            is_text = isinstance(known[dotted], inspect.StrType)
            table[section][key] = text if is_text else _read_value(text)


def _read_value(text: str) -> object:
    """Give `text` as the TOML value that it is, or else as it stands."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def _normal(config: Config) -> Config:
    devices = config.pool.devices
    if isinstance(devices, str) and devices != "auto":
        devices = (devices,)
    inboxes = tuple(
        structs.replace(
            inbox,
            path=os.path.normpath(inbox.path),
            output=inbox.output if inbox.output == "beside" else os.path.normpath(inbox.output),
        )
        for inbox in config.inbox
    )
    return structs.replace(
        config,
        pool=structs.replace(config.pool, devices=devices),
        inbox=inboxes,
        state=structs.replace(config.state, dir=os.path.normpath(config.state.dir)),
    )
