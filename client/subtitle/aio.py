"""The asyncio twin of the Python API: the same names, awaited.

The conversations with the server are the blocking client's (`subtitle.requests`); files are read and hashed in a thread.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import zmq
import zmq.asyncio

from subtitle import messages as ms
from subtitle.codec import Buffer
from subtitle.errors import SubtitleError
from subtitle.job_options import JobKeywords, options_of
from subtitle.keys import Key
from subtitle.media_source import MediaSource
from subtitle.output_files import format_of, save_all
from subtitle.progress import Progress, check_done, progress_of
from subtitle.requests import Speaker
from subtitle.steps import Conversation, Heard, Pull, Receive, Send, Talk, Tell, Work
from subtitle.transport import default_server, key_for, open_socket, slice_ms

T = TypeVar("T")
OnProgress = Callable[[Progress], object]


class AsyncClient:
    """Talks to one daemon; an async context manager. It and its jobs belong to one event loop, where any number of tasks may use them.

    All is as in `subtitle.Client`: the same arguments, promises and errors.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        key: Key | str | os.PathLike[str] | None = None,
        *,
        timeout_s: float = 5.0,
    ) -> None:
        self.endpoint = endpoint or default_server()
        self._key = key_for(self.endpoint, key)
        self._speaker = Speaker(self.endpoint, timeout_s)
        self._context = zmq.asyncio.Context()
        self._open: set[_Connection] = set()
        self._idle: list[_Connection] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; may be repeated. Calls under way end with an error."""
        for connection in self._open:
            connection.close()
        self._open.clear()
        self._idle.clear()
        self._context.term()

    async def ping(self) -> ms.Welcome:
        """Return who is there."""
        return await self._run(self._speaker.ping())

    async def stats(self) -> ms.StatsInfo:
        """Return workers, queue and speed."""
        return await self._run(self._speaker.stats())

    async def set_log_level(self, level: ms.LogLevelName | None = None) -> ms.LogLevel:
        """Have the server log from `level` on, until it reads its configuration again; None only asks which it is.

        For an admin.
        """
        return await self._run(self._speaker.set_log_level(level))

    def watch(
        self, job: str | None = None, *, after_seq: int = -1, timeout_s: float | None = None
    ) -> AsyncIterator[ms.Event]:
        """Yield journal entries as they come; see `subtitle.Client.watch`."""
        return self._stream(Conversation(self._speaker.watch(job, after_seq, timeout_s)))

    def watch_to_end(self, job: str, *, timeout_s: float | None = None) -> AsyncIterator[ms.Event]:
        """Yield a job's journal from the beginning until it has ended; see `subtitle.Job.events`."""
        return self._stream(Conversation(self._speaker.watch(job, 0, timeout_s, is_until_ended=True)))

    async def submit(
        self,
        path: str | os.PathLike[str],
        *,
        options: ms.JobOptions | None = None,
        is_again: bool = False,
        on_progress: OnProgress | None = None,
        timeout_s: float | None = None,
        **words: Unpack[JobKeywords],
    ) -> AsyncJobHandle:
        """Send a media file, and return its job; see `subtitle.Client.submit`."""
        chosen = options_of(options, words)
        with MediaSource(path) as source:
            talk = self._speaker.submit(source, chosen, is_again=is_again, timeout_s=timeout_s)
            return AsyncJobHandle(self, await self._run(talk, on_progress))

    async def submit_path(
        self,
        path: str | os.PathLike[str],
        *,
        options: ms.JobOptions | None = None,
        is_again: bool = False,
        **words: Unpack[JobKeywords],
    ) -> AsyncJobHandle:
        """Have the server read a file of its own; see `subtitle.Client.submit_path`."""
        chosen = options_of(options, words)
        return AsyncJobHandle(
            self, await self._run(self._speaker.submit_path(os.fspath(path), chosen, is_again=is_again))
        )

    async def submit_stream(
        self,
        pieces: AsyncIterable[bytes],
        name: str = "",
        *,
        options: ms.JobOptions | None = None,
        final_options: Callable[[], ms.JobOptions] | None = None,
        on_progress: OnProgress | None = None,
        **words: Unpack[JobKeywords],
    ) -> AsyncJobHandle:
        """Send media as it comes from somewhere else; see `subtitle.Client.submit_stream`."""
        coming = (piece async for piece in pieces if piece)

        async def pull() -> bytes:
            return await anext(coming, b"")

        talk = self._speaker.submit_stream(pull, name, options_of(options, words), final_options)
        begun: list[str] = []

        def tell(progress: Progress) -> None:
            begun[:] = [progress.job]
            if on_progress is not None:
                on_progress(progress)

        try:
            return AsyncJobHandle(self, await self._run(talk, tell))
        except BaseException:
            for job in begun:
                # Shielded: also who was cancelled waits until no bytes are left behind.
                await asyncio.shield(asyncio.ensure_future(self._give_up(job)))
            raise

    async def _give_up(self, job: str) -> None:
        with suppress(SubtitleError):
            await self.cancel(job)

    def job(self, job: str) -> AsyncJobHandle:
        """Return a job by its id, without asking the server whether there is one."""
        return AsyncJobHandle(self, job)

    async def list(
        self,
        states: Sequence[str] = (),
        *,
        limit: int = 100,
        tag: str | None = None,
        before: str = "",
        name: str = "",
    ) -> tuple[ms.JobFacts, ...]:
        """Return the newest jobs, newest first; only those in `states` if any are named, only with `tag` if it is.

        Only those older than the job `before`, if one is named, and whose file has `name` in its name.
        """
        talk = self._speaker.list(states=tuple(states), limit=limit, tag=tag, before=before, name=name)
        return await self._run(talk)

    async def status(self, job: str) -> ms.JobFacts:
        """Return all about one job."""
        return await self._run(self._speaker.status(job))

    async def follow(
        self,
        jobs: Sequence[str],
        *,
        timeout_s: float | None = None,
        on_facts: Callable[[ms.JobFacts], object],
    ) -> dict[str, ms.JobFacts]:
        """Wait until all `jobs` have ended, however they end; see `subtitle.Client.follow`."""
        return await self._run(self._speaker.follow(jobs, timeout_s), on_facts)

    async def cancel(self, job: str) -> ms.JobFacts:
        """End a job that is not finished."""
        return await self._run(self._speaker.cancel(job))

    async def retry(self, job: str) -> ms.JobFacts:
        """Try a failed job again; only what is missing is decoded."""
        return await self._run(self._speaker.retry(job))

    async def fetch(
        self, job: str, form: str = "srt", *, layout: ms.LayoutOptions | None = None
    ) -> tuple[str, bytes]:
        """Return a name, made by the server, and the content of a job's subtitles; see `subtitle.Client.fetch`."""
        answer, body = await self.subtitles(job, form, layout=layout)
        return answer.name, body

    async def subtitles(
        self, job: str, form: str = "srt", *, layout: ms.LayoutOptions | None = None
    ) -> tuple[ms.Subtitles, bytes]:
        """Return all that the server says of a job's subtitles, and their content."""
        return await self._run(self._speaker.fetch(job, form, layout))

    async def waveform(self, job: str) -> tuple[ms.WaveformInfo, bytes]:
        """Return how loud a job's audio is; see `subtitle.Client.waveform`."""
        return await self._run(self._speaker.waveform(job))

    async def listen(self, job: str, start_ms: int = 0, duration_ms: int = 60_000) -> tuple[ms.Audio, bytes]:
        """Return at most a minute of a job's audio; see `subtitle.Client.listen`."""
        return await self._run(self._speaker.listen(job, start_ms, duration_ms))

    # -- connections -----------------------------------------------------------------------------------------

    async def _run(self, talk: Talk[T], tell: Callable[[Any], object] | None = None) -> T:
        conversation = Conversation(talk)
        async with aclosing(self._stream(conversation)) as told:
            async for value in told:
                if tell is not None:
                    tell(value)
        return conversation.result

    async def _stream(self, conversation: Conversation[Any]) -> AsyncGenerator[Any, None]:
        """Take a conversation's steps; yields what it tells."""
        async with self._connection() as connection:
            came: object = None
            while (step := conversation.step(came)) is not None:
                came = None
                match step:
                    case Send(message=message, until=until, blobs=blobs):
                        came = await connection.send(message, blobs, until)
                    case Receive(until=until):
                        came = await connection.receive(until)
                    case Work(call=call):
                        came = await asyncio.to_thread(call)
                    case Pull(call=call):
                        came = await call()
                    case Tell(value=value):
                        yield value

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[_Connection]:
        """Give a connection that no other conversation has; one whose conversation broke off is not used again."""
        if self._idle:
            connection = self._idle.pop()
        else:
            connection = _Connection(self._context, self.endpoint, self._key)
            self._open.add(connection)
        try:
            connection.forget()
            yield connection
        except BaseException:
            self._open.discard(connection)
            connection.close()
            raise
        self._idle.append(connection)


