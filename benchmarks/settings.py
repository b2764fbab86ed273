"""What beam, compute type and word times cost: the engine alone on a CPU, on windows of the bundled recording.

The rounds of the settings alternate, and the least processor time of each counts, since other work on the machine only ever adds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import soundfile

from subtitled.asr.engine import Engine
from subtitled.asr.model import load, locate
from subtitled.asr.prompts import PromptRequest
from subtitled.runtime.processes import keep_memory

BATCH = 8


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 2, 5, 10], help="5 must be among them")
    parser.add_argument("--types", nargs="+", default=["int8", "float32"])
    asked = parser.parse_args()
    keep_memory()
    pcm, rate = soundfile.read(locate("demo").with_name("demo.flac"), dtype="int16")
    runs: dict[str, Callable[[], None]] = {}
    for compute_type in asked.types:
        model = load(asked.model, device="cpu", compute_type=compute_type, cpu_threads=1)
        engine = Engine(model, beam_size=5, batch_size=BATCH)
        window = engine.window_samples
        starts = (number * window // 2 % (len(pcm) - window) for number in range(asked.windows))
        features = [engine.features(pcm[start : start + window]) for start in starts]
        for beam in asked.beams:
            runs[f"{compute_type}, beam {beam}"] = partial(_decode, model, features, beam)
        runs[f"{compute_type}, beam 5, word times"] = partial(_decode, model, features, 5, words=True)
    took: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(asked.repeat):
        for name, call in runs.items():
            began = time.process_time()
            call()
            took[name].append(time.process_time() - began)
    audio_s = asked.windows * window / rate
    print(
        f"{asked.windows} windows, {audio_s:.0f} s of audio, batch {BATCH}, one thread, best of {asked.repeat}"
    )
    print(f"{'':28}{'cpu s':>8}{'x real':>9}{'of beam 5':>11}")
    for name, times in took.items():
        usual = min(took[f"{name.partition(',')[0]}, beam 5"])
        print(f"{name:28}{min(times):8.2f}{audio_s / min(times):9.0f}{min(times) / usual:11.2f}")


def _decode(model: Any, features: list[Any], beam: int, *, words: bool = False) -> None:
    engine = Engine(model, beam_size=beam, batch_size=BATCH)
    engine.transcribe(features, [PromptRequest(language="en")] * len(features), word_timestamps=words)


if __name__ == "__main__":
    main()
