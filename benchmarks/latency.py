"""The time from dropping a short clip until its subtitles are on the disk.

    python benchmarks/latency.py [--drops 20] [--settle 0.2] [--model DIR]
    python benchmarks/latency.py --behind 200 --model DIR

Drops clips of ten seconds of speech, one after the other, into the inbox of a warm, idle daemon, and reads from the journal
where the time went:

    settle    from the drop until the file is a job; `settle_s` of it is configured
    prepare   reading the file and finding speech, until the segment is leased
    decode    features and model, and the transfer to the worker and back
    write     layout, and the file written and synced, until it exists in the outbox

`over` is the whole without `settle_s` and without decode: the daemon's own share. Target: median at most 150 ms.

With `--behind` one clip is dropped, of the same priority, while so many files of a minute wait; before that, two files of ten
minutes show how soon their first segment is done. Targets on a CPU: two leases (10 s each at most) for the clip, 10 s for both.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from parts.processes import machine
from parts.served import Served
from parts.speech import DEMO, RATE, recording
from subtitle import Client

if TYPE_CHECKING:
    from collections.abc import Sequence

CLIP_S = 10
WARM_UP = 2
"""Drops that do not count."""


class Drop(Struct, frozen=True):
    """One drop, its parts in milliseconds."""

    settle: float
    prepare: float
    decode: float
    write: float
    whole: float
    over: float


def measure(folder: Path, model: str, settle_s: float, drops: int) -> list[Drop]:
    """Drop clips into a fresh daemon's inbox, one after the other's end."""
    clips = _write_clips(folder, WARM_UP + drops)
    with Served(folder / "daemon", model=model, settle_s=settle_s) as daemon:
        daemon.wait_until_ready()
        copies = daemon.stage(clips)
        moments = []
        for copy in copies:
            dropped = time.time() * 1000
            daemon.subtitle([copy])
            moments.append((dropped, time.time() * 1000))
            _wait_until_done(daemon, len(moments))
        rows = _journal(folder / "daemon" / "state" / "subtitled.sqlite")
    found = [_drop(dropped, seen, row, settle_s) for (dropped, seen), row in zip(moments, rows, strict=True)]
    return found[WARM_UP:]


def measure_behind(folder: Path, model: str, waiting: int) -> tuple[list[float], float, dict[str, int]]:
    """Return the seconds to the first segments of two long files, those of a clip, and the jobs that it was behind, by state."""
    import soundfile

    minute = np.resize(recording(), 60 * RATE)
    with Served(folder / "daemon", model=model) as daemon:
        daemon.wait_until_ready(2)
        [clip, *files] = [folder / f"{name}.flac" for name in ("clip", *range(waiting))]
        soundfile.write(clip, minute[: CLIP_S * RATE], RATE)
        for number, file in enumerate(files):
            soundfile.write(file, np.roll(minute, -number * RATE), RATE)
        long = [folder / f"long{number}.flac" for number in range(2)]
        for file in long:
            soundfile.write(file, np.resize(minute, 600 * RATE), RATE)
        with Client(daemon.endpoint, timeout_s=30) as client:
            started = _drop_all(daemon, long)
            firsts: dict[str, float] = {}
            for _ in daemon.until_given_up():
                time.sleep(0.2)  # below listen.requests_per_s
                for job in client.list():
                    if job.segments.get("done"):
                        firsts.setdefault(job.id, time.perf_counter() - started)
                if len(firsts) == len(long):
                    break
            for job in client.list():
                client.cancel(job.id)
            _drop_all(daemon, files)
            for _ in daemon.until_given_up():
                time.sleep(0.2)
                stats = client.stats()
                if sum(stats.jobs.values()) == waiting + len(long) and stats.audio_ms:
                    break
        [copy] = daemon.stage([clip])
        _, clip_s = daemon.subtitle([copy])
    return list(firsts.values()), clip_s, stats.jobs


def _drop_all(daemon: Served, files: Sequence[Path]) -> float:
    """Move files into the inbox; return when, by `time.perf_counter`."""
    copies = daemon.stage(files)
    started = time.perf_counter()
    for copy in copies:
        copy.rename(daemon.folder / "inbox" / copy.name)
    return started


def _write_clips(folder: Path, count: int) -> list[Path]:
    import soundfile

    speech = recording()
    clips = [folder / f"clip{number}.wav" for number in range(count)]
    for number, clip in enumerate(clips):
        start = number * RATE  # other sound each time, as with people's clips
        soundfile.write(clip, speech[start % (60 * RATE) :][: CLIP_S * RATE], RATE)
    return clips


def _wait_until_done(daemon: Served, jobs: int) -> None:
    """Wait until the source has been moved too, so that the next drop finds the daemon idle."""
    for _ in daemon.until_given_up():
        if len(list((daemon.folder / "inbox" / "done").glob("*"))) == jobs:
            return


def _journal(path: Path) -> list[tuple[int, int, int]]:
    """Return when each job was accepted, its segments leased, the last of them done; in milliseconds, in order."""
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return database.execute(
            """SELECT min(at_ms) FILTER (WHERE event = 'accepted'),
                      min(at_ms) FILTER (WHERE subject = 'segment' AND event = 'leased'),
                      max(at_ms) FILTER (WHERE subject = 'segment' AND event IN ('done', 'skipped'))
               FROM journal WHERE job <> '' GROUP BY job ORDER BY min(seq)"""
        ).fetchall()
    finally:
        database.close()


def _drop(dropped: float, seen: float, row: tuple[int, int, int], settle_s: float) -> Drop:
    accepted, leased, done = row
    return Drop(
        settle=accepted - dropped,
        prepare=leased - accepted,
        decode=done - leased,
        write=seen - done,
        whole=seen - dropped,
        over=seen - dropped - (done - leased) - settle_s * 1000,
    )


def _print_table(drops: Sequence[Drop]) -> None:
    print(f"{'ms':<10}" + "".join(f"{name:>10}" for name in Drop.__struct_fields__))
    columns = [[getattr(drop, name) for drop in drops] for name in Drop.__struct_fields__]
    for name, value in (("best", min), ("median", statistics.median), ("worst", max)):
        print(f"{name:<10}" + "".join(f"{value(column):>10.0f}" for column in columns))


def main() -> None:
    """Drop the clips and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--drops", type=int, default=20)
    parser.add_argument("--settle", type=float, default=0.2, help="the inbox's settle_s")
    parser.add_argument("--behind", type=int, default=0, help="a clip behind so many waiting files instead")
    parser.add_argument("--model", default=str(DEMO / "model"), help="a CTranslate2 folder")
    options = parser.parse_args()
    print(machine())
    if options.behind:
        with tempfile.TemporaryDirectory(prefix="latency-") as name:
            firsts, clip_s, states = measure_behind(Path(name), options.model, options.behind)
        print("first segments of two long files after " + ", ".join(f"{one:.1f} s" for one in firsts))
        print(f"a clip of {CLIP_S} s behind {states}: {clip_s:.1f} s")
        return
    print(f"{options.drops} clips of {CLIP_S} s, settle_s: {options.settle}")
    with tempfile.TemporaryDirectory(prefix="latency-") as name:
        _print_table(measure(Path(name), options.model, options.settle, options.drops))


if __name__ == "__main__":
    main()
