# ruff: noqa: RUF001 - Chinese punctuation is meant
"""The stored rows of a job become its transcript."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from subtitle import EditedCue
from subtitled.core.plan import Plan, PlanPiece, Span
from subtitled.core.protocol import Media, SegmentResult
from subtitled.core.records import Job, Options
from subtitled.core.states import JobState, SegmentState
from subtitled.core.transcription import Phrase
from subtitled.output.layout_process import compose, compose_all, speech_without_text
from subtitled.storage.rows import EditRow, JobRow, ResultRow, pack_cues

if TYPE_CHECKING:
    from subtitled.cues.transcript import Transcript

SECOND = 16_000


def row(**options: object) -> JobRow:
    job = Job(
        id="a1",
        state=JobState.WRITING,
        source=b"/in/talk.wav",
        location=b"/in/talk.wav",
        size=1,
        mtime_ns=1,
        options=msgspec.structs.replace(Options(), **options),
        order=1,
    )
    media = msgspec.msgpack.encode(Media(decoded_samples=60 * SECOND))
    return JobRow(job=job, media=media, created_ms=1, started_ms=2, ended_ms=None)


def result(index: int, *phrases: Phrase, language: str = "zh", **more: object) -> ResultRow:
    """Return a segment of 10 s with speech from second 1 to second 9."""
    start = index * 10 * SECOND
    found = SegmentResult(phrases=phrases, language=language, language_probability=0.9)
    return ResultRow(
        index=index,
        state=SegmentState.DONE,
        plan=Plan(
            index=index,
            pieces=(PlanPiece(start, 10 * SECOND),),
            spans=(Span(start + SECOND, start + 9 * SECOND),),
        ),
        losses=0,
        cause="",
        worker="cpu0.1",
        result=msgspec.msgpack.encode(msgspec.structs.replace(found, **more)),
    )


def composed(results: list[ResultRow], **options: object) -> Transcript:
    return compose(row(**options), results, model="demo")


def lines(transcript: Transcript) -> list[str]:
    return ["\n".join(cue.lines) for cue in transcript.cues]


MOUSE = Phrase(" 鼠标在这里。", 1000, 3000)


def test_chinese_is_converted_before_layout() -> None:
    found = composed([result(0, MOUSE)], chinese="tw")
    assert lines(found) == ["鼠標在這裡。"]
    assert found.segments[0].phrases[0].text == "鼠標在這裡。"
    assert found.chinese == "tw"


def test_other_languages_of_the_file_are_not_converted() -> None:
    """Japanese has its own characters: 国 stays."""
    found = composed([result(0, MOUSE), result(1, Phrase("日本国", 1000, 3000), language="ja")], chinese="hk")
    assert lines(found) == ["鼠標在這裏。", "日本国"]


def test_translation_is_not_converted() -> None:
    found = composed([result(0, Phrase("后", 1000, 3000))], chinese="tw", task="translate")
    assert lines(found) == ["后"]
    assert found.chinese == "off"


def test_hallucination_is_recorded_and_not_shown() -> None:
    outro = Phrase(" 谢谢观看!", 4000, 6000, avg_logprob=-1.0)
    found = composed([result(0, MOUSE, outro)])
    assert lines(found) == ["鼠标在这里。"]
    assert [(removal.text, removal.start_ms) for removal in found.removed] == [("谢谢观看!", 4000)]
    assert [phrase.text for phrase in found.segments[0].phrases] == ["鼠标在这里。"]
    assert lines(composed([result(0, MOUSE, outro)], remove_hallucinations=False)) == [
        "鼠标在这里。",
        "谢谢观看！",
    ]


def test_translation_is_filtered_as_english() -> None:
    outro = Phrase(" Thanks for watching!", 4000, 6000, avg_logprob=-1.0)
    assert lines(composed([result(0, outro)], task="translate")) == []
    assert lines(composed([result(0, outro)])) == ["Thanks for watching!"]


HELLO = (Phrase(" Hello.", 1000, 3000),)


def both(*results: ResultRow) -> list[tuple[str | None, list[str]]]:
    found = compose_all(row(is_translated_too=True), results, model="demo")
    return [(one.output_language, lines(one)) for one in found]


def test_translation_is_a_second_transcript() -> None:
    """English text is its own translation."""
    chinese = result(0, Phrase("你好。", 1000, 3000), translation=HELLO)
    english = result(1, Phrase("Bye.", 1000, 3000), language="en")
    again = result(2, Phrase("你好。", 1000, 3000), translation=HELLO)
    assert both(chinese, english, again) == [
        ("zh", ["你好。", "Bye.", "你好。"]),
        ("en", ["Hello.", "Bye.", "Hello."]),
    ]


def test_english_and_silence_have_one_transcript() -> None:
    assert both(result(0, Phrase("Bye.", 1000, 3000), language="en")) == [("en", ["Bye."])]
    assert both() == [(None, [])]


def test_edited_translation_of_a_file_whose_languages_are_all_english_is_its_text() -> None:
    english = result(0, Phrase("Bye.", 1000, 3000), language="en")
    job = row(is_translated_too=True, language="multi")
    cue = EditedCue(start_ms=1000, end_ms=3000, lines=("Farewell.",))
    edit = EditRow(
        version=1,
        saved_ms=1,
        author="",
        cues=1,
        restored=None,
        data=pack_cues([cue]),
        begun_ms=1,
        draft_session="",
    )
    [found] = compose_all(job, [english], model="demo", edits={"translate": edit})
    assert lines(found) == ["Farewell."]


def test_speech_without_text_is_that_of_the_transcript() -> None:
    heard = result(0, MOUSE)
    unheard = result(1, unheard=((1500, 4000), (8000, 8600)))
    failed = msgspec.structs.replace(
        result(2), state=SegmentState.FAILED, result=None, cause="lost with 3 workers"
    )
    rows = [heard, unheard, failed]
    failed_row = row()
    failed_row = msgspec.structs.replace(
        failed_row, job=msgspec.structs.replace(failed_row.job, state=JobState.FAILED)
    )
    transcript = compose(failed_row, rows, model="demo")
    assert [(span.start_ms, span.end_ms) for span in transcript.unheard] == [
        (11_500, 14_000),
        (18_000, 18_600),
    ]
    assert [(span.start_ms, span.cause) for span in transcript.missing] == [(21_000, "lost with 3 workers")]
    assert speech_without_text(failed_row, rows) == (transcript.missing, transcript.unheard)


def test_damaged_result_does_not_hide_other_speech_without_text() -> None:
    damaged = msgspec.structs.replace(result(0), result=b"\xc1")
    missing, unheard = speech_without_text(row(), [damaged, result(1, unheard=((1000, 2000),))])
    assert [span.start_ms for span in missing] == [1_000]
    assert [span.start_ms for span in unheard] == [11_000]


def test_each_phrase_of_a_mixed_segment_is_laid_out_by_its_own_language() -> None:
    """The width of a line, the script and the stock phrases are those of the phrase's language."""
    english = Phrase(" A sentence that is longer than sixteen characters.", 4000, 8000, language="en")
    found = composed([result(0, MOUSE, english)], language="multi", chinese="tw")
    assert [(segment.index, segment.language) for segment in found.segments] == [(0, "zh"), (0, "en")]
    assert lines(found) == ["鼠標在這裡。", "A sentence that is longer\nthan sixteen characters."]
    outro = Phrase(" Thanks for watching!", 8200, 8900, (), -0.9, language="en")
    assert [removed.text for removed in composed([result(0, MOUSE, outro)], language="multi").removed] == [
        "Thanks for watching!"
    ]
