"""Requests to a translation model: batches of sentences with context."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING

from msgspec import Struct

from subtitled.core.translation import TranslationRequest
from subtitled.languages import code_of
from subtitled.translation.glossary import terms_in
from subtitled.translation.sentences import is_translatable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from subtitled.core.translation import Sentence

MAX_SENTENCES = 16
MAX_CHARS = 2000
"""Maximum length of the sentences of one request."""
CONTEXT_SENTENCES = 3
"""Before and after a request's sentences."""
_CONTEXT_CHARS = 600
_PAUSE_MS = 10_000
"""A request preferably ends at a pause of this length: another scene begins."""


class PlannedRequest(Struct, frozen=True, kw_only=True):
    """A request, with the numbers of its sentences in their source."""

    indices: tuple[int, ...]
    request: TranslationRequest


def plan_requests(
    sentences: Sequence[Sentence],
    target: str,
    *,
    language: str,
    glossary: Sequence[tuple[str, str]] = (),
    known: Collection[int] = (),
) -> tuple[PlannedRequest, ...]:
    """Return the requests that translate `sentences` into `target`, in order of time.

    `language` is the source language of sentences that name none. Sentences without letters and those in the target's language need
    no request, nor do those in `known`, whose translations exist already. A request has sentences of one source language, up to
    `MAX_SENTENCES` and `MAX_CHARS`.
    """
    wanted = [
        at
        for at, sentence in enumerate(sentences)
        if sentence.index not in known and needs_translation(sentence, target, language=language)
    ]
    return tuple(
        PlannedRequest(
            indices=tuple(sentences[at].index for at in batch),
            request=_request(sentences, batch, target, sentences[batch[0]].language or language, glossary),
        )
        for batch in _batches(sentences, wanted)
    )


def needs_translation(sentence: Sentence, target: str, *, language: str) -> bool:
    """Return whether a sentence has letters and is in another language than `target`."""
    source = code_of(sentence.language or language)
    return is_translatable(sentence.text) and (source is None or source != code_of(target))


def sentence_keys(sentences: Sequence[Sentence], target: str) -> tuple[str, ...]:
    """Return a key for each sentence, by which its translation is found again after an edit of other sentences.

    It is made of the text, the target, and the number of equal texts before it: the neighbours may change without a new
    translation, and a translation by another model or glossary replaces the earlier one.
    """
    counts: Counter[tuple[str, str]] = Counter()
    keys: list[str] = []
    for sentence in sentences:
        source = (sentence.language, sentence.text)
        parts = (target, *source, str(counts[source]))
        digest = hashlib.sha256("\x00".join(parts).encode("utf-8", "replace"))
        keys.append(digest.hexdigest()[:32])
        counts[source] += 1
    return tuple(keys)


def sentence_terms(sentences: Sequence[Sentence], glossary: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Return the terms of the glossary in each sentence, with their translations, as one text."""
    if not glossary:
        return ("",) * len(sentences)
    found = (terms_in(glossary, (sentence.text,)) for sentence in sentences)
    return tuple("; ".join(f"{term} = {translation}" for term, translation in terms) for terms in found)


def _batches(sentences: Sequence[Sentence], wanted: Sequence[int]) -> Iterator[list[int]]:
    batch: list[int] = []
    chars = 0
    for at in wanted:
        sentence = sentences[at]
        if batch:
            last = sentences[batch[-1]]
            is_full = len(batch) >= MAX_SENTENCES or chars + len(sentence.text) > MAX_CHARS
            is_scene = len(batch) >= MAX_SENTENCES // 2 and sentence.start_ms - last.end_ms >= _PAUSE_MS
            if is_full or is_scene or sentence.language != last.language:
                yield batch
                batch, chars = [], 0
        batch.append(at)
        chars += len(sentence.text)
    if batch:
        yield batch


def _request(
    sentences: Sequence[Sentence],
    batch: Sequence[int],
    target: str,
    source: str,
    glossary: Sequence[tuple[str, str]],
) -> TranslationRequest:
    texts = tuple(sentences[at].text for at in batch)
    before = [sentence.text for sentence in sentences[max(0, batch[0] - CONTEXT_SENTENCES) : batch[0]]]
    after = [sentence.text for sentence in sentences[batch[-1] + 1 :][:CONTEXT_SENTENCES]]
    return TranslationRequest(
        source=source,
        target=target,
        sentences=texts,
        before=tuple(reversed(_limited(list(reversed(before))))),
        after=tuple(_limited(after)),
        glossary=terms_in(glossary, texts),
    )


def _limited(texts: Sequence[str]) -> list[str]:
    """Return the first of `texts`, up to the limit of context."""
    kept: list[str] = []
    chars = 0
    for text in texts:
        chars += len(text)
        if chars > _CONTEXT_CHARS:
            break
        kept.append(text)
    return kept
