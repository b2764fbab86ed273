"""A transcript in the shapes that Whisper's own programs and OpenAI's interface give it."""

from __future__ import annotations

from typing import Any

from subtitled.core.transcription import Word
from subtitled.cues.phrases import MediaPhrase
from subtitled.cues.transcript import Transcript
from subtitled.languages import name_of

_UNSPACED = frozenset({"zh", "yue", "ja", "th", "lo", "my", "km", "bo"})


def text_of(transcript: Transcript) -> str:
    """Return all that was said, as one text."""
    between = "" if transcript.output_language in _UNSPACED else " "
    return between.join(phrase.text.strip() for phrase in phrases_of(transcript))


def phrases_of(transcript: Transcript) -> list[MediaPhrase]:
    """Return the phrases in their order."""
    found = [phrase for segment in transcript.segments for phrase in segment.phrases]
    return sorted(found, key=lambda phrase: phrase.start_ms)


def verbose(transcript: Transcript, *, has_segments: bool, has_words: bool) -> dict[str, Any]:
    """Return OpenAI's `verbose_json` (its API reference, "The transcription object (Verbose JSON)")."""
    phrases = phrases_of(transcript)
    whole: dict[str, Any] = {
        "task": transcript.task,
        "language": name_of(transcript.output_language),
        "duration": _s(transcript.duration_ms),
        "text": text_of(transcript),
        "usage": usage(transcript),
    }
    if has_segments:
        whole["segments"] = [_segment(number, phrase) for number, phrase in enumerate(phrases)]
    if has_words:
        whole["words"] = [_word(word) for phrase in phrases for word in phrase.words]
    return whole


def usage(transcript: Transcript) -> dict[str, Any]:
    """Return what OpenAI's interface counts."""
    return {"type": "duration", "seconds": -(-transcript.duration_ms // 1000)}


def whisper(transcript: Transcript, *, has_words: bool) -> dict[str, Any]:
    """Return what Whisper's `transcribe` returns, and whisper-asr-webservice as JSON."""
    segments = []
    for number, phrase in enumerate(phrases_of(transcript)):
        segment = _segment(number, phrase)
        if has_words:
            segment["words"] = [{**_word(word), "probability": word.probability} for word in phrase.words]
        segments.append(segment)
    return {"text": text_of(transcript), "segments": segments, "language": transcript.output_language}


def _segment(number: int, phrase: MediaPhrase) -> dict[str, Any]:
    """Return a phrase as Whisper's segment; which tokens it was made of is not kept."""
    return {
        "id": number,
        "seek": phrase.start_ms // 10,
        "start": _s(phrase.start_ms),
        "end": _s(phrase.end_ms),
        "text": phrase.text,
        "tokens": [],
        "temperature": phrase.temperature,
        "avg_logprob": phrase.avg_logprob,
        "compression_ratio": phrase.compression_ratio,
        "no_speech_prob": phrase.no_speech_prob,
    }


def _word(word: Word) -> dict[str, Any]:
    return {"word": word.text.strip(), "start": _s(word.start_ms), "end": _s(word.end_ms)}


def _s(time_ms: int) -> float:
    return time_ms / 1000
