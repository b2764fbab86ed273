"""A daemon and a worker on two hosts, the network between them, and what must hold whatever befalls it."""

from __future__ import annotations

import collections
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests/, when the long form runs alone

from daemon import Daemon, InboxFolder, eventually
from integration.chaos.chaos import texts_of
from network_namespaces import HEAD_ADDRESS, Conditions, Network
from subtitle import UnreachableError
from subtitle.keys import Key, new_pair, save_key
from subtitled.config import schema
from subtitled.network.auth import server_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from subtitle.messages import WorkerFacts

HOST = "gpu2"
SLOT = f"{HOST}/cpu0"
ROUND_TIMEOUT_S = 300.0
ENDPOINT = f"tcp://{HEAD_ADDRESS}:8700"
RECOVERY = schema.RecoveryConfig(heartbeat_s=0.5, attempts=20, crash_budget=100)
INBOX = InboxFolder(options={"language": "en", "settle_s": 0.1})


class Hosts:
    """The daemon on the head, which has `devices` of its own, and one worker on another host. A context manager."""

    def __init__(
        self,
        folder: Path,
        *,
        conditions: Conditions | None = None,
        devices: Sequence[str] = (),
        recovery: schema.RecoveryConfig = RECOVERY,
        **remote: Any,
    ) -> None:
        """`remote` are further keys of [remote]; raises ForbiddenError where there can be no such network."""
        self.network = Network(conditions)
        self._key_file = folder / f"{HOST}.toml"
        self._log_file = folder / f"{HOST}.log"
        self._worker: subprocess.Popen[bytes] | None = None
        public, secret = new_pair()
        server = server_key(folder / "state" / "server.key").public
        save_key(self._key_file, Key(name=HOST, public=public, secret=secret, server=server))
        self.daemon = Daemon(
            folder,
            inboxes=[INBOX],
            prefix=self.network.on_head,
            recovery=recovery,
            pool=schema.PoolConfig(devices=tuple(devices), prepare_workers=1),
            remote=schema.RemoteConfig(listen=ENDPOINT, keys={HOST: public}, **remote),
        )

    def __enter__(self) -> Self:
        self.network.__enter__()
        try:
            self.daemon.spawn()
            self.start_worker()
            self.wait_for_worker()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker.wait()
        self.daemon.close()
        self.network.close()

    def start_worker(self) -> None:
        """Start the worker on its host."""
        command = ("-m", "subtitled", "worker", "--connect", ENDPOINT, "--key", str(self._key_file))
        with self._log_file.open("ab") as log:
            self._worker = subprocess.Popen(
                (*self.network.on_gpu, sys.executable, *command, "--device", "cpu", "--cpu-threads", "1"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_for_worker(self) -> WorkerFacts:
        """Wait until the worker has joined and is ready; return its facts."""

        def is_in() -> WorkerFacts | None:
            assert self._worker is not None
            assert self._worker.poll() is None, f"the worker ended:\n{self.worker_log()}"
            worker = self._find()
            return worker if worker is not None and worker.state in {"idle", "busy"} else None

        eventually(self._answers, "the daemon answers")
        return eventually(is_in, f"the worker of {HOST} is ready; its log:\n{self.worker_log()}")

    def wait_until_at_work(self) -> None:
        """Wait until the worker holds a lease."""

        def is_busy() -> bool:
            worker = self._find()
            return worker is not None and worker.state == "busy"

        eventually(is_busy, f"{SLOT} has work")

    def facts(self) -> WorkerFacts:
        """Return the facts of the worker, which has joined before."""
        worker = self._find()
        assert worker is not None
        return worker

    def worker_log(self) -> str:
        """Return the end of what the worker wrote."""
        return self._log_file.read_text("utf-8", "replace")[-4000:]

    def check_files(self, expected: Mapping[str, str]) -> list[str]:
        """Return what was lost or done twice, or differs from the expected texts (by stem); nothing is as it must be."""
        jobs = self.daemon.wait_for_jobs(len(expected), ROUND_TIMEOUT_S)
        faults = [f"a job ended as {job.state}" for job in jobs if job.state != "done"]
        if len(jobs) != len(expected):
            faults.append(f"{len(jobs)} jobs for {len(expected)} files")
        found = texts_of(self.daemon)
        faults += [f"{stem}: the text differs" for stem, text in expected.items() if found.get(stem) != text]
        done = collections.Counter(
            (entry.job, entry.name)
            for entry in self.daemon.journal()
            if entry.subject == "segment" and entry.event == "done"
        )
        return faults + [f"segment {name}: done {count} times" for name, count in done.items() if count > 1]

    def done_by(self) -> collections.Counter[str]:
        """Return how many segments each slot has done, from the daemon's log."""
        return collections.Counter(line["worker"] for line in self.daemon.log("segment.done"))

    def sent_bytes(self) -> float:
        """Return what was sent to the worker in all."""
        # The metrics are on the loopback of the head's namespace.
        program = f"import urllib.request as r; print(r.urlopen('http://{self.daemon.metrics}/metrics').read().decode())"
        command = (*self.network.on_head, sys.executable, "-c", program)
        reported = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        sent = re.search(
            r'^subtitled_worker_bytes_total\{direction="sent".*\} (\S+)$', reported, re.MULTILINE
        )
        assert sent, reported
        return float(sent[1])

    def _find(self) -> WorkerFacts | None:
        return next((worker for worker in self.daemon.stats().workers if worker.slot == SLOT), None)

    def _answers(self) -> bool:
        try:
            self.daemon.client.ping()
        except UnreachableError:
            return False
        return True
