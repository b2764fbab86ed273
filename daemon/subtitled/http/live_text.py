"""The text of a job while it is in progress, read from the daemon as its segments are transcribed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

from msgspec import Struct

from subtitle.live_text import MAX_SEGMENTS, changed_segment
from subtitle.messages import Event
from subtitled.cues.render import read_json
from subtitled.cues.transcript import SegmentTranscript, Transcript
from subtitled.http.gateway import Gateway


class SegmentCue(Struct, frozen=True, kw_only=True):
    """One provisional cue."""

    segment: int
    start_ms: int
    end_ms: int
    lines: tuple[str, ...]
    channel: str = ""


class LiveText(Struct, frozen=True, kw_only=True):
    """The present text of some segments, which replaces the earlier text of the same segments."""

    segments: tuple[int, ...]
    """Numbers of the segments."""
    is_settled: bool
    """The language of the file is settled: a segment that has a text keeps it."""
    transcript: Transcript
    """With the segments that are transcribed; the others are in `missing`."""

    def cues(self) -> tuple[SegmentCue, ...]:
        """Return the provisional cues, in order."""
        segments = self.transcript.segments
        return tuple(
            SegmentCue(
                segment=min(
                    segments, key=partial(_distance_ms, middle_ms=(cue.start_ms + cue.end_ms) // 2)
                ).index,
                start_ms=cue.start_ms,
                end_ms=cue.end_ms,
                lines=cue.lines,
                channel=cue.channel,
            )
            for cue in self.transcript.cues
        )


class LiveTextChanges:
    """Numbers of the segments whose text has changed, collected from a job's journal."""

    def __init__(self) -> None:
        self._changed: dict[int, None] = {}
        self._known: set[int] = set()
        self._is_ended = False
        self._wake = asyncio.Event()

    def add(self, entry: Event) -> None:
        """Note an entry of the journal."""
        if (segment := changed_segment(entry)) is not None:
            self._changed[segment] = None
            self._wake.set()

    def add_known(self) -> None:
        """Note all segments that were taken so far, to read them again."""
        self._changed |= dict.fromkeys(self._known)

    def end(self) -> None:
        """Note that no entries follow."""
        self._is_ended = True
        self._wake.set()

    async def take(self) -> tuple[int, ...]:
        """Wait for changed segments and return up to MAX_SEGMENTS of them; empty at the end."""
        while not self._changed and not self._is_ended:
            self._wake.clear()
            await self._wake.wait()
        taken = tuple(sorted(self._changed)[:MAX_SEGMENTS])
        self._known.update(taken)
        for index in taken:
            del self._changed[index]
        return taken


async def live_text(gateway: Gateway, job: str, changes: LiveTextChanges) -> AsyncGenerator[LiveText]:
    """Yield the text of the segments in `changes` until these end; raises ServerError.

    Once the language is settled, all segments are yielded again: the vote may have changed their text.
    """
    was_settled = False
    is_first = True
    while segments := await changes.take():
        answer, content = await gateway.retry_while_busy(
            gateway.client.subtitles, job, "json", segments=segments
        )
        is_settled = was_settled or answer.language is not None
        if is_settled and not was_settled and not is_first:
            changes.add_known()
        was_settled, is_first = is_settled, False
        transcript = await asyncio.to_thread(read_json, content)
        yield LiveText(segments=segments, is_settled=is_settled, transcript=transcript)


async def follow_text(gateway: Gateway, job: str) -> AsyncGenerator[LiveText]:
    """Yield the text of a job's segments as they are transcribed, until the job has ended."""
    changes = LiveTextChanges()
    watching = asyncio.ensure_future(_watch(gateway, job, changes))
    try:
        async with aclosing(live_text(gateway, job, changes)) as texts:
            async for text in texts:
                yield text
        await watching
    finally:
        watching.cancel()


async def _watch(gateway: Gateway, job: str, changes: LiveTextChanges) -> None:
    try:
        async for entry in gateway.client.watch_to_end(job):
            changes.add(entry)
    finally:
        changes.end()


def _distance_ms(segment: SegmentTranscript, *, middle_ms: int) -> int:
    """Return how far a time is from the speech of a segment; 0 within it."""
    return min(
        (max(span.start_ms - middle_ms, middle_ms - span.end_ms, 0) for span in segment.spans), default=2**62
    )
