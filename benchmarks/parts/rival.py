"""One rival of the daemon at work: `rival.py JSON`, JSON of `Task`; prints JSON of `Figures`."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec
from msgspec import Struct

from parts.processes import cpu_s, peak_mb
from parts.speech import LANGUAGE, srt_text
from parts.wyoming_server import WyomingServer
from subtitled.asr.cuda import preload_libraries
from subtitled.cues.text_formats import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COMMAND = "from whisper_ctranslate2.whisper_ctranslate2 import main; main()"


class Task(Struct, frozen=True, kw_only=True):
    """What is to be subtitled, and how."""

    way: str
    """One of `WAYS`."""
    files: tuple[str, ...]
    warmup: str
    """Transcribed before the clock starts, by the ways that stay in one process."""
    into: str
    model: str
    compute_type: str
    device: str
    batch_size: int
    beam: int
    threads: int
    language: str = LANGUAGE
    languages: tuple[str, ...] = ()
    """That of each file, if there are several."""

    def language_of(self, file: str) -> str:
        """Return the language of a file, or of the warm-up."""
        return (
            self.languages[self.files.index(file)] if self.languages and file in self.files else self.language
        )


class Figures(Struct, frozen=True):
    """What it took."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    first_s: float
    """Until the first subtitle file was there."""
    said: str
    """The text of each file, a line for each."""


def run_model(task: Task) -> Figures:
    """Subtitle file by file with `WhisperModel.transcribe`."""
    model = _load(task)

    def transcribe(file: str) -> Any:
        return model.transcribe(
            file,
            language=task.language_of(file),
            beam_size=task.beam,
            vad_filter=True,
            condition_on_previous_text=False,
        )[0]

    return _in_this_process(task, transcribe)


def run_pipeline(task: Task, *, is_plain: bool = False) -> Figures:
    """Subtitle file by file with `BatchedInferencePipeline`; with timestamps, which subtitles need, unless `is_plain`."""
    from faster_whisper import BatchedInferencePipeline

    pipeline = BatchedInferencePipeline(_load(task))

    def transcribe(file: str) -> Any:
        return pipeline.transcribe(
            file,
            language=task.language_of(file),
            beam_size=task.beam,
            batch_size=task.batch_size,
            without_timestamps=is_plain,
        )[0]

    return _in_this_process(task, transcribe)


def run_command(task: Task) -> Figures:
    """Subtitle with a process of whisper-ctranslate2 for each file, as people script it."""
    first_s = 0.0
    started = time.perf_counter()
    for file in task.files:
        command = [
            *(
                sys.executable,
                "-c",
                COMMAND,
                file,
                "--model_directory",
                task.model,
                "--output_dir",
                task.into,
            ),
            *("--output_format", "srt", "--language", task.language_of(file), "--beam_size", str(task.beam)),
            *("--device", task.device, "--compute_type", task.compute_type, "--threads", str(task.threads)),
            *("--condition_on_previous_text", "False"),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        first_s = first_s or time.perf_counter() - started
    wall_s = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = _text_of(Path(task.into, f"{Path(file).stem}.srt") for file in task.files)
    return Figures(wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, first_s, said)


def run_server(task: Task) -> Figures:
    """Have a warm wyoming-faster-whisper answer for one file after the other; it knows text only, no times."""
    options = (
        *("--model", task.model, "--device", task.device, "--compute-type", task.compute_type),
        *("--cpu-threads", str(task.threads), "--beam-size", str(task.beam), "--language", task.language),
        "--vad-filter",
    )
    with WyomingServer(Path(task.into), options) as server:

        def subtitle(file: str) -> Path:
            target = Path(task.into, f"{Path(file).stem}.txt")
            target.write_text(server.transcribe(file, task.language_of(file)), "utf-8")
            return target

        return _file_by_file(task, subtitle, [os.getpid(), server.pid])


WAYS: dict[str, Callable[[Task], Figures]] = {
    "WhisperModel": run_model,
    "pipeline": run_pipeline,
    "pipeline, plain": lambda task: run_pipeline(task, is_plain=True),
    "command": run_command,
    "server": run_server,
}


def run(task: Task, environ: dict[str, str]) -> Figures:
    """Have a rival do its work in a process of its own."""
    command = [sys.executable, __file__, msgspec.json.encode(task).decode()]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env={**os.environ, **environ})
    return msgspec.json.decode(done.stdout, type=Figures)


def _load(task: Task) -> Any:
    from faster_whisper import WhisperModel

    if task.device == "cuda":
        preload_libraries()
    return WhisperModel(
        task.model, device=task.device, compute_type=task.compute_type, cpu_threads=task.threads
    )


def _in_this_process(task: Task, transcribe: Callable[[str], Any]) -> Figures:
    def subtitle(file: str) -> Path:
        target = Path(task.into, f"{Path(file).stem}.srt")
        with target.open("w", encoding="utf-8") as srt:
            for number, phrase in enumerate(transcribe(file), 1):
                times = " --> ".join(clock(round(at * 1000), ",") for at in (phrase.start, phrase.end))
                srt.write(f"{number}\n{times}\n{phrase.text.strip()}\n\n")
        return target

    return _file_by_file(task, subtitle, [os.getpid()])


def _file_by_file(task: Task, subtitle: Callable[[str], Path], pids: Sequence[int]) -> Figures:
    """Subtitle each file in turn, the warm-up first; `pids` are the processes that do it."""
    subtitle(task.warmup)
    started, used_s, first_s = time.perf_counter(), cpu_s(pids), 0.0
    targets = []
    for file in task.files:
        targets.append(subtitle(file))
        first_s = first_s or time.perf_counter() - started
    wall_s, used_s = time.perf_counter() - started, cpu_s(pids) - used_s
    return Figures(wall_s, used_s, peak_mb(pids), first_s, _text_of(targets))


def _text_of(targets: Any) -> str:
    return "\n".join(srt_text(target) for target in targets)


if __name__ == "__main__":
    given = msgspec.json.decode(sys.argv[1], type=Task)
    print(msgspec.json.encode(WAYS[given.way](given)).decode())
