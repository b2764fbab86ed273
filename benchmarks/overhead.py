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
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RATE = 16_000
DEMO = Path(__file__).parent.parent / "daemon" / "subtitled" / "demo"
LANGUAGE = "en"
BEAM = 5
WAYS = ("daemon", "pipeline", "pipeline, plain")
TIMEOUT_S = 3600
POLL_S = 0.005
"""How often is looked whether the subtitles are there; what it adds counts against the daemon."""

CONFIG = """\
[model]
name = '{model}'
compute_type = "int8"
beam_size = {beam}
batch_size = {batch_size}
cpu_threads = {threads}
[pool]
devices = ["cpu"]
[[inbox]]
path = '{folder}/inbox'
output = '{folder}/outbox'
language = "{language}"
settle_s = 0
[listen]
clients = ['ipc://{folder}/clients.sock']
workers = 'ipc://{folder}/private/workers.sock'
metrics = ""
[state]
dir = '{folder}/state'
"""


class Figures(Struct, frozen=True):
    """One run of one way."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    said: str


# -- the audio and its truth -------------------------------------------------------------------------------------------


def make_files(folder: Path, minutes: float, files: int) -> tuple[list[Path], str, float]:
    """Write the files; return them, what is said in all of them, and their length in seconds."""
    import numpy as np
    import soundfile

    speech, _ = soundfile.read(DEMO / "demo.flac", dtype="int16")
    truth = " ".join(row.split("\t")[2] for row in (DEMO / "demo.txt").read_text("utf-8").splitlines())
    recordings, samples, paths = 0, 0, []
    for number in range(files):
        path = folder / f"talk{number}.flac"
        paths.append(path)
        with soundfile.SoundFile(path, "w", RATE, 1, subtype="PCM_16") as sound:
            # Whole recordings only, so that the truth is known to the word.
            while samples == 0 or samples < minutes * 60 * RATE * (number + 1) / files:
                pause = np.zeros(recordings % 5 * 2 * RATE, np.int16)
                for block in (speech, pause):
                    sound.write(block)
                    samples += len(block)
                recordings += 1
    return paths, " ".join([truth] * recordings), samples / RATE


def words(text: str) -> list[str]:
    """Return the words of a text, without case and punctuation."""
    return re.findall(r"[a-z']+", text.casefold())


def word_errors(truth: Sequence[str], said: Sequence[str]) -> int:
    """Return how many words must be put in, left out or replaced to make one of the other (Levenshtein)."""
    import numpy as np

    ids = {word: number for number, word in enumerate({*truth, *said})}
    heard = np.array([ids[word] for word in said])
    steps = np.arange(len(said) + 1)
    row = steps.copy()
    for number, word in enumerate(truth, 1):
        reached = np.minimum(row[1:] + 1, row[:-1] + (heard != ids[word]))
        # Words put in: each costs one more than the best place to its left.
        row = np.minimum.accumulate(np.concatenate(([number], reached)) - steps) + steps
    return int(row[-1])


def srt_text(path: Path) -> str:
    """Return what a SubRip file says, without numbers and times."""
    lines = path.read_text("utf-8").splitlines()
    return " ".join(line for line in lines if "-->" not in line and not line.isdigit())


# -- processor time and memory -----------------------------------------------------------------------------------------


def family(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    stats = {int(folder.name): _stat(int(folder.name)) for folder in Path("/proc").glob("[0-9]*")}
    found = [pid]
    for member in found:
        found += [child for child, stat in stats.items() if stat and int(stat[1]) == member]
    return found


def cpu_s(pids: Sequence[int]) -> float:
    """Return the processor time that these processes have used, in seconds."""
    stats = [stat for pid in pids if (stat := _stat(pid))]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


def peak_mb(pids: Sequence[int]) -> float:
    """Return the sum of the largest resident sizes of these processes, in MiB."""
    sizes = [re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{pid}/status").read_text()) for pid in pids]
    return sum(int(size[1]) for size in sizes if size) / 1024


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on (proc(5)'s third); none of a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


# -- the ways ----------------------------------------------------------------------------------------------------------


def run_pipeline(
    files: list[str], folder: Path, *, model: str, batch_size: int, threads: int, is_plain: bool
) -> None:
    """Subtitle the files with BatchedInferencePipeline and print the figures; runs in a process of its own."""
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    loaded = WhisperModel(model, device="cpu", compute_type="int8", cpu_threads=threads)
    pipeline = BatchedInferencePipeline(loaded)

    def subtitle(file: str) -> Path:
        phrases, _ = pipeline.transcribe(
            file,
            language=LANGUAGE,
            beam_size=BEAM,
            batch_size=batch_size,
            without_timestamps=is_plain,
        )
        target = folder / f"{Path(file).stem}.srt"
        with target.open("w", encoding="utf-8") as srt:
            for number, phrase in enumerate(phrases, 1):
                times = f"{_clock(phrase.start)} --> {_clock(phrase.end)}"
                srt.write(f"{number}\n{times}\n{phrase.text.strip()}\n\n")
        return target

    first, *_ = files
    subtitle(first)
    own = [os.getpid()]
    wall, cpu = time.perf_counter(), cpu_s(own)
    targets = [subtitle(file) for file in files[1:]]
    wall, cpu = time.perf_counter() - wall, cpu_s(own) - cpu
    said = " ".join(srt_text(target) for target in targets)
    print(json.dumps({"wall_s": wall, "cpu_s": cpu, "peak_mb": peak_mb(own), "said": said}))


def _clock(seconds: float) -> str:
    from subtitled.cues.shown import clock

    return clock(round(seconds * 1000), ",")


def run_daemon(
    warmup: Path, files: Sequence[Path], folder: Path, *, model: str, batch_size: int, threads: int
) -> Figures:
    """Have a fresh daemon subtitle copies of the files; return the figures of it and all its workers."""
    for name in ("inbox", "outbox", "copies"):
        (folder / name).mkdir()
    configuration = folder / "subtitled.toml"
    configuration.write_text(
        CONFIG.format(
            folder=folder, model=model, beam=BEAM, batch_size=batch_size, threads=threads, language=LANGUAGE
        )
    )
    # Links, so that moving them into the inbox takes no time and leaves the originals where they are.
    copies = [folder / "copies" / file.name for file in (warmup, *files)]
    for copy, file in zip(copies, (warmup, *files), strict=True):
        copy.hardlink_to(file)
    command = [sys.executable, "-m", "subtitled", "run", "--config", str(configuration)]
    with (folder / "daemon.log").open("wb") as log:
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _wait_until_ready(daemon, f"ipc://{folder}/clients.sock")
        _subtitle(daemon, folder, copies[:1])
        pids = family(daemon.pid)
        wall, cpu = time.perf_counter(), cpu_s(pids)
        targets = _subtitle(daemon, folder, copies[1:])
        wall, cpu = time.perf_counter() - wall, cpu_s(pids) - cpu
        peak = peak_mb(pids)
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(60)
    return Figures(wall, cpu, peak, " ".join(srt_text(target) for target in targets))


def _subtitle(daemon: subprocess.Popen[bytes], folder: Path, copies: Sequence[Path]) -> list[Path]:
    """Move files into the inbox and wait for their subtitles."""
    targets = [folder / "outbox" / f"{copy.stem}.{LANGUAGE}.srt" for copy in copies]
    for copy in copies:
        copy.rename(folder / "inbox" / copy.name)
    for _ in _until_given_up(daemon):
        if all(target.exists() for target in targets):
            return targets
    raise SystemExit(f"no subtitles within {TIMEOUT_S} s; {folder / 'daemon.log'} says why")


def _wait_until_ready(daemon: subprocess.Popen[bytes], endpoint: str) -> None:
    from subtitle import Client, UnreachableError

    with Client(endpoint, timeout_s=1) as client:
        for _ in _until_given_up(daemon):
            try:
                workers = client.stats().workers
            except UnreachableError:
                continue
            if all(worker.state == "idle" for worker in workers):
                return


def _until_given_up(daemon: subprocess.Popen[bytes]) -> Iterator[None]:
    """Yield now and then, for as long as the daemon runs and there is hope."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        if daemon.poll() is not None:
            raise SystemExit(f"the daemon ended with status {daemon.returncode}")
        yield
        time.sleep(POLL_S)


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
    parser.add_argument("--pipeline", nargs="+", metavar="FILE", help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    same = {"model": options.model, "batch_size": options.batch_size, "threads": options.threads}
    if options.pipeline:
        run_pipeline(options.pipeline, options.into, is_plain=options.plain, **same)
        return
    with tempfile.TemporaryDirectory(prefix="overhead-") as name:
        folder = Path(name)
        warmup = _warmup(folder)
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


def _warmup(folder: Path) -> Path:
    import soundfile

    speech, _ = soundfile.read(DEMO / "demo.flac", dtype="int16", frames=10 * RATE)
    soundfile.write(folder / "warmup.flac", speech, RATE)
    return folder / "warmup.flac"


def _run(way: str, warmup: Path, files: Sequence[Path], into: Path, same: dict[str, Any]) -> Figures:
    if way == "daemon":
        return run_daemon(warmup, files, into, **same)
    command = [
        *(sys.executable, __file__, "--pipeline", str(warmup), *map(str, files), "--into", str(into)),
        *(f"--{name.replace('_', '-')}={value}" for name, value in same.items()),
        *(["--plain"] if way == "pipeline, plain" else []),
    ]
    return Figures(**json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


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
