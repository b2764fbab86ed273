"""What a million finished jobs cost: start, memory, and how long each kind of request holds the daemon's loop.

The database is filled with full rows (job, packed results, journal, waveform, outputs), as a daemon leaves them a minute after
each job. Then the client API runs over it with real sockets in this process, and the longest turn of its loop is measured for
each kind of request. A million jobs take 4 GB and some ten minutes to make; `--keep FOLDER` uses a folder again.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import zmq
from prometheus_client import generate_latest

from subtitle import Client
from subtitle.errors import SubtitleError
from subtitled.api.connection_limits import resident_bytes
from subtitled.api.server import ApiServer
from subtitled.config import schema
from subtitled.core.broker import Broker
from subtitled.core.plan import Plan, PlanPiece, PlanSettings, Span
from subtitled.core.policy import Policy
from subtitled.core.protocol import Media
from subtitled.core.records import Options
from subtitled.core.states import SegmentState
from subtitled.network.auth import Authenticator
from subtitled.observability.metrics import Metrics
from subtitled.runtime.mailbox import Mailbox
from subtitled.storage import queries
from subtitled.storage.database import transaction
from subtitled.storage.rows import ResultRow, file_name, pack_results
from subtitled.storage.store import Store

TURN_LIMIT_S = 0.020
START_LIMIT_S = 10.0
MEMORY_LIMIT_BYTES = 200 * 2**20
BATCH = 5000
DAY_MS = 86_400_000
WORDS = (
    "meeting",
    "interview",
    "lecture",
    "talk",
    "podcast",
    "episode",
    "concert",
    "hearing",
    "panel",
    "call",
)
STEPS = (
    ("", "accepted", "queued"),
    ("queued", "leased", "preparing"),
    ("preparing", "planned", "transcribing"),
    ("transcribing", "all_done", "writing"),
    ("writing", "written", "done"),
)
ROUNDS = 20


def fill(path: Path, jobs: int) -> None:
    """Add finished one-minute jobs to the database at `path` until it has so many."""
    store = Store(str(path))
    db = store._db  # noqa: SLF001 - rows are written without their transitions
    db.execute("PRAGMA synchronous = OFF")
    options = msgspec.msgpack.encode(Options(inbox=b"/srv/media/incoming"))
    settings = msgspec.msgpack.encode(PlanSettings())
    media = msgspec.msgpack.encode(Media(decoded_samples=960_000))
    waveform = bytes(range(200)) * 3
    first_ms = time.time_ns() // 1_000_000 - 80 * DAY_MS
    variants = [_packed(number) for number in range(100)]
    began = time.monotonic()
    for start in range(store.next_order(), jobs + 1, BATCH):
        rows, packed, journal, outputs, waves = [], [], [], [], []
        for order in range(start, min(start + BATCH, jobs + 1)):
            at_ms = first_ms + order * 80 * DAY_MS // jobs
            job = f"{at_ms:x}{order:08x}"
            owner, tag = (("ann", "ben", "")[order % 3], ("news", "")[order % 2])
            source = f"/srv/media/incoming/{order // 1000}/{WORDS[order % 10]} {order}.mp4".encode()
            described = (source, file_name(source), source, 10_000_000, order, options, 0, settings)
            ended = (True, "en", 0.9, "", True, at_ms, owner, tag, "", 0)
            rows.append((job, order, "done", *described, *ended))
            packed.append((job, *variants[order % len(variants)]))
            journal += [(at_ms + step, "job", job, owner, "", *STEPS[step], "") for step in range(len(STEPS))]
            outputs += [(source[:-4] + suffix, job) for suffix in (b".en.srt", b".en.json")]
            waves.append((job, waveform))
        with transaction(db):
            db.executemany(queries.ADD_SETTINGS, [(options,), (settings,)])
            db.executemany(queries.INSERT_JOB, rows)
            db.executemany(
                "UPDATE jobs SET is_packed = 1, media = ?, started_ms = created_ms, ended_ms = created_ms WHERE id = ?",
                [(media, row[0]) for row in rows],
            )
            db.executemany(queries.PUT_RESULTS, packed)
            db.executemany(queries.INSERT_JOURNAL, journal)
            db.executemany(queries.CLAIM_OUTPUT, outputs)
            db.executemany(queries.PUT_WAVEFORM, waves)
        if start % (20 * BATCH) == 1:
            print(f"  {start - 1} jobs after {time.monotonic() - began:.0f} s", flush=True)
    store.close()


def _packed(number: int) -> tuple[bytes, bytes]:
    """Return the packed results of three segments with 50 words each."""
    spans = tuple(Span(at * 80_000, at * 80_000 + 64_000) for at in range(4))
    words = [[f"w{number * 700 + index * 300 + word}" for word in range(50)] for index in range(3)]
    return pack_results(
        [
            ResultRow(
                index=index,
                state=SegmentState.DONE,
                plan=Plan(index, (PlanPiece(index * 320_000, 310_000),), spans),
                losses=0,
                cause="",
                worker="gpu0.1",
                result=msgspec.msgpack.encode({"language": "en", "text": " ".join(words[index])}),
            )
            for index in range(3)
        ]
    )


class Loop:
    """The client API over a database, with the longest turn of its loop."""

    def __init__(self, folder: Path) -> None:
        self.endpoint = f"ipc://{folder}/clients.sock"
        config = schema.Config(
            model=schema.ModelConfig(name="large-v3-turbo"),
            inbox=(),
            listen=schema.ListenConfig(clients=(self.endpoint,), requests_per_s=10_000),
            state=schema.StateConfig(dir=str(folder), reserve_mb=1),
        )
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.store = Store(str(folder / "subtitled.sqlite"))
        self.broker = Broker(Policy())
        self.metrics = Metrics()
        self._mailbox: Mailbox[Callable[[], None]] = Mailbox()
        self._authenticator = Authenticator(self._context)
        self._api = ApiServer(
            config,
            self._context,
            authenticator=self._authenticator,
            store=self.store,
            broker=self.broker,
            dispatch=lambda _: None,
            call_in_loop=self._mailbox.put,
            metrics=self.metrics,
            languages=lambda: {"": ("en",)},
        )
        self.broker.restore(self.store.unfinished(), time.monotonic())
        self._api.start()
        self.longest_s = 0.0
        self._is_over = False

    def run_while(self, work: Callable[[], Any]) -> Any:
        """Run the loop while another thread does `work`; return its result."""
        found: list[Any] = []

        def run() -> None:
            try:
                found.append(work())
            except SubtitleError as error:
                found.append(error)
            self._mailbox.wake()

        thread = threading.Thread(target=run)
        self.longest_s = 0.0
        thread.start()
        while thread.is_alive():
            poller = zmq.Poller()
            for waited in (*self._api.sockets, self._mailbox.fileno()):
                poller.register(waited, zmq.POLLIN)
            poller.poll(int(min(self._api.poll_timeout_s, 0.05) * 1000) + 1)
            began = time.thread_time()
            for item in self._mailbox.drain():
                item()
            self._api.receive()
            self.longest_s = max(self.longest_s, time.thread_time() - began)
        thread.join()
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]

    def close(self) -> None:
        """Close everything."""
        self._api.close()
        self._authenticator.stop()
        self._context.term()
        self._mailbox.close()
        self.store.close()


def questions(client: Client, job: str, last_seq: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the requests that are measured."""
    yield "list, newest 100", client.list
    yield "list, newest 1000", lambda: client.list(limit=1000)
    yield "list of a tag", lambda: client.list(tag="news")
    yield "list of an unknown tag", lambda: client.list(tag="nothing")
    yield "list of a state without jobs", lambda: client.list(("failed", "queued"))
    yield "list, page in the middle", lambda: client.list(("done",), before=job, limit=100)
    yield "search, common word", lambda: client.list(name="interview")
    yield "search, one job", lambda: client.list(name="talk 1234")
    yield "search, nothing", lambda: client.list(name="zzzz")
    yield "search, two letters", lambda: client.list(name="zz")
    yield "status", lambda: client.status(job)
    yield "stats", client.stats
    yield (
        "page",
        lambda: (client.stats(), client.list(limit=51), client.list(("queued",)), client.list(("failed",))),
    )
    yield "events of one job", lambda: _events(client, 0, job)
    yield "events, last 5000", lambda: _events(client, last_seq - 5000, None)


