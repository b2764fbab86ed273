"""Edited cues replace the model's; unchanged words keep their times, the others share out the time between them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from subtitle.messages import EditedCue, LayoutOptions
from subtitled.core.transcription import Word
from subtitled.cues import edits
from subtitled.cues.cue_diff import cue_changes
from subtitled.cues.edits import MAX_CUES, parse_cues, share_times, with_edited_cues
from subtitled.cues.layout import Cue
from subtitled.cues.phrases import MediaPhrase
from subtitled.cues.render import render
from subtitled.cues.transcript import (
    Interval,
    SegmentTranscript,
    Transcript,
    TranscriptEdit,
    with_cues,
)
from subtitled.cues.word_alignment import align_words

EDIT = TranscriptEdit(version=3, saved_ms=1_700_000_000_000, author="Ada")
FIRST = "Good morning and welcome."
SECOND = "The wether is fine today."


def timed(text: str, start_ms: int, probability: float = 0.4) -> MediaPhrase:
    """Return a phrase whose words each take half a second."""
    words = tuple(
        Word(f" {word}", start_ms + 500 * at, start_ms + 500 * (at + 1), probability)
        for at, word in enumerate(text.split())
    )
    return MediaPhrase(text, start_ms, words[-1].end_ms, words, avg_logprob=-0.5)


def transcript(*phrases: MediaPhrase, language: str = "en") -> Transcript:
    """Return a transcript with one segment for each phrase."""
    segments = tuple(
        SegmentTranscript(
            index=at,
            pieces=(Interval(phrase.start_ms, phrase.end_ms),),
            spans=(Interval(phrase.start_ms, phrase.end_ms),),
            device="cpu0",
            language=language,
            phrases=(phrase,),
        )
        for at, phrase in enumerate(phrases)
    )
    whole = Transcript(
        source="talk.flac",
        duration_ms=600_000,
        language=language,
        task="transcribe",
        model="tiny",
        segments=segments,
    )
    return with_cues(whole)


TALK = transcript(timed(FIRST, 1000), timed(SECOND, 10_000))


def cue(start_ms: int, end_ms: int, *lines: str, is_accepted: bool = False) -> EditedCue:
    return EditedCue(start_ms=start_ms, end_ms=end_ms, lines=lines, is_accepted=is_accepted)


def as_edited(whole: Transcript) -> list[EditedCue]:
    return [cue(one.start_ms, one.end_ms, *one.lines) for one in whole.cues]


def words(whole: Transcript) -> list[tuple[str, int, int, float]]:
    return [
        (word.text.strip(), word.start_ms, word.end_ms, round(word.probability, 2))
        for segment in whole.segments
        for phrase in segment.phrases
        for word in phrase.words
    ]


def test_an_edit_without_changes_keeps_all_words() -> None:
    edited = with_edited_cues(TALK, as_edited(TALK), EDIT)
    assert words(edited) == words(TALK)
    assert [one.lines for one in edited.cues] == [one.lines for one in TALK.cues]
    assert edited.edit == EDIT


def test_a_changed_word_takes_the_time_of_the_old_one_and_is_certain() -> None:
    first, second = as_edited(TALK)
    edited = with_edited_cues(TALK, [first, replace(second, lines=("The weather is fine today.",))], EDIT)
    assert words(edited)[4:] == [
        ("The", 10_000, 10_500, 0.4),
        ("weather", 10_500, 11_000, 1.0),
        ("is", 11_000, 11_500, 0.4),
        ("fine", 11_500, 12_000, 0.4),
        ("today.", 12_000, 12_500, 0.4),
    ]


def test_new_words_share_the_time_between_their_neighbours_by_width() -> None:
    first, _ = as_edited(TALK)
    edited = with_edited_cues(
        TALK, [first, cue(10_000, 13_000, "The extraordinarily mild day is fine", "today.")], EDIT
    )
    between = words(edited)[5:8]
    assert [word for word, *_ in between] == ["extraordinarily", "mild", "day"]
    assert (between[0][1], between[-1][2]) == (10_500, 11_000)
    assert between[0][2] - between[0][1] > 3 * (between[1][2] - between[1][1])


def test_a_change_of_case_or_punctuation_keeps_the_time() -> None:
    first, second = as_edited(TALK)
    edited = with_edited_cues(TALK, [replace(first, lines=("good morning, and welcome!",)), second], EDIT)
    assert words(edited)[:4] == [
        ("good", 1000, 1500, 1.0),
        ("morning,", 1500, 2000, 1.0),
        ("and", 2000, 2500, 0.4),
        ("welcome!", 2500, 3000, 1.0),
    ]


def test_split_and_merged_cues_keep_the_times_of_their_words() -> None:
    first, second = as_edited(TALK)
    halves = [cue(1000, 2000, "Good morning"), cue(2000, first.end_ms, "and welcome.")]
    assert words(with_edited_cues(TALK, [*halves, second], EDIT)) == words(TALK)
    merged = cue(first.start_ms, second.end_ms, *first.lines, *second.lines)
    assert words(with_edited_cues(TALK, [merged], EDIT)) == words(TALK)


def test_words_move_with_their_cue_and_stay_when_only_one_edge_moves() -> None:
    first, second = as_edited(TALK)
    moved = replace(first, start_ms=first.start_ms + 3000, end_ms=first.end_ms + 3000)
    edited = words(with_edited_cues(TALK, [moved, second], EDIT))
    assert [start for _, start, *_ in edited[:4]] == [4000, 4500, 5000, 5500]
    longer = replace(first, end_ms=first.end_ms + 2000)
    assert words(with_edited_cues(TALK, [longer, second], EDIT)) == words(TALK)


def test_accepted_words_are_certain() -> None:
    first, second = as_edited(TALK)
    edited = with_edited_cues(TALK, [replace(first, is_accepted=True), second], EDIT)
    assert [probability for *_, probability in words(edited)] == [1.0] * 4 + [0.4] * 5
    aligned = align_words(edited.cues, (phrase for one in edited.segments for phrase in one.phrases))
    assert [(one.is_accepted, one.confidence == 1) for one in aligned] == [(True, True), (False, False)]


def test_cues_without_timed_words_get_none() -> None:
    plain = transcript(MediaPhrase(FIRST, 1000, 3000, (), -0.7), timed(SECOND, 10_000))
    edited = with_edited_cues(
        plain, [cue(1000, 3000, "Good evening and welcome."), as_edited(plain)[1]], EDIT
    )
    assert [len(segment.phrases[0].words) for segment in edited.segments] == [0, 5]
    assert edited.segments[0].phrases[0].text == "Good evening and welcome."


def test_a_cue_where_nothing_was_transcribed_is_kept() -> None:
    edited = with_edited_cues(TALK, [*as_edited(TALK), cue(30_000, 32_000, "A late question.")], EDIT)
    assert b"A late question." in render("srt", edited)
    assert edited.segments[-1].phrases[-1].text == "A late question."
    silent = replace(TALK, segments=(), cues=(), language=None)
    assert b"A late question." in render(
        "srt", with_edited_cues(silent, [cue(1, 2000, "A late question.")], EDIT)
    )


def test_an_edited_transcript_is_laid_out_again_with_all_its_words() -> None:
    first, second = as_edited(TALK)
    edited = with_edited_cues(TALK, [first, replace(second, lines=("The weather is fine.",))], EDIT)
    again = with_cues(edited, LayoutOptions(profile="raw"))
    assert [" ".join(one.lines) for one in again.cues] == [FIRST, "The weather is fine."]


def test_chinese_text_is_compared_by_characters() -> None:
    spoken = MediaPhrase(
        "今天天氣很好",
        1000,
        4000,
        (Word("今天", 1000, 2000, 0.5), Word("天氣", 2000, 3000, 0.5), Word("很好", 3000, 4000, 0.5)),
    )
    talk = transcript(spoken, language="zh")
    edited = words(with_edited_cues(talk, [cue(1000, 4000, "今天天氣真好")], EDIT))
    assert [(word, start) for word, start, *_ in edited] == [
        ("今", 1000), ("天", 1500), ("天", 2000), ("氣", 2500), ("真", 3000), ("好", 3500),
    ]  # fmt: skip
    assert [probability for *_, probability in edited] == [0.5, 0.5, 0.5, 0.5, 1.0, 0.5]


def test_both_channels_are_edited_apart() -> None:
    left, right = timed(FIRST, 1000), timed(SECOND, 1200)
    whole = transcript(left, right)
    sides = tuple(
        replace(segment, channel=side)
        for segment, side in zip(whole.segments, ("left", "right"), strict=True)
    )
    split = with_cues(replace(whole, segments=sides))
    cues = [replace(one, channel=two.channel) for one, two in zip(as_edited(split), split.cues, strict=True)]
    edited = with_edited_cues(split, cues, EDIT)
    assert words(edited) == words(split)
    assert [one.channel for one in edited.cues] == ["left", "right"]
    # SRT and VTT files name no channel: the texts tell which, also where both people speak and one text was corrected.
    corrected = [one.replace("wether", "weather") for one in split.cues[1].lines]
    first, second = as_edited(split)
    edited = with_edited_cues(split, [first, replace(second, lines=tuple(corrected))], EDIT)
    assert [one.channel for one in edited.cues] == ["left", "right"]
    assert words(edited)[:4] == words(split)[:4]
    # Without words in common, the times do.
    unlike = [cue(second.end_ms - 200, second.end_ms, "Unlike"), cue(0, 900, "both")]
    edited = with_edited_cues(split, unlike, EDIT)
    assert [(one.channel, one.lines) for one in edited.cues] == [("left", ("both",)), ("right", ("Unlike",))]


@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.none() | st.tuples(st.integers(0, 900), st.integers(0, 900))),
        max_size=12,
    ),
    st.integers(0, 400),
    st.integers(401, 900),
)
def test_shared_times_are_in_order_and_inside_the_cue(
    given_words: list[tuple[int, tuple[int, int] | None]], start_ms: int, end_ms: int
) -> None:
    weights = [weight for weight, _ in given_words]
    times = share_times(weights, [known for _, known in given_words], start_ms, end_ms)
    assert len(times) == len(weights)
    edges = [edge for time in times for edge in time]
    assert edges == sorted(edges)
    assert all(start_ms <= edge <= end_ms for edge in edges)


# -- what is accepted ------------------------------------------------------------------------------------------------


def encoded(*cues: dict[str, object]) -> bytes:
    return msgspec.json.encode(cues)


def test_cues_are_put_in_order_and_their_lines_cleaned() -> None:
    late = {"start_ms": 5000, "end_ms": 6000, "lines": ["  two \t words ", "", "\u0007more"]}
    early = {"start_ms": 1000, "end_ms": 2000, "lines": ["one"], "is_accepted": True}
    assert parse_cues(encoded(late, early)) == (
        cue(1000, 2000, "one", is_accepted=True),
        cue(5000, 6000, "two words", "more"),
    )
    assert parse_cues(b"[]") == ()


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"start_ms": 7, "end_ms": 7, "lines": ["x"]}, "cue 1 ends at 7 ms"),
        ({"start_ms": 1, "end_ms": 2, "lines": [" "]}, "cue 1 has no text"),
        ({"start_ms": -1, "end_ms": 2, "lines": ["x"]}, "start_ms"),
        ({"start_ms": 1, "end_ms": 360_000_000, "lines": ["x"]}, "end_ms"),
        ({"start_ms": 1, "end_ms": 2, "lines": ["x" * 1001]}, "lines"),
        ({"start_ms": 1, "end_ms": 2, "lines": ["x"] * 17}, "lines"),
        ({"start_ms": 1, "end_ms": 2}, "lines"),
    ],
)
def test_invalid_cues_are_rejected(fields: dict[str, object], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        parse_cues(encoded(fields))


def test_too_many_cues_are_rejected() -> None:
    one = {"start_ms": 1, "end_ms": 2, "lines": ["x"]}
    with pytest.raises(ValueError, match=f"up to {MAX_CUES}"):
        parse_cues(encoded(*[one] * (MAX_CUES + 1)))


def test_a_word_replaced_in_every_cue_of_a_long_file_keeps_the_other_words() -> None:
    talk = transcript(*(timed(f"Number {at} is the one", 5000 * at) for at in range(80)))
    edited = [replace(one, lines=(one.lines[0].replace("one", "single one"),)) for one in as_edited(talk)]
    found = words(with_edited_cues(talk, edited, EDIT))
    assert [start for word, start, *_ in found if word == "Number"] == [5000 * at for at in range(80)]
    assert [start for word, start, *_ in found if word == "the"] == [5000 * at + 1500 for at in range(80)]


def test_versions_are_compared_by_cues_and_words() -> None:
    first, second = TALK.cues
    late = msgspec.structs.replace(first, start_ms=30_000, end_ms=31_000, lines=("A late question.",))
    corrected = msgspec.structs.replace(second, lines=("The weather is fine today.",))
    moved = msgspec.structs.replace(first, end_ms=first.end_ms + 100)
    changes = cue_changes((first, second), (moved, corrected, late))
    assert [(one.before, one.after) for one in changes] == [(first, moved), (second, corrected), (None, late)]
    assert [(part.kind, part.text) for part in changes[1].parts] == [
        ("same", "The"),
        ("removed", " wether"),
        ("added", " weather"),
        ("same", " is fine today."),
    ]
    assert [part.kind for part in changes[0].parts] == ["same"]
    assert cue_changes((first, second), (second,))[0].after is None
    assert cue_changes((first, second), (first, second)) == ()


def test_versions_that_repeat_one_word_are_compared_in_bounded_time() -> None:
    """Comparing all words of these two cues, or all these cues, takes minutes: only what is equal at both ends is found."""

    def long(*between: str) -> Cue:
        return Cue(0, 9000, ("Start", *between * 7000, "end."))

    [change] = cue_changes([long("a", "b")], [long("a", "c")])
    assert [part.kind for part in change.parts] == ["same", "removed", "added", "same"]
    before = [Cue(at, at + 9, ("yes" if at % 20 else "no",)) for at in range(0, 200_000, 10)]
    after = [Cue(at, at + 9, ("yes" if at % 20 else "maybe",)) for at in range(0, 200_000, 10)]
    changes = cue_changes(before, after)
    assert [(one.before, one.after) for one in changes] == [
        (old, new) for old, new in zip(before, after, strict=True) if old != new
    ]


@given(
    *(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from((0, 500))), max_size=12) for _ in range(2))
)
def test_the_changes_lead_from_one_version_to_the_other(
    old: list[tuple[str, int]], new: list[tuple[str, int]]
) -> None:
    before, after = (
        [Cue(1000 * at + shift, 1000 * at + 900, (text,)) for at, (text, shift) in enumerate(side)]
        for side in (old, new)
    )
    changes = cue_changes(before, after)
    assert all(one.before != one.after for one in changes)
    removed, added = (
        (
            [one for one in side if one is not None]
            for side in zip(*((c.before, c.after) for c in changes), strict=True)
        )
        if changes
        else ([], [])
    )
    assert [one for one in before if one not in removed] == [one for one in after if one not in added]
    for one in changes:
        for kinds, whole in ((("same", "removed"), one.before), (("same", "added"), one.after)):
            text = "".join(part.text for part in one.parts if part.kind in kinds)
            if whole is not None:
                assert text.split() == " ".join(whole.lines).split()


def test_words_of_a_long_edit_are_compared_in_parts_and_keep_their_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Every cue has a word that is new, and one cue is split: no cue is as before.
    phrases = [timed(f"word{at} is number {at}.", 3000 * at) for at in range(60)]
    before = [Cue(3000 * at, 3000 * at + 2000, (phrase.text,)) for at, phrase in enumerate(phrases)]
    edited = [
        EditedCue(start_ms=cue.start_ms, end_ms=cue.end_ms, lines=(f"new {cue.lines[0]}",)) for cue in before
    ]
    edited[30:31] = [
        EditedCue(start_ms=90_000, end_ms=90_900, lines=("new word30 is",)),
        EditedCue(start_ms=90_900, end_ms=92_000, lines=("number 30.",)),
    ]
    compared: list[int] = []
    match = edits._match_words

    def counted(old: Any, new: Any, found: Any) -> None:
        compared.append(sum(map(len, old)) * sum(map(len, new)))
        match(old, new, found)

    monkeypatch.setattr(edits, "_match_words", counted)
    monkeypatch.setattr(edits, "_MAX_PAIRS", 400)
    result = with_edited_cues(replace(transcript(*phrases), cues=tuple(before)), edited, EDIT)
    assert len(compared) > 10
    assert max(compared) <= 400
    times = {
        word.text.strip(): word.start_ms
        for segment in result.segments
        for one in segment.phrases
        for word in one.words
    }
    assert [times[f"word{at}"] for at in range(60)] == [3000 * at for at in range(60)]
