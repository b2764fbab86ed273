"""What it costs that an accepted job is on the disk before anything is answered: jobs a second.

The same jobs are stored with `synchronous` FULL, as the daemon accepts them, and with NORMAL, where a power cut could
take the last ones back; one in each transaction, as they trickle in, and 256, the most that one turn of the loop takes.
Run it in the folder whose disk is to be measured, or name one: the database is made there, and removed.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path

from subtitled.core.actions import SaveNewJob
from subtitled.core.records import Job, Options
from subtitled.core.states import JobState
from subtitled.inboxes.arrivals import new_job_id
from subtitled.storage.database import transaction
from subtitled.storage.store import Store

BATCHES = (1, 256)
OPTIONS = Options(inbox=b"/srv/subtitled/inbox", output=b"/srv/subtitled/outbox")


def jobs(store: Store, count: int) -> list[SaveNewJob]:
    """Return new jobs as the inbox makes them."""
    sources = (b"/srv/subtitled/inbox/recordings/talk-%d.mp4" % number for number in itertools.count())
    return [
        SaveNewJob(
            Job(
                id=new_job_id(order := store.next_order()),
                state=JobState.QUEUED,
                source=source,
                location=source,
                size=123_456_789,
                mtime_ns=time.time_ns(),
                options=OPTIONS,
                order=order,
            )
        )
        for source, _ in zip(sources, range(count), strict=False)
    ]


def store_normal(store: Store, saves: list[SaveNewJob]) -> None:
    """Store like `Store.apply`, except for the pragma, which is fixed in the daemon."""
    now_ms = time.time_ns() // 1_000_000
    store._db.execute("PRAGMA synchronous = NORMAL")  # noqa: SLF001 - see above
    with transaction(store._db):  # noqa: SLF001
        for save in saves:
            store._save(save, now_ms)  # noqa: SLF001


def measure(folder: Path, *, is_full: bool, batch: int, seconds: float) -> tuple[float, float, float]:
    """Return jobs a second, and the median and the longest time of a transaction in milliseconds."""
    took_s: list[float] = []
    with tempfile.TemporaryDirectory(dir=folder) as state:
        store = Store(str(Path(state, "subtitled.sqlite")))
        count = 0
        while sum(took_s) < seconds:
            saves = jobs(store, batch)
            started = time.perf_counter()
            if is_full:
                store.apply(saves)
            else:
                store_normal(store, saves)
            took_s.append(time.perf_counter() - started)
            count += batch
        store.close()
    return count / sum(took_s), statistics.median(took_s) * 1000, max(took_s) * 1000


def main() -> None:
    """Measure each way in turn, several rounds, and print the table of medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path.cwd())
    parser.add_argument("--seconds", type=float, default=1.5, help="for each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(
        f"{'synchronous':<13}{'jobs in a transaction':>22}{'jobs/s':>9}{'median':>11}{'longest':>11}",
        flush=True,
    )
    ways = [(is_full, batch) for batch in BATCHES for is_full in (True, False)]
    runs: dict[tuple[bool, int], list[tuple[float, float, float]]] = {way: [] for way in ways}
    for _ in range(options.rounds):
        for is_full, batch in ways:  # in turns, so that a busy moment is shared by all
            runs[is_full, batch].append(
                measure(options.folder, is_full=is_full, batch=batch, seconds=options.seconds)
            )
    for is_full, batch in ways:
        rate, median, _ = (statistics.median(column) for column in zip(*runs[is_full, batch], strict=True))
        longest = max(run[2] for run in runs[is_full, batch])
        name = "FULL" if is_full else "NORMAL"
        print(f"{name:<13}{batch:>22}{rate:>9.0f}{median:>8.2f} ms{longest:>8.1f} ms")


if __name__ == "__main__":
    main()
