"""Processes one file through every stage, with times: open, track, decode, VAD, plan, engine, cues."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from subtitled.core.plan import Plan
from subtitled.doctor.devices import InferenceProbe, loaded_engine
from subtitled.doctor.finding import ProbeMessage, ProbeStarted, from_error, ok, warning
from subtitled.doctor.media import MediaProbe
from subtitled.errors import MediaError

CONVERT = "convert it: ffmpeg -i FILE -vn audio.flac, and use that"
RATE = 16_000


class ReadStage(Struct, frozen=True, kw_only=True):
    """A file to read, and the settings of its plan."""

    path: str
    sound: MediaProbe
    max_segment_s: int
    window_s: float
    into: str
    """Output file for the PCM of its longest segment, int16 at 16 kHz; its plan goes to `.plan` beside it."""


class TranscribeStage(Struct, frozen=True, kw_only=True):
    """A segment of that file, and the device to use."""

    device: InferenceProbe
    source: str
    """The PCM."""
    plan: Plan
    offset_samples: int


class PlannedSegment(Struct, frozen=True, kw_only=True):
    """The result of `probe_read` for `probe_transcribe`."""

    plan: Plan
    offset_samples: int


def probe_read(settings: ReadStage) -> Iterator[ProbeMessage]:
    """Read a file to its end, and store its longest segment."""
    yield ProbeStarted(name="open", remedy=CONVERT)
    import msgspec

    from subtitled.config import schema
    from subtitled.media.ingest import Ingest

    sound = settings.sound
    segments = schema.SegmentsConfig(min_speech_ms=sound.min_speech_ms, max_segment_s=settings.max_segment_s)
    started = time.monotonic()
    try:
        ingest = Ingest(settings.path, vad=sound.vad, segments=segments, window_s=settings.window_s)
    except MediaError as error:
        yield from_error("open", error, CONVERT)
        return
    with ingest:
        info = ingest.info
        yield ok("open", f"{info.container} in {time.monotonic() - started:.2f} s")
        length = f", {info.duration_s:.1f} s" if info.duration_s is not None else ""
        start = f", starts {info.offset_samples / RATE:.2f} s late" if info.offset_samples else ""
        yield ok(
            "track",
            f"number {info.track}: {info.codec}, {info.sample_rate} Hz, {info.channels} channels{length}{start}",
        )
        yield ProbeStarted(name="decode", remedy=CONVERT)
        count, longest = 0, None
        try:
            for prepared in ingest:
                count += 1
                if longest is None or prepared.plan.samples > longest.plan.samples:
                    longest = prepared
        except MediaError as error:
            yield from_error("decode", error, CONVERT)
            return
        yield from _decode_finding(ingest.decoded_samples / RATE, ingest.decode_s, ingest.bad_packets)
        speech_s, skipped = ingest.speech_samples / RATE, len(ingest.skipped)
        found = f"{speech_s:.1f} s of speech found in {ingest.vad_s:.2f} s"
        if longest is None:
            remedy = "lower vad.threshold if there is speech; else empty subtitles are correct"
            yield warning("VAD", f"{found}, {skipped} spans too short", remedy)
            return
        yield ok("VAD", f"{found}, {skipped} spans too short")
        fill = speech_s / count / min(settings.window_s, settings.max_segment_s)
        yield ok("plan", f"{count} segments, {min(1.0, fill):.0%} of their windows filled")
        Path(settings.into).write_bytes(longest.pcm.tobytes())
        cut = PlannedSegment(plan=longest.plan, offset_samples=info.offset_samples)
        Path(f"{settings.into}.plan").write_bytes(msgspec.json.encode(cut))


def _decode_finding(audio_s: float, decode_s: float, bad_packets: int) -> Iterator[ProbeMessage]:
    text = f"{audio_s:.1f} s of audio in {decode_s:.2f} s: {audio_s / max(decode_s, 1e-6):.0f}x real time"
    if bad_packets:
        yield warning(
            "decode",
            f"{text}; {bad_packets} damaged packets skipped",
            "use another copy if text is missing",
        )
    else:
        yield ok("decode", text)


def probe_transcribe(settings: TranscribeStage) -> Iterator[ProbeMessage]:
    """Transcribe the segment and lay out its cues."""
    from subtitled.asr.cuda import preload_libraries

    if settings.device.kind != "cpu":
        preload_libraries()
    engine = yield from loaded_engine(settings.device)
    if engine is None:
        return
    yield ProbeStarted(
        name="engine", remedy="try another device or model.compute_type; keep the file for a bug report"
    )
    import numpy as np

    from subtitled.asr.prompts import PromptRequest
    from subtitled.cues.layout import layout
    from subtitled.cues.phrases import to_media_time

    pcm = np.fromfile(settings.source, "<i2")[: engine.window_samples]
    started = time.monotonic()
    [result] = engine.transcribe(
        [engine.features(pcm)],
        [PromptRequest(language=None)],
        sounds=[settings.plan.sound()],
        word_timestamps=False,
    )
    decode_s, audio_s = time.monotonic() - started, len(pcm) / RATE
    text = f"{audio_s:.1f} s in {decode_s:.2f} s: {audio_s / decode_s:.1f}x real time; language {result.language}"
    if not result.phrases:
        remedy = "set the language; try a larger model; check that the file contains speech"
        yield warning("engine", f"{text}, no text", remedy)
        return
    yield ok("engine", f"{text} ({result.language_probability:.0%}), {result.fallbacks} fallbacks")
    yield ProbeStarted(name="cues", remedy="report this bug, with the file")
    plan = settings.plan
    started = time.monotonic()
    placed = to_media_time(result.phrases, plan.pieces, plan.spans, settings.offset_samples)
    cues = layout(placed, language=result.language)
    first = f'; at {cues[0].start_ms / 1000:.2f} s: "{" ".join(cues[0].lines)}"' if cues else ""
    yield ok("cues", f"{len(cues)} in {time.monotonic() - started:.3f} s{first}")
