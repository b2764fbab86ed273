"""Any media file becomes 16 kHz mono PCM, or a reason that a person understands."""

from __future__ import annotations

import errno
import os
import random
import struct
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
import soxr
from av.stream import Disposition

import media
from subtitled.errors import MediaError
from subtitled.media import demux
from subtitled.media.decode import MediaInfo, open_media
from subtitled.media.demux import _Clock
from subtitled.media.media_file import MediaFile

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

RATE = 16_000


def decode(path: Path, language: str | None = None) -> tuple[MediaInfo, NDArray[np.int16], int]:
    """Return the description, the whole PCM and the number of bad packets."""
    with open_media(str(path), language=language) as decoder:
        blocks = list(decoder)
        assert all(block.dtype == np.int16 and block.ndim == 1 and len(block) for block in blocks)
        return decoder.info, np.concatenate(blocks), decoder.bad_packets


def refusal(path: Path) -> str:
    """Return the error message of a file that cannot be decoded."""
    with pytest.raises(MediaError) as caught, open_media(str(path)) as decoder:
        list(decoder)
    assert repr(path.name) in str(caught.value)
    return str(caught.value)


def lag_and_likeness(got: NDArray[np.int16], wanted: NDArray[np.int16]) -> tuple[int, float]:
    """Return by how many samples `got` is late, and its correlation with what is wanted there."""
    size = 1 << (len(got) + len(wanted)).bit_length()
    spectrum = np.fft.rfft(got.astype(float), size) * np.conj(np.fft.rfft(wanted.astype(float), size))
    correlation = np.fft.irfft(spectrum, size)
    lag = int(np.argmax(correlation))
    norm = np.linalg.norm(got.astype(float)) * np.linalg.norm(wanted.astype(float))
    return (lag if lag < len(got) else lag - size), float(correlation[lag] / norm)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_silence_before_a_mix_is_not_resampled_and_changes_no_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int
) -> None:
    """The postponed silence of a whole file would take longer than a decoder may be without progress."""
    left = media.noise(10 * rate)
    right = left.copy()
    at = 8 * rate + 12_345
    right[at:] = media.noise(len(left) - at, peak=9_000)
    pcm = np.column_stack([left, right])
    wav = media.write_sound(tmp_path / "a.wav", pcm, rate=rate)
    flac = media.write_sound(tmp_path / "a.flac", pcm, rate=rate)
    with open_media(str(wav)) as decoder:
        together = np.concatenate(list(decoder.each(("left", "difference"))), axis=1)
    resample_chunk, resampled = soxr.ResampleStream.resample_chunk, []

    def counted(stream: Any, samples: NDArray[np.float32], **options: Any) -> Any:
        resampled.append(len(samples))
        return resample_chunk(stream, samples, **options)

    monkeypatch.setattr(soxr.ResampleStream, "resample_chunk", counted)
    with open_media(str(flac)) as decoder:  # its blocks have other sizes
        (alone,) = np.concatenate(list(decoder.each(("difference",))), axis=1)
    assert sum(resampled) < 3.1 * rate
    assert np.array_equal(together[1], alone)
    whole = soxr.resample((left.astype(np.float32) - right) / 2, rate, RATE)
    assert np.abs(alone - whole[: len(alone)]).max() < 1
    assert len(alone) == len(whole)


@pytest.mark.parametrize(
    ("name", "subtype", "rate", "channels"),
    [
        ("16 bit.wav", "PCM_16", 16_000, 1),
        ("5.1 of 24 bit.wav", "PCM_24", 44_100, 6),
        ("telephone.wav", "PCM_16", 8_000, 1),
        ("u8.wav", "PCM_U8", 22_050, 2),
        ("float.wav", "FLOAT", 48_000, 2),
        ("double.w64", "DOUBLE", 11_025, 1),
        ("32 bit.rf64", "PCM_32", 96_000, 2),
        ("law.wav", "ULAW", 8_000, 1),
        ("adpcm.wav", "MS_ADPCM", 16_000, 1),
        ("apple.aiff", "PCM_24", 44_100, 1),
        ("sun.au", "PCM_16", 32_000, 2),
        ("core.caf", "PCM_16", 44_100, 1),
        ("free.flac", "PCM_24", 48_000, 2),
        ("vorbis.ogg", "VORBIS", 44_100, 2),
        ("opus.ogg", "OPUS", 48_000, 1),
    ],
)
def test_sound_files_of_any_rate_channels_and_depth(
    tmp_path: Path, name: str, subtype: str, rate: int, channels: int
) -> None:
    import soxr

    pcm = media.speech(3)
    at_rate = soxr.resample(pcm / 32768, RATE, rate)
    path = media.write_sound(
        tmp_path / name, np.column_stack([at_rate] * channels), rate=rate, subtype=subtype
    )
    info, got, bad_packets = decode(path)
    assert (info.sample_rate, info.channels, info.offset_samples, bad_packets) == (rate, channels, 0, 0)
    assert abs(len(got) - len(pcm)) <= 1_200
    lag, likeness = lag_and_likeness(got, pcm)
    assert abs(lag) <= 16
    assert likeness > (0.95 if rate < RATE else 0.98)


