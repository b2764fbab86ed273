"""Requests to a server, without I/O: what to send, what to wait for, and what the answers mean.

A request is a generator: it yields steps and is sent the outcome of each. The blocking and the asyncio client differ only in
how they perform the steps.
"""

from __future__ import annotations

import inspect
import itertools
import os
import re
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack

import msgspec
from msgspec import Struct

from subtitle import messages as ms
from subtitle.codec import Buffer
from subtitle.errors import OptionError, ServerError, UnreachableError, WaitTimeoutError
from subtitle.media_source import MediaSource
from subtitle.output_files import format_of, save_all
from subtitle.progress import ENDED, Progress, check_done, progress_of, tasks_of
from subtitle.stream_upload import PIECE_BYTES, StreamUpload
from subtitle.upload import Upload

SILENCE_LIMIT_S = 120.0
"""A request that takes long ends with UnreachableError when the server sends nothing for this long; a restart takes less."""
AUDIO_TIMEOUT_S = 90.0
"""For GetAudio and GetVideo: the server spends up to 30 s on one file, and other requests may be before it."""
POLL_S = 1.0
"""Interval between two Status messages about a job without journal entries."""
BUSY_POLL_S = 0.2
"""The same while its segments finish."""
RATE_LIMIT_PAUSE_S = 1.0

M = TypeVar("M", bound=Struct)
T = TypeVar("T")
OnProgress = Callable[[Progress], object]


class Send(Struct, frozen=True):
    """Send a message. Outcome: False if the socket had no room for it until `until` (monotonic)."""

    message: ms.ToServer
    until: float
    blobs: tuple[Buffer, ...] = ()


class Receive(Struct, frozen=True):
    """Wait for a message until `until` (monotonic). Outcome: Received."""

    until: float


class Received(Struct, frozen=True):
    """A message, or the fact that the connection was lost, or neither before the deadline."""

    message: ms.ToClient | None = None
    blobs: Sequence[Buffer] = ()
    is_lost: bool = False


class Call(Struct, frozen=True):
    """Call a function that blocks on a file. Outcome: its result."""

    function: Callable[[], Any]


class ReadSource(Struct, frozen=True):
    """Read the next bytes of a stream; the asyncio client awaits the call. Outcome: the bytes, empty at the end."""

    function: Callable[[], Any]


class Emit(Struct, frozen=True):
    """Yield a value to the caller. No outcome."""

    value: Any


Step = Send | Receive | Call | ReadSource | Emit
Request = Generator[Step, Any, T]


class JobKeywords(TypedDict, total=False):
    """The fields of JobOptions as keywords; a field that is not given keeps the value in `options`."""

    model: str
    language: str
    audio_track: int | str
    channels: ms.Channels
    task: ms.Task
    tasks: Sequence[ms.Task]
    formats: Sequence[str]
    word_timestamps: ms.WordTimestamps
    initial_prompt: str
    hotwords: str
    chinese: ms.Chinese
    translate_to: Sequence[str]
    translate_model: str
    is_bilingual: bool
    glossary: str
    flags: Sequence[ms.Flag]
    priority: int
    vad: ms.VadOptions
    layout: ms.LayoutOptions
    tag: str


def options_of(options: ms.JobOptions | None, keywords: JobKeywords) -> ms.JobOptions:
    """Return `options` with the fields in `keywords` replaced; raises OptionError for a value that the protocol rejects."""
    for name, example in (
        ("formats", '("srt", "vtt")'),
        ("tasks", '("transcribe",)'),
        ("flags", '("sdh",)'),
        ("translate_to", '("ja",)'),
    ):
        if isinstance(keywords.get(name), str):
            raise OptionError(
                f"{name}={keywords.get(name)!r} is a string; give a sequence, such as {example}"
            )
    unknown = sorted(keywords.keys() - set(ms.JobOptions.__struct_fields__))
    if unknown:
        raise OptionError(
            f"{unknown[0]} is not a job option; known: {', '.join(ms.JobOptions.__struct_fields__)}"
        )
    changed = {name: msgspec.to_builtins(value) for name, value in keywords.items()}
    given = {**msgspec.to_builtins(options or ms.JobOptions()), **changed}
    try:
        return msgspec.convert(given, ms.JobOptions)
    except msgspec.ValidationError as error:
        raise OptionError(": ".join(fault_of(error, given))) from None


_LIMITS = {"<=": "at most", ">=": "at least", "<": "less than", ">": "more than"}


