"""The frozen records that the broker keeps: job, segment, worker, lease."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import Enum
from typing import Annotated, Any

from msgspec import Meta, Struct
from msgspec.structs import replace

from subtitle.messages import JobOptions, LayoutOptions, VadOptions, WordTimestamps
from subtitled.config.model_choice import DEFAULT_MODEL, ModelChoice
from subtitled.config.schema import InboxConfig
from subtitled.core.plan import Plan, PlanSettings
from subtitled.core.states import AT_WORK, JobState, SegmentState, WorkerState
from subtitled.core.throughput import Throughput
from subtitled.core.translation import TranslationRequest
from subtitled.languages import chinese_of, option_of, target_tag


class SegmentKey(Struct, frozen=True, order=True):
    """Identifies a segment: its job's id and its index in the plan."""

    job: Annotated[str, Meta(max_length=200)]
    index: Annotated[int, Meta(ge=0)]


FIRST_TEXT = 1_000_000
"""Index of the first text segment of a job; those of audio segments are smaller."""
SAMPLES_PER_CHAR = 1_000
"""Audio that counts as much as one character of text, for the fair queue and time limits: 16 characters a second."""


class TextPlan(Struct, frozen=True, kw_only=True):
    """Sentences of a job that a model translates at once."""

    model: str
    """Name of the translation model."""
    request: TranslationRequest
    keys: tuple[str, ...]
    """The key in the store of each sentence."""
    terms: tuple[str, ...]
    """The terms of the glossary in each sentence, as text."""
    problem: str = ""
    """Why no model can translate them; "" if `model` can."""

    @property
    def samples(self) -> int:
        """The audio that it counts as."""
        return SAMPLES_PER_CHAR * max(16, sum(map(len, self.request.sentences)))


