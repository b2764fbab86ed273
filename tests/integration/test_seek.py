"""Seeking in a media file returns the samples that decoding from the start gives at that time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import media
from media import Voice
from subtitled.errors import MediaError
from subtitled.media.decode import open_media
from subtitled.media.seek import RangeDecoder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

RATE = 16_000
PCM = media.recording()
"""75 s without two equal seconds."""
PLACES_S = (60.123, 2.5, 41.0, 42.0, 0.0, 0.3, 70.2, 43.0, 74.7)
"""Forwards, backwards, and adjacent."""


ALWAYS = frozenset({"16k.wav", "a.flac", "a.m4a", "late.mp4", "opus.mkv", "holes.mkv", "shifts.mkv"})
"""The formats of the short form; the others are long tests."""


def wave(path: Path, rate: int, subtype: str) -> Path:
    return media.write_sound(path, PCM, rate=rate, subtype=subtype)


FILES: dict[str, Callable[[Path], Path]] = {
    "16k.wav": lambda path: wave(path, 16_000, "PCM_16"),
    "44k1.wav": lambda path: wave(path, 44_100, "PCM_24"),
    "8k.wav": lambda path: wave(path, 8_000, "ULAW"),
    "a.flac": lambda path: media.write_sound(path, PCM, rate=48_000),
    "a.mp3": lambda path: media.mux(path, Voice(PCM), codec="libmp3lame"),
    "a.aac": lambda path: media.mux(path, Voice(PCM)),
    "a.m4a": lambda path: media.mux(path, Voice(PCM)),
    "video.mp4": lambda path: media.mux(path, Voice(PCM), picture_s=75),
    "late.mp4": lambda path: media.mux(path, Voice(PCM, start_s=2.5), picture_s=75),
    "opus.mkv": lambda path: media.mux(path, Voice(PCM), picture_s=75, codec="libopus", rate=48_000),
    "late.mkv": lambda path: media.mux(
        path, Voice(PCM, start_s=2.5), picture_s=75, codec="libopus", rate=48_000
    ),
    "aac.mkv": lambda path: media.mux(path, Voice(PCM), picture_s=75),
    "a.ogg": lambda path: media.mux(path, Voice(PCM), codec="libopus", rate=48_000),
    "a.webm": lambda path: media.mux(path, Voice(PCM), codec="libopus", rate=48_000),
    "a.avi": lambda path: media.mux(path, Voice(PCM), codec="libmp3lame", picture_s=75),
    "holes.mkv": lambda path: media.mux(
        path, Voice(PCM), holes=((20, 7.0), (50, 0.5)), codec="libopus", rate=48_000
    ),
    # Each gap is too short to be filled; together they shift the audio noticeably.
    "shifts.mkv": lambda path: media.mux(
        path, Voice(PCM), holes=((20, 0.06), (40, 0.03), (50, -15.0)), codec="libopus", rate=48_000
    ),
}


def decoded(path: Path) -> tuple[NDArray[np.int16], int]:
    """Return the samples of a whole file, and its `drift_ms`."""
    with open_media(str(path)) as decoder:
        return np.concatenate(list(decoder)), decoder.drift_ms


def loudness(samples: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(samples.astype(np.float64)))))


def lag(heard: NDArray[np.int16], meant: NDArray[np.int16]) -> int:
    """Return by how many samples `heard` is later than `meant`."""
    size = 1 << (2 * len(meant)).bit_length()
    product = np.conj(np.fft.rfft(meant, size)) * np.fft.rfft(heard, size)
    at = int(np.argmax(np.fft.irfft(product, size)))
    return at if at < size // 2 else at - size


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in ALWAYS else [pytest.mark.long]) for name in FILES]
)
def test_seeking_returns_the_samples_of_that_time(tmp_path: Path, name: str) -> None:
    path = FILES[name](tmp_path / name)
    whole, drift_ms = decoded(path)
    with RangeDecoder(str(path), drift_ms=drift_ms) as ranges:
        for place_s in PLACES_S:
            start = int(place_s * RATE)
            meant = whole[start : start + RATE]
            heard = ranges.read(start, RATE)
            assert abs(len(heard) - len(meant)) <= 16
            if not meant.any():
                continue
            if name.endswith((".mkv", ".webm")):
                # Its timestamps are rounded to milliseconds.
                assert abs(lag(heard, meant)) <= 16
            else:
                # AAC decoders add noise, which differs each time.
                assert lag(heard, meant) == 0
                assert loudness(heard.astype(int) - meant) <= loudness(meant) / 50 + 1


def test_adjacent_ranges_join_without_a_gap(tmp_path: Path) -> None:
    path = FILES["opus.mkv"](tmp_path / "opus.mkv")
    with RangeDecoder(str(path)) as ranges:
        parts = [ranges.read(50 * RATE + 777 * number, 777) for number in range(50)]
    with RangeDecoder(str(path)) as ranges:
        assert np.array_equal(np.concatenate(parts), ranges.read(50 * RATE, 777 * 50))


@pytest.mark.long
def test_drift_of_unreliable_timestamps_is_measured(tmp_path: Path) -> None:
    assert decoded(FILES["opus.mkv"](tmp_path / "a.mkv"))[1] <= 2
    assert decoded(FILES["holes.mkv"](tmp_path / "b.mkv"))[1] <= 2
    assert decoded(FILES["shifts.mkv"](tmp_path / "c.mkv"))[1] >= 80


def test_file_that_is_not_media_raises_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(b"not media")
    with RangeDecoder(str(path)) as ranges, pytest.raises(MediaError, match="not media"):
        ranges.read(0, 1)
