"""Cues as SubRip, WebVTT, TTML, TXT, TSV and LRC."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from subtitled.cues.text import is_unspaced, may_break_between

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from subtitled.cues.layout import Cue

WORD_JOINER = "\u2060"
"""Invisible, and allows no line break: placed inside what a parser takes for markup, it makes the text plain."""

_SRT_ARROW = re.compile(r"-{2,}>")
_SRT_MARKUP = re.compile(r"<(?=\s*/?\s*[A-Za-z])|\{(?=\s*\\)|(?<=\d):(?=\d+:\d+[.,]\d)")
_LRC_TAG = re.compile(r"[\[<](?=[^\[\]<>]*:[^\[\]<>]*[\]>])")
"""What players take for a time or a tag: `[00:12.00]`, `[ar:Name]`, `<00:12.00>`."""
_XML_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"})
_VTT_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
"""WebVTT, section 4.2.2, cue text: `>` is escaped too, so that no text contains an arrow."""
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot contain (section 2.2)."""
_TTML_HEAD = """\
<?xml version="1.0" encoding="UTF-8"?>
<tt xmlns="http://www.w3.org/ns/ttml" xmlns:tts="http://www.w3.org/ns/ttml#styling" \
xmlns:ttp="http://www.w3.org/ns/ttml#parameter" \
ttp:contentProfiles="http://www.w3.org/ns/ttml/profile/imsc1.1/text" \
ttp:timeBase="media" xml:space="preserve" xml:lang="{language}">
<head>
<styling>
<style xml:id="s" tts:fontFamily="proportionalSansSerif" tts:fontSize="100%" tts:lineHeight="125%" \
tts:color="#ffffff" tts:textAlign="center" tts:textOutline="#000000 5%"/>
</styling>
<layout>
<region xml:id="r" tts:origin="10% 10%" tts:extent="80% 80%" tts:displayAlign="after"/>
</layout>
</head>
<body style="s" region="r"><div>
"""
_TTML_FOOT = "</div></body>\n</tt>\n"


def visible_cues(cues: Iterable[Cue]) -> Iterator[tuple[Cue, tuple[str, ...]]]:
    """Yield each cue that has visible text with its lines: single spaces, no blank line."""
    for cue in cues:
        lines = tuple(text for line in cue.lines if (text := " ".join(line.split())))
        if lines:
            yield cue, lines


def one_line(lines: Iterable[str]) -> str:
    """Return `lines` joined: by a space, or by nothing where the script has no spaces."""
    joined = ""
    for line in lines:
        joined += f" {line}" if joined and not _joins_without_space(joined[-1], line[:1]) else line
    return joined


def clock(time_ms: int, decimal: str) -> str:
    """Return `time_ms` (0 or more) as HH:MM:SS with milliseconds after `decimal`; hours have two digits or more."""
    seconds, ms = divmod(time_ms, 1000)
    minutes, s = divmod(seconds, 60)
    h, m = divmod(minutes, 60)
    return f"{h:02d}:{m:02d}:{s:02d}{decimal}{ms:03d}"


def centiseconds(time_ms: int) -> int:
    """Return `time_ms` in hundredths of a second, rounded."""
    return (time_ms + 5) // 10


def srt(cues: Iterable[Cue]) -> str:
    r"""Return `cues` as SubRip text; "" if there are none.

    Players take `<i>` and `{\an8}` for markup, and parsers take an arrow or two times for a timing line: an invisible word
    joiner (U+2060) disarms tags and times in a cue's text, and an arrow of hyphens becomes U+2192.
    """
    return "\n".join(
        f"{number}\n{clock(cue.start_ms, ',')} --> {clock(cue.end_ms, ',')}\n{_srt_text(lines)}\n"
        for number, (cue, lines) in enumerate(visible_cues(cues), 1)
    )


def vtt(cues: Iterable[Cue]) -> str:
    """Return `cues` as WebVTT (W3C, WebVTT: The Web Video Text Tracks Format); the header alone if there are none."""
    blocks = [
        f"{clock(cue.start_ms, '.')} --> {clock(cue.end_ms, '.')}\n"
        + "\n".join(lines).translate(_VTT_ESCAPES)
        for cue, lines in visible_cues(cues)
    ]
    return "\n\n".join(["WEBVTT", *blocks]) + "\n"


def ttml(cues: Iterable[Cue], language: str | None) -> str:
    """Return `cues` as TTML 2 (W3C), within the IMSC 1.1 text profile.

    `language` is a code of ISO 639, None if unknown. A character that XML cannot contain becomes U+FFFD.
    """
    rows = (
        f'<p begin="{clock(cue.start_ms, ".")}" end="{clock(cue.end_ms, ".")}">'
        + "<br/>".join(map(_xml_text, lines))
        + "</p>\n"
        for cue, lines in visible_cues(cues)
    )
    return _TTML_HEAD.format(language=_xml_text(language or "")) + "".join(rows) + _TTML_FOOT


def txt(cues: Iterable[Cue]) -> str:
    """Return the text of `cues` without times, one cue a line."""
    return "".join(f"{one_line(lines)}\n" for _, lines in visible_cues(cues))


def tsv(cues: Iterable[Cue]) -> str:
    """Return `cues` as Whisper's TSV: a header, then start and end in milliseconds and the text."""
    rows = (f"{cue.start_ms}\t{cue.end_ms}\t{one_line(lines)}\n" for cue, lines in visible_cues(cues))
    return "start\tend\ttext\n" + "".join(rows)


def lrc(cues: Iterable[Cue]) -> str:
    """Return `cues` as LRC, to the hundredth of a second.

    The format has no end times: an empty line ends a cue unless the next cue follows at once. A text that looks like a tag
    is disarmed by an invisible word joiner (U+2060).
    """
    rows = [(cue, one_line(lines)) for cue, lines in visible_cues(cues)]
    starts = [centiseconds(cue.start_ms) for cue, _ in rows]
    out = ""
    for (cue, text), (start, following) in zip(rows, pairwise([*starts, None]), strict=True):
        out += f"[{_lrc_time(start or 0)}]{_LRC_TAG.sub(lambda found: found[0] + WORD_JOINER, text)}\n"
        end = centiseconds(cue.end_ms)
        if following is None or end < following:
            out += f"[{_lrc_time(end)}]\n"
    return out


def _joins_without_space(last: str, first: str) -> bool:
    """Return whether a line may end between the two in running text: Chinese and Japanese have no spaces."""
    return may_break_between(last, first) and (is_unspaced(last) or is_unspaced(first))


def _srt_text(lines: tuple[str, ...]) -> str:
    """Return a cue's lines, escaped so that players show them verbatim."""
    return _SRT_MARKUP.sub(lambda found: found[0] + WORD_JOINER, _SRT_ARROW.sub("\u2192", "\n".join(lines)))


def _xml_text(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text).translate(_XML_ESCAPES)


def _lrc_time(time_cs: int) -> str:
    """Return MM:SS.cc; minutes count beyond an hour."""
    minutes, rest = divmod(time_cs, 6000)
    return f"{minutes:02d}:{rest // 100:02d}.{rest % 100:02d}"
