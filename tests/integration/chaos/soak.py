"""Small jobs without end, with worker restarts: memory and file descriptors of every process must stay flat.

`python tests/integration/chaos/soak.py --minutes 60` (or `make soak MINUTES=60`) prints a row a tenth of the time and a table of
all processes at the end. It exits 0 only if no process needs more in the last third than in the middle one, and no job is
missing. One worker of each role is killed again and again, the other lives as long as the daemon.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests/, when this file runs alone

from msgspec import Struct

from daemon import TWO_SLOTS, Daemon, eventually
from integration.chaos.chaos import INBOX, make_recordings
from subtitled.config import schema

SAMPLES = 120
ROWS = 12
MEDIA = 20
SLACK = 1.05
"""What the last third may need over the middle one: allocators are not still."""
KILLED = ("cpu1", "prepare0")
RECOVERY = schema.RecoveryConfig(attempts=20, prepare_attempts=20, crash_budget=100)


class Process(Struct, frozen=True):
    """One process as it is at a moment."""

    memory_mib: float
    descriptors: int


class Sample(Struct, frozen=True):
    """One look at all processes, by the worker's slot, or `daemon`."""

    at_s: float
    done: int
    processes: dict[str, Process]
    database_mib: float


def process_sample(pid: int) -> Process:
    """Return what a process needs: its resident memory, its open file descriptors."""
    pages = int(Path(f"/proc/{pid}/statm").read_text("utf-8").split()[1])
    count = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return Process(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, count)


def take_sample(daemon: Daemon, at_s: float, done: int) -> Sample | None:
    """Return a sample; None when a process ended meanwhile."""
    pids = {identity.partition(".")[0]: pid for identity, pid in daemon.workers().items()}
    database = sum(path.stat().st_size for path in (daemon.folder / "state").glob("subtitled.sqlite*"))
    try:
        processes = {name: process_sample(pid) for name, pid in {"daemon": daemon.pid, **pids}.items()}
    except (OSError, ValueError):
        return None
    return Sample(at_s, done, processes, database / 2**20)


class Soak:
    """The daemon under small jobs, and what was seen of it."""

    def __init__(self, folder: Path, *, minutes: float, pause_s: float, kill_s: float) -> None:
        self._folder = folder
        self._seconds = minutes * 60
        self._pause_s = pause_s
        self._kill_s = kill_s
        self.samples: list[Sample] = []
        self.dropped = 0
        self.kills = 0
        self.restarts: dict[str, int] = {}
        self.jobs: dict[str, int] = {}

    def run(self) -> None:
        """Drop a file every `pause_s` seconds, kill a worker at work every `kill_s` seconds."""
        (self._folder / "media").mkdir()
        sources = make_recordings(self._folder / "media", MEDIA, 1)
        with Daemon(self._folder, inboxes=[INBOX], pool=TWO_SLOTS, recovery=RECOVERY) as daemon:
            daemon.start()
            started = time.monotonic()
            victims = itertools.cycle(KILLED)
            while (at_s := time.monotonic() - started) < self._seconds:
                is_kill_due = at_s >= self._kill_s * (self.kills + 1)
                self._do_one(daemon, sources[self.dropped % MEDIA], next(victims) if is_kill_due else None)
                if at_s >= len(self.samples) * self._seconds / SAMPLES:
                    self._sample(daemon, at_s)
                time.sleep(self._pause_s)
            stats = daemon.stats()
            self.jobs = stats.jobs
            self.restarts = {worker.slot: worker.incarnation - 1 for worker in stats.workers}
            daemon.stop()

    def _do_one(self, daemon: Daemon, source: Path, victim: str | None) -> None:
        self.dropped += 1
        name = f"talk {self.dropped}.flac"
        daemon.drop(source, name)
        if victim is not None:
            count = "SELECT count(*) FROM jobs"
            eventually(lambda: daemon.query(count) == [(self.dropped,)], f"{name} is accepted")
            pids = daemon.workers()
            os.kill(
                next(pid for identity, pid in pids.items() if identity.startswith(victim)), signal.SIGKILL
            )
            self.kills += 1
        done = daemon.inbox / "done" / name
        eventually(done.exists, f"{name} is done")
        for used in (*daemon.outbox.iterdir(), done):
            used.unlink()
        if victim is not None:
            daemon.wait_until_ready()

    def _sample(self, daemon: Daemon, at_s: float) -> None:
        sample = take_sample(daemon, at_s, self.dropped)
        if sample is None:
            return
        self.samples.append(sample)
        if len(self.samples) % (SAMPLES // ROWS) == 1:
            needs = ", ".join(
                f"{name} {process.memory_mib:.0f} MiB {process.descriptors} fds"
                for name, process in sorted(sample.processes.items())
            )
            print(
                f"{at_s / 60:5.1f} min, {sample.done} jobs, database {sample.database_mib:.1f} MiB: {needs}",
                flush=True,
            )


def check_files(soak: Soak) -> list[str]:
    """Print a table of all processes; return what grew from the middle third to the last, and what is missing."""
    third = len(soak.samples) // 3
    parts = soak.samples[:1], soak.samples[third : 2 * third], soak.samples[2 * third :], soak.samples[-1:]
    faults = []
    print(f"{'':12}{'MiB':>8}{'':24}{'fds':>12}")
    print(
        f"{'process':12}" + "  ".join([f"{'start':>8}{'middle':>8}{'last':>8}{'end':>8}"] * 2) + "  restarts"
    )
    for name in sorted(soak.samples[0].processes):
        row = f"{name:12}"
        for field in ("memory_mib", "descriptors"):
            start, middle, last, end = (
                statistics.median(getattr(sample.processes[name], field) for sample in part) for part in parts
            )
            row += f"{start:8.0f}{middle:8.0f}{last:8.0f}{end:8.0f}  "
            if last > middle * SLACK + 1:
                faults.append(f"{name} grew: {field} from {middle:.1f} to {last:.1f}")
        print(f"{row}{soak.restarts.get(name, '-'):>8}")
    print("middle and last are medians of that third of the time")
    print(f"{soak.dropped} files dropped, jobs: {soak.jobs}, {soak.kills} workers killed")
    if soak.jobs != {"done": soak.dropped}:
        faults.append(f"{soak.dropped} files were dropped; the daemon has {soak.jobs}")
    if sum(soak.restarts.values()) != soak.kills:
        faults.append(f"{soak.kills} workers were killed; started again were {soak.restarts}")
    return faults


def main() -> int:
    """Soak, and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two files")
    parser.add_argument("--kill", type=float, default=60.0, help="seconds between two killed workers")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="subtitled-soak-") as folder:
        soak = Soak(Path(folder), minutes=chosen.minutes, pause_s=chosen.pause, kill_s=chosen.kill)
        soak.run()
    faults = check_files(soak)
    print("\n".join(faults) if faults else "flat, and nothing is missing")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
