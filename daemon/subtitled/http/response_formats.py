"""Responses in JSON, transcripts in the structures of Whisper and OpenAI, and media types of subtitle formats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct
from starlette.responses import Response

from subtitled.core.transcription import Word
from subtitled.cues.phrases import MediaPhrase
from subtitled.cues.transcript import Transcript
from subtitled.languages import name_of

UNDETERMINED = "und"
"""Language code (ISO 639-2) of a file without speech."""
UNDETERMINED_NAME = "undetermined"
_UNSPACED = frozenset({"zh", "yue", "ja", "th", "lo", "my", "km", "bo"})
_MEDIA_TYPES = {
    "srt": "application/x-subrip",
    "vtt": "text/vtt",
    "ttml": "application/ttml+xml",
    "json": "application/json",
}


def json_response(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response with a value in JSON."""
    return Response(msgspec.json.encode(value), status, headers, "application/json")


def payload(message: Struct) -> dict[str, Any]:
    """Return a message of the client protocol without its protocol fields."""
    fields: dict[str, Any] = msgspec.to_builtins(message)
    return {name: value for name, value in fields.items() if name not in {"type", "request"}}


def media_type_of(form: str) -> str:
    """Return the media type of a subtitle format."""
    return _MEDIA_TYPES.get(form, "text/plain")


def text_of(transcript: Transcript) -> str:
    """Return the whole text in one line."""
    return separator_of(transcript).join(phrase.text.strip() for phrase in phrases_of(transcript))


def separator_of(transcript: Transcript) -> str:
    """Return what separates two phrases: a space, or nothing in languages without spaces."""
    return "" if transcript.output_language in _UNSPACED else " "


def phrases_of(transcript: Transcript, segment: int | None = None) -> list[MediaPhrase]:
    """Return all phrases in order, or those of one segment."""
    phrases = [
        phrase
        for found in transcript.segments
        if segment is None or found.index == segment
        for phrase in found.phrases
    ]
    return sorted(phrases, key=lambda phrase: phrase.start_ms)


def openai_verbose_json(transcript: Transcript, *, has_segments: bool, has_words: bool) -> dict[str, Any]:
    """Return OpenAI's `verbose_json` (API reference, "The transcription object (Verbose JSON)")."""
    phrases = phrases_of(transcript)
    result: dict[str, Any] = {
        "task": transcript.task,
        "language": name_of(transcript.output_language) or UNDETERMINED_NAME,
        "duration": _seconds(transcript.duration_ms),
        "text": text_of(transcript),
        "usage": openai_usage(transcript),
    }
    if has_segments:
        result["segments"] = [_segment(number, phrase) for number, phrase in enumerate(phrases)]
    if has_words:
        result["words"] = [_word(word) for phrase in phrases for word in phrase.words]
    return result


def openai_usage(transcript: Transcript) -> dict[str, Any]:
    """Return the `usage` object of OpenAI's responses."""
    return {"type": "duration", "seconds": -(-transcript.duration_ms // 1000)}


def whisper_json(transcript: Transcript, *, has_words: bool) -> dict[str, Any]:
    """Return the result of Whisper's `transcribe`, which is also whisper-asr-webservice's JSON output."""
    segments = []
    for number, phrase in enumerate(phrases_of(transcript)):
        segment = _segment(number, phrase)
        if has_words:
            segment["words"] = [{**_word(word), "probability": word.probability} for word in phrase.words]
        segments.append(segment)
    language = transcript.output_language or UNDETERMINED
    return {"text": text_of(transcript), "segments": segments, "language": language}


def _segment(number: int, phrase: MediaPhrase) -> dict[str, Any]:
    """Return a phrase as a Whisper segment, without its tokens, which are not stored."""
    return {
        "id": number,
        "seek": phrase.start_ms // 10,
        "start": _seconds(phrase.start_ms),
        "end": _seconds(phrase.end_ms),
        "text": phrase.text,
        "tokens": [],
        "temperature": phrase.temperature,
        "avg_logprob": phrase.avg_logprob,
        "compression_ratio": phrase.compression_ratio,
        "no_speech_prob": phrase.no_speech_prob,
    }


def _word(word: Word) -> dict[str, Any]:
    return {"word": word.text.strip(), "start": _seconds(word.start_ms), "end": _seconds(word.end_ms)}


def _seconds(time_ms: int) -> float:
    return time_ms / 1000
