"""Subtitle files contain the text and times of the cues."""

from __future__ import annotations

import re

import msgspec
import pysubs2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pysubs2.formats.subrip import SubripFormat

from subtitled.core.transcription import Word
from subtitled.cues.layout import Cue, layout
from subtitled.cues.phrases import MediaPhrase
from subtitled.cues.render import RenderOptions, read_json, render
from subtitled.cues.text_formats import clock, srt
from subtitled.cues.transcript import Interval, MissingSpan, SegmentTranscript, Transcript

CUE = re.compile(r"(\d+)\n(\d+):(\d\d):(\d\d),(\d{3}) --> (\d+):(\d\d):(\d\d),(\d{3})\n((?:.+\n)*)(?:\n|\Z)")

WHOLE = Transcript(
    source="谈话 1.mp4",
    duration_ms=61_000,
    offset_ms=40,
    language="zh",
    language_probability=0.98,
    task="transcribe",
    model="large-v3-turbo",
    devices=("cuda:0", "cuda:1"),
    segments=(
        SegmentTranscript(
            index=0,
            pieces=(Interval(0, 4000), Interval(9000, 12_000)),
            spans=(Interval(200, 3800),),
            device="cuda:0",
            attempts=2,
            timings_ms={"decode": 120},
            language="zh",
            language_probability=0.9,
            phrases=(MediaPhrase("你好", 200, 900, (Word("你好", 200, 900, 0.7),), -0.2, 1.1, 0.01, 0.2),),
        ),
    ),
    skipped=(MissingSpan(20_000, 20_050, "speech of 50 ms; at least 100 ms are decoded"),),
    missing=(MissingSpan(30_000, 40_000, "3 workers were lost"),),
    cues=(Cue(200, 900, ("你好",)),),
)


def parsed(text: str) -> list[tuple[int, int, list[str]]]:
    """Read SubRip by its grammar, without a rest."""
    cues: list[tuple[int, int, list[str]]] = []
    at = 0
    while at < len(text):
        match = CUE.match(text, at)
        assert match, text[at : at + 80]
        number, h, m, s, ms, h2, m2, s2, ms2 = map(int, match.groups()[:9])
        assert number == len(cues) + 1
        start_ms, end_ms = ((h * 60 + m) * 60 + s) * 1000 + ms, ((h2 * 60 + m2) * 60 + s2) * 1000 + ms2
        cues.append((start_ms, end_ms, match[10].splitlines()))
        at = match.end()
    return cues


def test_srt_has_the_layout_that_players_expect() -> None:
    cues = [Cue(0, 1999, ("Hello,", "world")), Cue(3_723_004, 3_725_000, ("再见",))]
    assert srt(cues) == (
        "1\n00:00:00,000 --> 00:00:01,999\nHello,\nworld\n\n2\n01:02:03,004 --> 01:02:05,000\n再见\n"
    )


def test_srt_without_cues_is_empty() -> None:
    assert srt([]) == ""


@given(st.integers(0, 359_999_999))
def test_timestamp_equals_that_of_pysubs2(time_ms: int) -> None:
    assert clock(time_ms, ",") == SubripFormat.ms_to_timestamp(time_ms)


def test_timestamp_goes_beyond_a_hundred_hours() -> None:
    assert clock(360_000_001, ",") == "100:00:00,001"


@pytest.mark.parametrize(
    "line",
    [
        r"C:\New\home {\p1} {\an8}",
        "00:00:01,000 --> 00:00:02,000",
        "a --> b ---> c",
        "<i>tag</i> < b > </font> 1 < 2",
        "{y:i} {open",
        "12",
        "&amp;",
    ],
)
def test_text_that_looks_like_markup_is_shown_verbatim(line: str) -> None:
    """pysubs2 and the grammar both read one cue with this text, apart from the arrow and the invisible joiner."""
    text = srt([Cue(1000, 2000, (line,)), Cue(3000, 4000, ("next",))])
    expected = re.sub("-{2,}>", "→", line)
    assert [(start, end) for start, end, _ in parsed(text)] == [(1000, 2000), (3000, 4000)]
    assert parsed(text)[0][2][0].replace("\u2060", "") == expected
    events = pysubs2.SSAFile.from_string(text, "srt").events
    assert [(event.start, event.end) for event in events] == [(1000, 2000), (3000, 4000)]
    assert events[0].text.replace("\u2060", "") == expected


@given(
    st.lists(
        st.builds(
            MediaPhrase,
            st.text(alphabet="ab<>-{}\\/i0:, \n中\u2028") | st.text(max_size=50),
            st.integers(0, 400_000_000),
            st.integers(0, 400_000_000),
        ),
        max_size=5,
    )
)
def test_srt_of_any_text_is_read_back(phrases: list[MediaPhrase]) -> None:
    cues = layout(phrases)
    read = parsed(srt(cues))
    assert [cue[:2] for cue in read] == [(cue.start_ms, cue.end_ms) for cue in cues]
    shown = ["".join(lines).replace("\u2060", "") for *_, lines in read]
    said = [re.sub("-{2,}>", "→", "\n".join(cue.lines)) for cue in cues]
    assert shown == ["".join(text.replace("\u2060", "").split("\n")) for text in said]


def test_blank_lines_of_a_cue_do_not_end_it() -> None:
    assert parsed(srt([Cue(0, 1, ("a\n\nb", "", "c"))])) == [(0, 1, ["a b", "c"])]


def test_json_contains_the_whole_transcript() -> None:
    data = render("json", WHOLE)
    assert read_json(data) == WHOLE
    assert data.endswith(b"}\n")
    assert msgspec.json.decode(data)["segments"][0]["phrases"][0]["words"][0]["text"] == "你好"


def test_json_with_a_file_name_that_is_not_utf8_is_readable() -> None:
    transcript = msgspec.structs.replace(WHOLE, source="talk\udcff.mp4")
    assert read_json(render("json", transcript)) == msgspec.structs.replace(WHOLE, source="talk?.mp4")


def test_srt_is_utf8() -> None:
    assert render("srt", WHOLE) == "1\n00:00:00,200 --> 00:00:00,900\n你好\n".encode()


def test_srt_of_silence_is_empty() -> None:
    silence = Transcript(source="a.wav", duration_ms=1, task="transcribe", model="demo")
    assert render("srt", silence) == b""
    assert read_json(render("json", silence)) == silence


def test_bom_and_crlf_are_written_if_requested() -> None:
    look = RenderOptions(bom=True, newline="crlf")
    assert render("srt", WHOLE, look) == b"\xef\xbb\xbf" + (
        "1\r\n00:00:00,200 --> 00:00:00,900\r\n你好\r\n".encode()
    )
    assert pysubs2.SSAFile.from_string(render("srt", WHOLE, look).decode("utf-8-sig"))[0].text == "你好"


def test_json_has_neither_bom_nor_crlf() -> None:
    """RFC 8259, 8.1: no byte order mark."""
    assert render("json", WHOLE, RenderOptions(bom=True, newline="crlf")) == render("json", WHOLE)
