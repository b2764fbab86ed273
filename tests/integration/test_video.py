"""The picture of a media file: what a browser gets of it, whatever the file contains."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

import media
from media import Picture, Voice, luma_at
from subtitled.errors import MediaError
from subtitled.media import video
from subtitled.media.media_file import VideoFacts
from subtitled.media.video import VideoReader

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from subtitle.messages import VideoForm

VOICE = Voice(media.silence(1))


def film(path: Path, **keywords: Any) -> Path:
    """Write a file with a picture and a second of silence."""
    return media.mux(path, VOICE, codec="aac", picture=Picture(**keywords))


def frames(reader: VideoReader, number: int, form: VideoForm = "h264") -> list[NDArray[np.uint8]]:
    """Return the brightness of each frame of a segment, 25 a second: (height, width)."""
    with av.open(io.BytesIO(reader.segment(number, form)), "r") as container:
        shown: list[Any] = list(container.decode(video=0))
        assert [round(frame.time * 25) for frame in shown] == list(range(100))
        return [frame.to_ndarray(format="yuv420p")[: frame.height] for frame in shown]


def second_of(picture: NDArray[np.uint8]) -> int:
    """Return the second that a frame encodes in its lower right quarter."""
    height, width = picture.shape
    luma = float(picture[height // 2 + 2 :, width // 2 + 2 :].mean())
    return min(range(8), key=lambda second: abs(luma_at(second) - luma))


@pytest.mark.parametrize("form", ["h264", "vp8"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_segments_show_the_time_that_they_are_for_in_any_order(
    tmp_path: Path, form: VideoForm, order: tuple[int, ...]
) -> None:
    with VideoReader(str(film(tmp_path / "film.mkv", seconds=11))) as reader:
        for number in order:
            seconds = [second_of(picture) for picture in frames(reader, number, form)]
            meant = [min(10, number * 4 + tick // 25) % 8 for tick in range(100)]
            assert seconds == meant, f"segment {number}; after the end the last picture stays"


@pytest.mark.parametrize(
    ("name", "keywords", "facts"),
    [
        ("a.mp4", {}, VideoFacts(width=64, height=36, media_type='video/mp4; codecs="avc1.64000a"')),
        (
            "a.webm",
            {"codec": "libvpx"},
            VideoFacts(width=64, height=36, media_type='video/webm; codecs="vp8"'),
        ),
        ("ten_bits.mp4", {"pix_fmt": "yuv420p10le"}, VideoFacts(width=64, height=36)),
        ("old.avi", {"codec": "mpeg4", "rate": 1}, VideoFacts(width=64, height=36)),
        ("matroska.mkv", {}, VideoFacts(width=64, height=36)),
        ("broadcast.ts", {"codec": "mpeg2video", "rate": 25}, VideoFacts(width=64, height=36)),
        (
            "interlaced.ts",
            {
                "codec": "mpeg2video",
                "rate": 25,
                "width": 720,
                "height": 576,
                "options": {"flags": "+ilme+ildct"},
            },
            VideoFacts(width=720, height=576),
        ),
    ],
)
def test_only_files_that_browsers_play_are_offered_as_they_are(
    tmp_path: Path, name: str, keywords: dict[str, Any], facts: VideoFacts
) -> None:
    codec = "libopus" if name.endswith("webm") else "aac"
    path = media.mux(tmp_path / name, VOICE, codec=codec, rate=48_000, picture=Picture(seconds=2, **keywords))
    with VideoReader(str(path)) as reader:
        assert reader.facts() == facts
        assert reader.read(0, 16) == path.read_bytes()[:16]
        shown = frames(reader, 0)
        assert [second_of(shown[0]), second_of(shown[-1])] == [0, 1]
        assert shown[0].shape[0] <= 360


def test_a_rotated_picture_is_upright(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4", seconds=1, width=64, height=36)
    # The matrix of the track header (ISO/IEC 14496-12): a quarter turn clockwise.
    data = path.read_bytes()
    plain = bytes.fromhex("00010000 00000000 00000000 00000000 00010000 00000000 00000000 00000000 40000000")
    turned = bytes.fromhex("00000000 00010000 00000000 ffff0000 00000000 00000000 00000000 00000000 40000000")
    place = data.rindex(plain, 0, data.rindex(b"vide\0"))
    path.write_bytes(data[:place] + turned + data[place + len(plain) :])
    with VideoReader(str(path)) as reader:
        assert (reader.facts().width, reader.facts().height) == (36, 64)
        picture = frames(reader, 0)[0]
    assert picture.shape == (64, 36)
    quarters = [picture[4:28, 4:14], picture[4:28, 22:32], picture[36:60, 4:14], picture[36:60, 22:32]]
    assert int(np.argmax([quarter.mean() for quarter in quarters])) == 1, (
        "the bright quarter is at the upper right"
    )


def test_a_picture_that_changes_its_size_is_shown(tmp_path: Path) -> None:
    first = film(tmp_path / "a.ts", seconds=4, codec="mpeg2video", rate=25)
    second = film(tmp_path / "b.ts", seconds=4, codec="mpeg2video", rate=25, width=36, height=64, start_s=4)
    joined = tmp_path / "both.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    with VideoReader(str(joined)) as reader:
        assert frames(reader, 0)[0].shape == (36, 64)
        assert frames(reader, 1)[-1].shape[0] > 0


def test_a_file_without_a_moving_picture_has_none(tmp_path: Path) -> None:
    sound = media.write_sound(tmp_path / "sound.flac", media.silence(1))
    cover = media.mux(
        tmp_path / "cover.mp4",
        VOICE,
        picture=Picture(seconds=1, codec="mjpeg", pix_fmt="yuvj420p", rate=1),
        is_cover=True,
    )
    for path in (sound, cover):
        with VideoReader(str(path)) as reader:
            assert reader.facts() == VideoFacts()
            with pytest.raises(MediaError, match="no video track"):
                reader.segment(0, "h264")


def test_a_huge_or_damaged_picture_is_an_error_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = film(tmp_path / "film.mkv", seconds=2)
    monkeypatch.setattr(video, "MAX_PIXELS", 64 * 35)
    with VideoReader(str(path)) as reader:
        assert "its picture of 64 x 36 pixels exceeds the limit" in reader.facts().cause
    monkeypatch.undo()
    data = bytearray(film(tmp_path / "film.mp4", seconds=2).read_bytes())
    for at in range(data.index(b"mdat") + 4, data.index(b"moov") - 4):
        data[at] ^= 255
    path.write_bytes(data)
    with VideoReader(str(path)) as reader:
        assert "cannot be decoded" in reader.facts().cause


def test_a_video_that_is_slow_to_decode_repeats_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with VideoReader(str(film(tmp_path / "film.mkv", seconds=9))) as reader:
        monkeypatch.setattr(video, "_BUDGET_S", 0.0)
        assert {second_of(picture) for picture in frames(reader, 0)} == {0}
        monkeypatch.undo()
        assert [second_of(picture) for picture in frames(reader, 0)][::25] == [0, 0, 0, 0], "only key frames"