@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout", "late"),
    [
        ("a.mp3", "libmp3lame", 44_100, "stereo", 0),
        ("a.m4a", "aac", 44_100, "stereo", 0),
        ("a.mp4", "aac", 48_000, "5.1", 0),
        ("a.mov", "pcm_s16le", 44_100, "stereo", 0),
        ("a.mkv", "ac3", 48_000, "5.1", 0),
        ("seven.mkv", "aac", 48_000, "7.1", 0),
        ("eight.mov", "pcm_s16le", 48_000, "7.1", 0),
        ("a.webm", "libopus", 48_000, "stereo", 0),
        ("a.opus", "libopus", 24_000, "mono", 0),
        ("a.ogg", "flac", 16_000, "mono", 0),
        # Neither format says how much the encoder put before the sound; players hear it late, too.
        ("a.aac", "aac", 22_050, "mono", 1_024 / 22_050),
        ("a.avi", "libmp3lame", 44_100, "stereo", 1_105 / 44_100),
        ("a.wma", "wmav2", 44_100, "stereo", 0.05),
        ("a.ts", "aac", 48_000, "stereo", 1_024 / 48_000),
        ("a.flv", "libmp3lame", 44_100, "mono", 1_105 / 44_100),
        ("a.mpg", "mp2", 44_100, "stereo", 0.02),
        ("a.m4b", "alac", 44_100, "stereo", 0),
    ],
)
def test_containers_and_codecs(
    tmp_path: Path, name: str, codec: str, rate: int, layout: str, late: float
) -> None:
    pcm = media.speech(3)
    container = {"a.m4b": "a.mp4"}.get(name, name)
    path = media.mux(tmp_path / container, media.Voice(pcm), codec=codec, rate=rate, layout=layout)
    path = path.rename(tmp_path / "misnamed.txt")
    info, got, bad_packets = decode(path)
    assert (info.channels, bad_packets) == (av.AudioLayout(layout).nb_channels, 0)
    lag, likeness = lag_and_likeness(got, pcm)
    assert -16 <= info.offset_samples + lag <= late * RATE + 32
    assert likeness > 0.95
    assert abs(len(got) - len(pcm)) < 0.15 * RATE


def test_16_khz_mono_passes_unchanged(tmp_path: Path) -> None:
    pcm = np.concatenate([media.speech(1), np.array([-32_768, 32_767, 0, -1], np.int16)])
    for name in ("a.wav", "a.flac"):
        assert np.array_equal(decode(media.write_sound(tmp_path / name, pcm))[1], pcm)


def test_channels_are_averaged(tmp_path: Path) -> None:
    both = np.column_stack([np.full(2_000, 1_000, np.int16), np.full(2_000, -400, np.int16)])
    assert set(decode(media.write_sound(tmp_path / "a.wav", both))[1].tolist()) == {300}


def test_surround_without_sound_in_the_centre_is_heard_without_its_low_channel(tmp_path: Path) -> None:
    speech = media.speech(3)
    quiet, rumble = np.zeros_like(speech), media.noise(len(speech), peak=20_000)
    fronts = np.column_stack([speech, speech, quiet, rumble, quiet, quiet])
    assert lag_and_likeness(decode(media.write_sound(tmp_path / "a.wav", fronts))[1], speech)[1] > 0.98


def test_broken_floats_do_not_silence_what_follows(tmp_path: Path) -> None:
    tone = np.sin(np.arange(44_100 * 2) / 20).astype(np.float32) / 2
    tone[100] = np.nan
    tone[200] = np.inf
    _, got, _ = decode(media.write_sound(tmp_path / "a.wav", tone, rate=44_100, subtype="FLOAT"))
    assert np.abs(got[RATE:].astype(int)).max() > 10_000


