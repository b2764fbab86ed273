"""What all interfaces do with the daemon: send it media, wait for the job, fetch what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from subtitle.aio import AsyncClient
from subtitle.errors import ServerError, SubtitleError
from subtitle.messages import Audio, JobFacts, JobOptions, LayoutOptions, Subtitles
from subtitle.progress import ENDED
from subtitled.cues.render import read_json
from subtitled.cues.transcript import Transcript
from subtitled.http.errors import RequestError

T = TypeVar("T")
PAUSES_S = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
"""Between tries of what a busy daemon refuses (RATE_LIMITED), before the client is told so."""


class Gateway:
    """One daemon, for all requests of one event loop."""

    def __init__(self, client: AsyncClient, max_bytes: int) -> None:
        """`max_bytes`: of an uploaded file."""
        self.client = client
        self.max_bytes = max_bytes
        self._loose: set[asyncio.Task[None]] = set()

    async def submit(
        self,
        pieces: AsyncIterator[bytes],
        name: str,
        options: JobOptions,
        final_options: Callable[[], JobOptions] | None = None,
    ) -> str:
        """Send media as it comes, and return its job; what breaks off is cancelled. See `subtitle.Client.submit_stream`."""
        job = await self.client.submit_stream(pieces, name, options=options, final_options=final_options)
        return job.id

    async def finish(
        self, request: Request, job: str, is_enough: Callable[[JobFacts], bool] = lambda _: False
    ) -> JobFacts:
        """Wait until a job is done, for a client that waits with it: the job is cancelled when that client goes.

        Or until `is_enough` of what is known of it: then it is cancelled too. Raises RequestError for a job that does not end
        well, ClientDisconnect.
        """
        loop = asyncio.get_running_loop()
        enough: asyncio.Future[JobFacts] = loop.create_future()

        def tell(facts: JobFacts) -> None:
            if facts.state != "done" and is_enough(facts) and not enough.done():
                enough.set_result(facts)

        waiting = asyncio.ensure_future(self.wait(job, tell))
        gone = asyncio.ensure_future(_is_gone(request))
        try:
            first: set[asyncio.Future[Any]] = {waiting, gone, enough}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
            if enough.done():
                return enough.result()
            raise ClientDisconnect
        finally:
            gone.cancel()
            enough.cancel()
            if not waiting.done():
                waiting.cancel()
                self.let_go(job)

    async def wait(self, job: str, on_facts: Callable[[JobFacts], object] = lambda _: None) -> JobFacts:
        """Wait until a job is done; raises RequestError when it failed or was cancelled."""
        return done((await self.client.follow([job], on_facts=on_facts))[job])

    async def transcript(self, job: str) -> Transcript:
        """Return all that came of a job."""
        return read_json(await self.fetch(job, "json"))

    async def fetch(self, job: str, form: str) -> bytes:
        """Return a job's subtitles."""
        return (await self.subtitles(job, form))[1]

    async def subtitles(
        self, job: str, form: str, layout: LayoutOptions | None = None
    ) -> tuple[Subtitles, bytes]:
        """Return all that the daemon says of a job's subtitles, and their content; `layout` as in `subtitle.Client.fetch`."""
        return await _patiently(partial(self.client.subtitles, job, form, layout=layout))

    async def listen(self, job: str, start_ms: int, duration_ms: int) -> tuple[Audio, bytes]:
        """Return a stretch of a job's audio; see `subtitle.Client.audio`."""
        return await _patiently(partial(self.client.audio, job, start_ms, duration_ms))

    def let_go(self, job: str) -> None:
        """Cancel a job that nobody waits for any more, beside the request at hand."""
        task = asyncio.ensure_future(self._cancel(job))
        self._loose.add(task)
        task.add_done_callback(self._loose.discard)

    async def close(self) -> None:
        """Finish what is under way beside requests, and let go of the daemon."""
        if self._loose:
            await asyncio.wait(self._loose)
        self.client.close()

    async def _cancel(self, job: str) -> None:
        with suppress(SubtitleError):
            await self.client.cancel(job)


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask what a busy daemon may refuse, again and again."""
    for pause_s in PAUSES_S:
        try:
            return await ask()
        except ServerError as error:
            if error.code != "RATE_LIMITED":
                raise
        await asyncio.sleep(pause_s)
    return await ask()


def done(facts: JobFacts) -> JobFacts:
    """Return a job that is done; raises RequestError for one that has ended otherwise."""
    match facts.state:
        case "failed" if not facts.segments:
            # Nothing of it could be read: the file is at fault.
            raise RequestError(400, "invalid_media", f"{facts.source}: {facts.cause}", param="file")
        case "failed":
            raise RequestError(500, "job_failed", f"job {facts.id} failed: {facts.cause}; it can be retried")
        case "cancelled":
            raise RequestError(
                409, "cancelled", f"job {facts.id} was cancelled{f': {facts.cause}' if facts.cause else ''}"
            )
        case _:
            return facts


def has_ended(facts: JobFacts) -> bool:
    """Say whether nothing more comes of a job by itself."""
    return facts.state in ENDED


async def _is_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
