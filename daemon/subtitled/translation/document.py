"""The transcript in another language, as its files and its JSON contain it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from subtitle.messages import LayoutOptions
from subtitled.config.layout_limits import PROFILE_LIMITS, LayoutLimits, limits_for
from subtitled.core.actions import StoredTranslation
from subtitled.core.translation import Sentence, SentenceTranslation
from subtitled.cues.chinese import convert_text
from subtitled.cues.layout import fast_cues
from subtitled.cues.transcript import SentenceRecord, Transcript, TranscriptTranslation
from subtitled.languages import chinese_of, code_of
from subtitled.translation.layout import TranslatedSentence, bilingual_cues, translated_cues
from subtitled.translation.requests import needs_translation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NOT_TRANSLATED = "it was not translated"


def with_translation(
    transcript: Transcript,
    sentences: Sequence[Sentence],
    stored: Mapping[int, StoredTranslation],
    target: str,
    *,
    layout: LayoutOptions = PROFILE_LIMITS,
    is_bilingual: bool = False,
) -> Transcript:
    """Return `transcript` in the language `target`, with cues laid out by its rules.

    `sentences` are those of the transcript, `stored` their translations by index. A sentence without one is shown in the original.
    The phrases of the original are left out. Raises ValueError if `layout` contains limits that cannot be kept.
    """
    found = [_translated(one, stored.get(one.index), target, transcript.language or "") for one in sentences]

    def limits(language: str | None) -> LayoutLimits:
        return limits_for(language, layout)

    until_ms = transcript.offset_ms + transcript.duration_ms or None
    cues = (bilingual_cues if is_bilingual else translated_cues)(found, limits, until_ms=until_ms)
    return replace(
        transcript,
        segments=(),
        translation=TranscriptTranslation(
            target=target,
            untranslated=sum(bool(one.translation.problem) for one in found),
            is_bilingual=is_bilingual,
            sentences=tuple(_record(one, stored.get(one.sentence.index)) for one in found),
        ),
        limits=limits(target),
        cues=cues,
        fast_cues=fast_cues(cues, limits(target), target),
    )


def _translated(
    sentence: Sentence, stored: StoredTranslation | None, target: str, language: str
) -> TranslatedSentence:
    own = sentence.language or language
    if not needs_translation(sentence, target, language=language):
        is_chinese = code_of(own) == code_of(target) and code_of(target) in {"zh", "yue"}
        text = convert_text(sentence.text, chinese_of(target)) if is_chinese else sentence.text
        result, shown = SentenceTranslation(text=text), target
    elif stored is None or stored.problem:
        problem = stored.problem if stored is not None else NOT_TRANSLATED
        result, shown = SentenceTranslation(text=sentence.text, problem=problem), own
    else:
        result, shown = SentenceTranslation(text=stored.text, warning=stored.warning), target
    return TranslatedSentence(sentence=sentence, translation=result, language=shown or None)


def _record(one: TranslatedSentence, stored: StoredTranslation | None) -> SentenceRecord:
    sentence = one.sentence
    return SentenceRecord(
        start_ms=sentence.start_ms,
        end_ms=sentence.end_ms,
        source=one.source,
        text=one.text,
        language=sentence.language,
        problem=one.translation.problem,
        warning=one.translation.warning,
        model=stored.model if stored else "",
        engine=stored.engine if stored else "",
        version=stored.version if stored else "",
        channel=sentence.channel,
    )
