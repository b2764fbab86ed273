"""Checks of FFmpeg, decoding and speech detection."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator
from importlib.resources import files

from msgspec import Struct

from subtitled.config.schema import VadConfig
from subtitled.doctor.finding import Finding, ProbeMessage, ProbeStarted, fault, ok

DECODERS = ("aac", "ac3", "alac", "eac3", "flac", "mp3", "opus", "vorbis", "wmav2", "pcm_s16le")
DEMUXERS = ("aac", "asf", "avi", "flac", "flv", "matroska", "mov", "mp3", "mpegts", "ogg", "wav")
REINSTALL = f"type: {sys.executable} -m pip install --force-reinstall --no-deps"


class MediaProbe(Struct, frozen=True, kw_only=True):
    """Settings of the speech detection."""

    vad: VadConfig
    min_speech_ms: int


def ffmpeg_finding(demuxers: Collection[str], decoders: Collection[str], version: str) -> Finding:
    """Check FFmpeg's containers and codecs."""
    missing = [name for name in DEMUXERS if name not in demuxers]
    missing += [name for name in DECODERS if name not in decoders]
    if missing:
        return fault("FFmpeg", f"{version} cannot read {', '.join(missing)}", f"{REINSTALL} av")
    return ok("FFmpeg", f"{version}: {len(demuxers)} containers, {len(decoders)} codecs")


def probe_media(settings: MediaProbe) -> Iterator[ProbeMessage]:
    """Check FFmpeg, decode the bundled recording and detect its speech."""
    yield ProbeStarted(name="FFmpeg", remedy=f"{REINSTALL} av")
    import av
    import av.codec
    import av.format

    demuxers = {part for name in av.format.formats_available for part in name.split(",")}
    yield ffmpeg_finding(demuxers, av.codec.codecs_available, f"PyAV {av.__version__}")
    yield ProbeStarted(name="decoding", remedy=f"{REINSTALL} av soxr soundfile")
    from subtitled.media.decode import open_media

    started = time.monotonic()
    with open_media(str(files("subtitled") / "demo" / "demo.flac")) as decoder:
        blocks = list(decoder)
    audio_s, wall_s = sum(map(len, blocks)) / 16_000, time.monotonic() - started
    yield ok("decoding", f"{audio_s:.0f} s of FLAC in {wall_s:.2f} s: {audio_s / wall_s:.0f}x real time")

    yield ProbeStarted(name="VAD", remedy=f"{REINSTALL} onnxruntime")
    from subtitled.media.vad import Vad

    vad = Vad(settings.vad, min_speech_ms=settings.min_speech_ms)
    started = time.monotonic()
    reports = [report for block in blocks for report in vad.feed(block)]
    spans = sum(len(report.spans) for report in (*reports, vad.finish()))
    yield vad_finding(spans, audio_s, time.monotonic() - started)


def vad_finding(spans: int, audio_s: float, wall_s: float) -> Finding:
    """Check the number of spans found in a recording of speech."""
    if not spans:
        return fault(
            "VAD", "found no speech in a recording of speech", "lower vad.threshold; the default is 0.5"
        )
    return ok("VAD", f"{spans} spans of speech found, {audio_s / wall_s:.0f}x real time")
