"""Subtitle files of other programs are read as cues."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subtitle import EditedCue
from subtitle.errors import OptionError
from subtitle.subtitle_files import parse_subtitles
from subtitled.cues.layout import Cue
from subtitled.cues.text_formats import srt, vtt


def cue(start_ms: int, end_ms: int, *lines: str) -> EditedCue:
    return EditedCue(start_ms=start_ms, end_ms=end_ms, lines=lines)


@pytest.mark.parametrize(
    "text",
    [
        "1\n00:00:01,000 --> 00:00:02,500\nOne\nline\n\n2\n00:01:03,040 --> 00:01:04,000\nTwo\n",
        "\ufeff1\r\n00:00:01,000 --> 00:00:02,500\r\nOne\r\nline\r\n\r\n\r\n2\r\n00:01:03,040 --> 00:01:04,000\r\nTwo",
        "00:00:01.0 --> 00:00:02.5\nOne\nline\n2\n00:01:03.04 --> 00:01:04.000\nTwo\n",
        "WEBVTT\n\nNOTE made by hand\n\nname\n00:01.000 --> 00:02.500 align:start\n<v Ada>One</v>\nline\n\n01:03.040 --> 01:04.000\nT&#119;o\n",
    ],
    ids=["srt", "windows", "careless", "vtt"],
)
def test_cues_are_read_from_usual_files(text: str) -> None:
    assert parse_subtitles(text.encode()) == (cue(1000, 2500, "One", "line"), cue(63_040, 64_000, "Two"))


def test_an_arrow_in_a_text_is_no_time() -> None:
    text = b"1\n00:00:01,000 --> 00:00:02,000\nfrom --> to\n2 --> 3\n\na --> b\n"
    assert parse_subtitles(text) == (cue(1000, 2000, "from --> to", "2 --> 3"),)


def test_a_cue_without_a_length_gets_one() -> None:
    text = b"1\n00:00:01,000 --> 00:00:01,000\nx\n"
    assert parse_subtitles(text) == (cue(1000, 1500, "x"),)


@pytest.mark.parametrize("text", ["word " * 700, "x" * 3500, "line\n" * 40, ("word " * 300 + "\n") * 5])
def test_long_text_is_wrapped_within_the_limits_of_a_cue(text: str) -> None:
    (found,) = parse_subtitles(f"1\n00:00:01,000 --> 00:00:02,000\n{text}\n".encode())
    assert msgspec.convert(msgspec.to_builtins(found), EditedCue) == found
    assert "".join(found.lines).replace(" ", "") == "".join(text.split())


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"1\n00:00:02,000 --> 00:00:01,000\nx\n", "line 2"),
        (b"only text\n", "no cues"),
        (b"1\n0:00:01 --> 0:00:02\nx\n", "line 2"),
        (b"1\n1 --> 2\nx\n", "line 2"),
        (b"1\n99:59:59,000 --> 100:00:00,000\nx\n", "line 2: .* ends after 100 hours"),
        (b"1\n" + b"9" * 5000 + b":00:00,000 --> 00:00:02,000\nx\n", "line 2"),
        (b"1\n00:00:01,000 --> 00:00:02,000\n" + b"x" * 20_000, "line 2: the cue has more than 16 lines"),
        (b'{"cues": [{"start_ms": 2, "end_ms": 1, "lines": ["x"]}]}', "cue 1 ends before it starts"),
        (b'{"x": ' + b"[" * 100_000, "not a transcript"),
        (b"1\n00:00:01,000 --> 00:00:02,000\n\xff\n", "not UTF-8"),
        (b'{"a": 1}', "not a transcript"),
    ],
)
def test_what_is_no_subtitle_file_is_rejected(data: bytes, fault: str) -> None:
    with pytest.raises(OptionError, match=fault):
        parse_subtitles(data)


_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp", "Cs")), min_size=1).filter(
    lambda text: text == " ".join(text.split()) and "-->" not in text and "\u2060" not in text
)


@given(
    st.lists(
        st.tuples(st.integers(0, 10**8), st.integers(1, 10**6), st.lists(_TEXT, min_size=1, max_size=3)),
        max_size=5,
    )
)
def test_files_of_the_server_are_read_as_they_were_written(rows: list[tuple[int, int, list[str]]]) -> None:
    cues = [Cue(start, start + length, tuple(lines)) for start, length, lines in rows]
    expected = tuple(cue(one.start_ms, one.end_ms, *one.lines) for one in cues)
    assert parse_subtitles(vtt(cues).encode()) == expected
    if cues:
        assert parse_subtitles(srt(cues).encode()) == expected
