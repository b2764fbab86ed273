"""How fast, and in how much memory, media files become segments.

    python benchmarks/ingest.py [--minutes 10] [--hours 10] [--repeat 3] [--only FILE,FILE…] [--against FOLDER]

makes files of some minutes and a FLAC of some hours (the demo recording, with pauses; in the compressed stereo files each channel
has noise of its own), ingests each in a process of its own, and prints a table. `x cpu` is audio time over processor time,
`x wall` over wall time, the best of the repetitions, without the loading of the libraries; `peak` is the
whole process's. With `--against` another checkout ingests each file in turn, and `was` is its `x cpu`. To hold: at least 350 x cpu for
WAV, FLAC, AAC and MP3, and at most 250 MB, the same for minutes and for hours.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parts.processes import machine

if TYPE_CHECKING:
    from collections.abc import Iterator

RATE = 16_000
DEMO = Path(__file__).parent.parent / "daemon" / "subtitled" / "demo" / "demo.flac"


def measure(path: str) -> None:
    """Ingest one file, and print the figures as JSON; runs in a process of its own."""
    import resource
    import time

    from subtitled.config import schema
    from subtitled.media.ingest import Ingest

    wall, cpu = time.perf_counter(), time.process_time()
    with Ingest(path, vad=schema.VadConfig(), segments=schema.SegmentsConfig(), window_s=30) as running:
        segments = sum(1 for _ in running)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    audio_s = running.decoded_samples / RATE
    print(
        json.dumps(
            {"audio_s": audio_s, "segments": segments, "cpu_s": cpu, "wall_s": wall, "mb": peak_kib / 1024}
        )
    )


def loops(seconds: float) -> Iterator[Any]:
    """Yield int16 blocks of the demo recording again and again, with pauses between, `seconds` in all."""
    import numpy as np
    import soundfile

    speech, _ = soundfile.read(DEMO, dtype="int16")
    left = int(seconds * RATE)
    number = 0
    while left:
        number += 1
        for block in (speech, np.zeros(number % 5 * 2 * RATE, np.int16)):
            yield block[:left]
            left -= len(block[:left])


def write_sound(path: Path, seconds: float) -> None:
    """Write a WAV or FLAC file, 16 kHz mono."""
    import soundfile

    with soundfile.SoundFile(path, "w", RATE, 1, subtype="PCM_16") as sound:
        for block in loops(seconds):
            sound.write(block)


COMPRESSED = {
    "a.m4a": ("aac", 44_100),
    "a.mp3": ("libmp3lame", 44_100),
    "a.opus": ("libopus", 48_000),
    "stereo.flac": ("flac", 44_100),
    "video.mp4": ("aac", 48_000),
    "video.mkv": ("aac", 48_000),
}
"""The codec and sample rate of each stereo file; videos have 2 Mbit/s of pictures."""
PICTURE_BYTES = 250_000
"""Of the picture of a second; it is not decoded, so any bytes will do."""


def write_compressed(path: Path, seconds: float) -> None:
    """Write a stereo file, with a track of pictures if it is a video."""
    import av
    import numpy as np

    codec, rate = COMPRESSED[path.name]
    noise = np.random.default_rng(1)
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("mjpeg", rate=1) if path.stem == "video" else None
        if video is not None:
            video.width, video.height, video.pix_fmt = 64, 64, "yuvj420p"
        track: Any = container.add_stream(codec, rate=rate)
        track.codec_context.layout = "stereo"
        track.codec_context.bit_rate = 128_000
        size = track.codec_context.frame_size
        resampler = av.AudioResampler(
            format=track.codec_context.format, layout="stereo", rate=rate, frame_size=size
        )
        written = pictures = 0
        for block in loops(seconds):
            for start in range(0, len(block), 4096):
                part = block[start : start + 4096]
                stereo = np.repeat(part, 2) + noise.normal(0, 30, 2 * len(part)).astype(np.int16)
                frame = av.AudioFrame.from_ndarray(stereo[None], format="s16", layout="stereo")
                frame.sample_rate = RATE
                for resampled in resampler.resample(frame):
                    container.mux(track.encode(resampled))
                written += len(part)
                while video is not None and pictures <= written // RATE:
                    packet = av.Packet(noise.bytes(PICTURE_BYTES))
                    packet.stream, packet.time_base = video, Fraction(1)
                    packet.pts = packet.dts = pictures
                    packet.is_keyframe = True
                    container.mux(packet)
                    pictures += 1
        for resampled in resampler.resample(None):
            container.mux(track.encode(resampled))
        container.mux(track.encode(None))


def measured(path: Path, repeat: int, other: str | None) -> tuple[dict[str, float], dict[str, float] | None]:
    """Return the run with the least processor time, and that of another checkout."""
    runs: dict[str, list[dict[str, float]]] = {"": []}
    if other:
        runs[str(Path(other, "daemon"))] = []
    for _ in range(repeat):
        for daemon, found in runs.items():
            done = subprocess.run(
                [sys.executable, __file__, "--measure", str(path)],
                check=True,
                capture_output=True,
                text=True,
                env={**os.environ, **({"PYTHONPATH": daemon} if daemon else {})},
            )
            found.append(json.loads(done.stdout))
    own, *others = (
        {**min(found, key=lambda run: run["cpu_s"]), "mb": max(run["mb"] for run in found)}
        for found in runs.values()
    )
    return own, others[0] if others else None


def main() -> None:
    """Make the files, measure each, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--hours", type=float, default=10, help="of the long file; 0: without it")
    parser.add_argument("--repeat", type=int, default=3, help="of the short files; the long one runs once")
    parser.add_argument("--only", metavar="FILE,FILE…", help="of the files in the table")
    parser.add_argument("--against", metavar="FOLDER", help="another checkout, measured in turn")
    parser.add_argument("--measure", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure)
        return
    print(machine())
    print(
        f"{'file':<16}{'audio':>10}{'segments':>10}{'x cpu':>8}{'x wall':>8}{'peak':>9}{'was':>8}{'ratio':>8}"
    )
    with tempfile.TemporaryDirectory() as folder:
        short_s, long_s = options.minutes * 60, options.hours * 3600
        names = ["a.wav", "a.flac", *COMPRESSED, *(["long.flac"] if long_s else [])]
        if options.only:
            names = [name for name in names if name in options.only.split(",")]
        for name in names:
            path = Path(folder, name)
            is_long = name.startswith("long")
            write = write_compressed if name in COMPRESSED else write_sound
            write(path, long_s if is_long else short_s)
            best, former = measured(path, 1 if is_long else options.repeat, options.against)
            cpu, wall = best["audio_s"] / best["cpu_s"], best["audio_s"] / best["wall_s"]
            audio = f"{best['audio_s'] / 60:.0f} min"
            was = ""
            if former is not None:
                was = f"{former['audio_s'] / former['cpu_s']:>8.0f}{former['cpu_s'] / best['cpu_s']:>8.2f}"
            print(
                f"{name:<16}{audio:>10}{best['segments']:>10}{cpu:>8.0f}{wall:>8.0f}{best['mb']:>6.0f} MB{was}",
                flush=True,
            )
            path.unlink()


if __name__ == "__main__":
    main()
