"""The blocking client; its methods are the requests of `subtitle.requests`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack

import zmq

from subtitle import messages as ms
from subtitle.errors import SubtitleError
from subtitle.keys import Key
from subtitle.progress import Progress
from subtitle.requests import (
    Emit,
    JobKeywords,
    JobRequests,
    OnProgress,
    Request,
    Requests,
    document,
    options_of,
)
from subtitle.transport import BaseClient, Connection

P = ParamSpec("P")
T = TypeVar("T")


def _call(request: Callable[Concatenate[Any, P], Request[T]]) -> Callable[Concatenate[Any, P], T]:
    """Return a method that performs a request and returns its result."""

    def method(self: Any, /, *args: P.args, **keywords: P.kwargs) -> T:
        result: T = self._run(request(self._requests, *args, **keywords))
        return result

    document(method, request)
    return method


def _submit(
    request: Callable[Concatenate[Any, P], Request[ms.JobFacts]],
) -> Callable[Concatenate[Any, P], JobHandle]:
    """Return a method that performs a request and returns the job as a handle."""

    def method(self: Client, /, *args: P.args, **keywords: P.kwargs) -> JobHandle:
        return JobHandle(self, self._run(request(self._requests, *args, **keywords)))

    document(method, request)
    return method


def _iterate(
    request: Callable[Concatenate[Any, P], Request[T]],
) -> Callable[Concatenate[Any, P], Iterator[T]]:
    """Return a method that performs a request and yields its values."""

    def method(self: Any, /, *args: P.args, **keywords: P.kwargs) -> Iterator[T]:
        values: Iterator[T] = self._iterate(request(self._requests, *args, **keywords))
        return values

    document(method, request)
    return method


class Client(BaseClient[Connection]):
    """A connection to one daemon; a context manager. It and its jobs belong to one thread; each thread needs its own.

    A lost connection is restored automatically. Short requests raise UnreachableError if no answer comes within `timeout_s`, and
    ServerError if the server refuses. Long ones (`submit`, `JobHandle.wait`, `watch`) continue through a restart of the daemon;
    their docstrings give their limits.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        key: Key | str | os.PathLike[str] | None = None,
        *,
        timeout_s: float = 5.0,
    ) -> None:
        """`endpoint`: as in `listen.clients` of the server; default: SUBTITLE_SERVER, then the local daemon's socket.

        `key`: a key or its file; default: SUBTITLE_KEY, then `~/.config/subtitle/key.toml` if it exists; "": none. The local
        socket needs no key. Raises KeyFileError, and UnreachableError for an invalid endpoint.
        """
        super().__init__(Connection, zmq.Context, endpoint, key, timeout_s)
        try:
            self._idle.append(self._connect())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    ping = _call(Requests.ping)
    stats = _call(Requests.stats)
    set_log_level = _call(Requests.set_log_level)
    operate = _call(Requests.operate)
    load_model = _call(Requests.load_model)
    unload_model = _call(Requests.unload_model)
    watch = _iterate(Requests.watch)
    watch_to_end = _iterate(Requests.watch_to_end)
    submit = _submit(Requests.submit)
    submit_path = _submit(Requests.submit_path)
    submit_url = _submit(Requests.submit_url)
    list = _call(Requests.list)
    status = _call(Requests.status)
    follow = _call(Requests.follow)
    cancel = _call(Requests.cancel)
    retry = _call(Requests.retry)
    reorder = _call(Requests.reorder)
    dismiss = _call(Requests.dismiss)
    translate = _call(Requests.translate)
    delete = _call(Requests.delete)
    fetch = _call(Requests.fetch)
    subtitles = _call(Requests.subtitles)
    cue_versions = _call(Requests.cue_versions)
    save_cues = _call(Requests.save_cues)
    restore_cues = _call(Requests.restore_cues)
    waveform = _call(Requests.waveform)
    audio = _call(Requests.audio)
    video = _call(Requests.video)

    def job(self, job: str) -> JobHandle:
        """Return a handle for a job's id, without a request to the server."""
        return JobHandle(self, job)

    def submit_stream(
        self,
        pieces: Iterable[bytes],
        name: str = "",
        *,
        options: ms.JobOptions | None = None,
        final_options: Callable[[], ms.JobOptions] | None = None,
        on_progress: OnProgress | None = None,
        **keywords: Unpack[JobKeywords],
    ) -> JobHandle:
        """Send media from an iterable, such as a pipe, and return its job, which is always new.

        At most 2 MiB are held in memory. `final_options` is called after the last piece; its result replaces the options. An
        interrupted stream cannot be resumed, and is cancelled: an error of `pieces`, a lost connection (UnreachableError), a
        refusal (ServerError).
        """
        source = (piece for piece in pieces if piece)
        started: list[str] = []

        def show(progress: Progress) -> None:
            started[:] = [progress.job]
            if on_progress is not None:
                on_progress(progress)

        try:
            request = self._requests.submit_stream(
                lambda: next(source, b""), name, options_of(options, keywords), final_options, show
            )
            return JobHandle(self, self._run(request))
        except BaseException:
            for job in started:
                with suppress(SubtitleError):
                    self.cancel(job)
            raise

    def _run(self, request: Request[T]) -> T:
        with closing(request), self._connection() as connection:
            try:
                outcome = None
                while True:
                    outcome = connection.perform(request.send(outcome))
            except StopIteration as end:
                result: T = end.value
                return result

    def _iterate(self, request: Request[Any]) -> Iterator[Any]:
        with closing(request), self._connection() as connection:
            step = next(request, None)
            while step is not None:
                outcome = None
                if isinstance(step, Emit):
                    yield step.value
                else:
                    outcome = connection.perform(step)
                try:
                    step = request.send(outcome)
                except StopIteration:
                    return


class JobHandle:
    """One job of a server; belongs to its client's thread, and raises the same errors."""

    def __init__(self, client: Client, job: ms.JobFacts | str) -> None:
        """Use `Client.submit` or `Client.job` instead."""
        self.id = job if isinstance(job, str) else job.id
        self._run = client._run  # noqa: SLF001 - the handle is a part of its client
        self._iterate = client._iterate  # noqa: SLF001
        self._requests = JobRequests(client._requests, self.id)  # noqa: SLF001

    def __repr__(self) -> str:
        return f"JobHandle({self.id!r})"

    @property
    def progress(self) -> Progress:
        """The job's progress, requested from the server."""
        return self._run(self._requests.progress())

    facts = _call(JobRequests.facts)
    wait = _call(JobRequests.wait)
    events = _iterate(JobRequests.events)
    cancel = _call(JobRequests.cancel)
    retry = _call(JobRequests.retry)
    translate = _call(JobRequests.translate)
    delete = _call(JobRequests.delete)
    text = _call(JobRequests.text)
    save = _call(JobRequests.save)
