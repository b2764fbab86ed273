"""The daemon as a process of its own, with files put into its inbox."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from parts.speech import LANGUAGE
from subtitle import Client, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

TIMEOUT_S = 3600
POLL_S = 0.005
"""How often is looked whether the subtitles are there; what it adds counts against the daemon."""

CONFIG = """\
[model]
name = '{model}'
compute_type = "{compute_type}"
beam_size = {beam}
batch_size = {batch_size}
cpu_threads = {threads}
[pool]
devices = {devices}
{pool}
[remote]
{remote}
[[inbox]]
path = '{folder}/inbox'
output = '{folder}/outbox'
language = "{language}"
settle_s = {settle_s}
[listen]
clients = ['ipc://{sockets}/clients.sock']
workers = 'ipc://{sockets}/private/workers.sock'
metrics = ""
[recovery]
stop_timeout_s = {stop_timeout_s}
[state]
dir = '{folder}/state'
{more}"""


INBOX = """
[[inbox]]
path = '{folder}/{name}'
output = '{folder}/outbox'
language = "{language}"
settle_s = {settle_s}
"""


def _inbox(language: str) -> str:
    """Return the name of the folder for files in one of several languages."""
    return f"inbox-{language}"


class Served:
    """A daemon in a folder; a context manager that ends it."""

    def __init__(
        self,
        folder: Path,
        *,
        model: str,
        compute_type: str = "int8",
        beam: int = 5,
        batch_size: int = 16,
        threads: int = 0,
        devices: Sequence[str] = ("cpu",),
        pool: str = "",
        remote: str = "",
        more: str = "",
        language: str = LANGUAGE,
        languages: Collection[str] = (),
        settle_s: float = 0,
        stop_timeout_s: float = 30,
        prefix: Sequence[str] = (),
        command: Callable[[Path], Sequence[str]] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Start it; `command` gives another one than `subtitled run`, from the path of the configuration.

        `prefix` are words to put before the command; `languages` have inboxes of their own, beside that of `language`.
        """
        self.folder = folder
        self.language = language
        for name in ("inbox", *map(_inbox, languages), "outbox", "copies"):
            (folder / name).mkdir(parents=True)
        # A socket's path may have 107 bytes at most.
        self._sockets = tempfile.mkdtemp(prefix="bench-")
        configuration = folder / "subtitled.toml"
        configuration.write_text(
            CONFIG.format(
                folder=folder,
                sockets=self._sockets,
                model=model,
                compute_type=compute_type,
                beam=beam,
                batch_size=batch_size,
                threads=threads,
                devices=list(devices),
                pool=pool,
                remote=remote,
                more=more
                + "".join(
                    INBOX.format(folder=folder, name=_inbox(one), language=one, settle_s=settle_s)
                    for one in languages
                ),
                language=language,
                settle_s=settle_s,
                stop_timeout_s=stop_timeout_s,
            )
        )
        run = (sys.executable, "-m", "subtitled", "run", "--config", str(configuration))
        with (folder / "daemon.log").open("wb") as log:
            self._process = subprocess.Popen(
                (*prefix, *(command(configuration) if command else run)),
                env={**os.environ, **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)
        shutil.rmtree(self._sockets, ignore_errors=True)

    @property
    def pid(self) -> int:
        """Process id of the daemon."""
        return self._process.pid

    @property
    def endpoint(self) -> str:
        """The clients' socket."""
        return f"ipc://{self._sockets}/clients.sock"

    def wait_until_ready(self, count: int = 0) -> None:
        """Wait until there are `count` workers or more, and none is starting."""
        with Client(self.endpoint, timeout_s=1) as client:
            for _ in self.until_given_up():
                time.sleep(0.1)  # below listen.requests_per_s
                try:
                    workers = client.stats().workers
                except UnreachableError:
                    continue
                if len(workers) >= count and all(worker.state == "idle" for worker in workers):
                    return

    def stage(self, files: Sequence[Path]) -> list[Path]:
        """Return copies of files that can be moved into the inbox; links, so that it takes no time."""
        copies = [self.folder / "copies" / file.name for file in files]
        for copy, file in zip(copies, files, strict=True):
            copy.hardlink_to(file)
        return copies

    def subtitle(self, copies: Sequence[Path], languages: Sequence[str] = ()) -> tuple[list[Path], float]:
        """Move staged files into their inboxes; return their subtitles when all are there, and the seconds to the first.

        `languages`: that of each file, if there are several.
        """
        inboxes = list(map(_inbox, languages)) or ["inbox"] * len(copies)
        waited = [
            self.folder / "outbox" / f"{copy.stem}.{language}.srt"
            for copy, language in zip(copies, languages or [self.language] * len(copies), strict=True)
        ]
        started, first_s = time.perf_counter(), 0.0
        for copy, inbox in zip(copies, inboxes, strict=True):
            copy.rename(self.folder / inbox / copy.name)
        missing = list(waited)
        for _ in self.until_given_up():
            missing = [target for target in missing if not target.exists()]
            if not first_s and len(missing) < len(waited):
                first_s = time.perf_counter() - started
            if not missing:
                return waited, first_s
        raise SystemExit(f"no subtitles within {TIMEOUT_S} s; {self.folder / 'daemon.log'} says why")

    def until_given_up(self) -> Iterator[None]:
        """Yield now and then, for as long as the daemon runs and there is hope."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise SystemExit(
                    f"the daemon ended with status {self._process.returncode}:\n{self.log()[-2000:]}"
                )
            yield
            time.sleep(POLL_S)

    def count_segments(self) -> int:
        """Return how many segments all jobs have."""
        path = self.folder / "state" / "subtitled.sqlite"
        database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            return int(database.execute("SELECT count(*) FROM segments").fetchone()[0])
        finally:
            database.close()

    def log(self) -> str:
        """Return what the daemon has logged."""
        return (self.folder / "daemon.log").read_text("utf-8", "replace")
