"""Transcripts to the bytes of subtitle files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, assert_never, get_args

import msgspec

from subtitled.cues.transcript import Transcript

if TYPE_CHECKING:
    from collections.abc import Iterable

    from subtitled.cues.layout import Cue

Format = Literal["srt", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)

_WORD_JOINER = "\u2060"
_ARROW = re.compile(r"-{2,}>")
_MARKUP = re.compile(r"<(?=\s*/?\s*[A-Za-z])|\{(?=\s*\\)|(?<=\d):(?=\d+:\d+[.,]\d)")


def render(output_format: Format, transcript: Transcript) -> bytes:
    r"""Return the file's content: UTF-8, lines ended by "\n"; a character that UTF-8 lacks becomes "?"."""
    match output_format:
        case "srt":
            return srt(transcript.cues).encode("utf-8", "replace")
        case "json":
            return _json(transcript)
        case _:
            assert_never(output_format)


def srt(cues: Iterable[Cue]) -> str:
    r"""Return `cues` as SubRip text; "" where there are none.

    Players take `<i>` and `{\an8}` for markup, parsers an arrow or two times for a line of times: in a cue's
    text an invisible word joiner (U+2060) disarms tags and times, and an arrow of hyphens becomes U+2192.
    """
    # Written here because pysubs2 1.8 stops at 99:59:59,999, and loses `\N`, `\h` and a cue with `{\p1}`.
    return "\n".join(
        f"{number}\n{timestamp(cue.start_ms)} --> {timestamp(cue.end_ms)}\n{_verbatim(cue.lines)}\n"
        for number, cue in enumerate(cues, 1)
    )


def timestamp(time_ms: int) -> str:
    """Return `time_ms` (0 or more) as SubRip writes it, HH:MM:SS,mmm, to the millisecond."""
    seconds, ms = divmod(time_ms, 1000)
    minutes, s = divmod(seconds, 60)
    h, m = divmod(minutes, 60)
    return f"{h:02d}:{m:02d}:{s:02d},{ms:03d}"


def read_json(data: bytes) -> Transcript:
    """Return the transcript that `render("json", …)` wrote; raises msgspec.DecodeError on anything else."""
    return msgspec.json.decode(data, type=Transcript)


def _verbatim(lines: tuple[str, ...]) -> str:
    """Return a cue's lines so that players show what they say; without blank lines, which end a cue."""
    shown = (" ".join(line.split()) for line in lines)
    text = "\n".join(line for line in shown if line)
    return _MARKUP.sub(lambda found: found[0] + _WORD_JOINER, _ARROW.sub("\u2192", text))


def _json(transcript: Transcript) -> bytes:
    try:
        data = msgspec.json.encode(transcript)
    except UnicodeEncodeError:
        # A file's name may hold bytes that are no UTF-8; JSON cannot say them.
        plain = msgspec.to_builtins(transcript)
        data = msgspec.json.encode(_encodable(plain))
    return msgspec.json.format(data, indent=2) + b"\n"


def _encodable(value: object) -> object:
    """Return `value` with each character that UTF-8 lacks replaced by "?"."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case dict():
            return {key: _encodable(item) for key, item in value.items()}
        case list() | tuple():
            return [_encodable(item) for item in value]
        case _:
            return value
