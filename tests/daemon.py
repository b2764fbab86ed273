"""A real daemon for the tests: processes, sockets, database and model in a folder of its own."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec
from msgspec import Struct

from subtitle import Client, JobFacts, StatsInfo, UnreachableError
from subtitled.config import schema
from subtitled.config.load import to_toml
from subtitled.cues.render import read_json
from subtitled.storage.reader import ReaderPool
from subtitled.storage.rows import JournalEntry, ResultRow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from subtitled.cues.transcript import Transcript

T = TypeVar("T")

ENDED = frozenset({"done", "failed", "cancelled"})
DEADLINE_S = 120.0
"""Longest wait for anything; so long that a failure is a fault of the daemon, not a slow machine."""
ONE_SLOT = schema.PoolConfig(devices=("cpu",), prepare_workers=1)
TWO_SLOTS = schema.PoolConfig(devices=("cpu", "cpu"), prepare_workers=1)
"""For tests in which one worker takes over from another; a worker costs half a second of processor time to start."""
PR_CAPBSET_DROP = 24
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2


def eventually(
    probe: Callable[[], T | None], what: str, timeout_s: float = DEADLINE_S, *, longest_pause_s: float = 0.08
) -> T:
    """Return the first true answer of `probe`; AssertionError when none came within `timeout_s`.

    A state that does not last needs short pauses. Each call of `probe` takes time of the daemon, and of other tests.
    """
    deadline, pause_s = time.monotonic() + timeout_s, 0.02
    while not (found := probe()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s"
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.2, longest_pause_s)
    return found


class InboxFolder(Struct, frozen=True, kw_only=True):
    """An inbox of the daemon: `NAME` under its folder, with its output in `NAME-out`, and other options."""

    name: str = "inbox"
    options: dict[str, Any] = {}


class Daemon:
    """`subtitled run` as a process; a context manager that ends it in any case.

    Its files are under `folder`, which survives `stop`, `kill` and another `start`. Its sockets are elsewhere, since
    their paths may have 107 bytes at most.
    """

    def __init__(
        self,
        folder: Path,
        *,
        inboxes: Sequence[InboxFolder] = (InboxFolder(),),
        environ: Mapping[str, str] | None = None,
        is_bound_by_modes: bool = False,
        command: Callable[[Path], Sequence[str]] | None = None,
        prefix: Sequence[str] = (),
        **sections: Struct | tuple[Struct, ...],
    ) -> None:
        """`sections` replace those of the configuration; `is_bound_by_modes` takes root's right to read all files.

        `command` gives another command than `subtitled run`, from the path of the configuration file; `prefix` are words to
        put before it.
        """
        self.folder = folder
        self.sockets = Path(tempfile.mkdtemp(prefix="subtitled-test-"))
        self.inbox = folder / inboxes[0].name
        self.outbox = folder / f"{inboxes[0].name}-out"
        self.log_file = folder / "daemon.log"
        self.config_file = folder / "subtitled.toml"
        self.metrics = f"127.0.0.1:{free_port()}"
        self.config = schema.Config(
            **{  # type: ignore[arg-type]
                "model": schema.ModelConfig(name="demo", cpu_threads=1, batch_size=4),
                "pool": ONE_SLOT,
                # Short segments, so that a small file is several leases. Tests of the text use the default.
                "segments": schema.SegmentsConfig(max_segment_s=8),
                "inbox": tuple(self._inbox(inbox) for inbox in inboxes),
                "listen": schema.ListenConfig(
                    clients=(self.endpoint,),
                    workers=f"ipc://{self.sockets}/private/workers.sock",
                    metrics=self.metrics,
                ),
                "state": schema.StateConfig(dir=str(folder / "state")),
                "log": schema.LogConfig(format="json"),
                **sections,
            }
        )
        self.config_file.write_text(to_toml(self.config), "utf-8")
        self._environ = {**os.environ, **(environ or {})}
        self._is_bound_by_modes = is_bound_by_modes
        run = ("-m", "subtitled", "run", "--config", str(self.config_file))
        self._command = (*prefix, sys.executable, *(command(self.config_file) if command else run))
        self._process: subprocess.Popen[bytes] | None = None
        self._dropped = 0
        self._log: list[dict[str, Any]] = []
        self._log_bytes_read = 0
        self.client = Client(self.endpoint, timeout_s=20.0)

    @property
    def endpoint(self) -> str:
        """The clients' socket."""
        return f"ipc://{self.sockets}/clients.sock"

    @property
    def pid(self) -> int:
        """Process id of the daemon, which runs."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- life cycle ------------------------------------------------------------------------------------------

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start the process and return it; it is not ready yet."""
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_drop_rights if self._is_bound_by_modes else None,  # noqa: PLW1509 - no thread of ours holds a lock
            )
        return self._process

    def start(self) -> Self:
        """Start the daemon and wait until all its workers are idle or have work."""
        self.spawn()
        self.wait_until_ready()
        return self

    def wait_until_ready(self) -> None:
        """Wait until no worker is starting."""
        with Client(self.endpoint, timeout_s=1.0) as client:

            def is_ready() -> bool:
                assert self._process is not None
                assert self._process.poll() is None, f"the daemon ended:\n{self.tail()}"
                try:
                    workers = client.stats().workers
                except UnreachableError:
                    return False
                return all(worker.state in {"idle", "busy"} for worker in workers)

            eventually(is_ready, "the daemon is ready", longest_pause_s=0.2)

    def wait_for_exit(self, timeout_s: float = DEADLINE_S) -> int:
        """Wait for the daemon's end; return its exit status."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def terminate(self) -> None:
        """Send SIGTERM."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Stop the daemon as systemd does; it must exit with status 0."""
        self.terminate()
        status = self.wait_for_exit()
        assert status == 0, f"exit status {status}:\n{self.tail()}"

    def kill(self) -> None:
        """SIGKILL the daemon, not its workers, and collect it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Kill the process and remove the sockets; may be repeated."""
        self.client.close()
        if self._process is not None and self._process.poll() is None:
            self.kill()
        shutil.rmtree(self.sockets, ignore_errors=True)

    # -- input ---------------------------------------------------------------------------------------------

    def drop(self, content: bytes | Path, name: str | Path, *, inbox: Path | None = None) -> Path:
        """Put a file into an inbox, whole in one step, and return its path."""
        self._dropped += 1
        staged = self.folder / f"staged-{self._dropped}"
        if isinstance(content, Path):
            shutil.copy2(content, staged)
        else:
            staged.write_bytes(content)
        target = (inbox or self.inbox) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return staged.rename(target)

    # -- jobs -----------------------------------------------------------------------------------------------

    def jobs(self) -> tuple[JobFacts, ...]:
        """Return all jobs, newest first."""
        return self.client.list(limit=1000)

    def wait_for_jobs(self, count: int, timeout_s: float = DEADLINE_S) -> tuple[JobFacts, ...]:
        """Wait until there are `count` jobs and all have ended; return them, newest first."""

        def all_ended() -> tuple[JobFacts, ...] | None:
            jobs = self.jobs()
            is_done = len(jobs) >= count and all(job.state in ENDED for job in jobs)
            return jobs if is_done else None

        return self._with_log(
            lambda: eventually(all_ended, f"{count} jobs ended", timeout_s, longest_pause_s=0.3)
        )

    def job_of(self, source: Path) -> JobFacts | None:
        """Return the newest job of a source, if there is one."""
        found = self._listed(source)
        return self.client.status(found.id) if found else None

    def _listed(self, source: Path) -> JobFacts | None:
        shown = os.fsencode(source).decode("utf-8", "replace")
        return next((job for job in self.jobs() if job.source == shown), None)

    def wait_for(self, source: Path, timeout_s: float = DEADLINE_S) -> JobFacts:
        """Wait until the newest job of a source, archived too if it failed, has ended; return all about it."""

        def ended() -> JobFacts | None:
            listed = self._listed(source)
            if listed is None or listed.state not in ENDED:
                return None
            # A failed job's files are in place a moment after its state.
            is_closed = listed.state != "failed" or self.is_closed(listed.id)
            return self.client.status(listed.id) if is_closed else None

        return self._with_log(
            lambda: eventually(ended, f"the job of {source} ended", timeout_s, longest_pause_s=0.3)
        )

    def transcript(self, name: str) -> Transcript:
        """Return the JSON output of this name (without `.json`), read."""
        return read_json((self.outbox / f"{name}.json").read_bytes())

    # -- log and metrics ------------------------------------------------------------------------------------

    def log(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return the log's lines, of one event or of all."""
        with self.log_file.open("rb") as file:
            file.seek(self._log_bytes_read)
            written, newline, _ = file.read().rpartition(b"\n")
        self._log_bytes_read += len(written) + len(newline)
        self._log += [json.loads(line) for line in written.splitlines() if line.startswith(b"{")]
        return [entry for entry in self._log if event is None or entry["event"] == event]

    def wait_for_log(self, event: str, **fields: object) -> dict[str, Any]:
        """Wait for a line of this event that has all `fields`; return it."""

        def found() -> dict[str, Any] | None:
            return next((e for e in self.log(event) if fields.items() <= e.items()), None)

        return eventually(found, f"{event} {fields} in the log")

    def tail(self) -> str:
        """Return the end of the log."""
        return self.log_file.read_text("utf-8", "replace")[-4000:]

    def pcm_bytes(self) -> float:
        """Return the PCM bytes of all finished segments, from the log."""
        lines = [*self.log("segment.done"), *self.log("segment.skipped")]
        return float(sum(line["audio_s"] for line in lines) * 32_000)

    def scrape(self) -> dict[str, float]:
        """Return the metrics, as Prometheus would get them: `name{labels}` and value."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=20) as answer:
            lines = answer.read().decode().splitlines()
        rows = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in rows}

    def workers(self) -> dict[str, int]:
        """Return the process id of each worker process of this daemon, by identity."""
        return {settings["identity"]: pid for pid, settings in worker_processes(self.pid).items()}

    def arenas(self) -> int:
        """Return for how many files the daemon has shared memory open, with two descriptors each."""
        count = 0
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                count += "subtitled-pcm" in str(link.readlink())
        return count // 2

    def stats(self) -> StatsInfo:
        """Return workers and queue."""
        return self.client.stats()

    def is_closed(self, job: str) -> bool:
        """Return whether a failed job's files are in place."""
        return bool(self.query("SELECT is_closed FROM jobs WHERE id = ?", job)[0][0])

    def journal(self) -> list[JournalEntry]:
        """Return the whole journal, read from the database file."""
        rows = self.query(
            "SELECT seq, at_ms, subject, job, owner, name, before, event, after, cause FROM journal ORDER BY seq"
        )
        names = JournalEntry.__struct_fields__
        return [JournalEntry(**dict(zip(names, row, strict=True))) for row in rows]

    def results(self, job: str) -> list[ResultRow]:
        """Return a job's segments with their results, read from the database file."""
        readers = ReaderPool(f"{self.folder}/state/subtitled.sqlite")
        try:
            return readers.get().results(job)
        finally:
            readers.close()

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Return rows of the daemon's database, which may be in use."""
        database = sqlite3.connect(f"file:{self.folder}/state/subtitled.sqlite?mode=ro", uri=True, timeout=20)
        try:
            return database.execute(sql, values).fetchall()
        finally:
            database.close()

    def _with_log(self, wait: Callable[[], T]) -> T:
        try:
            return wait()
        except AssertionError as error:
            raise AssertionError(f"{error}; the end of the log:\n{self.tail()}") from None

    def _inbox(self, inbox: InboxFolder) -> schema.InboxConfig:
        path, output = self.folder / inbox.name, self.folder / f"{inbox.name}-out"
        path.mkdir(exist_ok=True)
        output.mkdir(exist_ok=True)
        chosen = {"formats": ("srt", "json"), "settle_s": 0.2, "incomplete_wait_s": 1.0, **inbox.options}
        return schema.InboxConfig(path=str(path), **{"output": str(output), **chosen})


def process_state(pid: int) -> str:
    """Return a process's state as in proc(5): "T" is stopped; "X" if there is no such process."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return "X"
    return status.rpartition(")")[2].split()[0]


def is_running(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    return process_state(pid) not in {"Z", "X"}


def worker_processes(parent: int | None = None) -> dict[int, dict[str, Any]]:
    """Return the settings of the worker processes, of one daemon or of all, by process id."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or not is_running(int(folder.name)):
            continue
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"subtitled.workers.process" in words:
            settings: dict[str, Any] = msgspec.json.decode(
                words[words.index(b"subtitled.workers.process") + 1]
            )
            if parent in {None, settings["parent_pid"]}:
                found[int(folder.name)] = settings
    return found


def free_port() -> int:
    """Return a free port of the loopback interface.

    Not one of those that the system gives to outgoing connections (from 32768 on): another test's connection could take
    it before its user binds it.
    """
    for _ in range(100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", 12_000 + secrets.randbelow(20_000)))
            return int(probe.getsockname()[1])
    raise AssertionError("no port from 12000 to 32000 is free")


def _drop_rights() -> None:
    """Make file modes apply to root too; a no-op for other users."""
    libc = ctypes.CDLL(None)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