def fault_of(error: msgspec.ValidationError, given: Any) -> tuple[str, str]:
    """Return the field of a validation error, such as "layout.max_chars", and its fault with the value and the limit."""
    reason, _, where = str(error).partition(" - at `$")
    value = given
    for key in re.findall(r"[^.\[\]`]+", where):
        value = value.get(key) if isinstance(value, Mapping) else None
    name = where.strip(".`") or "options"
    if limit := re.search(r"^Expected `\w+` (of length )?([<>]=?) (\S+)$", reason):
        unit = "characters" if isinstance(value, str) else "entries"
        size = f"{len(value)} {unit} are" if limit[1] and value is not None else f"{value!r} is"
        return name, f"{size} not allowed ({_LIMITS[limit[2]]} {limit[3]})"
    return name, reason.replace("Invalid enum value", "unknown value").replace("`", "")


class Requests:
    """Makes the requests to one server. Connections may share it: no request number is used twice."""

    def __init__(self, endpoint: str, timeout_s: float) -> None:
        """`timeout_s`: how long an answer may take."""
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._next = itertools.count(1).__next__

    # -- the server ------------------------------------------------------------------------------------------

    def ping(self) -> Request[ms.Welcome]:
        """Return the server's version, model and limits, and the user and role of this client."""
        return self._first(ms.Hello(request=self._next()), ms.Welcome)

    def stats(self) -> Request[ms.StatsInfo]:
        """Return workers, queue and speed."""
        return self._first(ms.Stats(request=self._next()), ms.StatsInfo)

    def set_log_level(self, level: ms.LogLevelName | None = None) -> Request[ms.LogLevel]:
        """Set the level of the server's log until it reloads its configuration; None returns the current one. For an admin."""
        return self._first(ms.SetLogLevel(request=self._next(), level=level), ms.LogLevel)

    def operate(
        self,
        *,
        is_paused: bool | None = None,
        log_lines: int = 0,
        log_level: ms.LogLevelName = "debug",
        log_text: str = "",
    ) -> Request[ms.OperateInfo]:
        """Pause or resume the queue, and return the server's disks, retention and last log lines. For an admin."""
        message = ms.Operate(
            request=self._next(),
            is_paused=is_paused,
            log_lines=log_lines,
            log_level=log_level,
            log_text=log_text,
        )
        return self._first(message, ms.OperateInfo)

    def load_model(self, model: str, workers: int = 1) -> Request[ms.ModelFacts]:
        """Have workers load a model and keep it until it is unloaded; returns its state before the load. For an admin."""
        message = ms.LoadModel(request=self._next(), model=model, workers=workers)
        return (yield from self._first(message, ms.ModelInfo)).model

    def unload_model(self, model: str) -> Request[ms.ModelFacts]:
        """Have all workers unload a model as soon as they do not use it; returns its state before that. For an admin."""
        message = ms.UnloadModel(request=self._next(), model=model)
        return (yield from self._first(message, ms.ModelInfo)).model

    def watch(
        self, job: str | None = None, *, after_seq: int = -1, timeout_s: float | None = None
    ) -> Request[ms.Event]:
        """Yield journal entries after `after_seq` (-1: new ones only) as they come; only those of `job` if it is given.

        Ends after `timeout_s` seconds without an entry; never, if None. After a restart of the daemon the watch resumes after
        the last entry that it yielded.
        """
        return self._watch(job, after_seq, timeout_s, is_until_ended=False)

    def watch_to_end(self, job: str, *, timeout_s: float | None = None) -> Request[ms.Event]:
        """Yield a job's journal from the beginning until the job has ended; see `JobHandle.events`."""
        return self._watch(job, 0, timeout_s, is_until_ended=True)

    # -- jobs ------------------------------------------------------------------------------------------------

    def submit(
        self,
        path: str | os.PathLike[str],
        *,
        options: ms.JobOptions | None = None,
        allow_duplicate: bool = False,
        on_progress: OnProgress | None = None,
        timeout_s: float | None = None,
        **keywords: Unpack[JobKeywords],
    ) -> Request[ms.JobFacts]:
        """Send a media file and return its job: a new one, or the existing job of this file with these options.

        The file is hashed, then sent from the offset where the server needs it: an interrupted upload resumes.
        `allow_duplicate` makes a new job for a known file. `keywords` are fields of JobOptions: `language="en"`,
        `formats=("vtt",)`.

        Raises WaitTimeoutError after `timeout_s`, UnreachableError when the server was silent for two minutes; the call may be
        repeated after either. While the server is draining or limits the rate, the request is repeated until then; while its
        disk is full, only with a `timeout_s`. Every other refusal is a ServerError at once. Raises also FileChangedError,
        OptionError, OSError, and JobFailedError if the upload is cancelled.
        """
        chosen = options_of(options, keywords)
        with MediaSource(path) as source:
            return (
                yield from self._upload(
                    source,
                    chosen,
                    allow_duplicate=allow_duplicate,
                    on_progress=on_progress,
                    timeout_s=timeout_s,
                )
            )

    def submit_path(
        self,
        path: str | os.PathLike[str],
        *,
        options: ms.JobOptions | None = None,
        allow_duplicate: bool = False,
        **keywords: Unpack[JobKeywords],
    ) -> Request[ms.JobFacts]:
        """Make a job of a file on the server, at an absolute path; only on its local socket, and where it allows it."""
        chosen = options_of(options, keywords)
        message = ms.Submit(
            request=self._next(), path=os.fspath(path), options=chosen, allow_duplicate=allow_duplicate
        )
        return (yield from self._first(message, ms.JobInfo)).job

    def submit_url(
        self,
        url: str,
        *,
        options: ms.JobOptions | None = None,
        allow_duplicate: bool = False,
        **keywords: Unpack[JobKeywords],
    ) -> Request[ms.JobFacts]:
        """Submit an address that the server downloads, if its operator allows the host (`url_hosts` of `ping`).

        Returns the job without waiting for the download; an address that is being downloaded already is the same job.
        """
        message = ms.Submit(
            request=self._next(),
            url=url,
            allow_duplicate=allow_duplicate,
            options=options_of(options, keywords),
        )
        return (yield from self._first(message, ms.JobInfo)).job

    def submit_stream(
        self,
        read: Callable[[], Any],
        name: str,
        options: ms.JobOptions,
        final_options: Callable[[], ms.JobOptions] | None,
        on_progress: OnProgress,
    ) -> Request[ms.JobFacts]:
        """Send what `read` returns until it returns nothing, and return its job."""
        stream = StreamUpload(
            ms.Submit(request=0, name=name, options=options), self._next, now=time.monotonic()
        )
        held, is_over, shown = bytearray(), False, -1
        received_at = time.monotonic()
        while stream.facts is None:
            now = time.monotonic()
            if stream.refusal is not None and now >= received_at + SILENCE_LIMIT_S:
                raise stream.refusal
            self._check_silence(received_at, f"send {name or 'it'} again")
            if (message := stream.next(now)) is not None:
                yield Send(message, now + self._timeout_s)
            elif stream.room and held and (is_over or len(held) >= PIECE_BYTES):
                piece = bytes(held[: min(stream.room, PIECE_BYTES)])
                del held[: len(piece)]
                if not (yield Send(stream.chunk(piece), now + SILENCE_LIMIT_S, (piece,))):
                    stream.connection_lost(now)
            elif stream.room and not is_over:
                more: bytes = yield ReadSource(read)
                held += more
                is_over = not more
                received_at = time.monotonic()  # waiting for the source is no silence of the server
            elif stream.room and not held:
                stream.end(final_options() if final_options is not None else None)
                continue
            # There is more to send: read the messages that have arrived, without waiting for others.
            received: Received = yield Receive(
                0.0 if stream.room else min(stream.deadline, time.monotonic() + POLL_S)
            )
            if received.message is not None:
                stream.receive(received.message, time.monotonic())
                received_at = received_at if stream.refusal is not None else time.monotonic()
            elif received.is_lost:
                stream.connection_lost(time.monotonic())
            if stream.job and stream.acknowledged > shown:
                shown = stream.acknowledged
                on_progress(Progress(job=stream.job, state="receiving", uploaded_bytes=shown))
        return stream.facts

    def list(
        self,
        states: Sequence[str] = (),
        *,
        limit: int = 100,
        tag: str | None = None,
        before: str = "",
        name: str = "",
        language: str = "",
        model: str = "",
        inbox: str = "",
        is_damaged: bool = False,
        is_unheard: bool = False,
        sort: ms.JobSort = "newest",
    ) -> Request[tuple[ms.JobFacts, ...]]:
        """Return the newest jobs, newest first.

        `states`, `tag`: only jobs with one of these states, with this tag; `before`: only jobs older than this one; `name`: only
        jobs whose file name contains this text. `language`, `model`, `inbox`, `is_damaged`, `is_unheard`: only jobs with this
        property. `sort`: another order; "queue" lists the jobs in progress as they are processed and started.
        """
        message = ms.List(
            request=self._next(),
            states=tuple(states),
            limit=limit,
            tag=tag,
            before=before,
            name=name,
            language=language,
            model=model,
            inbox=inbox,
            is_damaged=is_damaged,
            is_unheard=is_unheard,
            sort=sort,
        )
        return (yield from self._first(message, ms.JobList)).jobs

    def status(self, job: str) -> Request[ms.JobFacts]:
        """Return the facts about one job, with its history."""
        return (yield from self._first(ms.Status(request=self._next(), job=job), ms.JobInfo)).job

    def cancel(self, job: str) -> Request[ms.JobFacts]:
        """Cancel a job that is not finished."""
        return (yield from self._first(ms.Cancel(request=self._next(), job=job), ms.JobInfo)).job

    def reorder(
        self, job: str, *, priority: int | None = None, before: str = "", after: str = ""
    ) -> Request[ms.JobFacts]:
        """Change the priority of a job, or start it directly before or after another waiting job."""
        message = ms.Reorder(request=self._next(), job=job, priority=priority, before=before, after=after)
        return (yield from self._first(message, ms.JobInfo)).job

    def dismiss(self, job: str) -> Request[ms.JobFacts]:
        """Dismiss the failure of a job: the web page no longer reports it."""
        return (yield from self._first(ms.Dismiss(request=self._next(), job=job), ms.JobInfo)).job

    def retry(self, job: str) -> Request[ms.JobFacts]:
        """Retry a failed job; only missing segments are decoded."""
        return (yield from self._first(ms.Retry(request=self._next(), job=job), ms.JobInfo)).job

    def translate(
        self, job: str, to: Sequence[str] = (), *, model: str = "", is_retry: bool = False
    ) -> Request[ms.JobFacts]:
        """Translate a job's transcript to further languages; without any, translate what has changed.

        `is_retry`: try the sentences again that could not be translated.
        """
        message = ms.TranslateJob(request=self._next(), job=job, to=tuple(to), model=model, is_retry=is_retry)
        return (yield from self._first(message, ms.JobInfo)).job

    def delete(self, job: str) -> Request[ms.JobFacts]:
        """Delete an ended job with its results; written subtitles are kept. Returns its last facts."""
        return (yield from self._first(ms.Delete(request=self._next(), job=job), ms.JobInfo)).job

    def fetch(
        self,
        job: str,
        fmt: str = "srt",
        *,
        layout: ms.LayoutOptions | None = None,
        task: ms.Task | None = None,
        language: str = "",
        is_bilingual: bool = False,
        version: int | None = None,
        segments: Sequence[int] = (),
    ) -> Request[tuple[str, bytes]]:
        """Return a file name, chosen by the server, and the content of a job's subtitles.

        With `layout` the cues are laid out again within its limits; without, as the job was submitted or as they were edited.
        `task` chooses the subtitles of a job with two tasks; None: those of the first. `language`: the translation into it, and with
        `is_bilingual` in both languages. `version`: see `cue_versions`; 0: the
        model's text; None: the newest. `segments`: only the model's text of these segments, which is provisional while the job
        is in progress; segments that are not transcribed yet have none.
        """
        answer, body = yield from self.subtitles(
            job,
            fmt,
            layout=layout,
            task=task,
            language=language,
            is_bilingual=is_bilingual,
            version=version,
            segments=segments,
        )
        return answer.name, body

    def subtitles(
        self,
        job: str,
        fmt: str = "srt",
        *,
        layout: ms.LayoutOptions | None = None,
        task: ms.Task | None = None,
        language: str = "",
        is_bilingual: bool = False,
        version: int | None = None,
        segments: Sequence[int] = (),
    ) -> Request[tuple[ms.Subtitles, bytes]]:
        """Return the server's whole answer about a job's subtitles, and their content; see `fetch`."""
        message = ms.Fetch(
            request=self._next(),
            job=job,
            format=fmt,
            layout=layout,
            task=task,
            language=language,
            is_bilingual=is_bilingual,
            version=version,
            segments=tuple(segments),
        )
        answer, blobs = yield from self._exchange(message, ms.Subtitles)
        return answer, b"".join(blobs)

    def cue_versions(self, job: str, *, task: ms.Task | None = None) -> Request[tuple[ms.CueVersion, ...]]:
        """Return the saved versions of a job's edited cues, newest first."""
        message = ms.ListCueVersions(request=self._next(), job=job, task=task)
        return (yield from self._first(message, ms.CueVersions)).versions

    def save_cues(
        self,
        job: str,
        cues: Sequence[ms.EditedCue],
        *,
        version: int,
        task: ms.Task | None = None,
        author: str = "",
        draft_session: str = "",
    ) -> Request[tuple[ms.CueVersion, ...]]:
        """Save edited cues of a job that is done, and return its versions, newest first.

        `version` is the one that the cues were made from, 0 for the model's: if it is not the newest, the error has the code
        CONFLICT and nothing is saved. The call may be repeated. `draft_session` marks a draft with
        the random id of an editing session: it replaces the session's previous draft, if that was begun less than five minutes ago.
        """
        data = msgspec.json.encode(cues)
        # A blob may have 1 MiB.
        blobs = [data[at : at + 2**20] for at in range(0, len(data), 2**20)]
        message = ms.SaveCues(
            request=self._next(),
            job=job,
            version=version,
            task=task,
            author=author,
            draft_session=draft_session,
        )
        if len(blobs) > ms.MAX_BLOBS:
            limit = ms.MAX_BLOBS * 2**20
            raise ServerError("TOO_BIG", f"cues of {len(data)} bytes; the limit is {limit}")
        return (yield from self._exchange(message, ms.CueVersions, blobs=blobs))[0].versions

    def restore_cues(
        self, job: str, restored: int, *, version: int, task: ms.Task | None = None, author: str = ""
    ) -> Request[tuple[ms.CueVersion, ...]]:
        """Save an earlier version of a job's cues again, 0 for the model's; `version` and result as in `save_cues`."""
        message = ms.SaveCues(
            request=self._next(), job=job, version=version, task=task, restore=restored, author=author
        )
        return (yield from self._first(message, ms.CueVersions)).versions

    def waveform(self, job: str) -> Request[tuple[ms.WaveformInfo, bytes]]:
        """Return the peaks of a job's audio: one byte for each interval, 0 for silence, 255 for full scale."""
        answer, blobs = yield from self._exchange(
            ms.GetWaveform(request=self._next(), job=job), ms.WaveformInfo
        )
        return answer, b"".join(blobs)

    def audio(
        self, job: str, start_ms: int = 0, duration_ms: int = 60_000
    ) -> Request[tuple[ms.Audio, bytes]]:
        """Return at most a minute of a job's audio from `start_ms`, in the time of its cues: 16-bit samples, little-endian, mono.

        The answer gives the sample rate and the total number of samples. The audio is decoded from the media, as long as the
        server has that; where this takes long, the call waits longer than the client's `timeout_s`.
        """
        message = ms.GetAudio(request=self._next(), job=job, start_ms=start_ms, duration_ms=duration_ms)
        answer, blobs = yield from self._exchange(message, ms.Audio, AUDIO_TIMEOUT_S)
        return answer, b"".join(blobs)

    def video(
        self, job: str, form: ms.VideoForm | None = None, start: int = 0, length: int = 0
    ) -> Request[tuple[ms.Video, bytes]]:
        """Return facts about the picture of a job's file, and the part of it that `form` requests; see `messages.GetVideo`."""
        message = ms.GetVideo(request=self._next(), job=job, form=form, start=start, length=length)
        answer, blobs = yield from self._exchange(message, ms.Video, AUDIO_TIMEOUT_S)
        return answer, b"".join(blobs)

    def follow(
        self,
        jobs: Sequence[str],
        *,
        timeout_s: float | None = None,
        on_facts: Callable[[ms.JobFacts], object],
    ) -> Request[dict[str, ms.JobFacts]]:
        """Wait until all `jobs` have ended, in any state, and return their facts; calls `on_facts` when those of one change.

        Raises WaitTimeoutError after `timeout_s`, UnreachableError when the server was silent for two minutes.
        """
        # The facts come from Status messages; a journal entry only decides when to send one, so a lost entry does no harm.
        until = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
        facts: dict[str, ms.JobFacts] = {}
        pending: dict[int, str] = {}
        started = received_at = time.monotonic()
        due = dict.fromkeys(jobs, started)
        sent_at = dict.fromkeys(jobs, started)
        watch = ms.Watch(request=self._next(), after_seq=-1, job=jobs[0] if len(due) == 1 else None)
        yield Send(watch, until)
        while due:
            now = time.monotonic()
            if now >= until:
                states = ", ".join(
                    f"{job} is {facts[job].state if job in facts else 'unknown'}" for job in due
                )
                raise WaitTimeoutError(f"not ended within {timeout_s} s: {states}")
            self._check_silence(received_at, "the job resumes when the daemon runs again")
            for job in [job for job, at in due.items() if at <= now]:
                message = ms.Status(request=self._next(), job=job)
                pending[message.request] = job
                due[job], sent_at[job] = now + self._timeout_s, now
                yield Send(message, min(now + self._timeout_s, until))
            received: Received = yield Receive(min(*due.values(), until))
            match received.message:
                case ms.JobInfo(request=request, job=found) if request in pending:
                    job = pending.pop(request)
                    if job in due and facts.get(job) != found:
                        facts[job] = found
                        on_facts(found)
                    if found.state in ENDED:
                        due.pop(job, None)
                    elif job in due:
                        # With many jobs each is requested less often: together no more than ten times a second.
                        due[job] = sent_at[job] + max(POLL_S, len(due) / 10)
                case ms.Error(request=request, code=code, message=text) if request in pending:
                    if code != "RATE_LIMITED":
                        raise ServerError(code, text)
                    due[pending.pop(request)] = time.monotonic() + 10 * POLL_S
                case ms.Event(job=job, subject=subject, after=after) if job in due:
                    is_end = subject == "job" and after in ENDED
                    due[job] = 0.0 if is_end else min(due[job], sent_at[job] + BUSY_POLL_S)
                case None if received.is_lost:
                    pending.clear()
                    due = dict.fromkeys(due, 0.0)
                    yield Send(watch, until)
                case _:
                    pass
            received_at = time.monotonic() if received.message is not None else received_at
        return facts

    # -- parts -----------------------------------------------------------------------------------------------

    def _upload(
        self,
        source: MediaSource,
        options: ms.JobOptions,
        *,
        allow_duplicate: bool,
        on_progress: OnProgress | None,
        timeout_s: float | None,
    ) -> Request[ms.JobFacts]:
        """Hash a file, send it, and return its job."""
        until = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
        show = on_progress or _ignore
        # The server validates the options before the file is hashed, which may take minutes.
        welcome = yield from self._first(ms.Hello(request=self._next(), options=options), ms.Welcome)
        if 0 < welcome.max_upload_bytes < source.size:
            raise ServerError(
                "TOO_BIG",
                f"{source.path}: {source.size} bytes; this server accepts {welcome.max_upload_bytes} at most",
            )
        hashed = -1
        while hashed < source.size:
            hashed = yield Call(source.hash_more)
            show(Progress(state="hashing", hashed_bytes=hashed, size_bytes=source.size))
            _check_deadline(until, f"{source.path}: hashing took longer than {timeout_s} s")
        submit = ms.Submit(
            request=0,
            name=source.name,
            size=source.size,
            sha256=source.sha256,
            allow_duplicate=allow_duplicate,
            options=options,
        )
        upload = Upload(submit, self._next, now=time.monotonic(), waits_for_space=timeout_s is not None)
        received_at, shown = time.monotonic(), -1
        while upload.facts is None:
            if upload.refusal is not None and time.monotonic() >= min(received_at + SILENCE_LIMIT_S, until):
                raise upload.refusal
            self._check_silence(received_at, f"submit {source.path} again to resume the upload")
            _check_deadline(
                until, f"{source.path}: not sent within {timeout_s} s; submit it again to resume the upload"
            )
            received = yield from self._send_all(upload, source, until)
            if received.message is not None:
                # A refusal is an answer too, but it is not repeated forever.
                received_at = received_at if upload.refusal is not None else time.monotonic()
            if upload.facts is None and upload.job and upload.acknowledged > shown:
                shown = upload.acknowledged
                show(
                    Progress(
                        job=upload.job,
                        state="receiving",
                        hashed_bytes=source.size,
                        uploaded_bytes=shown,
                        size_bytes=source.size,
                    )
                )
                received_at = time.monotonic()  # the callback's time is no silence of the server
        return upload.facts

    def _send_all(self, upload: Upload, source: MediaSource, until: float) -> Request[Received]:
        """Send what an upload has to send now, then return the next message."""
        received = Received()
        while (out := upload.next(time.monotonic())) is not None:
            blobs = ((yield Call(partial(source.read, out.offset, out.length))),) if out.length else ()
            is_sent: bool = yield Send(out.message, min(time.monotonic() + self._timeout_s, until), blobs)
            if not is_sent:
                upload.connection_lost(time.monotonic())
                break
            # Messages that have arrived are read between two chunks, so that the window moves while it is filled.
            received = yield from self._receive(upload, 0.0)
            if received.message is not None:
                return received
        return (yield from self._receive(upload, min(upload.deadline, until)))

    def _receive(self, upload: Upload, until: float) -> Request[Received]:
        received: Received = yield Receive(until)
        if received.message is not None:
            upload.receive(received.message, time.monotonic())
        elif received.is_lost:
            upload.connection_lost(time.monotonic())
        return received

    def _watch(
        self, job: str | None, after_seq: int, timeout_s: float | None, *, is_until_ended: bool
    ) -> Request[Any]:
        request = self._next()
        seen = (yield from self.stats()).last_seq if after_seq < 0 else after_seq
        watch = ms.Watch(request=request, after_seq=seen, job=job)
        yield Send(watch, time.monotonic() + self._timeout_s)
        entry_at = sent_at = time.monotonic()
        end = _EndOfJob(self._timeout_s)
        while timeout_s is None or time.monotonic() - entry_at < timeout_s:
            now = time.monotonic()
            if now >= end.status_at:
                yield Send(end.status(job or "", self._next(), now), now + self._timeout_s)
            received: Received = yield Receive(min(now + 0.5, end.status_at))
            now = time.monotonic()
            match received.message:
                case ms.Event(request=number, seq=seq) as event if number == request and seq > seen:
                    seen, entry_at = seq, now
                    yield Emit(event)
                    if is_until_ended:
                        end.entry(event, now)
                case ms.Error(request=number, code=code, message=text) if number == request:
                    raise ServerError(code, text)
                case None if received.is_lost or now - sent_at >= self._timeout_s:
                    # A restarted daemon has no record of this watch: request it again, after the last entry seen.
                    yield Send(ms.Watch(request=request, after_seq=seen, job=job), now + self._timeout_s)
                    sent_at = now
                    end.connection_lost(now)
                case None:
                    pass
                case message:
                    end.receive(message, now)
            if end.is_known:
                return

    def _first(self, message: ms.ToServer, kind: type[M]) -> Request[M]:
        return (yield from self._exchange(message, kind))[0]

    def _exchange(
        self,
        message: ms.ToServer,
        kind: type[M],
        min_timeout_s: float = 0.0,
        blobs: Sequence[Buffer] = (),
    ) -> Request[tuple[M, Sequence[Buffer]]]:
        timeout_s = max(self._timeout_s, min_timeout_s)
        until = time.monotonic() + timeout_s
        is_sent: bool = yield Send(message, until, tuple(blobs))
        while is_sent and time.monotonic() < until:
            received: Received = yield Receive(until)
            answer = received.message
            if answer is None or answer.request != message.request:
                continue
            if isinstance(answer, ms.Error):
                raise ServerError(answer.code, answer.message)
            if isinstance(answer, kind):
                return answer, received.blobs
        raise UnreachableError(f"{self._endpoint}: no answer within {timeout_s:g} s; is the daemon running?")

    def _check_silence(self, received_at: float, remedy: str) -> None:
        silent_s = time.monotonic() - received_at
        if silent_s >= SILENCE_LIMIT_S:
            raise UnreachableError(f"{self._endpoint}: no message for {silent_s:.0f} s; {remedy}")


