"""The client protocol's messages; docs/protocol.md specifies them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from subtitle.codec import Codec

PROTOCOL = 1


# -- values -------------------------------------------------------------------------------------------------------------


class VadOptions(Struct, frozen=True, kw_only=True):
    """Speech detection of one job; None: the server's setting."""

    threshold: Annotated[float, Meta(gt=0, lt=1)] | None = None
    min_silence_ms: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    pad_ms: Annotated[int, Meta(ge=0, le=2_000)] | None = None


class LayoutOptions(Struct, frozen=True, kw_only=True):
    """Cue layout of one job; None: the profile's limit for the language."""

    profile: Literal["default", "strict", "raw"] = "default"
    max_chars: Annotated[int, Meta(ge=8, le=200)] | None = None
    """Maximum characters per line."""
    max_lines: Annotated[int, Meta(ge=1, le=4)] | None = None
    max_chars_per_s: Annotated[float, Meta(gt=0, le=100)] | None = None
    min_ms: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    max_ms: Annotated[int, Meta(ge=500, le=60_000)] | None = None
    gap_ms: Annotated[int, Meta(ge=0, le=2_000)] | None = None
    """Minimum gap between two cues."""
    chain_ms: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    """A gap shorter than this is reduced to `gap_ms`."""


WordTimestamps = bool | Literal["auto"]
"""Whether words are timed; "auto": only where a phrase does not fit into one cue."""
Task = Literal["transcribe", "translate"]
"""Text in the spoken language, or its translation into English."""
VideoForm = Literal["original", "h264", "vp8"]
"""Bytes of the file itself, or small segments that are encoded for the client: H.264 in MP4, or VP8 in WebM."""
VIDEO_SEGMENT_MS = 4000
"""Length of such a segment."""
Flag = Literal["default", "sdh", "forced"]
"""A flag for players in the name of a subtitle file: talk.en.forced.srt."""
Chinese = Literal["auto", "off", "tw", "tw+words", "hk", "cn", "cn+words"]
"""Characters of Chinese text: of Taiwan, Hong Kong or the mainland, "+words" with the words of that place; "off": as the model
wrote them; "auto": those in the language tag ("zh-Hant", "zh-HK", "chs"), else "off"."""


AudioTrackOption = Annotated[int, Meta(ge=1, le=1000)] | Annotated[str, Meta(max_length=32)]
"""The audio track to transcribe: its number in the file, from 1, a language by any usual name, or "auto"."""


Channels = Literal["mix", "split"]
"""Whether two channels or tracks have different speakers and each its own cues."""


LanguageName = Annotated[str, Meta(min_length=2, max_length=64)]
"""A language by any usual name."""


class JobOptions(Struct, frozen=True, kw_only=True):
    """Options of one job."""

    model: Annotated[str, Meta(max_length=200)] = ""
    """Name of one of the server's models; "": chosen by task and language, else the default."""
    language: Annotated[str, Meta(max_length=32)] = "auto"
    """A language by any usual name ("en", "ger", "pt-BR"), "auto" (one a file, by vote) or "multi" (several languages in one file)."""
    audio_track: AudioTrackOption = "auto"
    """"auto": the one in `language`, the default one, or the first with speech; commentary only if nothing else is there."""
    channels: Channels = "mix"
    """"split": each of two channels, or of several tracks, with different speech has its own cues."""
    task: Task = "transcribe"
    tasks: Annotated[tuple[Task, ...], Meta(max_length=2)] = ()
    """Replaces `task`; both tasks read the file once and make subtitles in two languages."""
    formats: Annotated[tuple[Annotated[str, Meta(max_length=16)], ...], Meta(max_length=16)] = ("srt",)
    """Default formats of the job; any format of the server can be fetched."""
    word_timestamps: WordTimestamps = "auto"
    initial_prompt: Annotated[str, Meta(max_length=1_000)] = ""
    """Text that the model sees as preceding each segment: names, spelling, style."""
    hotwords: Annotated[str, Meta(max_length=1_000)] = ""
    """Words that the model should prefer."""
    chinese: Chinese = "auto"
    translate_to: Annotated[tuple[LanguageName, ...], Meta(max_length=20)] = ()
    """Languages that the transcript is translated to when it is done, by any usual name ("zh-TW", "ja", "Spanish")."""
    translate_model: Annotated[str, Meta(max_length=200)] = ""
    """Name of one of the server's models that translate text; "": the first one that covers both languages."""
    is_bilingual: bool = False
    """With `translate_to`: also a file with both languages for each."""
    glossary: Annotated[str, Meta(max_length=65_536)] = ""
    """Text of a names.toml: translations of names and terms."""
    flags: Annotated[tuple[Flag, ...], Meta(max_length=8)] = ()
    """In the names of the subtitles, after the language."""
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0
    vad: VadOptions = VadOptions()
    layout: LayoutOptions = LayoutOptions()
    tag: Annotated[str, Meta(max_length=200)] = ""
    """Free text of the client; returned in JobFacts."""