def _events(client: Client, after: int, job: str | None) -> int:
    count = 0
    for count, _ in enumerate(client.watch(after_seq=after, job=job, timeout_s=0.5), 1):  # noqa: B007
        pass
    return count


@contextmanager
def folder_of(keep: Path | None) -> Iterator[Path]:
    """Give the folder of the database."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def main() -> None:
    """Measure, and exit with 1 where a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path, help="a folder for the database, which is kept")
    chosen = parser.parse_args()
    with folder_of(chosen.keep) as folder:
        path = folder / "subtitled.sqlite"
        fill(path, chosen.jobs)
        print(f"{chosen.jobs} jobs, {path.stat().st_size / chosen.jobs / 1000:.2f} kB each")
        before = resident_bytes()
        began = time.monotonic()
        loop = Loop(folder)
        start_s = time.monotonic() - began
        faults = [f"start took {start_s:.1f} s"] if start_s > START_LIMIT_S else []
        print(f"{'start':32} {start_s:8.2f} s")
        middle = loop.store.list_jobs(limit=1000)[-1].job.id
        last_seq = loop.store.last_seq()
        with Client(loop.endpoint) as client:
            for name, ask in questions(client, middle, last_seq):
                turns, took = [], []
                for _ in range(3 if name.startswith("events") else ROUNDS):
                    sent = time.monotonic()
                    loop.run_while(ask)
                    took.append(time.monotonic() - sent)
                    turns.append(loop.longest_s)
                    time.sleep(4 * took[-1])  # the rate limit grants a client a quarter of a processor
                worst_s = max(turns)
                print(
                    f"{name:32} longest turn {1000 * worst_s:7.2f} ms, answer {1000 * statistics.median(took):7.1f} ms"
                )
                if worst_s > TURN_LIMIT_S:
                    faults.append(f"{name}: a turn of {1000 * worst_s:.1f} ms")
        scrape = time.monotonic()
        size = len(generate_latest(loop.metrics.registry))
        print(f"{'metrics':32} {1000 * (time.monotonic() - scrape):8.2f} ms, {size} bytes")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(
            f"{'memory':32} {resident_bytes() / 2**20:8.0f} MB now, {before / 2**20:.0f} MB before, peak {peak / 2**20:.0f} MB"
        )
        if resident_bytes() > MEMORY_LIMIT_BYTES:
            faults.append(f"{resident_bytes() / 2**20:.0f} MB of memory")
        loop.close()
    for fault in faults:
        print(f"over the limit: {fault}")
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
