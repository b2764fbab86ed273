"""The text of a job in progress, in the order of time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
from msgspec import Struct

from subtitle.messages import Event, Subtitles

MAX_SEGMENTS = 100
"""Segments of one request; the server accepts 256."""
_CHANGES = frozenset({"done", "skipped", "language_changed", "retried"})
"""Events of a segment after which it has another text, or none."""


class LiveCue(Struct, frozen=True, kw_only=True):
    """One provisional cue."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]


class _Segment(Struct, frozen=True):
    index: int


class _Transcript(Struct, frozen=True):
    segments: tuple[_Segment, ...]
    cues: tuple[LiveCue, ...]


_decoder = msgspec.json.Decoder(_Transcript)
FetchSegments = Callable[[list[int]], tuple[Subtitles, bytes]]
"""Fetches some segments of the job in the format "json"."""


def changed_segment(event: Event) -> int | None:
    """Return the number of the segment whose text an event of the journal changes; None for other events."""
    is_number = event.name.isascii() and event.name.isdigit()
    return int(event.name) if event.subject == "segment" and event.event in _CHANGES and is_number else None


class OrderedText:
    """Releases the cues of segments in the order of time, each once it can no longer change."""

    def __init__(self) -> None:
        self._waiting: set[int] = set()
        """Segments that are transcribed and not released."""
        self._next = 0

    def add(self, event: Event, fetch: FetchSegments) -> Iterator[LiveCue]:
        """Yield the cues that an event of the journal releases; while the language of the file is open, none.

        The language may be settled after the last segment is done, once the file is read.
        """
        segment = changed_segment(event)
        if segment is not None:
            self._waiting.add(segment)
        elif event.subject != "job":
            return
        while run := self._run():
            answer, body = fetch(run)
            found = _decoder.decode(body)
            done = {one.index for one in found.segments}
            ready = [index for index in run if index in done]
            # A segment that is decoded again in the settled language has no text until then.
            if answer.language is None or ready != run:
                return
            self._waiting -= set(run)
            self._next = run[-1] + 1
            yield from found.cues

    def _run(self) -> list[int]:
        """Return the segments that follow the released ones without a gap."""
        end = self._next
        while end in self._waiting and end - self._next < MAX_SEGMENTS:
            end += 1
        return list(range(self._next, end))
