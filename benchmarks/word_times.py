"""What word times cost, and how near they bring a cue to its speech.

    python benchmarks/word_times.py [--repeat 5] [--batch-size 16] [--threads N]

decodes the segments of the bundled recordings without word times, where a phrase needs them (`auto`) and with all of them, in
turn, in one process: the same features, model, batch and beam. `auto, 1 line` is `auto` for cues of one line, which more
phrases do not fit. `windows` are those whose words were timed; `cpu` is the processor time of decoding (features are made once,
before), the best of the repetitions, `ratio` that to decoding without; `start` and `end` are how far the cues' are from those
of the true sentences, half of them less and the worst.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from subtitle.messages import WordTimestamps
from subtitled.asr.engine import Engine
from subtitled.asr.model import load
from subtitled.asr.prompts import PromptRequest
from subtitled.config import schema
from subtitled.config.layout_limits import LayoutLimits, limits_for
from subtitled.cues.layout import Cue, layout
from subtitled.cues.phrases import to_media_time
from subtitled.media.ingest import Ingest, IngestedSegment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from subtitled.core.protocol import SegmentResult

DEMO = Path(__file__).parent.parent / "daemon" / "subtitled" / "demo"
RATE = 16_000


def one_line(language: str | None) -> LayoutLimits:
    """Return the limits of cues of one line."""
    return replace(limits_for(language), max_lines=1)


def segments_of(path: Path, engine: Engine) -> list[IngestedSegment]:
    """Return a recording's segments, as the daemon would cut it."""
    window_s = engine.window_samples // RATE
    with Ingest(
        str(path), vad=schema.VadConfig(), segments=schema.SegmentsConfig(), window_s=window_s
    ) as running:
        return list(running)


def cues_of(
    segments: Sequence[IngestedSegment], results: Sequence[SegmentResult], language: str
) -> tuple[Cue, ...]:
    """Return a recording's cues."""
    phrases = [
        phrase
        for segment, result in zip(segments, results, strict=True)
        for phrase in to_media_time(result.phrases, segment.plan.pieces, segment.plan.spans, 0)
    ]
    return layout(phrases, limits_for(language), language=language)


def errors_ms(cues: Sequence[Cue], truth: Path) -> tuple[list[int], list[int]]:
    """Return how far the nearest cue's start and end are from each true sentence's."""
    times = [line.split("\t")[:2] for line in truth.read_text(encoding="utf-8").splitlines()]
    starts = [min(abs(cue.start_ms - round(float(start) * 1000)) for cue in cues) for start, _ in times]
    ends = [min(abs(cue.end_ms - round(float(end) * 1000)) for cue in cues) for _, end in times]
    return starts, ends


def main() -> None:
    """Decode in turn, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    model = load("demo", device="cpu", compute_type="int8", cpu_threads=options.threads)
    whole = Engine(model, beam_size=5, batch_size=options.batch_size)
    strict = Engine(model, beam_size=5, batch_size=options.batch_size, limits=one_line)
    modes: dict[str, tuple[Engine, WordTimestamps]] = {
        "false": (whole, False),
        "auto": (whole, "auto"),
        "auto, 1 line": (strict, "auto"),
        "true": (whole, True),
    }
    print(
        f"{'recording':<10}{'word times':>14}{'windows':>12}{'cpu':>10}{'ratio':>8}{'wall':>10}{'start':>18}{'end':>18}"
    )
    for name, language in (("demo", "en"), ("demo-zh", "zh")):
        segments = segments_of(DEMO / f"{name}.flac", whole)
        features = [whole.features(segment.pcm) for segment in segments]
        requests = [PromptRequest(language=language)] * len(segments)
        best: dict[str, tuple[float, float]] = {}
        results: dict[str, list[SegmentResult]] = {}
        for _ in range(options.repeat):
            for label, (engine, mode) in modes.items():
                cpu, wall = time.process_time(), time.perf_counter()
                results[label] = engine.transcribe(features, requests, word_timestamps=mode)
                taken = time.process_time() - cpu, time.perf_counter() - wall
                best[label] = min(best.get(label, taken), taken)
        for label, (cpu, wall) in best.items():
            timed = sum(any(phrase.words for phrase in result.phrases) for result in results[label])
            starts, ends = errors_ms(cues_of(segments, results[label], language), DEMO / f"{name}.txt")
            ratio = cpu / best["false"][0]
            off = "".join(f"{statistics.median(ms):>8.0f} to {max(ms):>4} ms" for ms in (starts, ends))
            print(
                f"{name:<10}{label:>14}{timed:>7} of {len(segments)}{cpu:>8.2f} s{ratio:>8.2f}{wall:>8.2f} s{off}"
            )


if __name__ == "__main__":
    main()
