"""Audio that damaged and cut files have lost is located, and whole files have lost nothing."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from msgspec import Struct

import media
from subtitled.media.completeness import incompleteness
from subtitled.media.decode import open_media

if TYPE_CHECKING:
    from pathlib import Path

LENGTH_S = 20.0
FASTSTART = {"movflags": "faststart"}


class Form(Struct, frozen=True):
    """How to make a file."""

    codec: str = "aac"
    muxer: dict[str, str] | None = None
    picture: bool = False
    rate: int = 48_000


FORMS = {
    "a.mkv": Form(picture=True),
    "opus.mka": Form("libopus"),
    "pcm.mka": Form("pcm_s16le"),
    "a.webm": Form("libopus"),
    "a.mp4": Form(muxer=FASTSTART, picture=True),
    "alac.m4a": Form("alac", muxer=FASTSTART),
    "a.opus": Form("libopus"),
    "flac.oga": Form("flac"),
    "a.flac": Form("flac"),
    "a.mp3": Form("libmp3lame"),
    "a.ts": Form(picture=True),
    "a.mpg": Form("mp2", picture=True),
    "a.wma": Form("wmav2"),
    "a.tta": Form("tta"),
}
SILENT = {"a.wav", "a.avi"}
"""Damaged samples of PCM are samples too; in AVI the parser of MP3 skips the damage."""
ENDLESS = {"a.ts", "a.mpg"}
"""They do not declare an end."""
SHIFTED = {"a.mp3"}
"""What follows lost frames is earlier."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a file of each form."""
    folder = tmp_path_factory.mktemp("files")
    pcm = media.speech(LENGTH_S)
    media.write_sound(folder / "a.wav", pcm)
    for name, form in {**FORMS, "a.avi": Form("libmp3lame", picture=True)}.items():
        media.mux(
            folder / name,
            media.Voice(pcm),
            codec=form.codec,
            rate=form.rate,
            muxer=form.muxer,
            picture_s=LENGTH_S if form.picture else 0,
        )
    return folder


def lost_s(path: Path) -> list[tuple[float, float]]:
    """Return the damaged spans in seconds."""
    with open_media(str(path)) as decoder:
        for _ in decoder:
            pass
        return [(start / 1000, end / 1000) for start, end in decoder.damaged]


def reason(path: Path) -> str:
    """Return why a file is not whole; "" if it is."""
    with path.open("rb") as file:
        found = incompleteness(file.fileno())
    return found.cause if found else ""


@pytest.mark.parametrize("name", [*FORMS, *SILENT])
def test_whole_file_has_lost_nothing(files: Path, name: str) -> None:
    assert lost_s(files / name) == []
    assert reason(files / name) == ""