class Options(Struct, frozen=True, kw_only=True):
    """The options of one job; they never change."""

    model: str = DEFAULT_MODEL
    """Name of a model of `[[models]]`, or DEFAULT_MODEL."""
    model_reason: str = ""
    """Why it is decoded by another model than the default, or translated by another one."""
    translation_model: str | None = None
    """Name of the model that translates, if `is_translated_too`; None: `model`."""
    language: str = "auto"
    """A Whisper language code, "auto" (one language per file, by vote) or "multi" (several languages in one file)."""
    audio_track: str = "auto"
    """A number from 1, a Whisper language code, or "auto"."""
    channels: str = "mix"
    """"split": channels or tracks with different speech are transcribed separately."""
    task: str = "transcribe"
    is_translated_too: bool = False
    """Decode each segment once more with translation to English, and write subtitles in both languages."""
    initial_prompt: str = ""
    """Prompt for each segment: names, style, punctuation."""
    hotwords: str = ""
    """Words that are likely in each segment."""
    formats: tuple[str, ...] = ("srt",)
    bom: bool = False
    newline: str = "lf"
    karaoke: bool = False
    flags: tuple[str, ...] = ()
    """Flags in the names of the subtitle files, for players: "default", "sdh", "forced"."""
    skip_existing: str = "never"
    """Skip a file that has subtitles already: "any", "language" (in the same language), "never"."""
    word_timestamps: WordTimestamps = "auto"
    remove_hallucinations: bool = True
    """Remove hallucinated phrases and loops."""
    marks: bool = True
    """Keep marks of music and noise."""
    chinese: str = "off"
    """Characters of Chinese text: "tw", "hk", "cn", "tw+words", "cn+words"; "off": as the model writes them."""
    priority: int = 0
    translate_to: tuple[str, ...] = ()
    """Language tags that the transcript is translated to."""
    is_bilingual: bool = False
    """Also a file with both languages for each of `translate_to`."""
    translate_model: str = ""
    """Name of the model of `[[models]]` that translates; "": the first one that covers both languages."""
    glossary: str = ""
    """Text of the job's names.toml: how terms are translated."""
    glossary_file: str = ""
    """Path of the inbox's names.toml."""
    vad: VadOptions = VadOptions()
    """Overrides of the daemon's settings for voice detection."""
    layout: LayoutOptions = LayoutOptions()
    """Overrides of the default limits of cues."""
    after: str = "keep"
    """Done with the source afterwards: "move", "keep" or "delete"."""
    inbox: bytes = b""
    """Root of the inbox that took the file, as the file system's bytes."""
    include: tuple[str, ...] = ()
    """Globs of the inbox: a file that was renamed is followed only to a path that they accept."""
    exclude: tuple[str, ...] = ()
    output: bytes = b"beside"
    """Folder of the subtitles, or b"beside"; b"": none are written, the client fetches them."""
    url: str = ""
    """Address that the file is downloaded from; "": it was uploaded or found in a folder."""
    mount: bytes = b""
    """Mount point of the file when it was accepted: while nothing is mounted there, the file is not missing. b"": none."""
    output_mount: bytes = b""
    """The same of `output`."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """The task of each transcript, in order."""
        return (self.task, "translate") if self.is_translated_too else (self.task,)

    @property
    def passes(self) -> int:
        """How often a model decodes each segment of a lease."""
        return 1 if self.translation_model is not None else len(self.tasks)

    @property
    def models(self) -> tuple[str, ...]:
        """The names of its models."""
        return (self.model,) if self.translation_model is None else (self.model, self.translation_model)

    def is_same(self, other: Options) -> bool:
        """Return whether both give the same subtitles: the wording of `model_reason`, mounts and globs do not count."""
        others = ("model_reason", "mount", "output_mount", "include", "exclude")
        same = {name: getattr(other, name) for name in others}
        return replace(self, **same) == other


def options_of(given: JobOptions | InboxConfig, choice: ModelChoice, **others: Any) -> Options:
    """Return the options of a job from those of its Submit or its inbox; `others` are fields that only one of these has."""
    tasks = sorted(given.tasks or (given.task,))  # "transcribe" first
    return Options(
        model=choice.model,
        model_reason=choice.reason,
        translation_model=choice.translation_model,
        language=option_of(given.language),
        audio_track=option_of(str(given.audio_track)),
        channels=given.channels,
        task=tasks[0],
        is_translated_too=len(tasks) > 1,
        formats=tuple(given.formats),
        flags=tuple(given.flags),
        translate_to=language_tags(given.translate_to),
        is_bilingual=given.is_bilingual,
        translate_model=given.translate_model,
        word_timestamps=given.word_timestamps,
        chinese=chinese_of(given.language) if given.chinese == "auto" else given.chinese,
        priority=given.priority,
        **others,
    )


def language_tags(names: Iterable[str]) -> tuple[str, ...]:
    """Return the tags of languages to translate to, each once; names that are unknown as they are."""
    return tuple(dict.fromkeys(target_tag(name) or name for name in names))


class Job(Struct, frozen=True, kw_only=True):
    """One media file on its way to subtitles."""

    id: str
    state: JobState
    source: bytes
    """Original path of the media file, as the file system's bytes."""
    location: bytes
    """Present path of the media file: its source, or the archive it was moved to."""
    size: int
    mtime_ns: int
    options: Options
    order: int
    """Increases with every job; earlier jobs of one priority are prepared first."""
    losses: int = 0
    """Prepare workers that were lost while they read this file."""
    plan_settings: PlanSettings | None = None
    """The settings of its first plan: a plan made again must be the same. None: not planned yet."""
    is_planned: bool = False
    """The whole plan is stored."""
    language: str | None = None
    """The settled language; None while it is open, and for "multi"."""
    language_probability: float = 0.0
    cause: str = ""
    """Why the job failed, or which subtitles the file has already."""
    is_closed: bool = False
    """The files of a failed job (partial subtitles, error text, archived source) are written."""
    owner: str = ""
    """Name of the client's key that submitted it; empty for inboxes and the local socket."""
    tag: str = ""
    """Free text of the client."""
    sha256: str = ""
    """SHA-256 of an uploaded file, in hex; empty during the upload, and for files of inboxes."""
    repetition: int = 0
    """0, or a unique number for a file that was submitted again on purpose."""
    added_languages: tuple[str, ...] = ()
    """Language tags that it is translated to besides those of its options."""
    added_models: tuple[tuple[str, str], ...] = ()
    """Language tags with the name of the model that a client requested for this language later."""
    translation_cause: str = ""
    """Why its sentences could not be read the last time that it was translated."""
    cancelled_languages: tuple[str, ...] = ()
    """Language tags whose translation was cancelled: an edit does not start it again."""
    changed_priority: int | None = None
    """The priority that a client gave it later; None: that of its options."""
    place: float | None = None
    """Its place in the queue among jobs of its priority, in place of `order`; None: not moved."""
    unheard: int = 0
    """Stretches of speech for which the model gave no text; known when it is written."""
    is_dismissed: bool = False
    """A client has dismissed its failure: the web page no longer reports it."""

    @property
    def priority(self) -> int:
        """The present priority."""
        return self.options.priority if self.changed_priority is None else self.changed_priority

    @property
    def queue_key(self) -> tuple[int, float, int]:
        """Waiting jobs are started in the order of this key."""
        return (-self.priority, self.order if self.place is None else self.place, self.order)

    @property
    def is_subtitle_file(self) -> bool:
        """Its source is a subtitle file, to be translated."""
        return bool(self.options.translate_to) and self.source.lower().endswith((b".srt", b".vtt"))

    @property
    def translate_to(self) -> tuple[str, ...]:
        """Language tags that it is translated to."""
        return tuple(dict.fromkeys((*self.options.translate_to, *self.added_languages)))

    @property
    def active_languages(self) -> tuple[str, ...]:
        """Language tags that it is translated to, without those whose translation was cancelled."""
        return tuple(tag for tag in self.translate_to if tag not in self.cancelled_languages)

    def requested_model(self, target: str) -> str:
        """Return the name of the model that a client requested later for one language; "" for none."""
        return dict(self.added_models).get(target, "")

    def translate_model(self, target: str) -> str:
        """Return the name of the model that has to translate to `target`; "": the first one that covers both languages."""
        own = self.options.translate_model if target in self.options.translate_to else ""
        return self.requested_model(target) or own

    @property
    def is_download_missing(self) -> bool:
        """Its file is to be downloaded and never was, completely."""
        return bool(self.options.url) and not self.sha256

    @property
    def is_already_subtitled(self) -> bool:
        """The file has subtitles already (see `cause`): none are written."""
        return bool(self.cause) and self.state in {JobState.WRITING, JobState.DONE}


