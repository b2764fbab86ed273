"""How fast, and in how much memory, media files become segments.

    python benchmarks/ingest.py [--minutes 10] [--hours 10] [--repeat 3]

makes a FLAC, a WAV and an M4A file of some minutes and a FLAC of some hours (the demo recording, with
pauses), ingests each in a process of its own, and prints a table. `x cpu` is audio time over processor time,
`x wall` over wall time, the best of the repetitions, without the loading of the libraries; `peak` is the
whole process's. To hold: at least 350 x cpu for FLAC, and at most 250 MB, the same for minutes and for hours.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def write_m4a(path: Path, seconds: float) -> None:
    """Write AAC, 44.1 kHz stereo."""
    import av

    with av.open(str(path), "w") as container:
        track: Any = container.add_stream("aac", rate=44_100)
        track.codec_context.layout = "stereo"
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=44_100, frame_size=1024)
        for block in loops(seconds):
            for start in range(0, len(block), 4096):
                frame = av.AudioFrame.from_ndarray(
                    block[None, start : start + 4096], format="s16", layout="mono"
                )
                frame.sample_rate = RATE
                for resampled in resampler.resample(frame):
                    container.mux(track.encode(resampled))
        for resampled in resampler.resample(None):
            container.mux(track.encode(resampled))
        container.mux(track.encode(None))


def main() -> None:
    """Make the files, measure each, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--hours", type=float, default=10)
    parser.add_argument("--repeat", type=int, default=3, help="of the short files; the long one runs once")
    parser.add_argument("--measure", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure)
        return
    print(f"{'file':<16}{'audio':>10}{'segments':>10}{'x cpu':>8}{'x wall':>8}{'peak':>9}")
    with tempfile.TemporaryDirectory() as folder:
        short_s, long_s = options.minutes * 60, options.hours * 3600
        for name, seconds in (
            ("a.wav", short_s),
            ("a.m4a", short_s),
            ("a.flac", short_s),
            ("long.flac", long_s),
        ):
            path = Path(folder, name)
            (write_m4a if path.suffix == ".m4a" else write_sound)(path, seconds)
            command = [sys.executable, __file__, "--measure", str(path)]
            runs = [
                json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                for _ in range(1 if name.startswith("long") else options.repeat)
            ]
            best = min(runs, key=lambda run: run["cpu_s"])
            cpu, wall = best["audio_s"] / best["cpu_s"], best["audio_s"] / best["wall_s"]
            peak = max(run["mb"] for run in runs)
            audio = f"{best['audio_s'] / 60:.0f} min"
            print(
                f"{name:<16}{audio:>10}{best['segments']:>10}{cpu:>8.0f}{wall:>8.0f}{peak:>6.0f} MB",
                flush=True,
            )
            path.unlink()


if __name__ == "__main__":
    main()
