"""What a GPU can do, and how much of it the daemon gets out of it.

    python benchmarks/gpu.py [--model large-v3-turbo] [--seconds 20] [--json FILE]
    python benchmarks/gpu.py --cpu --model demo --seconds 2           # without a GPU, to see that it works

For a machine with a GPU and without a network: the model is made here, of large-v3-turbo's or large-v3's shape, with random weights and
100 decoded tokens a window, which is what half a minute of speech needs; see parts/random_whisper.py. Runs unattended, about six
minutes with one model. Measured are, in windows of 30 s and as audio over time:

    engine      CTranslate2 alone, features in memory: batches of 1 to 64, then compute types, then batches at the same time (streams)
    pipeline    faster-whisper's BatchedInferencePipeline, file by file, with timestamps
    daemon      `subtitled run` on many files at once

`busy` is the share of time in which the GPU ran any kernel (NVML). To hold: daemon / engine alone, same batch, at least 0.95;
daemon / pipeline above 1.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
from msgspec import Struct

from parts import rival
from parts.processes import machine
from parts.random_whisper import SHAPES, write_model
from parts.served import Served
from parts.speech import DEMO, LANGUAGE, RATE, make_files, make_warmup

if TYPE_CHECKING:
    from collections.abc import Iterator

BATCHES = (1, 2, 4, 8, 16, 32, 64)
STREAMS = (1, 2, 3)
"""Batches at the same time in one process (CTranslate2's inter_threads)."""
BEAM = 5
TOKENS = 100
FILE_MINUTES = 10
GPU_TYPES = ("float16", "bfloat16", "int8_float16")
CPU_TYPES = ("int8", "float32")


class Row(Struct, frozen=True):
    """One measurement."""

    what: str
    compute_type: str
    batch: int
    streams: int
    windows: int
    audio_s: float
    took_s: float
    busy: float | None
    """Share of time in which the GPU ran; None without NVML."""
    note: str = ""

    @property
    def speed(self) -> float:
        """Audio over time."""
        return self.audio_s / self.took_s if self.took_s else 0.0


class Busy:
    """Samples the first GPU's utilisation while it is entered; `share` afterwards."""

    def __init__(self, *, is_cpu: bool) -> None:
        self.share: float | None = None
        self._is_cpu = is_cpu
        self._is_over = threading.Event()
        self._samples: list[int] = []
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Self:
        if not self._is_cpu:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        if not self._is_cpu:
            self._thread.join()
        if self._samples:
            self.share = statistics.mean(self._samples) / 100

    def _sample(self) -> None:
        import pynvml

        pynvml.nvmlInit()
        device = pynvml.nvmlDeviceGetHandleByIndex(0)
        while not self._is_over.wait(0.2):  # NVML itself looks at the last sixth of a second to a second
            self._samples.append(pynvml.nvmlDeviceGetUtilizationRates(device).gpu)
        pynvml.nvmlShutdown()


# -- the engine alone --------------------------------------------------------------------------------------------------


class Engine:
    """CTranslate2's model, asked as the daemon's engine asks it; without features, text and rules."""

    def __init__(self, model: str, *, device: str, compute_type: str, streams: int = 1) -> None:
        from faster_whisper import WhisperModel

        self.compute_type, self.streams = compute_type, streams
        self.device = device
        self._model = WhisperModel(model, device=device, compute_type=compute_type, num_workers=streams)
        extractor = self._model.feature_extractor
        self.window_s = extractor.n_samples / RATE
        token = self._model.hf_tokenizer.token_to_id
        self._prompt = [token(f"<|{name}|>") for name in ("startoftranscript", LANGUAGE, "transcribe")]

    def features(self, batch: int) -> Any:
        """Return the features of so many windows of the recording, float32 (batch, mels, 3000)."""
        import numpy as np
        from faster_whisper.audio import decode_audio, pad_or_trim

        speech = decode_audio(str(DEMO / "demo.flac"))
        samples = int(self.window_s * RATE)
        windows = []
        for place in range(batch):
            start = place * RATE % (len(speech) - samples)
            found = self._model.feature_extractor(speech[start : start + samples])[..., :-1]
            windows.append(pad_or_trim(found, 3000))
        return np.stack(windows)

    def decode(self, features: Any) -> None:
        """Encode and decode one batch."""
        self._model.model.generate(
            self._model.encode(features),
            [self._prompt] * len(features),
            beam_size=BEAM,
            max_length=448,
            return_scores=True,
            return_no_speech_prob=True,
        )

    def measure(self, batch: int, seconds: float) -> Row:
        """Decode batches one after the other, in each stream, for about so many seconds."""
        features = self.features(batch)
        self.decode(features)  # memory and kernels are chosen now
        rounds = [0] * self.streams
        started = time.perf_counter()
        until = started + seconds

        def work(stream: int) -> None:
            while not rounds[stream] or time.perf_counter() < until:
                self.decode(features)
                rounds[stream] += 1

        with (
            Busy(is_cpu=self.device == "cpu") as busy,
            ThreadPoolExecutor(self.streams) as threads,
        ):
            list(threads.map(work, range(self.streams)))
            took_s = time.perf_counter() - started
        windows = sum(rounds) * batch
        audio_s = windows * self.window_s
        return Row("engine", self.compute_type, batch, self.streams, windows, audio_s, took_s, busy.share)


def engine_rows(model: str, options: argparse.Namespace) -> Iterator[Row]:
    """Measure the engine alone; what does not fit, or does not exist on the device, is a row with a note."""
    device = "cpu" if options.cpu else "cuda"
    kinds = CPU_TYPES if options.cpu else GPU_TYPES
    short_s = options.seconds / 5
    cases = [(kinds[0], 1, batch) for batch in sorted({*options.batches, options.batch})]
    cases += [(kind, 1, options.batch) for kind in kinds[1:]]
    cases += [(kinds[0], streams, options.batch) for streams in options.streams if streams > 1]
    engine: Engine | None = None
    for kind, streams, batch in cases:
        try:
            if engine is None or (engine.compute_type, engine.streams) != (kind, streams):
                engine = None  # its memory first
                engine = Engine(model, device=device, compute_type=kind, streams=streams)
            yield engine.measure(batch, short_s)
        except (RuntimeError, ValueError) as error:
            engine = None
            yield Row("engine", kind, batch, streams, 0, 0.0, 0.0, None, note=str(error).splitlines()[0])


# -- the pipeline, the daemon ------------------------------------------------------------------------------------------


def pipeline_row(
    model: str, folder: Path, files: list[Path], audio_s: float, options: argparse.Namespace
) -> Row:
    """Have BatchedInferencePipeline do the files one by one."""
    folder.mkdir()
    task = rival.Task(
        way="pipeline",
        files=tuple(map(str, files)),
        warmup=str(make_warmup(folder)),
        into=str(folder),
        model=model,
        compute_type=_main_type(options),
        device="cpu" if options.cpu else "cuda",
        batch_size=options.batch,
        beam=BEAM,
        threads=0,
    )
    with Busy(is_cpu=options.cpu) as busy:
        done = rival.run(task, {})
    # Its start and the loading of the model count in the share, not in the time.
    return Row("pipeline", task.compute_type, options.batch, 1, 0, audio_s, done.wall_s, busy.share)


def daemon_row(
    model: str, folder: Path, files: list[Path], audio_s: float, options: argparse.Namespace
) -> Row:
    """Have the daemon do the files, all at once."""
    preparers = max(2, (os.cpu_count() or 2) - 2)
    with Served(
        folder,
        model=model,
        compute_type=_main_type(options),
        beam=BEAM,
        batch_size=options.batch,
        devices=["cpu" if options.cpu else "cuda:0"],
        pool=f"prepare_workers = {preparers}",
    ) as daemon:
        daemon.wait_until_ready()
        daemon.subtitle(daemon.stage([make_warmup(folder)]))
        copies, before = daemon.stage(files), daemon.count_segments()
        with Busy(is_cpu=options.cpu) as busy:
            started = time.perf_counter()
            daemon.subtitle(copies)
            took_s = time.perf_counter() - started
        windows = daemon.count_segments() - before
    return Row("daemon", _main_type(options), options.batch, 1, windows, audio_s, took_s, busy.share)


def _main_type(options: argparse.Namespace) -> str:
    return (CPU_TYPES if options.cpu else GPU_TYPES)[0]


def _files(folder: Path, audio_s: float, minutes: float) -> tuple[list[Path], float]:
    """Return files of about so much audio in all: one recording under many names."""
    [first], _, length_s = make_files(folder, minutes, 1)
    files = [first]
    for number in range(1, max(1, round(audio_s / length_s))):
        files.append(folder / f"more{number}.flac")
        files[-1].hardlink_to(first)
    return files, length_s * len(files)


# -- the table ---------------------------------------------------------------------------------------------------------


def print_table(rows: list[Row]) -> None:
    """Print all rows, then what is to hold."""
    print(
        f"{'':<10}{'type':<14}{'batch':>6}{'streams':>9}{'windows':>9}{'took':>9}{'windows/s':>11}{'x real':>8}{'busy':>7}"
    )
    for row in rows:
        if row.note:
            print(f"{row.what:<10}{row.compute_type:<14}{row.batch:>6}{row.streams:>9}   {row.note}")
            continue
        rate = f"{row.windows / row.took_s:.2f}" if row.windows else ""
        busy = "" if row.busy is None else f"{row.busy:.0%}"
        print(
            f"{row.what:<10}{row.compute_type:<14}{row.batch:>6}{row.streams:>9}{row.windows or '':>9}{row.took_s:>7.1f} s"
            f"{rate:>11}{row.speed:>8.0f}{busy:>7}"
        )
    daemon, pipeline = rows[-1], rows[-2]
    like = (daemon.compute_type, daemon.batch, daemon.streams)
    engines = (row for row in rows if row.what == "engine" and row.windows)
    alone = next((row for row in engines if (row.compute_type, row.batch, row.streams) == like), None)
    if alone is not None:
        ratio = daemon.windows / daemon.took_s / (alone.windows / alone.took_s)
        print(f"daemon / engine alone: {ratio:.2f} of the windows a second")
    print(f"daemon / pipeline: {daemon.speed / pipeline.speed:.2f} of the audio a second")


def main() -> None:
    """Make the model and the files, measure all, write the JSON, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="large-v3-turbo", help=f"{', '.join(SHAPES)}, or demo")
    parser.add_argument("--cpu", action="store_true", help="measure the CPU")
    parser.add_argument(
        "--seconds", type=float, default=20, help="for the daemon, for the pipeline; a fifth for a batch"
    )
    parser.add_argument("--batch", type=int, default=16, help="of all but the engine alone")
    parser.add_argument("--batches", type=_numbers, default=BATCHES, metavar="N,N…")
    parser.add_argument("--streams", type=_numbers, default=STREAMS, metavar="N,N…")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), metavar="FILE")
    options = parser.parse_args()
    if options.model not in {*SHAPES, "demo"}:
        parser.error(f"--model {options.model}: none of {', '.join(SHAPES)}, demo")
    if not options.cpu:
        from subtitled.asr.cuda import preload_libraries

        preload_libraries()
        import ctranslate2

        if not ctranslate2.get_cuda_device_count():
            parser.error("no GPU is to be seen; --cpu measures the CPU")
    head = f"{machine()}; {_device(is_cpu=options.cpu)}; model: {options.model}, beam: {BEAM}"
    with tempfile.TemporaryDirectory(prefix="gpu-") as name:
        folder = Path(name)
        model = str(DEMO / "model")
        if options.model != "demo":
            model = str(folder / "model")
            write_model(folder / "model", SHAPES[options.model], tokens=TOKENS)
        rows = []
        for row in engine_rows(model, options):
            rows.append(row)
            print(f"{row.what} {row.compute_type} {row.batch} x {row.streams}: {row.speed:.0f}", flush=True)
        speed = max(row.speed for row in rows)
        minutes = min(FILE_MINUTES, speed * options.seconds / 60)
        files, audio_s = _files(folder, speed * options.seconds, minutes)
        rows.append(pipeline_row(model, folder / "pipeline", files, audio_s, options))
        rows.append(daemon_row(model, folder / "daemon", files, audio_s, options))
    options.json.write_bytes(msgspec.json.format(msgspec.json.encode({"machine": head, "rows": rows})))
    print(head)
    print_table(rows)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _device(*, is_cpu: bool) -> str:
    if is_cpu:
        return "CPU"
    import pynvml

    pynvml.nvmlInit()
    name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
    return str(name)


if __name__ == "__main__":
    main()
