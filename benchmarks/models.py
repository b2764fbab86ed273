"""One daemon with two models against one daemon for each, on the same two CPU slots, in one run.

    python benchmarks/models.py [--jobs 200] [--share 0.15] [--repeat 3] [--model DIR]

The queue is mixed: clips of one sentence of the demo recording, `--share` of them for the second model (Whisper base, which
`make real-model` fetches), the others for the bundled one. Each way starts warm daemons, then moves all files into the inboxes at once:

    one daemon      two slots; each loads the second model before the first job (`preload = 2`)
    on demand       the same, but the second model is loaded by its first job
    a slot each     two daemons, each with one model and one slot
    two slots each  two daemons, each with one model and two slots: four workers on the same cores

`wall` is the time until the last subtitle file is there, `cpu` the processor time of all processes. To hold: wall of one daemon over
that of either way with two daemons at most 1.0.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import soundfile
from msgspec import Struct

from parts.processes import cpu_s, family, machine
from parts.served import Served
from parts.speech import LANGUAGE, RATE, recording, sentences
from subtitle import Client

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import real_model

SECOND = """
[[models]]
name = "second"
source = '{model}'
batch_size = 4
preload = {preload}
[[inbox]]
path = '{folder}/second'
output = '{folder}/outbox'
language = "{language}"
settle_s = 0
model = "second"
"""
CPUS = ("cpu", "cpu")


class Daemons(Struct):
    """The daemons of one way, and the inbox for each of the two models."""

    served: list[Served]
    inboxes: tuple[Path, Path]


class Figures(Struct):
    """What one run took."""

    wall_s: float
    used_s: float


def write_clips(folder: Path, count: int) -> list[Path]:
    """Write files of one sentence each, from the demo recording."""
    spoken, speech, files = sentences(), recording(), []
    for number in range(count):
        start_s, end_s, _ = spoken[number % len(spoken)]
        file = folder / f"clip{number}.flac"
        soundfile.write(file, speech[max(0, int((start_s - 0.3) * RATE)) : int((end_s + 0.3) * RATE)], RATE)
        files.append(file)
    return files


def one_daemon(folder: Path, model: str, stack: ExitStack, *, preload: int) -> Daemons:
    """Start a daemon with both models and both slots."""
    (folder / "one" / "second").mkdir(parents=True)
    second = SECOND.format(model=model, folder=folder / "one", preload=preload, language=LANGUAGE)
    served = Served(
        folder / "one", model="demo", batch_size=4, threads=1, devices=CPUS, more=second, stop_timeout_s=0
    )
    return Daemons([stack.enter_context(served)], (folder / "one" / "inbox", folder / "one" / "second"))


def two_daemons(folder: Path, model: str, stack: ExitStack, *, slots: int) -> Daemons:
    """Start a daemon for each model."""
    served = [
        stack.enter_context(
            Served(
                folder / name, model=source, batch_size=4, threads=1, devices=CPUS[:slots], stop_timeout_s=0
            )
        )
        for name, source in (("first", "demo"), ("second", model))
    ]
    return Daemons(served, (folder / "first" / "inbox", folder / "second" / "inbox"))


def wait_for_preload(served: Served) -> None:
    """Wait until each worker has loaded the second model."""
    with Client(served.endpoint) as client:
        for _ in served.until_given_up():
            if len(client.stats().models[1].slots) == len(CPUS):
                return
            time.sleep(0.1)


def run(way: str, files: list[Path], seconds: int, model: str) -> Figures:
    """Have fresh daemons subtitle the files, every so manieth with the second model."""
    with tempfile.TemporaryDirectory(prefix="models-") as name, ExitStack() as stack:
        folder = Path(name)
        match way:
            case "one daemon":
                daemons = one_daemon(folder, model, stack, preload=2)
            case "on demand":
                daemons = one_daemon(folder, model, stack, preload=0)
            case _:
                slots = 1 if way == "a slot each" else 2
                daemons = two_daemons(folder, model, stack, slots=slots)
        for served in daemons.served:
            served.wait_until_ready(1)
        if way == "one daemon":
            wait_for_preload(daemons.served[0])
        waited = set()
        every = len(files) / seconds
        chosen = {round(place * every) for place in range(seconds)}
        staged = []
        for place, file in enumerate(files):
            inbox = daemons.inboxes[place in chosen]
            outbox = inbox.parent / "outbox"
            waited.add(outbox / f"{file.stem}.{LANGUAGE}.srt")
            copy = inbox.parent / "copies" / file.name
            copy.write_bytes(file.read_bytes())
            staged.append((copy, inbox / file.name))
        processes = [pid for served in daemons.served for pid in family(served.pid)]
        used_s, started = cpu_s(processes), time.perf_counter()
        for copy, target in staged:
            copy.rename(target)
        for _ in daemons.served[0].until_given_up():
            waited = {target for target in waited if not target.exists()}
            if not waited:
                break
        wall_s = time.perf_counter() - started
        return Figures(wall_s, cpu_s(processes) - used_s)


def main() -> None:
    """Run each way `--repeat` times, one after the other; print a table with the best of each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--share", type=float, default=0.15, help="of the jobs that the second model decodes")
    parser.add_argument("--repeat", type=int, default=3, help="the best counts")
    parser.add_argument(
        "--model", default=str(real_model.default_folder("base")), help="folder of the second model"
    )
    options = parser.parse_args()
    if not Path(options.model, "model.bin").is_file():
        print(f"no model in {options.model}: make real-model, or --model DIR")
        return
    ways = ("one daemon", "on demand", "a slot each", "two slots each")
    seconds = max(1, round(options.jobs * options.share))
    print(machine())
    print(
        f"{options.jobs} jobs, {seconds} of them with the model in {options.model}, the others with the bundled one"
    )
    found: dict[str, list[Figures]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(prefix="clips-") as name:
        files = write_clips(Path(name), options.jobs)
        for _ in range(options.repeat):
            for way in ways:
                found[way].append(run(way, files, seconds, options.model))
    print(f"{'':<16}{'best':>9}{'worst':>10}{'cpu':>9}")
    for way, figures in found.items():
        walls = [one.wall_s for one in figures]
        used_s = min(one.used_s for one in figures)
        print(f"{way:<16}{min(walls):>7.1f} s{max(walls):>8.1f} s{used_s:>7.1f} s")
    best = {way: min(one.wall_s for one in figures) for way, figures in found.items()}
    for way in ways[2:]:
        print(f"one daemon / {way}: wall {best['one daemon'] / best[way]:.2f}")


if __name__ == "__main__":
    main()
