"""Subtitle files from transcripts."""

from __future__ import annotations

from typing import Literal, assert_never

import msgspec
from msgspec import Struct

from subtitled.config.schema import Format
from subtitled.core.transcription import Word
from subtitled.cues.ass import ass
from subtitled.cues.text_formats import lrc, srt, tsv, ttml, txt, vtt
from subtitled.cues.transcript import Transcript

_BOM = b"\xef\xbb\xbf"


class RenderOptions(Struct, frozen=True, kw_only=True):
    """Encoding details of a file; JSON has neither BOM nor CRLF (RFC 8259, 8.1)."""

    bom: bool = False
    """Begin with a byte order mark, by which old Windows players recognise UTF-8."""
    newline: Literal["lf", "crlf"] = "lf"
    karaoke: bool = False
    """ASS: colour each word when it is spoken, if words have times."""


PLAIN = RenderOptions()


def render(output_format: Format, transcript: Transcript, options: RenderOptions = PLAIN) -> bytes:
    """Return the content of the file in UTF-8; a lone surrogate becomes "?"."""
    if output_format == "json":
        return _json(transcript)
    text = _text(output_format, transcript, options)
    if options.newline == "crlf":
        text = text.replace("\n", "\r\n")
    return (_BOM if options.bom else b"") + text.encode("utf-8", "replace")


def _text(
    output_format: Literal["srt", "vtt", "ass", "ttml", "txt", "tsv", "lrc"],
    transcript: Transcript,
    options: RenderOptions,
) -> str:
    cues = transcript.cues
    match output_format:
        case "srt":
            return srt(cues)
        case "vtt":
            return vtt(cues)
        case "ass":
            return ass(cues, _words(transcript) if options.karaoke else ())
        case "ttml":
            return ttml(cues, transcript.output_language)
        case "txt":
            return txt(cues)
        case "tsv":
            return tsv(cues)
        case "lrc":
            return lrc(cues)
        case _:
            assert_never(output_format)


def _words(transcript: Transcript) -> tuple[Word, ...]:
    """Return all timed words, in the order of the cues."""
    phrases = (phrase for segment in transcript.segments for phrase in segment.phrases)
    ordered = sorted(phrases, key=lambda phrase: phrase.start_ms)
    return tuple(word for phrase in ordered for word in phrase.words)


def read_json(data: bytes) -> Transcript:
    """Return the transcript that `render("json", …)` wrote; raises msgspec.DecodeError on anything else."""
    return msgspec.json.decode(data, type=Transcript)


def _json(transcript: Transcript) -> bytes:
    try:
        data = msgspec.json.encode(transcript)
    except UnicodeEncodeError:
        # A file name may contain bytes that are not UTF-8, which JSON cannot represent.
        plain = msgspec.to_builtins(transcript)
        data = msgspec.json.encode(_encodable(plain))
    return msgspec.json.format(data, indent=2) + b"\n"


def _encodable(value: object) -> object:
    """Return `value` with each lone surrogate replaced by "?"."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case dict():
            return {key: _encodable(item) for key, item in value.items()}
        case list() | tuple():
            return [_encodable(item) for item in value]
        case _:
            return value