def test_blocks_are_bounded_for_any_number_of_channels(tmp_path: Path) -> None:
    path = media.write_sound(tmp_path / "a.wav", np.zeros((50_000, 64), np.int16))
    with open_media(str(path)) as decoder:
        assert max(len(block) for block in decoder) <= 1_024


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_audio_that_starts_late_is_offset_by_so_much(tmp_path: Path, name: str) -> None:
    path = media.mux(tmp_path / name, media.Voice(media.speech(2), start_s=1.5), rate=48_000, picture_s=4)
    assert abs(heard_at(path, media.speech(2)) - 1.5) < 0.03


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.mka", "a.m4a", "a.ogg", "a.nut"])
def test_a_lone_track_starts_at_zero_wherever_its_clock_starts(tmp_path: Path, name: str) -> None:
    codec = "flac" if name == "a.ogg" else "aac"
    path = media.mux(tmp_path / name, media.Voice(media.speech(2), start_s=1.5), rate=48_000, codec=codec)
    assert abs(heard_at(path, media.speech(2))) < 0.03


def heard_at(path: Path, pcm: NDArray[np.int16]) -> float:
    """Return the second at which `pcm` is heard, by the file's own times."""
    info, got, _ = decode(path)
    return (info.offset_samples + lag_and_likeness(got, pcm)[0]) / RATE


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.ts"])
def test_a_gap_in_the_timestamps_becomes_silence(tmp_path: Path, name: str) -> None:
    pcm = media.speech(4) // 2 + media.noise(4 * RATE)
    path = media.mux(tmp_path / name, media.Voice(pcm), rate=48_000, holes=((1.0, 2.5), (3.0, 0.4)))
    info, got, _ = decode(path)
    assert abs(len(got) - len(pcm) - 2.9 * RATE) < 0.1 * RATE
    for start, end, moved in ((0, 1, 0), (1, 3, 2.5), (3, 4, 2.9)):
        part = pcm[int((start + 0.1) * RATE) : int((end - 0.1) * RATE)]
        lag, _ = lag_and_likeness(got, part)
        assert abs(lag / RATE - start - 0.1 - moved) < 0.05
    assert not got[int(1.2 * RATE) : int(3.3 * RATE)].any()
    assert info.offset_samples == 0


def test_timestamps_place_frames() -> None:
    second = 16_000
    cases: list[tuple[list[int | None], list[tuple[int, int]]]] = [
        ([0, 1_600, 3_200], [(0, 0)] * 3),
        ([500, None, None], [(0, 0)] * 3),
        # Rounding is no gap and no overlap.
        ([0, 1_700, 3_300, 4_700], [(0, 0)] * 4),
        # A gap, an overlap of a frame and a half, then time as usual.
        ([0, 1_600 + second, 3_200 + second], [(0, 0), (second, 0), (0, 0)]),
        (
            [0, 1_600, 3_200, 2_400 - 1_600, 2_400, 4_000, 5_600],
            [(0, 0)] * 3 + [(0, 1_600), (0, 1_600), (0, 800), (0, 0)],
        ),
        # Timestamps that starts again, or never move, cost no sound.
        ([90 * second, 90 * second + 1_600, 0, 1_600], [(0, 0)] * 4),
        ([0, 0, 0, 0, 0], [(0, 0)] * 5),
        # What would be weeks of silence, or lie long after the file's end, is broken; true times count again.
        ([0, second * 86_400 * 30, second * 86_400 * 30 + 1_600, *[None] * 3], [(0, 0)] * 6),
        ([0, second * 1_001, second * 1_001 + 1_600, 4_800], [(0, 0)] * 4),
        ([0, second * 999], [(0, 0), (999 * second - 1_600, 0)]),
    ]
    for stamps, placed in cases:
        clock = _Clock(Fraction(1, second), latest_ns=None if len(stamps) > 4 else 10**12)
        assert [clock.place(stamp, 1_600, second) for stamp in stamps] == placed, stamps


