"""What is said to a server to get something done, apart from how it is sent.

Each conversation is a generator that yields steps (see `steps`); the blocking client and the asyncio twin differ in how they take
them, and in nothing else.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from msgspec import Struct

from subtitle import messages as ms
from subtitle.codec import Buffer
from subtitle.errors import ServerError, UnreachableError, WaitTimeoutError
from subtitle.job_end import EndOfJob
from subtitle.media_source import MediaSource
from subtitle.progress import ENDED, Progress
from subtitle.steps import Heard, Pull, Receive, Send, Talk, Tell, Work
from subtitle.stream_upload import PIECE_BYTES, StreamUpload
from subtitle.upload import Upload

GONE_S = 120.0
"""A server that was there and says nothing for this long is given up; shorter is a restart."""
HEARD_S = 90.0
"""For audio: the server gives up a file that takes 30 s, and others may be before it."""
LOOK_S = 1.0
"""Between two questions how far a job is, while nothing is told of it."""
SOON_S = 0.2
"""The same, while its segments are told to be finished."""

M = TypeVar("M", bound=Struct)


class Speaker:
    """Makes the conversations with one server; may be shared by connections, since no request number comes twice."""

    def __init__(self, endpoint: str, timeout_s: float) -> None:
        """`timeout_s`: how long an answer may take."""
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._next = itertools.count(1).__next__

    def ping(self) -> Talk[ms.Welcome]:
        """Ask who is there."""
        return self._first(ms.Hello(request=self._next()), ms.Welcome)

    def list(self, **wanted: Any) -> Talk[tuple[ms.JobFacts, ...]]:
        """Ask for the newest jobs; `wanted`: fields of List."""
        return (yield from self._first(ms.List(request=self._next(), **wanted), ms.JobList)).jobs

    def status(self, job: str) -> Talk[ms.JobFacts]:
        """Ask for one job."""
        return (yield from self._first(ms.Status(request=self._next(), job=job), ms.JobInfo)).job

    def cancel(self, job: str) -> Talk[ms.JobFacts]:
        """End a job."""
        return (yield from self._first(ms.Cancel(request=self._next(), job=job), ms.JobInfo)).job

    def retry(self, job: str) -> Talk[ms.JobFacts]:
        """Try a failed job again."""
        return (yield from self._first(ms.Retry(request=self._next(), job=job), ms.JobInfo)).job

    def fetch(self, job: str, form: str, layout: ms.LayoutOptions | None) -> Talk[tuple[ms.Subtitles, bytes]]:
        """Ask for a job's subtitles."""
        message = ms.Fetch(request=self._next(), job=job, format=form, layout=layout)
        answer, blobs = yield from self._ask(message, ms.Subtitles)
        return answer, b"".join(bytes(blob) for blob in blobs)

    def waveform(self, job: str) -> Talk[tuple[ms.WaveformInfo, bytes]]:
        """Ask how loud a job's audio is."""
        answer, blobs = yield from self._ask(ms.GetWaveform(request=self._next(), job=job), ms.WaveformInfo)
        return answer, b"".join(blobs)

    def listen(self, job: str, start_ms: int, duration_ms: int) -> Talk[tuple[ms.Audio, bytes]]:
        """Ask for a stretch of a job's audio."""
        message = ms.GetAudio(request=self._next(), job=job, start_ms=start_ms, duration_ms=duration_ms)
        answer, blobs = yield from self._ask(message, ms.Audio, HEARD_S)
        return answer, b"".join(blobs)

    def stats(self) -> Talk[ms.StatsInfo]:
        """Ask for workers, queue and speed."""
        return self._first(ms.Stats(request=self._next()), ms.StatsInfo)

    def set_log_level(self, level: ms.LogLevelName | None) -> Talk[ms.LogLevel]:
        """Ask for another level of the server's log, or only which it is."""
        return self._first(ms.SetLogLevel(request=self._next(), level=level), ms.LogLevel)

    def submit_path(self, path: str, options: ms.JobOptions, *, is_again: bool) -> Talk[ms.JobFacts]:
        """Ask that a file which the server can see become a job."""
        message = ms.Submit(request=self._next(), path=path, options=options, is_again=is_again)
        return (yield from self._first(message, ms.JobInfo)).job

    def submit(
        self, source: MediaSource, options: ms.JobOptions, *, is_again: bool, timeout_s: float | None
    ) -> Talk[ms.JobFacts]:
        """Hash a file, send it, and return its job; tells Progress. Raises what `Client.submit` says."""
        until = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
        welcome = yield from self.ping()
        if 0 < welcome.max_upload_bytes < source.size:
            raise ServerError(
                "TOO_BIG",
                f"{source.path}: {source.size} bytes; this server takes {welcome.max_upload_bytes} at most",
            )
        hashed = -1
        while hashed < source.size:
            hashed = yield Work(source.hash_more)
            yield Tell(Progress(state="hashing", hashed_bytes=hashed, size_bytes=source.size))
            _check(until, f"{source.path}: hashing took longer than {timeout_s} s")
        submit = ms.Submit(
            request=0,
            name=source.name,
            size=source.size,
            sha256=source.sha256,
            is_again=is_again,
            options=options,
        )
        upload = Upload(submit, self._next, now=time.monotonic(), waits_for_space=timeout_s is not None)
        heard_at, told = time.monotonic(), -1
        while upload.facts is None:
            if upload.refusal is not None and time.monotonic() >= min(heard_at + GONE_S, until):
                raise upload.refusal
            self._check_silence(heard_at, f"send {source.path} again, and it goes on from where it was")
            _check(until, f"{source.path}: not sent within {timeout_s} s; send it again, and it goes on")
            heard = yield from self._exchange(upload, source, until)
            if heard.message is not None:
                # A refusal is an answer, but one that must have an end.
                heard_at = heard_at if upload.refusal is not None else time.monotonic()
            if upload.facts is None and upload.job and upload.acknowledged > told:
                told = upload.acknowledged
                yield Tell(
                    Progress(
                        job=upload.job,
                        state="receiving",
                        hashed_bytes=source.size,
                        uploaded_bytes=told,
                        size_bytes=source.size,
                    )
                )
                heard_at = (
                    time.monotonic()
                )  # what the caller takes its time for is no silence of the server's
        return upload.facts

    def submit_stream(
        self,
        pull: Callable[[], Any],
        name: str,
        options: ms.JobOptions,
        final_options: Callable[[], ms.JobOptions] | None,
    ) -> Talk[ms.JobFacts]:
        """Send what `pull` gives until it gives nothing, and return its job; tells Progress."""
        stream = StreamUpload(
            ms.Submit(request=0, name=name, options=options), self._next, now=time.monotonic()
        )
        held, is_over, told = bytearray(), False, -1
        heard_at = time.monotonic()
        while stream.facts is None:
            now = time.monotonic()
            if stream.refusal is not None and now >= heard_at + GONE_S:
                raise stream.refusal
            self._check_silence(heard_at, f"send {name or 'it'} again")
            if (message := stream.next(now)) is not None:
                yield Send(message, now + self._timeout_s)
            elif stream.room and held and (is_over or len(held) >= PIECE_BYTES):
                piece = bytes(held[: min(stream.room, PIECE_BYTES)])
                del held[: len(piece)]
                if not (yield Send(stream.give(piece), now + GONE_S, (piece,))):
                    stream.lost(now)
            elif stream.room and not is_over:
                more: bytes = yield Pull(pull)
                held += more
                is_over = not more
                heard_at = time.monotonic()  # the source's silence is none of the server's
            elif stream.room and not held:
                stream.end(final_options() if final_options is not None else None)
                continue
            # With room left there is something to do: what has come already is taken, and nothing waited for.
            heard: Heard = yield Receive(
                0.0 if stream.room else min(stream.deadline, time.monotonic() + LOOK_S)
            )
            if heard.message is not None:
                stream.heard(heard.message, time.monotonic())
                heard_at = heard_at if stream.refusal is not None else time.monotonic()
            elif heard.is_lost:
                stream.lost(time.monotonic())
            if stream.job and stream.acknowledged > told:
                told = stream.acknowledged
                yield Tell(Progress(job=stream.job, state="receiving", uploaded_bytes=told))
        return stream.facts

    def _exchange(self, upload: Upload, source: MediaSource, until: float) -> Talk[Heard]:
        """Send what an upload has to send at once, then take what comes."""
        heard = Heard()
        while (out := upload.next(time.monotonic())) is not None:
            blobs = ((yield Work(partial(source.read, out.offset, out.length))),) if out.length else ()
            is_sent: bool = yield Send(out.message, min(time.monotonic() + self._timeout_s, until), blobs)
            if not is_sent:
                upload.lost(time.monotonic())
                break
            # What has come already is taken between two chunks, so that the window moves while it is filled.
            heard = yield from self._hear(upload, 0.0)
            if heard.message is not None:
                return heard
        return (yield from self._hear(upload, min(upload.deadline, until)))

    def _hear(self, upload: Upload, until: float) -> Talk[Heard]:
        heard: Heard = yield Receive(until)
        if heard.message is not None:
            upload.heard(heard.message, time.monotonic())
        elif heard.is_lost:
            upload.lost(time.monotonic())
        return heard

    def follow(self, jobs: Sequence[str], timeout_s: float | None) -> Talk[dict[str, ms.JobFacts]]:
        """Wait until all `jobs` have ended, and return all about them; tells the JobFacts of each when they change.

        How a job stands is asked; the journal only says when to ask, so that no lost entry matters.
        """
        until = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
        facts: dict[str, ms.JobFacts] = {}
        asked: dict[int, str] = {}
        began = heard_at = time.monotonic()
        due = dict.fromkeys(jobs, began)
        last = dict.fromkeys(jobs, began)
        watch = ms.Watch(request=self._next(), after_seq=-1, job=jobs[0] if len(due) == 1 else None)
        yield Send(watch, until)
        while due:
            now = time.monotonic()
            if now >= until:
                states = ", ".join(
                    f"{job} is {facts[job].state if job in facts else 'unknown'}" for job in due
                )
                raise WaitTimeoutError(f"not ended within {timeout_s} s: {states}")
            self._check_silence(heard_at, "the job goes on when the daemon does")
            for job in [job for job, at in due.items() if at <= now]:
                message = ms.Status(request=self._next(), job=job)
                asked[message.request] = job
                due[job], last[job] = now + self._timeout_s, now
                yield Send(message, min(now + self._timeout_s, until))
            heard: Heard = yield Receive(min(*due.values(), until))
            match heard.message:
                case ms.JobInfo(request=request, job=found) if request in asked:
                    job = asked.pop(request)
                    if job in due and facts.get(job) != found:
                        facts[job] = found
                        yield Tell(found)
                    if found.state in ENDED:
                        due.pop(job, None)
                    elif job in due:
                        # Many jobs are looked at less often, all together no more than ten times a second.
                        due[job] = last[job] + max(LOOK_S, len(due) / 10)
                case ms.Error(request=request, code=code, message=text) if request in asked:
                    if code != "RATE_LIMITED":
                        raise ServerError(code, text)
                    due[asked.pop(request)] = time.monotonic() + 10 * LOOK_S
                case ms.Event(job=job, subject=subject, after=after) if job in due:
                    is_end = subject == "job" and after in ENDED
                    due[job] = 0.0 if is_end else min(due[job], last[job] + SOON_S)
                case None if heard.is_lost:
                    asked.clear()
                    due = dict.fromkeys(due, 0.0)
                    yield Send(watch, until)
                case _:
                    pass
            heard_at = time.monotonic() if heard.message is not None else heard_at
        return facts

    def watch(
        self, job: str | None, after_seq: int, timeout_s: float | None, *, is_until_ended: bool = False
    ) -> Talk[None]:
        """Tell journal entries as they come; see `Client.watch`."""
        request = self._next()
        seen = (yield from self.stats()).last_seq if after_seq < 0 else after_seq
        watch = ms.Watch(request=request, after_seq=seen, job=job)
        yield Send(watch, time.monotonic() + self._timeout_s)
        heard_at = asked_at = time.monotonic()
        end = EndOfJob(self._timeout_s)
        while timeout_s is None or time.monotonic() - heard_at < timeout_s:
            now = time.monotonic()
            if now >= end.ask_at:
                yield Send(end.ask(job or "", self._next(), now), now + self._timeout_s)
            heard: Heard = yield Receive(min(now + 0.5, end.ask_at))
            now = time.monotonic()
            match heard.message:
                case ms.Event(request=number, seq=seq) as event if number == request and seq > seen:
                    seen, heard_at = seq, now
                    yield Tell(event)
                    if is_until_ended:
                        end.told(event, now)
                case ms.Error(request=number, code=code, message=text) if number == request:
                    raise ServerError(code, text)
                case None if heard.is_lost or now - asked_at >= self._timeout_s:
                    # A daemon that was restarted knows nothing of this watch: ask again, after the last entry seen.
                    yield Send(ms.Watch(request=request, after_seq=seen, job=job), now + self._timeout_s)
                    asked_at = now
                    end.lost(now)
                case None:
                    pass
                case message:
                    end.heard(message, now)
            if end.is_known:
                return

    def _first(self, message: ms.ToServer, kind: type[M]) -> Talk[M]:
        return (yield from self._ask(message, kind))[0]

    def _ask(
        self, message: ms.ToServer, kind: type[M], least_s: float = 0.0
    ) -> Talk[tuple[M, Sequence[Buffer]]]:
        timeout_s = max(self._timeout_s, least_s)
        until = time.monotonic() + timeout_s
        is_sent: bool = yield Send(message, until)
        while is_sent and time.monotonic() < until:
            heard: Heard = yield Receive(until)
            answer = heard.message
            if answer is None or answer.request != message.request:
                continue
            if isinstance(answer, ms.Error):
                raise ServerError(answer.code, answer.message)
            if isinstance(answer, kind):
                return answer, heard.blobs
        raise UnreachableError(f"{self._endpoint}: no answer within {timeout_s:g} s; is the daemon running?")

    def _check_silence(self, heard_at: float, remedy: str) -> None:
        silent_s = time.monotonic() - heard_at
        if silent_s >= GONE_S:
            raise UnreachableError(f"{self._endpoint}: silent for {silent_s:.0f} s; {remedy}")


def _check(until: float, message: str) -> None:
    if time.monotonic() >= until:
        raise WaitTimeoutError(message)
