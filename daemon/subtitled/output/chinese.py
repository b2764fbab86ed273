"""Chinese text in the forms of Taiwan, Hong Kong or the mainland."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from subtitled.core.transcription import Word
    from subtitled.cues.phrases import MediaPhrase
    from subtitled.cues.transcript import Transcript

LANGUAGES = frozenset({"zh", "yue"})
"""Whisper's codes of the languages written in Chinese characters alone."""


_CONVERSIONS = {"tw": "s2twp", "hk": "s2hk", "cn": "tw2sp"}
"""OpenCC's own: with words of the region (滑鼠, 鼠标), not characters alone; a text that is so already stays."""


def is_installed() -> bool:
    """Return whether the OpenCC package is installed."""
    return find_spec("opencc") is not None


def in_variant(transcript: Transcript, variant: str) -> Transcript:
    """Return `transcript` with the Chinese of its phrases in a `Variant`; its cues stay as they are.

    Other languages (Japanese has its own characters) and translations are unchanged. OpenCC must be installed, unless the variant
    is "off".
    """
    if variant == "off" or transcript.task == "translate":
        return transcript
    segments = tuple(
        replace(segment, phrases=convert(segment.phrases, variant))
        if segment.language in LANGUAGES
        else segment
        for segment in transcript.segments
    )
    return replace(transcript, segments=segments, chinese=variant)


def convert(phrases: Iterable[MediaPhrase], variant: str) -> tuple[MediaPhrase, ...]:
    """Return `phrases`, with their words, in a `Variant`; "off" changes nothing. OpenCC must be installed.

    A word keeps its times, and gets its share of the converted text.
    """
    if variant == "off":
        return tuple(phrases)
    return tuple(
        replace(phrase, text=_converted(phrase.text, variant), words=_words(phrase.words, variant))
        for phrase in phrases
    )


def _words(words: tuple[Word, ...], variant: str) -> tuple[Word, ...]:
    """Return `words` with their shares of the converted text: 内存 is three characters in Taiwan."""
    text = "".join(word.text for word in words)
    whole = _converted(text, variant)
    ends = accumulate(len(word.text) for word in words)
    if len(whole) != len(text):
        ends = accumulate((len(_converted(text[:end], variant)) for end in ends), max)
    bounds = [0, *(min(end, len(whole)) for end in ends)]
    if words:
        bounds[-1] = len(whole)
    return tuple(
        replace(word, text=whole[start:end])
        for word, (start, end) in zip(words, pairwise(bounds), strict=True)
    )


def _converted(text: str, variant: str) -> str:
    found: str = _converter(_CONVERSIONS[variant]).convert(text)
    return found


@lru_cache
def _converter(name: str) -> Any:
    """Return OpenCC's converter, which takes 0.1 s to load; thread-safe."""
    from opencc import OpenCC

    return OpenCC(name)