def test_the_default_track_is_taken_else_the_first(tmp_path: Path) -> None:
    english, chinese = (
        media.Voice(media.speech(2), language="eng"),
        media.Voice(media.recording("demo-zh.flac")[: 3 * RATE], language="chi"),
    )
    first = media.mux(tmp_path / "a.mkv", english, chinese, picture_s=1)
    default = media.mux(
        tmp_path / "b.mkv", english, media.Voice(chinese.pcm, language="chi", is_default=True)
    )
    assert decode(first)[0].track == 1
    assert decode(default)[0].track == 2
    assert decode(default, "en")[0].track == 1
    assert decode(first, "zh")[0].track == 2
    assert decode(first, "fr")[0].track == 1
    assert lag_and_likeness(decode(first, "zh")[1], chinese.pcm)[1] > 0.9


@pytest.mark.parametrize("mark", [Disposition.comment, Disposition.visual_impaired])
def test_commentary_is_heard_only_if_there_is_no_other_track(tmp_path: Path, mark: Disposition) -> None:
    marked = Disposition.default | mark
    voices = [media.Voice(media.speech(1), language="eng"), media.Voice(media.speech(1), language="eng")]
    both = media.mux(tmp_path / "a.mkv", *voices, dispositions=(marked, Disposition(0)))
    alone = media.mux(tmp_path / "b.mkv", voices[0], dispositions=(marked,))
    assert (decode(both)[0].track, decode(both, "en")[0].track, decode(alone)[0].track) == (2, 2, 1)


def test_damaged_packets_are_skipped_and_counted(tmp_path: Path) -> None:
    pcm = media.speech(12)
    for name, codec in (("a.flac", None), ("a.mkv", "aac"), ("a.mp3", "libmp3lame"), ("a.ts", "aac")):
        path = tmp_path / name
        if codec is None:
            media.write_sound(path, pcm)
        else:
            media.mux(path, media.Voice(pcm), codec=codec, rate=48_000)
        data = bytearray(path.read_bytes())
        middle = len(data) // 2
        data[middle : middle + 4_000] = random.Random(3).randbytes(4_000)
        path.write_bytes(data)
        _, got, bad_packets = decode(path)
        assert abs(len(got) - len(pcm)) < RATE, name
        assert bad_packets, name
        tail = pcm[9 * RATE :]
        lag, _ = lag_and_likeness(got[8 * RATE :], tail)
        # Bare MP3 has no timestamps: what is lost is missing.
        assert abs(lag - RATE) < (RATE // 2 if name == "a.mp3" else RATE // 8), name


def test_search_for_a_following_stream_loses_no_audio(tmp_path: Path) -> None:
    path = media.mux(
        tmp_path / "a.ogg", media.Voice(media.noise(40 * RATE)), codec="flac", rate=RATE, layout="mono"
    )
    opening = path.read_bytes()[:200].partition(b"OggS\0\x02")
    for tail in (b"", b"".join(opening[1:])):
        path.write_bytes(path.read_bytes() + tail)
        file = MediaFile(str(path))
        track = demux.Track(file)
        whole = _samples_of(track)
        track.close()
        file.seek(0)
        track = demux.Track(file)
        assert not track._open_next_stream()
        assert _samples_of(track) == whole
        track.close()
        file.close()


def test_disk_error_during_the_search_for_a_following_stream_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = media.mux(tmp_path / "a.ogg", media.Voice(media.speech(2)), codec="libopus", rate=48_000)
    file = MediaFile(str(path))
    track = demux.Track(file)

    def fail(_: int) -> bytes:
        file.fault = OSError(errno.EIO, "Input/output error")
        raise file.fault

    monkeypatch.setattr(file, "read", fail)
    assert not track._open_next_stream()
    assert file.fault is not None
    track.close()
    file.close()


def _samples_of(track: demux.Track) -> int:
    return sum(pcm.shape[1] for _, pcm in track.blocks([track.info.channel_names[0]]))


def test_a_file_cut_short_gives_what_is_there(tmp_path: Path) -> None:
    pcm = media.speech(8)
    made = [media.write_sound(tmp_path / name, pcm) for name in ("a.wav", "a.flac")]
    made += [
        media.mux(tmp_path / name, media.Voice(pcm), codec="aac", rate=48_000)
        for name in ("a.mkv", "a.ts", "a.aac")
    ]
    made.append(media.mux(tmp_path / "a.mp4", media.Voice(pcm), muxer={"movflags": "faststart"}))
    made.append(media.mux(tmp_path / "a.mp3", media.Voice(pcm), codec="libmp3lame"))
    for path in made:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        _, got, _ = decode(path)
        assert 2 * RATE < len(got) < 6 * RATE, path.name


def test_files_that_are_no_media_say_so(tmp_path: Path) -> None:
    text = tmp_path / "talk.mp4"
    text.write_text("Dear diary,\n" * 500)
    assert "is not media" in refusal(text)
    junk = tmp_path / "junk.mp3"
    junk.write_bytes(random.Random(5).randbytes(20_000))
    refusal(junk)
    empty = tmp_path / "empty.wav"
    empty.touch()
    assert "is empty (0 bytes)" in refusal(empty)


def test_an_incomplete_mp4_says_so(tmp_path: Path) -> None:
    path = media.mux(tmp_path / "cut.mp4", media.Voice(media.speech(3)))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert "incomplete" in refusal(path)


def test_media_without_audio_say_so(tmp_path: Path) -> None:
    assert "has no audio track (it contains video)" in refusal(
        media.mux(tmp_path / "silent film.mp4", picture_s=1)
    )
    header = media.write_sound(tmp_path / "header.wav", np.empty(0, np.int16))
    assert header.stat().st_size == 44
    assert "contains no audio" in refusal(header)
    header.write_bytes(media.write_sound(tmp_path / "full.wav", media.speech(1)).read_bytes()[:44])
    assert "contains no audio" in refusal(header)
    assert "contains no audio" in refusal(media.write_sound(tmp_path / "empty.aiff", np.empty(0, np.int16)))


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("a.wav", {4: bytes(4), 40: bytes(4)}),
        ("a.wav", {4: bytes([36, 0, 0, 0]), 40: bytes(4)}),
        ("a.wav", {4: b"\xff" * 4, 40: b"\xff" * 4}),
        ("a.wav", {4: b"\xff\xff\xff\x7f", 40: b"\xdb\xff\xff\x7f"}),
        ("a.aiff", {4: b"\xff" * 4, 22: b"\xff" * 4, 42: b"\xff" * 4}),
        ("a.au", {8: b"\xff" * 4}),
        ("a.w64", {16: bytes(8), 96: bytes(8)}),
    ],
)
def test_sound_whose_size_was_never_written_is_read_to_its_end(
    tmp_path: Path, name: str, sizes: dict[int, bytes]
) -> None:
    pcm = media.speech(2)
    path = media.write_sound(tmp_path / name, pcm)
    data = bytearray(path.read_bytes())
    for place, size in sizes.items():
        data[place : place + len(size)] = size
    path.write_bytes(data)
    info, got, bad_packets = decode(path)
    assert np.array_equal(got, pcm)
    assert (info.offset_samples, bad_packets) == (0, 0)


