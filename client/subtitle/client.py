"""The blocking Python API: one object for one server."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import zmq

from subtitle import messages as ms
from subtitle.errors import SubtitleError
from subtitle.job_options import JobKeywords, options_of
from subtitle.keys import Key
from subtitle.media_source import MediaSource
from subtitle.output_files import format_of, save_all
from subtitle.progress import Progress, check_done, progress_of
from subtitle.requests import Speaker
from subtitle.steps import Conversation, Pull, Receive, Send, Talk, Tell, Work
from subtitle.transport import Connection, default_server, key_for

T = TypeVar("T")
OnProgress = Callable[[Progress], object]


class Client:
    """Talks to one daemon; a context manager. It and its jobs belong to the thread that made it; make one in each thread.

    A connection that is lost comes back by itself. Calls that ask one thing raise UnreachableError when no answer comes
    within `timeout_s`, and ServerError when the server refuses. Calls that take long (`submit`, `JobHandle.wait`, `watch`) live
    through a restart of the daemon, and say themselves when they give up.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        key: Key | str | os.PathLike[str] | None = None,
        *,
        timeout_s: float = 5.0,
    ) -> None:
        """`endpoint`: as in `listen.clients` of the server; else SUBTITLE_SERVER, else the local daemon's.

        `key`: a key or its file; else SUBTITLE_KEY, else `~/.config/subtitle/key.toml` if it is there; "" shows none. The local
        socket takes no key. Raises KeyFileError, and UnreachableError for what is no endpoint.
        """
        self.endpoint = endpoint or default_server()
        self._key = key_for(self.endpoint, key)
        self._speaker = Speaker(self.endpoint, timeout_s)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._open: set[Connection] = set()
        self._idle: list[Connection] = []
        try:
            self._idle.append(self._connect())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; may be repeated. What was asked and not sent yet is forgotten."""
        for connection in self._open:
            connection.close()
        self._open.clear()
        self._idle.clear()
        self._context.term()

    # -- the server ------------------------------------------------------------------------------------------

    def ping(self) -> ms.Welcome:
        """Return who is there."""
        return self._run(self._speaker.ping())

    def stats(self) -> ms.StatsInfo:
        """Return workers, queue and speed."""
        return self._run(self._speaker.stats())

    def set_log_level(self, level: ms.LogLevelName | None = None) -> ms.LogLevel:
        """Have the server log from `level` on, until it reads its configuration again; None only asks which it is.

        For an admin.
        """
        return self._run(self._speaker.set_log_level(level))

    def watch(
        self, job: str | None = None, *, after_seq: int = -1, timeout_s: float | None = None
    ) -> Iterator[ms.Event]:
        """Yield journal entries after `after_seq` (-1: new ones only) as they come; of one job if one is named.

        Ends after `timeout_s` seconds without an entry; never, without it. The daemon may be restarted meanwhile:
        the watch goes on after the last entry that was seen.
        """
        return self._stream(Conversation(self._speaker.watch(job, after_seq, timeout_s)))

    def watch_to_end(self, job: str, *, timeout_s: float | None = None) -> Iterator[ms.Event]:
        """Yield a job's journal from the beginning until it has ended; see `JobHandle.events`."""
        return self._stream(Conversation(self._speaker.watch(job, 0, timeout_s, is_until_ended=True)))

    # -- jobs ------------------------------------------------------------------------------------------------

    def submit(
        self,
        path: str | os.PathLike[str],
        *,
        options: ms.JobOptions | None = None,
        is_again: bool = False,
        on_progress: OnProgress | None = None,
        timeout_s: float | None = None,
        **words: Unpack[JobKeywords],
    ) -> JobHandle:
        """Send a media file, and return its job: a new one, or the one that this file with these options has already.

        The file is hashed, then sent from where the server has it: what was sent before an interruption is not sent again.
        `is_again` makes a job of its own of a known file. `words` are fields of JobOptions: `language="en"`, `formats=("vtt",)`.

        Gives up after `timeout_s` (WaitTimeoutError), or when the server was silent for two minutes (UnreachableError); may be
        repeated after either. A server that drains or wants fewer requests is asked again for so long; one whose disk is full
        only with a `timeout_s`, else that is a ServerError, as every other refusal is at once. Raises also
        FileChangedError, OptionError, OSError, and JobFailedError when somebody cancels the upload.
        """
        chosen = options_of(options, words)
        with MediaSource(path) as source:
            talk = self._speaker.submit(source, chosen, is_again=is_again, timeout_s=timeout_s)
            return JobHandle(self, self._run(talk, on_progress))

    def submit_path(
        self,
        path: str | os.PathLike[str],
        *,
        options: ms.JobOptions | None = None,
        is_again: bool = False,
        **words: Unpack[JobKeywords],
    ) -> JobHandle:
        """Have the server read a file of its own, at an absolute path; on its local socket only, and where it allows."""
        chosen = options_of(options, words)
        return JobHandle(
            self, self._run(self._speaker.submit_path(os.fspath(path), chosen, is_again=is_again))
        )

    def submit_stream(
        self,
        pieces: Iterable[bytes],
        name: str = "",
        *,
        options: ms.JobOptions | None = None,
        final_options: Callable[[], ms.JobOptions] | None = None,
        on_progress: OnProgress | None = None,
        **words: Unpack[JobKeywords],
    ) -> JobHandle:
        """Send media as it comes from somewhere else, such as a pipe, and return its job, which is always a new one.

        At most 2 MiB of it are held. `final_options` is called after the last piece: what it returns stands in place of the
        options. What breaks off cannot be gone on with, and is cancelled: an error of `pieces`, a connection that is lost
        (UnreachableError), a refusal (ServerError).
        """
        coming = (piece for piece in pieces if piece)
        talk = self._speaker.submit_stream(
            lambda: next(coming, b""), name, options_of(options, words), final_options
        )
        begun: list[str] = []

        def tell(progress: Progress) -> None:
            begun[:] = [progress.job]
            if on_progress is not None:
                on_progress(progress)

        try:
            return JobHandle(self, self._run(talk, tell))
        except BaseException:
            for job in begun:
                with suppress(SubtitleError):
                    self.cancel(job)
            raise

    def job(self, job: str) -> JobHandle:
        """Return a job by its id, without asking the server whether there is one."""
        return JobHandle(self, job)

    def list(
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
        return self._run(talk)

    def status(self, job: str) -> ms.JobFacts:
        """Return all about one job."""
        return self._run(self._speaker.status(job))

    def follow(
        self,
        jobs: Sequence[str],
        *,
        timeout_s: float | None = None,
        on_facts: Callable[[ms.JobFacts], object],
    ) -> dict[str, ms.JobFacts]:
        """Wait until all `jobs` have ended, however they end; `on_facts` is called whenever one of them has changed.

        Raises WaitTimeoutError after `timeout_s`, UnreachableError when the server was silent for two minutes.
        """
        return self._run(self._speaker.follow(jobs, timeout_s), on_facts)

    def cancel(self, job: str) -> ms.JobFacts:
        """End a job that is not finished."""
        return self._run(self._speaker.cancel(job))

    def retry(self, job: str) -> ms.JobFacts:
        """Try a failed job again; only what is missing is decoded."""
        return self._run(self._speaker.retry(job))

    def fetch(
        self, job: str, form: str = "srt", *, layout: ms.LayoutOptions | None = None
    ) -> tuple[str, bytes]:
        """Return a name, made by the server, and the content of a job's subtitles.

        With `layout` the cues are made anew within those limits; else they are as the job was submitted.
        """
        answer, body = self.subtitles(job, form, layout=layout)
        return answer.name, body

    def subtitles(
        self, job: str, form: str = "srt", *, layout: ms.LayoutOptions | None = None
    ) -> tuple[ms.Subtitles, bytes]:
        """Return all that the server says of a job's subtitles, and their content; see `fetch`."""
        return self._run(self._speaker.fetch(job, form, layout))

    def waveform(self, job: str) -> tuple[ms.WaveformInfo, bytes]:
        """Return how loud a job's audio is: one byte for each interval, 0 for silence, 255 for full scale."""
        return self._run(self._speaker.waveform(job))

    def listen(self, job: str, start_ms: int = 0, duration_ms: int = 60_000) -> tuple[ms.Audio, bytes]:
        """Return at most a minute of a job's audio from `start_ms`, in the time of its cues: 16-bit samples, little-endian, mono.

        How many there are at all, and at which rate, is in the answer. It is decoded from the media, for as long as the server has
        that; where it takes long it is waited for, whatever the client's `timeout_s`.
        """
        return self._run(self._speaker.listen(job, start_ms, duration_ms))

    # -- connections -----------------------------------------------------------------------------------------

    def _run(self, talk: Talk[T], tell: Callable[[Any], object] | None = None) -> T:
        conversation = Conversation(talk)
        with closing(self._stream(conversation)) as told:
            for value in told:
                if tell is not None:
                    tell(value)
        return conversation.result

    def _stream(self, conversation: Conversation[Any]) -> Generator[Any, None, None]:
        """Take a conversation's steps; yields what it tells."""
        with self._connection() as connection:
            came: object = None
            while (step := conversation.step(came)) is not None:
                came = None
                match step:
                    case Send(message=message, until=until, blobs=blobs):
                        came = connection.send(message, blobs, until)
                    case Receive(until=until):
                        came = connection.receive(until)
                    case Work(call=call) | Pull(call=call):
                        came = call()
                    case Tell(value=value):
                        yield value

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        """Give a connection that no other conversation has: so each may be interleaved with any other.

        One whose conversation broke off is not used again: answers may still be under way to it, and requests from it.
        """
        connection = self._idle.pop() if self._idle else self._connect()
        try:
            connection.forget()
            yield connection
        except BaseException:
            self._open.discard(connection)
            connection.close()
            raise
        self._idle.append(connection)

    def _connect(self) -> Connection:
        connection = Connection(self._context, self.endpoint, self._key)
        self._open.add(connection)
        return connection


class JobHandle:
    """One job of a server; as its client, for one thread. Its calls raise what the client's do."""

    def __init__(self, client: Client, job: ms.JobFacts | str) -> None:
        """Made by `Client.submit` and `Client.job`."""
        self._client = client
        self.id = job if isinstance(job, str) else job.id

    def __repr__(self) -> str:
        return f"JobHandle({self.id!r})"

    def facts(self) -> ms.JobFacts:
        """Return all that the server knows about it."""
        return self._client.status(self.id)

    @property
    def progress(self) -> Progress:
        """How far it is; asks the server."""
        return progress_of(self.facts())

    def wait(self, timeout_s: float | None = None, *, on_progress: OnProgress | None = None) -> ms.JobFacts:
        """Wait until it is done, and return all about it; raises JobFailedError with the cause when it failed or was cancelled.

        Gives up after `timeout_s` (WaitTimeoutError), or when the server was silent for two minutes (UnreachableError); the job
        goes on, and may be waited for again.
        """

        def tell(facts: ms.JobFacts) -> None:
            if on_progress is not None:
                on_progress(progress_of(facts))

        return check_done(self._client.follow([self.id], timeout_s=timeout_s, on_facts=tell)[self.id])

    def events(self, *, timeout_s: float | None = None) -> Iterator[ms.Event]:
        """Yield its journal from the beginning, and what is added to it, until it has ended.

        Ends also after `timeout_s` seconds without an entry.
        """
        return self._client.watch_to_end(self.id, timeout_s=timeout_s)

    def cancel(self) -> ms.JobFacts:
        """End it."""
        return self._client.cancel(self.id)

    def retry(self) -> ms.JobFacts:
        """Try it again after it failed."""
        return self._client.retry(self.id)

    def text(self, form: str = "srt") -> str:
        """Return its subtitles."""
        return self._client.fetch(self.id, form)[1].decode("utf-8")

    def save(self, target: str | os.PathLike[str] = ".", formats: Sequence[str] | None = None) -> list[Path]:
        """Write its subtitles, and return the paths.

        Into a folder, each under the server's name for it (`talk.en.srt`): a file of that name with other content is kept, and the
        next free name taken. To any other path, one format to that very file, replacing it; its suffix says which, unless
        `formats` does. Without `formats`: those that it was submitted with. Raises OSError.
        """
        path = Path(target)
        asked = formats or format_of(path) or self.facts().formats or ("srt",)
        return save_all(path, [(form, *self._client.fetch(self.id, form)) for form in asked])
