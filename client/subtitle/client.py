"""The blocking Python API: one object for one server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Literal, Self, TypeVar

from msgspec import Struct

from subtitle import messages as ms
from subtitle.errors import ServerError, UnreachableError
from subtitle.transport import Transport, default_server

M = TypeVar("M", bound=Struct)
LogLevelName = Literal["debug", "info", "warning", "error"]


class Client:
    """Talks to one daemon; use it as a context manager, in the thread that made it.

    Every call raises UnreachableError when no answer comes within `timeout_s`, and ServerError when the server refuses.
    """

    def __init__(self, endpoint: str | None = None, *, timeout_s: float = 5.0) -> None:
        self._transport = Transport(endpoint or default_server())
        self._timeout_s = timeout_s
        self._last_request = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; may be repeated."""
        self._transport.close()

    def ping(self) -> ms.Welcome:
        """Return who is there."""
        return self._ask(ms.Hello(request=self._next()), ms.Welcome)[0]

    def list(
        self, states: tuple[str, ...] = (), *, limit: int = 100, tag: str | None = None
    ) -> tuple[ms.JobFacts, ...]:
        """Return the newest jobs, newest first; only those in `states` if any are named."""
        return self._ask(ms.List(request=self._next(), states=states, limit=limit, tag=tag), ms.JobList)[
            0
        ].jobs

    def status(self, job: str) -> ms.JobFacts:
        """Return one job."""
        return self._ask(ms.Status(request=self._next(), job=job), ms.JobInfo)[0].job

    def cancel(self, job: str) -> ms.JobFacts:
        """End a job that is not finished."""
        return self._ask(ms.Cancel(request=self._next(), job=job), ms.JobInfo)[0].job

    def retry(self, job: str) -> ms.JobFacts:
        """Try a failed job again; only what is missing is decoded."""
        return self._ask(ms.Retry(request=self._next(), job=job), ms.JobInfo)[0].job

    def fetch(self, job: str, form: str = "srt") -> tuple[str, bytes]:
        """Return a name and the content of a job's subtitles."""
        answer, blobs = self._ask(ms.Fetch(request=self._next(), job=job, format=form), ms.Subtitles)
        return answer.name, b"".join(blobs)

    def stats(self) -> ms.StatsInfo:
        """Return workers, queue and speed."""
        return self._ask(ms.Stats(request=self._next()), ms.StatsInfo)[0]

    def set_log_level(self, level: LogLevelName | None = None) -> ms.LogLevel:
        """Have the server log more or less, until its configuration is read again; say which level it is without one."""
        return self._ask(ms.SetLogLevel(request=self._next(), level=level), ms.LogLevel)[0]

    def watch(
        self, job: str | None = None, *, after_seq: int = -1, timeout_s: float | None = None
    ) -> Iterator[ms.Event]:
        """Yield journal entries after `after_seq` (-1: new ones only) as they come; of one job if one is named.

        Ends after `timeout_s` seconds without an entry; never, without it. The daemon may be restarted meanwhile:
        the watch goes on after the last entry that was seen.
        """
        request = self._next()
        seen = self.stats().last_seq if after_seq < 0 else after_seq
        self._transport.send(ms.Watch(request=request, after_seq=seen, job=job))
        heard = asked = time.monotonic()
        while timeout_s is None or time.monotonic() - heard < timeout_s:
            received = self._transport.receive(time.monotonic() + 0.5)
            now = time.monotonic()
            if received is None:
                # A daemon that was restarted knows nothing of this watch: ask again, after the last entry seen.
                if now - asked >= self._timeout_s:
                    self._transport.send(ms.Watch(request=request, after_seq=seen, job=job))
                    asked = now
                continue
            message = received[0]
            if isinstance(message, ms.Error) and message.request == request:
                raise ServerError(message.code, message.message)
            if isinstance(message, ms.Event) and message.request == request and message.seq > seen:
                seen, heard = message.seq, now
                yield message

    def _next(self) -> int:
        self._last_request += 1
        return self._last_request

    def _ask(self, message: ms.ToServer, kind: type[M]) -> tuple[M, tuple[bytes, ...]]:
        self._transport.send(message)
        deadline = time.monotonic() + self._timeout_s
        while (received := self._transport.receive(deadline)) is not None:
            answer, blobs = received
            if answer.request != message.request:
                continue
            if isinstance(answer, ms.Error):
                raise ServerError(answer.code, answer.message)
            if isinstance(answer, kind):
                return answer, tuple(bytes(blob) for blob in blobs)
        raise UnreachableError(
            f"{self._transport.endpoint}: no answer within {self._timeout_s:g} s; is the daemon running?"
        )
