"""The asyncio client: the methods of the blocking one, awaited. Files are read and hashed in a thread."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import closing, suppress
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack, assert_never

import zmq
import zmq.asyncio

from subtitle import messages as ms
from subtitle.codec import Buffer
from subtitle.errors import SubtitleError
from subtitle.keys import Key
from subtitle.progress import Progress
from subtitle.requests import (
    Call,
    Emit,
    JobKeywords,
    JobRequests,
    OnProgress,
    ReadSource,
    Receive,
    Received,
    Request,
    Requests,
    Send,
    Step,
    document,
    options_of,
)
from subtitle.transport import BaseClient, ClientSocket, poll_ms

P = ParamSpec("P")
T = TypeVar("T")


def _call(
    request: Callable[Concatenate[Any, P], Request[T]],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Return a method that performs a request and returns its result."""

    async def method(self: Any, /, *args: P.args, **keywords: P.kwargs) -> T:
        result: T = await self._run(request(self._requests, *args, **keywords))
        return result

    document(method, request)
    return method


def _submit(
    request: Callable[Concatenate[Any, P], Request[ms.JobFacts]],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, AsyncJobHandle]]:
    """Return a method that performs a request and returns the job as a handle."""

    async def method(self: AsyncClient, /, *args: P.args, **keywords: P.kwargs) -> AsyncJobHandle:
        return AsyncJobHandle(self, await self._run(request(self._requests, *args, **keywords)))

    document(method, request)
    return method


def _iterate(
    request: Callable[Concatenate[Any, P], Request[T]],
) -> Callable[Concatenate[Any, P], AsyncIterator[T]]:
    """Return a method that performs a request and yields its values."""

    def method(self: Any, /, *args: P.args, **keywords: P.kwargs) -> AsyncIterator[T]:
        values: AsyncIterator[T] = self._iterate(request(self._requests, *args, **keywords))
        return values

    document(method, request)
    return method


class _AsyncConnection(ClientSocket):
    """One socket to one server, whose waits are awaited."""

    async def perform(self, step: Step) -> Any:
        """Perform a step of a request and return its outcome."""
        match step:
            case Send(message=message, until=until, blobs=blobs):
                return await self._send(message, blobs, until)
            case Receive(until=until):
                return await self._receive(until)
            case Call(function=function):
                return await asyncio.to_thread(function)
            case ReadSource(function=function):
                return await function()
            case Emit():
                raise TypeError("a request that yields values is iterated over, not run")
            case _:
                assert_never(step)

    async def _send(self, message: ms.ToServer, blobs: Sequence[Buffer], until: float) -> bool:
        frames = ms.to_server.encode(message, blobs)
        while True:
            try:
                await self.socket.send_multipart(frames, zmq.NOBLOCK)
            except zmq.Again:
                if self.monitor.is_lost() or time.monotonic() >= until:
                    return False
                await self.socket.poll(poll_ms(until), zmq.POLLOUT)
            else:
                return True

    async def _receive(self, until: float) -> Received:
        while not await self.socket.poll(poll_ms(until)):
            if self.monitor.is_lost():
                return Received(is_lost=True)
            if time.monotonic() >= until:
                return Received()
        return Received(*ms.to_client.decode(await self.socket.recv_multipart()))


class AsyncClient(BaseClient[_AsyncConnection]):
    """A connection to one daemon; an async context manager. It and its jobs belong to one event loop, and any number of its tasks.

    Arguments, results and errors are those of `subtitle.Client`.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        key: Key | str | os.PathLike[str] | None = None,
        *,
        timeout_s: float = 5.0,
    ) -> None:
        super().__init__(_AsyncConnection, zmq.asyncio.Context, endpoint, key, timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
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

    def job(self, job: str) -> AsyncJobHandle:
        """Return a handle for a job's id, without a request to the server."""
        return AsyncJobHandle(self, job)

    async def submit_stream(
        self,
        pieces: AsyncIterable[bytes],
        name: str = "",
        *,
        options: ms.JobOptions | None = None,
        final_options: Callable[[], ms.JobOptions] | None = None,
        on_progress: OnProgress | None = None,
        **keywords: Unpack[JobKeywords],
    ) -> AsyncJobHandle:
        """Send media from an async iterable; see `subtitle.Client.submit_stream`."""
        source = (piece async for piece in pieces if piece)

        async def read() -> bytes:
            return await anext(source, b"")

        started: list[str] = []

        def show(progress: Progress) -> None:
            started[:] = [progress.job]
            if on_progress is not None:
                on_progress(progress)

        try:
            request = self._requests.submit_stream(
                read, name, options_of(options, keywords), final_options, show
            )
            return AsyncJobHandle(self, await self._run(request))
        except BaseException:
            for job in started:
                # Shielded: a cancelled caller too waits until the server has dropped the bytes.
                await asyncio.shield(asyncio.ensure_future(self._cancel_quietly(job)))
            raise

    async def _cancel_quietly(self, job: str) -> None:
        with suppress(SubtitleError):
            await self.cancel(job)

    async def _run(self, request: Request[T]) -> T:
        with closing(request), self._connection() as connection:
            try:
                outcome = None
                while True:
                    outcome = await connection.perform(request.send(outcome))
            except StopIteration as end:
                result: T = end.value
                return result

    async def _iterate(self, request: Request[Any]) -> AsyncIterator[Any]:
        with closing(request), self._connection() as connection:
            step = next(request, None)
            while step is not None:
                outcome = None
                if isinstance(step, Emit):
                    yield step.value
                else:
                    outcome = await connection.perform(step)
                try:
                    step = request.send(outcome)
                except StopIteration:
                    return


class AsyncJobHandle:
    """One job of a server; belongs to its client's event loop. The methods are those of `subtitle.JobHandle`, awaited."""

    def __init__(self, client: AsyncClient, job: ms.JobFacts | str) -> None:
        """Use `AsyncClient.submit` or `AsyncClient.job` instead."""
        self.id = job if isinstance(job, str) else job.id
        self._run = client._run  # noqa: SLF001 - the handle is a part of its client
        self._iterate = client._iterate  # noqa: SLF001
        self._requests = JobRequests(client._requests, self.id)  # noqa: SLF001

    def __repr__(self) -> str:
        return f"AsyncJobHandle({self.id!r})"

    @property
    def progress(self) -> Awaitable[Progress]:
        """The job's progress: `await job.progress` requests it from the server."""
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
