"""Chinese text as its readers write it: in Taiwan, in Hong Kong, on the mainland."""

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
"""Whisper's codes of the languages that are written in Chinese characters alone."""


_CONVERSIONS = {"tw": "s2twp", "hk": "s2hk", "cn": "tw2sp"}
"""OpenCC's own: with words of the region (滑鼠, 鼠标), not characters alone; a text that is so already stays."""


def is_installed() -> bool:
    """Say whether the package is there that converts."""
    return find_spec("opencc") is not None


def in_variant(transcript: Transcript, variant: str) -> Transcript:
    """Return `transcript` with the Chinese in its phrases as it is written in a `Variant`; its cues are as they were.

    Other languages are left alone (Japanese has characters of its own), and so is a translation. The package must
    be installed, unless the variant is "off".
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
    """Return `phrases`, their words too, as they are written in one of `Variant`; "off" leaves them as they are.

    A word keeps its times; its share of the text is where the same characters went. The package must be installed.
    """
    if variant == "off":
        return tuple(phrases)
    return tuple(
        replace(phrase, text=_converted(phrase.text, variant), words=_words(phrase.words, variant))
        for phrase in phrases
    )


def _words(words: tuple[Word, ...], variant: str) -> tuple[Word, ...]:
    """Return `words` with the text that all of them together become: 内存 is three characters in Taiwan."""
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
    """Return OpenCC's converter; it is made once, which takes a tenth of a second, and serves any thread."""
    from opencc import OpenCC

    return OpenCC(name)
