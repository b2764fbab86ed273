"""The gateway's access to the daemon: submit media, wait for the job, fetch the result."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

from starlette.requests import ClientDisconnect, Request

from subtitle.aio import AsyncClient
from subtitle.errors import ServerError, SubtitleError
from subtitle.messages import JobFacts, JobOptions
from subtitled.cues.render import read_json
from subtitled.cues.transcript import Transcript
from subtitled.http.errors import RequestError

P = ParamSpec("P")
T = TypeVar("T")
RETRY_DELAYS_S = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
"""Delays between attempts while the daemon answers RATE_LIMITED."""


class Gateway:
    """One daemon, for all requests of one event loop."""

    def __init__(self, client: AsyncClient, max_bytes: int, model_aliases: Iterable[str] = ()) -> None:
        """`max_bytes` limits an uploaded file; `model_aliases`: see `openai.resolve_model`."""
        self.client = client
        self.max_bytes = max_bytes
        self.model_aliases = tuple(model_aliases)
        self._background: set[asyncio.Task[None]] = set()

    async def models(self) -> tuple[str, ...]:
        """Return the names of the daemon's models, the default first."""
        welcome = await self.client.ping()
        return welcome.models or (welcome.model,)

    async def model_sources(self) -> dict[str, str]:
        """Return the source of each model by its name, the default first: a size, a hub id or a folder."""
        models = (await self.client.stats()).models
        return {model.name: model.source for model in models} or dict.fromkeys(await self.models(), "")

    async def submit(
        self,
        chunks: AsyncIterator[bytes],
        name: str,
        options: JobOptions,
        final_options: Callable[[], JobOptions] | None = None,
    ) -> str:
        """Stream media to the daemon and return the job's id; see `subtitle.Client.submit_stream`."""
        job = await self.client.submit_stream(chunks, name, options=options, final_options=final_options)
        return job.id

    async def wait_while_connected(
        self, request: Request, job: str, is_enough: Callable[[JobFacts], bool] = lambda _: False
    ) -> JobFacts:
        """Wait until a job is done or its facts satisfy `is_enough`; cancel it if it is not needed to the end.

        Raises RequestError if the job fails, ClientDisconnect (and cancels the job) if the client disconnects.
        """
        enough: asyncio.Future[JobFacts] = asyncio.get_running_loop().create_future()

        def on_facts(facts: JobFacts) -> None:
            if facts.state != "done" and is_enough(facts) and not enough.done():
                enough.set_result(facts)

        done = asyncio.ensure_future(self.wait(job, on_facts))
        disconnected = asyncio.ensure_future(_wait_for_disconnect(request))
        try:
            waiting: set[asyncio.Future[Any]] = {done, disconnected, enough}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if done.done():
                return done.result()
            if enough.done():
                return enough.result()
            raise ClientDisconnect
        finally:
            disconnected.cancel()
            enough.cancel()
            if not done.done():
                done.cancel()
                self.cancel_in_background(job)

    async def wait(self, job: str, on_facts: Callable[[JobFacts], object] = lambda _: None) -> JobFacts:
        """Wait until a job is done; raises RequestError if it fails or is cancelled."""
        return _check_done((await self.client.follow([job], on_facts=on_facts))[job])

    async def transcript(self, job: str) -> Transcript:
        """Return a job's whole transcript."""
        return read_json(await self.fetch(job, "json"))

    async def fetch(self, job: str, form: str) -> bytes:
        """Return a job's subtitles in a format."""
        return (await self.retry_while_busy(self.client.subtitles, job, form))[1]

    async def retry_while_busy(
        self, send: Callable[P, Awaitable[T]], *args: P.args, **keywords: P.kwargs
    ) -> T:
        """Call a method of `client` again while the daemon answers RATE_LIMITED."""
        for delay_s in RETRY_DELAYS_S:
            try:
                return await send(*args, **keywords)
            except ServerError as error:
                if error.code != "RATE_LIMITED":
                    raise
            await asyncio.sleep(delay_s)
        return await send(*args, **keywords)

    def cancel_in_background(self, job: str) -> None:
        """Cancel a job without waiting; errors are ignored."""
        task = asyncio.ensure_future(self._cancel(job))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def close(self) -> None:
        """Finish background tasks and close the connection to the daemon."""
        if self._background:
            await asyncio.wait(self._background)
        self.client.close()

    async def _cancel(self, job: str) -> None:
        with suppress(SubtitleError):
            await self.client.cancel(job)


def _check_done(facts: JobFacts) -> JobFacts:
    match facts.state:
        case "failed" if not facts.segments:
            # Nothing of the file could be read.
            raise RequestError(400, "invalid_media", f"{facts.source}: {facts.cause}", param="file")
        case "failed":
            raise RequestError(500, "job_failed", f"job {facts.id} failed: {facts.cause}; it can be retried")
        case "cancelled":
            cause = f": {facts.cause}" if facts.cause else ""
            raise RequestError(409, "cancelled", f"job {facts.id} was cancelled{cause}")
        case _:
            return facts


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
