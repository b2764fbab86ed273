"""A file whose speech is not in the plain mix of its first track comes back with correct subtitles."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from av.stream import Disposition

import media
from daemon import Daemon, InboxFolder
from subtitled.cues.render import read_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECONDS = 16


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run a daemon that gets all files of this module at once."""
    folder = tmp_path_factory.mktemp("daemon")
    speech = media.speech(SECONDS)
    quiet, loud = np.zeros_like(speech), media.noise(len(speech), peak=8_000)
    inboxes = (
        InboxFolder(options={"language": "en"}),
        InboxFolder(name="chosen", options={"language": "en", "audio_track": 2}),
    )
    with Daemon(folder, inboxes=inboxes) as running:
        sound = np.column_stack
        running.drop(media.write_sound(folder / "1.flac", sound([speech, -speech])), "inverted.flac")
        surround = sound([loud, loud[::-1], speech, loud, loud, loud[::-1]])
        running.drop(media.write_sound(folder / "2.flac", surround), "centre.flac")
        running.drop(media.mux(folder / "3.mkv", media.Voice(quiet), media.Voice(speech)), "second.mkv")
        voices = (media.Voice(media.recording("demo-zh.flac")[: len(speech)]), media.Voice(speech))
        marks = (Disposition.default | Disposition.comment, Disposition(0))
        running.drop(media.mux(folder / "4.mkv", *voices, dispositions=marks), "commentary.mkv")
        first = media.speech(35)
        channels = sound([first, media.noise(len(first), 4_000)]), sound([quiet, speech])
        running.drop(media.write_sound(folder / "7.flac", np.concatenate(channels)), "later.flac")
        chosen = folder / "chosen"
        pair = media.mux(folder / "5.mkv", media.Voice(media.speech(3)), media.Voice(quiet))
        running.drop(pair, "silent.mkv", inbox=chosen)
        running.drop(media.mux(folder / "6.mkv", media.Voice(media.speech(3))), "one.mkv", inbox=chosen)
        running.start()
        yield running
        running.stop()


@pytest.mark.parametrize(
    ("name", "track", "mix", "others"),
    [
        ("inverted.flac", 1, "left", ""),
        ("centre.flac", 1, "centre", ""),
        ("second.mkv", 2, "stereo", "1 (no language, 2 channels)"),
        ("commentary.mkv", 2, "stereo", "1 (no language, 2 channels, default, comment)"),
    ],
)
def test_all_speech_is_transcribed_and_its_place_is_reported(
    daemon: Daemon, name: str, track: int, mix: str, others: str
) -> None:
    job = daemon.wait_for(daemon.inbox / name)
    assert job.state == "done"
    transcript = daemon.transcript(f"{name.partition('.')[0]}.en")
    true_text = " ".join(said.text for said in media.true_text() if said.end_ms < SECONDS * 1000 - 500)
    said = words(true_text)
    got = words(" ".join(phrase.text for segment in transcript.segments for phrase in segment.phrases))
    assert got[: len(said)] == said
    assert transcript.audio == job.audio
    assert job.audio is not None
    assert (job.audio.track, job.audio.mix) == (track, mix)
    line = daemon.wait_for_log("job.done", job=job.id)
    assert (line["track"], line["mix"], line.get("other_tracks", "")) == (track, mix, others)


def test_speech_that_is_later_in_the_other_channel_only_is_transcribed(daemon: Daemon) -> None:
    """The first speaker is in the left channel beside noise, the second one then in the right channel."""
    job = daemon.wait_for(daemon.inbox / "later.flac")
    assert job.audio is not None
    assert (job.audio.mix, job.audio.fallback) == ("left", "right")
    transcript = daemon.transcript("later.en")
    later = [cue for cue in transcript.cues if cue.start_ms >= 35_000]
    for said in media.true_text()[:3]:
        match = next((cue for cue in later if said.text.startswith(" ".join(cue.lines)[:20])), None)
        assert match is not None, later
        assert abs(match.start_ms - said.start_ms - 35_000) < 300
    starts = [cue.start_ms for cue in transcript.cues]
    assert starts == sorted(starts)
    line = daemon.wait_for_log("job.done", job=job.id)
    assert (line["mix"], line["fallback_mix"]) == ("left", "right")
    played = np.frombuffer(daemon.client.audio(job.id, 36_000, 1_000)[1], "<i2")
    assert np.abs(played).max() > 1_000, "the player plays both"


