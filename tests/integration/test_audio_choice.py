"""Speech is found in whatever channel or track of a file it is, and is cut again from there."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
from av.stream import Disposition

import media
from subtitled.config import schema
from subtitled.core.plan import AudioSource
from subtitled.errors import MediaError
from subtitled.media.decode import open_media
from subtitled.media.ingest import Ingest, IngestedSegment, recut

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

RATE = 16_000
SPEECH = media.speech(14)
QUIET = np.zeros_like(SPEECH)
LOUD = media.noise(len(SPEECH), peak=12_000)


def prepared(
    path: Path, audio_track: str = "auto", channels: str = "mix"
) -> tuple[AudioSource, list[IngestedSegment]]:
    """Return what was chosen of a file, and its segments; they are the same when they are cut again."""
    with Ingest(
        str(path),
        vad=schema.VadConfig(),
        segments=schema.SegmentsConfig(),
        window_s=30,
        audio_track=audio_track,
        channels=channels,
    ) as running:
        segments = list(running)
    assert [segment.plan.index for segment in segments] == list(range(len(segments)))
    again = {segment.plan: segment.pcm for segment in recut(str(path), [one.plan for one in segments])}
    assert len(again) == len(segments)
    assert all(np.array_equal(segment.pcm, again[segment.plan]) for segment in segments)
    return running.source, segments


def likeness(segments: list[IngestedSegment], source: NDArray[np.int16] = SPEECH) -> float:
    """Return the correlation of segments with the same pieces of a recording."""
    pieces = [piece for segment in segments for piece in segment.plan.pieces]
    wanted = np.concatenate([source[piece.start : piece.start + piece.samples] for piece in pieces])
    return float(np.corrcoef(np.concatenate([segment.pcm for segment in segments]), wanted)[0, 1])


@pytest.mark.parametrize(
    ("name", "channels", "mix"),
    [
        pytest.param("a.wav", (SPEECH, -SPEECH), "left", id="inverted"),
        pytest.param("a.flac", (SPEECH, -SPEECH), "left", id="inverted, FLAC"),
        pytest.param("a.wav", (SPEECH, SPEECH), "stereo", id="same"),
        pytest.param("a.flac", (QUIET, SPEECH), "sum", id="one channel"),
        pytest.param("a.wav", (SPEECH, LOUD), "left", id="beside noise"),
        pytest.param(
            "a.flac", (LOUD, LOUD[::-1], SPEECH, LOUD, LOUD, LOUD[::-1]), "centre", id="centre, FLAC"
        ),
        pytest.param("a.wav", (LOUD, LOUD[::-1], SPEECH, LOUD, LOUD, LOUD[::-1]), "centre", id="centre"),
        pytest.param("a.wav", (SPEECH, SPEECH, QUIET, LOUD, QUIET, QUIET), "surround", id="fronts"),
    ],
)
def test_speech_is_clear_in_whatever_channels_it_is(
    tmp_path: Path, name: str, channels: tuple[NDArray[np.int16], ...], mix: str
) -> None:
    path = media.write_sound(tmp_path / name, np.column_stack(channels))
    source, segments = prepared(path)
    assert source == AudioSource(1, mix)
    assert likeness(segments) > 0.95


def test_channels_in_an_unusual_order_keep_the_names_of_the_container(tmp_path: Path) -> None:
    """PyAV frees such a layout twice if it is read from a frame."""
    path = media.mux(
        tmp_path / "a.mov", media.Voice(SPEECH), codec="pcm_s16le", rate=RATE, layout="5.1(side)"
    )
    content = path.read_bytes()
    at = content.index(b"chan") + 8
    # Apple's kAudioChannelLayoutTag_MPEG_5_1_B.
    path.write_bytes(content[:at] + struct.pack(">I", 122 << 16 | 6) + content[at + 4 :])
    source, segments = prepared(path)
    with open_media(str(path)) as decoder:
        assert decoder.info.channel_names == ("FL", "FR", "SL", "SR", "FC", "LFE")
    assert source == AudioSource(1, "surround")
    assert likeness(segments) > 0.95


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        ("3.0(back)", "FL FR BC"),
        ("6.1(front)", "FL FR LFE FLC FRC SL SR"),
        ("5.1(side)", "FL FR FC LFE SL SR"),
    ],
)
def test_layouts_of_ffmpeg_with_parentheses_in_their_names_keep_their_channels(
    tmp_path: Path, layout: str, names: str
) -> None:
    path = media.mux(tmp_path / "a.flac", media.Voice(SPEECH[:RATE]), codec="flac", rate=RATE, layout=layout)
    with open_media(str(path)) as decoder:
        assert decoder.info.channel_names == tuple(names.split())


def test_speech_in_one_channel_keeps_its_level(tmp_path: Path) -> None:
    _, segments = prepared(media.write_sound(tmp_path / "a.wav", np.column_stack([SPEECH, QUIET])))
    pcm = np.concatenate([segment.pcm for segment in segments])
    assert np.abs(pcm).max() == np.abs(SPEECH).max()


def test_speech_that_begins_after_minutes_of_music_decides_the_mix(tmp_path: Path) -> None:
    tone = (4_000 * np.sin(np.arange(60 * RATE) / 20)).astype(np.int16)
    left = np.concatenate([tone, SPEECH])
    right = np.concatenate([tone, -SPEECH])
    source, segments = prepared(media.write_sound(tmp_path / "a.flac", np.column_stack([left, right])))
    assert source.mix == "left"
    assert likeness(segments, left) > 0.95


FIRST = media.speech(35)
"""Enough to decide the mix."""
HUM = (4_000 * np.sin(np.arange(len(FIRST)) / 20)).astype(np.int16)
NONE = np.zeros_like(FIRST)
NOISE = media.noise(len(FIRST), peak=12_000)


@pytest.mark.parametrize(
    ("before", "after", "mixes"),
    [
        pytest.param((FIRST, HUM), (QUIET, SPEECH), ("left", "right"), id="right after left"),
        pytest.param((NOISE, FIRST), (SPEECH, LOUD), ("right", "left"), id="left after right"),
        pytest.param((FIRST, -FIRST), (QUIET, SPEECH), ("left", "right"), id="right after inverted"),
        pytest.param((FIRST, FIRST), (SPEECH, -SPEECH), ("stereo", "difference"), id="inverted later"),
        pytest.param(
            (FIRST, NONE), (SPEECH, -SPEECH), ("sum", "difference"), id="inverted after one channel"
        ),
        pytest.param(
            (NOISE, NOISE[::-1], FIRST, NONE, NOISE, NOISE),
            (SPEECH, SPEECH, QUIET, QUIET, QUIET, QUIET),
            ("centre", "surroundings"),
            id="fronts after centre",
        ),
        pytest.param(
            (FIRST, FIRST, NONE, NONE, NONE, NONE),
            (LOUD, LOUD[::-1], SPEECH // 4, QUIET, LOUD, LOUD),
            ("surround", "centre"),
            id="centre after fronts",
        ),
    ],
)
def test_speech_that_is_later_in_other_channels_is_planned(
    tmp_path: Path,
    before: tuple[NDArray[np.int16], ...],
    after: tuple[NDArray[np.int16], ...],
    mixes: tuple[str, str],
) -> None:
    channels = np.concatenate([np.column_stack(before), np.column_stack(after)])
    source, segments = prepared(media.write_sound(tmp_path / "a.wav", channels))
    assert source.mix == mixes[0]
    planned = {
        mix: [segment for segment in segments if segment.plan.source == AudioSource(1, mix)] for mix in mixes
    }
    assert sum(map(len, planned.values())) == len(segments)
    both = np.concatenate([FIRST, SPEECH])
    for its in planned.values():
        assert likeness(its, both) > 0.95
    second = [span for segment in planned[mixes[1]] for span in segment.plan.spans]
    assert second[0].start >= len(FIRST)
    spoken = sum(span.end - span.start for span in second)
    assert spoken > 8 * RATE, "nearly all of the recording"


def test_channels_with_the_same_speech_have_no_second_plan(tmp_path: Path) -> None:
    echo = np.roll(SPEECH, RATE // 10) // 2
    channels = (SPEECH, LOUD), (SPEECH, -SPEECH), (LOUD, echo, SPEECH, QUIET, echo, LOUD)
    for number, content in enumerate(channels):
        source, segments = prepared(media.write_sound(tmp_path / f"{number}.wav", np.column_stack(content)))
        assert {segment.plan.source for segment in segments} == {source}


def test_speech_in_a_later_track_is_found(tmp_path: Path) -> None:
    path = media.mux(tmp_path / "a.mkv", media.Voice(QUIET), media.Voice(QUIET), media.Voice(SPEECH))
    source, segments = prepared(path)
    assert source == AudioSource(3, "stereo")
    assert segments


def test_commentary_is_the_last_track_in_which_speech_is_searched(tmp_path: Path) -> None:
    tracks = [media.Voice(QUIET), media.Voice(LOUD), media.Voice(SPEECH)]
    marks = (Disposition.default, Disposition.comment, Disposition(0))
    path = media.mux(tmp_path / "a.mkv", *tracks, dispositions=marks)
    assert prepared(path)[0].track == 3
    alone = media.mux(
        tmp_path / "b.mkv", tracks[0], tracks[2], dispositions=(Disposition(0), Disposition.comment)
    )
    assert prepared(alone)[0].track == 2


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_a_track_with_the_title_of_a_commentary_comes_last(tmp_path: Path, name: str) -> None:
    commentary = media.Voice(media.speech(3), title="Director's Commentary", is_default=True)
    path = media.mux(tmp_path / name, commentary, media.Voice(media.speech(3)))
    with Ingest(str(path), vad=schema.VadConfig(), segments=schema.SegmentsConfig(), window_s=30) as running:
        list(running)
    assert running.source.track == 2
    assert running.tracks[0].title == "Director's Commentary"
    assert running.tracks[1].title == ""


@pytest.mark.parametrize("empty", [0, 1])
def test_a_track_without_audio_gives_way_to_the_others(tmp_path: Path, empty: int) -> None:
    voices = [media.Voice(QUIET), media.Voice(QUIET), media.Voice(SPEECH)]
    voices[empty] = media.Voice(np.empty(0, np.int16))
    source, segments = prepared(media.mux(tmp_path / "a.mkv", *voices))
    assert source == AudioSource(3, "stereo")
    assert segments


def test_no_speech_in_any_track_gives_no_segment_of_the_first(tmp_path: Path) -> None:
    path = media.mux(tmp_path / "a.mkv", media.Voice(QUIET), media.Voice(QUIET))
    source, segments = prepared(path)
    assert source == AudioSource(1, "stereo")
    assert segments == []


def test_a_track_that_was_asked_for_is_the_only_one_read(tmp_path: Path) -> None:
    path = media.mux(
        tmp_path / "a.mkv", media.Voice(SPEECH, language="eng"), media.Voice(QUIET, language="ger")
    )
    assert prepared(path, "1")[0].track == 1
    for wanted in ("2", "de"):
        source, segments = prepared(path, wanted)
        assert source.track == 2
        assert segments == []


def test_a_track_that_is_not_there_is_refused_with_a_list(tmp_path: Path) -> None:
    path = media.mux(tmp_path / "a.mkv", media.Voice(media.speech(1), language="eng"))
    with pytest.raises(MediaError, match=r"'a.mkv': audio_track = 5: the file has 1 audio track: 1 \(eng, "):
        prepared(path, "5")
    with pytest.raises(MediaError, match="audio_track = 'de': no audio track is in German"):
        prepared(path, "de")
    sound = media.write_sound(tmp_path / "a.wav", media.speech(1))
    with pytest.raises(MediaError, match="audio_track = 2: the file has 1 audio track"):
        prepared(sound, "2")


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_two_channels_with_different_speech_are_planned_separately(tmp_path: Path, name: str) -> None:
    other = media.recording("demo-zh.flac")[: len(SPEECH)]
    path = media.write_sound(tmp_path / name, np.column_stack([SPEECH, other]))
    source, segments = prepared(path, channels="split")
    assert source == AudioSource(1, "split")
    for mix, alone in (("left", SPEECH), ("right", other)):
        its = [segment for segment in segments if segment.plan.source == AudioSource(1, mix)]
        assert likeness(its, alone) > 0.99


@pytest.mark.parametrize("start_s", [0.0, 3.0])
def test_two_tracks_with_different_speech_are_planned_separately(tmp_path: Path, start_s: float) -> None:
    """As in recordings with a microphone and a call on tracks of their own; the second one may start later."""
    other = media.recording("demo-zh.flac")[: len(SPEECH)]
    voices = media.Voice(SPEECH), media.Voice(other, start_s=start_s), media.Voice(QUIET)
    path = media.mux(tmp_path / "a.mkv", *voices, codec="pcm_s16le", rate=RATE)
    with Ingest(
        str(path), vad=schema.VadConfig(), segments=schema.SegmentsConfig(), window_s=30, channels="split"
    ) as running:
        segments = list(running)
    audio = running.audio
    assert (audio.track, audio.mix, audio.split_tracks) == (1, "split", (1, 2))
    assert [track.number for track in audio.others] == [3]
    assert running.offsets == {1: 0, 2: start_s * RATE}
    assert running.decoded_samples == len(SPEECH) + start_s * RATE
    again = list(recut(str(path), [segment.plan for segment in segments]))
    assert [segment.plan for segment in again] == [segment.plan for segment in segments]
    assert all(np.array_equal(one.pcm, two.pcm) for one, two in zip(segments, again, strict=True))
    for number, alone in ((1, SPEECH), (2, other)):
        its = [segment for segment in segments if segment.plan.source == AudioSource(number, "stereo")]
        assert likeness(its, alone) > 0.99


def test_tracks_of_the_same_speech_or_another_kind_are_not_split(tmp_path: Path) -> None:
    chinese = media.recording("demo-zh.flac")[: len(SPEECH)]
    same = media.Voice(SPEECH, language="eng"), media.Voice(SPEECH // 2, language="eng")
    dubbed = same[0], media.Voice(chinese, language="chi")
    commented = same[0], media.Voice(chinese, title="Commentary")
    for number, voices in enumerate((same, dubbed, commented)):
        source, segments = prepared(media.mux(tmp_path / f"{number}.mkv", *voices), channels="split")
        assert source == AudioSource(1, "stereo")
        assert {segment.plan.source for segment in segments} == {source}


def test_channels_with_the_same_speech_are_not_split(tmp_path: Path) -> None:
    path = media.write_sound(tmp_path / "a.wav", np.column_stack([SPEECH, SPEECH]))
    assert prepared(path, channels="split")[0].mix == "stereo"
    mono = media.write_sound(tmp_path / "b.wav", SPEECH)
    assert prepared(mono, channels="split")[0].mix == "mono"