class AsyncJobHandle:
    """One job of a server; as its client, for one event loop. All is as in `subtitle.Job`, awaited."""

    def __init__(self, client: AsyncClient, job: ms.JobFacts | str) -> None:
        """Made by `AsyncClient.submit` and `AsyncClient.job`."""
        self._client = client
        self.id = job if isinstance(job, str) else job.id

    def __repr__(self) -> str:
        return f"AsyncJobHandle({self.id!r})"

    async def facts(self) -> ms.JobFacts:
        """Return all that the server knows about it."""
        return await self._client.status(self.id)

    @property
    def progress(self) -> Awaitable[Progress]:
        """How far it is: `await job.progress` asks the server."""
        return self._progress()

    async def _progress(self) -> Progress:
        return progress_of(await self.facts())

    async def wait(
        self, timeout_s: float | None = None, *, on_progress: OnProgress | None = None
    ) -> ms.JobFacts:
        """Wait until it is done, and return all about it; raises JobFailedError with the cause when it is not."""

        def tell(facts: ms.JobFacts) -> None:
            if on_progress is not None:
                on_progress(progress_of(facts))

        return check_done((await self._client.follow([self.id], timeout_s=timeout_s, on_facts=tell))[self.id])

    def events(self, *, timeout_s: float | None = None) -> AsyncIterator[ms.Event]:
        """Yield its journal from the beginning, and what is added to it, until it has ended."""
        return self._client.watch_to_end(self.id, timeout_s=timeout_s)

    async def cancel(self) -> ms.JobFacts:
        """End it."""
        return await self._client.cancel(self.id)

    async def retry(self) -> ms.JobFacts:
        """Try it again after it failed."""
        return await self._client.retry(self.id)

    async def text(self, form: str = "srt") -> str:
        """Return its subtitles."""
        return (await self._client.fetch(self.id, form))[1].decode("utf-8")

    async def save(
        self, target: str | os.PathLike[str] = ".", formats: Sequence[str] | None = None
    ) -> list[Path]:
        """Write its subtitles, and return the paths; see `subtitle.Job.save`."""
        path = Path(target)
        asked = formats or format_of(path) or (await self.facts()).formats or ("srt",)
        files = [(form, *await self._client.fetch(self.id, form)) for form in asked]
        return await asyncio.to_thread(save_all, path, files)