class Segment(Struct, frozen=True, kw_only=True):
    """A piece of audio, or of text to be translated, that the model sees at once, with its state."""

    key: SegmentKey
    state: SegmentState
    plan: Plan = Plan(0, (), ())
    text: TextPlan | None = None
    """The sentences of a text segment; None: it is audio."""
    has_pcm: bool = False
    """Its PCM is in the daemon's memory."""
    losses: int = 0
    """Workers that were lost while they worked on this segment, and refusals."""
    cause: str = ""
    """Why it was last lost, or failed."""
    language: str | None = None
    """The language it was decoded in."""
    language_probability: float = 0.0
    transcript: bytes | None = None
    """Its result while another model translates it, not stored: after a restart it is transcribed again."""

    @property
    def samples(self) -> int:
        """Length in samples at 16 kHz; of text, the audio that it counts as."""
        return self.plan.samples if self.text is None else self.text.samples

    @property
    def is_ready(self) -> bool:
        """It waits for a worker: all that the worker needs is in memory."""
        return self.state is SegmentState.PENDING and (self.has_pcm or self.text is not None)


def model_of(job: Job, segment: Segment) -> str:
    """Return the name of the model that decodes or translates a segment next."""
    if segment.text is not None:
        return segment.text.model
    is_transcribed = segment.transcript is not None
    return (job.options.translation_model or DEFAULT_MODEL) if is_transcribed else job.options.model


class Role(Enum):
    """The kinds of worker."""

    PREPARE = "prepare"
    TRANSCRIBE = "transcribe"
    TRANSLATE = "translate"
    """It sends text to a chat endpoint, and has no device."""


class Lease(Struct, frozen=True, kw_only=True):
    """A batch of segments given to one worker until a deadline."""

    id: int
    worker: str
    """Identity, `slot.incarnation`."""
    model: str = DEFAULT_MODEL
    is_load: bool = False
    """The worker loads the model for it."""
    evict: tuple[str, ...] = ()
    """Models that it unloads before."""
    keys: tuple[SegmentKey, ...]
    samples: int
    """Audio to decode; counted twice if it is translated too."""
    windows: int = 0
    """Segments to decode; counted twice if they are translated too."""
    pcm_bytes: int = 0
    is_received: bool = True
    """It has reached its worker; False while it is in flight to another host."""
    begun_at: float = float("inf")
    """When the worker started it; infinity before that, and if the model had to be loaded first."""
    due_at: float = float("inf")
    """When it is overdue: to arrive, then to make progress; infinity while the worker has earlier leases."""
    limit_s: float = 0.0
    """Time without progress after which it is overdue."""
    stop_at: float = float("inf")
    """When it is overdue in spite of progress."""
    steps: int = 0
    """Calls of the model that its worker has reported."""
    is_abandoned: bool = False
    """None of its segments is needed any more; its worker has to stop it."""
    is_alone: bool = False
    """It is the last attempt at a segment: while a worker with several streams has it, it gets no other lease."""
    beside: int = 1
    """Leases that its worker decoded when it started it, itself included."""


class Feed(Struct, frozen=True, kw_only=True):
    """One file being read by one prepare worker."""

    id: int
    """Unique; a late message about an earlier feed is recognised by it."""
    job: str
    missing: frozenset[int] | None
    """Segments of a stored plan whose PCM is needed again; None when the file is being planned."""
    granted_bytes: int = 0
    received_bytes: int = 0
    decoded_samples: int = 0
    is_waiting: bool = False
    """The worker waits for credit."""
    progressed_at: float = 0.0
    is_abandoned: bool = False
    """The file is no longer needed; the worker has to stop reading it."""

    @property
    def unused_bytes(self) -> int:
        """Credit that was granted and not used; the last segment may overdraw it."""
        return max(0, self.granted_bytes - self.received_bytes)


