# ruff: noqa: RUF001 - Chinese punctuation is meant
"""Independent parsers read each format back as the text of the cues."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import av
import pysubs2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subtitled.config.schema import FORMATS, Format, InboxConfig
from subtitled.core.transcription import Word
from subtitled.cues.ass import ass
from subtitled.cues.layout import Cue, layout
from subtitled.cues.phrases import MediaPhrase
from subtitled.cues.render import RenderOptions, render
from subtitled.cues.text_formats import lrc, one_line, srt, tsv, ttml, txt, vtt
from subtitled.cues.transcript import SegmentTranscript, Transcript

if TYPE_CHECKING:
    from collections.abc import Callable

Read = list[tuple[int, int, str]]
"""Start, end and visible lines."""

XHTML_BR = "{http://www.w3.org/ns/ttml}br"

CUES = (
    Cue(0, 1990, ("Hello,", "world")),
    Cue(1990, 2500, (r"C:\New\home \h {\an8}{y:i} }",)),
    Cue(3000, 4000, ("<i>1 < 2</i> && &amp; <b", "a --> b")),
    Cue(4000, 5000, ("再见，", "朋友 {", "[00:12.00] <00:01.00> [ar:x]")),
    Cue(5010, 5020, ("00:00:01,000 --> 00:00:02,000", "{\\p1}12")),
    Cue(35_999_990, 36_000_010, ("ten hours",)),
    Cue(359_999_990, 360_000_010, ("a hundred hours",)),
)


def visible(text: str) -> str:
    """Return the visible text: no invisible joiners, full-width braces as braces."""
    return text.replace("\u2060", "").replace("\uff5b", "{").replace("\uff5d", "}")


def expected(cues: tuple[Cue, ...] = CUES) -> Read:
    return [(cue.start_ms, cue.end_ms, "\n".join(cue.lines)) for cue in cues]


def by_ffmpeg(text: str, form: str) -> Read:
    """Read with FFmpeg's demuxer; the text keeps the markup of the format."""
    rows: Read = []
    with av.open(io.BytesIO(text.encode()), "r", format={"vtt": "webvtt"}.get(form, form)) as container:
        for packet in container.demux():
            if packet.pts is not None and packet.duration is not None:
                bounds = (packet.pts, packet.pts + packet.duration)
                start_ms, end_ms = (round(at * packet.time_base * 1000) for at in bounds)
                rows.append((start_ms, end_ms, bytes(packet).decode()))
    return rows


def by_pysubs2(text: str, form: str) -> Read:
    """Read the visible text with pysubs2."""
    events = pysubs2.SSAFile.from_string(text, form).events
    return [(event.start, event.end, visible(event.plaintext)) for event in events]


def by_element_tree(text: str) -> Read:
    """Read TTML with the standard library's XML parser."""
    rows = []
    for paragraph in ET.fromstring(text.encode()).iter("{http://www.w3.org/ns/ttml}p"):  # noqa: S314 - our own text
        for br in paragraph.iter(XHTML_BR):
            br.text = "\n"
        start_ms, end_ms = (milliseconds(paragraph.attrib[name]) for name in ("begin", "end"))
        rows.append((start_ms, end_ms, "".join(paragraph.itertext())))
    return rows


def milliseconds(clock: str) -> int:
    hours, minutes, rest = clock.split(":")
    seconds, fraction = rest.split(".")
    return ((int(hours) * 60 + int(minutes)) * 60 + int(seconds)) * 1000 + int(fraction)


def unescaped(text: str) -> str:
    """Undo WebVTT's character references."""
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def test_srt_is_read_by_ffmpeg() -> None:
    read = [
        (start, end, visible(text).replace("→", "-->")) for start, end, text in by_ffmpeg(srt(CUES), "srt")
    ]
    assert read == expected()


def test_webvtt_is_read_by_ffmpeg() -> None:
    read = [(start, end, unescaped(text)) for start, end, text in by_ffmpeg(vtt(CUES), "vtt")]
    assert read == expected()


