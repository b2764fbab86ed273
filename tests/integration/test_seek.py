"""What is heard at a time is what was decoded at that time, whatever the file, the codec and the way there."""

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
"""75 s of which no second is like another."""
PLACES_S = (60.123, 2.5, 41.0, 42.0, 0.0, 0.3, 70.2, 43.0, 74.7)
"""There and back, and on without a seam."""


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
    # Too short to be filled, each of them; together they are more than anybody would bear.
    "shifts.mkv": lambda path: media.mux(
        path, Voice(PCM), holes=((20, 0.06), (40, 0.03), (50, -15.0)), codec="libopus", rate=48_000
    ),
}


def decoded(path: Path) -> tuple[NDArray[np.int16], int]:
    """Return all of a file, and how far its timestamps were from their places."""
    with open_media(str(path)) as decoder:
        return np.concatenate(list(decoder)), decoder.drift_ms


def loudness(samples: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(samples.astype(np.float64)))))


def lag(heard: NDArray[np.int16], meant: NDArray[np.int16]) -> int:
    """Return how many samples later `heard` says what `meant` does."""
    size = 1 << (2 * len(meant)).bit_length()
    product = np.conj(np.fft.rfft(meant, size)) * np.fft.rfft(heard, size)
    at = int(np.argmax(np.fft.irfft(product, size)))
    return at if at < size // 2 else at - size


@pytest.mark.parametrize("name", FILES)
def test_what_is_heard_anywhere_is_what_was_decoded_there(tmp_path: Path, name: str) -> None:
    path = FILES[name](tmp_path / name)
    whole, drift_ms = decoded(path)
    with RangeDecoder(str(path), drift_ms=drift_ms) as excerpts:
        for place_s in PLACES_S:
            start = int(place_s * RATE)
            meant = whole[start : start + RATE]
            heard = excerpts.read(start, RATE)
            assert abs(len(heard) - len(meant)) <= 16
            if not meant.any():
                continue
            if name.endswith((".mkv", ".webm")):
                # Its timestamps are rounded to a millisecond.
                assert abs(lag(heard, meant)) <= 16
            else:
                # The noise that AAC makes of its own is another each time.
                assert lag(heard, meant) == 0
                assert loudness(heard.astype(int) - meant) <= loudness(meant) / 50 + 1


def test_what_follows_is_read_on_without_a_seam(tmp_path: Path) -> None:
    path = FILES["opus.mkv"](tmp_path / "opus.mkv")
    with RangeDecoder(str(path)) as excerpts:
        parts = [excerpts.read(50 * RATE + 777 * number, 777) for number in range(50)]
    with RangeDecoder(str(path)) as excerpts:
        assert np.array_equal(np.concatenate(parts), excerpts.read(50 * RATE, 777 * 50))


def test_timestamps_that_are_no_guide_are_told(tmp_path: Path) -> None:
    assert decoded(FILES["opus.mkv"](tmp_path / "a.mkv"))[1] <= 2
    assert decoded(FILES["holes.mkv"](tmp_path / "b.mkv"))[1] <= 2
    assert decoded(FILES["shifts.mkv"](tmp_path / "c.mkv"))[1] >= 80


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(b"not media")
    with RangeDecoder(str(path)) as excerpts, pytest.raises(MediaError, match="not media"):
        excerpts.read(0, 1)