class ResidentModel(Struct, frozen=True, kw_only=True):
    """A model that a worker holds."""

    batch_size: int | None = None
    """Segments that are decoded at once; None: the policy's number."""
    streams: int | None = None
    """Leases of it that are decoded at once; None: as many as the worker has streams."""
    is_loaded: bool = True
    """Its weights are in memory; else they were freed when it was idle."""
    is_kept: bool = False
    """It has been in memory beside the default model: a worker that keeps it for `preload` has room for both."""
    is_pinned: bool = False
    """The worker has been sent that it must not unload it when it is idle."""
    loaded_at: float = 0.0
    used_at: float = 0.0
    """When a lease of it was sent or answered last."""
    throughput: Throughput = Throughput()


class Worker(Struct, frozen=True, kw_only=True):
    """A worker slot with its present process, or session of a worker on another host."""

    slot: str
    role: Role
    state: WorkerState
    incarnation: int = 1
    credit: int = 1
    """Leases that it may hold at once."""
    streams: int = 1
    """Leases that it decodes at once; the others wait."""
    models: dict[str, ResidentModel] = {}
    """The models that it holds, or held until it was idle, by name; of a worker that is not alive, those of its last process."""
    stale_models: tuple[str, ...] = ()
    """Models that it may have in memory besides, but that are not leased to it: another configuration's, or of a load that
    was not reported."""
    loading: str | None = None
    """The model that it loads with its first lease; until the answer it gets leases of no other model."""
    reserved: str | None = None
    """The model that it will load when its leases are done; it gets no more of them."""
    free_bytes: int | None = None
    """Free memory of its device after its last load; None if unknown."""
    leases: tuple[int, ...] = ()
    """Ids of its leases, those it works on first."""
    feed: Feed | None = None
    seen_at: float = 0.0
    due_at: float = float("inf")
    """When it is overdue: to be ready, to finish its lease, to leave BACKOFF or BROKEN, or to be forgotten."""
    crashes: tuple[float, ...] = ()
    """Times of its recent crashes."""
    failures: int = 0
    """Crashes and refused leases since it last finished a lease or a file."""
    device: str = ""
    is_cpu: bool = False
    """It decodes on a CPU."""
    cause: str = ""
    """Why it was last lost, is leaving, or is broken."""
    blamed: tuple[SegmentKey, ...] | None = None
    """Segments blamed when its connection was lost; the blame is undone if its process is still alive. None: it ended otherwise."""
    is_remote: bool = False
    """It is on another host; this daemon does not start processes in its slot."""
    round_trip_s: float = 0.0
    bytes_per_s: float | None = None
    """PCM that the link carries per second; None: not measured."""

    @property
    def identity(self) -> str:
        """Unique name of this incarnation; late messages of an earlier one do not match it."""
        return f"{self.slot}.{self.incarnation}"

    @property
    def has_finished_leases(self) -> bool:
        """It has finished a lease, of any model."""
        return any(model.throughput.leases for model in self.models.values())

    def has_loaded(self, model: str) -> bool:
        """Return whether its process has a model in memory."""
        is_alive = self.state in AT_WORK or self.state is WorkerState.DRAINING
        return is_alive and model in self.models and self.models[model].is_loaded

    def resident(self, model: str) -> ResidentModel:
        """Return a model that it holds; one without values if it does not hold it."""
        return self.models.get(model) or ResidentModel()

    def with_model(self, model: str, **changes: object) -> Worker:
        """Return the worker with changed values of a model that it holds, or holds from now on."""
        return replace(self, models={**self.models, model: replace(self.resident(model), **changes)})

    def streams_of(self, model: str) -> int:
        """Return how many leases of a model it decodes at once."""
        return min(self.streams, self.resident(model).streams or self.streams)

    def holds(self, model: str) -> bool:
        """Return whether a model is in its memory, or will be when the lease that loads it begins."""
        return model in self.models and (self.models[model].is_loaded or self.loading == model)

    def has_in_memory(self, model: str) -> bool:
        """Return whether a model may be in its memory, also one that is not leased to it."""
        return self.holds(model) or model in self.stale_models

    @property
    def held_models(self) -> tuple[str, ...]:
        """The models that it holds."""
        return tuple(filter(self.holds, self.models))

    def without_models(self, names: Collection[str], *, is_in_memory: bool = True) -> Worker:
        """Return the worker without some of its models; `is_in_memory`: it may not have unloaded them."""
        models = {name: model for name, model in self.models.items() if name not in names}
        stale = tuple(name for name in self.stale_models if name not in names)
        return replace(self, models=models, stale_models=(*stale, *names) if is_in_memory else stale)

    @property
    def is_permanently_broken(self) -> bool:
        """It is broken and will not be restarted: its process reported that this cannot help."""
        return self.state is WorkerState.BROKEN and self.due_at == float("inf")