class JobRequests:
    """Makes the requests about one job."""

    def __init__(self, requests: Requests, job: str) -> None:
        self._requests = requests
        self._id = job

    def facts(self) -> Request[ms.JobFacts]:
        """Return the facts about the job, with its history."""
        return self._requests.status(self._id)

    def progress(self) -> Request[Progress]:
        """Return the job's progress."""
        return progress_of((yield from self.facts()))

    def wait(
        self, timeout_s: float | None = None, *, on_progress: OnProgress | None = None
    ) -> Request[ms.JobFacts]:
        """Wait until the job is done and return its facts; raises JobFailedError with the cause if it failed or was cancelled.

        Raises WaitTimeoutError after `timeout_s`, UnreachableError when the server was silent for two minutes; the job continues,
        and the call may be repeated.
        """
        show = on_progress or _ignore
        ended = yield from self._requests.follow(
            [self._id], timeout_s=timeout_s, on_facts=lambda facts: show(progress_of(facts))
        )
        return check_done(ended[self._id])

    def events(self, *, timeout_s: float | None = None) -> Request[ms.Event]:
        """Yield the job's journal from the beginning until the job has ended, or for `timeout_s` seconds without an entry."""
        return self._requests.watch_to_end(self._id, timeout_s=timeout_s)

    def cancel(self) -> Request[ms.JobFacts]:
        """Cancel the job."""
        return self._requests.cancel(self._id)

    def retry(self) -> Request[ms.JobFacts]:
        """Retry the job after it failed."""
        return self._requests.retry(self._id)

    def translate(
        self, to: Sequence[str] = (), *, model: str = "", is_retry: bool = False
    ) -> Request[ms.JobFacts]:
        """Translate the job's transcript to further languages; without any, translate what has changed."""
        return self._requests.translate(self._id, to, model=model, is_retry=is_retry)

    def delete(self) -> Request[ms.JobFacts]:
        """Delete the job with its results after it has ended."""
        return self._requests.delete(self._id)

    def text(
        self,
        fmt: str = "srt",
        *,
        task: ms.Task | None = None,
        language: str = "",
        is_bilingual: bool = False,
    ) -> Request[str]:
        """Return the job's subtitles; see `Requests.fetch`."""
        _, body = yield from self._requests.fetch(
            self._id, fmt, task=task, language=language, is_bilingual=is_bilingual
        )
        return body.decode("utf-8")

    def save(
        self, target: str | os.PathLike[str] = ".", formats: Sequence[str] | None = None
    ) -> Request[list[Path]]:
        """Write the job's subtitles and return the paths.

        In a folder each file gets the server's name (`talk.en.srt`); a file of that name with other content is kept, and the next
        free name is used. Any other path is one file, which is replaced; its suffix gives the format, unless `formats` does.
        Without `formats`: those that the job was submitted with. A job with two tasks has a file of each. Raises OSError.
        """
        path = Path(target)
        facts = yield from self.facts()
        wanted = formats or format_of(path) or facts.formats or ("srt",)
        files = []
        for task in tasks_of(facts):
            for fmt in wanted:
                name, body = yield from self._requests.fetch(self._id, fmt, task=task)
                files.append((fmt, name, body))
        for translation in facts.translations:
            for fmt in wanted:
                name, body = yield from self._requests.fetch(self._id, fmt, language=translation.language)
                files.append((fmt, name, body))
        paths: list[Path] = yield Call(partial(save_all, path, files))
        return paths


