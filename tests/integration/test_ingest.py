"""A media file becomes segments with their PCM, of which none is lost, in bounded memory."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest

import media
from subtitled.config import schema
from subtitled.core.plan import Plan, Span
from subtitled.errors import MediaError
from subtitled.media.ingest import Ingest, IngestedSegment, recut
from subtitled.media.waveform import MAX_PEAKS, WaveformBuilder
from subtitled.workers import prepare

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

RATE = 16_000


def ingest(
    path: Path,
    segments: schema.SegmentsConfig | None = None,
    window_s: float = 30,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[Ingest, list[IngestedSegment]]:
    """Return the finished ingest with all its segments."""
    with Ingest(
        str(path),
        vad=schema.VadConfig(),
        segments=segments or schema.SegmentsConfig(),
        window_s=window_s,
        on_progress=on_progress,
    ) as running:
        return running, list(running)


def sound(tmp_path: Path, *parts: NDArray[np.int16]) -> Path:
    return media.write_sound(tmp_path / "a.wav", np.concatenate(parts))


def given(prepared: list[IngestedSegment]) -> list[Span]:
    return [span for segment in prepared for span in segment.plan.spans]


def test_each_segment_carries_the_audio_that_its_plan_names() -> None:
    pcm = media.recording()
    done, prepared = ingest(media.DEMO / "demo.flac")
    assert len(prepared) == 2
    for segment in prepared:
        pieces = [pcm[piece.start : piece.start + piece.samples] for piece in segment.plan.pieces]
        assert np.array_equal(segment.pcm, np.concatenate(pieces))
        assert segment.plan.samples == len(segment.pcm) <= 480_000
    assert done.decoded_samples == len(pcm)
    assert done.speech_samples == sum(len(segment.pcm) for segment in prepared)
    assert done.info.duration_s == 58


def test_all_speech_of_the_recording_is_planned() -> None:
    """demo.txt says when each sentence is spoken; the VAD may begin and end a little inside."""
    _, prepared = ingest(media.DEMO / "demo.flac")
    spans = given(prepared)
    for said in media.true_text():
        first, last = ((said.start_ms + 200) * RATE / 1000, (said.end_ms - 200) * RATE / 1000)
        assert any(span.start <= first and span.end >= last for span in spans), said


@pytest.mark.parametrize(("max_segment_s", "window_s"), [(7, 30), (30, 7.5), (1, 30), (30, 60)])
def test_no_segment_is_longer_than_the_window_or_the_limit(max_segment_s: int, window_s: float) -> None:
    whole = given(ingest(media.DEMO / "demo.flac")[1])
    _, prepared = ingest(
        media.DEMO / "demo.flac", schema.SegmentsConfig(max_segment_s=max_segment_s), window_s
    )
    limit = min(max_segment_s, window_s, 30) * RATE
    assert all(len(segment.pcm) <= limit for segment in prepared)
    spans = given(prepared)
    assert all(before.end <= after.start for before, after in pairwise(spans))
    assert sum(span.end - span.start for span in spans) == sum(span.end - span.start for span in whole)


def test_segments_leave_while_the_file_is_decoded(tmp_path: Path) -> None:
    path = sound(tmp_path, *[media.recording()] * 4)
    with Ingest(str(path), vad=schema.VadConfig(), segments=schema.SegmentsConfig(), window_s=30) as running:
        next(iter(running))
        assert running.decoded_samples < 58 * RATE


def test_speech_without_a_pause_leaves_early_and_is_cut(tmp_path: Path) -> None:
    dense = np.concatenate([media.recording()[span.start : span.end] for span in dense_spans()])
    path = sound(tmp_path, *[dense] * 5)
    running, prepared = ingest(path, schema.SegmentsConfig(max_segment_s=5))
    assert all(len(segment.pcm) <= 5 * RATE for segment in prepared)
    assert running.speech_samples > 0.95 * running.decoded_samples


def dense_spans() -> list[Span]:
    """Speech without its pauses."""
    _, prepared = ingest(media.DEMO / "demo.flac")
    return [Span(span.start + 3_200, span.end - 3_200) for span in given(prepared)]


def test_memory_holds_little_more_than_a_window(tmp_path: Path) -> None:
    path = sound(tmp_path, *[media.recording()] * 2, media.silence(60), media.recording()[: 20 * RATE])
    held = []
    with Ingest(str(path), vad=schema.VadConfig(), segments=schema.SegmentsConfig(), window_s=30) as running:
        running._on_progress = lambda _: held.append(
            sum(len(pcm) for stream in running._streams for _, pcm in stream.recent._blocks)
        )
        list(running)
    assert max(held) < 60 * RATE


def test_silence_is_a_plan_without_segments(tmp_path: Path) -> None:
    for pcm in (media.silence(20), media.noise(5 * RATE), np.sin(np.arange(800) * 0.4) * 8_000):
        running, prepared = ingest(sound(tmp_path, np.asarray(pcm, np.int16)))
        assert prepared == []
        assert running.speech_samples == 0


def test_short_speech_is_skipped_and_recorded() -> None:
    running, prepared = ingest(media.DEMO / "demo.flac", schema.SegmentsConfig(min_speech_ms=1_200))
    assert running.skipped
    for skipped in running.skipped:
        assert skipped.cause == "shorter than 1200 ms"
        assert not any(
            span.start < skipped.span.end and skipped.span.start < span.end for span in given(prepared)
        )
    assert ingest(media.DEMO / "demo.flac")[0].skipped == ()


def test_progress_is_reported_while_nothing_is_found_and_may_stop_it(tmp_path: Path) -> None:
    reported: list[int] = []
    path = sound(tmp_path, media.silence(60))
    running, _ = ingest(path, on_progress=reported.append)
    assert reported == sorted(set(reported))
    assert reported[-1] == running.decoded_samples == 60 * RATE
    assert max(np.diff([0, *reported])) <= 5 * RATE

    def stop(_: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        ingest(path, on_progress=stop)


@pytest.mark.parametrize("name", ["a.wav", "a.m4a", "a.opus"])
def test_stored_plans_are_cut_again_to_the_last_bit(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.wav":
        media.write_sound(path, media.speech(20), rate=22_050)
    else:
        media.mux(
            path, media.Voice(media.speech(20)), codec={"a.m4a": "aac"}.get(name, "libopus"), rate=48_000
        )
    _, prepared = ingest(path, schema.SegmentsConfig(max_segment_s=5))
    assert len(prepared) > 2
    for wanted in (prepared, prepared[1::2], prepared[-1:]):
        again = list(recut(str(path), [segment.plan for segment in wanted]))
        assert [segment.plan for segment in again] == [segment.plan for segment in wanted]
        assert all(np.array_equal(a.pcm, b.pcm) for a, b in zip(again, wanted, strict=True))


def test_a_file_that_became_shorter_cannot_be_cut_again(tmp_path: Path) -> None:
    path = sound(tmp_path, media.speech(20))
    plans = [segment.plan for segment in ingest(path)[1]]
    sound(tmp_path, media.speech(10))
    with pytest.raises(MediaError, match="it changed"):
        list(recut(str(path), plans))


def test_no_plans_need_no_reading(tmp_path: Path) -> None:
    assert list(recut(str(sound(tmp_path, media.speech(1))), list[Plan]())) == []


def test_a_file_without_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="contains no audio"):
        ingest(media.write_sound(tmp_path / "a.wav", np.empty(0, np.int16)))


@pytest.mark.parametrize("blocks", [(400_000,), (1, 1599, 1600, 1601, 50_000, 345_199), (7,) * 57_142 + (6,)])
def test_peaks_are_those_of_the_samples_however_they_come(blocks: tuple[int, ...]) -> None:
    pcm = media.noise(400_000) * np.int16(10)
    pcm[1600:3200] = 0
    pcm[3200:4800] = -32_768
    peaks, at = WaveformBuilder(), 0
    for samples in blocks:
        peaks.feed(pcm[at : at + samples])
        at += samples
    interval_ms, found = peaks.finish()
    loudest = np.abs(pcm.astype(np.int32)).reshape(-1, 1600).max(axis=1)
    assert (interval_ms, len(found)) == (100, 250)
    assert np.abs(np.frombuffer(found, np.uint8) - loudest / 128).max() <= 1
    assert (found[1], found[2]) == (0, 255)


def test_peaks_of_a_day_are_no_more_than_can_be_sent() -> None:
    peaks = WaveformBuilder()
    for _ in range(24):
        peaks.feed(np.full(3600 * RATE, 100, np.int16))
    peaks.feed(np.full(5, 32_767, np.int16))
    interval_ms, found = peaks.finish()
    assert (interval_ms, len(found), set(found[:-1]), found[-1]) == (700, 123_429, {1}, 255)
    assert len(found) <= MAX_PEAKS


def test_nothing_has_no_peaks() -> None:
    assert WaveformBuilder().finish() == (100, b"")


def test_an_ingest_has_the_peaks_of_all_that_was_decoded() -> None:
    done, _ = ingest(media.DEMO / "demo.flac")
    whole = WaveformBuilder()
    whole.feed(media.recording())
    assert done.peaks() == whole.finish()


def test_file_that_decodes_far_slower_than_real_time_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real clock of the thread; a recording passes with the same limit."""
    monkeypatch.setattr(prepare, "SPEED_WINDOW_S", 1.0)
    ingest(media.DEMO / "demo.flac", on_progress=prepare.SpeedLimit().check)
    slow = media.write_slow_file(tmp_path / "slow.wav", 2)
    with pytest.raises(MediaError, match=r"took \d+ s of processor time"):
        ingest(slow, on_progress=prepare.SpeedLimit().check)
