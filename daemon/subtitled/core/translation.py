"""The data of translations: sentences of a source, requests to a translation model, and its results."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

SentenceText = Annotated[str, Meta(max_length=10_000)]
LanguageTag = Annotated[str, Meta(min_length=2, max_length=35)]
"""A BCP 47 tag: "ja", "zh-TW", "pt-BR"."""


class Sentence(Struct, frozen=True, kw_only=True):
    """One sentence of a transcript, put together from phrases, or of a subtitle file, put together from cues."""

    index: int
    """Its number in the source, from 0."""
    text: SentenceText
    """Without line breaks, without the dash of a change of speaker, `prefix` and `suffix`."""
    language: str = ""
    """Whisper's code of the language spoken; "" if unknown."""
    start_ms: int
    """Media time."""
    end_ms: int
    spoken: tuple[tuple[int, int], ...] = ()
    """The runs of speech in it, start and end in ms of media time, with pauses between them; () for one run."""
    is_speaker_change: bool = False
    """It began with a speaker's dash, which its translation gets too."""
    prefix: str = ""
    """A mark around the text, for example "[" or "♪ ", that is not translated."""
    suffix: str = ""
    channel: str = ""
    """Channel of its segment or cue."""


class TranslationRequest(Struct, frozen=True, kw_only=True):
    """Sentences to be translated at once, with the sentences before and after them as context."""

    source: LanguageTag
    target: LanguageTag
    sentences: Annotated[tuple[SentenceText, ...], Meta(min_length=1, max_length=100)]
    before: Annotated[tuple[SentenceText, ...], Meta(max_length=20)] = ()
    """Context, in the source language; not to be translated."""
    after: Annotated[tuple[SentenceText, ...], Meta(max_length=20)] = ()
    glossary: Annotated[tuple[tuple[str, str], ...], Meta(max_length=1000)] = ()
    """The terms of the glossary that occur in `sentences`, each with its translation."""


class SentenceTranslation(Struct, frozen=True, kw_only=True):
    """The result for one sentence."""

    text: SentenceText
    """The translation; the original if there is a `problem`."""
    problem: Annotated[str, Meta(max_length=500)] = ""
    """Why the sentence is not translated; "" if it is."""
    warning: Annotated[str, Meta(max_length=500)] = ""
    """What to check in a translation that is used: a number or a term of the glossary that it lacks."""

    @classmethod
    def untranslated(cls, sentence: str, problem: str) -> SentenceTranslation:
        """Return the result for a sentence that stays in the original; a long `problem` is cut."""
        return cls(text=sentence, problem=problem[:500])