class _EndOfJob:
    """Decides whether a watched job has finally ended: one Status at a time, until its answer matches the last end seen.

    A failed job that was retried has more than one end in its journal.
    """

    def __init__(self, timeout_s: float) -> None:
        """`timeout_s`: how long an answer may take."""
        self.status_at = float("inf")
        """When to send `status` (monotonic)."""
        self.is_known = False
        self._timeout_s = timeout_s
        self._ended_ms = -1
        self._pending: int | None = None

    def status(self, job: str, request: int, now: float) -> ms.Status:
        """Return the message to send, with this request number."""
        self._pending, self.status_at = request, now + self._timeout_s
        return ms.Status(request=request, job=job)

    def entry(self, event: ms.Event, now: float) -> None:
        """Process a journal entry."""
        if event.subject == "job" and event.after in ENDED:
            self._ended_ms = event.at_ms
            if self._pending is None:
                self.status_at = now

    def receive(self, message: ms.ToClient, now: float) -> None:
        """Process any other message; raises ServerError for a refusal that is not temporary."""
        if message.request != self._pending:
            return
        match message:
            case ms.JobInfo(job=facts):
                self.is_known = facts.state in ENDED and (facts.ended_ms or 0) <= self._ended_ms
                # If not, the entry of a later end is still to come, and starts the next Status.
                self._pending, self.status_at = None, float("inf")
            case ms.Error(code="RATE_LIMITED"):
                self._pending, self.status_at = None, now + RATE_LIMIT_PAUSE_S
            case ms.Error(code=code, message=text):
                raise ServerError(code, text)
            case _:
                pass

    def connection_lost(self, now: float) -> None:
        """Repeat the Status: its answer is lost."""
        if self._pending is not None:
            self.status_at = now


def document(method: Any, request: Callable[..., Any]) -> None:
    """Give a client's method the name, docstring and signature of the request that it performs."""
    signature = inspect.signature(request)
    returned = str(signature.return_annotation).removeprefix("Request[").removesuffix("]")
    method.__name__, method.__doc__ = request.__name__, request.__doc__
    method.__signature__ = signature.replace(return_annotation=returned)


def _check_deadline(until: float, message: str) -> None:
    if time.monotonic() >= until:
        raise WaitTimeoutError(message)


def _ignore(_progress: Progress) -> None:
    """Ignore progress."""
