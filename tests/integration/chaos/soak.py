"""Small jobs without end, with worker restarts: memory and file descriptors of every process must stay flat.

`python tests/integration/chaos/soak.py --minutes 60` (or `make soak MINUTES=60`) prints a row a tenth of the time, and exits 0
only if the last third needs no more than the middle one.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests/, when this file runs by itself

from msgspec import Struct

from daemon import Daemon
from integration.chaos.chaos import INBOX, RECOVERY, recordings

ROWS = 12
MEDIA = 20
SLACK = 1.05
"""What the last third may need over the middle one: allocators are not still."""


class Sample(Struct, frozen=True):
    """One look at all processes."""

    at_s: float
    done: int
    daemon_mib: float
    daemon_fds: int
    workers_mib: float
    """The largest worker."""
    workers_fds: int
    """The most of any worker."""
    database_mib: float


def memory_mib(pid: int) -> float:
    """Return a process's resident memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text("utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def descriptors(pid: int) -> int:
    """Return how many file descriptors a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def look(daemon: Daemon, at_s: float, done: int) -> Sample | None:
    """Return a sample; None when a process ended meanwhile."""
    workers = [pid for identity, pid in daemon.workers().items() if not identity.startswith("prepare")]
    workers += [pid for identity, pid in daemon.workers().items() if identity.startswith("prepare")]
    database = sum(path.stat().st_size for path in (daemon.folder / "state").glob("subtitled.sqlite*"))
    try:
        return Sample(
            at_s,
            done,
            memory_mib(daemon.pid),
            descriptors(daemon.pid),
            max(memory_mib(pid) for pid in workers),
            max(descriptors(pid) for pid in workers),
            database / 2**20,
        )
    except (OSError, ValueError):
        return None


def soak(folder: Path, minutes: float, pause_s: float, kill_s: float) -> list[Sample]:
    """Drop a file every `pause_s` seconds and kill a worker every `kill_s` seconds, for `minutes`."""
    (folder / "media").mkdir()
    sources = recordings(folder / "media", MEDIA, 1)
    dice, samples, dropped = random.Random(1), [], 0
    with Daemon(folder, inboxes=[INBOX], recovery=RECOVERY) as daemon:
        daemon.start()
        started = time.monotonic()
        row_due, kill_due = 0.0, kill_s
        while (at_s := time.monotonic() - started) < minutes * 60:
            dropped += 1
            path = daemon.drop(sources[dropped % MEDIA], f"talk {dropped}.flac")
            daemon.wait_for(path)
            for used in (*daemon.outbox.iterdir(), *(daemon.inbox / "done").iterdir()):
                used.unlink()
            if at_s >= kill_due:
                os.kill(dice.choice(sorted(daemon.workers().values())), signal.SIGKILL)
                daemon.wait_until_ready()
                kill_due += kill_s
            if at_s >= row_due and (sample := look(daemon, at_s, dropped)) is not None:
                samples.append(sample)
                if len(samples) == 1 or at_s >= len(samples) * minutes * 60 / 120:
                    _print_row(sample)
                row_due += minutes * 60 / 120
            time.sleep(pause_s)
        jobs = daemon.stats().jobs
        print(f"jobs: {jobs}")
        if jobs != {"done": dropped}:
            raise SystemExit(f"{dropped} files were dropped; the daemon has {jobs}")
        daemon.stop()
    return samples


def _print_row(sample: Sample) -> None:
    print(
        f"{sample.at_s / 60:6.1f} min {sample.done:6d} jobs | daemon {sample.daemon_mib:6.1f} MiB {sample.daemon_fds:3d} fds"
        f" | largest worker {sample.workers_mib:6.1f} MiB {sample.workers_fds:3d} fds | database {sample.database_mib:6.1f} MiB",
        flush=True,
    )


def verdict(samples: list[Sample]) -> list[str]:
    """Return what grew from the middle third to the last."""
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[2 * third :]
    faults = []
    for name in ("daemon_mib", "daemon_fds", "workers_mib", "workers_fds"):
        before = statistics.median(getattr(sample, name) for sample in middle)
        after = statistics.median(getattr(sample, name) for sample in last)
        print(f"{name}: {before:.1f} in the middle third, {after:.1f} in the last")
        if after > before * SLACK + 1:
            faults.append(name)
    return faults


def main() -> int:
    """Soak, and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two files")
    parser.add_argument("--kill", type=float, default=60.0, help="seconds between two killed workers")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="subtitled-soak-") as folder:
        faults = verdict(soak(Path(folder), chosen.minutes, chosen.pause, chosen.kill))
    print(f"grew: {', '.join(faults)}" if faults else "flat")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