def test_an_impossible_sample_rate_is_refused(tmp_path: Path) -> None:
    """A minute at 1 Hz would be a million samples of nothing at 16 kHz."""
    path = media.write_sound(tmp_path / "slow.wav", media.speech(1))
    data = bytearray(path.read_bytes())
    data[24:28] = struct.pack("<I", 1)
    path.write_bytes(data)
    assert "1 Hz" in refusal(path)


def test_files_that_cannot_be_opened_say_why(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "gone.wav")
    dangling = tmp_path / "dangling.wav"
    dangling.symlink_to("nowhere")
    assert "does not exist" in refusal(dangling)
    folder = tmp_path / "x.wav"
    folder.mkdir()
    assert "is a directory" in refusal(folder)
    os.mkfifo(tmp_path / "pipe.wav")
    assert "device or pipe" in refusal(tmp_path / "pipe.wav")
    with pytest.raises(MediaError, match="cannot be opened"):
        open_media("nul\0.wav")


def test_a_disk_that_fails_differs_from_a_file_that_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = media.mux(tmp_path / "a.mkv", media.Voice(media.speech(20)))
    intact = MediaFile.read
    for failing in (0, path.stat().st_size // 2):

        def read(self: MediaFile, size: int, failing: int = failing) -> bytes:
            if self.tell() >= failing:
                self.fault = OSError(errno.EIO, "Input/output error")
                raise self.fault
            return intact(self, size)

        monkeypatch.setattr(MediaFile, "read", read)
        assert "Input/output error; check the disk" in refusal(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_says_so(tmp_path: Path) -> None:
    path = media.write_sound(tmp_path / "secret.wav", media.speech(1))
    path.chmod(0)
    assert "permissions" in refusal(path)


@pytest.mark.parametrize(
    "name", ["with\nnewline.wav", "中文 🎧.wav", "x" * 251 + ".wav", "http:__h.wav", "-i.wav"]
)
def test_any_name_works(tmp_path: Path, name: str) -> None:
    assert len(decode(media.write_sound(tmp_path / name, media.speech(1)))[1]) == RATE
    path = media.mux(tmp_path / "a.mp3", media.Voice(media.speech(1)), codec="libmp3lame").rename(
        tmp_path / name
    )
    assert len(decode(path)[1]) == RATE


def test_a_name_that_is_not_text_is_named_in_one_line(tmp_path: Path) -> None:
    name = os.fsdecode(b"bad\xff\n.wav")
    (tmp_path / name).write_bytes(b"x" * 100)
    message = refusal(tmp_path / name)
    assert message.isprintable()


SCRIPTS = {
    "concat script": "ffconcat version 1.0\nfile real.wav\n",
    "playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nreal.ts\n#EXT-X-ENDLIST\n",
}


@pytest.mark.parametrize("kind", SCRIPTS)
@pytest.mark.parametrize("name", ["x.wav", "x.m3u8", "x.mp4"])
def test_a_script_never_opens_what_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    """FFmpeg itself would: the control below, with the locks taken off, decodes the other file."""
    media.write_sound(tmp_path / "real.wav", media.speech(3))
    media.mux(tmp_path / "real.ts", media.Voice(media.speech(3)))
    script = tmp_path / name
    script.write_text(SCRIPTS[kind])
    monkeypatch.chdir(tmp_path)
    assert "is a playlist" in refusal(script)

    monkeypatch.setattr(demux, "_NO_PROTOCOL", "file,crypto,data")
    assert "is a playlist" in refusal(script)
    options: Any = {
        "protocol_whitelist": "file,crypto,data",
        "allowed_extensions": "ALL",
        "extension_picky": "0",
    }
    if kind == "playlist" and name != "x.m3u8":
        return  # by its content alone FFmpeg 8 takes no playlist
    with av.open(script.name, container_options=options) as container:
        assert container.format.name in {"concat", "hls"}
        assert sum(frame.samples for frame in container.decode(audio=0)) > RATE


def test_the_format_lock_alone_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the list of formats, and with files allowed, the script is followed: so the list is what stops it."""
    media.write_sound(tmp_path / "real.wav", media.speech(3))
    script = tmp_path / "x.wav"
    script.write_text(SCRIPTS["concat script"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demux, "_NO_PROTOCOL", "file")
    refusal(script)
    monkeypatch.setattr(demux, "_CONTAINERS", demux._CONTAINERS + ",concat")
    assert len(decode(script)[1]) == 3 * RATE


def test_a_movie_never_opens_the_file_it_refers_to(tmp_path: Path) -> None:
    """QuickTime may keep its samples in another file; FFmpeg follows that only with an option, as the control does."""
    other = media.mux(
        tmp_path / "other.mov", media.Voice(media.speech(3)), codec="pcm_s16le", rate=RATE, layout="mono"
    )
    data = other.read_bytes()
    size = int.from_bytes(data[data.index(b"mdat") - 4 :][:4])
    start = data.index(b"mdat") + 4
    movie = tmp_path / "movie.mov"
    movie.write_bytes(
        data[:start] + bytes(size - 8) + referring(data[start + size - 8 :], str(other).encode())
    )

    options: Any = {"enable_drefs": "1", "use_absolute_path": "1"}
    with av.open(str(movie), container_options=options) as container:
        assert any(frame.to_ndarray().any() for frame in container.decode(audio=0))
    with pytest.raises(MediaError), open_media(str(movie)) as decoder:
        assert not any(block.any() for block in decoder)


def referring(moov: bytes, path: bytes) -> bytes:
    """Return the boxes of a movie whose samples are in the file at `path`, by a Macintosh alias."""
    path += bytes(len(path) % 2)
    alias = (
        bytes(10 + 28 + 12 + 64 + 16 + 4 + 16)
        + struct.pack(">HH", 2, len(path))
        + path
        + struct.pack(">HH", 0xFFFF, 0)
    )
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    place = moov.index(b"dref") + 12
    grown = len(entry) - int.from_bytes(moov[place : place + 4])
    moov = moov[:place] + entry + moov[place + int.from_bytes(moov[place : place + 4]) :]
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        at = moov.rindex(box, 0, place) - 4
        moov = moov[:at] + struct.pack(">I", int.from_bytes(moov[at : at + 4]) + grown) + moov[at + 4 :]
    return moov
