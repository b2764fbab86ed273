"""What the daemon costs over a plain script that does the same work in one process.

    python benchmarks/overhead.py [--minutes 30] [--files 1] [--repeat 3] [--batch-size 16] [--threads N]

makes FLAC files of so many minutes in all (the English demo recording again and again, with pauses) and has them
subtitled by three ways in turn, each time in fresh processes, the order turned round at every repetition:

    daemon          `subtitled run` on one CPU slot with its default prepare workers
    pipeline        faster-whisper's BatchedInferencePipeline with timestamps, which subtitles need
    pipeline, plain the same as it comes: without timestamps, a cue as long as the model's window

All have the same model, compute type, threads, batch size, beam and language, and have transcribed ten seconds before the
clock starts. It stops when the last SRT file is on the disk; the daemon's starts when the files are moved into its inbox
(settle_s = 0), the pipeline's when it is called. The best wall time of each counts; `cpu` is processor time of all processes in
that run, `peak` the sum of their largest resident sizes, `errors` word errors against the recording's true text.
To hold: daemon / pipeline at most 1.0.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parts import rival
from parts.processes import cpu_s, family, peak_mb
from parts.rival import Figures, Task
from parts.served import Served
from parts.speech import DEMO, make_files, make_warmup, srt_text, word_errors, words

if TYPE_CHECKING:
    from collections.abc import Sequence

BEAM = 5
WAYS = ("daemon", "pipeline", "pipeline, plain")


# -- the ways ----------------------------------------------------------------------------------------------------------


def run_daemon(
    warmup: Path, files: Sequence[Path], folder: Path, *, model: str, batch_size: int, threads: int
) -> Figures:
    """Have a fresh daemon subtitle copies of the files; return the figures of it and all its workers."""
    with Served(folder, model=model, beam=BEAM, batch_size=batch_size, threads=threads) as daemon:
        daemon.wait_until_ready()
        daemon.subtitle(daemon.stage([warmup]))
        copies = daemon.stage(files)
        pids = family(daemon.pid)
        wall, cpu = time.perf_counter(), cpu_s(pids)
        targets, first_s = daemon.subtitle(copies)
        wall, cpu = time.perf_counter() - wall, cpu_s(pids) - cpu
        peak = peak_mb(pids)
    return Figures(wall, cpu, peak, first_s, " ".join(srt_text(target) for target in targets))


# -- the table ---------------------------------------------------------------------------------------------------------


def main() -> None:
    """Make the files, run each way so many times, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30, help="of audio, in all files together")
    parser.add_argument("--files", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--model", default=str(DEMO / "model"), help="a CTranslate2 folder")
    options = parser.parse_args()
    same = {"model": options.model, "batch_size": options.batch_size, "threads": options.threads}
    with tempfile.TemporaryDirectory(prefix="overhead-") as name:
        folder = Path(name)
        warmup = make_warmup(folder)
        files, truth, audio_s = make_files(folder, options.minutes, options.files)
        runs: dict[str, list[Figures]] = {way: [] for way in WAYS}
        for number in range(options.repeat):
            for way in WAYS if number % 2 == 0 else reversed(WAYS):
                into = folder / f"{way.replace(', ', '-')}{number}"
                into.mkdir()
                runs[way].append(_run(way, warmup, files, into, same))
        print(
            f"{audio_s / 60:.1f} minutes of audio, files: {len(files)}, beam: {BEAM}, "
            f"batch: {options.batch_size}, threads: {options.threads}, best of {options.repeat}"
        )
        _print_table(runs, words(truth), audio_s)


def _run(way: str, warmup: Path, files: Sequence[Path], into: Path, same: dict[str, Any]) -> Figures:
    if way == "daemon":
        return run_daemon(warmup, files, into, **same)
    task = Task(
        way=way,
        files=tuple(map(str, files)),
        warmup=str(warmup),
        into=str(into),
        compute_type="int8",
        device="cpu",
        beam=BEAM,
        **same,
    )
    return rival.run(task, {})


def _print_table(runs: dict[str, list[Figures]], truth: Sequence[str], audio_s: float) -> None:
    best = {way: min(figures, key=lambda run: run.wall_s) for way, figures in runs.items()}
    print(f"{'':<17}{'wall':>9}{'of':>16}{'x real':>8}{'cpu':>9}{'peak':>9}{'errors':>16}")
    for way, run in best.items():
        slowest = max(figures.wall_s for figures in runs[way])
        spread = f"{run.wall_s:.1f}-{slowest:.1f}"
        wrong = word_errors(truth, words(run.said))
        errors = f"{wrong} ({100 * wrong / len(truth):.1f} %)"
        print(
            f"{way:<17}{run.wall_s:>7.1f} s{spread:>14} s{audio_s / run.wall_s:>8.1f}{run.cpu_s:>7.1f} s"
            f"{run.peak_mb:>6.0f} MB{errors:>16}"
        )
    daemon, pipeline = best["daemon"], best["pipeline"]
    print(
        f"daemon / pipeline: wall {daemon.wall_s / pipeline.wall_s:.2f}, cpu {daemon.cpu_s / pipeline.cpu_s:.2f}"
    )


if __name__ == "__main__":
    main()
