"""The order in which the text of a job in progress is released."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from subtitle.live_text import OrderedText, changed_segment
from subtitle.messages import Event, Subtitles
from subtitled.cues.phrases import MediaPhrase
from subtitled.cues.transcript import Interval, MissingSpan, SegmentTranscript, Transcript
from subtitled.http.live_text import LiveText
from subtitled.http.openai import TextDeltas

if TYPE_CHECKING:
    from collections.abc import Callable


def entry(subject: str, name: str, event: str) -> Event:
    return Event(
        request=1,
        seq=1,
        at_ms=0,
        subject=subject,
        job="a",
        name=name,
        before="",
        event=event,
        after="",
        cause="",
    )


def test_segment_changes_are_found_in_the_journal() -> None:
    assert changed_segment(entry("segment", "7", "done")) == 7
    assert changed_segment(entry("segment", "7", "language_changed")) == 7
    assert changed_segment(entry("segment", "7", "leased")) is None
    assert changed_segment(entry("job", "", "planned")) is None
    assert changed_segment(entry("worker", "gpu0.1", "done")) is None


def server(done: set[int], language: list[str | None]) -> Callable[[list[int]], tuple[Subtitles, bytes]]:
    """Return a server with these transcribed segments; `language[0]` is the settled one."""

    def fetch(segments: list[int]) -> tuple[Subtitles, bytes]:
        found = [index for index in segments if index in done]
        cues = [{"start_ms": 1000 * at, "end_ms": 1000 * at + 500, "lines": [f"text {at}"]} for at in found]
        body = json.dumps({"segments": [{"index": index} for index in found], "cues": cues}).encode()
        return Subtitles(request=1, job="a", format="json", language=language[0], name=""), body

    return fetch


def test_text_is_printed_in_order_of_time_once_the_language_is_settled() -> None:
    done, language = {1}, list[str | None]([None])
    fetch, ordered = server(done, language), OrderedText()
    assert not list(ordered.add(entry("segment", "1", "done"), fetch))
    done.add(0)
    assert not list(ordered.add(entry("segment", "0", "done"), fetch))
    language[0] = "en"
    done.add(2)
    done.discard(1)  # it is decoded again
    assert not list(ordered.add(entry("segment", "2", "done"), fetch))
    done.add(1)
    assert [cue.lines for cue in ordered.add(entry("segment", "1", "done"), fetch)] == [
        ("text 0",),
        ("text 1",),
        ("text 2",),
    ]


def test_text_is_printed_if_the_language_is_settled_after_the_last_segment() -> None:
    """Of a file that is transcribed before it is read to its end."""
    language = list[str | None]([None])
    fetch, ordered = server({0}, language), OrderedText()
    assert not list(ordered.add(entry("segment", "0", "done"), fetch))
    language[0] = "en"
    assert not list(ordered.add(entry("worker", "cpu0.1", "ready"), fetch))
    assert [cue.lines for cue in ordered.add(entry("job", "", "planned"), fetch)] == [("text 0",)]


def live(segments: dict[int, str | None], *, is_settled: bool = True) -> LiveText:
    """Return the text of segments; None for one that is not transcribed."""
    made = tuple(
        SegmentTranscript(
            index=index,
            pieces=(),
            spans=(Interval(index * 1000, index * 1000 + 900),),
            device="cpu",
            phrases=(MediaPhrase(text, index * 1000, index * 1000 + 900),) if text else (),
        )
        for index, text in segments.items()
        if text is not None
    )
    missing = tuple(
        MissingSpan(index * 1000, index * 1000 + 900, "not transcribed")
        for index, text in segments.items()
        if text is None
    )
    transcript = Transcript(
        source="a",
        duration_ms=0,
        language="en",
        task="transcribe",
        model="demo",
        segments=made,
        missing=missing,
    )
    return LiveText(segments=tuple(segments), is_settled=is_settled, transcript=transcript)


def test_deltas_of_openai_follow_each_other_in_order_of_time() -> None:
    deltas = TextDeltas()
    assert deltas.add(live({1: "world"})) == ""
    assert deltas.add(live({0: "Hello"})) == "Hello world"
    assert deltas.add(live({2: "", 3: None})) == ""
    assert deltas.add(live({3: "Bye."})) == " Bye."
    assert deltas.text == "Hello world Bye."
    assert deltas.rest("Hello world Bye. The end.") == " The end."
    assert deltas.rest("Another text.") == ""


def test_deltas_of_openai_wait_until_the_language_is_settled() -> None:
    deltas = TextDeltas()
    assert deltas.add(live({0: "Hallo"}, is_settled=False)) == ""
    assert deltas.add(live({1: "world"})) == ""
    assert deltas.add(live({0: "Hello", 1: "world"})) == "Hello world"