def test_a_track_chosen_by_its_number_is_the_only_one(daemon: Daemon) -> None:
    job = daemon.wait_for(daemon.folder / "chosen" / "silent.mkv")
    assert job.state == "done"
    assert job.audio is not None
    assert (job.audio.track, sum(job.segments.values())) == (2, 0)


def test_a_file_without_the_chosen_track_fails_with_a_list_of_its_tracks(daemon: Daemon) -> None:
    job = daemon.wait_for(daemon.folder / "chosen" / "one.mkv")
    assert job.state == "failed"
    assert job.cause == (
        "'one.mkv': audio_track = 2: the file has 1 audio track: 1 (no language, 2 channels)"
    )


def test_split_channels_have_their_own_cues(daemon: Daemon, tmp_path: Path) -> None:
    """A conversation: the second voice begins while the first one speaks."""
    first, second = media.speech(SECONDS), np.roll(media.speech(SECONDS), 4 * 16_000)
    path = media.write_sound(tmp_path / "call.wav", np.column_stack([first, second]))
    handle = daemon.client.submit(path, language="en", channels="split", formats=["json", "srt"])
    handle.wait(timeout_s=120)
    audio = handle.facts().audio
    assert audio is not None
    assert audio.mix == "split"
    transcript = read_json(handle.text("json").encode())
    assert {segment.channel for segment in transcript.segments} == {"left", "right"}
    starts = [cue.start_ms for cue in transcript.cues]
    assert starts == sorted(starts)
    true_text = " ".join(said.text for said in media.true_text() if said.end_ms < 11_000)
    said = words(true_text)
    for channel in ("left", "right"):
        got = words(" ".join(" ".join(cue.lines) for cue in transcript.cues if cue.channel == channel))
        assert "".join(said) in "".join(got)


def test_split_tracks_have_their_own_cues(daemon: Daemon, tmp_path: Path) -> None:
    """A microphone and a call on tracks of their own; the second recording starts 3 s later."""
    first, second = media.speech(SECONDS), media.recording()[int(17.6 * 16_000) : int(33.0 * 16_000)]
    path = media.mux(tmp_path / "two.mkv", media.Voice(first), media.Voice(second, start_s=3.0))
    handle = daemon.client.submit(path, language="en", channels="split", formats=["json", "srt"])
    handle.wait(timeout_s=120)
    audio = handle.facts().audio
    assert audio is not None
    assert (audio.mix, audio.split_tracks, audio.others) == ("split", (1, 2), ())
    transcript = read_json(handle.text("json").encode())
    true_text = media.true_text()
    for channel, shift_ms, said in (("track 1", 0, true_text[1]), ("track 2", 3_000 - 17_600, true_text[8])):
        its = [cue for cue in transcript.cues if cue.channel == channel]
        match = next((cue for cue in its if said.text.startswith(" ".join(cue.lines)[:20])), None)
        assert match is not None, its
        assert abs(match.start_ms - said.start_ms - shift_ms) < 300
    assert handle.text("srt").count(" --> ") == len(transcript.cues)


def test_a_client_chooses_the_track_of_its_file(daemon: Daemon, tmp_path: Path) -> None:
    voices = (media.Voice(media.speech(3)), media.Voice(media.speech(3), language="ger"))
    path = media.mux(tmp_path / "talk.mkv", *voices)
    handle = daemon.client.submit(path, language="en", audio_track="German")
    handle.wait(timeout_s=120)
    audio = handle.facts().audio
    assert audio is not None
    assert audio.track == 2
