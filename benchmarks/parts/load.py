"""What GPUs that only wait are given to do, and how busy that kept them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from parts.speech import RATE
from parts.waiting import Service, Timing

if TYPE_CHECKING:
    from pathlib import Path

GPU = Timing(0.483, 0.217)
"""speaches' published figures for large-v3-turbo on an RTX 3090, from 30 s / 43 = a + b and 8 x 30 s / 108 = a + 8 b."""
AT_ONCE = Timing(0.005, 0.0)
"""Far beyond any GPU; without any time at all leases would be of one segment, since some worker is always idle."""
BATCH = 16
PREPARERS = 4


class Files(Struct, frozen=True):
    """So many files with so many segments of so many seconds."""

    files: int
    segments: int
    seconds: int


class Run(Struct, frozen=True):
    """What one run has shown."""

    segments: int
    leases: int
    busy: float
    whole: float
    took_s: float
    cpu_us: float
    wire_bytes: int
    steady: float
    """As `busy`, while the second and third quarter of the segments were done: without the first leases and the last."""
    per_s: float
    """Segments a second in that time."""


def workloads(workers: int, seconds: float, clips: int) -> dict[str, list[Files]]:
    """Return the workloads; the long jobs keep all workers at work for about so many seconds."""
    many = max(BATCH, round(workers * seconds * BATCH / (GPU.a_s + GPU.b_s * BATCH)))
    return {
        "1 job": [Files(1, many, 30)],
        f"{clips} clips": [Files(clips, 1, 10)],
        "mix": [Files(1, many // 2, 30), Files(8, max(1, many // 16), 30), Files(clips, 1, 10)],
    }


def write(folder: Path, workload: list[Files]) -> list[Path]:
    """Write the files of a workload, which say what the prepare workers are to send."""
    paths = []
    for number, kind in enumerate(workload):
        for place in range(kind.files):
            path = folder / f"talk{number}-{place}.wav"
            path.write_text(f"{kind.segments} {kind.seconds * RATE}")
            paths.append(path)
    return paths


def figures(done: list[Service], workers: int, used_s: float) -> Run:
    """Return what a run has shown; the daemon has used so many seconds of processor time."""
    first, last, end = (
        min(service.start for service in done),
        max(service.start for service in done),
        max(service.end for service in done),
    )
    segments = sum(service.segments for service in done)
    inside = sum(min(service.end, last) - service.start for service in done)
    return Run(
        segments=segments,
        leases=len(done),
        busy=inside / (workers * (last - first)) if last > first else 1.0,
        whole=sum(service.end - service.start for service in done) / (workers * max(1e-9, end - first)),
        took_s=end - first,
        cpu_us=used_s / segments * 1e6,
        wire_bytes=sum(service.wire_bytes for service in done),
        **_steady(done, workers, segments),
    )


def _steady(done: list[Service], workers: int, segments: int) -> dict[str, float]:
    """Return the same figures of the middle half of the work."""
    so_far, ends = 0, []
    for service in sorted(done, key=lambda service: service.end):
        so_far += service.segments
        ends.append((so_far, service.end))
    low, high = (next(end for end in ends if end[0] >= share * segments) for share in (0.25, 0.75))
    took_s = high[1] - low[1]
    if not took_s:
        return {"steady": 1.0, "per_s": 0.0}
    inside = sum(max(0.0, min(service.end, high[1]) - max(service.start, low[1])) for service in done)
    return {"steady": inside / (workers * took_s), "per_s": (high[0] - low[0]) / took_s}