def test_no_text_of_webvtt_is_markup() -> None:
    body = vtt(CUES).partition("\n\n")[2]
    lines = [line for line in body.splitlines() if not re.fullmatch(r"[\d:.]+ --> [\d:.]+", line)]
    assert not [line for line in lines if "<" in line or "-->" in line]
    assert all(re.fullmatch(r"(amp|lt|gt);.*", tail) for line in lines for tail in line.split("&")[1:])


def test_ass_is_read_by_ffmpeg() -> None:
    read = by_ffmpeg(ass(CUES), "ass")
    # ReadOrder, Layer, Style, Name, three margins, Effect, Text
    texts = [visible(text.split(",", 8)[8]).replace(r"\N", "\n") for *_, text in read]
    assert texts[0] == "Hello,\nworld"
    assert [row[:2] for row in read] == [row[:2] for row in expected()]


def test_ass_shows_all_text_in_pysubs2() -> None:
    """pysubs2 reads no time beyond ten hours, so only the text is compared."""
    read = by_pysubs2(ass(CUES[:5]), "ass")
    assert read == expected(CUES[:5])


def test_ttml_is_read_by_an_xml_parser_and_by_pysubs2() -> None:
    text = ttml(CUES, "zh")
    assert by_element_tree(text) == expected()
    assert ET.fromstring(text.encode()).attrib["{http://www.w3.org/XML/1998/namespace}lang"] == "zh"  # noqa: S314
    plain = tuple(Cue(1000 * n, 1000 * n + 900, (f"line {n}", "<&>")) for n in range(3))
    assert by_pysubs2(ttml(plain, None), "ttml") == expected(plain)


def test_tsv_is_read_by_csv() -> None:
    reader = csv.DictReader(io.StringIO(tsv(CUES)), delimiter="\t", quoting=csv.QUOTE_NONE)
    read = [(int(row["start"]), int(row["end"]), row["text"]) for row in reader]
    assert read == [(cue.start_ms, cue.end_ms, one_line(cue.lines)) for cue in CUES]


def test_txt_has_a_line_for_each_cue() -> None:
    assert txt(CUES).splitlines() == [one_line(cue.lines) for cue in CUES]
    assert txt(CUES).startswith("Hello, world\n")


def test_lrc_is_read_by_ffmpeg() -> None:
    rows = by_ffmpeg(lrc(CUES), "lrc")
    starts = [(start, visible(text).removesuffix("\n")) for start, _, text in rows if text.strip()]
    assert starts == [(cue.start_ms, one_line(cue.lines)) for cue in CUES]
    ends = [start for start, _, text in rows if not text.strip()]
    gaps = [
        one.end_ms
        for one, two in zip(CUES, (*CUES[1:], None), strict=True)
        if two is None or one.end_ms < two.start_ms
    ]
    assert ends == gaps


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (("Hello,", "world"), "Hello, world"),
        (("你好，", "世界"), "你好，世界"),
        (("我用", "Python"), "我用Python"),
        (("안녕", "하세요"), "안녕 하세요"),
        (("one",), "one"),
    ],
)
def test_lines_are_joined_as_their_script_is_written(lines: tuple[str, ...], text: str) -> None:
    assert one_line(lines) == text


WRITERS: dict[str, Callable[[tuple[Cue, ...]], str]] = {
    "srt": srt,
    "vtt": vtt,
    "ass": ass,
    "ttml": lambda cues: ttml(cues, "en"),
    "txt": txt,
    "tsv": tsv,
    "lrc": lrc,
}


@pytest.mark.parametrize("form", WRITERS)
def test_cues_without_visible_text_are_omitted(form: str) -> None:
    """A blank cue ends a block early in SRT and WebVTT."""
    blank = (Cue(0, 1, ("a",)), Cue(2, 3, (" ", "\n")), Cue(4, 5, ()), Cue(6, 7, ("b", "", "c")))
    assert WRITERS[form](blank) == WRITERS[form]((blank[0], Cue(6, 7, ("b", "c"))))


