"""A stored transcript can be laid out again without other data."""

from __future__ import annotations

from itertools import pairwise

import pytest
from msgspec.structs import replace

from subtitle.messages import LayoutOptions
from subtitled.core.transcription import Word
from subtitled.cues.layout import Cue
from subtitled.cues.phrases import MediaPhrase
from subtitled.cues.render import read_json, render
from subtitled.cues.transcript import Interval, SegmentTranscript, Transcript, with_cues


def transcript(
    *phrases: MediaPhrase, language: str = "en", task: str = "transcribe", resumes_ms: int = 3300
) -> Transcript:
    """Return a transcript whose audio from 2000 ms to `resumes_ms` was left out."""
    segment = SegmentTranscript(
        index=0,
        pieces=(Interval(0, 2000), Interval(resumes_ms, 6000), Interval(6000, 10_000)),
        spans=(),
        device="cpu0",
        phrases=phrases,
    )
    return Transcript(
        source="talk.wav", duration_ms=10_000, language=language, task=task, model="demo", segments=(segment,)
    )


def test_layout_can_be_repeated_from_the_json_alone() -> None:
    whole = with_cues(transcript(MediaPhrase("It is a truth universally acknowledged.", 100, 3000)))
    stored = read_json(render("json", whole))
    assert with_cues(stored) == whole
    (cue,) = with_cues(stored, LayoutOptions(max_chars=26)).cues
    assert cue.lines == ("It is a truth", "universally acknowledged.")


def test_no_cue_crosses_a_long_silence_of_the_vad() -> None:
    """The phrases reach into the silence that is kept around their speech, and beyond."""
    spans = (Interval(200, 1800), Interval(2500, 5800), Interval(8200, 9300))
    made = transcript(
        MediaPhrase("He went", 0, 2000), MediaPhrase("home", 2300, 6600), MediaPhrase("today.", 7100, 9500)
    )
    segment = replace(made.segments[0], spans=spans)
    found = with_cues(replace(made, segments=(segment,))).cues
    assert [(cue.start_ms, cue.lines) for cue in found] == [(200, ("He went home",)), (8200, ("today.",))]


def test_cues_are_in_order_of_time_whatever_segment_their_speech_is_in() -> None:
    """A segment of another mix has speech between the phrases of the first, in another language."""
    made = transcript(MediaPhrase("He went home.", 0, 1500), MediaPhrase("He ate.", 6000, 7000))
    other = replace(
        made.segments[0], index=1, language="de", phrases=(MediaPhrase("Er ging nach Hause.", 3300, 5000),)
    )
    found = with_cues(replace(made, segments=(*made.segments, other))).cues
    assert [(cue.start_ms, " ".join(cue.lines)) for cue in found] == [
        (0, "He went home."),
        (3300, "Er ging nach Hause."),
        (6000, "He ate."),
    ]
    assert all(before.end_ms <= after.start_ms for before, after in pairwise(found))


def test_spans_that_touch_are_one() -> None:
    """Speech longer than a segment is cut where it is quiet, and the two parts touch."""
    made = transcript(MediaPhrase("He went", 5000, 6000), MediaPhrase("home.", 6000, 7000))
    segment = replace(made.segments[0], spans=(Interval(5000, 6000), Interval(6000, 6800)))
    (cue,) = with_cues(replace(made, segments=(segment,))).cues
    assert (cue.start_ms, cue.lines) == (5000, ("He went home.",))


def test_no_cue_ends_after_the_file() -> None:
    assert with_cues(transcript(MediaPhrase("Yes.", 9700, 9900))).cues == (Cue(9700, 10_000, ("Yes.",)),)


def test_cues_too_fast_to_read_are_counted() -> None:
    laid = with_cues(transcript(MediaPhrase("This is spoken much too fast.", 9000, 10_000)))
    assert (len(laid.cues), laid.fast_cues) == (1, 1)
    assert with_cues(laid, LayoutOptions(profile="raw")).fast_cues == 0


def test_limits_are_those_of_the_output_language() -> None:
    phrase = MediaPhrase("word " * 20, 0, 9000)
    widest = {
        task: max(
            len(line)
            for cue in with_cues(transcript(phrase, language="zh", task=task)).cues
            for line in cue.lines
        )
        for task in ("transcribe", "translate")
    }
    assert widest["transcribe"] <= 32 < widest["translate"] <= 42


def test_impossible_overrides_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"max_lines = 0: allowed: 1 to 10"):
        with_cues(transcript(), LayoutOptions(max_lines=0))


def test_words_late_in_a_long_file_are_read_back() -> None:
    words = (Word(" late", 90_000_000, 90_000_500, 0.9),)
    late = with_cues(transcript(MediaPhrase("late", 90_000_000, 90_001_000, words)))
    assert read_json(render("json", late)) == late


def test_each_language_of_a_file_has_its_own_limits_and_breaks() -> None:
    english = "It is a truth universally acknowledged, that a single man must be in want of a wife."
    chinese = "今天天气很好，我们打算去公园散步，然后在湖边的咖啡馆里坐一会儿。"  # noqa: RUF001 - Chinese
    made = transcript(MediaPhrase(english, 0, 4900))
    second = replace(made.segments[0], index=1, language="zh", phrases=(MediaPhrase(chinese, 5000, 9900),))
    first = replace(made.segments[0], language="en")
    found = with_cues(replace(made, segments=(first, second)))
    alone = with_cues(replace(made, segments=(second,), language="zh"))
    assert [cue for cue in found.cues if cue.start_ms >= 5000] == list(alone.cues)
    assert max(len(line) for cue in found.cues if cue.start_ms < 4900 for line in cue.lines) > 32
    assert max(len(line) for cue in found.cues if cue.start_ms >= 5000 for line in cue.lines) <= 16
    assert all(one.end_ms < two.start_ms for one, two in pairwise(found.cues))


def test_translation_of_several_languages_is_laid_out_as_english() -> None:
    made = transcript(MediaPhrase("It is a truth universally acknowledged.", 0, 4900), task="translate")
    segment = replace(made.segments[0], language="zh")
    assert [cue.lines for cue in with_cues(replace(made, language="zh", segments=(segment,))).cues] == [
        ("It is a truth universally acknowledged.",)
    ]
