"""Each letter of a cue is traced to its word, however the cues are laid out."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from subtitled.config.layout_limits import LayoutLimits
from subtitled.core.transcription import Word
from subtitled.cues.layout import layout
from subtitled.cues.phrases import MediaPhrase
from subtitled.cues.text import clean
from subtitled.cues.word_alignment import align_words

WORDS = (Word(" Hello", 0, 400, 0.98), Word(" there,", 450, 800, 0.9), Word(" friend.", 900, 1400, 0.4))
TIMED = MediaPhrase("Hello there, friend.", 0, 1500, WORDS, -0.1)


def test_joined_words_of_a_line_are_the_line() -> None:
    (cue,) = align_words(layout([TIMED], LayoutLimits(max_chars=14)), [TIMED])
    assert cue.lines == ("Hello there,", "friend.")
    assert [(word.line, word.text, word.start_ms, word.probability) for word in cue.words] == [
        (0, "Hello", 0, 0.98),
        (0, " there,", 450, 0.9),
        (1, "friend.", 900, 0.4),
    ]


def test_phrase_without_timed_words_has_one_entry_per_line() -> None:
    plain = MediaPhrase("All of this was spoken, and no word is timed.", 0, 4000, (), -0.2)
    (cue,) = align_words(layout([plain], LayoutLimits(max_chars=24)), [plain])
    assert len(cue.lines) == 2
    assert [(word.line, word.text) for word in cue.words] == list(enumerate(cue.lines))
    assert all((word.start_ms, word.end_ms, word.probability) == (None, None, None) for word in cue.words)
    assert cue.confidence == 0.819


def test_confidence_of_a_cue_is_that_of_its_phrases() -> None:
    sure, unsure = (
        MediaPhrase("Yes, of course.", 0, 1000, (), -0.01),
        MediaPhrase("Perhaps.", 9000, 9900, (), -2.0),
    )
    assert [cue.confidence for cue in align_words(layout([unsure, sure]), [unsure, sure])] == [0.99, 0.135]


def test_words_that_do_not_spell_their_phrase_are_ignored() -> None:
    odd = MediaPhrase("Hello there.", 0, 1000, (Word(" Hallo", 0, 400, 0.9), Word(" there.", 400, 900, 0.9)))
    (cue,) = align_words(layout([odd]), [odd])
    assert [word.probability for word in cue.words] == [None]


_TEXTS = st.text("ab,.中文。 -\u0301ก\x07", min_size=1, max_size=12)


@st.composite
def _phrases(draw: st.DrawFn) -> list[MediaPhrase]:
    phrases, at_ms = [], 0
    for parts in draw(st.lists(st.lists(_TEXTS, min_size=1, max_size=8), max_size=6)):
        words = tuple(
            Word(f" {part}", at_ms + 100 * number, at_ms + 100 * number + 90, 0.5)
            for number, part in enumerate(parts)
        )
        end_ms = at_ms + 100 * len(words)
        kept = words if draw(st.booleans()) else ()
        phrases.append(MediaPhrase("".join(word.text for word in words).strip(), at_ms, end_ms, kept))
        at_ms = end_ms + draw(st.sampled_from([0, 50, 3000]))
    return phrases


@example(
    phrases=[MediaPhrase("a  a", 0, 100, (Word(" a  a", 0, 90, 0.5),))], chars=40, lines=2, language="en"
)
@given(
    phrases=_phrases(),
    chars=st.integers(4, 40),
    lines=st.integers(1, 3),
    language=st.sampled_from(["en", "zh", "th"]),
)
def test_alignment_keeps_all_text_in_order(
    phrases: list[MediaPhrase], chars: int, lines: int, language: str
) -> None:
    cues = layout(phrases, LayoutLimits(max_chars=chars, max_lines=lines), language=language)
    found = align_words(cues, phrases)
    assert [(cue.start_ms, cue.end_ms, cue.lines) for cue in found] == [
        (cue.start_ms, cue.end_ms, cue.lines) for cue in cues
    ]
    for cue in found:
        for number, line in enumerate(cue.lines):
            assert "".join(word.text for word in cue.words if word.line == number) == line
    starts = [word.start_ms for cue in found for word in cue.words if word.start_ms is not None]
    assert starts == sorted(starts)
    texts = {clean(word.text) for phrase in phrases for word in phrase.words}
    assert all(
        any(word.text.strip() in text for text in texts)
        for cue in found
        for word in cue.words
        if word.probability is not None
    )
