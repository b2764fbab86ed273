"""The track and the mix in which speech is clearest are chosen by what a file holds."""

from __future__ import annotations

import numpy as np
import pytest

from subtitle.messages import AudioTrack
from subtitled.media.mixing import (
    ENOUGH_FRAMES,
    Evidence,
    Mix,
    choose_mix,
    choose_track,
    default_mix,
    fallback_of,
    is_cancelled,
    measured_mixes,
    order_tracks,
    weights_of,
)

SURROUND = ("FL", "FR", "FC", "LFE", "BL", "BR")


def evidence(
    mixes: tuple[Mix, ...], speech: tuple[str, str], power: tuple[float, float], correlation: float = 0
) -> Evidence:
    """Return what was measured in two mixes: `speech` has one digit for each 10 s, `power` is the same in all frames."""
    heard = np.array([[digit == "1" for digit in row] for row in speech]).repeat(ENOUGH_FRAMES, axis=1)
    cross = correlation * np.sqrt(power[0] * power[1])
    frame = np.array([[power[0], cross], [cross, power[1]]], np.float32)
    return Evidence(mixes=mixes, speech=heard, power=np.repeat(frame[:, :, None], heard.shape[1], axis=2))


def stereo(
    left: str, right: str, power: tuple[float, float], correlation: float = 0, *, is_split: bool = False
) -> str:
    return choose_mix(evidence(("left", "right"), (left, right), power, correlation), is_split=is_split)


def surround(centre: str, others: str, power: tuple[float, float]) -> str:
    return choose_mix(evidence(("centre", "surroundings"), (centre, others), power))


def test_one_channel_is_taken_as_it_is() -> None:
    assert measured_mixes(["FC"]) == ("mono",)
    assert default_mix(1) == "mono"
    assert weights_of(["FC"], "mono") is None


def test_stereo_with_the_same_speech_in_both_channels_is_averaged() -> None:
    assert stereo("11", "11", (1, 1), 0.9) == "stereo"
    assert stereo("11", "11", (1, 1), 0.0) == "stereo"
    assert weights_of(["FL", "FR"], "stereo") is None


@pytest.mark.parametrize("correlation", [-1, -0.7])
def test_louder_channel_is_taken_if_the_other_is_inverted(correlation: float) -> None:
    assert stereo("11", "11", (1, 1), correlation) == "left"
    assert stereo("11", "11", (1, 0.1), correlation) == "left"
    assert stereo("11", "11", (0.1, 1), correlation) == "right"
    weights = weights_of(["FL", "FR"], "difference")
    assert weights is not None
    assert weights.tolist() == [0.5, -0.5]


def test_speech_beside_a_quiet_channel_keeps_its_level() -> None:
    assert stereo("11", "00", (1, 0)) == "sum"
    assert stereo("00", "11", (0.01, 1)) == "sum"


def test_a_loud_channel_without_speech_is_left_out() -> None:
    assert stereo("11", "00", (1, 1)) == "left"
    assert stereo("00", "11", (3, 1)) == "right"


def test_two_voices_in_two_channels_are_both_kept() -> None:
    assert stereo("10", "01", (1, 1)) == "stereo"


def test_channels_are_split_unless_both_have_the_same_speech() -> None:
    assert stereo("10", "01", (1, 1), is_split=True) == "split"
    assert stereo("11", "00", (1, 0), is_split=True) == "split"
    assert stereo("11", "00", (1, 0.05), 0.95, is_split=True) == "split", "the left leaks into the right"
    assert stereo("11", "11", (1, 1), 0.95, is_split=True) == "stereo"
    assert stereo("11", "11", (1, 1), -1, is_split=True) == "left"


def test_a_centre_beside_loud_channels_is_taken_alone() -> None:
    assert surround("11", "00", (1, 1)) == "centre"
    assert surround("11", "11", (1, 0.1)) == "centre"
    weights = weights_of(SURROUND, "centre")
    assert weights is not None
    assert weights.tolist() == [0, 0, 1, 0, 0, 0]


def test_surround_without_doubt_is_mixed_whole() -> None:
    assert surround("11", "11", (1, 0.005)) == "surround"
    assert surround("00", "11", (1, 1)) == "surround"
    assert surround("00", "00", (0, 0)) == "surround"
    assert surround("110", "001", (1, 1)) == "surround", "a voice that is not in the centre"


def test_surround_is_mixed_by_itu_weights_without_its_low_channel() -> None:
    weights = weights_of(SURROUND, "surround")
    assert weights is not None
    assert weights.sum() == pytest.approx(1)
    assert weights / weights[2] == pytest.approx([0.7071, 0.7071, 1, 0, 0.5, 0.5])
    unnamed = weights_of([""] * 6, "surround")
    assert unnamed is not None
    assert unnamed.tolist() == weights.tolist()
    assert weights_of([""] * 12, "surround") is None