class _Connection:
    """One DEALER socket to one server."""

    def __init__(self, context: zmq.asyncio.Context, endpoint: str, key: Key | None) -> None:
        self._socket: Any
        self._socket, self._monitor = open_socket(context, endpoint, key)

    def forget(self) -> None:
        """Forget what became of the connection so far: it is no news to the next conversation. Raises UnreachableError."""
        self._monitor.is_lost()

    def close(self) -> None:
        """Close the socket, and forget what it has not sent; may be repeated."""
        if not self._socket.closed:
            self._monitor.close()
            self._socket.close()

    async def send(self, message: ms.ToServer, blobs: Sequence[Buffer], until: float) -> bool:
        """Send a message, which waits in the socket while the server is away; False when there was no room until `until`."""
        frames = ms.to_server.encode(message, blobs)
        while True:
            try:
                await self._socket.send_multipart(frames, zmq.NOBLOCK)
            except zmq.Again:
                if self._monitor.is_lost() or time.monotonic() >= until:
                    return False
                await self._socket.poll(slice_ms(until), zmq.POLLOUT)
            else:
                return True

    async def receive(self, until: float) -> Heard:
        """Return the next message, or what else is to be known until `until` (monotonic)."""
        while not await self._socket.poll(slice_ms(until)):
            if self._monitor.is_lost():
                return Heard(is_lost=True)
            if time.monotonic() >= until:
                return Heard()
        return Heard(*ms.to_client.decode(await self._socket.recv_multipart()))