class EditedCue(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One cue of a SaveCues; times in milliseconds of media time."""

    start_ms: Annotated[int, Meta(ge=0, le=359_999_999)]
    end_ms: Annotated[int, Meta(ge=0, le=359_999_999)]
    """After `start_ms`."""
    lines: Annotated[tuple[Annotated[str, Meta(max_length=1_000)], ...], Meta(max_length=16)]
    """At least one that is not blank; blank ones are removed."""
    channel: Annotated[str, Meta(max_length=20)] = ""
    """Channel of the speaker, if channels or tracks of the file were transcribed separately: "left", "track 2". "": that of the
    model's cue at the same time whose words are most alike."""
    is_accepted: bool = False
    """A person has confirmed the words of which the model was uncertain."""


class CueVersion(Struct, frozen=True, kw_only=True):
    """A saved version of a job's cues."""

    version: int
    """From 1; 0 is the model's. Numbers grow, with gaps where drafts were replaced."""
    saved_ms: int
    """Unix time."""
    author: str
    """As given in SaveCues, else the name of the client's key; "" on the local socket."""
    cues: int
    """Number of cues; 0 for a restored version 0."""
    restored: int | None = None
    """The version that it restored."""


class Step(Struct, frozen=True, kw_only=True):
    """One entry of a job's history."""

    at_ms: int
    subject: str
    """"job" or "segment"."""
    name: str
    """A segment's index; empty for the job itself."""
    event: str
    after: str
    cause: str


class AudioTrack(Struct, frozen=True, kw_only=True):
    """One audio track of a media file."""

    number: int
    """Among the audio tracks of the file, from 1."""
    language: Annotated[str, Meta(max_length=200)] = ""
    """As the file names it."""
    title: Annotated[str, Meta(max_length=200)] = ""
    codec: Annotated[str, Meta(max_length=200)] = ""
    """"" if no decoder is known."""
    channels: int = 0
    flags: tuple[Annotated[str, Meta(max_length=200)], ...] = ()
    """FFmpeg's dispositions, such as "default", "comment" and "visual_impaired"."""

    @property
    def summary(self) -> str:
        """The track in a few words, such as `2 (en, "Commentary", 2 channels, comment)`."""
        parts = [
            self.language or "no language",
            f'"{self.title}"' if self.title else "",
            f"{self.channels} channel{'' if self.channels == 1 else 's'}",
            *self.flags,
        ]
        return f"{self.number} ({', '.join(part for part in parts if part)})"


class AudioChoice(Struct, frozen=True, kw_only=True):
    """The audio of a file that is transcribed, and what the file has besides."""

    track: int
    """Number of the track."""
    mix: Annotated[str, Meta(max_length=200)]
    """How its channels become one: "mono", "stereo" or "surround" (all of them), "sum", "difference", "left", "right", "centre",
    "surroundings"; "split": channels or tracks that are transcribed separately."""
    fallback: Annotated[str, Meta(max_length=200)] = ""
    """The mix of the segments in which `mix` has no speech; "" if there are none."""
    tracks: Annotated[tuple[AudioTrack, ...], Meta(max_length=1000)]
    """All audio tracks."""
    split_tracks: Annotated[tuple[int, ...], Meta(max_length=1000)] = ()
    """Numbers of the tracks that are transcribed separately; empty if it is only `track`."""

    @property
    def used(self) -> tuple[AudioTrack, ...]:
        """The tracks that are transcribed."""
        return tuple(track for track in self.tracks if track.number in {self.track, *self.split_tracks})

    @property
    def others(self) -> tuple[AudioTrack, ...]:
        """The tracks that are not transcribed."""
        return tuple(track for track in self.tracks if track not in self.used)


class TranslationFacts(Struct, frozen=True, kw_only=True):
    """The translation of a job into one language."""

    language: str
    """Language tag, such as "zh-TW"."""
    sentences: int = 0
    """Sentences that have a result, or wait for one."""
    done: int = 0
    """Sentences that have a result."""
    untranslated: int = 0
    """Number of sentences that could not be translated; they are shown in the original."""
    cause: str = ""
    """Why the sentences could not be read the last time that it was translated; its files were left as they were then."""


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
    """Length of the audio; 0 while unknown."""
    segments: dict[str, int] = {}
    """Number of segments in each state."""
    decoded_ms: int = 0
    """Audio read so far, while the file is read."""
    outputs: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    """Speech of a failed job that could not be decoded: "start_ms end_ms cause"; only in the answer to Status."""
    unheard: tuple[str, ...] = ()
    """Speech for which the model gave no text: "start_ms end_ms cause"; only in the answer to Status."""
    damaged: tuple[tuple[float, float], ...] = ()
    """Where audio is known to be lost, because the file is damaged or cut: start and end in seconds."""
    owner: str = ""
    """Name of the key that submitted it; empty for the local socket and inboxes."""
    tag: str = ""
    size: int = 0
    """Bytes of the media file."""
    received_bytes: int = 0
    """Bytes received so far, while it is uploaded."""
    url: str = ""
    """Address that it is downloaded from; "" for other files."""
    priority: int = 0
    model: str = ""
    """The model that decodes it; "" from a server that does not report it."""
    model_reason: str = ""
    """Why it is not decoded by the default model."""
    position: int = 0
    """Place in the queue, from 1; 0 unless it waits."""
    inbox: str = ""
    """The inbox that it comes from; "" for a submitted file."""
    unheard_count: int = 0
    """Number of entries that `unheard` has in the answer to Status."""
    is_dismissed: bool = False
    """A client has dismissed its failure; a retry ends this."""
    formats: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    """"transcribe", "translate" or both, in this order; each can be fetched."""
    audio: AudioChoice | None = None
    """The track and mix that are transcribed; None while the file is read."""
    translations: tuple[TranslationFacts, ...] = ()
    """The languages that it is translated to."""
    history: tuple[Step, ...] = ()
    """The job's transitions and its segments' errors; only in the answer to Status."""


class WorkerFacts(Struct, frozen=True, kw_only=True):
    """One worker slot."""

    slot: str
    role: str
    state: str
    incarnation: int
    device: str
    leases: int
    job: str
    """The job that a prepare worker reads."""
    cause: str
    audio_ms: int = 0
    """Audio that this slot has transcribed since the daemon started."""
    jobs: tuple[str, ...] = ()
    """Jobs that it reads, or whose segments it transcribes."""
    memory_used_bytes: int = 0
    """Memory of its GPU that any program uses; 0 if unknown."""
    memory_total_bytes: int = 0
    speed: float = 0.0
    """Seconds of audio decoded per second while it decodes; 0 if unknown."""
    host: str = ""
    """Its host; "" for the daemon's host."""
    round_trip_ms: float = 0.0
    """Round trip to that host."""
    sent_bytes: int = 0
    received_bytes: int = 0
    """Traffic since it joined."""
    clock_ahead_ms: float = 0.0
    """Offset of its host's clock to the daemon's; positive: ahead."""
    model_digest: str = ""
    """SHA-256 of its model's weights."""
    models: tuple[str, ...] = ()
    """Names of the models that it holds, the default first."""
    loading: str = ""
    """The model that it loads now."""

    @property
    def is_remote(self) -> bool:
        """True for a worker of another host, connected or not: its slot is HOST/PLACE."""
        return "/" in self.slot

    @property
    def has_left(self) -> bool:
        """True for a worker of another host that has disconnected regularly."""
        return self.state == "stopped" and self.is_remote


class ModelFacts(Struct, frozen=True, kw_only=True):
    """One model of the server."""

    name: str
    source: str
    """A size, a hub id or a folder of the server."""
    is_default: bool = False
    languages: tuple[str, ...] = ()
    """Languages that it is configured for; empty: no particular ones."""
    tasks: tuple[str, ...] = ()
    """What it can do: "transcribe", "translate" (audio into English), or "text" (translates text)."""
    slots: tuple[str, ...] = ()
    """Worker slots that hold it."""
    stale_slots: tuple[str, ...] = ()
    """Worker slots that have a copy by an earlier configuration in memory; `UnloadModel` removes it."""
    memory_bytes: int = 0
    """Memory that it takes in a worker, as measured at its last load; 0 if unknown."""
    preload: int = 0
    """How many workers are to keep it loaded: as configured, or as an admin has requested."""
    preload_cause: str = ""
    """Why fewer workers keep it than `preload`; jobs can use it. Only for admins."""
    is_requested: bool = False
    """An admin has loaded or unloaded it since its configuration was read."""
    loads: int = 0
    """Loads since the server's start."""
    jobs: int = 0
    """Jobs that it decodes and that have not ended."""
    ready_segments: int = 0
    """Segments that wait for a worker with it."""
    cause: str = ""
    """Why it cannot be used, or why its last download failed."""
    is_downloading: bool = False
    """It is not on the server yet."""
    downloaded_bytes: int = 0
    download_bytes: int = 0
    """Size of its files; 0 if unknown."""

    @property
    def keepers(self) -> int:
        """Workers that keep it loaded now, of the `preload` ones."""
        return min(len(self.slots), self.preload)

    @property
    def state(self) -> str:
        """Whether it can be used: "downloading", "loaded" in a worker, "unusable", or "not_loaded" yet."""
        if self.is_downloading:
            return "downloading"
        if self.slots:
            return "loaded"
        return "unusable" if self.cause else "not_loaded"


class _Message(Struct, frozen=True, kw_only=True, tag=True):
    """A tagged Struct. `request` is chosen by the client and returned in every answer."""

    request: int


# -- client → server ---------------------------------------------------------------------------------------------------


class Hello(_Message, frozen=True, kw_only=True):
    """Requests the server's version, model and limits."""

    options: JobOptions | None = None
    """Options to validate: the answer is an Error if a Submit with them would be refused."""


class Submit(_Message, frozen=True, kw_only=True):
    """Makes a job of a media file: one that is uploaded, one on the server (`path`), or one that it downloads (`url`)."""

    name: Annotated[str, Meta(max_length=1_024)] = ""
    """The file's name, for the names of its subtitles; characters that a file system rejects are replaced."""
    size: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    """Bytes of the file; None: sent with Commit."""
    sha256: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")] = ""
    """SHA-256 of the file, in hexadecimal; "": sent with Commit, and another connection cannot resume the upload."""
    path: Annotated[str, Meta(max_length=4_096)] | None = None
    """An absolute path on the server, instead of an upload; only on its local socket."""
    url: Annotated[str, Meta(max_length=4_096)] | None = None
    """An address that the server downloads, instead of an upload, if its host is in `Welcome.url_hosts`."""
    allow_duplicate: bool = False
    """Make a new job even if this file was submitted before with the same options."""
    options: JobOptions = JobOptions()


class Chunk(_Message, frozen=True, kw_only=True):
    """The next bytes of an upload, in one blob of 1 to `chunk_bytes`; `request` is that of its Submit."""

    job: str
    offset: Annotated[int, Meta(ge=0, le=2**62)]


class Commit(_Message, frozen=True, kw_only=True):
    """Completes an upload; `request` is a new number."""

    job: str
    size: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    """Required here or in Submit; if in both, they must be equal."""
    sha256: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")] = ""
    """SHA-256 of the file, in hexadecimal; required if the Submit had none."""
    options: JobOptions | None = None
    """Replaces the options of a Submit without sha256, except `tag`; None: no change."""


JobSort = Literal["newest", "oldest", "name", "longest", "queue"]
"""Order of a list of jobs."""


class List(_Message, frozen=True, kw_only=True):
    """Requests the newest jobs."""

    states: tuple[str, ...] = ()
    """Only jobs in these states; empty for all."""
    limit: int = 100
    tag: str | None = None
    """Only jobs with this tag."""
    before: Annotated[str, Meta(max_length=64)] = ""
    """Only jobs older than this one."""
    name: Annotated[str, Meta(max_length=1_024)] = ""
    """Only jobs whose file name contains this text; case is ignored."""
    language: Annotated[str, Meta(max_length=32)] = ""
    """Only jobs in this language, by any usual name."""
    model: Annotated[str, Meta(max_length=200)] = ""
    """Only jobs of this model."""
    inbox: Annotated[str, Meta(max_length=4_096)] = ""
    """Only jobs of this inbox."""
    is_damaged: bool = False
    """Only jobs with lost audio."""
    is_unheard: bool = False
    """Only jobs with speech for which the model gave no text."""
    sort: JobSort = "newest"
    """Order; "queue": jobs in progress, those that are processed first, then the waiting ones in the order of the queue."""


class Status(_Message, frozen=True, kw_only=True):
    """Requests one job."""

    job: str


class Watch(_Message, frozen=True, kw_only=True):
    """Requests the journal after an entry, and all later entries."""

    after_seq: Annotated[int, Meta(ge=-1, le=2**63 - 1)] = 0
    """The last entry that the client has; -1: only new entries."""
    job: Annotated[str, Meta(max_length=64)] | None = None
    """Only this job's entries."""


class Fetch(_Message, frozen=True, kw_only=True):
    """Requests a job's subtitles."""

    job: str
    format: str = "srt"
    task: Task | None = None
    """Which subtitles of a job with two tasks; None: those of its first task."""
    language: Annotated[str, Meta(max_length=64)] = ""
    """The translation into this language, one of the job's `translations`; "": the transcript."""
    is_bilingual: bool = False
    """With `language`: cues with the translation above the original."""
    layout: LayoutOptions | None = None
    """Lay out the cues within these limits; None: those of the job, or as they were saved."""
    version: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    """A saved version; 0: the model's; None: the newest."""
    segments: Annotated[tuple[Annotated[int, Meta(ge=0, le=2**31)], ...], Meta(max_length=256)] = ()
    """Only the model's text of these segments, also while the job is in progress; empty: all subtitles of an ended job."""


class SaveCues(_Message, frozen=True, kw_only=True):
    """Saves edited cues as a new version; 1 to 4 blobs, joined, are a JSON array of EditedCue."""

    job: str
    version: Annotated[int, Meta(ge=0, le=2**62)]
    """The version that the cues were made from: the newest one, else nothing is saved."""
    task: Task | None = None
    """Which subtitles of a job with two tasks; None: those of its first task."""
    restore: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    """Save this version again, without blobs; 0: the model's."""
    author: Annotated[str, Meta(max_length=100)] = ""
    """Name of the person, shown with the version; "": the client's key."""
    draft_session: Annotated[str, Meta(max_length=64)] = ""
    """Saved automatically by the editing session of this random id: replaces the session's previous draft if that was begun
    less than 5 minutes ago."""


class ListCueVersions(_Message, frozen=True, kw_only=True):
    """Requests the saved versions of a job's cues."""

    job: str
    task: Task | None = None
    """Which subtitles of a job with two tasks; None: those of its first task."""


class GetWaveform(_Message, frozen=True, kw_only=True):
    """Requests the peaks of a job's audio."""

    job: str


class GetAudio(_Message, frozen=True, kw_only=True):
    """Requests a part of a job's audio."""

    job: str
    start_ms: Annotated[int, Meta(ge=0, le=2**62)] = 0
    """In the time of the cues."""
    duration_ms: Annotated[int, Meta(ge=0, le=60_000)] = 0
    """0: only the length, and whether the audio is available."""


class GetVideo(_Message, frozen=True, kw_only=True):
    """Requests facts about the picture of a job's file, or a part of it."""

    job: str
    form: VideoForm | None = None
    """None: only the facts."""
    start: Annotated[int, Meta(ge=0, le=2**62)] = 0
    """First byte for "original", else the number of a segment, from 0."""
    length: Annotated[int, Meta(ge=0, le=2**20)] = 0
    """Bytes of "original"."""


class Cancel(_Message, frozen=True, kw_only=True):
    """Cancels a job."""

    job: str


class Retry(_Message, frozen=True, kw_only=True):
    """Retries a failed job; only missing segments are decoded."""

    job: str


class TranslateJob(_Message, frozen=True, kw_only=True):
    """Translates the transcript of a job; answered with JobInfo.

    Languages are added to those of the job. Only sentences without a translation, or that have changed, are translated.
    """

    job: str
    to: Annotated[tuple[LanguageName, ...], Meta(max_length=20)] = ()
    """Languages by any usual name; empty: those of the job."""
    model: Annotated[str, Meta(max_length=200)] = ""
    """Name of a model that translates text; "": as of the job."""
    is_retry: bool = False
    """Translate again the sentences that could not be translated."""


class Delete(_Message, frozen=True, kw_only=True):
    """Deletes an ended job with its results, journal and uploaded file; written subtitles are kept."""

    job: str


class Reorder(_Message, frozen=True, kw_only=True):
    """Changes the priority of a job that has not ended, or its place in the queue."""

    job: str
    priority: Annotated[int, Meta(ge=-100, le=100)] | None = None
    """None: unchanged, or that of the other job."""
    before: Annotated[str, Meta(max_length=64)] = ""
    """Start it directly before this waiting job, with its priority."""
    after: Annotated[str, Meta(max_length=64)] = ""
    """Start it directly after this waiting job, with its priority."""


class Dismiss(_Message, frozen=True, kw_only=True):
    """Dismisses the failure of a job: the web page no longer reports it, the job stays in lists."""

    job: str


class Stats(_Message, frozen=True, kw_only=True):
    """Requests workers, queue and speed."""


LogLevelName = Literal["debug", "info", "warning", "error"]


class SetLogLevel(_Message, frozen=True, kw_only=True):
    """Sets the level of the server's log until it reloads its configuration; for an admin."""

    level: LogLevelName | None = None
    """None: only return the current level."""


class Operate(_Message, frozen=True, kw_only=True):
    """Changes what may change while the server runs, and requests its state; for an admin."""

    is_paused: bool | None = None
    """Pause or resume the queue: while it is paused, no file and no segment is started. None: unchanged."""
    log_lines: Annotated[int, Meta(ge=0, le=1_000)] = 0
    """The last lines of the log, at most."""
    log_level: LogLevelName = "debug"
    """Only lines of this level or above."""
    log_text: Annotated[str, Meta(max_length=200)] = ""
    """Only lines that contain this text; case is ignored."""


ModelName = Annotated[str, Meta(min_length=1, max_length=200)]
"""The name of one of the server's models, as in `Welcome.models`."""


class LoadModel(_Message, frozen=True, kw_only=True):
    """Has workers load a model and keep it; for an admin.

    It holds until UnloadModel, a reload that changes the model's configuration, or a restart of the server.
    """

    model: ModelName
    workers: Annotated[int, Meta(ge=1, le=4_096)] = 1
    """How many keep it; as far as their memory allows."""


class UnloadModel(_Message, frozen=True, kw_only=True):
    """Has all workers unload a model as soon as they do not use it; for an admin. A job that needs it loads it again."""

    model: ModelName


# -- server → client ---------------------------------------------------------------------------------------------------


class Welcome(_Message, frozen=True, kw_only=True):
    """The answer to Hello."""

    server: str
    """Version of the daemon."""
    protocol: int
    model: str
    """Name of the default model."""
    models: tuple[str, ...] = ()
    """Names of all models, the default first."""
    user: str = ""
    """Name of the client's key; empty on the local socket."""
    role: str = "admin"
    """"user" (sees and changes its own jobs) or "admin" (all)."""
    formats: tuple[str, ...] = ()
    """Formats for Fetch."""
    max_upload_bytes: int = 0
    url_hosts: tuple[str, ...] = ()
    """Hosts of addresses that the server downloads, each with its subdomains; "*": all; empty: none."""


class Accepted(_Message, frozen=True, kw_only=True):
    """The answer to a Submit whose bytes the server needs."""

    job: str
    offset: int
    """Bytes that the server has already; the next Chunk starts here."""
    window_bytes: int
    """Bytes in flight: a Chunk may end at the last UploadCredit's (or this) `offset` + `window_bytes` at most."""
    chunk_bytes: int
    """Maximum length of a Chunk's blob."""


class UploadCredit(_Message, frozen=True, kw_only=True):
    """Acknowledges written bytes of an upload; `request` is that of its Submit."""

    job: str
    offset: int
    """All bytes before this one are written."""


class JobInfo(_Message, frozen=True, kw_only=True):
    """The answer to Status, Cancel, Retry, Delete and Commit, and to a Submit whose bytes the server does not need."""

    job: JobFacts


class JobList(_Message, frozen=True, kw_only=True):
    """The answer to List, newest first."""

    jobs: tuple[JobFacts, ...]


class Event(_Message, frozen=True, kw_only=True):
    """One journal entry; Watch has any number of them as answers."""

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
    version: int = 0
    """The saved version that the file contains; 0: the model's."""


class CueVersions(_Message, frozen=True, kw_only=True):
    """The answer to ListCueVersions and SaveCues."""

    job: str
    versions: tuple[CueVersion, ...]
    """Newest first; those that were replaced or removed are left out, and so is version 0, which is always there."""


class WaveformInfo(_Message, frozen=True, kw_only=True):
    """The answer to GetWaveform; one blob holds the peaks, one byte for each interval: 0 for silence, 255 for full scale."""

    job: str
    interval_ms: int
    offset_ms: int
    """Start of the first interval, in the media's time."""
    audio_ms: int


class Audio(_Message, frozen=True, kw_only=True):
    """The answer to GetAudio; one blob holds the samples, 16 bits, little-endian, mono: fewer than requested at the end."""

    job: str
    start_ms: int
    sample_rate: int
    total_samples: int
    """Length of the whole media, in samples."""


class Video(_Message, frozen=True, kw_only=True):
    """The answer to GetVideo; one blob holds the requested bytes, or one segment: a complete file whose times begin at 0."""

    job: str
    width: int
    """Width and height as they are shown; 0 if there is no picture."""
    height: int
    media_type: str
    """Media type of the file if browsers play it, with its codec; "" if they do not."""
    size: int
    """Bytes of the file."""
    segment_ms: int
    cause: str = ""
    """Why the picture of a file that has one cannot be shown."""


class HungFolder(Struct, frozen=True, kw_only=True):
    """An inbox or output folder on a mount that does not answer."""

    path: str
    """"" for clients that are not admins."""
    seconds: int
    """How long it has not answered."""


class OpenFile(Struct, frozen=True, kw_only=True):
    """A file in an inbox that waits for a process that keeps it open for writing."""

    path: str
    process: str
    """Its name and id; "" if unknown."""
    seconds: int
    """How long it has waited."""


class StatsInfo(_Message, frozen=True, kw_only=True):
    """The answer to Stats."""

    workers: tuple[WorkerFacts, ...]
    jobs: dict[str, int]
    """Number of jobs in each state."""
    ready_segments: int
    leased_segments: int
    queued_bytes: int
    audio_ms: int
    """Audio of the segments transcribed since the start."""
    uptime_s: float
    last_seq: int
    queued_ms: int = 0
    """Audio in the server's memory: waiting for a worker, or leased to one."""
    uploads: int = 0
    """Uploads in progress."""
    spool_bytes: int = 0
    """Uploaded media on the server's disk."""
    waiting_ms: int = 0
    """Audio found in files and not transcribed yet."""
    unread_files: int = 0
    """Files that are not read to the end yet."""
    unread_bytes: int = 0
    """Their size."""
    models: tuple[ModelFacts, ...] = ()
    """All models, the default first."""
    is_paused: bool = False
    """True while an admin has paused the queue: running files finish, nothing more is started."""
    is_disk_full: bool = False
    """True while the disk is full: no further file is read."""
    is_draining: bool = False
    """True while the daemon is stopping: running jobs finish, no job starts."""
    is_state_lost: bool = False
    """True when the state folder was deleted: results are lost at the next restart, new work is refused."""
    hung_folders: tuple[HungFolder, ...] = ()
    """Folders that do not answer; their files wait, all others are processed."""
    open_files: tuple[OpenFile, ...] = ()
    """At most 20; for admins."""

    @property
    def has_several_models(self) -> bool:
        """True if the models need a list: there are several, or the only one is not on the server yet."""
        return len(self.models) > 1 or any(model.is_downloading for model in self.models)


class ModelInfo(_Message, frozen=True, kw_only=True):
    """The answer to LoadModel and UnloadModel; the workers load or unload the model afterwards."""

    model: ModelFacts


class LogLevel(_Message, frozen=True, kw_only=True):
    """The answer to SetLogLevel."""

    level: str
    """The current level."""
    before: str
    """The previous level."""


class Disk(Struct, frozen=True, kw_only=True):
    """The file system of one of the server's folders."""

    path: str
    free_bytes: int
    total_bytes: int
    reserve_bytes: int = 0
    """No further file is started with less than this."""


class OperateInfo(_Message, frozen=True, kw_only=True):
    """The answer to Operate."""

    log_level: str
    """The current level."""
    is_paused: bool
    """The queue is paused by an admin."""
    log: tuple[str, ...] = ()
    """Oldest first."""
    disks: tuple[Disk, ...] = ()
    retention: dict[str, float] = {}
    """Settings of what is kept, by key of the configuration: days, seconds or MB as their names say."""


class Error(_Message, frozen=True, kw_only=True):
    """The answer to a request that fails; `code` is one of the protocol's."""

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
    | SaveCues
    | ListCueVersions
    | GetWaveform
    | GetAudio
    | GetVideo
    | Cancel
    | Retry
    | TranslateJob
    | Delete
    | Stats
    | SetLogLevel
    | Reorder
    | Dismiss
    | Operate
    | LoadModel
    | UnloadModel
)
ToClient = (
    Welcome
    | Accepted
    | UploadCredit
    | JobInfo
    | JobList
    | Event
    | Subtitles
    | CueVersions
    | WaveformInfo
    | Audio
    | Video
    | StatsInfo
    | ModelInfo
    | LogLevel
    | OperateInfo
    | Error
)

MAX_BLOBS = 4
"""Maximum blobs of a message to the server: a SaveCues has up to four, a Chunk one."""

to_server: Codec[ToServer] = Codec(ToServer, max_blobs=MAX_BLOBS)
to_client: Codec[ToClient] = Codec(ToClient)