@pytest.mark.parametrize("form", WRITERS)
def test_file_without_cues_is_readable(form: str) -> None:
    text = WRITERS[form](())
    match form:
        case "ttml":
            assert by_element_tree(text) == []
        case "vtt" | "ass":
            assert by_ffmpeg(text, form) == []
        case "tsv":
            assert text == "start\tend\ttext\n"
        case _:
            assert text == ""


@given(
    st.lists(
        st.builds(
            MediaPhrase,
            st.text(alphabet="ab<>&;-{}[]\\/Nhi0:., \n中\u2028") | st.text(max_size=50),
            st.integers(0, 30_000_000),
            st.integers(0, 30_000_000),
        ),
        max_size=5,
    )
)
def test_any_text_is_read_back_in_every_format(phrases: list[MediaPhrase]) -> None:
    cues = layout(phrases)
    whole = Transcript(source="a", duration_ms=1, task="transcribe", model="m", cues=cues)
    texts = {form: render(form, whole).decode() for form in FORMATS}
    rows = [
        (cue.start_ms, cue.end_ms, visible("\n".join(cue.lines)).encode("utf-8", "replace").decode())
        for cue in cues
    ]
    assert [(a, b, unescaped(visible(c))) for a, b, c in blocks_of(texts["vtt"])] == rows
    xml = [(a, b, re.sub("[\0-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "\ufffd", c)) for a, b, c in rows]
    assert [(a, b, visible(c)) for a, b, c in by_element_tree(texts["ttml"])] == xml
    assert len(texts["ass"].split("\nDialogue: ")) == len(rows) + 1
    assert texts["txt"].count("\n") == len(rows)
    assert texts["tsv"].count("\n") == len(rows) + 1
    assert all(line.count("\t") == 2 for line in texts["tsv"].split("\n")[:-1])


def blocks_of(text: str) -> Read:
    """Read WebVTT by its grammar."""
    head, *blocks = text.removesuffix("\n").split("\n\n")
    assert head == "WEBVTT"
    rows = []
    for block in blocks:
        times, *lines = block.split("\n")
        start_ms, end_ms = map(milliseconds, times.split(" --> "))
        rows.append((start_ms, end_ms, "\n".join(lines)))
    return rows


# Karaoke

WORDS = (Word(" Hello,", 100, 500, 0.9), Word(" wide", 700, 900, 0.9), Word(" world.", 900, 1500, 0.9))


def test_karaoke_colours_each_word_while_it_is_spoken() -> None:
    text = ass([Cue(0, 2000, ("Hello, wide", "world."))], WORDS)
    assert text.endswith(r",Karaoke,,0,0,0,,{\k10}{\k60}Hello,{\k20} wide{\k110}\Nworld." + "\n")


def test_cue_that_the_words_do_not_spell_has_no_karaoke() -> None:
    cues = [
        Cue(0, 50, ("Oh.",)),
        Cue(100, 900, ("Hello, wide",)),
        Cue(900, 2000, ("wor",)),
        Cue(2000, 3000, ("ld.",)),
    ]
    styles = re.findall(r"^Dialogue: 0,[^,]+,[^,]+,(\w+),", ass(cues, WORDS), re.MULTILINE)
    assert styles == ["Default", "Karaoke", "Default", "Default"]


def test_karaoke_shows_the_same_text() -> None:
    phrases = [MediaPhrase("Hello, wide world.", 100, 1500, WORDS), MediaPhrase("再见", 2000, 3000)]
    segment = SegmentTranscript(index=0, pieces=(), spans=(), device="cpu0", phrases=tuple(phrases))
    whole = Transcript(
        source="a", duration_ms=1, task="transcribe", model="m", segments=(segment,), cues=layout(phrases)
    )
    plain, sung = (render("ass", whole, RenderOptions(karaoke=karaoke)).decode() for karaoke in (False, True))
    assert sung != plain
    assert by_pysubs2(sung, "ass") == by_pysubs2(plain, "ass")


def test_inbox_accepts_every_format() -> None:
    every: tuple[Format, ...] = FORMATS
    assert InboxConfig(formats=every).formats == ("srt", "vtt", "ass", "ttml", "txt", "tsv", "lrc", "json")
