"""Which batch size a CPU decodes fastest: the engine alone, on windows of the bundled recording.

The rounds of the sizes alternate, and the best of each counts, since other work on the machine only ever makes it slower.
"""

from __future__ import annotations

import argparse
import os
import time

import soundfile

from subtitled.asr.engine import Engine
from subtitled.asr.model import load, locate
from subtitled.asr.prompts import PromptRequest
from subtitled.runtime.processes import keep_memory

SIZES = (1, 2, 4, 8, 16, 32)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=5)
    asked = parser.parse_args()
    keep_memory()
    pcm, _ = soundfile.read(locate("demo").with_name("demo.flac"), dtype="int16")
    print("threads   batch    wall s     cpu s")
    for threads in asked.threads:
        model = load(asked.model, device="cpu", compute_type="auto", cpu_threads=threads)
        engine = Engine(model, beam_size=5, batch_size=max(SIZES))
        window = engine.window_samples
        starts = (number * window // 2 % (len(pcm) - window) for number in range(asked.windows))
        features = [engine.features(pcm[start : start + window]) for start in starts]
        requests = [PromptRequest(language="en")] * asked.windows
        engine.transcribe(features, requests, word_timestamps=False)
        took: dict[int, list[tuple[float, float]]] = {size: [] for size in SIZES}
        for _ in range(asked.repeat):
            for size in SIZES:
                engine = Engine(model, beam_size=5, batch_size=size)
                wall, cpu = time.perf_counter(), time.process_time()
                engine.transcribe(features, requests, word_timestamps=False)
                took[size].append((time.perf_counter() - wall, time.process_time() - cpu))
        for size in SIZES:
            walls, cpus = zip(*took[size], strict=True)
            print(f"{threads:7} {size:7} {min(walls):9.2f} {min(cpus):9.2f}")


if __name__ == "__main__":
    main()