def test_each_mix_has_a_fallback_for_speech_in_other_channels() -> None:
    stereo_names = ("FL", "FR")
    assert [fallback_of(mix, stereo_names) for mix in ("left", "right", "stereo", "sum")] == [
        "right",
        "left",
        "difference",
        "difference",
    ]
    assert fallback_of("centre", SURROUND) == "surroundings"
    assert fallback_of("surround", SURROUND) == "centre"
    assert fallback_of("surround", ["FL", "FR", "BL", "BR"]) is None
    assert fallback_of("mono", ["FC"]) is None
    weights = weights_of(SURROUND, "surroundings")
    assert weights is not None
    assert weights / weights[0] == pytest.approx([1, 1, 0, 0, 0.7071, 0.7071], abs=1e-4)
    assert weights.sum() < 1.3


def test_audio_that_cancels_is_found_in_a_block() -> None:
    frames = np.repeat(np.array([0, 3_000, 3_000, 3_000, 3_000, 0], np.int16), 512)
    quiet = np.zeros_like(frames)
    assert is_cancelled(quiet, frames)
    assert is_cancelled(frames // 2, frames)
    assert not is_cancelled(frames, frames), "sound in one channel only"
    assert not is_cancelled(quiet, frames // 1_000), "no more than noise"
    assert not is_cancelled(quiet[: 4 * 512], frames[: 4 * 512]), "shorter than a word"


def test_a_mix_of_channels_that_are_missing_gives_way_to_the_default() -> None:
    assert weights_of(["FL", "FR"], "centre") is None
    assert weights_of(["FC"], "left") is None
    left, default = weights_of(SURROUND, "left"), weights_of(SURROUND, "surround")
    assert left is not None
    assert default is not None
    assert left.tolist() == default.tolist()


def test_the_first_track_with_much_speech_is_taken() -> None:
    assert choose_track([100, 200]) == 0
    assert choose_track([0, 200]) == 1
    assert choose_track([3, 200, 200]) == 1
    assert choose_track([0, 0]) is None


def numbers(tracks: list[AudioTrack], wanted: str = "auto", language: str | None = None) -> list[int]:
    return [track.number for track in order_tracks(tracks, wanted, language)]


def track(number: int, language: str = "", *flags: str, title: str = "", codec: str = "aac") -> AudioTrack:
    return AudioTrack(
        number=number, language=language, title=title, codec=codec, channels=2, flags=tuple(flags)
    )


def test_the_default_track_comes_first() -> None:
    assert numbers([track(1), track(2, "", "default"), track(3)]) == [2, 1, 3]


def test_the_language_decides_before_the_default() -> None:
    tracks = [track(1, "eng", "default"), track(2, "ger"), track(3, "jpn")]
    assert numbers(tracks, language="de") == [2, 1, 3]
    assert numbers(tracks, language="fr") == [1, 2, 3]


@pytest.mark.parametrize("flag", ["comment", "visual_impaired", "karaoke", "clean_effects", "descriptions"])
def test_marked_tracks_come_last(flag: str) -> None:
    assert numbers([track(1, "eng", "default", flag), track(2, "eng")]) == [2, 1]
    assert numbers([track(1, "eng", "default", flag)]) == [1]


@pytest.mark.parametrize(
    "title",
    ["Director's Commentary", "Audio Description", "English AD", "Audiokommentar", "Isolated Score", "解説"],
)
def test_tracks_with_the_title_of_a_commentary_come_last(title: str) -> None:
    assert numbers([track(1, "eng", "default", title=title), track(2, "eng", title="Stereo")]) == [2, 1]


def test_a_number_or_a_language_leaves_only_those_tracks() -> None:
    tracks = [track(1, "eng", "default"), track(2, "deu", "comment"), track(3, "ger")]
    assert numbers(tracks, "2", "en") == [2]
    assert numbers(tracks, "de") == [3, 2]
    assert numbers(tracks, "german") == [3, 2]


def test_tracks_without_a_decoder_are_left_out() -> None:
    assert numbers([track(1, "eng", "default", codec=""), track(2)]) == [2]
    with pytest.raises(ValueError, match="no decoder"):
        numbers([track(1, codec="")])


def test_a_missing_track_is_refused_with_a_list_of_those_in_the_file() -> None:
    tracks = [track(1, "eng", "default", title="Main"), track(2)]
    with pytest.raises(ValueError, match=r"^audio_track = 5: the file has 2 audio tracks: ") as caught:
        order_tracks(tracks, "5", None)
    assert str(caught.value).endswith('1 (eng, "Main", 2 channels, default); 2 (no language, 2 channels)')
    with pytest.raises(ValueError, match="audio_track = 'de': no audio track is in German; the file has 2"):
        order_tracks(tracks, "de", None)
    with pytest.raises(ValueError, match="audio_track = 1: its format has no decoder"):
        order_tracks([track(1, codec="")], "1", None)
    assert AudioTrack(number=3, channels=1).summary == "3 (no language, 1 channel)"