@pytest.mark.parametrize("name", FORMS)
def test_damaged_middle_is_located(files: Path, tmp_path: Path, name: str) -> None:
    content = bytearray((files / name).read_bytes())
    start, length = int(len(content) * 0.45), max(2_000, len(content) // 20)
    content[start : start + length] = random.Random(3).randbytes(length)
    path = tmp_path / name
    path.write_bytes(content)
    spans = lost_s(path)
    lost = sum(end - begin for begin, end in spans)
    assert spans
    assert all(7 < begin <= end < 16 for begin, end in spans), spans
    assert (0 if name in SHIFTED else 0.2) < lost < 7, spans
    with open_media(str(path)) as decoder:
        assert sum(map(len, decoder)) > (LENGTH_S - (3 if name in SHIFTED else 0.6)) * media.RATE
        assert decoder.bad_packets > 0


@pytest.mark.parametrize("name", sorted({*FORMS, *SILENT} - ENDLESS))
def test_missing_end_is_located(files: Path, tmp_path: Path, name: str) -> None:
    content = (files / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(content[: len(content) * 6 // 10])
    spans = lost_s(path)
    assert spans
    begin, end = spans[-1]
    assert 10 < begin < 15, spans
    if name.endswith((".opus", ".oga")):
        assert begin < end  # Ogg declares the end of each page only
    else:
        assert LENGTH_S - 1.5 < end < LENGTH_S + 1.5, spans


@pytest.mark.parametrize("name", ["a.mkv", "a.opus", "a.ts", "a.m2ts"])
def test_gap_that_a_recorder_left_is_no_damage(tmp_path: Path, name: str) -> None:
    codec = "libopus" if name == "a.opus" else "aac"
    voice = media.Voice(media.speech(8))
    path = media.mux(tmp_path / name, voice, codec=codec, rate=48_000, holes=((3.0, 4.0),))
    assert lost_s(path) == []


def test_joined_files_and_wrong_headers_have_lost_nothing(files: Path, tmp_path: Path) -> None:
    """The tags of the second file lie between the frames; the size of the other one counts a header too much."""
    joined = tmp_path / "a.mp3"
    joined.write_bytes((files / "a.mp3").read_bytes() * 2)
    assert lost_s(joined) == []
    content = bytearray((files / "a.wav").read_bytes())
    content[4:8] = (len(content) + 92).to_bytes(4, "little")
    wrong = tmp_path / "a.wav"
    wrong.write_bytes(content)
    assert (lost_s(wrong), reason(wrong)) == ([], "")


def test_lost_pages_of_ogg_are_damage(files: Path, tmp_path: Path) -> None:
    """Whole pages are missing, so that every checksum is right."""
    content = (files / "a.opus").read_bytes()
    pages = content.split(b"OggS")[1:]
    half = len(pages) // 2
    path = tmp_path / "a.opus"
    path.write_bytes(b"".join(b"OggS" + page for page in pages[: half - 1] + pages[half + 1 :]))
    spans = lost_s(path)
    assert len(spans) == 1
    assert 1.5 < spans[0][1] - spans[0][0] < 3.5


def test_damaged_start_is_located(tmp_path: Path) -> None:
    path = media.mux(tmp_path / "a.mkv", media.Voice(media.speech(8)), rate=48_000, picture_s=8)
    content = bytearray(path.read_bytes())
    first = content.find(b"\x1f\x43\xb6\x75") + 40
    content[first : first + len(content) // 8] = random.Random(3).randbytes(len(content) // 8)
    path.write_bytes(content)
    spans = lost_s(path)
    with open_media(str(path)) as decoder:
        assert decoder.info.offset_samples + sum(map(len, decoder)) > 7 * media.RATE
    assert not spans or spans[0][0] < 2


def test_segments_whose_clock_starts_late_have_lost_nothing(tmp_path: Path) -> None:
    for name in ("a.mka", "a.m4a"):
        assert lost_s(media.mux(tmp_path / name, media.Voice(media.speech(4), start_s=20))) == []


def test_container_that_is_not_whole_names_its_sizes(files: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut"

    def cut(name: str) -> str:
        content = (files / name).read_bytes()
        path.write_bytes(content[: len(content) - len(content) // 4])
        return reason(path)

    size = (files / "a.wav").stat().st_size
    assert cut("a.wav") == f"it declares {size} bytes and has {path.stat().st_size}"
    assert cut("a.mp4").startswith("its box 'mdat' declares ")
    assert cut("a.mkv").startswith("its segment declares ")
    assert cut("a.avi").startswith("it declares ")
    assert cut("a.wma").startswith("it declares ")
    for unknown in ("a.mp3", "a.flac", "a.ts"):
        assert cut(unknown) == ""
    media.mux(path.with_suffix(".mp4"), media.Voice(media.speech(3)))
    content = path.with_suffix(".mp4").read_bytes()
    path.write_bytes(content[: content.rfind(b"moov") - 4])
    assert reason(path) == "its index (moov) is missing"


@pytest.mark.parametrize("size", [0, 36, 0x7FFFFFFF, 0xFFFFFFFF])
def test_wav_whose_size_is_a_placeholder_is_whole(files: Path, tmp_path: Path, size: int) -> None:
    content = bytearray((files / "a.wav").read_bytes())
    content[4:8] = content[40:44] = size.to_bytes(4, "little")
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    assert reason(path) == ""
    assert lost_s(path) == []


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.mp3", "a.ts"])
def test_preallocated_copy_is_not_whole(files: Path, tmp_path: Path, name: str) -> None:
    content = (files / name).read_bytes()
    sparse = tmp_path / f"sparse-{name}"
    sparse.write_bytes(content[: len(content) // 2])
    os.truncate(sparse, len(content))
    zeros = tmp_path / f"zeros-{name}"
    zeros.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    for path in (sparse, zeros):
        assert "not written" in reason(path) or "moov" in reason(path)


def test_silence_at_the_end_of_a_wav_is_whole(tmp_path: Path) -> None:
    pcm = np.concatenate([media.speech(2), media.silence(10)])
    assert reason(media.write_sound(tmp_path / "a.wav", pcm)) == ""
