"""Small media files and recordings for the tests, made on the fly."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import soundfile
from av.stream import Disposition
from msgspec import Struct

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEMO = Path(__file__).parent.parent / "daemon" / "subtitled" / "demo"
DAMAGED = Path(__file__).parent / "recordings"
RATE = 16_000


def recording(name: str = "demo.flac") -> NDArray[np.int16]:
    """Return a demo recording: int16 (n,), 16 kHz mono."""
    return _decoded(name).copy()


@cache
def _decoded(name: str) -> NDArray[np.int16]:
    pcm, _ = soundfile.read(DEMO / name, dtype="int16")
    return np.asarray(pcm)


@cache
def clip(seconds: float = 8.0, name: str = "demo.flac") -> bytes:
    """Return the first seconds of a demo recording as a FLAC file; a whole one takes two seconds to be transcribed."""
    file = io.BytesIO()
    soundfile.write(file, recording(name)[: int(seconds * RATE)], RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def damaged(name: str) -> NDArray[np.int16]:
    """Return a recording that the model decodes with low confidence ("skipping", "slow"): int16 (n,), 16 kHz mono."""
    pcm, _ = soundfile.read(DAMAGED / f"{name}.flac", dtype="int16")
    return np.asarray(pcm)


def speech(seconds: float) -> NDArray[np.int16]:
    """Return the first seconds of the English recording."""
    return recording()[: int(seconds * RATE)]


def noise(samples: int, peak: int = 3_000) -> NDArray[np.int16]:
    """Return white noise, the same each time: raw bits of PCG64, which NumPy promises not to change."""
    bits = np.random.PCG64(7).random_raw(samples)
    return ((bits >> np.uint64(48)).astype(np.int64) * 2 * peak // 65_536 - peak).astype(np.int16)


def silence(seconds: float) -> NDArray[np.int16]:
    """Return digital silence."""
    return np.zeros(int(seconds * RATE), np.int16)


def mixtures() -> dict[str, NDArray[np.int16]]:
    """Return mixtures of speech, noise and pauses that are difficult for a VAD, by name."""
    english, chinese = recording(), recording("demo-zh.flac")
    pauses = []
    for number in range(12):
        pauses += [english[number * 24_000 : number * 24_000 + 19_000], silence(0.03 * number * number)]
    bursts = []
    for number in range(60):
        start = 8_000 + number * 9_001
        bursts += [english[start : start + 400 + 60 * number], silence(0.02 + 0.01 * (number * 7 % 40))]
    return {
        "english": english,
        "chinese": chinese,
        "pauses": np.concatenate(pauses),
        "bursts": np.concatenate(bursts),
        "in noise": (english[: 20 * RATE] // 2 + noise(20 * RATE, 1_500)).astype(np.int16),
        "cut off in a word": english[9_000:52_345],
        "noise": noise(5 * RATE),
        "silence": silence(5),
        "tiny": english[10_000:10_300],
    }


def write_sound(
    path: Path, pcm: NDArray[Any], *, rate: int = RATE, subtype: str = "PCM_16", **more: Any
) -> Path:
    """Write PCM ((n,) or (n, channels)) through libsndfile, in the container that `path` is named after."""
    soundfile.write(path, pcm, rate, subtype=subtype, **more)
    return path


class Sentence(Struct, frozen=True):
    """A sentence of a recording with its times."""

    start_ms: int
    end_ms: int
    text: str


def true_text(name: str = "demo") -> list[Sentence]:
    """Return the sentences of a demo recording."""
    rows = (row.split("\t") for row in (DEMO / f"{name}.txt").read_text("utf-8").splitlines())
    return [
        Sentence(round(float(start) * 1000), round(float(end) * 1000), text) for start, end, text, *_ in rows
    ]


class Voice(Struct, frozen=True):
    """One audio track to be muxed: 16 kHz mono PCM, which starts at `start_s`."""

    pcm: Any
    start_s: float = 0.0
    language: str | None = None
    is_default: bool = False
    title: str = ""


class Picture(Struct, frozen=True, kw_only=True):
    """A picture whose brightness encodes the second (`luma_at`); the upper left quarter is brighter by 60."""

    seconds: float
    codec: str = "libx264"
    width: int = 64
    height: int = 36
    rate: int = 10
    pix_fmt: str = "yuv420p"
    start_s: float = 0.0
    options: dict[str, str] = {}


def luma_at(second: int) -> int:
    """Return the brightness of a `Picture` in a second."""
    return 40 + second % 8 * 15


def mux(
    path: Path,
    *voices: Voice,
    codec: str = "aac",
    rate: int = 44_100,
    layout: str = "stereo",
    muxer: dict[str, str] | None = None,
    picture_s: float = 0.0,
    picture: Picture | None = None,
    holes: tuple[tuple[float, float], ...] = (),
    dispositions: tuple[Disposition, ...] = (),
    is_cover: bool = False,
) -> Path:
    """Encode tracks through FFmpeg into the container that `path` is named after.

    `muxer` holds the container's options. `picture_s` seconds of a tiny picture begin at 0, or else `picture`. In `holes`, (at, seconds), the timestamps jump.
    `dispositions` replace those of the tracks; with `is_cover` the picture is an attached one.
    """
    with av.open(path, "w", container_options=muxer or {}) as container:
        tracks: list[Any] = []
        for voice in voices:
            track: Any = container.add_stream(codec, rate=rate)
            track.codec_context.layout = layout
            if codec == "wmav2":
                track.codec_context.bit_rate = 128_000
            if voice.language is not None:
                track.metadata["language"] = voice.language
            if voice.title:
                track.metadata["handler_name" if path.suffix == ".mp4" else "title"] = voice.title
            track.disposition = Disposition.default if voice.is_default else Disposition(0)
            tracks.append(track)
        for track, disposition in zip(tracks, dispositions, strict=False):
            track.disposition = disposition
        if picture_s:
            picture = Picture(seconds=picture_s, codec="mpeg4", width=32, height=32)
        if picture:
            _draw(container, picture, is_cover=is_cover)
        packets: list[Any] = []
        for voice, track in zip(voices, tracks, strict=True):
            if len(voice.pcm):
                packets += _encoded(voice, track, holes)
        packets.sort(key=lambda packet: packet.dts * packet.time_base)
        for packet in packets:
            container.mux(packet)
    return path


def _encoded(voice: Voice, track: Any, holes: tuple[tuple[float, float], ...]) -> list[Any]:
    context = track.codec_context
    sample_format = context.codec.audio_formats[0].name
    resampler = av.AudioResampler(format=sample_format, layout=context.layout, rate=context.sample_rate)
    frame = av.AudioFrame.from_ndarray(voice.pcm[None, :].copy(), format="s16", layout="mono")
    frame.sample_rate = RATE
    fifo = av.AudioFifo()
    for resampled in [*resampler.resample(frame), *resampler.resample(None)]:
        resampled.pts = None
        fifo.write(resampled)
    packets: list[Any] = []
    done = 0
    while (part := fifo.read(context.frame_size or 1024, partial=True)) is not None:
        at_s = done / context.sample_rate
        jump_s = sum(seconds for at, seconds in holes if at_s >= at)
        part.pts = done + round((voice.start_s + jump_s) * context.sample_rate)
        part.time_base = Fraction(1, context.sample_rate)
        done += part.samples
        packets += track.encode(part)
    packets += track.encode(None)
    return packets


def _draw(container: Any, shown: Picture, *, is_cover: bool) -> None:
    video = container.add_stream(shown.codec, rate=shown.rate, options=dict(shown.options))
    if is_cover:
        video.disposition = Disposition.attached_pic
    video.width, video.height, video.pix_fmt = shown.width, shown.height, shown.pix_fmt
    for number in range(int(shown.seconds * shown.rate)):
        luma = np.full((shown.height * 3 // 2, shown.width), 128, np.uint8)
        luma[: shown.height] = luma_at(number // shown.rate)
        luma[: shown.height // 2, : shown.width // 2] += 60
        frame: Any = av.VideoFrame.from_ndarray(luma, format="yuv420p").reformat(format=shown.pix_fmt)
        frame.pts = number + round(shown.start_s * shown.rate)
        frame.time_base = Fraction(1, shown.rate)
        container.mux(video.encode(frame))
    container.mux(video.encode(None))


def write_slow_file(path: Path, seconds: float) -> Path:
    """Write a WAV file whose decoding takes some 10 s of processor time for each second of audio; return its path.

    512 channels at 1 MHz are 512 MB for each second, and no block of the disk: the file is sparse.
    """
    channels, rate = 512, 1_000_000
    size = int(seconds * channels * rate)
    with path.open("wb") as file:
        file.write(b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt ")
        file.write(struct.pack("<IHHIIHH", 16, 1, channels, rate, channels * rate, channels, 8))
        file.write(b"data" + struct.pack("<I", size))
        file.truncate(file.tell() + size)
    return path
